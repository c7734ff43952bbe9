/* handshake.h - TLS handshakes that fail: no device is known yet, so the registry keeps what an
 * operator may ask for (ListRefusedConnections). */
#pragma once

#include "services/mqtt-gateway/conn.h"

/* Before the errors of OpenSSL are cleared. e: of SSL_get_error(). At most 20 a second are told;
 * all are counted. */
void handshake_failed(struct conn *c, int e);

struct handshake_fault {
    const char *code, *reason, *next_step;
};
/* What an error code of OpenSSL means for a person; never NULL texts. */
struct handshake_fault handshake_fault(unsigned long error);

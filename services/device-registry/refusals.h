/* refusals.h - connections that were refused and of which no device is known that could be asked
 * why: unknown devices, registrations that failed, TLS handshakes. The newest 1,000, one for each
 * reason and whom, written down once a second. */
#pragma once

#include "services/device-registry/registry.h"

/* Texts are copied; NULL: not known. */
struct refused {
    const char *code, *reason, *next_step;
    const char *device_id, *peer, *common_name, *fingerprint, *server_name;
};
/* At most 256 different ones in a second; more are counted and dropped. */
void refusals_note(struct registry *r, const struct refused *f);
/* api.registry.refused: a gateway has seen one. */
void refusals_tell(const struct cw_bus_msg *msg, void *self);
void list_refused(struct cw_api_call *call, void *self); /* newest first; by device_id */
/* At the end of the process; what waits is lost. */
void refusals_stop(struct registry *r);

/* listener.h - the ports. Several processes may listen on the same ones (SO_REUSEPORT). */
#pragma once

#include "services/mqtt-gateway/gateway.h"

/* 0, or negative errno after saying which port or file is wrong. */
int listeners_open(struct gateway *gw);
/* True if the platform has this name: one of CAUSEWAY_SERVER_NAMES, or without that setting of its
 * certificate. NULL: it was called by none. */
bool listener_is_named(const struct gateway *gw, const char *name);
/* Where they listen, for GET …/facts; NULL: nowhere any more. */
void listeners_tell(const struct listeners *l, struct cw_facts *f);
/* Accepts nothing more. Sets *l to NULL. */
void listeners_close(struct listeners **l);

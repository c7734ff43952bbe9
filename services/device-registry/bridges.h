/* bridges.h - bridges: one connection for many devices, each of which logs in over it
 * (docs/protocol/bridges.md). */
#pragma once

#include "services/device-registry/registry.h"

/* Operations; self is the registry. A page without secrets, newest first. */
void list_bridges(struct cw_api_call *call, void *self);
/* BRIDGE_QUOTA, BRIDGE_TAKEN. The secret is shown here and after a reset only. */
void add_bridge(struct cw_api_call *call, void *self);
/* The next two answer when its connection is cut (the second if it was asked for); 503 if nobody
 * confirms that, and then the change stands all the same. */
void delete_bridge(struct cw_api_call *call, void *self);
void reset_bridge_secret(struct cw_api_call *call, void *self);

/* bridge_login.c: api.registry.open_bridge: a SessionOpenBatch of one, whose device_id is the
 * bridge's. */
void bridges_open(const struct cw_bus_msg *msg, void *self);
/* api.registry.close_bridge: answered with an empty message once it is written. */
void bridges_close(const struct cw_bus_msg *msg, void *self);
/* api.registry.bridge_secret: a device changes its own secret. */
void bridges_secret(const struct cw_bus_msg *msg, void *self);

#define BRIDGE_CONTEXT_LEN 64
/* What a sealed secret of a bridge is bound to. */
const char *bridge_context(char out[BRIDGE_CONTEXT_LEN], const char *bridge_id);

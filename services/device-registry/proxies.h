/* proxies.h - device proxies: which gateways may speak for each other's children, and when
 * (docs/protocol/device-proxies.md). uplink-processor reads them in registry.proxy_view. */
#pragma once

#include "services/device-registry/registry.h"

/* Operations; self is the registry. A page without the gateways, newest first. */
void list_proxies(struct cw_api_call *call, void *self);
/* PROXY_BAD names the gateway that cannot be one, PROXY_QUOTA, TIME_ORDER. */
void create_proxy(struct cw_api_call *call, void *self);
void show_proxy(struct cw_api_call *call, void *self);
/* Members left out stay, each end of the time range for itself. */
void update_proxy(struct cw_api_call *call, void *self);
void delete_proxy(struct cw_api_call *call, void *self);

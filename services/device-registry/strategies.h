/* strategies.h - where devices of a space that bootstrap are sent, and with which settings
 * (docs/protocol/provisioning.md). uplink-processor reads them and answers. */
#pragma once

#include "services/device-registry/registry.h"

void create_strategy(struct cw_api_call *call, void *self); /* STRATEGY_TAKEN: one for a keyword */
void list_strategies(struct cw_api_call *call, void *self);
void show_strategy(struct cw_api_call *call, void *self);
void update_strategy(struct cw_api_call *call, void *self);
void delete_strategy(struct cw_api_call *call, void *self);

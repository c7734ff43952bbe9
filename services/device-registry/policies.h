/* policies.h - device policies: which topics outside $oc devices may use
 * (docs/protocol/device-policies.md). The registry keeps them, gateways enforce them. */
#pragma once

#include "services/device-registry/registry.h"

/* Operations; self is the registry. */
void list_policies(struct cw_api_call *call, void *self);
/* POLICY_QUOTA, POLICY_BAD. It holds for nothing before it is bound. */
void create_policy(struct cw_api_call *call, void *self);
void show_policy(struct cw_api_call *call, void *self);
void update_policy(struct cw_api_call *call, void *self);
void delete_policy(struct cw_api_call *call, void *self); /* with what binds it */
/* Answer 200 with what was done and what was not; each target for itself. */
void bind_policy(struct cw_api_call *call, void *self);
void unbind_policy(struct cw_api_call *call, void *self);
void list_policy_targets(struct cw_api_call *call, void *self);

/* NULL: fine. Else what is wrong, for a person, in buf. statement: fits the contract. */
const char *policy_fault(const json_t *statement, char *buf, size_t size);

/* policy_table.c: api.registry.policies */
void policies_tell(const struct cw_bus_msg *msg, void *self);
/* After the commit: gateways ask again, also for these devices. */
void policies_changed(struct registry *r, const int64_t *device_keys, size_t n);
/* The same for the custom topics of a product. */
void topics_changed(struct registry *r, int64_t product_key);

/* NO_POLICY, unless its row is there; false: the call has been failed. */
bool policy_is_there(struct cw_api_call *call, bool is);

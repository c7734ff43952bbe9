/* kept.h - sessions of MQTT that outlive their connection (3.1.2.4; MQTT 5: session expiry): what
 * the device has subscribed. What the platform has for it waits in command-dispatcher all the same.
 */
#pragma once

#include "services/device-registry/registry.h"

void sessions_keep(const struct cw_bus_msg *msg, void *self); /* api.registry.keep_session */
/* After a login as session_no: what older ones have kept goes (0), or is kept for so long. */
void kept_change(struct registry *r, int64_t device_key, int64_t session_no, uint32_t expiry_s);

/* Memory of the lists that kept_unpack() has made. */
struct kept_lists {
    void **blocks;
    size_t n;
};
/* Makes `to` present, with the subscriptions of the JSON that the table has. */
void kept_unpack(struct kept_lists *lists, Causeway__SessionOpened *to, const char *filters);
void kept_lists_free(struct kept_lists *lists);

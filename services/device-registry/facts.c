#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "services/device-registry/registry.h"

static char *or_empty(const char *s) { return (char *)(s ? s : ""); }

struct cw_buf fact_pack(const struct fact *f)
{
    struct cw_buf packed = { 0 }, body = { 0 };
    Causeway__Event e = CAUSEWAY__EVENT__INIT;
    e.kind = f->kind;
    e.request_id = or_empty(f->request_id);
    e.time_ms = f->time_ms;
    e.device_key = f->device_key;
    e.device_id = or_empty(f->device_id);
    e.node_id = or_empty(f->node_id);
    e.gateway_id = or_empty(f->root_id);
    e.product_key = f->product_key;
    e.product_id = or_empty(f->product_id);
    e.app_id = or_empty(f->app_id);
    if (f->body) {
        body.data = json_text(f->body);
        body.len = strlen(body.data);
        e.body = (ProtobufCBinaryData){ body.len, (uint8_t *)body.data };
    }
    packed.len = packed.cap = causeway__event__get_packed_size(&e);
    packed.data = cw_malloc(packed.len + 1);
    causeway__event__pack(&e, (uint8_t *)packed.data);
    cw_buf_free(&body);
    return packed;
}

void fact_told(struct registry *r, const char *kind, int64_t key, uint32_t partition)
{
    struct cw_bus *bus = cw_app_bus(r->app);
    char subject[48], text[24];
    snprintf(subject, sizeof subject, "invalidate.%s", kind);
    int n = snprintf(text, sizeof text, "%" PRId64, key);
    /* both are hints: a cache also expires, the owner also sweeps */
    cw_bus_publish(bus, subject, NULL, text, (size_t)n);
    snprintf(subject, sizeof subject, "wake.device-registry.%u", partition);
    cw_bus_publish(bus, subject, NULL, "", 0);
}

uint32_t partition_of(const struct registry *r, const char *id)
{
    return cw_partition(id, strlen(id), cw_app_partitions(r->app));
}

/* What a gateway reports for the devices below it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"
#include "services/uplink-processor/interpret.h"

#define REPORTED_MAX 100 /* devices of one payload */

static const struct device *named(const struct item *it, const char *device_id)
{
    return devices_find(it->b->u->devices, children_key(it->b->children, device_id));
}

/* Of a child of another gateway: the proxy that lists that one and the speaker, or NULL. */
static const struct proxy *proxy_of(const struct item *it, const struct device *d)
{
    if (!d || strcmp(d->device_id, d->gateway_id) == 0) /* directly connected: speaks for itself */
        return NULL;
    return proxies_find(it->b->proxies, d->gateway_id, it->up->device_id, it->up->received_ms);
}

const struct device *child_of(const struct item *it, const char *device_id)
{
    const struct device *d = named(it, device_id);
    if (!d || strcmp(d->gateway_id, it->up->device_id) == 0)
        return d;
    const struct proxy *p = proxy_of(it, d);
    return p && proxy_in_force(p, it->up->received_ms) ? d : NULL;
}

bool is_of_other(const struct item *it, const struct device *child, const struct state *s)
{
    if (s->via_key)
        return s->via_key != it->up->device_key;
    return s->session_no && strcmp(child->gateway_id, it->up->device_id) != 0;
}

const char *held_by(const struct item *it, const struct device *child, const struct state *s)
{
    if (!s->online || !is_of_other(it, child, s))
        return NULL;
    const char *via = s->via_key ? proxies_gateway(it->b->proxies, s->via_key) : child->gateway_id;
    if (!via || strcmp(via, child->gateway_id) == 0)
        return via;
    const struct proxy *p =
        proxies_find(it->b->proxies, child->gateway_id, via, it->up->received_ms);
    return p && proxy_in_force(p, it->up->received_ms) ? via : NULL;
}

/* Rows of the same device are one report: history has one row for a record and device. */
static json_t *services_of(const json_t *devices, const char *device_id)
{
    size_t i;
    json_t *row, *out = json_array();
    json_array_foreach(devices, i, row)
    {
        const char *id = cw_json_text(row, "device_id");
        if (id && strcmp(id, device_id) == 0 && json_is_array(json_object_get(row, "services")))
            json_array_extend(out, json_object_get(row, "services"));
    }
    return json_pack("{s:o}", "services", out);
}

static bool seen_before(const json_t *devices, size_t at, const char *device_id)
{
    for (size_t i = 0; i < at; i++) {
        const char *id = cw_json_text(json_array_get(devices, i), "device_id");
        if (id && strcmp(id, device_id) == 0)
            return true;
    }
    return false;
}

const struct device *object_of(const struct item *it, const json_t *root)
{
    const char *id = cw_json_text(root, "object_device_id");
    bool itself = !id || strcmp(id, "-1") == 0 || strcmp(id, it->up->device_id) == 0;
    return itself ? it->device : child_of(it, id);
}

static void not_now(struct item *it, const struct device *d, const struct proxy *p)
{
    char reason[600], step[300], time[CW_TIME_LEN];
    bool later = it->up->received_ms < p->begins_ms;
    snprintf(
        reason, sizeof reason,
        "It speaks for device \"%s\" of gateway \"%s\". Device proxy \"%s\" lists both gateways, "
        "but %s %s.",
        d->device_id, d->gateway_id, p->name, later ? "begins at" : "ended at",
        cw_time_basic(time, later ? p->begins_ms : p->ends_ms));
    snprintf(step, sizeof step,
             "Report through gateway \"%s\", or change the effective_time_range of the proxy.",
             d->gateway_id);
    item_fail(it, "topic", "proxy_not_in_force", reason, step);
}

void no_child(struct item *it, const char *device_id)
{
    char reason[256], id[128];
    const struct device *d = named(it, device_id);
    const struct proxy *p = proxy_of(it, d);
    if (p) {
        not_now(it, d, p);
        return;
    }
    text_cut(id, sizeof id, device_id ? device_id : "", device_id ? strlen(device_id) : 0);
    snprintf(reason, sizeof reason,
             "It speaks for device \"%s\", which is no child of this gateway.", id);
    item_fail(it, "topic", "no_child", reason,
              "Register it below this gateway, add it by $sub_device_manager first, or list "
              "this gateway and its own in a device proxy.");
}

static bool report_child(struct item *gateway, const json_t *devices, const char *device_id)
{
    struct item it = *gateway;
    struct report_refusal no;
    struct cw_buf text = { 0 };
    it.device = device_id ? child_of(gateway, device_id) : NULL;
    if (!it.device) {
        no_child(gateway, device_id);
        return false;
    }
    json_t *report = services_of(devices, device_id);
    cw_json_write(&text, report);
    report_reset(&it.b->report);
    bool fine = report_take(&it.b->report, report,
                            cw_products_find(it.b->u->products, it.device->product_key),
                            it.up->received_ms, &no) == 0;
    if (fine)
        item_store_report(&it, text.data, text.len, it.up->topic);
    else
        item_fail(&it, "decode", no.code, no.reason, no.next_step);
    cw_buf_free(&text);
    return fine;
}

void on_children(struct item *it)
{
    const json_t *root = children_payload(it->b->children, it->up);
    const json_t *devices = json_object_get(root, "devices");
    size_t i, stored = 0;
    json_t *row;
    if (!root) {
        item_refuse(it, "decode", "not_json", "The payload is not JSON of at most 64 KB.",
                    "Send {\"devices\":[{\"device_id\":\"…\",\"services\":[…]}]}.");
        return;
    }
    if (!json_is_array(devices) || json_array_size(devices) > REPORTED_MAX) {
        item_refuse(it, "decode", "no_devices",
                    "The payload is JSON, but has no list named devices of at most 100 rows.",
                    "Send {\"devices\":[{\"device_id\":\"…\",\"services\":[…]}]}.");
        return;
    }
    json_array_foreach(devices, i, row)
    {
        const char *id = cw_json_text(row, "device_id");
        if (!id || !seen_before(devices, i, id))
            stored += report_child(it, devices, id);
    }
    item_count(it, stored ? LEDGER_STORED : LEDGER_REFUSED);
}

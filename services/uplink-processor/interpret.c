/* What a record means: rows for PostgreSQL, an event for EVENT, a reason for `why`. */
#include "services/uplink-processor/interpret.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/device_status.h"
#include "services/uplink-processor/encode.h"
#include "services/uplink-processor/history.h"

void item_count(const struct item *it, enum ledger slot)
{
    cw_log_txn_count(it->b->txn, it->record->partition, slot, 1);
}

/* Position in the log, folded: keeps the order of records within a millisecond. */
int64_t item_order(const struct item *it)
{
    return (int64_t)((it->record->seq & 0xffffffff) << 16 | (it->position & 0xffff));
}

const char *item_request_id(const struct item *it)
{
    return *it->topic.request_id ? it->topic.request_id : it->up->request_id;
}

/* ---- out: events and failures */

void item_emit(struct item *it, Causeway__EventKind kind, const char *req,
               const struct cw_buf *body)
{
    Causeway__Event e = CAUSEWAY__EVENT__INIT;
    const struct device *d = it->device;
    e.kind = kind;
    e.request_id = (char *)req;
    e.time_ms = it->up->received_ms;
    e.device_key = d->device_key;
    e.device_id = d->device_id;
    e.node_id = d->node_id;
    e.gateway_id = d->gateway_id;
    e.product_key = d->product_key;
    e.product_id = d->product_id;
    e.app_id = d->app_id;
    e.session_no = it->session_no;
    e.gateway = (char *)it->gateway;
    e.topic = it->up->topic;
    e.body = (ProtobufCBinaryData){ body->len, (uint8_t *)body->data };
    e.status = it->status;
    struct cw_buf *out = &it->b->packed;
    size_t n = causeway__event__get_packed_size(&e);
    if (out->cap < n) {
        out->cap = n;
        out->data = cw_realloc(out->data, n);
    }
    causeway__event__pack(&e, (uint8_t *)out->data);
    cw_log_txn_emit(it->b->txn, it->index, out->data, n);
    item_count(it, LEDGER_EVENTS);
}

void item_fail(struct item *it, const char *layer, const char *code, const char *reason,
               const char *next_step)
{
    char sample[SAMPLE_BYTES];
    text_cut(sample, sizeof sample, (const char *)it->up->body.data, it->up->body.len);
    why_fail(&it->b->why, &(struct why_told){ .device_key = it->device->device_key,
                                              .layer = layer,
                                              .code = code,
                                              .reason = reason,
                                              .next_step = next_step,
                                              .sample = sample,
                                              .first_ms = it->up->received_ms,
                                              .last_ms = it->up->received_ms,
                                              .count = 1 });
}

void item_refuse(struct item *it, const char *layer, const char *code, const char *reason,
                 const char *next_step)
{
    item_count(it, LEDGER_REFUSED);
    item_fail(it, layer, code, reason, next_step);
}

/* Of MQTT 5: before the last brace of the event's body, which it returns. */
static struct cw_buf *with_properties(const struct item *it, struct cw_buf *body)
{
    const char *properties = it->up->properties;
    if (!*properties || !cw_utf8_valid(properties, strlen(properties)))
        return body;
    body->len--;
    cw_buf_str(body, ",\"properties\":");
    cw_buf_str(body, properties);
    cw_buf_str(body, "}");
    return body;
}

/* ---- properties/report */

void item_store_report(struct item *it, const void *body, size_t len, const char *topic)
{
    struct batch *b = it->b;
    struct report *r = &b->report;
    int64_t key = it->device->device_key;
    batch_history(b, &(struct history_row){ .uplink = it->up,
                                            .device_key = key,
                                            .ord = item_order(it),
                                            .kind = "property",
                                            .topic = topic,
                                            .request_id = item_request_id(it),
                                            .body = body,
                                            .len = len,
                                            .verdicts = &r->verdicts });
    for (size_t i = 0; i < r->n_parts; i++)
        shadow_merge(&b->shadows, key, r->parts[i].service_id, r->parts[i].kept, r->parts[i].time);
    struct state *s = batch_state(b, key);
    s->reports++;
    s->last_report_ms = it->up->received_ms;
    if (r->code)
        item_fail(it, "model", r->code, r->reason, report_next_step(r->code));
    if (r->n_services > 0)
        item_emit(it, CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT, item_request_id(it),
                  with_properties(it, &r->event));
}

static void on_report(struct item *it)
{
    struct batch *b = it->b;
    struct report_refusal no;
    const Causeway__Uplink *up = it->up;
    const struct cw_model *model = cw_products_find(b->u->products, it->device->product_key);
    report_reset(&b->report);
    if (report_read(&b->report, up->body.data, up->body.len, model, up->received_ms, &no) < 0) {
        item_refuse(it, "decode", no.code, no.reason, no.next_step);
        return;
    }
    item_count(it, LEDGER_STORED);
    item_store_report(it, up->body.data, up->body.len, it->topic.system ? NULL : up->topic);
}

/* ---- messages */

static void state_message(struct item *it, const char *text, size_t len, const json_t *json,
                          bool is_text)
{
    struct cw_buf *out = &it->b->text;
    cw_buf_reset(out);
    cw_buf_str(out, "{\"topic\":");
    cw_buf_json_string(out, it->up->topic, strlen(it->up->topic));
    cw_buf_str(out, ",\"content\":");
    if (json)
        cw_json_compact(out, text, len);
    else if (is_text)
        cw_buf_json_string(out, text, len);
    else
        base64_json(out, text, len);
    cw_buf_str(out, "}");
    with_properties(it, out);
    item_emit(it, CAUSEWAY__EVENT_KIND__EVENT_MESSAGE_REPORT, item_request_id(it), out);
}

static void store_message(struct item *it, const char *text, size_t len, bool is_text)
{
    static struct cw_buf binary; /* the verdict of every payload that is no text */
    struct cw_buf body = { 0 }, none = { 0 };
    if (binary.len == 0)
        cw_buf_str(&binary, "[{\"code\":\"binary\",\"text\":\"The payload is not UTF-8 text; body "
                            "is its base64.\"}]");
    if (!is_text)
        base64(&body, text, len);
    batch_history(it->b, &(struct history_row){ .uplink = it->up,
                                                .device_key = it->device->device_key,
                                                .ord = item_order(it),
                                                .kind = "message",
                                                .topic = it->topic.system ? NULL : it->up->topic,
                                                .request_id = item_request_id(it),
                                                .body = is_text ? text : body.data,
                                                .len = is_text ? len : body.len,
                                                .verdicts = is_text ? &none : &binary });
    cw_buf_free(&body);
}

static void on_message(struct item *it)
{
    struct cw_json_error err;
    const char *text = it->up->body.len ? (const char *)it->up->body.data : "";
    size_t len = it->up->body.len;
    bool is_text = cw_utf8_valid(text, len);
    json_t *json = is_text && len ? cw_json_parse(text, len, &err) : NULL;
    bool system = it->topic.standard && json_is_object(json);
    const struct device *d = system ? object_of(it, json) : it->device;
    if (!d) {
        item_count(it, LEDGER_REFUSED);
        no_child(it, cw_json_text(json, "object_device_id"));
    } else {
        it->device = d;
        struct state *s = batch_state(it->b, it->device->device_key);
        s->messages++;
        s->last_message_ms = it->up->received_ms;
        store_message(it, text, len, is_text);
        item_count(it, LEDGER_STORED);
        state_message(it, text, len, json, is_text);
    }
    json_decref(json);
}

static void on_command_response(struct item *it)
{
    struct cw_buf body = { .data = (char *)it->up->body.data, .len = it->up->body.len };
    item_count(it, LEDGER_STORED);
    item_emit(it, CAUSEWAY__EVENT_KIND__EVENT_COMMAND_RESPONSE, it->topic.request_id, &body);
}

static void on_publish(struct item *it)
{
    char reason[400], topic[200];
    topic_read(&it->topic, it->up->topic, it->up->device_id);
    switch (it->topic.kind) {
    case TOPIC_REPORT:
        on_report(it);
        break;
    case TOPIC_MESSAGE:
        on_message(it);
        break;
    case TOPIC_COMMAND_RESPONSE:
        on_command_response(it);
        break;
    case TOPIC_CHILDREN:
        on_children(it);
        break;
    case TOPIC_SHADOW_GET:
        on_shadow_get(it);
        break;
    case TOPIC_EVENTS:
        on_events(it);
        break;
    case TOPIC_BOOTSTRAP:
        on_bootstrap(it);
        break;
    case TOPIC_OLD:
        on_old(it);
        break;
    case TOPIC_UNKNOWN:
        text_cut(topic, sizeof topic, it->up->topic, strlen(it->up->topic));
        snprintf(reason, sizeof reason, "Nothing listens on topic \"%s\".", topic);
        item_refuse(it, "topic", "unknown_topic", reason,
                    "Use $oc/devices/{device_id}/sys/properties/report or …/sys/messages/up.");
        break;
    }
}

/* ---- sessions */

void item_status(struct item *it, const struct state *s, int64_t online_ms)
{
    char basic[CW_TIME_LEN], extended[CW_TIME_LEN];
    struct item about = *it;
    struct cw_buf *out = &it->b->text;
    cw_buf_reset(out);
    about.status = s->online ? CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE
                             : CAUSEWAY__DEVICE_STATUS__STATUS_OFFLINE;
    cw_buf_printf(out,
                  "{\"status\":\"%s\",\"last_online_time\":\"%s\",\"status_update_time\":\"%s\"}",
                  cw_device_status_word(about.status), cw_time_basic(basic, online_ms),
                  cw_time_extended(extended, it->up->received_ms));
    item_emit(&about, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, it->up->request_id, out);
}

static void on_connect(struct item *it)
{
    const Causeway__Uplink *up = it->up;
    struct state *s = batch_state(it->b, it->device->device_key);
    char client[160], peer[80];
    if (up->session_no <= s->session_no)
        return; /* a session that is over already */
    bool was_online = s->online;
    s->changed = s->online = true;
    s->session_no = up->session_no;
    s->connected_ms = up->received_ms;
    s->since_ms = was_online ? s->since_ms : up->received_ms;
    s->gateway = it->gateway;
    s->peer = up->peer;
    text_cut(client, sizeof client, up->client, strlen(up->client));
    text_cut(peer, sizeof peer, up->peer, strlen(up->peer));
    why_change(&it->b->why, s->device_key, up->received_ms, "connected", NULL,
               cw_sprintf("From %s as client \"%s\", at %s, session %" PRId64 "%s.", peer, client,
                          it->gateway, up->session_no,
                          was_online ? "; it was connected before" : ""));
    if (!was_online || s->abnormal)
        item_status(it, s, up->received_ms);
    s->abnormal = false;
}

static const struct {
    const char *cause, *text;
} causes[] = {
    { "client", "the device said goodbye" },
    { "keep_alive", "nothing came from the device for one and a half keep-alive times" },
    { "takeover", "the device connected again" },
    { "gateway_lost", "the gateway process ended or was cut off" },
    { "kicked", "an operator cut the connection" },
    { "deleted", "the device was deleted" },
    { "secret_reset", "the device's secret was changed" },
    { "fingerprint_reset", "the fingerprint of the device's certificate was changed" },
    { "frozen", "the device was frozen" },
};

static const char *cause_text(const char *cause)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(causes); i++)
        if (strcmp(causes[i].cause, cause) == 0)
            return causes[i].text;
    return "the connection broke";
}

static int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }

/* What hangs below a device goes with its session, also if it has been deleted. */
static void note_gone(const struct item *it, struct state *s)
{
    if (strcmp(it->up->cause, "takeover") == 0) /* then the device itself stays */
        return;
    s->gone_session = it->up->session_no;
    s->gone_id = it->up->device_id;
    s->gone_partition = it->record->partition;
}

static void on_disconnect(struct item *it)
{
    const Causeway__Uplink *up = it->up;
    struct state *s = batch_state(it->b, it->device->device_key);
    if (up->session_no < s->session_no || (up->session_no == s->session_no && !s->online))
        return; /* of an older session, or told twice */
    bool was_online = s->online;
    s->changed = true;
    s->online = false;
    s->session_no = up->session_no;
    s->since_ms = was_online || s->since_ms == 0 ? up->received_ms : s->since_ms;
    s->cause = up->cause;
    s->gateway = it->gateway;
    why_change(&it->b->why, s->device_key, up->received_ms, "disconnected", up->cause,
               cw_sprintf("Session %" PRId64 " ended: %s.", up->session_no, cause_text(up->cause)));
    note_gone(it, s);
    if (was_online)
        item_status(it, s,
                    later(later(s->connected_ms, s->seen_ms),
                          later(s->last_report_ms, s->last_message_ms)));
}

/* ---- notices */

static void on_notice(struct item *it)
{
    const Causeway__Notice *n = it->up->notice;
    const char *layer = n ? why_layer(n->layer) : NULL;
    if (!layer)
        return;
    char code[64], reason[600], step[300], sample[SAMPLE_BYTES];
    text_cut(code, sizeof code, n->code, strlen(n->code));
    text_cut(reason, sizeof reason, n->reason, strlen(n->reason));
    text_cut(step, sizeof step, n->next_step, strlen(n->next_step));
    text_cut(sample, sizeof sample, n->sample, strlen(n->sample));
    why_fail(&it->b->why, &(struct why_told){ .device_key = it->device->device_key,
                                              .layer = layer,
                                              .code = code,
                                              .reason = reason,
                                              .next_step = step,
                                              .sample = sample,
                                              .first_ms = n->first_ms,
                                              .last_ms = n->last_ms,
                                              .count = n->count ? n->count : 1 });
}

/* ---- all of a transaction */

/* What another daemon says of a device bears that one's clock, and is not part of its sequence. */
static void settle_time(struct item *it, Causeway__Uplink *up)
{
    if (up->kind != CAUSEWAY__UPLINK_KIND__UPLINK_NOTICE)
        up->received_ms =
            devices_time(it->b->u->devices, up->device_key, up->received_ms, cw_now_ms());
}

static void interpret(struct item *it)
{
    switch (it->up->kind) {
    case CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH:
        on_publish(it);
        break;
    case CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT:
        on_connect(it);
        item_count(it, LEDGER_STATUS);
        break;
    case CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT:
        on_disconnect(it);
        item_count(it, LEDGER_STATUS);
        break;
    case CAUSEWAY__UPLINK_KIND__UPLINK_REFUSED:
        on_notice(it);
        item_count(it, LEDGER_GATEWAY_REFUSED);
        break;
    default:
        on_notice(it);
        item_count(it, LEDGER_NOTICES);
        break;
    }
}

void batch_interpret(struct batch *b)
{
    for (size_t m = 0; m < b->n_messages; m++) {
        const Causeway__UplinkBatch *batch = b->messages[m].batch;
        for (size_t i = 0; batch && i < batch->n_records; i++) {
            Causeway__Uplink *up = batch->records[i];
            struct item it = { .b = b,
                               .index = m,
                               .position = (uint32_t)i,
                               .record = b->messages[m].record,
                               .gateway = batch->gateway,
                               .up = up,
                               .session_no = up->session_no,
                               .device = devices_find(b->u->devices, up->device_key) };
            if (!it.device) { /* never existed, or was deleted since */
                if (up->kind == CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT && up->device_key)
                    note_gone(&it, batch_state(b, up->device_key));
                item_count(&it, LEDGER_UNKNOWN_DEVICE);
                continue;
            }
            settle_time(&it, up);
            interpret(&it);
        }
    }
}

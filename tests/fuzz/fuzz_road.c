/* The road of a frame, with the code of every daemon on it and no I/O: what the gateway lets in is
 * understood by uplink-processor, what that states is matched and worded by rule-engine. The first
 * byte says what the input is: an UplinkBatch; a topic, 0xff, a payload; an EventBatch.
 * links: services/mqtt-gateway/topic.c services/uplink-processor/interpret.c
 * services/uplink-processor/interpret_children.c services/uplink-processor/interpret_events.c
 * services/uplink-processor/answers.c services/uplink-processor/report.c
 * services/uplink-processor/topic.c services/uplink-processor/shadow.c
 * services/uplink-processor/proxies.c services/uplink-processor/why.c
 * services/uplink-processor/encode.c services/rule-engine/match.c
 */
#include "libcommon/json.h"
#include "services/mqtt-gateway/topic.h"
#include "services/rule-engine/match.h"
#include "services/uplink-processor/batch.h"
#include "tests/fuzz/fuzz.h"

#define DEVICE "6512af01_pump-7"

#define CHILD "pump-8"

#define KEY       7
#define CHILD_KEY 8
#define GATEWAY   "mqtt-gateway-1-7"

static const char model_text[] =
    "[{\"service_id\":\"Load\",\"service_type\":\"Load\",\"properties\":["
    "{\"property_name\":\"seq\",\"data_type\":\"int\",\"min\":\"0\",\"max\":\"100\",\"method\":"
    "\"R\"},"
    "{\"property_name\":\"pad\",\"data_type\":\"string\",\"max_length\":8,\"method\":\"RW\"},"
    "{\"property_name\":\"obj\",\"data_type\":\"jsonObject\",\"method\":\"R\"}]}]";

static struct cw_model *model;
static struct rule_set rules;
static struct device the_device = { .device_key = KEY,
                                    .product_key = 1,
                                    .device_id = (char *)DEVICE,
                                    .node_id = (char *)"pump-7",
                                    .app_id = (char *)"app",
                                    .product_id = (char *)"6512af01",
                                    .gateway_id = (char *)DEVICE,
                                    .exists = true };
static struct device the_child = { .device_key = CHILD_KEY,
                                   .product_key = 1,
                                   .device_id = (char *)CHILD,
                                   .node_id = (char *)CHILD,
                                   .app_id = (char *)"app",
                                   .product_id = (char *)"6512af01",
                                   .gateway_id = (char *)DEVICE,
                                   .exists = true };
static struct state the_state, child_state;
static struct state deleted_state;        /* of a device that is not there any more */
static const Causeway__Uplink *parsed_of; /* whose payload was parsed */
static json_t *parsed;
static int64_t counted, stored, emitted;
static int last_kind;     /* of what was emitted */
static bool from_gateway; /* so its texts are UTF-8 */

/* ---- what the other files of uplink-processor are to interpret.c */

const struct device *devices_find(const struct devices *d, int64_t device_key)
{
    (void)d;
    return device_key == KEY ? &the_device : device_key == CHILD_KEY ? &the_child : NULL;
}

int64_t devices_time(struct devices *all, int64_t device_key, int64_t received_ms, int64_t now_ms)
{
    (void)all, (void)device_key, (void)received_ms;
    return now_ms;
}

const struct cw_model *cw_products_find(const struct cw_products *p, int64_t product_key)
{
    (void)p, (void)product_key;
    return model;
}

struct state *batch_state(struct batch *b, int64_t device_key)
{
    (void)b;
    fuzz_check(device_key != 0);
    return device_key == KEY ? &the_state : device_key == CHILD_KEY ? &child_state : &deleted_state;
}

json_t *children_payload(const struct children *c, const Causeway__Uplink *up)
{
    struct cw_json_error err;
    (void)c;
    if (up != parsed_of) {
        json_decref(parsed);
        parsed = cw_json_parse(up->body.data, up->body.len, &err);
        parsed_of = up;
    }
    return parsed;
}

int64_t children_key(const struct children *c, const char *device_id)
{
    (void)c;
    return !device_id                       ? 0
           : strcmp(device_id, DEVICE) == 0 ? KEY
           : strcmp(device_id, CHILD) == 0  ? CHILD_KEY
                                            : 0;
}

void batch_history(struct batch *b, const struct history_row *row)
{
    (void)b;
    stored++;
    fuzz_check(cw_utf8_valid(row->body, row->len)); /* PostgreSQL takes nothing else */
    fuzz_check(!from_gateway || cw_utf8_valid(row->request_id, strlen(row->request_id)));
}

void cw_log_txn_count(struct cw_log_txn *txn, uint32_t partition, unsigned slot, int64_t n)
{
    (void)txn, (void)partition;
    fuzz_check(slot < LEDGER_COUNT);
    counted += slot == LEDGER_EVENTS ? 0 : n;
}

/* ---- rule-engine */

static void owe(const struct rule *rule, void *arg)
{
    (void)arg;
    fuzz_check(rule->rule_id && rule->action_id);
}

/* ours: the event was made by uplink-processor, so it must have a notification. */
static void match(const Causeway__Event *e, bool ours)
{
    struct cw_buf text = { 0 };
    struct cw_json_error err;
    if (rule_set_match(&rules, e, owe, NULL) > 0) {
        int rc = notification_write(&text, e);
        fuzz_check(rc == 0 || !ours);
        json_t *json = rc == 0 ? cw_json_parse(text.data, text.len, &err) : NULL;
        fuzz_check(rc < 0 || json_is_object(json) || !ours);
        json_decref(json);
    }
    cw_buf_free(&text);
}

void cw_log_txn_emit(struct cw_log_txn *txn, size_t index, const void *packed, size_t len)
{
    Causeway__Event *e = causeway__event__unpack(NULL, len, packed);
    (void)txn, (void)index;
    fuzz_check(e && (e->device_key == KEY || e->device_key == CHILD_KEY));
    emitted++;
    last_kind = e->kind;
    match(e, from_gateway);
    causeway__event__free_unpacked(e, NULL);
}

static void match_batch(const uint8_t *data, size_t size)
{
    Causeway__EventBatch *events = causeway__event_batch__unpack(NULL, size, data);
    for (size_t i = 0; events && i < events->n_events; i++)
        match(events->events[i], false);
    if (events)
        causeway__event_batch__free_unpacked(events, NULL);
}

/* ---- uplink-processor */

/* Takes batch. */
static void interpret(Causeway__UplinkBatch *batch)
{
    struct uplink u = { 0 };
    struct cw_record record = { .partition = 1, .seq = 9 };
    struct message m = { &record, batch };
    struct batch b = { .u = &u, .messages = &m, .n_messages = 1 };
    the_state = (struct state){ .device_key = KEY };
    child_state = (struct state){ .device_key = CHILD_KEY };
    deleted_state = (struct state){ 0 };
    counted = stored = emitted = 0;
    batch_interpret(&b);
    fuzz_check(counted <= (int64_t)batch->n_records); /* no record counts twice */
    fuzz_check(!deleted_state.changed && !deleted_state.reports && !deleted_state.messages);
    shadow_free(&b.shadows);
    why_free(&b.why);
    answers_drop(&b.answers);
    json_decref(parsed);
    parsed = NULL;
    parsed_of = NULL;
    report_free(&b.report);
    cw_buf_free(&b.text);
    cw_buf_free(&b.packed);
}

static void interpret_batch(const uint8_t *data, size_t size)
{
    Causeway__UplinkBatch *batch = causeway__uplink_batch__unpack(NULL, size, data);
    if (!batch)
        return;
    interpret(batch);
    causeway__uplink_batch__free_unpacked(batch, NULL);
}

/* A frame that the gateway lets in: it is stored or refused, and what the gateway took for a report
 * or an answer becomes nothing else. */
static void interpret_frame(const uint8_t *data, size_t size)
{
    struct topic_info info;
    char *topic = fuzz_part(&data, &size), request_id[REQUEST_ID_MAX + 1] = "r-1";
    struct text t = { topic, strlen(topic) };
    if (t.len && cw_utf8_valid(t.p, t.len) && topic_check_publish(&info, DEVICE, t) == 0) {
        Causeway__Uplink up = CAUSEWAY__UPLINK__INIT, *list[] = { &up };
        Causeway__UplinkBatch batch = CAUSEWAY__UPLINK_BATCH__INIT;
        up.kind = CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH;
        up.device_key = KEY;
        up.device_id = (char *)DEVICE;
        up.topic = topic;
        up.body = (ProtobufCBinaryData){ size, (uint8_t *)data };
        if (info.request_id.len)
            snprintf(request_id, sizeof request_id, "%.*s", (int)info.request_id.len,
                     info.request_id.p);
        up.request_id = request_id;
        batch.gateway = (char *)GATEWAY;
        batch.records = list;
        batch.n_records = 1;
        from_gateway = true;
        interpret(&batch);
        fuzz_check(counted == 1);
        fuzz_check(!info.answer || emitted == 0 ||
                   last_kind == CAUSEWAY__EVENT_KIND__EVENT_COMMAND_RESPONSE);
        fuzz_check(!info.report || emitted == 0 ||
                   last_kind == CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT);
    }
    free(topic);
}

static void prepare(void)
{
    struct cw_model_error err;
    if (model)
        return;
    fuzz_check(cw_model_parse(&model, model_text, strlen(model_text), &err) == 0);
    rule_set_add(&rules, "device.property", "report", "r1", "a1", NULL);
    rule_set_add(&rules, "device.message", "report", "r2", "a2", "app");
    rule_set_add(&rules, "device.status", "update", "r3", "a3", NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const ways[])(const uint8_t *, size_t) = { interpret_batch, interpret_frame,
                                                             match_batch };
    prepare();
    from_gateway = false;
    if (size)
        ways[data[0] % CW_ARRAY_LEN(ways)](data + 1, size - 1);
    return 0;
}

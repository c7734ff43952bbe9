/* Rows of a kind, by the names of their columns: id, device_key, root_key, root_id, device_id,
 * partition, topic, needs_subscription, title, payload, status, kept, attempts, wakes, created_ms,
 * overdue, replaced, due, behind, properties, node_id, app_id, product_key, product_id, gateway,
 * session_no. */
#include "services/command-dispatcher/queue.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <uthash.h>

#include "libcommon/device_status.h"
#include "libcommon/json.h"
#include "libcommon/metrics.h"

#define SWEEP_MS 1000
#define AT_ONCE  500 /* devices read in one sweep, beside those in flight */

struct queue {
    struct dispatcher *d;
    const struct queue_kind *kind;
    struct event *timer;
    struct queue_item *going;
    struct cw_db_query *reading;
    bool again;
    struct cw_metric *by_status[DELIVERY_STATUSES];
};

static void sweep(struct queue *q);

void queue_item_clear(struct queue_item *it)
{
    char *texts[] = { it->id,     it->device_id,  it->root_id, it->node_id,
                      it->app_id, it->product_id, it->title,   it->topic };
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        free(texts[i]);
    *it = (struct queue_item){ 0 };
}

static void item_free(struct queue_item *it)
{
    if (it->queue)
        HASH_DEL(it->queue->going, it);
    queue_item_clear(it);
    free(it);
}

/* ---- what became of it is stored, with the fact */

struct cw_buf queue_event(const struct queue_item *it, Causeway__EventKind kind, int64_t time_ms,
                          const struct cw_buf *body)
{
    Causeway__Event e = CAUSEWAY__EVENT__INIT;
    char id[CW_UUID_LEN];
    struct cw_buf packed = { 0 };
    e.kind = kind;
    e.request_id = cw_uuid(id);
    e.time_ms = time_ms;
    e.device_key = it->device_key;
    e.device_id = it->device_id;
    e.node_id = it->node_id;
    e.gateway_id = it->root_id;
    e.product_key = it->product_key;
    e.product_id = it->product_id;
    e.app_id = it->app_id;
    e.body = (ProtobufCBinaryData){ body->len, (uint8_t *)body->data };
    packed.len = causeway__event__get_packed_size(&e);
    packed.data = cw_malloc(packed.len);
    causeway__event__pack(&e, (uint8_t *)packed.data);
    return packed;
}

static void log_status(const struct queue_item *it)
{
    cw_log(CW_INFO, "delivery",
           "what=%s id=%s device=%s from=%s to=%s attempts=%u after_ms=%" PRId64,
           it->queue->kind->what, it->id, it->device_id, delivery_name(it->status),
           delivery_name(it->step.status), it->attempts, cw_now_ms() - it->created_ms);
}

static void on_stored(PGresult *res, void *arg)
{
    struct queue_item *it = arg;
    struct queue *q = it->queue;
    it->storing = false;
    if (!q) {
        item_free(it);
        return;
    }
    if (cw_db_outcome(res) == CW_DB_RETRY)
        return; /* the next turn of the timer stores it */
    if (cw_db_outcome(res) != CW_DB_OK)
        cw_log(CW_ERROR, "delivery_not_stored", "id=%s reason=\"%s\"", it->id, cw_db_error(res));
    log_status(it);
    cw_metric_add(q->by_status[it->step.status], 1);
    cw_log_reader_kick(q->d->events, it->partition);
    item_free(it);
    sweep(q); /* the device's next */
}

static int64_t due_ms(const struct queue_item *it)
{
    int64_t wait_ms = it->step.action == ACT_LAST ? delivery_wait_ms(DELIVERY_ATTEMPTS - 1) : 0;
    return cw_now_ms() + wait_ms;
}

static void store(struct queue_item *it)
{
    const struct queue_kind *kind = it->queue->kind;
    char key[24], attempts[24], written[24], acked[24], finished[24], due[24];
    struct cw_buf body = { 0 };
    kind->body(&body, it);
    struct cw_buf event = queue_event(it, kind->event, cw_now_ms(), &body);
    const struct cw_db_param par[] = { cw_db_int(it->device_key, key),
                                       CW_TEXT(it->id),
                                       CW_TEXT(delivery_name(it->status)),
                                       CW_TEXT(delivery_name(it->step.status)),
                                       CW_TEXT(it->error_code),
                                       CW_TEXT(it->error_code ? it->text : NULL),
                                       cw_db_int(it->attempts, attempts),
                                       cw_db_int(it->written_ms, written),
                                       cw_db_int(it->acked_ms, acked),
                                       cw_db_int(it->finished_ms, finished),
                                       cw_db_int(due_ms(it), due),
                                       CW_BIN(event.data, event.len) };
    it->storing =
        cw_db_exec(it->queue->d->db, &kind->store, CW_ARRAY_LEN(par), par, on_stored, it) != NULL;
    cw_buf_free(&body);
    cw_buf_free(&event);
}

/* ---- not now: if the device is away, it is not looked at before it is back */

static void park(const struct queue_item *it)
{
    char key[24], wakes[24], root[24];
    const struct cw_db_param par[] = { cw_db_int(it->device_key, key), CW_TEXT(it->id),
                                       cw_db_int(it->wakes, wakes), cw_db_int(it->root_key, root) };
    cw_db_exec(it->queue->d->db, &it->queue->kind->park, CW_ARRAY_LEN(par), par, NULL, NULL);
}

static void notify(const struct queue_item *it)
{
    cw_notice(it->queue->d->notices,
              &(struct cw_notice){ .layer = CW_LAYER_COMMAND,
                                   .device_key = it->root_key,
                                   .device_id = it->root_id,
                                   .code = it->queue->kind->code,
                                   .reason = it->text,
                                   .next_step = "Send it again when that is mended.",
                                   .sample = it->id });
}

/* The one place where something queued changes its status. The error is told if it fails. */
static void happened(struct queue_item *it, enum delivery_event ev, const char *error_code,
                     const char *text)
{
    if (!delivery_next(&it->step, it->way, it->status, ev)) {
        cw_log(CW_ERROR, "delivery_event", "id=%s status=%s event=%d", it->id,
               delivery_name(it->status), ev);
        item_free(it);
        return;
    }
    bool ended = it->step.action == ACT_NOTHING;
    if (it->step.action == ACT_AGAIN && it->step.status == it->status) {
        park(it);
        item_free(it);
        return;
    }
    it->decided = true;
    it->finished_ms = ended ? cw_now_ms() : 0;
    it->error_code = ended ? error_code : NULL;
    it->text = text;
    if (it->error_code)
        notify(it);
    store(it);
}

/* What the gateway says became of it. */
static const struct {
    enum delivery_event ev;
    const char *error_code, *text;
} outcomes[] = {
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_NO_SESSION] = { ON_OFFLINE, "IOTDA.014016",
                                                          "The device is not online." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_WRITTEN] = { ON_WRITTEN, NULL, "" },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_ACKED] = { ON_ACK, NULL, "" },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_ACK_TIMEOUT] = { ON_NO_ACK, "IOTDA.014111",
                                                           "Sent, but the device sent no PUBACK." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_CLOSED] = { ON_CUT, "IOTDA.014016",
                                                      "The connection ended before the PUBACK." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_EXPIRED] = { ON_NO_ROOM, "IOTDA.014111",
                                                       "Not sent in time." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_NOT_SUBSCRIBED] = { ON_REFUSED, "IOTDA.014112",
                                                              "The device has not subscribed the "
                                                              "topic." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_REJECTED] = { ON_REFUSED, "IOTDA.014111",
                                                        "The device refused it (MQTT 5), or takes "
                                                        "no "
                                                        "packet of its size." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_BUSY] = { ON_NO_ROOM, "IOTDA.014111",
                                                    "The device has too much unacknowledged." },
};

static void came_back(struct queue_item *it, const Causeway__DownlinkReply *reply)
{
    size_t o = reply->outcome;
    enum delivery_event ev = outcomes[o].ev;
    it->written_ms = reply->attempts ? reply->written_ms : it->written_ms;
    it->acked_ms = reply->acked_ms;
    if (!it->queue->kind->resend_plan)
        it->attempts += reply->attempts;
    else if (ev == ON_WRITTEN)
        it->attempts = DELIVERY_ATTEMPTS;
    else if (ev == ON_NO_ACK && !delivery_wait_ms(++it->attempts))
        ev = ON_PLAN_OVER;
    happened(it, ev, outcomes[o].error_code, outcomes[o].text);
}

static void on_downlink(int rc, const Causeway__DownlinkReply *reply, void *arg)
{
    struct queue_item *it = arg;
    it->asked = false;
    if (!it->queue)
        item_free(it);
    else if (rc == 0 && reply->outcome > 0 && reply->outcome < CW_ARRAY_LEN(outcomes))
        came_back(it, reply);
    else
        happened(it, ON_LOST, NULL, "");
}

/* ---- the way down */

static char *copy(const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    return s ? cw_strdup(s) : NULL;
}

static bool is_true(const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    return s && *s == 't';
}

static enum delivery_way way_of(const struct queue_kind *kind, bool kept)
{
    if (kind->event == CAUSEWAY__EVENT_KIND__EVENT_MESSAGE_STATUS)
        return kept ? WAY_MESSAGE : WAY_MESSAGE_NOW;
    return kept ? WAY_COMMAND : WAY_COMMAND_NOW;
}

void queue_item_read(struct queue_item *it, const struct queue_kind *kind, const PGresult *res,
                     int row)
{
    *it = (struct queue_item){ .id = copy(res, row, "id"),
                               .device_id = copy(res, row, "device_id"),
                               .root_id = copy(res, row, "root_id"),
                               .node_id = copy(res, row, "node_id"),
                               .app_id = copy(res, row, "app_id"),
                               .product_id = copy(res, row, "product_id"),
                               .title = copy(res, row, "title"),
                               .topic = copy(res, row, "topic"),
                               .device_key = cw_db_i64(res, row, "device_key", 0),
                               .root_key = cw_db_i64(res, row, "root_key", 0),
                               .product_key = cw_db_i64(res, row, "product_key", 0),
                               .created_ms = cw_db_i64(res, row, "created_ms", 0),
                               .written_ms = cw_db_i64(res, row, "written_ms", 0),
                               .wakes = cw_db_i64(res, row, "wakes", 0),
                               .partition = (uint32_t)cw_db_i64(res, row, "partition", 0),
                               .attempts = (uint32_t)cw_db_i64(res, row, "attempts", 0),
                               .way = way_of(kind, is_true(res, row, "kept")),
                               .status = delivery_status_of(cw_db_str(res, row, "status")) };
}

static struct queue_item *item_new(struct queue *q, const PGresult *res, int row)
{
    struct queue_item *it = cw_calloc(1, sizeof *it);
    queue_item_read(it, q->kind, res, row);
    it->queue = q;
    HASH_ADD(hh, q->going, root_key, sizeof it->root_key, it);
    return it;
}

/* How long, and how often, the gateway is to try. */
static void set_plan(const struct queue_item *it, Causeway__Downlink *down)
{
    const struct dispatcher *d = it->queue->d;
    if (it->queue->kind->resend_plan) {
        down->deadline_ms = cw_now_ms() + delivery_wait_ms(it->attempts);
        return;
    }
    down->deadline_ms = cw_now_ms() + d->message_ms;
    down->resend_ms = (uint32_t)d->resend_ms;
    down->resends = (uint32_t)(d->message_ms / d->resend_ms - 1);
}

#define USER_PROPERTIES_MAX 20

/* What the application gave its message for devices that speak MQTT 5; borrowed from json. */
struct extras {
    Causeway__Pair pairs[USER_PROPERTIES_MAX], *list[USER_PROPERTIES_MAX];
};

static void set_properties(Causeway__Downlink *down, struct extras *x, const json_t *json)
{
    const char *correlation = cw_json_text(json, "correlation_data");
    const char *response = cw_json_text(json, "response_topic");
    size_t i;
    json_t *pair;
    if (response)
        down->response_topic = (char *)response;
    if (correlation)
        down->correlation_data =
            (ProtobufCBinaryData){ strlen(correlation), (uint8_t *)correlation };
    down->user_properties = x->list;
    json_array_foreach(json_object_get(json, "user_properties"), i, pair)
    {
        const char *name = cw_json_text(pair, "prop_key"), *v = cw_json_text(pair, "prop_value");
        if (i >= USER_PROPERTIES_MAX || !name)
            continue;
        Causeway__Pair *p = x->list[down->n_user_properties] = &x->pairs[down->n_user_properties];
        causeway__pair__init(p);
        p->name = (char *)name;
        p->value = (char *)(v ? v : "");
        down->n_user_properties++;
    }
}

static void send_down(struct queue_item *it, const PGresult *res, int row)
{
    Causeway__Downlink down = CAUSEWAY__DOWNLINK__INIT;
    struct extras extras;
    struct cw_json_error err;
    const char *text = cw_db_str(res, row, "properties");
    json_t *properties = text ? cw_json_parse(text, strlen(text), &err) : NULL;
    size_t len;
    uint8_t *payload = PQunescapeBytea((const unsigned char *)cw_db_str(res, row, "payload"), &len);
    down.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH;
    down.device_key = it->root_key;
    down.session_no = cw_db_i64(res, row, "session_no", 0);
    down.topic = it->topic;
    down.payload = (ProtobufCBinaryData){ len, payload };
    down.qos = 1;
    down.request_id = it->id;
    down.needs_subscription = is_true(res, row, "needs_subscription");
    set_plan(it, &down);
    set_properties(&down, &extras, properties);
    it->asked =
        downlink_ask(it->queue->d, cw_db_str(res, row, "gateway"), &down, on_downlink, it) == 0;
    PQfreemem(payload);
    json_decref(properties);
    if (!it->asked)
        item_free(it); /* NATS is away: a later sweep sends it */
}

static void take_row(struct queue *q, const PGresult *res, int row)
{
    int64_t root = cw_db_i64(res, row, "root_key", 0);
    struct queue_item *it;
    HASH_FIND(hh, q->going, &root, sizeof root, it);
    if (it || !is_true(res, row, "due"))
        return;
    if (is_true(res, row, "behind") && cw_db_str(res, row, "gateway"))
        return; /* the wake that is on its way brings them in order */
    it = item_new(q, res, row);
    if (is_true(res, row, "replaced"))
        happened(it, ON_REPLACED, "IOTDA.014016",
                 "Newer ones took its place: 20 wait for a device at most.");
    else if (is_true(res, row, "overdue"))
        happened(it, ON_OVERDUE, "IOTDA.014111", "Its time was over before the device had it.");
    else if (q->kind->resend_plan && !delivery_wait_ms(it->attempts))
        happened(it, ON_PLAN_OVER, "IOTDA.014111", "Sent; the device did not answer.");
    else if (cw_db_str(res, row, "gateway"))
        send_down(it, res, row);
    else
        happened(it, ON_OFFLINE, "IOTDA.014016", "The device went offline before it was sent.");
}

static void on_heads(PGresult *res, void *arg)
{
    struct queue *q = arg;
    q->reading = NULL;
    for (int row = 0; cw_db_outcome(res) == CW_DB_OK && row < PQntuples(res); row++)
        take_row(q, res, row);
    if (q->again)
        sweep(q);
}

static void sweep(struct queue *q)
{
    struct cw_db_array mine = { 0 };
    char limit[24], now[24];
    q->again = q->reading != NULL;
    if (q->reading || cw_app_draining(q->d->app))
        return;
    cw_log_reader_owned(q->d->events, &mine);
    const struct cw_db_param par[] = { cw_db_array_param(&mine),
                                       cw_db_int(AT_ONCE + HASH_COUNT(q->going), limit),
                                       cw_db_int(cw_now_ms(), now) };
    if (mine.n > 0)
        q->reading = cw_db_exec(q->d->db, &q->kind->heads, 3, par, on_heads, q);
    cw_db_array_free(&mine);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct queue *q = arg;
    struct queue_item *it, *next;
    (void)fd, (void)what;
    HASH_ITER(hh, q->going, it, next)
    {
        if (it->decided && !it->storing)
            store(it);
    }
    sweep(q);
}

void queue_wake(struct queue *q) { sweep(q); }

struct queue *queue_open(struct dispatcher *d, const struct queue_kind *kind)
{
    static const struct timeval period = { SWEEP_MS / 1000, SWEEP_MS % 1000 * 1000L };
    char labels[32];
    struct queue *q = cw_calloc(1, sizeof *q);
    q->d = d;
    q->kind = kind;
    for (int i = 0; i < DELIVERY_STATUSES; i++) {
        snprintf(labels, sizeof labels, "status=\"%s\"", delivery_name(i));
        q->by_status[i] = cw_counter(kind->metric, labels, kind->metric_help);
    }
    q->timer = event_new(cw_app_base(d->app), -1, EV_PERSIST, on_timer, q);
    event_add(q->timer, &period);
    return q;
}

void queue_close(struct queue **at)
{
    struct queue_item *it, *next;
    struct queue *q = *at;
    if (!q)
        return;
    if (q->reading)
        cw_db_cancel(q->reading);
    HASH_ITER(hh, q->going, it, next)
    {
        if (it->asked || it->storing) { /* its answer frees it: bus and database end after us */
            HASH_DEL(q->going, it);     /* NOLINT: freed entries have left the table */
            it->queue = NULL;
        } else {
            item_free(it);
        }
    }
    event_free(q->timer);
    free(q);
    *at = NULL;
}

/* ---- devices that are back */

void queue_note(struct queue_wakes *w, const Causeway__Event *e)
{
    if (cw_device_status(e) != CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE ||
        strcmp(e->gateway_id, e->device_id) != 0)
        return;
    if (!w->n++)
        cw_db_array_reset(&w->key, CW_ARRAY_INT8);
    cw_db_array_int(&w->key, e->device_key);
}

/* Also rows that are not parked yet: the one that is just being parked waits for us here, and sees
 * by its wakes that it must not be. */
static const struct cw_stmt stmt_wake[] = {
    { "queue_wake_messages", "UPDATE command.message SET parked = false, wakes = wakes + 1"
                             " WHERE root_key = ANY($1::bigint[]) AND status = 'PENDING'" },
    { "queue_wake_commands", "UPDATE command.async_command SET parked = false, wakes = wakes + 1"
                             " WHERE root_key = ANY($1::bigint[])"
                             " AND status IN ('PENDING', 'SENT')" },
};

void queue_store_wakes(struct queue_wakes *w, struct cw_log_txn *txn)
{
    if (!w->n)
        return;
    struct cw_db_param p = cw_db_array_param(&w->key);
    for (size_t i = 0; i < CW_ARRAY_LEN(stmt_wake); i++)
        cw_log_txn_exec(txn, &stmt_wake[i], 1, &p, NULL, NULL);
}

void queue_wakes_free(struct queue_wakes *w)
{
    cw_db_array_free(&w->key);
    *w = (struct queue_wakes){ 0 };
}

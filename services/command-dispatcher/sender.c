/* Sends PENDING messages, as owner of their partition, and follows each to a final status. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <uthash.h>

#include "libcommon/metrics.h"
#include "services/command-dispatcher/dispatcher.h"

#define SWEEP_MS 1000
#define AT_ONCE  500 /* messages read in one sweep, beside those in flight */

/* A message on its way; here until its final status is committed. */
struct sending {
    UT_hash_handle hh;  /* by name: "<device_key>/<message_id>" */
    struct sender *all; /* NULL: it has been closed, only an answer is still due */
    char name[136];
    char *message_id, *title, *topic, *device_id, *root_id, *node_id, *app_id, *product_id;
    int64_t device_key, product_key, created_ms, written_ms;
    uint32_t partition, attempts;
    bool asked;   /* the gateway has it */
    bool decided; /* status, error and text stand; PostgreSQL may not know yet */
    bool storing;
    enum message_status status;
    const char *error_code; /* NULL: none */
    char *text;
    int64_t finished_ms;
};

struct sender {
    struct dispatcher *d;
    struct event *timer;
    struct sending *going;
    struct cw_db_query *reading;
    bool again;
    struct cw_metric *by_status[MSG_STATUSES];
};

static const struct cw_stmt pending = {
    "message_pending",
    "SELECT m.device_key, m.message_id, m.name, m.topic, m.system_topic, m.root_key, m.root_id, "
    "m.device_id, m.partition, m.payload, v.node_id, v.app_id, v.product_key, v.product_id, "
    "(extract(epoch FROM m.created) * 1000)::bigint AS created_ms, s.gateway, s.session_no "
    "FROM command.message m JOIN registry.device_view v USING (device_key) "
    "LEFT JOIN registry.session_view s ON s.device_key = m.root_key "
    "WHERE m.status = 'PENDING' AND m.partition = ANY($1::int[]) "
    "ORDER BY m.created, m.message_id LIMIT $2::bigint"
};
/* The status and the fact that it changed are one. */
static const struct cw_stmt finish = {
    "message_finish",
    "WITH m AS (UPDATE command.message SET status = $3, error_code = $4, error_msg = $5, "
    "attempts = $6, written = to_timestamp(nullif($7::bigint, 0) / 1000.0), "
    "finished = to_timestamp($8::bigint / 1000.0) "
    "WHERE device_key = $1 AND message_id = $2 AND status = 'PENDING' RETURNING partition) "
    "INSERT INTO command.outbox (partition, event) SELECT partition, $9 FROM m"
};

static void sweep(struct sender *s);

static void sending_free(struct sending *m)
{
    char *texts[] = { m->message_id, m->title,  m->topic,      m->device_id, m->root_id,
                      m->node_id,    m->app_id, m->product_id, m->text };
    if (m->all)
        HASH_DEL(m->all->going, m);
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        free(texts[i]);
    free(m);
}

/* ---- the end */

static struct cw_buf status_body(const struct sending *m)
{
    char at[CW_TIME_LEN];
    struct cw_buf b = { 0 };
    cw_buf_str(&b, "{\"message_id\":");
    cw_buf_json_string(&b, m->message_id, strlen(m->message_id));
    if (m->title) {
        cw_buf_str(&b, ",\"name\":");
        cw_buf_json_string(&b, m->title, strlen(m->title));
    }
    cw_buf_str(&b, ",\"topic\":");
    cw_buf_json_string(&b, m->topic, strlen(m->topic));
    cw_buf_printf(&b, ",\"status\":\"%s\",\"timestamp\":\"%s\"", message_status_name(m->status),
                  cw_time_basic(at, m->finished_ms));
    if (m->error_code) {
        cw_buf_printf(&b, ",\"error_info\":{\"error_code\":\"%s\",\"error_msg\":", m->error_code);
        cw_buf_json_string(&b, m->text, strlen(m->text));
        cw_buf_str(&b, "}");
    }
    cw_buf_str(&b, "}");
    return b;
}

static struct cw_buf status_event(const struct sending *m)
{
    Causeway__Event e = CAUSEWAY__EVENT__INIT;
    char id[CW_UUID_LEN];
    struct cw_buf body = status_body(m), packed = { 0 };
    e.kind = CAUSEWAY__EVENT_KIND__EVENT_MESSAGE_STATUS;
    e.request_id = cw_uuid(id);
    e.time_ms = m->finished_ms;
    e.device_key = m->device_key;
    e.device_id = m->device_id;
    e.node_id = m->node_id;
    e.gateway_id = m->root_id;
    e.product_key = m->product_key;
    e.product_id = m->product_id;
    e.app_id = m->app_id;
    e.body = (ProtobufCBinaryData){ body.len, (uint8_t *)body.data };
    packed.len = causeway__event__get_packed_size(&e);
    packed.data = cw_malloc(packed.len);
    causeway__event__pack(&e, (uint8_t *)packed.data);
    cw_buf_free(&body);
    return packed;
}

static void on_stored(PGresult *res, void *arg)
{
    struct sending *m = arg;
    struct sender *s = m->all;
    m->storing = false;
    if (!s) {
        sending_free(m);
        return;
    }
    if (cw_db_outcome(res) == CW_DB_RETRY)
        return; /* the next sweep stores it */
    if (cw_db_outcome(res) != CW_DB_OK)
        cw_log(CW_ERROR, "message_not_stored", "id=%s reason=\"%s\"", m->message_id,
               cw_db_error(res));
    cw_log(CW_INFO, "message_status",
           "id=%s device=%s from=PENDING to=%s attempts=%u after_ms=%" PRId64, m->message_id,
           m->device_id, message_status_name(m->status), m->attempts,
           m->finished_ms - m->created_ms);
    cw_metric_add(s->by_status[m->status], 1);
    cw_log_reader_kick(s->d->events, m->partition);
    sending_free(m);
}

static void store(struct sending *m)
{
    char key[24], attempts[24], written[24], finished[24];
    struct cw_buf event = status_event(m);
    const struct cw_db_param par[] = { cw_db_int(m->device_key, key),
                                       CW_TEXT(m->message_id),
                                       CW_TEXT(message_status_name(m->status)),
                                       CW_TEXT(m->error_code),
                                       CW_TEXT(m->error_code ? m->text : NULL),
                                       cw_db_int(m->attempts, attempts),
                                       cw_db_int(m->written_ms, written),
                                       cw_db_int(m->finished_ms, finished),
                                       CW_BIN(event.data, event.len) };
    m->storing = cw_db_exec(m->all->d->db, &finish, CW_ARRAY_LEN(par), par, on_stored, m) != NULL;
    cw_buf_free(&event);
}

/* The one place where a message changes its status. */
static void decide(struct sending *m, enum message_event ev, const char *error_code,
                   const char *text)
{
    int next = message_next(MSG_PENDING, ev);
    m->decided = true;
    m->status = (enum message_status)next;
    m->error_code = error_code;
    m->text = cw_strdup(text);
    m->finished_ms = cw_now_ms();
    if (error_code)
        cw_notice(m->all->d->notices,
                  &(struct cw_notice){ .layer = CW_LAYER_COMMAND,
                                       .device_key = m->device_key,
                                       .device_id = m->root_id,
                                       .code = "message_failed",
                                       .reason = text,
                                       .next_step = "Send the message again when that is mended.",
                                       .sample = m->message_id });
    store(m);
}

/* What the gateway says became of it. */
static const struct {
    enum message_event ev;
    const char *error_code, *text;
} outcomes[] = {
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_NO_SESSION] = { ON_OFFLINE, "IOTDA.014016",
                                                          "The device is not online." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_WRITTEN] = { ON_ACK, NULL, "" }, /* subscribed at QoS 0 */
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_ACKED] = { ON_ACK, NULL, "" },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_ACK_TIMEOUT] = { ON_NO_ACK, "IOTDA.014111",
                                                           "Sent, but the device sent no PUBACK." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_CLOSED] = { ON_NO_ACK, "IOTDA.014016",
                                                      "The connection ended before the PUBACK." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_EXPIRED] = { ON_NO_ACK, "IOTDA.014111",
                                                       "Not sent in time." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_NOT_SUBSCRIBED] = { ON_NOT_SUBSCRIBED, "IOTDA.014112",
                                                              "The device has not subscribed the "
                                                              "topic." },
    [CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_BUSY] = { ON_NO_ACK, "IOTDA.014111",
                                                    "The device has too much unacknowledged." },
};

static void on_downlink(int rc, const Causeway__DownlinkReply *reply, void *arg)
{
    struct sending *m = arg;
    m->asked = false;
    if (!m->all) {
        sending_free(m);
        return;
    }
    size_t o = rc == 0 ? (size_t)reply->outcome : 0;
    if (rc == 0) {
        m->attempts += reply->attempts;
        m->written_ms = reply->written_ms;
    }
    if (o > 0 && o < CW_ARRAY_LEN(outcomes)) {
        decide(m, outcomes[o].ev, outcomes[o].error_code, outcomes[o].text);
    } else if (cw_now_ms() - m->created_ms > m->all->d->unknown_ms) {
        decide(m, ON_NO_ACK, "IOTDA.014016", "No gateway could tell what became of it.");
    } else {
        sending_free(m); /* unknown: a later sweep sends it again */
    }
}

/* ---- the way down */

static char *copy(const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    return s ? cw_strdup(s) : NULL;
}

static struct sending *sending_new(struct sender *s, const PGresult *res, int row, const char *name)
{
    struct sending *m = cw_calloc(1, sizeof *m);
    m->all = s;
    snprintf(m->name, sizeof m->name, "%s", name);
    m->message_id = copy(res, row, "message_id");
    m->title = copy(res, row, "name");
    m->topic = copy(res, row, "topic");
    m->device_id = copy(res, row, "device_id");
    m->root_id = copy(res, row, "root_id");
    m->node_id = copy(res, row, "node_id");
    m->app_id = copy(res, row, "app_id");
    m->product_id = copy(res, row, "product_id");
    m->device_key = cw_db_i64(res, row, "device_key", 0);
    m->product_key = cw_db_i64(res, row, "product_key", 0);
    m->created_ms = cw_db_i64(res, row, "created_ms", 0);
    m->partition = (uint32_t)cw_db_i64(res, row, "partition", 0);
    HASH_ADD_STR(s->going, name, m);
    return m;
}

static void send_down(struct sending *m, const PGresult *res, int row)
{
    struct dispatcher *d = m->all->d;
    Causeway__Downlink down = CAUSEWAY__DOWNLINK__INIT;
    size_t len;
    uint8_t *payload = PQunescapeBytea((const unsigned char *)cw_db_str(res, row, "payload"), &len);
    down.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH;
    down.deadline_ms = cw_now_ms() + d->message_ms;
    down.device_key = cw_db_i64(res, row, "root_key", 0);
    down.session_no = cw_db_i64(res, row, "session_no", 0);
    down.topic = m->topic;
    down.payload = (ProtobufCBinaryData){ len, payload };
    down.qos = 1;
    down.request_id = m->message_id;
    down.resend_ms = (uint32_t)d->resend_ms;
    down.resends = (uint32_t)(d->message_ms / d->resend_ms - 1);
    down.needs_subscription = *cw_db_str(res, row, "system_topic") != 't';
    m->asked = downlink_ask(d, cw_db_str(res, row, "gateway"), &down, on_downlink, m) == 0;
    PQfreemem(payload);
    if (!m->asked)
        sending_free(m); /* NATS is away: a later sweep sends it */
}

static void take_row(struct sender *s, const PGresult *res, int row)
{
    char name[136];
    struct sending *m;
    snprintf(name, sizeof name, "%s/%s", cw_db_str(res, row, "device_key"),
             cw_db_str(res, row, "message_id"));
    HASH_FIND_STR(s->going, name, m);
    if (m)
        return;
    m = sending_new(s, res, row, name);
    if (cw_db_str(res, row, "gateway"))
        send_down(m, res, row);
    else
        decide(m, ON_OFFLINE, "IOTDA.014016", "The device went offline before it was sent.");
}

static void on_pending(PGresult *res, void *arg)
{
    struct sender *s = arg;
    s->reading = NULL;
    for (int row = 0; cw_db_outcome(res) == CW_DB_OK && row < PQntuples(res); row++)
        take_row(s, res, row);
    if (s->again)
        sweep(s);
}

static void sweep(struct sender *s)
{
    struct cw_db_array mine = { 0 };
    char limit[24];
    s->again = s->reading != NULL;
    if (s->reading || cw_app_draining(s->d->app))
        return;
    cw_log_reader_owned(s->d->events, &mine);
    const struct cw_db_param par[] = { cw_db_array_param(&mine),
                                       cw_db_int(AT_ONCE + HASH_COUNT(s->going), limit) };
    if (mine.n > 0)
        s->reading = cw_db_exec(s->d->db, &pending, 2, par, on_pending, s);
    cw_db_array_free(&mine);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct sender *s = arg;
    struct sending *m, *next;
    (void)fd, (void)what;
    HASH_ITER(hh, s->going, m, next)
    {
        if (m->decided && !m->storing)
            store(m);
    }
    sweep(s);
}

void sender_wake(struct sender *s, uint32_t partition)
{
    if (cw_log_reader_owns(s->d->events, partition))
        sweep(s);
}

struct sender *sender_open(struct dispatcher *d)
{
    static const struct timeval period = { SWEEP_MS / 1000, SWEEP_MS % 1000 * 1000L };
    char labels[32];
    struct sender *s = cw_calloc(1, sizeof *s);
    s->d = d;
    for (int i = 0; i < MSG_STATUSES; i++) {
        snprintf(labels, sizeof labels, "status=\"%s\"", message_status_name(i));
        s->by_status[i] = cw_counter("causeway_messages_total", labels, "Messages by last status");
    }
    s->timer = event_new(cw_app_base(d->app), -1, EV_PERSIST, on_timer, s);
    event_add(s->timer, &period);
    return s;
}

void sender_close(struct sender **at)
{
    struct sending *m, *next;
    struct sender *s = *at;
    if (!s)
        return;
    if (s->reading)
        cw_db_cancel(s->reading);
    HASH_ITER(hh, s->going, m, next)
    {
        if (m->asked || m->storing) { /* its answer frees it: bus and database end after us */
            HASH_DEL(s->going, m);    /* NOLINT: freed entries have left the table */
            m->all = NULL;
        } else {
            sending_free(m);
        }
    }
    event_free(s->timer);
    free(s);
    *at = NULL;
}

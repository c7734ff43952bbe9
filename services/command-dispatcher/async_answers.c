/* What devices answer to asynchronous commands: kept by the reader of EVENT with its position,
 * taken in here by the owner of the partition, so that the order of the log is the order of its
 * effects. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/json.h"
#include "services/command-dispatcher/async.h"

#define SWEEP_MS 1000
#define AT_ONCE  "200"

struct async_answers {
    struct dispatcher *d;
    struct event *timer;
    struct cw_db_query *reading;
    unsigned changing; /* statements under way */
    bool again, closing;
};

/* ---- a change */

static const struct cw_stmt stmt_change = {
    "async_change",
    "WITH m AS (UPDATE command.async_command SET status = $3, result = coalesce(result, $4),"
    " answered = coalesce(answered, to_timestamp(nullif($5::bigint, 0) / 1000.0)),"
    " delivered = coalesce(delivered, to_timestamp(nullif($5::bigint, 0) / 1000.0)),"
    " finished = to_timestamp($6::bigint / 1000.0)"
    " WHERE command_id = $1 AND status = $2 RETURNING partition),"
    " d AS (DELETE FROM command.async_answer WHERE no = $7::bigint AND EXISTS (SELECT FROM m)),"
    " o AS (INSERT INTO command.outbox (partition, event) SELECT partition, $8 FROM m)"
    " SELECT count(*) AS n FROM m"
};

struct changing {
    struct dispatcher *d;
    uint32_t partition;
    async_change_fn *cb;
    void *arg;
};

static void on_change(PGresult *res, void *arg)
{
    struct changing c = *(struct changing *)arg;
    int rc = cw_db_outcome(res) != CW_DB_OK ? -EIO : cw_db_i64(res, 0, "n", 0) ? 0 : -EAGAIN;
    free(arg);
    if (rc == 0)
        cw_log_reader_kick(c.d->events, c.partition);
    c.cb(rc, c.arg);
}

int async_change(struct dispatcher *d, struct async_change *c, async_change_fn *cb, void *arg)
{
    struct queue_item *it = &c->item;
    char answered[24], finished[24], no[24];
    struct cw_buf body = { 0 };
    delivery_next(&it->step, it->way, it->status, c->event);
    it->finished_ms = cw_now_ms();
    it->answered_ms = c->answered_ms;
    it->result = c->result;
    kind_async.body(&body, it);
    struct cw_buf event = queue_event(it, kind_async.event, it->finished_ms, &body);
    const struct cw_db_param par[] = { CW_TEXT(it->id),
                                       CW_TEXT(delivery_name(it->status)),
                                       CW_TEXT(delivery_name(it->step.status)),
                                       CW_TEXT(c->result),
                                       cw_db_int(c->answered_ms, answered),
                                       cw_db_int(it->finished_ms, finished),
                                       cw_db_int(c->answer_no, no),
                                       CW_BIN(event.data, event.len) };
    struct changing *ch = cw_malloc(sizeof *ch);
    *ch = (struct changing){ d, it->partition, cb, arg };
    int rc = cw_db_exec(d->db, &stmt_change, CW_ARRAY_LEN(par), par, on_change, ch) ? 0 : -ENOTCONN;
    if (rc < 0)
        free(ch);
    cw_buf_free(&body);
    cw_buf_free(&event);
    return rc;
}

/* ---- answers */

static const struct cw_stmt stmt_answers = {
    "async_answers", "SELECT w.no AS answer_no, w.at_ms, w.body, " ASYNC_COLUMNS
                     " FROM command.async_answer w JOIN command.async_command a USING (command_id)"
                     " JOIN registry.device_view v ON v.device_key = a.device_key"
                     " WHERE w.partition = ANY($1::int[]) ORDER BY w.no LIMIT " AT_ONCE
};
/* It came too late, or twice: kept all the same. */
static const struct cw_stmt stmt_late = {
    "async_late", "WITH d AS (DELETE FROM command.async_answer WHERE no = $1::bigint)"
                  " UPDATE command.async_command SET result = coalesce(result, $2), answered ="
                  " coalesce(answered, to_timestamp($3::bigint / 1000.0)) WHERE command_id = $4"
};

static void sweep(struct async_answers *s);

static void over(struct async_answers *s)
{
    s->changing--;
    if (s->changing == 0 && s->closing)
        free(s);
    else if (s->changing == 0 && s->again)
        sweep(s);
}

/* A status that changed meanwhile: the answer is still there, the next sweep takes it. */
static void on_taken(int rc, void *arg)
{
    struct async_answers *s = arg;
    s->again |= rc == -EAGAIN;
    over(s);
}

static void on_late(PGresult *res, void *arg)
{
    (void)res;
    over(arg);
}

static void keep_late(struct async_answers *s, const struct async_change *c)
{
    char no[24], at[24], text[200];
    const struct cw_db_param par[] = { cw_db_int(c->answer_no, no), CW_TEXT(c->result),
                                       cw_db_int(c->answered_ms, at), CW_TEXT(c->item.id) };
    snprintf(text, sizeof text, "The device answered a command that was %s already.",
             delivery_name(c->item.status));
    cw_notice(s->d->notices, &(struct cw_notice){ .layer = CW_LAYER_COMMAND,
                                                  .device_key = c->item.root_key,
                                                  .device_id = c->item.root_id,
                                                  .code = "late_answer",
                                                  .reason = text,
                                                  .next_step = "The answer is kept with the "
                                                               "command; answer sooner.",
                                                  .sample = c->item.id });
    if (cw_db_exec(s->d->db, &stmt_late, CW_ARRAY_LEN(par), par, on_late, s))
        s->changing++;
}

/* Success is result_code 0, or none; what is no JSON object is none. */
static enum delivery_event read_answer(const char *body, struct cw_buf *text)
{
    struct cw_json_error err;
    json_t *answer = body ? cw_json_parse(body, strlen(body), &err) : NULL;
    const json_t *code = json_object_get(answer, "result_code");
    enum delivery_event ev = ON_ERROR;
    if (json_is_object(answer)) {
        cw_json_write(text, answer);
        ev = !json_is_integer(code) || json_integer_value(code) == 0 ? ON_DONE : ON_ERROR;
    } else
        cw_buf_str(text, "{\"error_code\":\"IOTDA.014111\",\"error_msg\":\"The device answered, but"
                         " not with a JSON object.\"}");
    json_decref(answer);
    return ev;
}

static void take(struct async_answers *s, const PGresult *res, int row)
{
    struct async_change c = { .answered_ms = cw_db_i64(res, row, "at_ms", 0),
                              .answer_no = cw_db_i64(res, row, "answer_no", 0) };
    struct cw_buf text = { 0 };
    struct delivery_step step;
    queue_item_read(&c.item, &kind_async, res, row);
    c.event = read_answer(cw_db_str(res, row, "body"), &text);
    c.result = text.data;
    if (!delivery_next(&step, c.item.way, c.item.status, c.event))
        keep_late(s, &c);
    else if (async_change(s->d, &c, on_taken, s) == 0)
        s->changing++;
    queue_item_clear(&c.item);
    cw_buf_free(&text);
}

static void on_answers(PGresult *res, void *arg)
{
    struct async_answers *s = arg;
    s->reading = NULL;
    s->again = false;
    for (int row = 0; cw_db_outcome(res) == CW_DB_OK && row < PQntuples(res); row++)
        take(s, res, row);
}

static void sweep(struct async_answers *s)
{
    struct cw_db_array mine = { 0 };
    if (s->reading || s->changing) {
        s->again = true;
        return;
    }
    if (cw_app_draining(s->d->app))
        return;
    cw_log_reader_owned(s->d->events, &mine);
    struct cw_db_param p = cw_db_array_param(&mine);
    if (mine.n)
        s->reading = cw_db_exec(s->d->db, &stmt_answers, 1, &p, on_answers, s);
    cw_db_array_free(&mine);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    sweep(arg);
}

void async_answers_wake(struct async_answers *s) { sweep(s); }

struct async_answers *async_answers_open(struct dispatcher *d)
{
    static const struct timeval period = { SWEEP_MS / 1000, SWEEP_MS % 1000 * 1000L };
    struct async_answers *s = cw_calloc(1, sizeof *s);
    s->d = d;
    s->timer = event_new(cw_app_base(d->app), -1, EV_PERSIST, on_timer, s);
    event_add(s->timer, &period);
    return s;
}

void async_answers_close(struct async_answers **at)
{
    struct async_answers *s = *at;
    if (!s)
        return;
    *at = NULL;
    if (s->reading)
        cw_db_cancel(s->reading);
    event_free(s->timer);
    s->closing = true;
    if (!s->changing) /* else the last answer of the database frees it, which ends after us */
        free(s);
}

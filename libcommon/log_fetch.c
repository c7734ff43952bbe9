#include "libcommon/log_fetch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/ids.h"
#include "libcommon/js_stream.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/service.h"

#define QUEUE_BYTES   (8U << 20)
#define CREDIT        128 /* messages asked for at most */
#define RETRY_MS      100
#define LOOK_MS       500
#define SILENCE_MS    3000
#define CREATE_MS     2000
#define TYPICAL_BYTES 4096 /* of a message, until some have come */

enum state { WAITING, CHECKING, CREATING, RUNNING, FAILED };

struct item {
    struct cw_record record;
    void *memory; /* batch and data */
};

struct cw_log_fetch {
    struct cw_app *app;
    struct cw_log_fetch_config cfg;
    char *created;
    enum state state;
    bool started;
    uint64_t tail; /* last sequence taken in, or the position */
    uint64_t last; /* of the stream */

    struct js_call *check;
    struct cw_bus_request *creating;
    struct cw_bus_sub *sub; /* a new one for each generation */
    char inbox[64], consumer[24];
    uint64_t consumer_seq;
    size_t credit; /* messages that the server may still send */
    bool quiet;    /* gathering: nothing was there when last asked, so the next one is awaited */
    int64_t heard_ms, asked_ms; /* asked: the first time since something was heard */

    struct item *items;
    size_t first, n, cap, bytes, typical_bytes;
    struct event *timer, *notify, *gather;
};

static void begin(struct cw_log_fetch *f);

static void arm(struct cw_log_fetch *f, int64_t ms)
{
    struct timeval t = { ms / 1000, ms % 1000 * 1000 };
    evtimer_add(f->timer, &t);
}

/* Ends the generation; the server forgets its consumer after inactive_threshold. */
static void stop(struct cw_log_fetch *f, enum state state)
{
    js_cancel(&f->check);
    cw_bus_request_cancel(&f->creating);
    cw_bus_unsubscribe(&f->sub);
    evtimer_del(f->timer);
    evtimer_del(f->gather);
    f->credit = 0;
    f->heard_ms = f->asked_ms = 0;
    f->quiet = true;
    f->state = state;
}

static void again(struct cw_log_fetch *f, const char *why)
{
    if (f->state == FAILED)
        return;
    cw_log(CW_DEBUG, "consumer_again", "stream=%s_%u after=%" PRIu64 " why=%s", f->cfg.log,
           f->cfg.partition, f->tail, why);
    stop(f, WAITING);
    arm(f, RETRY_MS);
}

/* The last thing done in a callback: the caller may close the fetch here. */
static void fail(struct cw_log_fetch *f, enum cw_fetch_failure why, const char *fmt, uint64_t a,
                 uint64_t b)
{
    char text[200];
    int n = snprintf(text, sizeof text, "stream %s_%u ", f->cfg.log, f->cfg.partition);
    snprintf(text + n, sizeof text - (size_t)n, fmt, a, b); /* NOLINT: formats of this file */
    stop(f, FAILED);
    f->cfg.failed(why, text, f->cfg.self);
}

/* ---- the queue */

static void push(struct cw_log_fetch *f, const struct cw_bus_msg *msg, uint64_t seq, int64_t ns)
{
    const char *batch = cw_bus_header(msg, "Cw-Batch");
    size_t batch_len = batch ? strlen(batch) + 1 : 0;
    char *memory = cw_malloc(msg->len + batch_len);
    if (f->first + f->n == f->cap) {
        if (f->first && f->first >= f->n) {
            memmove(f->items, f->items + f->first, f->n * sizeof *f->items);
            f->first = 0;
        } else {
            f->cap = f->cap ? f->cap * 2 : CREDIT;
            f->items = cw_realloc(f->items, f->cap * sizeof *f->items);
        }
    }
    if (msg->len)
        memcpy(memory, msg->data, msg->len);
    if (batch)
        memcpy(memory + msg->len, batch, batch_len);
    f->items[f->first + f->n++] = (struct item){
        .record = { .partition = f->cfg.partition,
                    .seq = seq,
                    .stored_ms = ns / 1000000,
                    .batch = batch ? memory + msg->len : NULL,
                    .data = memory,
                    .len = msg->len },
        .memory = memory,
    };
    f->bytes += msg->len;
    f->typical_bytes = (f->typical_bytes * 7 + msg->len) / 8 + 1;
    event_active(f->notify, 0, 0);
}

/* Has n messages sent: as they come, for 5 s; or, at_once, those that are there. */
static void pull(struct cw_log_fetch *f, size_t n, bool at_once)
{
    char subject[96], body[96];
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT.%s_%u.%s", f->cfg.log,
             f->cfg.partition, f->consumer);
    snprintf(body, sizeof body, "{\"batch\":%zu,%s}", n,
             at_once ? "\"no_wait\":true" : "\"expires\":5000000000,\"idle_heartbeat\":1000000000");
    if (f->credit == 0 && f->heard_ms >= f->asked_ms)
        f->asked_ms = cw_mono_ms();
    if (cw_bus_publish(cw_app_bus(f->app), subject, f->inbox, body, strlen(body)) == 0)
        f->credit += n;
    else
        again(f, "not_connected");
}

/* Asks for as many messages as the queue has room for, judged by the size of the last ones. One
 * that gathers asks for what is there once in a while, and while there is nothing for the next. */
static void ask(struct cw_log_fetch *f)
{
    size_t room = f->bytes < f->cfg.max_bytes ? f->cfg.max_bytes - f->bytes : 0;
    size_t want = room / f->typical_bytes + (room > 0);
    want = want > CREDIT ? CREDIT : want;
    if (f->state != RUNNING || f->credit > want / 2 || want == 0)
        return;
    if (!f->cfg.gather_ms)
        pull(f, want - f->credit, false);
    else if (f->credit == 0 && !evtimer_pending(f->gather, NULL)) {
        if (!f->quiet)
            evtimer_add(f->gather, &(struct timeval){ .tv_usec = f->cfg.gather_ms * 1000 });
        pull(f, f->quiet ? 1 : want, !f->quiet);
    }
}

/* The server lowers a request to what is there and does not say so: what is open is not known. */
static void on_gather(evutil_socket_t fd, short what, void *arg)
{
    struct cw_log_fetch *f = arg;
    (void)fd, (void)what;
    f->credit = 0;
    ask(f);
}

/* A message has come: what follows it is asked for later, unless more than asked for was there. */
static void gather(struct cw_log_fetch *f)
{
    if (f->quiet)
        evtimer_add(f->gather, &(struct timeval){ .tv_usec = f->cfg.gather_ms * 1000 });
    else if (f->credit == 0)
        evtimer_del(f->gather);
    f->quiet = false;
    ask(f);
}

/* ---- what the consumer sends */

static void on_status(struct cw_log_fetch *f, const struct cw_bus_msg *msg, const char *status)
{
    const char *left = cw_bus_header(msg, "Nats-Pending-Messages");
    size_t n = left ? strtoull(left, NULL, 10) : 0;
    if (strcmp(status, "100") == 0)
        return;
    bool none = f->cfg.gather_ms && strcmp(status, "404") == 0;
    if (!none && strcmp(status, "408") != 0) {
        again(f, status);
        return;
    }
    if (none) {
        f->quiet = true;
        evtimer_del(f->gather);
        n = f->credit;
    }
    f->credit -= n < f->credit ? n : f->credit;
    ask(f);
}

/* Numbers of $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ts>.<pending> */
static bool read_reply(const char *reply, uint64_t num[5])
{
    for (int dots = 0; reply && dots < 4; dots++) {
        reply = strchr(reply, '.');
        reply += reply != NULL;
    }
    for (int i = 0; i < 5; i++) {
        char *end;
        if (!reply || *reply < '0' || *reply > '9')
            return false;
        num[i] = strtoull(reply, &end, 10);
        reply = *end == '.' ? end + 1 : NULL;
    }
    return true;
}

static void on_msg(const struct cw_bus_msg *msg, void *arg)
{
    struct cw_log_fetch *f = arg;
    uint64_t num[5];
    const char *status = msg->no_responders ? "503" : cw_bus_header(msg, "Status");
    f->heard_ms = cw_mono_ms();
    if (status) {
        on_status(f, msg, status);
        return;
    }
    if (!read_reply(msg->reply, num) || num[2] != f->consumer_seq + 1 || num[1] <= f->tail) {
        again(f, "delivery_hole");
        return;
    }
    if (num[1] != f->tail + 1) {
        fail(f, CW_FETCH_GAP, "lacks the records after %" PRIu64 "; the next one is %" PRIu64,
             f->tail, num[1]);
        return;
    }
    f->consumer_seq++;
    f->tail++;
    f->credit -= f->credit > 0;
    f->last = num[1] + num[4];
    push(f, msg, num[1], (int64_t)num[3]);
    if (f->cfg.gather_ms)
        gather(f);
    else
        ask(f);
}

/* ---- a generation */

static void on_created(int rc, const struct cw_bus_msg *msg, void *arg)
{
    char subject[64];
    struct cw_log_fetch *f = arg;
    f->creating = NULL;
    json_t *root = rc == 0 ? json_loadb(msg->data, msg->len, 0, NULL) : NULL;
    json_t *at = json_object_get(json_object_get(root, "delivered"), "stream_seq");
    bool ok = json_is_integer(at);
    uint64_t seq = (uint64_t)json_integer_value(at);
    json_decref(root);
    if (!ok || seq < f->tail) {
        again(f, "create");
        return;
    }
    if (seq > f->tail) { /* the server moves a start that is gone, and does not say so */
        fail(f, CW_FETCH_GAP, "lacks the records after %" PRIu64 "; the next one is %" PRIu64,
             f->tail, seq + 1);
        return;
    }
    f->state = RUNNING;
    f->consumer_seq = 0;
    cw_bus_inbox(cw_app_bus(f->app), f->inbox, sizeof f->inbox, "f");
    snprintf(subject, sizeof subject, "%s", f->inbox);
    f->sub = cw_bus_subscribe(cw_app_bus(f->app), subject, NULL, on_msg, f);
    arm(f, LOOK_MS);
    ask(f);
}

static void create(struct cw_log_fetch *f)
{
    char subject[96];
    snprintf(f->consumer, sizeof f->consumer, "f");
    cw_random_hex(f->consumer + 1, 16);
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.CREATE.%s_%u.%s", f->cfg.log,
             f->cfg.partition, f->consumer);
    char *body = cw_sprintf("{\"stream_name\":\"%s_%u\",\"config\":{\"name\":\"%s\","
                            "\"deliver_policy\":\"by_start_sequence\",\"opt_start_seq\":%" PRIu64
                            ",\"ack_policy\":\"none\",\"replay_policy\":\"instant\","
                            "\"max_deliver\":-1,\"max_waiting\":16,"
                            "\"inactive_threshold\":30000000000,\"num_replicas\":1,"
                            "\"mem_storage\":true}}",
                            f->cfg.log, f->cfg.partition, f->consumer, f->tail + 1);
    f->state = CREATING;
    f->creating =
        cw_bus_request(cw_app_bus(f->app), subject, body, strlen(body), CREATE_MS, on_created, f);
    free(body);
    if (!f->creating)
        again(f, "not_connected");
}

static void on_checked(int rc, const struct js_info *info, void *arg)
{
    struct cw_log_fetch *f = arg;
    f->check = NULL;
    if (rc != 0) {
        again(f, "no_stream");
        return;
    }
    if (!*f->created) {
        free(f->created);
        f->created = cw_strdup(info->created);
        if (f->tail == 0 &&
            info->first_seq > 0) /* new to this log: what is there is all there is */
            f->tail = info->first_seq - 1;
    }
    if (strcmp(f->created, info->created) != 0) {
        fail(f, CW_FETCH_REPLACED, "is not the one that position %" PRIu64 " was taken in", f->tail,
             0);
        return;
    }
    if (info->last_seq < f->tail) {
        fail(f, CW_FETCH_SHORT, "ends at %" PRIu64 ", below position %" PRIu64, info->last_seq,
             f->tail);
        return;
    }
    f->last = info->last_seq;
    create(f);
    if (f->started)
        return;
    f->started = true;
    if (f->cfg.started)
        f->cfg.started(f->created, f->cfg.self);
}

static void begin(struct cw_log_fetch *f)
{
    stop(f, CHECKING);
    f->check = js_stream_ensure(f->app, f->cfg.log, f->cfg.partition, on_checked, f);
}

static bool silent(const struct cw_log_fetch *f)
{
    int64_t since_ms = f->heard_ms > f->asked_ms ? f->heard_ms : f->asked_ms;
    return f->credit && cw_mono_ms() - since_ms > SILENCE_MS;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct cw_log_fetch *f = arg;
    (void)fd, (void)what;
    if (f->state == WAITING)
        begin(f);
    else if (f->state == RUNNING && silent(f))
        again(f, "silence"); /* a lost consumer is never announced */
    else if (f->state == RUNNING)
        arm(f, LOOK_MS);
}

static void on_notify(evutil_socket_t fd, short what, void *arg)
{
    struct cw_log_fetch *f = arg;
    (void)fd, (void)what;
    if (f->n)
        f->cfg.arrived(f->cfg.self);
}

static void on_bus(bool connected, void *arg)
{
    struct cw_log_fetch *f = arg;
    if (f->state == FAILED)
        return;
    stop(f, WAITING);
    if (connected)
        arm(f, 0);
}

struct cw_log_fetch *cw_log_fetch_open(struct cw_app *app, const struct cw_log_fetch_config *cfg)
{
    struct cw_log_fetch *f = cw_calloc(1, sizeof *f);
    *f =
        (struct cw_log_fetch){ .app = app,
                               .cfg = *cfg,
                               .created = cw_strdup(cfg->stream_created ? cfg->stream_created : ""),
                               .tail = cfg->seq,
                               .typical_bytes = TYPICAL_BYTES };
    f->cfg.max_bytes = cfg->max_bytes ? cfg->max_bytes : QUEUE_BYTES;
    f->cfg.stream_created = f->created;
    f->timer = evtimer_new(cw_app_base(app), on_timer, f);
    f->notify = event_new(cw_app_base(app), -1, 0, on_notify, f);
    f->gather = evtimer_new(cw_app_base(app), on_gather, f);
    cw_bus_watch(cw_app_bus(app), on_bus, f);
    return f;
}

size_t cw_log_fetch_count(const struct cw_log_fetch *f) { return f->n; }

const struct cw_record *cw_log_fetch_at(const struct cw_log_fetch *f, size_t i)
{
    return &f->items[f->first + i].record;
}

void cw_log_fetch_drop(struct cw_log_fetch *f, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct item *it = &f->items[f->first + i];
        f->bytes -= it->record.len;
        free(it->memory);
    }
    f->first += n;
    f->n -= n;
    if (f->n == 0)
        f->first = 0;
    ask(f);
}

uint64_t cw_log_fetch_last(const struct cw_log_fetch *f) { return f->last; }

void cw_log_fetch_close(struct cw_log_fetch **at)
{
    struct cw_log_fetch *f = *at;
    if (!f)
        return;
    *at = NULL;
    stop(f, FAILED);
    cw_bus_unwatch(cw_app_bus(f->app), on_bus, f);
    for (size_t i = 0; i < f->n; i++)
        free(f->items[f->first + i].memory);
    event_free(f->timer);
    event_free(f->notify);
    event_free(f->gather);
    free(f->items);
    free(f->created);
    free(f);
}

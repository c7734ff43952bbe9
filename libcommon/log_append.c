#include "libcommon/log_append.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/js_stream.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/service.h"
#include "libcommon/wire.h"
#include "proto/subjects.h"

#define LINGER_MS     4
#define LINGER_BYTES  (64U << 10)
#define CONFIRM_MS    2000
#define FULL_RETRY_MS 50
#define AWAY_RETRY_MS 100
#define DOUBT_MS      60000
#define BLOCK_BYTES   (4U << 20)
#define UNBLOCK_BYTES (2U << 20)

struct record {
    cw_append_fn *cb;
    void *arg;
    size_t len; /* encoded, with its tag */
};

struct part {
    struct cw_log_append *l;
    uint32_t index;
    struct cw_bus_sub *sub;
    char inbox[64];
    struct js_call *ensure;
    bool stream_ready, full, blocked, crowded;

    struct cw_buf waiting; /* encoded records; those before head have left */
    size_t head;
    struct record *records; /* of waiting, from first on */
    size_t first, n_records, cap_records;

    struct cw_buf flight; /* the batch on its way, the same bytes until it is confirmed */
    struct record *flying;
    size_t n_flying;
    uint64_t n;         /* of the last batch */
    int64_t started_ms; /* when it was first sent */
    int64_t doubt_ms;   /* since when nothing is known about it */
    struct event *timer;

    struct cw_metric *m_full, *m_waiting;
};

struct cw_log_append {
    struct cw_app *app;
    const char *log;
    char writer[80];      /* of Cw-Batch */
    struct cw_buf header; /* field 1 of each batch */
    uint32_t n_parts;
    struct part *parts;
    struct event *tick; /* of all partitions: their batches leave, and are read, together */
    void (*watch)(uint32_t partition, bool blocked, void *arg);
    void *watch_arg;
    struct cw_metric *m_appends, *m_bytes, *m_records, *m_repeats, *m_given_up, *m_confirm;
};

static void try_send(struct part *p);

static void arm(struct part *p, int64_t ms)
{
    struct timeval t = { ms / 1000, ms % 1000 * 1000 };
    evtimer_add(p->timer, &t);
}

static size_t waiting_bytes(const struct part *p) { return p->waiting.len - p->head; }

/* One place decides whether callers should stop reading, and tells them. */
static void judge(struct part *p)
{
    size_t bytes = waiting_bytes(p) + p->flight.len;
    p->crowded = bytes > (p->crowded ? UNBLOCK_BYTES : BLOCK_BYTES);
    bool blocked = p->full || p->crowded || !cw_bus_connected(cw_app_bus(p->l->app));
    cw_metric_set(p->m_waiting, (int64_t)bytes);
    if (blocked == p->blocked)
        return;
    p->blocked = blocked;
    if (p->l->watch)
        p->l->watch(p->index, blocked, p->l->watch_arg);
}

static void set_full(struct part *p, bool full)
{
    if (p->full == full)
        return;
    p->full = full;
    cw_metric_set(p->m_full, full);
    cw_log(CW_WARN, full ? "log_full" : "log_has_room", "log=%s partition=%u", p->l->log, p->index);
}

/* ---- the stream */

static void on_ensured(int rc, const struct js_info *info, void *arg)
{
    static struct cw_log_gate gate;
    struct part *p = arg;
    (void)info;
    p->ensure = NULL;
    p->stream_ready = rc == 0;
    if (js_is_full(rc))
        set_full(p, true);
    if (rc != 0) {
        cw_log_limited(&gate, CW_WARN, "stream_away", "log=%s partition=%u rc=%d", p->l->log,
                       p->index, rc);
        arm(p, AWAY_RETRY_MS);
    }
    try_send(p);
    judge(p);
}

static void ensure(struct part *p)
{
    if (!p->ensure && cw_bus_connected(cw_app_bus(p->l->app)))
        p->ensure = js_stream_ensure(p->l->app, p->l->log, p->index, on_ensured, p);
}

/* ---- the batch in flight */

/* Runs callbacks of records that have been taken off the partition already. */
static void finish(struct record *records, size_t n, int rc)
{
    for (size_t i = 0; records && i < n; i++)
        if (records[i].cb)
            records[i].cb(rc, records[i].arg);
    free(records);
}

static void send_flight(struct part *p)
{
    char subject[32], reply[96], batch[128];
    struct cw_log_append *l = p->l;
    js_subject(subject, sizeof subject, l->log, p->index, NULL);
    snprintf(reply, sizeof reply, "%s.%" PRIu64, p->inbox, p->n);
    snprintf(batch, sizeof batch, "%s.%u.%" PRIu64, l->writer, p->index, p->n);
    const struct cw_header headers[] = { { "Cw-Batch", batch } };
    int rc = cw_bus_publish_headers(cw_app_bus(l->app), subject, reply, headers,
                                    CW_ARRAY_LEN(headers), p->flight.data, p->flight.len);
    if (!p->doubt_ms)
        p->doubt_ms = cw_mono_ms();
    if (rc == 0) {
        cw_metric_add(l->m_appends, 1);
        cw_metric_add(l->m_bytes, (int64_t)p->flight.len);
    }
    arm(p, rc == 0 ? CONFIRM_MS : AWAY_RETRY_MS);
}

/* Moves what fits from waiting to flight: 256 KB, or one larger record alone. */
static void load_flight(struct part *p)
{
    size_t n = 0, bytes = 0;
    struct record *from = p->records + p->first;
    while (n < p->n_records && (n == 0 || bytes + from[n].len <= CW_BATCH_MAX_BYTES))
        bytes += from[n++].len;
    cw_buf_reset(&p->flight);
    cw_buf_add(&p->flight, p->l->header.data, p->l->header.len);
    cw_buf_add(&p->flight, p->waiting.data + p->head, bytes);
    p->flying = cw_memdup(from, n * sizeof *from);
    p->n_flying = n;
    p->first += n;
    p->n_records -= n;
    p->head += bytes;
    if (p->n_records == 0) {
        p->first = p->head = 0;
        cw_buf_reset(&p->waiting);
    }
    p->n++;
    p->started_ms = cw_mono_ms();
    p->doubt_ms = 0;
}

static void await_tick(struct cw_log_append *l, int64_t now_ms)
{
    struct timeval t = { 0, (LINGER_MS - now_ms % LINGER_MS) * 1000 };
    if (!evtimer_pending(l->tick, NULL))
        evtimer_add(l->tick, &t);
}

static void try_send(struct part *p)
{
    if (p->n_flying || !p->n_records || !p->stream_ready ||
        !cw_bus_connected(cw_app_bus(p->l->app)))
        return;
    int64_t now_ms = cw_mono_ms();
    if (waiting_bytes(p) < LINGER_BYTES && now_ms / LINGER_MS == p->started_ms / LINGER_MS) {
        await_tick(p->l, now_ms);
        return;
    }
    load_flight(p);
    send_flight(p);
}

static void confirmed(struct part *p)
{
    struct record *records = p->flying;
    size_t n = p->n_flying;
    cw_metric_observe(p->l->m_confirm, (double)(cw_mono_ms() - p->started_ms));
    cw_metric_add(p->l->m_records, (int64_t)n);
    evtimer_del(p->timer);
    p->flying = NULL;
    p->n_flying = 0;
    cw_buf_reset(&p->flight);
    set_full(p, false);
    try_send(p);
    judge(p);
    finish(records, n, 0);
}

/* Nobody knows whether the batch was stored: it and what waits behind it end here. */
static void give_up(struct part *p)
{
    struct record *flying = p->flying, *waiting = p->records;
    size_t n_flying = p->n_flying, n_waiting = p->n_records, first = p->first;
    cw_log(CW_ERROR, "append_in_doubt", "log=%s partition=%u n=%" PRIu64 " records=%zu", p->l->log,
           p->index, p->n, n_flying + n_waiting);
    cw_metric_add(p->l->m_given_up, (int64_t)(n_flying + n_waiting));
    evtimer_del(p->timer);
    p->flying = p->records = NULL;
    p->n_flying = p->n_records = p->first = p->cap_records = p->head = 0;
    cw_buf_reset(&p->flight);
    cw_buf_reset(&p->waiting);
    judge(p);
    finish(flying, n_flying, -ECANCELED);
    memmove(waiting, waiting + first, n_waiting * sizeof *waiting);
    finish(waiting, n_waiting, -ECANCELED);
}

static void refused(struct part *p, int rc)
{
    static struct cw_log_gate gate;
    if (js_is_full(rc)) { /* a clear answer: not stored, so nothing is in doubt */
        p->doubt_ms = 0;
        set_full(p, true);
    } else
        cw_log_limited(&gate, CW_ERROR, "append_refused", "log=%s partition=%u rc=%d", p->l->log,
                       p->index, rc);
    arm(p, js_is_full(rc) ? FULL_RETRY_MS : AWAY_RETRY_MS);
    judge(p);
}

static void on_ack(const struct cw_bus_msg *msg, void *arg)
{
    struct part *p = arg;
    uint64_t seq;
    if (!p->n_flying)
        return;
    if (msg->no_responders) { /* the stream is not up yet, or gone: the server does not say whose */
        p->stream_ready = false;
        arm(p, AWAY_RETRY_MS);
        return;
    }
    const char *dot = strrchr(msg->subject, '.');
    if (!dot || strtoull(dot + 1, NULL, 10) != p->n)
        return; /* the second answer to a repeated batch */
    int rc = js_ack(msg->data, msg->len, &seq);
    if (rc == 0)
        confirmed(p);
    else
        refused(p, rc);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct part *p = arg;
    (void)fd, (void)what;
    if (p->n_flying && p->doubt_ms && cw_mono_ms() - p->doubt_ms >= DOUBT_MS) {
        give_up(p);
        return;
    }
    if (!p->stream_ready)
        ensure(p);
    if (p->n_flying) {
        cw_metric_add(p->l->m_repeats, 1);
        send_flight(p);
    } else
        try_send(p);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct cw_log_append *l = arg;
    (void)fd, (void)what;
    for (uint32_t i = 0; i < l->n_parts; i++)
        try_send(&l->parts[i]);
}

static void on_bus(bool connected, void *arg)
{
    struct cw_log_append *l = arg;
    for (uint32_t i = 0; i < l->n_parts; i++) {
        struct part *p = &l->parts[i];
        if (connected) {
            if (!p->stream_ready)
                ensure(p);
            if (p->n_flying)
                send_flight(p);
            else
                try_send(p);
        }
        judge(p);
    }
}

/* ---- the module */

static void part_open(struct cw_log_append *l, uint32_t i)
{
    char text[96];
    struct part *p = &l->parts[i];
    struct cw_bus *bus = cw_app_bus(l->app);
    *p = (struct part){ .l = l, .index = i };
    p->timer = evtimer_new(cw_app_base(l->app), on_timer, p);
    cw_bus_inbox(bus, p->inbox, sizeof p->inbox, "a");
    snprintf(text, sizeof text, "%s.*", p->inbox);
    p->sub = cw_bus_subscribe(bus, text, NULL, on_ack, p);
    snprintf(text, sizeof text, "log=\"%s\",partition=\"%u\"", l->log, i);
    p->m_full = cw_gauge("causeway_log_full", text, "1 while the partition takes no more");
    p->m_waiting = cw_gauge("causeway_log_append_waiting_bytes", text, "bytes not confirmed yet");
}

struct cw_log_append *cw_log_append_open(struct cw_app *app, const char *log)
{
    static unsigned opened;
    char text[32];
    struct cw_log_append *l = cw_calloc(1, sizeof *l);
    l->app = app;
    l->log = log;
    /* batches are counted per writer: a second one in this process needs a name of its own */
    if (opened)
        snprintf(text, sizeof text, "-%u", opened);
    snprintf(l->writer, sizeof l->writer, "%s%s", cw_app_instance(app), opened ? text : "");
    opened++;
    wire_put(&l->header, WIRE_BATCH_GATEWAY, cw_app_instance(app), strlen(cw_app_instance(app)));
    snprintf(text, sizeof text, "log=\"%s\"", log);
    l->m_appends = cw_counter("causeway_log_appends_total", text, "batches sent");
    l->m_bytes = cw_counter("causeway_log_append_bytes_total", text, "bytes of batches sent");
    l->m_records = cw_counter("causeway_log_records_total", text, "records confirmed");
    l->m_repeats = cw_counter("causeway_log_repeats_total", text, "batches sent again");
    l->m_given_up = cw_counter("causeway_log_in_doubt_total", text, "records given up in doubt");
    l->m_confirm = cw_histogram_ms("causeway_log_confirm_ms", text, "from sending to stored");
    l->tick = evtimer_new(cw_app_base(app), on_tick, l);
    l->n_parts = cw_app_partitions(app);
    l->parts = cw_calloc(l->n_parts, sizeof *l->parts);
    for (uint32_t i = 0; i < l->n_parts; i++)
        part_open(l, i);
    cw_bus_watch(cw_app_bus(app), on_bus, l);
    return l;
}

void cw_log_append(struct cw_log_append *l, uint32_t partition, const void *packed, size_t len,
                   cw_append_fn *cb, void *arg)
{
    struct part *p = &l->parts[partition];
    size_t before = p->waiting.len;
    if (p->first + p->n_records == p->cap_records) {
        if (p->first > p->n_records) {
            memmove(p->records, p->records + p->first, p->n_records * sizeof *p->records);
            memmove(p->waiting.data, p->waiting.data + p->head, waiting_bytes(p));
            p->waiting.len = before = waiting_bytes(p);
            p->first = p->head = 0;
        } else {
            p->cap_records = p->cap_records ? p->cap_records * 2 : 64;
            p->records = cw_realloc(p->records, p->cap_records * sizeof *p->records);
        }
    }
    wire_put(&p->waiting, WIRE_BATCH_RECORD, packed, len);
    p->records[p->first + p->n_records++] =
        (struct record){ .cb = cb, .arg = arg, .len = p->waiting.len - before };
    try_send(p);
    judge(p);
}

bool cw_log_append_blocked(const struct cw_log_append *l, uint32_t partition)
{
    return l->parts[partition].blocked;
}

void cw_log_append_watch(struct cw_log_append *l,
                         void (*cb)(uint32_t partition, bool blocked, void *arg), void *arg)
{
    l->watch = cb;
    l->watch_arg = arg;
}

size_t cw_log_append_waiting(const struct cw_log_append *l, uint32_t partition)
{
    return waiting_bytes(&l->parts[partition]) + l->parts[partition].flight.len;
}

static void part_close(struct part *p)
{
    struct record *waiting = p->records;
    js_cancel(&p->ensure);
    cw_bus_unsubscribe(&p->sub);
    event_free(p->timer);
    cw_buf_free(&p->flight);
    cw_buf_free(&p->waiting);
    finish(p->flying, p->n_flying, -ECANCELED);
    if (waiting)
        memmove(waiting, waiting + p->first, p->n_records * sizeof *waiting);
    finish(waiting, p->n_records, -ECANCELED);
}

void cw_log_append_close(struct cw_log_append **at)
{
    struct cw_log_append *l = *at;
    if (!l)
        return;
    *at = NULL;
    cw_bus_unwatch(cw_app_bus(l->app), on_bus, l);
    for (uint32_t i = 0; i < l->n_parts; i++)
        part_close(&l->parts[i]);
    event_free(l->tick);
    cw_buf_free(&l->header);
    free(l->parts);
    free(l);
}

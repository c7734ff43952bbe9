/* logs_ledger.h - the equation of the log tests: what was appended is what is in the table and on
 * EVENT, once and in order, and what was stated in the outbox is on EVENT.
 *
 * start() and stop() are the group's; the reader is the daemon of logs_daemon.h. */
#pragma once

#include "libcommon/log_append.h"
#include "libcommon/log_fetch.h"
#include "tests/unit/logs_fixture.h"

#include "tests/unit/logs_daemon.h"

#define PARTITIONS 4

static const char *program;
static struct cw_log_append *l;
static long appended, stored;

static inline void on_stored(int rc, void *arg)
{
    (void)arg;
    stored += rc == 0;
}

/* Record `number` of the partition number % PARTITIONS. */
static inline void append(const char *topic)
{
    Causeway__Uplink up = CAUSEWAY__UPLINK__INIT;
    uint8_t packed[256];
    up.session_no = ++appended;
    up.topic = (char *)topic;
    cw_log_append(l, (uint32_t)(appended % PARTITIONS), packed, causeway__uplink__pack(&up, packed),
                  on_stored, NULL);
}

static inline void append_many(long n)
{
    for (long i = 0; i < n; i++) {
        append("good");
        if (i % 7 == 0)
            turn();
    }
}

/* ---- EVENT, as its readers see it */

struct lane {
    struct cw_log_fetch *f;
    int64_t last, last_fact;
    long events, facts, wrong;
};
static struct lane lanes[PARTITIONS];

static inline void take_events(struct lane *e, const struct cw_record *r)
{
    Causeway__EventBatch *b = causeway__event_batch__unpack(NULL, r->len, r->data);
    assert_non_null(b);
    for (size_t i = 0; i < b->n_events; i++) {
        int64_t *last = b->events[i]->kind ? &e->last_fact : &e->last;
        e->wrong += b->events[i]->device_key <= *last;
        *last = b->events[i]->device_key;
        e->facts += b->events[i]->kind != 0;
        e->events += b->events[i]->kind == 0;
    }
    causeway__event_batch__free_unpacked(b, NULL);
}

static inline void on_arrived(void *self)
{
    struct lane *e = self;
    for (; cw_log_fetch_count(e->f); cw_log_fetch_drop(e->f, 1))
        take_events(e, cw_log_fetch_at(e->f, 0));
}

static inline void on_failed(enum cw_fetch_failure why, const char *text, void *self)
{
    (void)self;
    fail_msg("fetch failed: %d %s", why, text);
}

static inline long events(void)
{
    long n = 0;
    for (int i = 0; i < PARTITIONS; i++)
        n += lanes[i].events;
    return n;
}

static inline long facts(void)
{
    long n = 0;
    for (int i = 0; i < PARTITIONS; i++)
        n += lanes[i].facts;
    return n;
}

/* Input, table and output agree: each record once, in the order of its partition. */
static inline void expect_all(long bad)
{
    int64_t look_ms = 0;
    UNTIL(stored == appended);
    UNTIL(events() >= appended - bad);
    while (pg_ask("SELECT count(*) FROM t.item") < appended - bad) {
        assert_true(look_ms++ < 3000);
        turn();
    }
    for (int i = 0; i < 20; i++) /* what would be too much had time to come */
        turn();
    assert_int_equal(events(), appended - bad);
    assert_int_equal(pg_ask("SELECT count(*) FROM t.item"), appended - bad);
    assert_int_equal(pg_ask("SELECT count(DISTINCT number) FROM t.item"), appended - bad);
    assert_int_equal(pg_ask("SELECT count(*) FROM (SELECT number < lag(number) OVER (PARTITION BY "
                            "partition ORDER BY id) AS wrong FROM t.item) x WHERE wrong"),
                     0);
    for (int i = 0; i < PARTITIONS; i++)
        assert_int_equal(lanes[i].wrong, 0);
    assert_int_equal(pg_ask("SELECT sum(totals[1]) FROM t.position"), appended - bad);
}

static inline void end_with(pid_t pid, int signal)
{
    int status;
    kill(pid, signal);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (signal == SIGTERM)
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static inline int start(void **state)
{
    (void)state;
    nats_start(&nats);
    pg_start(&pg);
    pg_do(SORTER_SCHEMA);
    app_up(PARTITIONS);
    l = cw_log_append_open(&app, CW_LOG_UPLINK);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        lanes[i].f = cw_log_fetch_open(&app, &(struct cw_log_fetch_config){ .log = CW_LOG_EVENT,
                                                                            .partition = i,
                                                                            .self = &lanes[i],
                                                                            .arrived = on_arrived,
                                                                            .failed = on_failed });
    }
    return 0;
}

static inline int stop(void **state)
{
    (void)state;
    for (int i = 0; i < PARTITIONS; i++)
        cw_log_fetch_close(&lanes[i].f);
    cw_log_append_close(&l);
    app_down();
    server_end(&nats);
    server_end(&pg);
    return 0;
}

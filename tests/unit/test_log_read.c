/* A reader group against real servers: kills, takeovers, poison, outbox. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "libcommon/log_append.h"
#include "libcommon/log_fetch.h"
#include "tests/unit/logs_fixture.h"

#include "tests/unit/logs_daemon.h"

#define PARTITIONS 4

static const char *program;
static struct cw_log_append *l;
static long appended, stored, quarantined_before;

static void on_stored(int rc, void *arg)
{
    (void)arg;
    stored += rc == 0;
}

/* Record `number` of the partition number % PARTITIONS. */
static void append(const char *topic)
{
    Causeway__Uplink up = CAUSEWAY__UPLINK__INIT;
    uint8_t packed[256];
    up.session_no = ++appended;
    up.topic = (char *)topic;
    cw_log_append(l, (uint32_t)(appended % PARTITIONS), packed, causeway__uplink__pack(&up, packed),
                  on_stored, NULL);
}

static void append_many(long n)
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

static void take_events(struct lane *e, const struct cw_record *r)
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

static void on_arrived(void *self)
{
    struct lane *e = self;
    for (; cw_log_fetch_count(e->f); cw_log_fetch_drop(e->f, 1))
        take_events(e, cw_log_fetch_at(e->f, 0));
}

static void on_failed(enum cw_fetch_failure why, const char *text, void *self)
{
    (void)self;
    fail_msg("fetch failed: %d %s", why, text);
}

static long events(void)
{
    long n = 0;
    for (int i = 0; i < PARTITIONS; i++)
        n += lanes[i].events;
    return n;
}

static long facts(void)
{
    long n = 0;
    for (int i = 0; i < PARTITIONS; i++)
        n += lanes[i].facts;
    return n;
}

/* Input, table and output agree: each record once, in the order of its partition. */
static void expect_all(long bad)
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

static void end_with(pid_t pid, int signal)
{
    int status;
    kill(pid, signal);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (signal == SIGTERM)
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int start(void **state)
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

static int stop(void **state)
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

static void a_record_is_one_row_and_one_event(void **state)
{
    (void)state;
    pid_t a = sorter_run(program, 1, PARTITIONS, NULL);
    append_many(2000);
    expect_all(0);
    end_with(a, SIGTERM);
    assert_int_equal(pg_ask("SELECT count(*) FROM t.position WHERE suspect IS NULL"), PARTITIONS);
}

static void two_share_and_one_is_killed(void **state)
{
    (void)state;
    pid_t a = sorter_run(program, 1, PARTITIONS, NULL),
          b = sorter_run(program, 2, PARTITIONS, NULL);
    UNTIL(pg_ask("SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND objid < "
                 "1000000") == 2);
    append_many(1000);
    end_with(a, SIGKILL);
    append_many(1000);
    expect_all(0);
    end_with(b, SIGTERM);
}

static void a_stopped_owner_is_taken_over_and_does_no_harm_when_it_wakes(void **state)
{
    (void)state;
    pid_t a = sorter_run(program, 1, PARTITIONS, NULL),
          b = sorter_run(program, 2, PARTITIONS, NULL);
    UNTIL(pg_ask("SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND objid < "
                 "1000000") == 2);
    append_many(300);
    kill(a, SIGSTOP);
    append_many(600);
    expect_all(0); /* within the 30 s of UNTIL */
    kill(a, SIGCONT);
    append_many(600);
    expect_all(0);
    end_with(a, SIGTERM);
    end_with(b, SIGTERM);
}

static void servers_may_be_killed(void **state)
{
    (void)state;
    pid_t a = sorter_run(program, 1, PARTITIONS, NULL);
    append_many(500);
    server_kill(&nats);
    append_many(100);
    nats_run(&nats);
    append_many(500);
    server_kill(&pg);
    append_many(100);
    pg_run(&pg);
    append_many(500);
    expect_all(0);
    end_with(a, SIGTERM);
}

static void what_the_database_refuses_is_alone_in_quarantine(void **state)
{
    (void)state;
    long bad = 3;
    append_many(200);
    for (int i = 0; i < 800; i++) /* in one turn of the loop: they share messages */
        append(i == 401 || i == 550 || i == 551 ? "bad" : "good");
    append_many(50);
    UNTIL(stored == appended);
    pid_t a = sorter_run(program, 1, PARTITIONS, NULL);
    expect_all(bad);
    assert_int_equal(pg_ask("SELECT count(*) FROM t.quarantine"), bad);
    assert_int_equal(pg_ask("SELECT count(*) FROM t.quarantine WHERE reason LIKE '23514%' AND "
                            "length(data) < 60"),
                     bad);
    quarantined_before = bad;
    end_with(a, SIGTERM);
}

static void facts_of_the_outbox_go_out_once_in_every_gap(void **state)
{
    (void)state;
    static const char *const gaps[] = { "outbox_before_append", "outbox_after_append",
                                        "outbox_after_commit" };
    for (size_t g = 0; g < CW_ARRAY_LEN(gaps); g++) {
        int status;
        pg_do("DO $$ BEGIN FOR i IN 1..50 LOOP INSERT INTO t.outbox (partition, event) SELECT p, "
              "'\\x0806'::bytea || '\\x20'::bytea || CASE WHEN n < 128 THEN set_byte('\\x00', 0, "
              "n::int) ELSE set_byte('\\x00', 0, (n % 128 + 128)::int) || set_byte('\\x00', 0, (n "
              "/ 128)::int) END FROM (SELECT i % 4 AS p, nextval('t.fact') AS n) x; END LOOP; END "
              "$$");
        pid_t a = sorter_run(program, 1, PARTITIONS, gaps[g]);
        assert_int_equal(waitpid(a, &status, 0), a);
        assert_true(WIFSIGNALED(status));
    }
    pid_t a = sorter_run(program, 1, PARTITIONS, NULL);
    UNTIL(facts() >= 150 && pg_ask("SELECT count(*) FROM t.outbox") == 0);
    append_many(40);
    expect_all(quarantined_before);
    assert_int_equal(facts(), 150);
    end_with(a, SIGTERM);
}

int main(int argc, char **argv)
{
    if (getenv("TEST_DAEMON"))
        return sorter_main(argc, argv);
    program = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_is_one_row_and_one_event),
        cmocka_unit_test(two_share_and_one_is_killed),
        cmocka_unit_test(a_stopped_owner_is_taken_over_and_does_no_harm_when_it_wakes),
        cmocka_unit_test(servers_may_be_killed),
        cmocka_unit_test(what_the_database_refuses_is_alone_in_quarantine),
        cmocka_unit_test(facts_of_the_outbox_go_out_once_in_every_gap),
    };
    cmocka_set_test_filter(getenv("TEST_ONLY")); /* a pattern, for a person */
    return cmocka_run_group_tests_name("log_read", tests, start, stop);
}

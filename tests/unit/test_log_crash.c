/* A reader that is ended 200 times at each point where an end could double or lose something. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/logs_ledger.h"

#define DEATHS  200
#define BACKLOG 40 /* records or facts that wait at most: lives stay short */

static PGconn *application;
static long stated; /* facts */

static int start_all(void **state)
{
    char conninfo[128];
    int rc = start(state);
    pg_do(
        "CREATE FUNCTION t.fact_event(n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT "
        "'\\x080620'::bytea || set_byte(set_byte(set_byte('\\x000000', 0, (n & 127)::int | 128), "
        "1, (n >> 7 & 127)::int | 128), 2, (n >> 14)::int) $$");
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=postgres dbname=postgres",
             pg.port);
    application = PQconnectdb(conninfo);
    return rc;
}

static int stop_all(void **state)
{
    PQfinish(application);
    return stop(state);
}

static void feed_records(void)
{
    for (int i = 0; i < 8 && appended - events() < BACKLOG; i++)
        append("good");
}

/* What an application changes: the row is there when the change is. */
static void feed_facts(void)
{
    if (stated - facts() >= BACKLOG)
        return;
    PGresult *res = PQexec(application, "INSERT INTO t.outbox (partition, event) SELECT n % 4, "
                                        "t.fact_event(n) FROM (SELECT nextval('t.fact') AS n FROM "
                                        "generate_series(1, 8)) x");
    assert_int_equal(PQresultStatus(res), PGRES_COMMAND_OK);
    PQclear(res);
    stated += 8;
    cw_bus_publish(app.bus, "wake.sorter.0", NULL, "", 0); /* else it looks once a second */
}

/* One life, fed until it is over. */
static void live_and_die(const char *point, void (*feed)(void))
{
    int status;
    int64_t limit_ms = cw_mono_ms() + 30000;
    pid_t pid = sorter_run(program, 1, PARTITIONS, point);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        assert_true(cw_mono_ms() < limit_ms);
        feed();
        turn();
    }
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void die_often(const char *point, void (*feed)(void))
{
    int64_t begun_ms = cw_mono_ms();
    long first = appended + stated;
    for (int death = 0; death < DEATHS; death++)
        live_and_die(point, feed);
    pid_t last = sorter_run(program, 1, PARTITIONS, NULL);
    append_many(40);
    expect_all(0);
    UNTIL(facts() >= stated && pg_ask("SELECT count(*) FROM t.outbox") == 0);
    assert_int_equal(facts(), stated);
    assert_int_equal(pg_ask("SELECT count(*) FROM t.quarantine"), 0);
    assert_true(appended + stated - first > DEATHS); /* the lives were not idle */
    end_with(last, SIGTERM);
    print_message("%s: %d deaths, %ld records and facts, %" PRId64 " ms\n", point, DEATHS,
                  appended + stated - first, cw_mono_ms() - begun_ms);
}

static void before_the_append(void **state)
{
    (void)state;
    die_often("before_append:~3", feed_records);
}

static void between_append_and_commit(void **state)
{
    (void)state;
    die_often("after_append_before_commit:~3", feed_records);
}

static void after_the_commit(void **state)
{
    (void)state;
    die_often("after_commit:~3", feed_records);
}

static void outbox_between_commit_and_append(void **state)
{
    (void)state;
    die_often("outbox_before_append:~3", feed_facts);
}

static void outbox_between_append_and_delete(void **state)
{
    (void)state;
    die_often("outbox_after_append:~3", feed_facts);
}

static void outbox_after_the_delete(void **state)
{
    (void)state;
    die_often("outbox_after_commit:~3", feed_facts);
}

int main(int argc, char **argv)
{
    if (getenv("TEST_DAEMON"))
        return sorter_main(argc, argv);
    program = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_the_append),
        cmocka_unit_test(between_append_and_commit),
        cmocka_unit_test(after_the_commit),
        cmocka_unit_test(outbox_between_commit_and_append),
        cmocka_unit_test(outbox_between_append_and_delete),
        cmocka_unit_test(outbox_after_the_delete),
    };
    cmocka_set_test_filter(getenv("TEST_ONLY")); /* a pattern, for a person */
    return cmocka_run_group_tests_name("log_crash", tests, start_all, stop_all);
}

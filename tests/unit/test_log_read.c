/* A reader group against real servers: kills, takeovers, poison. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/logs_ledger.h"

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
    child_freeze(a);
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
    };
    cmocka_set_test_filter(getenv("TEST_ONLY")); /* a pattern, for a person */
    return cmocka_run_group_tests_name("log_read", tests, start, stop);
}

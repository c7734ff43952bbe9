/* The database module against a real PostgreSQL. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <event2/event.h>

#include "libcommon/clock.h"
#include "libcommon/db.h"
#include "libcommon/log.h"
#include "tests/unit/servers.h"
#include "tests/unit/until.h"

static struct server pg;
static struct event_base *base;
static struct cw_db *db;
static int made, lost;

static void on_change(bool connected, void *arg)
{
    (void)arg;
    connected ? made++ : lost++;
}

static int start(void **state)
{
    char conninfo[128];
    (void)state;
    cw_log_setup("test", CW_ERROR);
    base = event_base_new();
    pg_start(&pg);
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=postgres dbname=postgres",
             pg.port);
    db = cw_db_open(base, conninfo, "test");
    cw_db_watch(db, on_change, NULL);
    run_until(base, &made, 1);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    cw_db_close(&db);
    assert_null(db);
    event_base_free(base);
    server_end(&pg);
    return 0;
}

struct got {
    int n;
    enum cw_db_outcome outcome;
    char state[6], text[64];
    int64_t number;
};

static void on_result(PGresult *res, void *arg)
{
    struct got *g = arg;
    g->n++;
    g->outcome = cw_db_outcome(res);
    snprintf(g->state, sizeof g->state, "%s", cw_db_sqlstate(res));
    g->text[0] = '\0';
    if (g->outcome == CW_DB_OK && PQntuples(res) == 1) {
        const char *text = cw_db_str(res, 0, "text");
        snprintf(g->text, sizeof g->text, "%s", text ? text : "NULL");
        g->number = cw_db_i64(res, 0, "number", -1);
    }
}

static const struct cw_stmt both = { "both", "SELECT $1::text AS text, $2::bigint AS number" };
static const struct cw_stmt divide = { "divide", "SELECT 1 / $1::int AS number" };
static const struct cw_stmt no_table = { "no_table", "SELECT * FROM nowhere" };

static void statements_are_answered_in_order_and_one_error_spoils_no_other(void **state)
{
    (void)state;
    char num[24];
    struct got a = { 0 }, bad = { 0 }, bug = { 0 }, b = { 0 };
    const struct cw_db_param par[] = { CW_TEXT("lamp"), cw_db_int(-42, num) };
    const struct cw_db_param null[] = { CW_NULL, CW_NULL };
    assert_non_null(cw_db_exec(db, &both, 2, par, on_result, &a));
    assert_non_null(cw_db_exec(db, &divide, 1, &CW_TEXT("0"), on_result, &bad));
    assert_non_null(cw_db_exec(db, &no_table, 0, NULL, on_result, &bug));
    assert_non_null(cw_db_exec(db, &both, 2, null, on_result, &b));
    assert_int_equal(cw_db_waiting(db), 4);
    run_until(base, &b.n, 1);
    assert_int_equal(a.n + bad.n + bug.n, 3);
    assert_string_equal(a.text, "lamp");
    assert_int_equal(a.number, -42);
    assert_int_equal(bad.outcome, CW_DB_REFUSED);
    assert_string_equal(bad.state, "22012");
    assert_int_equal(bug.outcome, CW_DB_BUG);
    assert_string_equal(bug.state, "42P01");
    assert_string_equal(b.text, "NULL");
    assert_int_equal(b.number, -1);
    assert_int_equal(cw_db_waiting(db), 0);
}

static const struct cw_stmt never = { "never", "SELECT never" };

/* What a callback sends goes to the server between an error and the end of its statement. */
static void on_error(PGresult *res, void *arg)
{
    struct got *g = arg;
    on_result(res, &g[0]);
    cw_db_query(db, "ROLLBACK", on_result, &g[1]);
    cw_db_exec(db, &both, 2, (const struct cw_db_param[]){ CW_TEXT("after"), CW_TEXT("7") },
               on_result, &g[2]);
}

static void a_callback_may_send_when_its_statement_has_failed(void **state)
{
    static const struct cw_stmt *const fails[] = { &divide, &never };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(fails); i++) {
        struct got begin = { 0 }, g[3] = { 0 };
        cw_db_query(db, "BEGIN", on_result, &begin);
        cw_db_exec(db, fails[i], fails[i] == &divide, &CW_TEXT("0"), on_error, g);
        run_until(base, &g[2].n, 1);
        assert_int_equal(g[0].n, 1);
        assert_int_equal(g[1].outcome, CW_DB_OK);
        assert_string_equal(g[2].text, "after");
        assert_int_equal(cw_db_waiting(db), 0);
    }
}

static void a_statement_that_could_not_be_prepared_is_tried_again(void **state)
{
    (void)state;
    struct got g = { 0 };
    cw_db_exec(db, &no_table, 0, NULL, on_result, &g);
    cw_db_query(db, "CREATE TABLE nowhere AS SELECT 'here' AS text, 5 AS number", on_result, &g);
    run_until(base, &g.n, 2);
    cw_db_exec(db, &no_table, 0, NULL, on_result, &g);
    run_until(base, &g.n, 3);
    assert_string_equal(g.text, "here");
}

static const struct cw_stmt rows = {
    "rows", "SELECT string_agg(coalesce(t, '-') || i || encode(b, 'hex') || f, ',') AS text, "
            "sum(n) AS number "
            "FROM unnest($1::text[], $2::int[], $3::bytea[], $4::bigint[], $5::bool[]) "
            "AS x(t, i, b, n, f)"
};

static void arrays_travel_in_binary(void **state)
{
    (void)state;
    struct got g = { 0 };
    struct cw_db_array a[5] = { 0 };
    struct cw_db_param par[5];
    static const enum cw_array_type types[] = { CW_ARRAY_TEXT, CW_ARRAY_INT4, CW_ARRAY_BYTEA,
                                                CW_ARRAY_INT8, CW_ARRAY_BOOL };
    for (int round = 0; round < 2; round++) { /* the second one finds used memory */
        for (size_t i = 0; i < 5; i++)
            cw_db_array_reset(&a[i], types[i]);
        for (int i = 0; i < 2; i++) {
            cw_db_array_str(&a[0], i ? "lamp" : NULL);
            cw_db_array_int(&a[1], i - 1);
            cw_db_array_bytes(&a[2], "\0\xff", 2);
            cw_db_array_int(&a[3], 1LL << 40);
            cw_db_array_int(&a[4], i);
        }
        for (size_t i = 0; i < 5; i++)
            par[i] = cw_db_array_param(&a[i]);
        cw_db_exec(db, &rows, 5, par, on_result, &g);
        run_until(base, &g.n, round + 1);
        assert_string_equal(g.text, "--100fffalse,lamp000fftrue");
        assert_true(g.number == 1LL << 41);
    }
    for (size_t i = 0; i < 5; i++) {
        cw_db_array_reset(&a[i], types[i]);
        par[i] = cw_db_array_param(&a[i]);
    }
    cw_db_exec(db, &rows, 5, par, on_result, &g);
    run_until(base, &g.n, 3);
    assert_string_equal(g.text, "NULL");
    for (size_t i = 0; i < 5; i++)
        cw_db_array_free(&a[i]);
}

static void a_transaction_may_be_pipelined_and_fails_as_one(void **state)
{
    (void)state;
    struct got g[5] = { 0 };
    cw_db_query(db, "CREATE TABLE once (n int PRIMARY KEY)", on_result, &g[4]);
    cw_db_query(db, "BEGIN", on_result, &g[0]);
    cw_db_query(db, "INSERT INTO once VALUES (1), (1)", on_result, &g[1]);
    cw_db_exec(db, &divide, 1, &CW_TEXT("1"), on_result, &g[2]);
    cw_db_query(db, "COMMIT", on_result, &g[3]);
    run_until(base, &g[3].n, 1);
    assert_int_equal(g[1].outcome, CW_DB_REFUSED);
    assert_string_equal(g[2].state, "25P02");
    assert_int_equal(g[2].outcome, CW_DB_RETRY);
    cw_db_query(db, "SELECT count(*) AS number, '' AS text FROM once", on_result, &g[4]);
    run_until(base, &g[4].n, 2);
    assert_int_equal(g[4].number, 0);
}

static void a_cancelled_statement_stays_silent(void **state)
{
    (void)state;
    struct got silent = { 0 }, g = { 0 };
    cw_db_cancel(cw_db_query(db, "SELECT 1", on_result, &silent));
    cw_db_query(db, "SELECT 1", on_result, &g);
    run_until(base, &g.n, 1);
    assert_int_equal(silent.n, 0);
}

static void a_killed_server_fails_what_waits_and_is_found_again(void **state)
{
    (void)state;
    char num[24];
    struct got waiting = { 0 }, g = { 0 };
    const struct cw_db_param par[] = { CW_TEXT("back"), cw_db_int(1, num) };
    int made_before = made;
    cw_db_query(db, "SELECT pg_sleep(60)", on_result, &waiting);
    server_kill(&pg);
    run_until(base, &waiting.n, 1);
    assert_int_equal(waiting.outcome, CW_DB_RETRY);
    assert_int_equal(lost, 1);
    assert_false(cw_db_connected(db));
    assert_null(cw_db_exec(db, &both, 2, par, on_result, &g));
    pg_run(&pg);
    run_until(base, &made, made_before + 1);
    assert_non_null(cw_db_exec(db, &both, 2, par, on_result, &g)); /* prepared anew */
    run_until(base, &g.n, 1);
    assert_string_equal(g.text, "back");
}

static void a_reset_drops_the_connection_and_makes_another(void **state)
{
    (void)state;
    int made_before = made, pid = cw_db_backend_pid(db);
    cw_db_reset(db);
    run_until(base, &made, made_before + 1);
    assert_int_not_equal(cw_db_backend_pid(db), pid);
}

static void each_connection_plans_for_indexes_in_memory(void **state)
{
    static const struct cw_stmt show = {
        "cost", "SELECT current_setting('random_page_cost') AS text, 0 AS number"
    };
    struct got g = { 0 };
    int made_before = made;
    (void)state;
    cw_db_reset(db);
    run_until(base, &made, made_before + 1);
    assert_non_null(cw_db_exec(db, &show, 0, NULL, on_result, &g));
    run_until(base, &g.n, 1);
    assert_string_equal(g.text, "1.1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statements_are_answered_in_order_and_one_error_spoils_no_other),
        cmocka_unit_test(a_callback_may_send_when_its_statement_has_failed),
        cmocka_unit_test(a_statement_that_could_not_be_prepared_is_tried_again),
        cmocka_unit_test(arrays_travel_in_binary),
        cmocka_unit_test(a_transaction_may_be_pipelined_and_fails_as_one),
        cmocka_unit_test(a_cancelled_statement_stays_silent),
        cmocka_unit_test(a_killed_server_fails_what_waits_and_is_found_again),
        cmocka_unit_test(a_reset_drops_the_connection_and_makes_another),
        cmocka_unit_test(each_connection_plans_for_indexes_in_memory),
    };
    return cmocka_run_group_tests_name("db", tests, start, stop);
}

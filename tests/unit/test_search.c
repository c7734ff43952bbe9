/* The search language for devices: what is read, what is refused and where, which query is made.
 * links: services/device-registry/search_read.c services/device-registry/search_sql.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/device-registry/search.h"

#define FROM "select * from device "

static void statements(void **state)
{
    (void)state;
    static const struct {
        const char *text, *fault; /* NULL: it is read */
    } rows[] = {
        { "select * from device", NULL },
        { "  SELECT  device_id ,status\nFROM\tDevice  ;", NULL },
        { "select count(*) from device", NULL },
        { "select count ( 1 ) from device where status='x'", NULL },
        { FROM "where device_name like 'abcd%' or tag_key != 'a' order by marker limit 500, 50",
          NULL },
        { FROM "where device_id not in ('a','b') order by marker desc", NULL },
        { FROM "where device_name = 'it''s'", NULL },
        { "", "at character 1 the text ends: expected select" },
        { "select", "at character 7 the text ends: expected *, count(*) or names of fields" },
        { "select count(2) from device", "at character 14 \"2)\": expected count(*) or count(1)" },
        { "select * from devices", "at character 15 \"devices\": expected from device" },
        { FROM "wher status = 'x'",
          "at character 22 \"wher\": expected where, order by, limit or the end" },
        { FROM "where status", "at character 34 the text ends: expected =, !=, in, not in" },
        { FROM "where status like 'abcd%'",
          "at character 35 \"like\": expected =, !=, in, not in" },
        { FROM "where status = \"x\"",
          "at character 37 \"\"x\"\": expected a value in single quotes" },
        { FROM "where status = 'x",
          "at character 37 \"'x\": expected a closing quote behind this value" },
        { FROM "where status in ('x',",
          "at character 43 the text ends: expected a value in single quotes" },
        { FROM "where status in ('x'", "at character 42 the text ends: expected , or )" },
        { FROM "where status = 'x' and", "at character 44 the text ends: expected a field: " },
        { FROM "limit 51", "at character 28 \"51\": expected 50 rows at most" },
        { FROM "limit 3, 51", "at character 31 \"51\": expected rows, a number up to 50" },
        { FROM "limit -1",
          "at character 28 \"-1\": expected rows, or an offset and rows, a number up to 500" },
        { FROM "order by marker x",
          "at character 38 \"x\": expected where, order by, limit or the end" },
    };
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        bool is_read = search_read(&s, rows[i].text, fault);
        if (is_read != !rows[i].fault)
            fail_msg("%s: %s", rows[i].text, is_read ? "is read" : fault);
        if (!is_read && strncmp(fault, rows[i].fault, strlen(rows[i].fault)) != 0)
            fail_msg("%s: %s", rows[i].text, fault);
    }
}

static void too_long(void **state)
{
    (void)state;
    struct search s;
    char fault[SEARCH_FAULT_LEN], text[SEARCH_TEXT_MAX + 2];
    memset(text, ' ', sizeof text);
    memcpy(text, "select * from device", 20);
    text[SEARCH_TEXT_MAX] = '\0';
    assert_true(search_read(&s, text, fault));
    text[SEARCH_TEXT_MAX] = ' ';
    text[SEARCH_TEXT_MAX + 1] = '\0';
    assert_false(search_read(&s, text, fault));
    assert_string_equal(fault, "it has 401 bytes; 400 are allowed");
}

static void what_is_read(void **state)
{
    (void)state;
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    assert_true(search_read(&s,
                            FROM "where tag_key = 'a' and tag_value='b' or device_id in ('c', 'd')"
                                 " order by marker limit 7, 9",
                            fault));
    assert_int_equal(s.n, 3);
    assert_true(s.conditions[0].starts && !s.conditions[1].starts && s.conditions[2].starts);
    assert_int_equal(s.conditions[2].n, 2);
    assert_string_equal(s.values[s.conditions[2].first + 1], "d");
    assert_true(s.ordered && s.ascending && s.offset == 7 && s.limit == 9 && !s.counts);
}

/* How many times part comes in the query of a statement. */
static unsigned times(const char *text, const char *part)
{
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    unsigned n = 0;
    if (!search_read(&s, text, fault))
        fail_msg("%s: %s", text, fault);
    struct cw_buf sql = search_sql(&s);
    cw_buf_add(&sql, "", 1);
    for (const char *p = sql.data; (p = strstr(p, part)); p++)
        n++;
    cw_buf_free(&sql);
    return n;
}

static void queries(void **state)
{
    (void)state;
    assert_int_equal(times(FROM "where status = 'a' and node_id = 'b' or device_id = 'c'", "UNION"),
                     1);
    assert_int_equal(times(FROM "where status = 'secret'", "secret"), 0);
    assert_int_equal(times(FROM "where tag_key = 'a' and tag_value = 'b'", "device_tag"), 1);
    assert_int_equal(times(FROM "where tag_key = 'a' and tag_key = 'b'", "device_tag"), 2);
    assert_int_equal(times("select count(*) from device where status = 'a'", "device_count"), 1);
    assert_int_equal(
        times("select count(*) from device where status = 'a' or status = 'b'", "device_count"), 0);
    assert_int_equal(times("select count(*) from device where node_id = 'a'", "device_count"), 0);
    assert_int_equal(times(FROM "where node_id like 'abcd%'", "ORDER BY"), 0);
    assert_int_equal(
        times(FROM "where node_id like 'abcd%' order by marker", "ORDER BY record_id ASC"), 2);
    assert_int_equal(times(FROM "limit 20, 5", "LIMIT 25"), 1);
}

static void values_of_conditions(void **state)
{
    (void)state;
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    struct cw_db_array a[SEARCH_CONDITIONS] = { 0 };
    assert_true(search_read(&s,
                            FROM
                            "where device_name like 'ab_d%' and marker > 'AB' and create_time ="
                            " '20261126T080000Z'",
                            fault));
    search_params(&s, a);
    assert_int_equal(a[0].n, 1);
    assert_int_equal(a[2].n, 2);
    assert_memory_equal(a[0].buf.data + a[0].buf.len - 6, "ab\\_d%", 6);
    assert_memory_equal(a[1].buf.data + a[1].buf.len - 2, "ab", 2);
    for (size_t i = 0; i < s.n; i++)
        cw_db_array_free(&a[i]);
}

static void rules(void **state)
{
    (void)state;
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    assert_true(search_read_rule(&s, "status = 'ONLINE' and product_id = 'x'", fault));
    assert_false(search_read_rule(&s, "group_id = 'x'", fault));
    assert_false(search_read_rule(&s, "status = 'x' limit 5", fault));
    assert_false(search_read_rule(&s, "", fault));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statements),           cmocka_unit_test(too_long),
        cmocka_unit_test(what_is_read),         cmocka_unit_test(queries),
        cmocka_unit_test(values_of_conditions), cmocka_unit_test(rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

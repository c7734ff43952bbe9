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
        { FROM "where produkt_id = 'x'",
          "at character 28 \"produkt_id\": expected a field: product_id, app_id, device_id, " },
        { FROM "where DEVICENAME = 'x'",
          "at character 28 \"DEVICENAME\": expected a field: device_name, app_id, " },
        { FROM "where height = 'x'", "at character 28 \"height\": expected a field: app_id, " },
        { "select devise_id from device", "at character 8 \"devise_id\": expected *, count(*) or "
                                          "names of fields, such as device_id" },
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

/* The query of a statement whose product p has these keys. */
static struct cw_buf keyed(const char *text, const int64_t *keys, size_t n)
{
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    struct cw_db_array a[SEARCH_CONDITIONS] = { 0 }, ids = { 0 };
    if (!search_read(&s, text, fault))
        fail_msg("%s: %s", text, fault);
    search_params(&s, a);
    assert_true(search_product_ids(&s, &ids));
    search_by_keys(&s, a);
    for (size_t i = 0; i < n; i++)
        search_product_key(&s, a, "p", keys[i]);
    search_product_key(&s, a, "another", 99);
    for (size_t i = 0; i < s.n; i++) {
        if (s.conditions[i].keyed)
            assert_true(a[i].n == n && s.conditions[i].keys == n && a[i].type == CW_ARRAY_INT8);
        cw_db_array_free(&a[i]);
    }
    cw_db_array_free(&ids);
    struct cw_buf sql = search_sql(&s);
    cw_buf_add(&sql, "", 1);
    return sql;
}

static void products_by_key(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
        size_t n;
    } rows[] = {
        { FROM "where product_id = 'p'", "AND d.product_key = ($3::bigint[])[1] ORDER", 1 },
        { FROM "where product_id != 'p'", "AND NOT d.product_key = ($3::bigint[])[1] ORDER", 1 },
        { FROM "where product_id = 'p'", "AND d.product_key = ANY($3::bigint[]) ORDER", 0 },
        { FROM "where product_id in ('x', 'p')", "AND d.product_key = ANY($3::bigint[])", 2 },
        { "select count(*) from device where product_id = 'p'", "c.product_key = ($3::bigint", 1 },
    };
    const int64_t keys[] = { 7, 8 };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct cw_buf sql = keyed(rows[i].text, keys, rows[i].n);
        if (!strstr(sql.data, rows[i].part))
            fail_msg("%s: %s", rows[i].text, sql.data);
        cw_buf_free(&sql);
    }
    struct search s;
    struct cw_db_array ids = { 0 };
    char fault[SEARCH_FAULT_LEN];
    assert_true(search_read(&s, FROM "where status = 'p'", fault));
    assert_false(search_product_ids(&s, &ids));
    cw_db_array_free(&ids);
}

/* What a device has once is a table that the planner may begin with. */
static void joined(void **state)
{
    (void)state;
    assert_int_equal(
        times(FROM "where tag_key = 'a' and tag_value != 'b'", "registry.device_tag j0"), 1);
    assert_int_equal(
        times(FROM "where status = 'x' and group_id = 'a'", "registry.group_member j1"), 1);
    assert_int_equal(
        times(FROM "where group_id = 'a' or group_id = 'b'", "registry.group_member j"), 2);
    assert_int_equal(
        times(FROM "where tag_key != 'a'", "NOT EXISTS (SELECT FROM registry.device_tag"), 1);
    assert_int_equal(
        times(FROM "where tag_key like 'abcd%'", " EXISTS (SELECT FROM registry.device_tag"), 1);
    assert_int_equal(
        times(FROM "where tag_value = 'a'", "t.record_id = d.record_id AND t.tag_value"), 1);
    assert_int_equal(times(FROM "where tag_value != 'a'", "t.device_key = d.device_key"), 1);
    assert_int_equal(
        times(FROM "where group_id in ('a', 'b')", " EXISTS (SELECT FROM registry.group_m"), 1);
    assert_int_equal(
        times(FROM "where group_id != 'a'", "NOT EXISTS (SELECT FROM registry.group_m"), 1);
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
        cmocka_unit_test(products_by_key),      cmocka_unit_test(joined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

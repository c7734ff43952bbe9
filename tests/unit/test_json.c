#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/json.h"

static void each_refusal_names_its_place(void **state)
{
    static const struct {
        const char *text, *part;
        size_t offset;
    } rows[] = {
        { "", "empty", 0 },
        { "{\"a\":1,}", "at byte", 8 },
        { "{\"a\":\"\\u0000\"}", "NUL", 0 },
        { "[1e999]", "real number overflow", 6 },
        { "[99999999999999999999]", "too big integer", 21 },
        { "{\"a\":\"\xff\"}", "0xff", 6 },
        { "{\"a\":1} x", "end of file expected", 9 },
        { "{\n \"a\": tru }", "line 2", 0 },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct cw_json_error err;
        assert_null(cw_json_parse(rows[i].text, strlen(rows[i].text), &err));
        if (!strstr(err.text, rows[i].part))
            fail_msg("%s: \"%s\"", rows[i].text, err.text);
        if (rows[i].offset)
            assert_int_equal(err.offset, rows[i].offset);
        assert_true(cw_utf8_valid(err.text, strlen(err.text)));
    }
}

static void a_nul_byte_is_refused_wherever_it_stands(void **state)
{
    static const struct {
        const char *text;
        size_t len, offset;
    } rows[] = {
        { "{\"a\":2\0}", 8, 6 }, { "{\"a\":\"x\0\"}", 10, 7 },
        { "\0{}", 3, 0 },        { "[1,\0 2]", 7, 3 },
        { "{}\0", 3, 2 },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct cw_json_error err;
        assert_null(cw_json_parse(rows[i].text, rows[i].len, &err));
        assert_non_null(strstr(err.text, "NUL"));
        assert_int_equal(err.offset, rows[i].offset);
    }
}

static void nesting_is_limited_before_the_parser_runs(void **state)
{
    struct cw_json_error err;
    char text[20002];
    (void)state;
    memset(text, '[', CW_JSON_DEPTH);
    memset(text + CW_JSON_DEPTH, ']', CW_JSON_DEPTH);
    json_t *v = cw_json_parse(text, 2 * CW_JSON_DEPTH, &err);
    assert_non_null(v);
    json_decref(v);
    memset(text, '[', 10000);
    memset(text + 10000, ']', 10000);
    assert_null(cw_json_parse(text, 20000, &err));
    assert_int_equal(err.offset, CW_JSON_DEPTH);
    assert_non_null(strstr(err.text, "64 levels"));
    const char *quoted =
        "\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[\"";
    v = cw_json_parse(quoted, strlen(quoted), &err);
    assert_true(json_is_string(v));
    json_decref(v);
}

static void assert_written(const char *in, const char *out)
{
    struct cw_json_error err;
    struct cw_buf b = { 0 };
    json_t *v = cw_json_parse(in, strlen(in), &err);
    assert_non_null(v);
    cw_json_write(&b, v);
    assert_string_equal(b.data, out);
    json_decref(v);
    cw_buf_free(&b);
}

static void what_is_written_reads_back_the_same(void **state)
{
    (void)state;
    assert_written("{ \"b\" : 0.1, \"a\": [1, 2.50, true,null ] }",
                   "{\"b\":0.1,\"a\":[1,2.5,true,null]}");
    assert_written("[0.30000000000000004,1e300,3.0,-9223372036854775808]",
                   "[0.30000000000000004,1e+300,3.0,-9223372036854775808]");
    assert_written("{\"a\":1,\"b\":2,\"a\":3}", "{\"a\":3,\"b\":2}");
    assert_written("\"q\\\"\\u00e9\"", "\"q\\\"\xc3\xa9\"");
    assert_written("{}", "{}");
}

static void compacting_changes_white_space_only(void **state)
{
    struct cw_buf b = { 0 };
    const char *text = "{ \"a b\" :\t1.50 ,\n \"c\\\" \" : [ 1e2, \"\\u0041 \" ] }";
    (void)state;
    cw_json_compact(&b, text, strlen(text));
    assert_string_equal(b.data, "{\"a b\":1.50,\"c\\\" \":[1e2,\"\\u0041 \"]}");
    cw_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_refusal_names_its_place),
        cmocka_unit_test(a_nul_byte_is_refused_wherever_it_stands),
        cmocka_unit_test(nesting_is_limited_before_the_parser_runs),
        cmocka_unit_test(what_is_written_reads_back_the_same),
        cmocka_unit_test(compacting_changes_white_space_only),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}

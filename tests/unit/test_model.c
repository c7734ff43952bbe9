/* Product models: which are taken, and what is said about values that do not fit. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/model.h"

static const char water_meter[] =
    "[{\"service_id\":\"Meter\",\"service_type\":\"Meter\",\"option\":\"Mandatory\",\"properties\":"
    "["
    "{\"property_name\":\"flow\",\"data_type\":\"decimal\",\"method\":\"RE\",\"min\":\"0\","
    "\"max\":\"99.5\",\"step\":0.5,\"unit\":\"m3/h\"},"
    "{\"property_name\":\"level\",\"data_type\":\"int\",\"method\":\"RWE\",\"min\":\"-5\","
    "\"max\":\"100\"},"
    "{\"property_name\":\"total\",\"data_type\":\"long\",\"method\":\"R\","
    "\"max\":\"9007199254740993\"},"
    "{\"property_name\":\"label\",\"data_type\":\"string\",\"method\":\"RW\",\"max_length\":4},"
    "{\"property_name\":\"mode\",\"data_type\":\"enum\",\"method\":\"RW\","
    "\"enum_list\":[\"auto\",\"manual\"]},"
    "{\"property_name\":\"open\",\"data_type\":\"boolean\",\"method\":\"RW\"},"
    "{\"property_name\":\"since\",\"data_type\":\"dateTime\",\"method\":\"R\"},"
    "{\"property_name\":\"detail\",\"data_type\":\"jsonObject\",\"method\":\"R\",\"max_length\":10}"
    ","
    "{\"property_name\":\"tags\",\"data_type\":\"string list\",\"method\":\"R\",\"max_length\":3}],"
    "\"commands\":[{\"command_name\":\"VALVE\",\"paras\":["
    "{\"para_name\":\"angle\",\"data_type\":\"int\",\"required\":true,\"min\":\"0\",\"max\":\"90\"}"
    ","
    "{\"para_name\":\"note\",\"data_type\":\"string\"}],"
    "\"responses\":[{\"response_name\":\"R\",\"paras\":[{\"para_name\":\"angle\","
    "\"data_type\":\"int\"}]}]},{\"command_name\":\"RESET\"}],"
    "\"events\":[{\"event_type\":\"leak\",\"paras\":[]}]},"
    "{\"service_id\":\"水表$\"}]";

static struct cw_model *model_of(const char *text)
{
    struct cw_model *m;
    struct cw_model_error err = { "", "" };
    int rc = cw_model_parse(&m, text, strlen(text), &err);
    if (rc < 0)
        print_error("%s %s\n", err.path, err.text);
    assert_int_equal(rc, 0);
    return m;
}

static void a_model_of_every_type_is_taken(void **state)
{
    (void)state;
    struct cw_model *m = model_of(water_meter);
    cw_model_free(&m);
    assert_null(m);
    m = model_of("[]");
    cw_model_free(&m);
    m = model_of("{\"service_capabilities\":[]}");
    cw_model_free(&m);
}

/* A model with one property that has these members beside its name. */
#define PROPERTY(members)                                                                          \
    "[{\"service_id\":\"a\",\"properties\":[{\"property_name\":\"p\"," members "}]}]"
#define P0 "service_capabilities[0].properties[0]."

static const struct {
    const char *model, *path, *text;
} broken[] = {
    { "{}", "service_capabilities", "must be an array" },
    { "[1]", "service_capabilities[0]", "must be an object" },
    { "[{}]", "service_capabilities[0].service_id", "is required" },
    { "[{\"service_id\":7}]", "service_capabilities[0].service_id", "must be a string" },
    { "[{\"service_id\":\"\"}]", "service_capabilities[0].service_id", "0 characters" },
    { "[{\"service_id\":\"a b\"}]", "service_capabilities[0].service_id", "position 2" },
    { "[{\"service_id\":\"水é\"}]", "service_capabilities[0].service_id", "position 2" },
    { "[{\"service_id\":\"a\"},{\"service_id\":\"a\"}]", "service_capabilities[1].service_id",
      "\"a\" is there twice" },
    { "[{\"service_id\":\"a\",\"option\":\"Maybe\"}]", "service_capabilities[0].option",
      "Master, Mandatory, Optional" },
    { "[{\"service_id\":\"a\",\"properties\":{}}]", "service_capabilities[0].properties",
      "must be an array" },
    { "[{\"service_id\":\"a\",\"properties\":[{}]}]", P0 "property_name", "is required" },
    { "[{\"service_id\":\"a\",\"properties\":[{\"property_name\":\"a.b\"}]}]", P0 "property_name",
      "position 2" },
    { PROPERTY("\"method\":\"R\""), P0 "data_type", "is required" },
    { PROPERTY("\"data_type\":\"float\",\"method\":\"R\""), P0 "data_type", "int, long, decimal" },
    { PROPERTY("\"data_type\":\"int\""), P0 "method", "RWE" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"WR\""), P0 "method", "RWE" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"R\",\"required\":1"), P0 "required", "true or" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"R\",\"min\":1"), P0 "min", "must be a string" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"R\",\"min\":\"low\""), P0 "min", "a number" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"R\",\"min\":\"1.5\""), P0 "min", "whole" },
    { PROPERTY("\"data_type\":\"decimal\",\"method\":\"R\",\"max\":\"inf\""), P0 "max", "number" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"R\",\"max\":\"12345678901234567\""), P0 "max",
      "17 characters" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"R\",\"min\":\"9\",\"max\":\"8\""), P0 "max",
      "8 lies below min 9" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"R\",\"step\":-1"), P0 "step", "at least 0" },
    { PROPERTY("\"data_type\":\"string\",\"method\":\"R\",\"max_length\":-1"), P0 "max_length",
      "at least 0" },
    { PROPERTY("\"data_type\":\"enum\",\"method\":\"R\",\"enum_list\":[1]"), P0 "enum_list[0]",
      "must be a string" },
    { PROPERTY("\"data_type\":\"int\",\"method\":\"R\",\"unit\":\"12345678901234567\""), P0 "unit",
      "0 to 16" },
    { "[{\"service_id\":\"a\",\"commands\":[{\"command_name\":\"c\",\"paras\":[{\"para_name\":"
      "\"x\","
      "\"data_type\":\"int\"},{\"para_name\":\"x\",\"data_type\":\"int\"}]}]}]",
      "service_capabilities[0].commands[0].paras[1].para_name", "twice" },
    { "[{\"service_id\":\"a\",\"commands\":[{\"command_name\":\"c\",\"responses\":[{"
      "\"response_name\":\"r\",\"paras\":[{\"para_name\":\"x\",\"data_type\":\"y\"}]}]}]}]",
      "service_capabilities[0].commands[0].responses[0].paras[0].data_type", "one of" },
    { "[{\"service_id\":\"a\",\"events\":[{}]}]", "service_capabilities[0].events[0].event_type",
      "is required" },
};

static void what_breaks_a_rule_is_named_by_its_path(void **state)
{
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(broken); i++) {
        struct cw_model *m;
        struct cw_model_error err = { "", "" };
        assert_int_equal(cw_model_parse(&m, broken[i].model, strlen(broken[i].model), &err),
                         -EINVAL);
        assert_null(m);
        assert_string_equal(err.path, broken[i].path);
        if (!strstr(err.text, broken[i].text))
            fail_msg("%s: %s, not: %s", err.path, err.text, broken[i].text);
    }
}

static void what_is_no_json_is_named_with_its_byte(void **state)
{
    (void)state;
    struct cw_model *m;
    struct cw_model_error err;
    assert_int_equal(cw_model_parse(&m, "[{]", 3, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "byte 3"));
}

static void sizes_are_limited(void **state)
{
    (void)state;
    struct cw_model *m;
    struct cw_model_error err;
    json_t *caps = json_array();
    for (int i = 0; i <= 500; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        json_array_append_new(caps, json_pack("{s:s}", "service_id", name));
    }
    assert_int_equal(cw_model_compile(&m, caps, &err), -EINVAL);
    assert_non_null(strstr(err.text, "501 services; 500"));
    json_array_remove(caps, 0);
    assert_int_equal(cw_model_compile(&m, caps, &err), 0);
    cw_model_free(&m);
    char *big = malloc(500 << 10);
    memset(big, 'x', 500 << 10);
    json_object_set_new(json_array_get(caps, 0), "foreign", json_stringn(big, 500 << 10));
    assert_int_equal(cw_model_compile(&m, caps, &err), -EINVAL);
    assert_non_null(strstr(err.text, "512000 are allowed"));
    json_decref(caps);
    free(big);
}

/* ---- reports */

static const struct {
    const char *name, *value;
    enum cw_verdict_code code;
    const char *text;
} values[] = {
    { "flow", "12.5", CW_VERDICT_OK, NULL },
    { "flow", "3", CW_VERDICT_OK, NULL },
    { "flow", "\"3\"", CW_VERDICT_WRONG_TYPE, "expected decimal, found string \"3\"" },
    { "flow", "-0.5", CW_VERDICT_OUT_OF_RANGE, "found decimal -0.5, allowed 0..99.5" },
    { "flow", "12.3", CW_VERDICT_OUT_OF_RANGE, "found decimal 12.3, allowed steps of 0.5 from 0" },
    { "level", "-5", CW_VERDICT_OK, NULL },
    { "level", "100", CW_VERDICT_OK, NULL },
    { "level", "101", CW_VERDICT_OUT_OF_RANGE, "found integer 101, allowed -5..100" },
    { "level", "5.0", CW_VERDICT_WRONG_TYPE, "expected int, found decimal 5" },
    { "level", "null", CW_VERDICT_WRONG_TYPE, "expected int, found null" },
    { "level", "2147483648", CW_VERDICT_WRONG_TYPE, "expected int, found integer 2147483648" },
    { "total", "9007199254740993", CW_VERDICT_OK, NULL },
    { "total", "9007199254740994", CW_VERDICT_OUT_OF_RANGE,
      "found integer 9007199254740994, allowed at most 9007199254740993" },
    { "label", "\"水水水水\"", CW_VERDICT_OK, NULL },
    { "label", "\"12345\"", CW_VERDICT_TOO_LONG, "5 characters, allowed 4" },
    { "mode", "\"auto\"", CW_VERDICT_OK, NULL },
    { "mode", "\"off\"", CW_VERDICT_NOT_IN_ENUM, "found \"off\", allowed \"auto\", \"manual\"" },
    { "mode", "\"auto\\u0000x\"", CW_VERDICT_NOT_IN_ENUM, NULL },
    { "open", "true", CW_VERDICT_OK, NULL },
    { "open", "1", CW_VERDICT_OK, NULL },
    { "open", "2", CW_VERDICT_WRONG_TYPE, "expected boolean, found integer 2" },
    { "since", "\"20260102T030405Z\"", CW_VERDICT_OK, NULL },
    { "since", "5", CW_VERDICT_WRONG_TYPE, "expected DateTime, found integer 5" },
    { "detail", "{\"a\":1}", CW_VERDICT_OK, NULL },
    { "detail", "[1,2]", CW_VERDICT_OK, NULL },
    { "detail", "{\"a\":12345}", CW_VERDICT_TOO_LONG, "11 bytes, allowed 10" },
    { "detail", "\"a\"", CW_VERDICT_WRONG_TYPE, "expected jsonObject, found string \"a\"" },
    { "tags", "[\"a\",\"b\"]", CW_VERDICT_OK, NULL },
    { "tags", "[\"a\",1]", CW_VERDICT_WRONG_TYPE, "expected string list, found an array" },
    { "tags", "[\"abcd\"]", CW_VERDICT_TOO_LONG, "4 characters, allowed 3" },
    { "levle", "1", CW_VERDICT_UNKNOWN_PROPERTY,
      "the model has no property \"levle\"; did you mean \"level\"?" },
    { "LEVEL", "1", CW_VERDICT_UNKNOWN_PROPERTY,
      "the model has no property \"LEVEL\"; did you mean \"level\"?" },
    { "humidity", "1", CW_VERDICT_UNKNOWN_PROPERTY,
      "the model has no property \"humidity\"; it has flow, level, total, label, mode and 4 more" },
};

static void each_value_gets_its_verdict_and_an_explanation(void **state)
{
    (void)state;
    struct cw_model *m = model_of(water_meter);
    struct cw_verdicts v = { 0 };
    for (size_t i = 0; i < CW_ARRAY_LEN(values); i++) {
        json_t *o = json_object(),
               *value = json_loads(values[i].value, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_int_equal(json_object_set_new(o, values[i].name, value), 0);
        bool fits = cw_model_check_report(m, "Meter", o, &v);
        assert_int_equal(v.n, 1);
        if (v.items[0].code != values[i].code)
            fail_msg("%s %s: %s", values[i].name, values[i].value,
                     cw_verdict_name(v.items[0].code));
        assert_int_equal(fits, values[i].code == CW_VERDICT_OK);
        assert_int_equal(v.bad, !fits);
        assert_string_equal(v.items[0].name, values[i].name);
        assert_string_equal(v.items[0].service_id, "Meter");
        if (values[i].text)
            assert_string_equal(v.items[0].text, values[i].text);
        if (fits)
            assert_null(v.items[0].text);
        cw_verdicts_reset(&v);
        json_decref(o);
    }
    cw_verdicts_free(&v);
    cw_model_free(&m);
}

static void the_good_items_of_a_report_stay_good(void **state)
{
    (void)state;
    struct cw_model *m = model_of(water_meter);
    struct cw_verdicts v = { 0 };
    json_t *o = json_pack("{s:i, s:s, s:i}", "level", 4, "flow", "x", "nothing", 1);
    assert_false(cw_model_check_report(m, "Meter", o, &v));
    assert_int_equal(v.n, 3);
    assert_int_equal(v.bad, 2);
    assert_int_equal(v.items[0].code, CW_VERDICT_OK);
    assert_false(cw_model_check_report(m, "meter", o, &v));
    assert_int_equal(v.n, 4);
    assert_int_equal(v.items[3].code, CW_VERDICT_UNKNOWN_SERVICE);
    assert_string_equal(v.items[3].text,
                        "the model has no service \"meter\"; did you mean \"Meter\"?");
    assert_false(cw_model_check_report(m, "Meter", json_object_get(o, "flow"), &v));
    assert_int_equal(v.items[4].code, CW_VERDICT_WRONG_TYPE);
    json_decref(o);
    cw_verdicts_free(&v);
    cw_model_free(&m);
}

static void a_value_outside_its_range_is_kept_and_a_wrong_type_is_not(void **state)
{
    (void)state;
    assert_true(cw_verdict_kept(CW_VERDICT_OK));
    assert_true(cw_verdict_kept(CW_VERDICT_OUT_OF_RANGE));
    assert_false(cw_verdict_kept(CW_VERDICT_WRONG_TYPE));
    assert_false(cw_verdict_kept(CW_VERDICT_UNKNOWN_PROPERTY));
    assert_string_equal(cw_verdict_name(CW_VERDICT_NOT_WRITABLE), "not_writable");
}

static void names_out_of_all_bounds_are_bounded_in_texts(void **state)
{
    (void)state;
    struct cw_model *m = model_of(water_meter);
    struct cw_verdicts v = { 0 };
    json_t *o = json_object();
    char name[2001];
    for (int i = 0; i < 1000; i++) { /* 666 characters of three bytes each */
        memcpy(name + 2 * i, "xx", 2);
        name[2 * i + 2] = '\0';
        json_object_set_new(o, name, json_true());
    }
    for (int i = 0; i < 600; i++)
        memcpy(name + 3 * i, "水", 4);
    json_object_set_new(o, name, json_true());
    assert_false(cw_model_check_report(m, "Meter", o, &v));
    assert_int_equal(v.bad, 1001);
    for (size_t i = 0; i < v.n; i++) {
        assert_true(strlen(v.items[i].text) < 200);
        assert_true(cw_utf8_valid(v.items[i].text, strlen(v.items[i].text)));
    }
    json_decref(o);
    cw_verdicts_free(&v);
    cw_model_free(&m);
}

static void only_writable_properties_can_be_set(void **state)
{
    (void)state;
    struct cw_model *m = model_of(water_meter);
    struct cw_verdicts v = { 0 };
    json_t *o = json_pack("{s:i, s:n}", "level", 4, "label");
    assert_true(cw_model_check_set(m, "Meter", o, &v));
    json_object_set_new(o, "flow", json_real(1));
    assert_false(cw_model_check_set(m, "Meter", o, &v));
    assert_int_equal(v.bad, 1);
    assert_int_equal(v.items[v.n - 1].code, CW_VERDICT_NOT_WRITABLE);
    json_decref(o);
    cw_verdicts_free(&v);
    cw_model_free(&m);
}

/* ---- commands */

static const struct {
    const char *service, *command, *paras;
    enum cw_verdict_code code; /* of the last verdict */
    const char *text;
} calls[] = {
    { "Meter", "VALVE", "{\"angle\":45}", CW_VERDICT_OK, NULL },
    { "Meter", "VALVE", "{\"angle\":45,\"note\":\"n\"}", CW_VERDICT_OK, NULL },
    { "Meter", "VALVE", "{\"angle\":91}", CW_VERDICT_OUT_OF_RANGE,
      "found integer 91, allowed 0..90" },
    { "Meter", "VALVE", "{\"angel\":45,\"angle\":1}", CW_VERDICT_UNKNOWN_PARA, NULL },
    { "Meter", "VALVE", "{}", CW_VERDICT_MISSING, "required para of type int" },
    { "Meter", "VALVE", "null", CW_VERDICT_MISSING, "required para of type int" },
    { "Meter", "VALVE", "[1]", CW_VERDICT_WRONG_TYPE,
      "expected an object of paras, found an array" },
    { "Meter", "VALV", "{}", CW_VERDICT_UNKNOWN_COMMAND,
      "the model has no command \"VALV\"; did you mean \"VALVE\"?" },
    { "Mater", "VALVE", "{}", CW_VERDICT_UNKNOWN_SERVICE,
      "the model has no service \"Mater\"; did you mean \"Meter\"?" },
    { "水表$", "RESET", "{}", CW_VERDICT_UNKNOWN_COMMAND,
      "the model has no command \"RESET\"; it has none" },
};

static void a_command_is_checked_with_its_paras(void **state)
{
    (void)state;
    struct cw_model *m = model_of(water_meter);
    struct cw_verdicts v = { 0 };
    for (size_t i = 0; i < CW_ARRAY_LEN(calls); i++) {
        json_t *paras = json_loads(calls[i].paras, JSON_DECODE_ANY, NULL);
        bool fits = cw_model_check_command(m, calls[i].service, calls[i].command, paras, &v);
        assert_int_equal(fits, calls[i].code == CW_VERDICT_OK);
        bool found = fits;
        for (size_t k = 0; k < v.n; k++)
            if (v.items[k].code == calls[i].code &&
                (!calls[i].text || strcmp(v.items[k].text, calls[i].text) == 0))
                found = true;
        if (!found)
            fail_msg("%s %s", calls[i].paras, v.n ? v.items[v.n - 1].text : "no verdict");
        cw_verdicts_reset(&v);
        json_decref(paras);
    }
    assert_true(cw_model_check_command(m, "Meter", "RESET", NULL, &v));
    cw_verdicts_free(&v);
    cw_model_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_of_every_type_is_taken),
        cmocka_unit_test(what_breaks_a_rule_is_named_by_its_path),
        cmocka_unit_test(what_is_no_json_is_named_with_its_byte),
        cmocka_unit_test(sizes_are_limited),
        cmocka_unit_test(each_value_gets_its_verdict_and_an_explanation),
        cmocka_unit_test(the_good_items_of_a_report_stay_good),
        cmocka_unit_test(a_value_outside_its_range_is_kept_and_a_wrong_type_is_not),
        cmocka_unit_test(names_out_of_all_bounds_are_bounded_in_texts),
        cmocka_unit_test(only_writable_properties_can_be_set),
        cmocka_unit_test(a_command_is_checked_with_its_paras),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}

/* Models inferred from samples. links: services/uplink-processor/draft.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/model.h"
#include "services/uplink-processor/draft.h"

#define ROUNDS 2000

static json_t *infer(const char *const *samples)
{
    struct draft *d = draft_new("Default");
    for (; *samples; samples++) {
        json_t *v = json_loads(*samples, JSON_DECODE_ANY, NULL);
        draft_add(d, v);
        json_decref(v);
    }
    json_t *out = draft_model(d);
    draft_free(&d);
    return out;
}

#define INFER(...) infer((const char *const[]){ __VA_ARGS__, NULL })

/* Of the first property of the first service. */
static void expect(json_t *out, const char *type, int sample, const char *value, int conflicts)
{
    const json_t *e = json_array_get(json_object_get(out, "evidence"), 0);
    const json_t *by = json_object_get(e, "decided_by");
    assert_string_equal(json_string_value(json_object_get(e, "data_type")), type);
    assert_int_equal(json_integer_value(json_object_get(by, "sample")), sample);
    assert_string_equal(json_string_value(json_object_get(by, "value")), value);
    assert_int_equal(json_array_size(json_object_get(e, "conflicts")), conflicts);
    json_decref(out);
}

static void types(void **state)
{
    (void)state;
    expect(INFER("{\"a\":1}", "{\"a\":2}"), "int", 1, "1", 0);
    expect(INFER("{\"a\":1}", "{\"a\":3000000000}"), "long", 2, "3000000000", 0);
    expect(INFER("{\"a\":1}", "{\"a\":3000000000}", "{\"a\":1.5}"), "decimal", 3, "1.5", 0);
    expect(INFER("{\"a\":1}", "{\"a\":true}", "{\"a\":0}"), "boolean", 2, "true", 0);
    expect(INFER("{\"a\":\"20261126T080000Z\"}"), "DateTime", 1, "\"20261126T080000Z\"", 0);
    expect(INFER("{\"a\":\"20261126T080000Z\"}", "{\"a\":\"x\"}"), "string", 2, "\"x\"", 0);
    expect(INFER("{\"a\":[]}", "{\"a\":[\"x\"]}"), "string list", 1, "[]", 0);
    expect(INFER("{\"a\":[\"x\"]}", "{\"a\":[1]}"), "jsonObject", 2, "[1]", 0);
    expect(INFER("{\"a\":{\"b\":1}}"), "jsonObject", 1, "{\"b\":1}", 0);
    expect(INFER("{\"a\":null}", "{\"a\":2}"), "int", 2, "2", 0);
    expect(INFER("{\"a\":1}", "{\"a\":\"x\"}", "{\"a\":2}"), "int", 1, "1", 1);
    expect(INFER("{\"a\":true}", "{\"a\":7}", "{\"a\":8}"), "int", 2, "7", 1);
}

static void what_a_report_is(void **state)
{
    (void)state;
    json_t *out = INFER(
        "{\"services\":[{\"service_id\":\"A\",\"properties\":{\"x\":1}},{\"service_id\":\"B\","
        "\"properties\":{\"y\":1}}]}",
        "{\"devices\":[{\"services\":[{\"service_id\":\"A\",\"properties\":{\"x\":2,\"z\":1}}]}]}",
        "{\"loose\":true}", "7", "{\"services\":[{\"service_id\":\"A\"}]}",
        "{\"services\":[{\"service_id\":\"no space\",\"properties\":{}}]}", "{\"a.b\":1}");
    const json_t *services = json_object_get(out, "service_capabilities");
    assert_int_equal(json_array_size(services), 3);
    assert_int_equal(json_array_size(json_object_get(json_array_get(services, 0), "properties")),
                     2);
    const json_t *x = json_array_get(json_object_get(json_array_get(services, 0), "properties"), 0);
    assert_true(json_is_true(json_object_get(x, "required")));
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(services, 2), "service_id")), "Default");
    assert_int_equal(json_array_size(json_object_get(out, "left_out")), 4);
    assert_int_equal(json_integer_value(json_object_get(out, "samples")), 7);
    json_decref(out);
}

/* ---- whatever comes, the draft is a model, and takes each value that is no conflict */

static uint32_t seed = 1;
static uint32_t any(uint32_t n)
{
    seed = seed * 1664525U + 1013904223U;
    return (seed >> 8) % n;
}

static json_t *any_value(void)
{
    static const int64_t numbers[] = { 0,         1,          -1,        255,      INT32_MAX,
                                       INT32_MIN, 3000000000, INT64_MAX, INT64_MIN };
    static const char *const texts[] = { "",
                                         "ON",
                                         "\u6c34\u8868",
                                         "20261126T080000Z",
                                         "2026-11-26T08:00:00Z",
                                         "1",
                                         "a text of more than sixteen characters" };
    switch (any(8)) {
    case 0:
        return json_boolean(any(2));
    case 1:
        return json_null();
    case 2:
        return json_real((double)numbers[any(7)] / 8);
    case 3:
        return json_pack("[s]", texts[any(7)]);
    case 4:
        return json_pack("{s:i}", "n", (int)any(9));
    case 5:
        return json_string(texts[any(7)]);
    default:
        return json_integer(numbers[any(9)]);
    }
}

/* A device has its kinds of values, and sometimes another one. */
static json_t *any_sample(void)
{
    char name[8];
    json_t *properties = json_object();
    for (uint32_t i = any(6); i; i--) {
        snprintf(name, sizeof name, "p%u", any(8));
        json_object_set_new(properties, name, any_value());
    }
    return json_pack("{s:[{s:s, s:o}]}", "services", "service_id", any(2) ? "A" : "B", "properties",
                     properties);
}

static size_t conflicting(const json_t *out, const char *service, const char *name)
{
    size_t i;
    const json_t *e;
    json_array_foreach(json_object_get(out, "evidence"), i, e)
    {
        if (strcmp(json_string_value(json_object_get(e, "service_id")), service) == 0 &&
            strcmp(json_string_value(json_object_get(e, "property_name")), name) == 0)
            return (size_t)json_integer_value(json_object_get(e, "conflicting"));
    }
    return 0;
}

/* What the model says of all samples, counted by property. */
static void check(const json_t *out, const json_t *samples)
{
    struct cw_model *m;
    struct cw_model_error err;
    struct cw_verdicts v = { 0 };
    size_t i, k, bad[2][8] = { 0 };
    const json_t *sample;
    if (cw_model_compile(&m, json_object_get(out, "service_capabilities"), &err) < 0)
        fail_msg("%s: %s", err.path, err.text);
    json_array_foreach(samples, i, sample)
    {
        const json_t *service = json_array_get(json_object_get(sample, "services"), 0);
        const char *id = json_string_value(json_object_get(service, "service_id"));
        json_t *properties = json_copy(json_object_get(service, "properties"));
        for (char name[] = "p0"; name[1] < '8'; name[1]++)
            if (json_is_null(json_object_get(properties, name)))
                json_object_del(properties, name);
        cw_verdicts_reset(&v);
        cw_model_check_report(m, id, properties, &v);
        for (k = 0; k < v.n; k++)
            if (v.items[k].code != CW_VERDICT_OK && v.items[k].name[0] == 'p')
                bad[*id - 'A'][v.items[k].name[1] - '0']++;
        json_decref(properties);
    }
    for (i = 0; i < 2; i++)
        for (k = 0; k < 8; k++) {
            char name[] = { 'p', (char)('0' + k), 0 };
            if (bad[i][k] != conflicting(out, i ? "B" : "A", name))
                fail_msg("seed %u: %s of %s: %zu values do not fit", seed, name, i ? "B" : "A",
                         bad[i][k]);
        }
    cw_verdicts_free(&v);
    cw_model_free(&m);
}

static void random_samples(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        json_t *samples = json_array();
        struct draft *d = draft_new("Default");
        for (uint32_t n = 1 + any(12); n; n--) {
            json_t *sample = any_sample();
            draft_add(d, sample);
            json_array_append_new(samples, sample);
        }
        json_t *out = draft_model(d);
        check(out, samples);
        draft_free(&d);
        json_decref(out);
        json_decref(samples);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types),
        cmocka_unit_test(what_a_report_is),
        cmocka_unit_test(random_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

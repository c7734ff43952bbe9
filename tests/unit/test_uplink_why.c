/* links: services/uplink-processor/why.c services/uplink-processor/shadow.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "services/uplink-processor/shadow.h"
#include "services/uplink-processor/why.h"

static json_t *object(const char *text) { return json_loads(text, 0, NULL); }

static void merge(struct shadow_entry **all, int64_t key, const char *service,
                  const char *properties, const char *time)
{
    json_t *p = object(properties);
    shadow_merge(all, key, service, p, time);
    json_decref(p);
}

static void assert_entry(const struct shadow_entry *e, const char *reported, int64_t touches,
                         const char *time)
{
    struct cw_buf b = { 0 };
    cw_json_write(&b, e->reported);
    assert_string_equal(b.data, reported);
    assert_int_equal(e->touches, touches);
    assert_string_equal(e->time, time);
    cw_buf_free(&b);
}

static void reports_of_a_service_become_one_change(void **state)
{
    struct shadow_entry *all = NULL;
    json_t *first = object("{\"a\":1,\"b\":2}");
    (void)state;
    shadow_merge(&all, 1, "S", first, "t1");
    merge(&all, 1, "S", "{\"b\":3,\"c\":4}", "t2");
    merge(&all, 2, "S", "{\"a\":9}", "t3");
    merge(&all, 1, "T", "{\"a\":8}", "t4");
    assert_int_equal(HASH_COUNT(all), 3);
    assert_entry(all, "{\"a\":1,\"b\":3,\"c\":4}", 2, "t2");
    assert_int_equal(json_object_size(first), 2); /* what the report holds is not touched */
    json_decref(first);
    shadow_free(&all);
    assert_null(all);
}

static void tell(struct why *w, const char *layer, const char *code, int64_t at_ms)
{
    why_fail(w, &(struct why_told){ .device_key = 1,
                                    .layer = layer,
                                    .code = code,
                                    .reason = code,
                                    .sample = "",
                                    .first_ms = at_ms,
                                    .last_ms = at_ms,
                                    .count = 1 });
}

static void equal_failures_are_counted_and_another_takes_the_place(void **state)
{
    struct why w = { 0 };
    (void)state;
    tell(&w, "model", "a", 10);
    tell(&w, "model", "a", 20);
    tell(&w, "decode", "x", 25);
    assert_int_equal(HASH_COUNT(w.failures), 2);
    assert_int_equal(w.failures->count, 2);
    assert_int_equal(w.failures->first_ms, 10);
    assert_int_equal(w.failures->last_ms, 20);
    assert_null(w.failures->sample);
    assert_int_equal(w.n_changes, 0);
    tell(&w, "model", "b", 30);
    assert_string_equal(w.failures->code, "b");
    assert_int_equal(w.failures->count, 1);
    assert_int_equal(w.failures->first_ms, 30);
    assert_int_equal(w.n_changes, 1);
    assert_string_equal(w.changes[0].what, "model");
    assert_string_equal(w.changes[0].code, "a");
    why_free(&w);
}

static void a_foreign_layer_is_no_layer(void **state)
{
    (void)state;
    assert_string_equal(why_layer("push"), "push");
    assert_null(why_layer("pusher"));
    assert_null(why_layer(""));
    assert_null(why_layer(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reports_of_a_service_become_one_change),
        cmocka_unit_test(equal_failures_are_counted_and_another_takes_the_place),
        cmocka_unit_test(a_foreign_layer_is_no_layer),
    };
    return cmocka_run_group_tests_name("uplink why", tests, NULL, NULL);
}

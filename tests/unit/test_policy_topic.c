/* What device policies say of topics, without a gateway.
 * links: services/mqtt-gateway/policy.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/mqtt-gateway/policy.h"

static void patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *topic;
        bool matches;
    } rows[] = {
        { "a", "a", true },
        { "a", "b", false },
        { "a", "", false },
        { "a", "ab", false },
        { "", "", true },
        { "*", "", true },
        { "*", "a/b", true },
        { "a*", "a", true },
        { "a*", "ba", false },
        { "*a", "bca", true },
        { "*a", "bcab", false },
        { "a*b", "ab", true },
        { "a*b", "a/x/b", true },
        { "a*b", "abc", false },
        { "a*b*c", "abbcc", true },
        { "a*bc", "abcbc", true },
        { "*ab", "aab", true },
        { "**", "x", true },
        { "?", "a", true },
        { "?", "", false },
        { "?", "ab", false },
        { "?", "\u6c34", true },
        { "a?b", "a\u6c34b", true },
        { "??", "\u6c34", false },
        { "*?", "\u6c34", true },
        { "+/#", "+/#", true },
        { "+/#", "a/b", false },
        { "*?a", "\u6c34\u6c34a", true },
        { "a/*", "a", false },
        { "*/", "a/", true },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++)
        if (policy_matches(rows[i].pattern, text_of(rows[i].topic)) != rows[i].matches)
            fail_msg("%s against %s", rows[i].pattern, rows[i].topic);
}

static void a_long_topic_against_many_stars_ends(void **state)
{
    (void)state;
    char topic[513];
    memset(topic, 'a', sizeof topic - 1);
    topic[512] = '\0';
    assert_false(
        policy_matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", text_of(topic)));
}

static void variables(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *expanded;
    } rows[] = {
        { "a", "a" },
        { "${devices.deviceId}", "d-1" },
        { "x/${devices.productId}/${devices.deviceId}/y", "x/p-1/d-1/y" },
        { "${devices.deviceId", "${devices.deviceId" },
        { "$${devices.deviceId}}", "$d-1}" },
        { "", "" },
    };
    struct policy_question q = { .device_id = "d-1", .product_id = "p-1" };
    char out[32];
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        assert_true(policy_expand(out, sizeof out, rows[i].pattern, &q));
        assert_string_equal(out, rows[i].expanded);
    }
    assert_true(policy_expand(out, 4, "${devices.deviceId}", &q));
    assert_false(policy_expand(out, 3, "${devices.deviceId}", &q));
}

#define STATEMENT(effect, action, resource)                                                        \
    "{\"effect\":\"" effect "\",\"actions\":[\"iotda:devices:" action "\"],\"resources\":["        \
    "\"topic:" resource "\"]}"

static struct policy_question asked(const char *statement, enum policy_action action,
                                    const char *topic)
{
    struct policy_question q = {
        .action = action, .topic = text_of(topic), .device_id = "d", .product_id = "p"
    };
    struct policy *p = policy_read("one", statement);
    assert_non_null(p);
    policy_ask(p, &q);
    q.allowed &= !policy_refuses(&q);
    policy_free(p);
    return q;
}

static void what_is_said(void **state)
{
    (void)state;
    static const char both[] = "[" STATEMENT("DENY", "publish", "no/*") "," STATEMENT(
        "ALLOW", "publish", "*") "," STATEMENT("ALLOW", "subscribe", "of/${devices.deviceId}") "]";
    struct policy_question q = asked(both, POLICY_PUBLISH, "no/a");
    assert_non_null(q.denied_by);
    assert_string_equal(q.denied, "no/*");
    assert_string_equal(q.nearest, "*");
    assert_true(asked(both, POLICY_PUBLISH, "yes").allowed);
    assert_true(asked(both, POLICY_SUBSCRIBE, "of/d").allowed);
    q = asked(both, POLICY_SUBSCRIBE, "of/e");
    assert_true(policy_refuses(&q) && !q.denied_by);
    assert_string_equal(q.nearest, "of/d");
    q = asked("[" STATEMENT("DENY", "publish", "a") "]", POLICY_PUBLISH, "b");
    assert_false(policy_refuses(&q));
    q = asked("[]", POLICY_SUBSCRIBE, "b");
    assert_false(policy_refuses(&q));
}

/* Devices on a limit of length must not slip out of a DENY. */
static void what_does_not_fit_is_denied(void **state)
{
    (void)state;
    char long_id[2100];
    memset(long_id, 'x', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = '\0';
    struct policy *p =
        policy_read("one", "[" STATEMENT("DENY", "publish", "${devices.deviceId}") "]");
    struct policy_question q = {
        .action = POLICY_PUBLISH, .topic = text_of("a"), .device_id = long_id, .product_id = ""
    };
    policy_ask(p, &q);
    assert_ptr_equal(q.denied_by, p);
    policy_free(p);
}

static void open_and_denying(void **state)
{
    (void)state;
    static const struct {
        const char *statement;
        bool open, denies;
    } rows[] = {
        { "[" STATEMENT("ALLOW", "publish", "*") "," STATEMENT("ALLOW", "subscribe", "*") "]", true,
          false },
        { "[" STATEMENT("ALLOW", "publish", "*") "]", false, false },
        { "[" STATEMENT("ALLOW", "publish", "*") "," STATEMENT("ALLOW", "subscribe", "a*") "]",
          false, false },
        { "[" STATEMENT("DENY", "publish", "*") "]", false, true },
        { "[]", false, false },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct policy *p = policy_read("one", rows[i].statement);
        assert_int_equal(policy_is_open(p), rows[i].open);
        assert_int_equal(policy_denies(p), rows[i].denies);
        assert_string_equal(policy_name(p), "one");
        policy_free(p);
    }
}

static void what_is_no_policy(void **state)
{
    (void)state;
    static const char *const rows[] = { "",
                                        "{}",
                                        "[1]",
                                        "[{\"effect\":\"DENY\"}]",
                                        "[{}]",
                                        "[{\"effect\":\"DENY\",\"resources\":[\"x\"]}]",
                                        "[{\"effect\":\"DENY\",\"resources\":[1]}]" };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++)
        assert_null(policy_read("one", rows[i]));
    policy_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns),
        cmocka_unit_test(a_long_topic_against_many_stars_ends),
        cmocka_unit_test(variables),
        cmocka_unit_test(what_is_said),
        cmocka_unit_test(what_does_not_fit_is_denied),
        cmocka_unit_test(open_and_denying),
        cmocka_unit_test(what_is_no_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

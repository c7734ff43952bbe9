/* What policy documents allow. links: services/rest-gateway/policy.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/json.h"
#include "services/rest-gateway/policy.h"

#define GRANT(statements)                                                                          \
    "[{\"project_id\":\"p\",\"policy\":{\"Version\":\"1.1\",\"Statement\":[" statements "]}}]"
#define ALLOW(action, resource) "{\"Effect\":\"Allow\",\"Action\":[\"" action "\"]" resource "}"
#define DENY(action, resource)  "{\"Effect\":\"Deny\",\"Action\":[\"" action "\"]" resource "}"
#define IN(space)               ",\"Resource\":[\"iotda:*:*:app:" space "\"]"

/* Writes "all but a,b", "a,b", or "none". */
static const char *told(const struct access *a)
{
    static char out[256];
    struct cw_buf b = { 0 };
    if (!access_any(a))
        return "none";
    cw_buf_str(&b, a->all ? "all" : "");
    for (size_t i = 0; i < (a->all ? a->n_denied : a->n_allowed); i++)
        cw_buf_printf(&b, "%s%s",
                      i        ? ","
                      : a->all ? " but "
                               : "",
                      a->all ? a->denied[i] : a->allowed[i]);
    snprintf(out, sizeof out, "%s", b.data);
    cw_buf_free(&b);
    return out;
}

static json_t *parse(const char *text)
{
    struct cw_json_error err;
    json_t *v = cw_json_parse(text, strlen(text), &err);
    assert_non_null(v);
    return v;
}

static void documents_are_added_up(void **state)
{
    static const struct {
        const char *grants, *want;
    } rows[] = {
        { "[]", "none" },
        { GRANT(ALLOW("*:*:*", "")), "all" },
        { GRANT(ALLOW("iotda:*:query*", "")), "all" },
        { GRANT(ALLOW("iotda:devices:query", "")), "all" },
        { GRANT(ALLOW("iotda:devices:query", ",\"Resource\":[\"*\"]")), "all" },
        { GRANT(ALLOW("iotda:devices:queryList", "")), "none" },
        { GRANT(ALLOW("iotda:products:*", "")), "none" },
        { GRANT(ALLOW("iam:*:*", "")), "none" },
        { GRANT(ALLOW("iotda:*:*", IN("a"))), "a" },
        { GRANT(ALLOW("iotda:*:*", IN("a")) "," ALLOW("iotda:devices:*", IN("b"))), "a,b" },
        { GRANT(ALLOW("iotda:*:*", "") "," DENY("iotda:devices:query", "")), "none" },
        { GRANT(DENY("iotda:devices:query", "") "," ALLOW("iotda:*:*", "")), "none" },
        { GRANT(ALLOW("iotda:*:*", "") "," DENY("iotda:devices:*", IN("a"))), "all but a" },
        { GRANT(ALLOW("iotda:*:*", IN("a")) "," DENY("iotda:*:*", IN("a"))), "none" },
        { GRANT(ALLOW("iotda:*:*", "") "," DENY("iotda:devices:delete", "")), "all" },
        { "[{\"project_id\":\"other\",\"policy\":{\"Statement\":[" ALLOW("*:*:*", "") "]}}]",
          "none" },
        { "[{\"policy\":7},7,{\"project_id\":\"p\",\"policy\":{\"Statement\":[7,{\"Effect\":"
          "\"Allow\","
          "\"Action\":[7]}]}}]",
          "none" },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct access a;
        json_t *grants = parse(rows[i].grants);
        access_of_grants(&a, grants, "p", "iotda:devices:query");
        assert_string_equal(told(&a), rows[i].want);
        json_decref(grants);
    }
}

static void a_limit_takes_and_never_gives(void **state)
{
    static const struct {
        const char *grants, *limit, *want;
    } rows[] = {
        { GRANT(ALLOW("iotda:*:*", "")), ALLOW("iotda:devices:*", ""), "all" },
        { GRANT(ALLOW("iotda:*:*", "")), ALLOW("iotda:products:*", ""), "none" },
        { GRANT(ALLOW("iotda:*:*", "")), ALLOW("iotda:*:*", IN("a")), "a" },
        { GRANT(ALLOW("iotda:*:*", IN("a"))), ALLOW("iotda:*:*", ""), "a" },
        { GRANT(ALLOW("iotda:*:*", IN("a"))), ALLOW("iotda:*:*", IN("b")), "none" },
        { GRANT(ALLOW("iotda:*:*", IN("a")) "," ALLOW("iotda:*:*", IN("b"))),
          ALLOW("iotda:*:*", IN("b")), "b" },
        { GRANT(ALLOW("iotda:*:*", "") "," DENY("iotda:*:*", IN("a"))), ALLOW("iotda:*:*", IN("a")),
          "none" },
        { GRANT(ALLOW("iotda:*:*", "")), ALLOW("iotda:*:*", "") "," DENY("iotda:*:*", IN("a")),
          "all but a" },
        { GRANT(ALLOW("iotda:products:*", "")), ALLOW("*:*:*", ""), "none" },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct access a;
        char text[600];
        snprintf(text, sizeof text, "{\"Statement\":[%s]}", rows[i].limit);
        json_t *grants = parse(rows[i].grants), *limit = parse(text);
        access_of_grants(&a, grants, "p", "iotda:devices:query");
        access_limit(&a, limit, "iotda:devices:query");
        assert_string_equal(told(&a), rows[i].want);
        json_decref(grants);
        json_decref(limit);
    }
}

static void more_spaces_than_there_is_room_for_are_not_allowed(void **state)
{
    struct cw_buf text = { 0 };
    struct access a;
    (void)state;
    cw_buf_str(&text,
               "[{\"project_id\":\"p\",\"policy\":{\"Statement\":[{\"Effect\":\"Deny\",\"Action\":"
               "[\"*:*:*\"],\"Resource\":[\"iotda:*:*:app:x\"");
    for (int i = 0; i < ACCESS_SPACES; i++)
        cw_buf_printf(&text, ",\"iotda:*:*:app:s%d\"", i);
    cw_buf_str(&text, "]}," ALLOW("*:*:*", "") "]}}]");
    json_t *grants = parse(text.data);
    access_of_grants(&a, grants, "p", "iotda:devices:query");
    assert_false(access_any(&a)); /* a denial that cannot be kept denies all */
    json_decref(grants);
    cw_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_added_up),
        cmocka_unit_test(a_limit_takes_and_never_gives),
        cmocka_unit_test(more_spaces_than_there_is_room_for_are_not_allowed),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}

/* What custom topics a product lets its devices use.
 * links: services/mqtt-gateway/product_topics.c services/mqtt-gateway/topic.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "services/mqtt-gateway/product_topics.h"

static struct product_topics *table;

/* "Bname Pname Sname" */
static struct product_topics *defined(const char *const *topics, size_t n)
{
    Causeway__ProductTopic one[8], *list[8];
    Causeway__ProductTopics from = CAUSEWAY__PRODUCT_TOPICS__INIT;
    for (size_t i = 0; i < n; i++) {
        causeway__product_topic__init(&one[i]);
        one[i].publish = topics[i][0] != 'S';
        one[i].subscribe = topics[i][0] != 'P';
        one[i].topic = (char *)topics[i] + 1;
        list[i] = &one[i];
    }
    from.topics = list;
    from.n_topics = n;
    struct product_topics *t = product_topics_of(&table, 7);
    product_topics_set(t, &from);
    return t;
}

static struct custom_question question(enum policy_action action, const char *name)
{
    return (struct custom_question){
        .action = action, .name = text_of(name), .device_id = "dev", .product_id = "prod"
    };
}

static void only_what_is_defined(void **state)
{
    static const char *const topics[] = { "Balarm", "Pup/level", "Sdown/a/b" };
    static const struct {
        enum policy_action action;
        const char *name, *code; /* NULL: allowed */
    } rows[] = {
        { POLICY_PUBLISH, "alarm", NULL },
        { POLICY_PUBLISH, "up/level", NULL },
        { POLICY_PUBLISH, "down/a/b", "topic_right" },
        { POLICY_PUBLISH, "up", "topic_not_defined" },
        { POLICY_PUBLISH, "Alarm", "topic_not_defined" },
        { POLICY_SUBSCRIBE, "alarm", NULL },
        { POLICY_SUBSCRIBE, "up/level", "topic_right" },
        { POLICY_SUBSCRIBE, "up/#", "topic_right" },
        { POLICY_SUBSCRIBE, "down/a/b", NULL },
        { POLICY_SUBSCRIBE, "#", NULL },
        { POLICY_SUBSCRIBE, "down/+/b", NULL },
        { POLICY_SUBSCRIBE, "down/+", "topic_not_defined" },
        { POLICY_SUBSCRIBE, "other/#", "topic_not_defined" },
    };
    struct custom_refusal why;
    const struct product_topics *t = defined(topics, CW_ARRAY_LEN(topics));
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct custom_question q = question(rows[i].action, rows[i].name);
        print_message("%s\n", rows[i].name);
        assert_int_equal(product_topics_allow(t, &q, NULL), !rows[i].code);
        assert_int_equal(product_topics_allow(t, &q, &why), !rows[i].code);
        if (rows[i].code)
            assert_string_equal(why.code, rows[i].code);
    }
}

static void the_nearest_is_named(void **state)
{
    static const char *const topics[] = { "Balarm/level", "Pother", "Salarm/levels" };
    struct custom_refusal why;
    const struct product_topics *t = defined(topics, CW_ARRAY_LEN(topics));
    struct custom_question q = question(POLICY_PUBLISH, "alarm/levels");
    (void)state;
    assert_false(product_topics_allow(t, &q, &why));
    assert_string_equal(why.code, "topic_right");
    assert_non_null(strstr(why.next_step, "Publish to $oc/devices/dev/user/alarm/level, or "));
    assert_non_null(strstr(why.next_step, "/products/prod/topics"));
    q = question(POLICY_PUBLISH, "othr");
    assert_false(product_topics_allow(t, &q, &why));
    assert_non_null(strstr(why.next_step, "user/other, or "));
    t = defined(topics + 1, 1);
    q = question(POLICY_SUBSCRIBE, "x");
    assert_false(product_topics_allow(t, &q, &why));
    assert_memory_equal(why.next_step, "Define it", 9); /* there is none to be subscribed */
}

static void a_product_that_defines_none(void **state)
{
    struct custom_refusal why;
    const struct product_topics *t = defined(NULL, 0);
    struct custom_question q = question(POLICY_PUBLISH, "any/thing");
    (void)state;
    assert_true(product_topics_allow(t, &q, &why));
    q.strict = true;
    assert_false(product_topics_allow(t, &q, &why));
    assert_string_equal(why.code, "topic_not_defined");
    assert_non_null(strstr(why.reason, "CAUSEWAY_STRICT"));
}

static void long_names_fit(void **state)
{
    char name[200], wanted[600];
    const char *const topics[] = { name };
    struct custom_refusal why;
    (void)state;
    memset(name, 'n', sizeof name - 1);
    name[0] = 'B';
    name[sizeof name - 1] = '\0';
    memset(wanted, 'w', sizeof wanted - 1);
    wanted[sizeof wanted - 1] = '\0';
    struct custom_question q = question(POLICY_PUBLISH, wanted);
    char id[DEVICE_ID_MAX + 1];
    memset(id, 'd', DEVICE_ID_MAX);
    id[DEVICE_ID_MAX] = '\0';
    q.device_id = id;
    assert_false(product_topics_allow(defined(topics, 1), &q, &why));
    assert_non_null(strstr(why.next_step, "/products/prod/topics."));
}

static int tear_down(void **state)
{
    (void)state;
    product_topics_free(&table);
    assert_null(table);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_defined),
        cmocka_unit_test(the_nearest_is_named),
        cmocka_unit_test(a_product_that_defines_none),
        cmocka_unit_test(long_names_fit),
    };
    return cmocka_run_group_tests(tests, NULL, tear_down);
}

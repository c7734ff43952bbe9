/* Who may use which topic, and what a client id says.
 * links: services/mqtt-gateway/topic.c services/mqtt-gateway/client_id.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/mqtt-gateway/topic.h"

#define ME "wtr_p_7"
#define P  "$oc/devices/" ME "/sys/"

static void publish_rights(void **state)
{
    (void)state;
    static const struct {
        const char *topic, *code, *nearest; /* code NULL: allowed */
    } rows[] = {
        { P "properties/report", NULL, NULL },
        { P "properties/report?request_id=r1", NULL, NULL },
        { P "properties/report?encoding=gzip&request_id=r1", NULL, NULL },
        { P "messages/up", NULL, NULL },
        { P "gateway/sub_devices/properties/report", NULL, NULL },
        { P "commands/response/request_id=5f1c", NULL, NULL },
        { P "properties/set/response/request_id=a=b", NULL, NULL },
        { P "shadow/get/request_id=x", NULL, NULL },
        { P "events/up", NULL, NULL },
        { "$oc/devices/" ME "/user/pump/speed", NULL, NULL },
        { "plant/hall2/t", NULL, NULL },
        { "/huawei/v1/devices/" ME "/data/json", NULL, NULL },
        { P "messages/down", "topic_direction", NULL },
        { P "commands/request_id=5", "topic_direction", P "commands/response/request_id=<" },
        { P "propertis/report", "topic_unknown", P "properties/report" },
        { P "messages/upp", "topic_unknown", P "messages/up" },
        { P "properties/report?color=red", "topic_unknown", P "properties/report" },
        { P "properties/report?request_id=", "topic_unknown", P "properties/report" },
        { P "commands/response/request_id=", "topic_unknown", P "commands/response/request_id=<" },
        { P "commands/response/request_id=a/b", "topic_unknown", NULL },
        { P "commands/response", "topic_unknown", P "commands/response/request_id=<" },
        { P, "topic_unknown", NULL },
        { "$oc/devices/" ME "/properties/report", "topic_unknown", P "properties/report" },
        { "$oc/devices/other/sys/properties/report", "topic_foreign_device",
          P "properties/report" },
        { "$oc/devices/" ME "8/sys/messages/up", "topic_foreign_device", P "messages/up" },
        { "$oc/devices/{device_id}/sys/messages/up", "topic_foreign_device", P "messages/up" },
        { "$oc/devices/", "topic_foreign_device", NULL },
        { "$oc/broadcast/all", "topic_broadcast", NULL },
        { "$oc/m2m/to/x/from/" ME "/request_id=1", NULL, NULL },
        { "$oc/m2m/to/x/from/" ME, NULL, NULL },
        { "$oc/m2m/to/x/from/other/request_id=1", "topic_m2m", NULL },
        { "$oc/m2m/to/x/from/" ME "x/request_id=1", "topic_m2m", NULL },
        { "$oc/m2m/to/x", "topic_m2m", NULL },
        { "$SYS/broker", "topic_not_offered", NULL },
        { "$oc/devices/" ME "/user/a//b", "topic_custom_name", NULL },
        { "$oc/devices/" ME "/user//a", "topic_custom_name", NULL },
        { "$oc/devices/" ME "/user/", "topic_custom_name", NULL },
        { "/huawei/v1/devices/other/data/json", "topic_foreign_device", NULL },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct topic_info info;
        int rc = topic_check_publish(&info, ME, text_of(rows[i].topic));
        if (rc != (rows[i].code ? -EPERM : 0))
            print_error("%s\n", rows[i].topic);
        assert_int_equal(rc, rows[i].code ? -EPERM : 0);
        if (!rows[i].code)
            continue;
        assert_string_equal(info.code, rows[i].code);
        assert_non_null(info.rule);
        if (rows[i].nearest)
            assert_int_equal(strncmp(info.nearest, rows[i].nearest, strlen(rows[i].nearest)), 0);
    }
}

static void a_topic_says_what_it_carries(void **state)
{
    (void)state;
    struct topic_info info;
    assert_int_equal(topic_check_publish(&info, ME, text_of(P "commands/response/request_id=r7")),
                     0);
    assert_true(info.answer && !info.report);
    assert_memory_equal(info.request_id.p, "r7", 2);
    assert_int_equal(info.request_id.len, 2);
    topic_check_publish(&info, ME, text_of(P "properties/report?encoding=gzip&request_id=q"));
    assert_true(info.report && !info.answer);
    assert_int_equal(info.request_id.len, 1);
    topic_check_publish(&info, ME, text_of(P "messages/up"));
    assert_true(!info.report && !info.answer && !info.request_id.len);
}

static void custom_topics_are_told_by_their_name(void **state)
{
    (void)state;
    struct topic_info info;
    assert_int_equal(topic_check_publish(&info, ME, text_of("$oc/devices/" ME "/user/a/b")), 0);
    assert_true(text_is(info.custom, "a/b"));
    topic_check_publish(&info, ME, text_of(P "messages/up"));
    assert_int_equal(info.custom.len, 0);
    assert_true(text_is(topic_custom(ME, text_of("$oc/devices/" ME "/user/a/#")), "a/#"));
    assert_int_equal(topic_custom(ME, text_of("$oc/devices/other/user/a")).len, 0);
    assert_int_equal(topic_custom(ME, text_of("$oc/devices/" ME "/#")).len, 0);
}

static void lengths_are_limited(void **state)
{
    (void)state;
    struct topic_info info;
    char topic[400];
    memset(topic, 'a', sizeof topic);
    assert_int_equal(topic_check_publish(&info, ME, (struct text){ topic, 128 }), 0);
    assert_int_equal(topic_check_publish(&info, ME, (struct text){ topic, 129 }), -EPERM);
    int n = snprintf(topic, sizeof topic, P "commands/response/request_id=");
    memset(topic + n, 'r', sizeof topic - (size_t)n);
    size_t most = (size_t)n + REQUEST_ID_MAX;
    assert_int_equal(topic_check_publish(&info, ME, (struct text){ topic, most }), 0);
    assert_int_equal(topic_check_publish(&info, ME, (struct text){ topic, most + 1 }), -EPERM);
    memset(topic, 'z', sizeof topic); /* what is far from every topic is still given one */
    memcpy(topic, P, sizeof P - 1);
    assert_int_equal(topic_check_publish(&info, ME, (struct text){ topic, 400 }), -EPERM);
    assert_true(*info.nearest);
}

static void subscribe_rights(void **state)
{
    (void)state;
    static const struct {
        const char *filter;
        int rc;
    } rows[] = {
        { P "messages/down", 0 },
        { P "commands/#", 0 },
        { P "commands/+", 0 },
        { P "commands/request_id=5", 0 },
        { P "#", 0 },
        { P "+/down", 0 },
        { P "shadow/get/response/#", 0 },
        { "$oc/devices/" ME "/#", 0 },
        { "$oc/devices/" ME "/user/#", 0 },
        { "$oc/broadcast/news", 0 },
        { "$oc/m2m/to/" ME "/#", 0 },
        { "/huawei/v1/devices/" ME "/command/json", 0 },
        { "plant/+/t", 0 },
        { "#", 0 },
        { P "messages/up", -EPERM },
        { P "commands/response/request_id=1", -EPERM },
        { P "nothing", -EPERM },
        { "$oc/devices/other/sys/messages/down", -EPERM },
        { "$oc/devices/+/sys/messages/down", -EPERM },
        { "$oc/devices/" ME, -EPERM },
        { "$oc/#", -EPERM },
        { "$SYS/#", -EPERM },
        { "$oc/m2m/to/other/#", -EPERM },
        { "/huawei/v1/devices/other/command/json", -EPERM },
        { "", -EINVAL },
        { "a+/b", -EINVAL },
        { "a/#/b", -EINVAL },
        { "a#", -EINVAL },
        { "a/b+", -EINVAL },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        int rc = topic_check_filter(ME, text_of(rows[i].filter));
        if (rc != rows[i].rc)
            print_error("%s\n", rows[i].filter);
        assert_int_equal(rc, rows[i].rc);
    }
}

static void matching_follows_the_standard(void **state)
{
    (void)state;
    static const struct {
        const char *filter, *topic;
        bool match;
    } rows[] = {
        { "a/b", "a/b", true },     { "a/b", "a/c", false },   { "a/b", "a", false },
        { "a", "a/b", false },      { "a/+", "a/b", true },    { "a/+", "a", false },
        { "a/+", "a/b/c", false },  { "a/#", "a", true },      { "a/#", "a/b/c", true },
        { "#", "a/b", true },       { "#", "$oc/a", false },   { "+/a", "$oc/a", false },
        { "$oc/#", "$oc/a", true }, { "+", "/a", false },      { "/+", "/a", true },
        { "+/+", "/a", true },      { "a/", "a", false },      { "a/+", "a/", true },
        { "a//b", "a//b", true },   { "a/+/b", "a//b", true },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        if (topic_matches(text_of(rows[i].filter), text_of(rows[i].topic)) != rows[i].match)
            print_error("%s %s\n", rows[i].filter, rows[i].topic);
        assert_int_equal(topic_matches(text_of(rows[i].filter), text_of(rows[i].topic)),
                         rows[i].match);
    }
}

static void system_topics_need_no_subscription(void **state)
{
    (void)state;
    assert_true(topic_is_system_down(ME, text_of(P "commands/request_id=1")));
    assert_true(topic_is_system_down(ME, text_of(P "messages/down")));
    assert_false(topic_is_system_down(ME, text_of(P "messages/up")));
    assert_false(topic_is_system_down(ME, text_of("$oc/devices/" ME "/user/a")));
    assert_false(topic_is_system_down(ME, text_of("$oc/devices/other/sys/messages/down")));
    assert_int_equal(topic_request_id(text_of(P "commands/request_id=17")).len, 2);
    assert_int_equal(topic_request_id(text_of(P "messages/down")).len, 0);
    assert_int_equal(topic_request_id(text_of("x")).len, 0);
}

static void a_client_id_is_read_from_the_right(void **state)
{
    (void)state;
    struct client_id id;
    assert_null(client_id_read(&id, text_of("p_1_0_1_x_0_1_2026010203"), text_of("p_1_0_1_x")));
    assert_string_equal(id.device_id, "p_1_0_1_x");
    assert_string_equal(id.timestamp, "2026010203");
    assert_int_equal(id.sign_type, 1);
    assert_null(
        client_id_read(&id, text_of("d_0_0_9999999999"), text_of("d"))); /* never read as a date */
}

static void a_client_id_may_name_a_registration_group(void **state)
{
    (void)state;
    struct client_id id;
    assert_null(
        client_id_read(&id, text_of("p1_dev7_0_ff5bbx7a488f_0_2026010203"), text_of("p1_dev7")));
    assert_string_equal(id.scope_id, "ff5bbx7a488f");
    assert_string_equal(id.timestamp, "2026010203");
    assert_int_equal(id.sign_type, 0);
    assert_null(
        client_id_read(&id, text_of("p1_dev7_0_ff5bbx7a488f_1_2026010203"), text_of("p1_dev7")));
    assert_int_equal(id.sign_type, 1);
    assert_null(client_id_read(&id, text_of("p1_dev7_0_ff5bbx7a488f"), text_of("p1_dev7")));
    assert_string_equal(id.scope_id, "ff5bbx7a488f");
    assert_string_equal(id.timestamp, "0000000000");
    assert_null(client_id_read(&id, text_of("a_0_scope_0_0_2026010203"), text_of("a_0_scope")));
    assert_string_equal(id.scope_id, ""); /* an id that looks like one is an id */
    assert_non_null(client_id_read(&id, text_of("d_0_abc"), text_of("d")));
    assert_non_null(client_id_read(&id, text_of("d_0_ab!def"), text_of("d")));
    assert_non_null(client_id_read(&id, text_of("d_1_abcdef"), text_of("d")));
    assert_non_null(client_id_read(&id, text_of("e_0_abcdef"), text_of("d")));
    assert_non_null(client_id_read(&id, text_of("d_0_abcdef_7_2026010203"), text_of("d")));
    assert_non_null(client_id_read(&id, text_of("d_0_abcdef_"), text_of("d")));
}

static void a_wrong_client_id_says_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *id, *user, *word;
        bool known; /* the device can be told */
    } rows[] = {
        { "d_0_0_2026010203", "", "user name", false },
        { "d_0_0_2026010203", "a b", "user name", false },
        { "d_0_0_2026010203", "e", "begin with", true },
        { "d_0_0_202601020", "d", "timestamp", true },
        { "d_0_0_20260102033", "d", "timestamp", true },
        { "d_0_0_2026-10203", "d", "timestamp", true },
        { "d_0_0", "d", "timestamp", true },
        { "", "d", "timestamp", true },
        { "_2026010203", "d", "<device id>_0_", true },
        { "d_0_x_2026010203", "d", "<device id>_0_", true },
        { "d_0_2_2026010203", "d", "sign type", true },
        { "d_0_9_2026010203", "d", "sign type", true },
        { "d_2_0_2026010203", "d", "id type", true },
        { "d_9_0_2026010203", "d", "id type", true },
        { "_0_0_2026010203", "d", "begin with", true },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct client_id id;
        const char *why = client_id_read(&id, text_of(rows[i].id), text_of(rows[i].user));
        assert_non_null(why);
        if (!strstr(why, rows[i].word))
            print_error("%s: %s\n", rows[i].id, why);
        assert_non_null(strstr(why, rows[i].word));
        assert_string_equal(id.device_id, rows[i].known ? rows[i].user : "");
    }
}

static void lengths_of_ids_are_limited(void **state)
{
    (void)state;
    struct client_id id;
    static const char end[] = "_0_0_2026010203";
    char text[300];
    memset(text, 'a', sizeof text);
    memcpy(text + 128, end, sizeof end - 1);
    assert_null(client_id_read(&id, (struct text){ text, 143 }, (struct text){ text, 128 }));
    assert_non_null(client_id_read(&id, (struct text){ text, 143 }, (struct text){ text, 129 }));
    assert_non_null(client_id_read(&id, (struct text){ text, 257 }, (struct text){ text, 10 }));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(publish_rights),
        cmocka_unit_test(a_topic_says_what_it_carries),
        cmocka_unit_test(custom_topics_are_told_by_their_name),
        cmocka_unit_test(lengths_are_limited),
        cmocka_unit_test(subscribe_rights),
        cmocka_unit_test(matching_follows_the_standard),
        cmocka_unit_test(system_topics_need_no_subscription),
        cmocka_unit_test(a_client_id_is_read_from_the_right),
        cmocka_unit_test(a_client_id_may_name_a_registration_group),
        cmocka_unit_test(a_wrong_client_id_says_what_is_wrong),
        cmocka_unit_test(lengths_of_ids_are_limited),
    };
    return cmocka_run_group_tests_name("mqtt_topic", tests, NULL, NULL);
}

/* The V3 protocol, into V5 and back. links: services/mqtt-gateway/legacy.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/mqtt-gateway/legacy.h"

static void what_a_device_says(void **state)
{
    static const struct {
        const char *v3, *v5; /* v5 NULL: refused */
        bool answer;
        uint32_t mid;
    } rows[] = {
        { "{\"msgType\":\"deviceReq\",\"data\":[{\"serviceId\":\"Pump\",\"serviceData\":{\"flow\":"
          "1.50},"
          "\"eventTime\":\"20261126T000000Z\"},{\"serviceId\":\"Load\",\"serviceData\":{}}]}",
          "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"flow\":1.5},"
          "\"event_time\":\"20261126T000000Z\"},{\"service_id\":\"Load\",\"properties\":{}}]}",
          false, 0 },
        { "{\"msgType\":\"deviceReq\",\"data\":[]}", "{\"services\":[]}", false, 0 },
        { "{\"msgType\":\"deviceReq\",\"data\":[7]}", "{\"services\":[{}]}", false, 0 },
        { "{\"msgType\":\"deviceRsp\",\"mid\":4,\"errcode\":0,\"body\":{\"litres\":3}}",
          "{\"result_code\":0,\"paras\":{\"litres\":3}}", true, 4 },
        { "{\"msgType\":\"deviceRsp\",\"mid\":2147483647,\"errcode\":1}", "{\"result_code\":1}",
          true, 2147483647 },
        { "{\"msgType\":\"deviceRsp\",\"mid\":0}", "{\"result_code\":0}", true, 0 },
        { "{\"msgType\":\"deviceRsp\",\"errcode\":0}", NULL, false, 0 },
        { "{\"msgType\":\"deviceRsp\",\"mid\":-1}", NULL, false, 0 },
        { "{\"msgType\":\"deviceRsp\",\"mid\":\"4\"}", NULL, false, 0 },
        { "{\"msgType\":\"deviceRsp\",\"mid\":4294967296}", NULL, false, 0 },
        { "{\"msgType\":\"deviceReq\"}", NULL, false, 0 },
        { "{\"msgType\":\"deviceReq\",\"data\":{}}", NULL, false, 0 },
        { "{\"msgType\":\"cloudReq\"}", NULL, false, 0 },
        { "{\"msgType\":7}", NULL, false, 0 },
        { "{}", NULL, false, 0 },
        { "[]", NULL, false, 0 },
        { "", NULL, false, 0 },
        { "{", NULL, false, 0 },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct legacy_said said;
        const char *wrong = legacy_read(&said, rows[i].v3, strlen(rows[i].v3));
        if (!rows[i].v5) {
            assert_non_null(wrong);
        } else {
            assert_null(wrong);
            assert_int_equal(said.payload.len, strlen(rows[i].v5));
            assert_memory_equal(said.payload.data, rows[i].v5, said.payload.len);
            assert_int_equal(said.answer, rows[i].answer);
            assert_int_equal(said.mid, rows[i].mid);
        }
        cw_buf_free(&said.payload);
    }
}

static void what_a_device_is_asked(void **state)
{
    static const char v5[] =
        "{\"service_id\":\"Pump\",\"command_name\":\"drain\",\"paras\":{\"s\":5}}";
    static const char v3[] =
        "{\"msgType\":\"cloudReq\",\"serviceId\":\"Pump\",\"cmd\":\"drain\",\"mid\":9,"
        "\"paras\":{\"s\":5}}";
    struct cw_buf b = { 0 };
    char topic[LEGACY_TOPIC_LEN];
    (void)state;
    assert_int_equal(legacy_command(&b, v5, strlen(v5), 9), 0);
    assert_int_equal(b.len, strlen(v3));
    assert_memory_equal(b.data, v3, b.len);
    assert_int_equal(legacy_command(&b, "raw", 3, 9), -EINVAL);
    assert_int_equal(legacy_command(&b, "[]", 2, 9), -EINVAL);
    legacy_command_topic(topic, "wtr_p");
    assert_string_equal(topic, "/huawei/v1/devices/wtr_p/command/json");
    cw_buf_free(&b);
}

static void a_number_stands_for_one_request(void **state)
{
    struct legacy_mids *mids = NULL, *later = NULL;
    char id[40];
    uint32_t first, mid;
    (void)state;
    assert_null(legacy_request(NULL, 1));
    first = legacy_mid(&mids, text_of("5f1c8b1e-0000"));
    assert_int_equal(legacy_mid(&mids, text_of("5f1c8b1e-0000")), first);
    assert_string_equal(legacy_request(mids, first), "5f1c8b1e-0000");
    assert_true(first <= INT32_MAX);
    for (int i = 0; i < 31; i++) { /* with the first one: as many as are kept */
        snprintf(id, sizeof id, "5f1c8b1e-%04d", i + 1);
        mid = legacy_mid(&mids, text_of(id));
        assert_string_equal(legacy_request(mids, mid), id);
    }
    assert_string_equal(legacy_request(mids, first), "5f1c8b1e-0000");
    legacy_mid(&mids, text_of("5f1c8b1e-9999"));
    assert_null(legacy_request(mids, first));
    legacy_mid(&later, text_of("5f1c8b1e-8888"));
    assert_null(legacy_request(later, first)); /* of another session */
    free(mids);
    free(later);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_device_says),
        cmocka_unit_test(what_a_device_is_asked),
        cmocka_unit_test(a_number_stands_for_one_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

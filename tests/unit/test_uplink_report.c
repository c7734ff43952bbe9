/* links: services/uplink-processor/report.c services/uplink-processor/topic.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/uplink-processor/report.h"
#include "services/uplink-processor/topic.h"

#define RECEIVED_MS 1764000000127 /* 2025-11-24T16:00:00.127Z */

static struct cw_model *model;

static int start(void **state)
{
    static const char text[] =
        "[{\"service_id\":\"Pump\",\"properties\":["
        "{\"property_name\":\"flow\",\"data_type\":\"decimal\",\"method\":\"RWE\",\"min\":\"0\","
        "\"max\":\"100\"},"
        "{\"property_name\":\"luminance\",\"data_type\":\"int\",\"method\":\"RE\"}]},"
        "{\"service_id\":\"Load\",\"properties\":["
        "{\"property_name\":\"seq\",\"data_type\":\"long\",\"method\":\"RE\"}]}]";
    struct cw_model_error err;
    (void)state;
    return cw_model_parse(&model, text, sizeof text - 1, &err);
}

static int stop(void **state)
{
    (void)state;
    cw_model_free(&model);
    return 0;
}

static int read_text(struct report *r, const char *text, struct report_refusal *no)
{
    report_reset(r);
    return report_read(r, text, strlen(text), model, RECEIVED_MS, no);
}

static void assert_part(const struct report *r, size_t i, const char *service, const char *kept,
                        const char *time)
{
    struct cw_buf b = { 0 };
    assert_true(i < r->n_parts);
    cw_json_write(&b, r->parts[i].kept);
    assert_string_equal(r->parts[i].service_id, service);
    assert_string_equal(b.data, kept);
    assert_string_equal(r->parts[i].time, time);
    cw_buf_free(&b);
}

static void what_fits_goes_to_shadow_and_event(void **state)
{
    struct report r = { 0 };
    struct report_refusal no;
    (void)state;
    assert_int_equal(read_text(&r,
                               "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"flow\":"
                               "0.1},\"event_time\":\"20260102T030405Z\"},{\"service_id\":\"Load\","
                               "\"properties\":{\"seq\":7},\"event_time\":null}]}",
                               &no),
                     0);
    assert_int_equal(r.n_parts, 2);
    assert_part(&r, 0, "Pump", "{\"flow\":0.1}", "20260102T030405Z");
    assert_part(&r, 1, "Load", "{\"seq\":7}", "20251124T160000Z");
    assert_string_equal(r.event.data,
                        "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"flow\":0.1},"
                        "\"event_time\":\"20260102T030405Z\"},{\"service_id\":\"Load\","
                        "\"properties\":{\"seq\":7},\"event_time\":\"20251124T160000Z\"}]}");
    assert_int_equal(r.verdicts.len, 0);
    assert_null(r.code);
    report_free(&r);
}

static void every_form_of_event_time_is_forwarded_as_given(void **state)
{
    static const struct {
        const char *given, *stored, *forwarded;
    } rows[] = {
        { "\"2026-01-02T03:04:05.678Z\"", "20260102T030405Z", "2026-01-02T03:04:05.678Z" },
        { "\"2026-01-02 03:04:05\"", "20260102T030405Z", "2026-01-02 03:04:05" },
        { "\"soon\"", "20251124T160000Z", "20251124T160000Z" },
        { "\"\"", "20251124T160000Z", "20251124T160000Z" },
        { "17", "20251124T160000Z", "20251124T160000Z" },
    };
    struct report r = { 0 };
    struct report_refusal no;
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        char text[200], part[100];
        snprintf(text, sizeof text,
                 "{\"services\":[{\"service_id\":\"Load\",\"properties\":{\"seq\":1},"
                 "\"event_time\":%s}]}",
                 rows[i].given);
        assert_int_equal(read_text(&r, text, &no), 0);
        assert_part(&r, 0, "Load", "{\"seq\":1}", rows[i].stored);
        snprintf(part, sizeof part, "\"event_time\":\"%s\"", rows[i].forwarded);
        assert_non_null(strstr(r.event.data, part));
    }
    report_free(&r);
}

static void what_does_not_fit_is_forwarded_but_not_kept(void **state)
{
    struct report r = { 0 };
    struct report_refusal no;
    (void)state;
    assert_int_equal(read_text(&r,
                               "{\"services\":[{\"service_id\":\"Pump\",\"properties\":"
                               "{\"luminace\":5,\"flow\":3,\"luminance\":\"x\"}},"
                               "{\"service_id\":\"Pmup\",\"properties\":{\"flow\":1}},"
                               "{\"service_id\":\"Pump\",\"properties\":{\"flow\":101}}]}",
                               &no),
                     0);
    assert_int_equal(r.n_services, 3);
    assert_non_null(strstr(r.event.data, "luminace"));
    assert_non_null(strstr(r.event.data, "Pmup"));
    assert_int_equal(r.n_parts, 2);
    assert_part(&r, 0, "Pump", "{\"flow\":3}", "20251124T160000Z");
    assert_part(&r, 1, "Pump", "{\"flow\":101}", "20251124T160000Z"); /* noted and kept */
    assert_string_equal(r.code, "unknown_property");
    assert_non_null(strstr(r.reason, "Pump.luminace: "));
    assert_non_null(strstr(r.reason, "luminance"));
    assert_non_null(strstr(r.reason, "and 3 more"));
    json_t *verdicts = json_loads(r.verdicts.data, 0, NULL);
    static const char *const codes[] = { "unknown_property", "wrong_type", "unknown_service",
                                         "out_of_range" };
    assert_int_equal(json_array_size(verdicts), CW_ARRAY_LEN(codes));
    for (size_t i = 0; i < CW_ARRAY_LEN(codes); i++) {
        const json_t *v = json_array_get(verdicts, i);
        assert_string_equal(cw_json_text(v, "code"), codes[i]);
        assert_non_null(cw_json_text(v, "service_id"));
        assert_non_null(cw_json_text(v, "text"));
    }
    json_decref(verdicts);
    report_free(&r);
}

static void verdicts_of_one_report_are_bounded(void **state)
{
    struct report r = { 0 };
    struct report_refusal no;
    struct cw_buf text = { 0 };
    (void)state;
    cw_buf_str(&text, "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"flow\":1");
    for (int i = 0; i < 1000; i++)
        cw_buf_printf(&text, ",\"p%d\":1", i);
    cw_buf_str(&text, "}}]}");
    assert_int_equal(read_text(&r, text.data, &no), 0);
    assert_int_equal(r.n_wrong, 1000);
    assert_part(&r, 0, "Pump", "{\"flow\":1}", "20251124T160000Z");
    json_t *verdicts = json_loads(r.verdicts.data, 0, NULL);
    assert_int_equal(json_array_size(verdicts), 51);
    assert_string_equal(cw_json_text(json_array_get(verdicts, 50), "text"), "And 950 more.");
    json_decref(verdicts);
    cw_buf_free(&text);
    report_free(&r);
}

static void a_malformed_service_spoils_no_other(void **state)
{
    struct report r = { 0 };
    struct report_refusal no;
    (void)state;
    assert_int_equal(read_text(&r,
                               "{\"services\":[7,{\"properties\":{}},{\"service_id\":\"Pump\","
                               "\"properties\":[]},{\"service_id\":\"Load\",\"properties\":"
                               "{\"seq\":1}}]}",
                               &no),
                     0);
    assert_int_equal(r.n_services, 1);
    assert_int_equal(r.n_parts, 1);
    assert_int_equal(r.n_wrong, 3);
    assert_string_equal(r.code, "malformed");
    report_free(&r);
}

static void what_cannot_be_read_is_refused_with_its_place(void **state)
{
    static const struct {
        const char *text, *code, *part;
    } rows[] = {
        { "", "not_json", "empty" },
        { "{\"services\": [}", "not_json", "byte" },
        { "{\"services\":[{\"service_id\":\"a\\u0000\"}]}", "not_json", "NUL" },
        { "{\"services\":[1e400]}", "not_json", "overflow" },
        { "7", "no_services", "services" },
        { "[]", "no_services", "services" },
        { "{\"serwices\":[]}", "no_services", "services" },
    };
    struct report r = { 0 };
    struct report_refusal no;
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        assert_int_equal(read_text(&r, rows[i].text, &no), -EBADMSG);
        assert_string_equal(no.code, rows[i].code);
        assert_non_null(strstr(no.reason, rows[i].part));
        assert_true(strlen(no.next_step) > 0);
    }
    size_t len = REPORT_MAX_BYTES + 1;
    char *large = cw_malloc(len);
    memset(large, ' ', len);
    report_reset(&r);
    assert_int_equal(report_read(&r, large, len, model, RECEIVED_MS, &no), -EBADMSG);
    assert_string_equal(no.code, "too_large");
    assert_non_null(strstr(no.reason, "65537"));
    free(large);
    report_free(&r);
}

static void the_last_of_two_equal_keys_wins(void **state)
{
    struct report r = { 0 };
    struct report_refusal no;
    (void)state;
    assert_int_equal(read_text(&r,
                               "{\"services\":[{\"service_id\":\"Load\",\"properties\":"
                               "{\"seq\":1,\"seq\":2}}]}",
                               &no),
                     0);
    assert_part(&r, 0, "Load", "{\"seq\":2}", "20251124T160000Z");
    report_free(&r);
}

static void a_cut_never_splits_a_character(void **state)
{
    char out[6];
    (void)state;
    text_cut(out, sizeof out, "abc\xe4\xb8\xad", 6);
    assert_string_equal(out, "abc");
    text_cut(out, sizeof out, "ab\xe4\xb8\xad", 5);
    assert_string_equal(out, "ab\xe4\xb8\xad");
    text_cut(out, sizeof out, "a\xff\0b", 4);
    assert_string_equal(out, "a??b");
}

static void topics_are_told_apart(void **state)
{
    static const struct {
        const char *text, *request_id;
        enum topic_kind kind;
        bool system;
    } rows[] = {
        { "$oc/devices/d1/sys/properties/report", "", TOPIC_REPORT, true },
        { "$oc/devices/d1/sys/properties/report?request_id=r-1", "r-1", TOPIC_REPORT, false },
        { "$oc/devices/d1/sys/properties/report?encoding=gzip&request_id=r2", "r2", TOPIC_REPORT,
          false },
        { "$oc/devices/d1/sys/messages/up", "", TOPIC_MESSAGE, true },
        { "$oc/devices/d1/user/alarm", "", TOPIC_MESSAGE, false },
        { "plant/line7", "", TOPIC_MESSAGE, false },
        { "$oc/devices/d1/sys/commands/response/request_id=5f1c", "5f1c", TOPIC_COMMAND_RESPONSE,
          false },
        { "$oc/devices/d12/sys/properties/report", "", TOPIC_UNKNOWN, false },
        { "$oc/devices/d1/sys/properties/reports", "", TOPIC_UNKNOWN, true },
        { "$oc/broadcast/x", "", TOPIC_UNKNOWN, false },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct topic t;
        topic_read(&t, rows[i].text, "d1");
        assert_int_equal(t.kind, rows[i].kind);
        assert_string_equal(t.request_id, rows[i].request_id);
        if (t.kind != TOPIC_UNKNOWN)
            assert_int_equal(t.system, rows[i].system);
    }
    char text[700] = "$oc/devices/d1/sys/properties/report?request_id=";
    memset(text + strlen(text), 'x', 400);
    struct topic t;
    topic_read(&t, text, "d1");
    assert_string_equal(t.request_id, "");
}

static void a_text_that_is_not_there_is_cut_to_nothing(void **state)
{
    char out[8] = "before";
    (void)state;
    text_cut(out, sizeof out, NULL, 0); /* the payload of an empty frame */
    assert_string_equal(out, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_fits_goes_to_shadow_and_event),
        cmocka_unit_test(a_text_that_is_not_there_is_cut_to_nothing),
        cmocka_unit_test(every_form_of_event_time_is_forwarded_as_given),
        cmocka_unit_test(what_does_not_fit_is_forwarded_but_not_kept),
        cmocka_unit_test(verdicts_of_one_report_are_bounded),
        cmocka_unit_test(a_malformed_service_spoils_no_other),
        cmocka_unit_test(what_cannot_be_read_is_refused_with_its_place),
        cmocka_unit_test(the_last_of_two_equal_keys_wins),
        cmocka_unit_test(a_cut_never_splits_a_character),
        cmocka_unit_test(topics_are_told_apart),
    };
    return cmocka_run_group_tests_name("uplink report", tests, start, stop);
}

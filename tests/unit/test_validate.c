/* Routes and checks as openapi.json states them. */
/* links: services/rest-gateway/route.c */
/* links: services/rest-gateway/rate.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/json.h"
#include "libcommon/validate.h"
#include "proto/routes.h"
#include "services/rest-gateway/rate.h"
#include "services/rest-gateway/route.h"

static const struct cw_route *operation(const char *name)
{
    for (size_t i = 0; i < cw_n_routes; i++)
        if (strcmp(cw_routes[i].operation, name) == 0)
            return &cw_routes[i];
    fail_msg("no operation %s", name);
    return NULL;
}

/* ---- routes */

static void a_path_finds_its_operation_and_variables(void **state)
{
    static const struct {
        const char *method, *path, *operation;
    } rows[] = {
        { "POST", "/v3/auth/tokens", "KeystoneCreateToken" },
        { "GET", "/v3/projects", "KeystoneListProjects" },
        { "GET", "/v5/iot/p/devices", "ListDevices" },
        { "POST", "/v5/iot/p/devices", "AddDevice" },
        { "GET", "/v5/iot/p/devices/", "ListDevices" },
        { "GET", "/v5/iot/p/devices/d", "ShowDevice" },
        { "GET", "/v5/iot/p/devices/d/why", "ShowDeviceWhy" },
        { "GET", "/v5/iot/p/devices/d/history", "ListDeviceHistory" },
        { "POST", "/v5/iot/p/devices/d/action", "ResetDeviceSecret" },
        { "POST", "/v5/iot/p/devices/d/commands", "CreateCommand" },
        { "GET", "/v5/iot/p/devices/d/messages/m", "ShowDeviceMessage" },
        { "DELETE", "/v5/iot/p/routing-rule/rules/r", "DeleteRoutingRule" },
        { "GET", "/v5/iot/p/routing-rule/certificates/c", "ShowRoutingCertificate" },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct route_match m;
        assert_int_equal(route_find(&m, rows[i].method, rows[i].path), 0);
        assert_string_equal(m.route->operation, rows[i].operation);
        route_match_free(&m);
    }
}

static void variables_are_decoded(void **state)
{
    struct route_match m;
    (void)state;
    assert_int_equal(route_find(&m, "GET", "/v5/iot/p%20q/devices/%E4%B8%AD%2f"), 0);
    assert_string_equal(route_var(&m, "project_id"), "p q");
    assert_string_equal(route_var(&m, "device_id"), "\xe4\xb8\xad/");
    assert_null(route_var(&m, "app_id"));
    route_match_free(&m);
}

static void other_paths_and_methods_are_told_apart(void **state)
{
    static const char *const none[] = { "/",
                                        "",
                                        "/v5",
                                        "/v5/iot/p",
                                        "/v5/iot//devices",
                                        "/v5/iot/p/devices/d/",
                                        "/v5/iot/p/devices/d/nothing",
                                        "/v5/iot/p/devices/%zz",
                                        "/v5/iot/p/devices/%00",
                                        "/v5/iot/p/devices/a%2",
                                        "/v5/iot/p/devices//" };
    struct route_match m;
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(none); i++) {
        int rc = route_find(&m, "PATCH", none[i]);
        /* one slash at the end is the collection or the thing itself */
        if (strcmp(none[i], "/v5/iot/p/devices/d/") == 0)
            assert_int_equal(rc, -EOPNOTSUPP);
        else if (rc != -ENOENT)
            fail_msg("%s: %d", none[i], rc);
    }
    assert_int_equal(route_find(&m, "PATCH", "/v5/iot/p/devices/d"), -EOPNOTSUPP);
    assert_string_equal(m.allow, "GET, PUT, DELETE");
}

static void every_operation_has_an_owner_and_a_right(void **state)
{
    size_t open = 0;
    (void)state;
    for (size_t i = 0; i < cw_n_routes; i++) {
        struct route_match m;
        assert_int_equal(route_find(&m, cw_routes[i].method, cw_routes[i].path), 0);
        assert_ptr_equal(m.route, &cw_routes[i]); /* no other path takes its requests */
        route_match_free(&m);
        open += cw_routes[i].permission == NULL;
    }
    assert_int_equal(open, 1);
    assert_null(operation("KeystoneCreateToken")->permission);
    assert_int_equal(operation("CreateCommand")->deadline_ms, 25000);
    assert_int_equal(operation("AddDevice")->deadline_ms, 10000);
}

/* ---- bodies */

static int check(const char *name, const char *text, struct cw_refusal *r, char **left)
{
    struct cw_json_error err;
    bool changed;
    json_t *body = cw_json_parse(text, strlen(text), &err);
    assert_non_null(body);
    int rc = cw_validate_body(r, &changed, operation(name)->body, body);
    if (left)
        *left = changed ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return rc;
}

static void good_bodies_pass(void **state)
{
    static const struct {
        const char *operation, *body;
    } rows[] = {
        { "AddDevice", "{\"node_id\":\"a-1\",\"product_id\":\"p\"}" },
        { "AddDevice", "{\"node_id\":\"a\",\"product_id\":\"p\",\"unknown\":{\"x\":[1]},"
                       "\"auth_info\":{\"secret\":\"12345678\",\"timeout\":0},"
                       "\"device_name\":\"\xe4\xb8\xad_?'#().,&%@!-\"}" },
        { "CreateCommand", "{\"paras\":{}}" },
        { "CreateMessage", "{\"message\":\"text\"}" },
        { "CreateMessage", "{\"message\":{\"a\":1},\"ttl\":1440}" },
        { "CreateProduct",
          "{\"name\":\"n\",\"device_type\":\"t\",\"protocol_type\":\"MQTT\",\"data_format\":"
          "\"json\",\"service_capabilities\":[{\"service_id\":\"$s\",\"properties\":[{"
          "\"property_name\":\"p\",\"data_type\":\"string list\",\"method\":\"RWE\",\"step\":1,"
          "\"default_value\":null}]}]}" },
        { "UpdateProduct", "{}" },
        { "ResetDeviceSecret", "{}" },
        { "UpdateRoutingRule", "{\"active\":true}" },
        { "CreateRuleAction",
          "{\"rule_id\":\"r\",\"channel\":\"HTTP_FORWARDING\",\"channel_detail\":"
          "{\"http_forwarding\":{\"url\":\"https://a.test:1/x?y\"}}}" },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct cw_refusal r = { 0 };
        if (check(rows[i].operation, rows[i].body, &r, NULL) < 0)
            fail_msg("%s %s: %s", rows[i].operation, rows[i].body, r.text);
    }
}

static void a_refusal_names_the_field_and_what_is_expected(void **state)
{
    static const struct {
        const char *operation, *body, *text;
    } rows[] = {
        { "AddDevice", "[]", "Body: must be an object." },
        { "AddDevice", "{\"product_id\":\"p\"}", "Field \"node_id\": is required." },
        { "AddDevice", "{\"node_id\":null,\"product_id\":\"p\"}",
          "Field \"node_id\": is required." },
        { "AddDevice", "{\"node_id\":7,\"product_id\":\"p\"}",
          "Field \"node_id\": must be a string." },
        { "AddDevice", "{\"node_id\":\"\",\"product_id\":\"p\"}",
          "Field \"node_id\": must have 1 to 64 characters, not 0." },
        { "AddDevice", "{\"node_id\":\"a b\",\"product_id\":\"p\"}",
          "Field \"node_id\": character U+0020 is not allowed." },
        { "AddDevice", "{\"node_id\":\"\xe4\xb8\xad\",\"product_id\":\"p\"}",
          "Field \"node_id\": character U+4E2D is not allowed." },
        { "AddDevice",
          "{\"node_id\":\"a\",\"product_id\":\"p\",\"auth_info\":{\"auth_type\":\"KEY\"}}",
          "Field \"auth_info.auth_type\": must be one of SECRET, CERTIFICATES." },
        { "AddDevice", "{\"node_id\":\"a\",\"product_id\":\"p\",\"auth_info\":{\"timeout\":-1}}",
          "Field \"auth_info.timeout\": must be 0 to 2147483647." },
        { "AddDevice", "{\"node_id\":\"a\",\"product_id\":\"p\",\"auth_info\":{\"timeout\":1.5}}",
          "Field \"auth_info.timeout\": must be an integer." },
        { "AddDevice",
          "{\"node_id\":\"a\",\"product_id\":\"p\",\"shadow\":[{\"service_id\":\"s\","
          "\"desired\":{}},{\"service_id\":\"s\"}]}",
          "Field \"shadow[1].desired\": is required." },
        { "CreateProduct",
          "{\"name\":\"n\",\"device_type\":\"t\",\"protocol_type\":\"MQTT\",\"data_format\":"
          "\"json\",\"service_capabilities\":[{\"service_id\":\"s\",\"properties\":[{"
          "\"property_name\":\"a.b\",\"data_type\":\"int\",\"method\":\"R\"}]}]}",
          "Field \"service_capabilities[0].properties[0].property_name\": character U+002E is not "
          "allowed." },
        { "CreateMessage", "{\"message\":7}", "Field \"message\": must be a string or an object." },
        { "CreateMessage", "{\"message\":\"x\",\"ttl\":7}",
          "Field \"ttl\": must be a multiple of 5." },
        { "CreateCommand", "{\"paras\":[]}", "Field \"paras\": must be an object." },
        { "UpdateRoutingRule", "{\"active\":\"true\"}",
          "Field \"active\": must be true or false." },
        { "CreateRuleAction",
          "{\"rule_id\":\"r\",\"channel\":\"HTTP_FORWARDING\",\"channel_detail\":"
          "{\"http_forwarding\":{\"url\":\"u\",\"token\":\"a-b\"}}}",
          "Field \"channel_detail.http_forwarding.token\": character U+002D is not allowed." },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct cw_refusal r = { 0 };
        assert_int_equal(check(rows[i].operation, rows[i].body, &r, NULL), -EINVAL);
        assert_int_equal(r.error, CW_E_INVALID);
        assert_string_equal(r.text, rows[i].text);
    }
}

static void lengths_count_code_points_to_the_very_limit(void **state)
{
    (void)state;
    for (int n = 255; n <= 258; n++) {
        struct cw_buf b = { 0 };
        struct cw_refusal r;
        cw_buf_str(&b, "{\"node_id\":\"a\",\"product_id\":\"p\",\"device_name\":\"");
        for (int i = 0; i < n; i++)
            cw_buf_str(&b, "\xe9\xbf\xbf"); /* U+9FFF, the last one */
        cw_buf_str(&b, "\"}");
        assert_int_equal(check("AddDevice", b.data, &r, NULL), n <= 256 ? 0 : -EINVAL);
        cw_buf_free(&b);
    }
}

static void bytes_are_limited_where_bytes_are_named(void **state)
{
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        struct cw_buf b = { 0 };
        struct cw_refusal r;
        cw_buf_str(&b, "{\"node_id\":\"a\",\"product_id\":\"p\",\"extension_info\": { \"k\" : \"");
        for (int i = 0; i < 1024 - 8 + extra; i++) /* {"k":""} are 8; blanks do not count */
            cw_buf_str(&b, "x");
        cw_buf_str(&b, "\" }}");
        assert_int_equal(check("AddDevice", b.data, &r, NULL), extra ? -EINVAL : 0);
        cw_buf_free(&b);
    }
}

static void null_is_absent_where_it_means_nothing(void **state)
{
    struct cw_refusal r;
    char *left;
    (void)state;
    assert_int_equal(check("AddDevice",
                           "{\"node_id\":\"a\",\"product_id\":\"p\",\"description\":null,"
                           "\"extension_info\":{\"x\":null}}",
                           &r, &left),
                     0);
    assert_string_equal(left,
                        "{\"node_id\":\"a\",\"product_id\":\"p\",\"extension_info\":{\"x\":null}}");
    free(left);
    assert_int_equal(check("AddDevice", "{\"node_id\":\"a\",\"product_id\":\"p\"}", &r, &left), 0);
    assert_null(left);
}

/* ---- parameters */

static void parameters_have_codes_of_their_own(void **state)
{
    static const struct {
        const char *name, *value;
        int error; /* -1: fine */
    } rows[] = {
        { "limit", "1", -1 },
        { "limit", "50", -1 },
        { "limit", "0", CW_E_LIMIT },
        { "limit", "51", CW_E_LIMIT },
        { "limit", "ten", CW_E_LIMIT },
        { "limit", "1 ", CW_E_LIMIT },
        { "limit", "99999999999999999999", CW_E_LIMIT },
        { "marker", "ffffffffffffffffffffffff", -1 },
        { "marker", "fffffffffffffffffffffff", CW_E_MARKER },
        { "marker", "gfffffffffffffffffffffff", CW_E_MARKER },
        { "offset", "500", -1 },
        { "offset", "501", CW_E_INVALID },
        { "offset", "-1", CW_E_INVALID },
        { "start_time", "20260105T081503Z", -1 },
        { "start_time", "2026-01-05T08:15:03Z", CW_E_TIME_FORMAT },
        { "end_time", "20261305T081503Z", CW_E_TIME_FORMAT },
        { "is_cascade_query", "true", -1 },
        { "is_cascade_query", "1", CW_E_INVALID },
        { "device_name", "\xff", CW_E_INVALID },
        { "product_id", "a/b", CW_E_INVALID },
    };
    const struct cw_route *route = operation("ListDevices");
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct cw_refusal r = { 0 };
        const struct cw_param *p = NULL;
        for (size_t k = 0; k < route->n_query_params; k++)
            if (strcmp(route->query_params[k].name, rows[i].name) == 0)
                p = &route->query_params[k];
        assert_non_null(p);
        int rc = cw_validate_param(&r, p, rows[i].value);
        if (rc != (rows[i].error < 0 ? 0 : -EINVAL))
            fail_msg("%s=%s: %d", rows[i].name, rows[i].value, rc);
        if (rc < 0) {
            assert_int_equal(r.error, rows[i].error);
            assert_non_null(strstr(r.text, rows[i].name));
        }
    }
}

static void a_time_range_runs_forward(void **state)
{
    const char *a = "20260105T081503Z", *b = "20260105T081504Z";
    struct cw_refusal r;
    (void)state;
    assert_int_equal(cw_validate_order(&r, a, b), 0);
    assert_int_equal(cw_validate_order(&r, a, NULL), 0);
    assert_int_equal(cw_validate_order(&r, NULL, b), 0);
    assert_int_equal(cw_validate_order(&r, a, a), -EINVAL);
    assert_int_equal(cw_validate_order(&r, b, a), -EINVAL);
    assert_int_equal(r.error, CW_E_TIME_ORDER);
}

/* ---- rate */

static void so_many_a_second_for_each_principal(void **state)
{
    struct rate *rate = rate_open(10);
    (void)state;
    for (int i = 0; i < 10; i++)
        assert_int_equal(rate_take(rate, "a", 1000), 0);
    assert_int_equal(rate_take(rate, "a", 1000), 1);
    assert_int_equal(rate_take(rate, "b", 1000), 0); /* others are not in it */
    assert_int_equal(rate_take(rate, "a", 1099), 1);
    assert_int_equal(rate_take(rate, "a", 1100), 0);
    assert_int_equal(rate_take(rate, "a", 1100), 1);
    for (int i = 0; i < 10; i++)
        assert_int_equal(rate_take(rate, "a", 60000), 0); /* not more than one second's worth */
    assert_int_equal(rate_take(rate, "a", 60000), 1);
    rate_close(&rate);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_path_finds_its_operation_and_variables),
        cmocka_unit_test(variables_are_decoded),
        cmocka_unit_test(other_paths_and_methods_are_told_apart),
        cmocka_unit_test(every_operation_has_an_owner_and_a_right),
        cmocka_unit_test(good_bodies_pass),
        cmocka_unit_test(a_refusal_names_the_field_and_what_is_expected),
        cmocka_unit_test(lengths_count_code_points_to_the_very_limit),
        cmocka_unit_test(bytes_are_limited_where_bytes_are_named),
        cmocka_unit_test(null_is_absent_where_it_means_nothing),
        cmocka_unit_test(parameters_have_codes_of_their_own),
        cmocka_unit_test(a_time_range_runs_forward),
        cmocka_unit_test(so_many_a_second_for_each_principal),
    };
    return cmocka_run_group_tests_name("validate", tests, NULL, NULL);
}

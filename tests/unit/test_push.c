/* From a rule over the API to an HTTPS server: the real daemons, killed and denied their targets.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/sha.h>

#include "tests/unit/push_fixture.h"

static const char *program;
static struct identity ca, server;
static char *ca_pem;
static char cert[64];

static int start(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    ca = identity_make(&(struct cert_request){ "Plant CA", NULL, true, -60, 3600 }, NULL);
    server = identity_make(
        &(struct cert_request){ "x", "IP:127.0.0.1,DNS:app.example", false, -60, 3600 }, &ca);
    ca_pem = identity_pem(&ca);
    return push_up(program);
}

static int stop(void **state)
{
    (void)state;
    identity_free(&ca);
    identity_free(&server);
    free(ca_pem);
    return push_down();
}

static char *cert_body(const char *pem)
{
    json_t *o = json_pack("{s:s, s:s}", "name", "plant", "content", pem);
    char *text = json_dumps(o, 0);
    json_decref(o);
    return text;
}

static void certificates_are_kept_described_and_guarded(void **state)
{
    (void)state;
    char *body = cert_body(ca_pem), *leaf = identity_pem(&server), *bad = cert_body(leaf);
    struct answer a = call("CreateRoutingCertificate", NULL, NULL, body);
    assert_int_equal(a.status, 201);
    assert_string_equal(field(&a, "subject"), "CN=Plant CA");
    assert_int_equal(strlen(field(&a, "fingerprint")), 64);
    assert_int_equal(strlen(field(&a, "expires")), 16);
    keep(a, "cert_id", cert);
    assert_int_equal(strlen(cert), 24);
    expect(call("CreateRoutingCertificate", NULL, NULL, bad), 400, "IOTDA.014390", "not the cert");
    a = call("ListRoutingCertificates", NULL, NULL, NULL);
    assert_int_equal(json_integer_value(json_object_get(a.body, "count")), 1);
    assert_string_equal(field(&a, "marker"), cert);
    json_decref(a.body);
    a = call("ShowRoutingCertificate", "cert_id", cert, NULL);
    assert_string_equal(field(&a, "name"), "plant");
    json_decref(a.body);
    expect(call("ShowRoutingCertificate", "cert_id", "0123456789abcdef01234567", NULL), 404,
           "IOTDA.014391", "0123456789abcdef01234567");
    free(body);
    free(leaf);
    free(bad);
}

static void subjects_and_clauses_that_are_not_served_say_so(void **state)
{
    static const struct {
        const char *body;
        int status;
        const char *code, *text;
    } rows[] = {
        { "{\"subject\":{\"resource\":\"batchtask\",\"event\":\"update\"}}", 501, "IOTDA.000904",
          "batchtask:update" },
        { "{\"subject\":{\"resource\":\"product\",\"event\":\"report\"}}", 400, "IOTDA.000006",
          "no event" },
        { "{\"subject\":{\"resource\":\"product\"}}", 400, "IOTDA.000006", "subject.event" },
        { "{\"subject\":{\"resource\":\"device.status\",\"event\":\"update\"},\"where\":\"a = 1\"}",
          400, "IOTDA.010903", "where" },
        { "{\"subject\":{\"resource\":\"device.status\",\"event\":\"update\"},"
          "\"app_type\":\"APP\",\"app_id\":\"nope\"}",
          403, "IOTDA.001000", "nope" },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++)
        expect(call("CreateRoutingRule", NULL, NULL, rows[i].body), rows[i].status, rows[i].code,
               rows[i].text);
    char space[64], rule[64];
    struct answer a = call("CreateRoutingRule", NULL, NULL,
                           "{\"subject\":{\"resource\":\"device.status\",\"event\":\"update\"},"
                           "\"app_type\":\"APP\",\"select\":\" \"}");
    snprintf(rule, sizeof rule, "%s", field(&a, "rule_id"));
    keep(a, "app_id", space);
    assert_string_equal(space, "a1"); /* the default space */
    rule_end(rule);
    expect(call("DeleteRoutingRule", "rule_id", rule, NULL), 404, "IOTDA.010002", rule);
}

static struct answer add_action(const char *rule, const char *channel, const char *detail)
{
    char *body = cw_sprintf("{\"rule_id\":\"%s\",\"channel\":\"%s\",\"channel_detail\":%s}", rule,
                            channel, detail);
    struct answer a = call("CreateRuleAction", NULL, NULL, body);
    free(body);
    return a;
}

static void an_action_is_checked_and_keeps_its_token_to_itself(void **state)
{
    static const struct {
        const char *channel, *detail;
        int status;
        const char *code, *text;
    } rows[] = {
        { "MYSQL_FORWARDING", "{}", 501, "IOTDA.000904", "MYSQL_FORWARDING" },
        { "HTTP_FORWARDING", "{}", 400, "IOTDA.000006", "http_forwarding is missing" },
        { "HTTP_FORWARDING", "{\"amqp_forwarding\":{}}", 400, "IOTDA.000006", "does not belong" },
        { "HTTP_FORWARDING", "{\"http_forwarding\":{\"url\":\"http://a:80\"}}", 400, "IOTDA.000006",
          "http://a:80/" },
        { "HTTP_FORWARDING", "{\"http_forwarding\":{\"url\":\"http://169.254.1.1:80/\"}}", 400,
          "IOTDA.000006", "not allowed" },
        { "HTTP_FORWARDING",
          "{\"http_forwarding\":{\"url\":\"https://a:80/\",\"sni_enable\":true}}", 400,
          "IOTDA.000006", "cn_name" },
        { "HTTP_FORWARDING", "{\"http_forwarding\":{\"url\":\"https://a:80/\",\"token\":\"abc\"}}",
          400, "IOTDA.000006", "signature_enable" },
        { "HTTP_FORWARDING",
          "{\"http_forwarding\":{\"url\":\"https://a:80/\",\"cert_id\":\"ffff\"}}", 404,
          "IOTDA.014391", "ffff" },
    };
    char rule[64], action[64];
    (void)state;
    keep(call("CreateRoutingRule", NULL, NULL,
              "{\"rule_name\":\"lamp\",\"subject\":{\"resource\":\"device.message\",\"event\":"
              "\"report\"}}"),
         "rule_id", rule);
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++)
        expect(add_action(rule, rows[i].channel, rows[i].detail), rows[i].status, rows[i].code,
               rows[i].text);
    expect(add_action("none", "HTTP_FORWARDING", "{\"http_forwarding\":{\"url\":\"http://a:1/\"}}"),
           404, "IOTDA.010002", "none");
    expect(call("UpdateRoutingRule", "rule_id", rule, "{\"active\":true}"), 403, "IOTDA.010900",
           rule);
    expect(call("UpdateRoutingRule", "rule_id", rule, "{\"select\":\"\"}"), 400, "IOTDA.000006",
           "together");
    char *detail = cw_sprintf("{\"http_forwarding\":{\"url\":\"https://a:1/\",\"cert_id\":\"%s\","
                              "\"signature_enable\":true,\"token\":\"secret1\"}}",
                              cert);
    struct answer a = add_action(rule, "HTTP_FORWARDING", detail);
    char *text = json_dumps(a.body, 0);
    assert_int_equal(a.status, 201);
    assert_null(strstr(text, "secret1"));
    assert_non_null(strstr(text, "\"signature_enable\": true"));
    keep(a, "action_id", action);
    free(text);
    assert_null(strstr(query("SELECT token FROM rule.action"), "secret1"));
    expect(call("DeleteRoutingCertificate", "cert_id", cert, NULL), 403, "IOTDA.014392", cert);
    for (int i = 0; i < 2; i++) {
        struct answer more =
            add_action(rule, "HTTP_FORWARDING", "{\"http_forwarding\":{\"url\":\"http://a:1/\"}}");
        assert_int_equal(more.status, 201);
        json_decref(more.body);
    }
    expect(add_action(rule, "HTTP_FORWARDING", "{\"http_forwarding\":{\"url\":\"http://a:1/\"}}"),
           403, "IOTDA.010901", "ACTIONS_MAX");
    a = call("ListRuleActions", "rule_id", rule, NULL);
    assert_int_equal(json_integer_value(json_object_get(a.body, "count")), 3);
    json_decref(a.body);
    a = call("ListRoutingRules", "rule_name", "am", NULL);
    assert_int_equal(json_array_size(json_object_get(a.body, "rules")), 1);
    json_decref(a.body);
    rule_end(rule); /* and its actions */
    expect(call("ShowRuleAction", "action_id", action, NULL), 404, "IOTDA.010902", action);
    free(detail);
}

static void a_report_reaches_the_application_over_https(void **state)
{
    static struct got g;
    struct target t;
    char url[64], rule[64], action[64];
    (void)state;
    target_start(&t, &server, 0, true);
    snprintf(url, sizeof url, "https://127.0.0.1:%d/in", t.port);
    rule_to(url, cert, rule, action);
    report(1, 1, 3);
    UNTIL((collect(&t, &g), g.n[1] == 3));
    assert_int_equal(g.requests, 3);
    assert_non_null(strstr(g.first, "POST /in HTTP/1.1"));
    assert_non_null(strstr(g.first, "Content-Type: application/json; charset=UTF-8"));
    assert_non_null(strstr(g.first, "X-Causeway-Request-Id: 1.1\r\n"));
    assert_non_null(strstr(g.first, "X-Causeway-Attempt: 1\r\n"));
    assert_non_null(strstr(g.first, "\r\n\r\n{\"resource\":\"device.property\",\"event\":"));
    UNTIL(number_of(DELIVERED) == 3);
    assert_true(ledger_balances());
    rule_end(rule);
    target_stop(&t);
}

static void a_token_signs_each_push(void **state)
{
    struct target t;
    char rule[64], action[64], *text;
    (void)state;
    target_start(&t, NULL, 0, true);
    char *detail = cw_sprintf("{\"http_forwarding\":{\"url\":\"http://127.0.0.1:%d/in\","
                              "\"signature_enable\":true,\"token\":\"zToken\"}}",
                              t.port);
    keep(call("CreateRoutingRule", NULL, NULL,
              "{\"subject\":{\"resource\":\"device.property\",\"event\":\"report\"}}"),
         "rule_id", rule);
    keep(add_action(rule, "HTTP_FORWARDING", detail), "action_id", action);
    keep(call("UpdateRoutingRule", "rule_id", rule, "{\"active\":true}"), "rule_id", rule);
    report(2, 1, 1);
    while (!(text = target_next(&t, 10)))
        turn();
    char timestamp[32], nonce[64], signature[80], all[160], hex[65];
    uint8_t digest[32];
    assert_int_equal(sscanf(strstr(text, "timestamp: "), "timestamp: %31s", timestamp), 1);
    assert_int_equal(sscanf(strstr(text, "nonce: "), "nonce: %63s", nonce), 1);
    assert_int_equal(sscanf(strstr(text, "signature: "), "signature: %79s", signature), 1);
    bool nonce_first = strcmp(nonce, timestamp) < 0; /* digits before the z of the token */
    snprintf(all, sizeof all, "%s%szToken", nonce_first ? nonce : timestamp,
             nonce_first ? timestamp : nonce);
    SHA256((unsigned char *)all, strlen(all), digest);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(signature, hex);
    free(text);
    free(detail);
    rule_end(rule);
    target_stop(&t);
}

static void a_dead_target_delays_nobody_and_gets_all_in_order_when_it_is_back(void **state)
{
    static struct got good, late;
    struct target t, back;
    char url[64], rule[64], action[64], dead_rule[64], dead_action[64];
    int port = free_port();
    (void)state;
    UNTIL(settled());
    int before = number_of(DELIVERED);
    target_start(&t, NULL, 0, true);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", t.port);
    rule_to(url, NULL, rule, action);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", port);
    rule_to(url, NULL, dead_rule, dead_action);
    for (int i = 0; i < 10; i++)
        for (int d = 0; d < 8; d++)
            report(d, 1 + 5 * i, 5);
    UNTIL((collect(&t, &good), good.n[0] == 50 && good.n[7] == 50));
    UNTIL(number_of(PARKED) == 400); /* the others are rows, and the log has moved on */
    UNTIL(number_of(DELIVERED) - before == 400);
    assert_true(ledger_balances());
    target_start(&back, NULL, port, true);
    UNTIL((collect(&back, &late), number_of(PARKED) == 0));
    collect(&back, &late);
    for (int d = 0; d < 8; d++)
        assert_int_equal(late.n[d], 50);
    assert_int_equal(late.backwards, 0);
    assert_int_equal(good.backwards, 0);
    UNTIL(number_of(DELIVERED) - before == 800);
    assert_true(ledger_balances());
    rule_end(rule);
    rule_end(dead_rule);
    target_stop(&t);
    target_stop(&back);
}

static void anything_but_200_is_tried_again_then_given_up(void **state)
{
    static struct got g;
    struct target t;
    char url[64], rule[64], action[64], *text;
    int failed = number_of(FAILED), attempts = 0;
    (void)state;
    target_start(&t, NULL, 0, true);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/204", t.port);
    rule_to(url, NULL, rule, action);
    report(3, 1, 1);
    while (attempts < 3) {
        if ((text = target_next(&t, 10))) {
            char header[40];
            snprintf(header, sizeof header, "X-Causeway-Attempt: %d\r\n", ++attempts);
            assert_non_null(strstr(text, header));
            free(text);
        }
        turn();
    }
    /* five in a row would block it, and then the window does not run: a success in between */
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", t.port);
    char rule_ok[64], action_ok[64];
    rule_to(url, NULL, rule_ok, action_ok);
    for (int i = 1; number_of(FAILED) < failed + 2; i++) {
        report(5, i, 1);
        while ((text = target_next(&t, 10)))
            free(text);
        turn();
    }
    rule_end(rule);
    rule_end(rule_ok);
    UNTIL((collect(&t, &g), number_of(PARKED) == 0));
    UNTIL(settled());
    target_stop(&t);
}

static void killed_under_load_it_loses_nothing(void **state)
{
    static struct got g;
    struct target t;
    char url[64], rule[64], action[64];
    (void)state;
    target_start(&t, NULL, 0, true);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", t.port);
    rule_to(url, NULL, rule, action);
    for (int i = 0; i < 6; i++) {
        for (int d = 0; d < 8; d++)
            report(d, 1 + 50 * i, 50);
        collect(&t, &g);
        if (i % 2 == 0) {
            end_daemon(notifier, SIGKILL);
            notifier = run_daemon("push-notifier", "push", 1);
        } else {
            end_daemon(engine, SIGKILL);
            engine = run_daemon("rule-engine", "rule", 1);
        }
    }
    int done = 0;
    while (done < 8) {
        UNTIL((collect(&t, &g), g.n[done] == 300));
        done++;
    }
    assert_int_equal(g.backwards, 0);
    UNTIL(settled());
    rule_end(rule);
    target_stop(&t);
}

static void two_share_the_work_and_one_may_go(void **state)
{
    static struct got g;
    struct target t;
    char url[64], rule[64], action[64];
    (void)state;
    pid_t second = run_daemon("push-notifier", "push", 2);
    UNTIL(number_of("SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND pid IN (SELECT pid FROM pg_stat_activity"
                    " WHERE application_name LIKE 'push-notifier.%fence')") == 2);
    target_start(&t, NULL, 0, true);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", t.port);
    rule_to(url, NULL, rule, action);
    for (int i = 0; i < 10; i++) {
        for (int d = 0; d < 8; d++)
            report(d, 1 + 20 * i, 20);
        collect(&t, &g);
        if (i == 5)
            end_daemon(second, SIGTERM);
    }
    for (int d = 0; d < 8; d++)
        UNTIL((collect(&t, &g), g.n[d] == 200));
    assert_int_equal(g.backwards, 0);
    UNTIL(settled());
    rule_end(rule);
    target_stop(&t);
}

static void what_waits_too_long_is_given_up_and_counted(void **state)
{
    char url[64], rule[64], action[64];
    int expired = number_of(EXPIRED);
    (void)state;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", free_port());
    rule_to(url, NULL, rule, action);
    report(1, 1, 50);
    UNTIL(number_of(PARKED) == 50);
    end_daemon(notifier, SIGTERM);
    setenv("CAUSEWAY_PUSH_EXPIRE", "100ms", 1);
    notifier = run_daemon("push-notifier", "push", 1);
    UNTIL(number_of(EXPIRED) - expired == 50 && number_of(PARKED) == 0);
    unsetenv("CAUSEWAY_PUSH_EXPIRE");
    assert_true(ledger_balances());
    rule_end(rule);
}

int main(int argc, char **argv)
{
    (void)argc;
    program = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(certificates_are_kept_described_and_guarded),
        cmocka_unit_test(subjects_and_clauses_that_are_not_served_say_so),
        cmocka_unit_test(an_action_is_checked_and_keeps_its_token_to_itself),
        cmocka_unit_test(a_report_reaches_the_application_over_https),
        cmocka_unit_test(a_token_signs_each_push),
        cmocka_unit_test(a_dead_target_delays_nobody_and_gets_all_in_order_when_it_is_back),
        cmocka_unit_test(anything_but_200_is_tried_again_then_given_up),
        cmocka_unit_test(killed_under_load_it_loses_nothing),
        cmocka_unit_test(two_share_the_work_and_one_may_go),
        cmocka_unit_test(what_waits_too_long_is_given_up_and_counted),
    };
    return cmocka_run_group_tests_name("push", tests, start, stop);
}

/* links: services/rule-engine/match.c services/rule-engine/target_url.c */
/* Rules without servers: who is owed an event, what the notification is, which URL and which
 * certificate are taken. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "libcommon/ca_pem.h"
#include "libcommon/cidr.h"
#include "libcommon/clock.h"
#include "services/rule-engine/match.h"
#include "services/rule-engine/target_url.h"
#include "tests/unit/tls_target.h"

#define KIND(k) CAUSEWAY__EVENT_KIND__EVENT_##k

static Causeway__Event event_of(Causeway__EventKind kind, const char *body)
{
    Causeway__Event e = CAUSEWAY__EVENT__INIT;
    e.kind = kind;
    e.request_id = "r-1";
    e.time_ms = 1795415640127; /* 2026-11-23T06:34:00.127Z */
    e.device_key = 7;
    e.device_id = "pump-7";
    e.node_id = "7";
    e.gateway_id = "gw-1";
    e.product_id = "65aa01";
    e.app_id = "a1";
    e.topic = "$oc/devices/pump-7/sys/messages/up";
    e.body = (ProtobufCBinaryData){ strlen(body), (uint8_t *)body };
    return e;
}

struct hits {
    char text[256];
};

static void hit(const struct rule *r, void *arg)
{
    struct hits *h = arg;
    strcat(strcat(h->text, r->action_id), " ");
}

static void an_event_is_owed_to_the_rules_of_its_kind_and_space(void **state)
{
    struct rule_set set = { 0 };
    (void)state;
    rule_set_add(&set, "device.property", "report", "r1", "all", NULL);
    rule_set_add(&set, "device.property", "report", "r1", "second", NULL);
    rule_set_add(&set, "device.property", "report", "r2", "mine", "a1");
    rule_set_add(&set, "device.property", "report", "r3", "other", "a2");
    rule_set_add(&set, "device.status", "update", "r4", "status", NULL);
    rule_set_add(&set, "product", "update", "r5", "product", NULL);
    const struct {
        Causeway__EventKind kind;
        const char *hits;
    } rows[] = {
        { KIND(PROPERTY_REPORT), "all second mine " },
        { KIND(DEVICE_STATUS), "status " },
        { KIND(MESSAGE_REPORT), "" },
        { KIND(PRODUCT_UPDATED), "product " },
        { KIND(PRODUCT_CREATED), "" },
        { 4711, "" },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct hits h = { 0 };
        Causeway__Event e = event_of(rows[i].kind, "{}");
        rule_set_match(&set, &e, hit, &h);
        assert_string_equal(h.text, rows[i].hits);
    }
    rule_set_free(&set);
}

static void subjects_are_served_known_or_unknown(void **state)
{
    (void)state;
    assert_int_equal(subject_state("device.message", "report"), SUBJECT_SERVED);
    assert_int_equal(subject_state("batchtask", "update"), SUBJECT_KNOWN);
    assert_int_equal(subject_state("device.property", "update"), SUBJECT_UNKNOWN);
    assert_int_equal(subject_state("", ""), SUBJECT_UNKNOWN);
}

static void assert_notification(const Causeway__Event *e, const char *want)
{
    struct cw_buf a = { 0 }, b = { 0 };
    assert_int_equal(notification_write(&a, e), 0);
    assert_int_equal(notification_write(&b, e), 0);
    assert_string_equal(a.data, want);
    assert_string_equal(a.data, b.data); /* a repetition is the same */
    json_t *v = json_loads(a.data, 0, NULL);
    assert_non_null(v);
    json_decref(v);
    cw_buf_free(&a);
    cw_buf_free(&b);
}

#define ENVELOPE(resource, event)                                                                  \
    "{\"resource\":\"" resource "\",\"event\":\"" event "\",\"event_time\":\"20261123T063400Z\","  \
    "\"event_time_ms\":\"2026-11-23T06:34:00.127Z\",\"request_id\":\"r-1\",\"notify_data\":{"      \
    "\"header\":{\"app_id\":\"a1\",\"device_id\":\"pump-7\",\"node_id\":\"7\","                    \
    "\"product_id\":\"65aa01\",\"gateway_id\":\"gw-1\""

static void a_notification_has_the_documented_form(void **state)
{
    (void)state;
    Causeway__Event e = event_of(KIND(PROPERTY_REPORT), "{\"services\":[{\"service_id\":\"B\"}]}");
    assert_notification(&e, ENVELOPE("device.property", "report") ",\"tags\":[]},\"body\":"
                                                                  "{\"services\":[{\"service_id\":"
                                                                  "\"B\"}]}}}");
    e = event_of(KIND(DEVICE_STATUS), "{\"status\":\"ONLINE\"}");
    assert_notification(&e,
                        ENVELOPE("device.status", "update") "},\"body\":{\"status\":\"ONLINE\"}}}");
}

static void a_body_that_is_no_object_makes_no_notification(void **state)
{
    struct cw_buf b = { 0 };
    (void)state;
    Causeway__Event e = event_of(KIND(PROPERTY_REPORT), "");
    assert_int_equal(notification_write(&b, &e), -EBADMSG);
    e = event_of(KIND(NONE), "{}");
    assert_int_equal(notification_write(&b, &e), -EBADMSG);
    cw_buf_free(&b);
}

static void a_url_needs_scheme_host_port_and_path(void **state)
{
    static const char *const good[] = { "http://203.0.113.9:8081/in", "https://app.example:9443/",
                                        "https://[2001:db8::1]:443/x?y=1", "HTTP://a:1/" };
    static const struct {
        const char *url, *part;
    } bad[] = {
        { "http://203.0.113.9:8081", "The path is missing: write for example "
                                     "http://203.0.113.9:8081/" },
        { "http://203.0.113.9/in", "The port is missing: write for example "
                                   "http://203.0.113.9:80/in" },
        { "https://app.example", "The port is missing: write for example "
                                 "https://app.example:443/" },
        { "https://app.example:9443?x=1", "https://app.example:9443/?x=1" },
        { "ftp://a:21/", "The scheme" },
        { "app.example:80/", "The scheme" },
        { "http://:80/", "The host" },
        { "http://a b:80/", "Character 9" },
        { "http://a_b!:80/", "The host" },
        { "http://[::1:80/", "The host" },
        { "http://u:p@a:80/", "A user name" },
        { "http://a:0/", "The port is not a number" },
        { "http://a:65536/", "The port is not a number" },
        { "http://a:/", "The port is missing" },
        { "http://a:8x/", "The port is not a number" },
        { "http://a:80/#top", "A fragment" },
        { "http://169.254.169.254:80/", "is not allowed" },
        { "http://[fe80::1]:80/", "is not allowed" },
        { "", "The scheme" },
    };
    char why[400];
    struct cw_cidr_list *deny;
    (void)state;
    assert_int_equal(cw_cidr_parse(&deny, "169.254.0.0/16,fe80::/10", why, sizeof why), 0);
    for (size_t i = 0; i < CW_ARRAY_LEN(good); i++)
        assert_int_equal(target_url_check(good[i], deny, why, sizeof why), 0);
    for (size_t i = 0; i < CW_ARRAY_LEN(bad); i++) {
        assert_int_equal(target_url_check(bad[i].url, deny, why, sizeof why), -EINVAL);
        if (!strstr(why, bad[i].part))
            fail_msg("%s: %s", bad[i].url, why);
    }
    cw_cidr_free(&deny);
}

static void a_long_url_is_refused_without_harm(void **state)
{
    char why[400], url[2000];
    (void)state;
    snprintf(url, sizeof url, "http://%0*d:80/", 1500, 0);
    assert_int_equal(target_url_check(url, NULL, why, sizeof why), -EINVAL);
    snprintf(url, sizeof url, "http://a/%0*d", 1500, 0);
    assert_int_equal(target_url_check(url, NULL, why, sizeof why), -EINVAL);
    assert_int_equal(target_name_check("app.example:9443", why, sizeof why), 0);
    assert_int_equal(target_name_check("app.example", why, sizeof why), 0);
    assert_int_equal(target_name_check("app example:1", why, sizeof why), -EINVAL);
    assert_int_equal(target_name_check("", why, sizeof why), -EINVAL);
}

static char *read_fails(const char *text)
{
    static char why[200];
    struct ca_pem ca;
    assert_int_equal(ca_pem_read(&ca, text, strlen(text), cw_now_ms(), why, sizeof why), -EINVAL);
    return why;
}

static void a_certificate_of_a_ca_is_taken_and_described(void **state)
{
    struct ca_pem out;
    char why[200];
    (void)state;
    struct identity ca =
        identity_make(&(struct cert_request){ "Plant CA", NULL, true, -60, 3600 }, NULL);
    char *pem = identity_pem(&ca), *around = cw_sprintf("some words\n%sother words\n", pem);
    assert_int_equal(ca_pem_read(&out, around, strlen(around), cw_now_ms(), why, sizeof why), 0);
    assert_string_equal(out.content, pem);
    assert_string_equal(out.subject, "CN=Plant CA");
    assert_int_equal(strlen(out.fingerprint), 64);
    assert_in_range(out.expires_ms, cw_now_ms() + 3500000, cw_now_ms() + 3601000);
    ca_pem_free(&out);
    free(pem);
    free(around);
    identity_free(&ca);
}

static void anything_else_is_refused_with_its_reason(void **state)
{
    (void)state;
    struct identity ca =
        identity_make(&(struct cert_request){ "Plant CA", NULL, true, -60, 3600 }, NULL);
    struct identity leaf =
        identity_make(&(struct cert_request){ "server", NULL, false, -60, 3600 }, &ca);
    struct identity old =
        identity_make(&(struct cert_request){ "Old CA", NULL, true, -3600, -60 }, NULL);
    char *ca_text = identity_pem(&ca), *leaf_text = identity_pem(&leaf),
         *old_text = identity_pem(&old);
    char *two = cw_sprintf("%s%s", ca_text, old_text);
    char *cut = cw_sprintf("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    assert_non_null(strstr(read_fails(leaf_text), "not the certificate of a CA"));
    assert_non_null(strstr(read_fails(old_text), "expired"));
    assert_non_null(strstr(read_fails(two), "several"));
    assert_non_null(strstr(read_fails("hello"), "no PEM certificate"));
    assert_non_null(strstr(read_fails(cut), "cannot be read"));
    assert_non_null(strstr(
        read_fails("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"), "private"));
    free(ca_text);
    free(leaf_text);
    free(old_text);
    free(two);
    free(cut);
    identity_free(&ca);
    identity_free(&leaf);
    identity_free(&old);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_is_owed_to_the_rules_of_its_kind_and_space),
        cmocka_unit_test(subjects_are_served_known_or_unknown),
        cmocka_unit_test(a_notification_has_the_documented_form),
        cmocka_unit_test(a_body_that_is_no_object_makes_no_notification),
        cmocka_unit_test(a_url_needs_scheme_host_port_and_path),
        cmocka_unit_test(a_long_url_is_refused_without_harm),
        cmocka_unit_test(a_certificate_of_a_ca_is_taken_and_described),
        cmocka_unit_test(anything_else_is_refused_with_its_reason),
    };
    return cmocka_run_group_tests_name("rule_match", tests, NULL, NULL);
}

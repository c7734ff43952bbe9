/* The HTTP client against a real TLS server: each way of failing has its stage and its word. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "libcommon/cidr.h"
#include "libcommon/http_client.h"
#include "tests/unit/tls_target.h"
#include "tests/unit/until.h"

static struct event_base *base;
static struct cw_http *http;
static struct identity ca, other_ca, good, cn_only, expired, wrong_name;
static char *ca_pem, *other_pem;
static struct target good_target, cn_target, expired_target, name_target, plain_target;

static int start(void **state)
{
    char err[128];
    (void)state;
    base = event_base_new();
    const struct cert_request authority = { "Test CA", NULL, true, -60, 3600 };
    ca = identity_make(&authority, NULL);
    other_ca = identity_make(&authority, NULL);
    good = identity_make(
        &(struct cert_request){ "x", "DNS:app.example,IP:127.0.0.1", false, -60, 3600 }, &ca);
    cn_only = identity_make(&(struct cert_request){ "localhost", NULL, false, -60, 3600 }, &ca);
    expired = identity_make(
        &(struct cert_request){ "x", "DNS:localhost,IP:127.0.0.1", false, -3600, -60 }, &ca);
    wrong_name = identity_make(
        &(struct cert_request){ "127.0.0.1", "DNS:b.example", false, -60, 3600 }, &ca);
    ca_pem = identity_pem(&ca);
    other_pem = identity_pem(&other_ca);
    target_start(&good_target, &good, 0, false);
    target_start(&cn_target, &cn_only, 0, false);
    target_start(&expired_target, &expired, 0, false);
    target_start(&name_target, &wrong_name, 0, false);
    target_start(&plain_target, NULL, 0, true);
    return cw_http_open(&http, base, &(struct cw_http_config){ .deny = "127.9.0.0/16, ::2/128" },
                        err, sizeof err);
}

static int stop(void **state)
{
    (void)state;
    struct target *targets[] = { &good_target, &cn_target, &expired_target, &name_target,
                                 &plain_target };
    struct identity *ids[] = { &ca, &other_ca, &good, &cn_only, &expired, &wrong_name };
    cw_http_close(&http);
    for (size_t i = 0; i < CW_ARRAY_LEN(targets); i++)
        target_stop(targets[i]);
    for (size_t i = 0; i < CW_ARRAY_LEN(ids); i++)
        identity_free(ids[i]);
    free(ca_pem);
    free(other_pem);
    event_base_free(base);
    return 0;
}

struct result {
    int n, status;
    enum cw_http_stage stage;
    bool truncated;
    size_t len;
    int64_t took_ms;
    char code[32], reason[400];
};

static void on_outcome(const struct cw_http_outcome *o, void *arg)
{
    struct result *r = arg;
    r->n++;
    r->status = o->status;
    r->stage = o->stage;
    r->truncated = o->truncated;
    r->len = o->len;
    r->took_ms = o->took_ms;
    snprintf(r->code, sizeof r->code, "%s", o->code);
    snprintf(r->reason, sizeof r->reason, "%s", o->reason);
}

static const char *url_of(char out[128], const char *scheme, const char *host, int port,
                          const char *path)
{
    snprintf(out, 128, "%s://%s:%d%s", scheme, host, port, path);
    return out;
}

static struct result ask(struct cw_http_request r)
{
    struct result out = { 0 };
    if (!r.timeout_ms)
        r.timeout_ms = 10000;
    r.method = "POST";
    r.body = "{}";
    r.len = 2;
    cw_http_send(http, &r, on_outcome, &out);
    run_until(base, &out.n, 1);
    return out;
}

/* A request to https://<host>:<port of t><path> with the test's CA. */
static struct result ask_tls(const struct target *t, const char *host, const char *path,
                             struct cw_http_request r)
{
    char url[128];
    r.url = url_of(url, "https", host, t->port, path);
    if (!r.ca_pem)
        r.ca_pem = ca_pem;
    return ask(r);
}

static struct result ask_plain(const char *path, int64_t timeout_ms)
{
    char url[128];
    return ask(
        (struct cw_http_request){ .url = url_of(url, "http", "127.0.0.1", plain_target.port, path),
                                  .timeout_ms = timeout_ms });
}

static void assert_ok(struct result r)
{
    assert_string_equal(r.reason, "answered 200");
    assert_string_equal(r.code, "ok");
    assert_int_equal(r.stage, CW_HTTP_STATUS);
}

static void assert_fails(struct result r, enum cw_http_stage stage, const char *code)
{
    if (strcmp(r.code, code) != 0)
        print_message("%s: %s\n", r.code, r.reason);
    assert_string_equal(r.code, code);
    assert_int_equal(r.stage, stage);
    assert_true(strlen(r.reason) > 10);
}

static void san_decides_and_cn_only_without_san(void **state)
{
    (void)state;
    assert_ok(ask_tls(&good_target, "127.0.0.1", "/", (struct cw_http_request){ 0 }));
    assert_fails(ask_tls(&good_target, "localhost", "/", (struct cw_http_request){ 0 }),
                 CW_HTTP_TLS, "tls_name");
    assert_ok(ask_tls(&cn_target, "localhost", "/", (struct cw_http_request){ 0 }));
    assert_fails(ask_tls(&name_target, "127.0.0.1", "/", (struct cw_http_request){ 0 }),
                 CW_HTTP_TLS, "tls_name");
}

static void another_name_may_be_expected_or_none(void **state)
{
    (void)state;
    assert_ok(ask_tls(&good_target, "localhost", "/",
                      (struct cw_http_request){ .cert_name = "app.example" }));
    assert_fails(ask_tls(&good_target, "127.0.0.1", "/",
                         (struct cw_http_request){ .cert_name = "c.example" }),
                 CW_HTTP_TLS, "tls_name");
    assert_ok(
        ask_tls(&good_target, "localhost", "/", (struct cw_http_request){ .any_name = true }));
    /* the connection that was not checked is not used for a request that wants it */
    assert_fails(ask_tls(&good_target, "localhost", "/", (struct cw_http_request){ 0 }),
                 CW_HTTP_TLS, "tls_name");
    assert_fails(ask_tls(&good_target, "localhost", "/",
                         (struct cw_http_request){ .any_name = true, .ca_pem = other_pem }),
                 CW_HTTP_TLS, "tls_ca");
}

static void sni_can_be_chosen(void **state)
{
    (void)state;
    assert_ok(
        ask_tls(&good_target, "127.0.0.1", "/", (struct cw_http_request){ .sni = "sni.example" }));
    assert_string_equal(target_sni(&good_target), "sni.example");
}

static void a_chain_that_is_not_right_is_named(void **state)
{
    (void)state;
    assert_fails(
        ask_tls(&good_target, "127.0.0.1", "/", (struct cw_http_request){ .ca_pem = other_pem }),
        CW_HTTP_TLS, "tls_ca");
    assert_fails(ask_tls(&expired_target, "127.0.0.1", "/", (struct cw_http_request){ 0 }),
                 CW_HTTP_TLS, "tls_expired");
    assert_fails(ask_tls(&good_target, "127.0.0.1", "/",
                         (struct cw_http_request){ .ca_pem = "not a certificate" }),
                 CW_HTTP_TLS, "tls_ca");
    char url[128]; /* the system's store does not know our CA */
    assert_fails(ask((struct cw_http_request){
                     .url = url_of(url, "https", "127.0.0.1", good_target.port, "/") }),
                 CW_HTTP_TLS, "tls_ca");
}

static void https_on_an_http_port_fails_in_tls(void **state)
{
    (void)state;
    struct result r =
        ask_tls(&plain_target, "127.0.0.1", "/", (struct cw_http_request){ .timeout_ms = 500 });
    assert_int_equal(r.stage, CW_HTTP_TLS);
}

static void every_status_is_an_answer_and_no_redirect_is_followed(void **state)
{
    (void)state;
    static const int codes[] = { 200, 204, 302, 307, 404, 500, 503 };
    for (size_t i = 0; i < CW_ARRAY_LEN(codes); i++) {
        char path[16];
        snprintf(path, sizeof path, "/%d", codes[i]);
        struct result r = ask_plain(path, 5000);
        assert_int_equal(r.status, codes[i]);
        assert_string_equal(r.code, "ok");
        char *seen = target_next(&plain_target, 5000);
        assert_non_null(seen);
        assert_memory_equal(seen, "POST /", 6);
        free(seen);
        assert_null(target_next(&plain_target, 0));
    }
}

static void connections_are_used_again(void **state)
{
    (void)state;
    assert_ok(ask_tls(&good_target, "127.0.0.1", "/", (struct cw_http_request){ 0 }));
    int before = target_connections(&good_target);
    for (int i = 0; i < 20; i++)
        assert_ok(ask_tls(&good_target, "127.0.0.1", "/", (struct cw_http_request){ 0 }));
    assert_int_equal(target_connections(&good_target), before);
}

static void what_does_not_answer_ends_in_time(void **state)
{
    (void)state;
    struct result r = ask_plain("/slow", 300);
    assert_fails(r, CW_HTTP_SENT, "timeout");
    assert_in_range(r.took_ms, 290, 5000);
    assert_fails(ask_plain("/reset", 5000), CW_HTTP_SENT, "reset");
}

static void answers_are_kept_up_to_a_limit(void **state)
{
    (void)state;
    struct result r = ask_plain("/big", 5000);
    assert_ok(r);
    assert_int_equal(r.len, 65536);
    assert_true(r.truncated);
    assert_fails(ask_plain("/endless", 5000), CW_HTTP_SENT, "too_long");
}

static void nobody_there_and_no_such_name(void **state)
{
    (void)state;
    char url[128];
    assert_fails(
        ask((struct cw_http_request){ .url = url_of(url, "http", "127.0.0.1", free_port(), "/") }),
        CW_HTTP_CONNECT, "refused");
    assert_fails(ask((struct cw_http_request){ .url = "http://no-such-host.invalid:80/" }),
                 CW_HTTP_DNS, "dns");
    assert_fails(ask((struct cw_http_request){ .url = "ftp://127.0.0.1/" }), CW_HTTP_DNS, "url");
}

static void denied_addresses_are_not_connected_to(void **state)
{
    static const char *const hosts[] = { "127.9.1.2", "169.254.169.254", "[fe80::1]", "[::2]",
                                         "[::ffff:169.254.1.1]" };
    char url[128];
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(hosts); i++)
        assert_fails(ask((struct cw_http_request){
                         .url = url_of(url, "http", hosts[i], plain_target.port, "/") }),
                     CW_HTTP_CONNECT, "denied");
    static const char *const bad[] = { "10.0.0.0/33", "ten/8", "10.0.0.0/8x", "::/129",
                                       "1.2.3.4/" };
    for (size_t i = 0; i < CW_ARRAY_LEN(bad); i++) {
        struct cw_cidr_list *list;
        char err[128];
        assert_int_equal(cw_cidr_parse(&list, bad[i], err, sizeof err), -EINVAL);
        assert_non_null(strstr(err, bad[i]));
    }
}

static void a_cancelled_call_says_nothing_and_many_run_at_once(void **state)
{
    struct result r[50] = { 0 }, never = { 0 };
    char url[128], slow[128];
    (void)state;
    struct cw_http_request q = { .url = url_of(url, "http", "127.0.0.1", plain_target.port, "/"),
                                 .method = "POST",
                                 .body = "{}",
                                 .len = 2,
                                 .timeout_ms = 20000 };
    struct cw_http_request s = q;
    s.url = url_of(slow, "http", "127.0.0.1", plain_target.port, "/slow");
    struct cw_http_call *call = cw_http_send(http, &s, on_outcome, &never);
    for (int i = 0; i < 50; i++)
        cw_http_send(http, &q, on_outcome, &r[i]);
    cw_http_cancel(&call);
    for (int i = 0; i < 50; i++) {
        run_until(base, &r[i].n, 1);
        assert_ok(r[i]);
    }
    assert_int_equal(never.n, 0);
    assert_int_equal(cw_http_running(http), 0);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(san_decides_and_cn_only_without_san),
        cmocka_unit_test(another_name_may_be_expected_or_none),
        cmocka_unit_test(sni_can_be_chosen),
        cmocka_unit_test(a_chain_that_is_not_right_is_named),
        cmocka_unit_test(https_on_an_http_port_fails_in_tls),
        cmocka_unit_test(every_status_is_an_answer_and_no_redirect_is_followed),
        cmocka_unit_test(connections_are_used_again),
        cmocka_unit_test(what_does_not_answer_ends_in_time),
        cmocka_unit_test(answers_are_kept_up_to_a_limit),
        cmocka_unit_test(nobody_there_and_no_such_name),
        cmocka_unit_test(denied_addresses_are_not_connected_to),
        cmocka_unit_test(a_cancelled_call_says_nothing_and_many_run_at_once),
    };
    return cmocka_run_group_tests_name("http_client", tests, start, stop);
}

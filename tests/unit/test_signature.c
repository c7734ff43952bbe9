/* The signed requests of the application SDKs, byte by byte. */
/* links: services/rest-gateway/signature.c services/rest-gateway/route.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/clock.h"
#include "libcommon/crypto.h"
#include "services/rest-gateway/signature.h"

#define AK      "AKCAUSEWAY0000000001"
#define SK      "SKcauseway00000000000000000000000000000001"
#define PROJECT "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
#define DATE    "20230101T120000Z"
#define NOW_MS  1672574400000LL
#define EMPTY   "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static const struct signed_header headers[] = {
    { "Host", "iotda.example.test:8943" }, { "Content-Type", "application/json" },
    { "X-Project-Id", PROJECT },           { "X-Sdk-Date", DATE },
    { "Instance-Id", "inst-1" },
};
static const char body[] = "{\"service_id\":\"Light\",\"command_name\":\"ON_OFF\",\"paras\":"
                           "{\"value\":\"ON\"}}";

/* A, B: what arrives: the query in another order, encoded by the client its own way. */
static const struct signed_request get = {
    .method = "GET",
    .path = "/v5/iot/" PROJECT "/devices",
    .query = "limit=50&device_name=a+b%e4%b8%ad~*&is_cascade_query=true&app_id=",
    .headers = headers,
    .n_headers = 4,
};
/* C, D */
static const struct signed_request post = {
    .method = "POST",
    .path = "/v5/iot/" PROJECT "/devices/prod1_node1/commands",
    .headers = headers,
    .n_headers = 5,
    .body = body,
    .body_len = sizeof body - 1,
};
/* E, F */
static const struct signed_header upload_headers[] = {
    { "content-type", "multipart/form-data; boundary=XbX" },
    { "host", "iotda.example.test:8943" },
    { "x-project-id", PROJECT },
    { "x-sdk-content-sha256", "UNSIGNED-PAYLOAD" },
    { "x-sdk-date", DATE },
    { "x-security-token", "sts-token-1" },
};
static const struct signed_request upload = {
    .method = "POST",
    .path = "/v5/iot/" PROJECT "/batchtask-files",
    .headers = upload_headers,
    .n_headers = 6,
    .body = "--XbX--",
    .body_len = 7,
    .multipart = true,
};
/* G */
static const struct signed_header iam_headers[] = { { "Host", "iam.example.test" },
                                                    { "X-Sdk-Date", DATE } };
static const struct signed_request iam = {
    .method = "GET",
    .path = "/v3/projects",
    .query = "name=region-1",
    .headers = iam_headers,
    .n_headers = 2,
};

#define SIGNED_GET  "content-type;host;x-project-id;x-sdk-date"
#define SIGNED_POST "content-type;host;instance-id;x-project-id;x-sdk-date"
#define SIGNED_UPLOAD                                                                              \
    "content-type;host;x-project-id;x-sdk-content-sha256;x-sdk-date;x-security-token"

static char *authorization(enum signature_scheme scheme, const char *names, const char *value)
{
    if (scheme == SIGNATURE_SDK)
        return cw_sprintf("SDK-HMAC-SHA256 Access=" AK ", SignedHeaders=%s, Signature=%s", names,
                          value);
    return cw_sprintf("V11-HMAC-SHA256 Credential=" AK
                      "/20230101/region-1/iotdm, SignedHeaders=%s, Signature=%s",
                      names, value);
}

static int check(enum signature_scheme scheme, const struct signed_request *r, const char *names,
                 const char *value)
{
    struct signature s;
    char why[256], *text = authorization(scheme, names, value);
    int rc = signature_parse(&s, text);
    if (rc == 0)
        rc = signature_precheck(&s, r, "*", NOW_MS, why, sizeof why);
    if (rc == 0)
        rc = signature_verify(&s, r, SK);
    signature_free(&s);
    free(text);
    return rc;
}

static const struct vector {
    const char *name;
    enum signature_scheme scheme;
    const struct signed_request *request;
    const char *names, *value;
} vectors[] = {
    { "A", SIGNATURE_SDK, &get, SIGNED_GET,
      "fcfb89a42a25e073d18224921a9cc68cd24361a37f753891f03a1a58dd6f48ac" },
    { "B", SIGNATURE_V11, &get, SIGNED_GET,
      "8e3470bc0d8cdde79e33534f028fc841f25faa21467700a07856976097fd5f7e" },
    { "C", SIGNATURE_SDK, &post, SIGNED_POST,
      "b535f73d830790655984ec0460aece897046679ede7d8dcd7bcb70e228307bd0" },
    { "D", SIGNATURE_V11, &post, SIGNED_POST,
      "2469ee9af7d910f56bed6d0629fc4ca25961d2377f7022aed4c27fb1a3271083" },
    { "E", SIGNATURE_SDK, &upload, SIGNED_UPLOAD,
      "2f4e08ffd33b9d2d8c4857c52aaf51cb70f767a4761282647a86c08f7d6900e0" },
    { "F", SIGNATURE_V11, &upload, SIGNED_UPLOAD,
      "80fe79973ff79077bba8606303c4af1c507f124bd09c24a0a1f5e74bfc44f4bb" },
    { "G", SIGNATURE_SDK, &iam, "host;x-sdk-date",
      "d15f67ff96d35d0d08e22b0535a14fc9188861b1983bac50efc40b7715ca5e6c" },
};

static void what_the_official_sdks_sign_is_accepted(void **state)
{
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(vectors); i++) {
        const struct vector *v = &vectors[i];
        if (check(v->scheme, v->request, v->names, v->value) != 0)
            fail_msg("vector %s was refused", v->name);
    }
}

static void a_changed_request_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(vectors); i++) {
        const struct vector *v = &vectors[i];
        struct signed_request r = *v->request;
        char value[65];
        r.method = "PUT";
        assert_int_equal(check(v->scheme, &r, v->names, v->value), -EACCES);
        r = *v->request;
        r.path = "/v5/iot/" PROJECT "/device";
        assert_int_equal(check(v->scheme, &r, v->names, v->value), -EACCES);
        r = *v->request;
        r.query = "limit=51";
        assert_int_equal(check(v->scheme, &r, v->names, v->value), -EACCES);
        memcpy(value, v->value, sizeof value);
        value[63] = value[63] == '0' ? '1' : '0';
        assert_int_equal(check(v->scheme, v->request, v->names, value), -EACCES);
        /* the other scheme's signature */
        assert_int_equal(check(!v->scheme, v->request, v->names, v->value), -EACCES);
    }
}

static void the_canonical_request_is_the_documented_one(void **state)
{
    struct signature s;
    struct cw_buf text = { 0 };
    uint8_t digest[CW_DIGEST_LEN];
    char hex[CW_DIGEST_HEX_LEN], *header = authorization(SIGNATURE_SDK, SIGNED_GET, EMPTY);
    (void)state;
    assert_int_equal(signature_parse(&s, header), 0);
    signature_canonical(&text, &s, &get, false, EMPTY);
    assert_string_equal(text.data, "GET\n/v5/iot/" PROJECT "/devices/\n"
                                   "app_id=&device_name=a%20b%E4%B8%AD~%2A&is_cascade_query=true&"
                                   "limit=50\ncontent-type:application/json\n"
                                   "host:iotda.example.test:8943\nx-project-id:" PROJECT
                                   "\nx-sdk-date:" DATE "\n\n" SIGNED_GET "\n" EMPTY);
    cw_sha256(digest, text.data, text.len);
    assert_string_equal(cw_hex(hex, digest, sizeof digest),
                        "f4e5f6e29d751f7672c28217de6d22c95eef44f85fc794ef56e7e539e6a27f9e");
    signature_free(&s);
    free(header);
    cw_buf_free(&text);
}

static void a_refusal_can_name_the_digest_of_what_arrived(void **state)
{
    static const char *const want[] = {
        "f4e5f6e29d751f7672c28217de6d22c95eef44f85fc794ef56e7e539e6a27f9e",
        "92d6deae1f1ec734c9534f09042d272b899dd4386ec545c5a671f84ee4b835e6"
    };
    const struct signed_request *const requests[] = { &get, &post };
    const char *const names[] = { SIGNED_GET, SIGNED_POST };
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct signature s;
        char hex[65], *header = authorization(SIGNATURE_SDK, names[i], EMPTY);
        assert_int_equal(signature_parse(&s, header), 0);
        signature_digest(hex, &s, requests[i]);
        assert_string_equal(hex, want[i]);
        signature_free(&s);
        free(header);
    }
}

/* Signs as a client would, with the path as given. */
static void sign(char out[65], const struct signed_request *r, const char *names, bool raw,
                 const char *digest)
{
    struct signature s;
    struct cw_buf text = { 0 };
    char *header = authorization(SIGNATURE_SDK, names, EMPTY);
    assert_int_equal(signature_parse(&s, header), 0);
    signature_canonical(&text, &s, r, raw, digest);
    signature_compute(out, &s, DATE, SK, text.data, text.len);
    signature_free(&s);
    free(header);
    cw_buf_free(&text);
}

static void an_escaped_path_may_be_signed_decoded_or_raw(void **state)
{
    struct signed_request r = get;
    char value[65];
    (void)state;
    r.path = "/v5/iot/" PROJECT "/devices/a%20b";
    for (int raw = 0; raw < 2; raw++) {
        sign(value, &r, SIGNED_GET, raw, EMPTY);
        assert_int_equal(check(SIGNATURE_SDK, &r, SIGNED_GET, value), 0);
    }
    struct cw_buf text = { 0 };
    struct signature s = { .signed_text = "" };
    signature_canonical(&text, &s, &r, true, "");
    assert_non_null(strstr(text.data, "/a%2520b/\n"));
    cw_buf_free(&text);
}

static void a_body_stays_unsigned_only_where_that_is_signed_and_allowed(void **state)
{
    struct signed_request r = upload;
    struct signed_header h[6];
    const char *without = "content-type;host;x-project-id;x-sdk-date;x-security-token";
    char value[65];
    (void)state;
    r.body = "something else";
    r.body_len = 14;
    assert_int_equal(check(SIGNATURE_SDK, &r, SIGNED_UPLOAD, vectors[4].value), 0);
    r.multipart = false;
    assert_int_equal(check(SIGNATURE_SDK, &r, SIGNED_UPLOAD, vectors[4].value), -EACCES);
    r.body_len = 0; /* nothing to swap: one SDK sends the header with an empty body */
    assert_int_equal(check(SIGNATURE_SDK, &r, SIGNED_UPLOAD, vectors[4].value), 0);
    r = upload; /* the header was added by a third party */
    sign(value, &r, without, false, "UNSIGNED-PAYLOAD");
    assert_int_equal(check(SIGNATURE_SDK, &r, without, value), -EACCES);
    /* a digest of an earlier body, signed or not, does not cover this one */
    memcpy(h, upload_headers, sizeof h);
    h[3].value = EMPTY;
    r.headers = h;
    sign(value, &r, SIGNED_UPLOAD, false, EMPTY);
    assert_int_equal(check(SIGNATURE_SDK, &r, SIGNED_UPLOAD, value), -EACCES);
}

static int precheck(const char *names, const char *date, const char *region, int64_t now_ms,
                    enum signature_scheme scheme, char why[256])
{
    struct signature s;
    struct signed_header h[] = { { "Host", "h" }, { "X-Sdk-Date", date } };
    struct signed_request r = { .method = "GET", .path = "/", .headers = h, .n_headers = 2 };
    char *text = authorization(scheme, names, EMPTY);
    assert_int_equal(signature_parse(&s, text), 0);
    int rc = signature_precheck(&s, &r, region, now_ms, why, 256);
    signature_free(&s);
    free(text);
    return rc;
}

static void a_clock_may_be_off_by_fifteen_minutes(void **state)
{
    char why[256];
    const int64_t edge = 15 * 60 * 1000;
    const char *names = "host;x-sdk-date";
    (void)state;
    assert_int_equal(precheck(names, DATE, "*", NOW_MS + edge, SIGNATURE_SDK, why), 0);
    assert_int_equal(precheck(names, DATE, "*", NOW_MS - edge, SIGNATURE_SDK, why), 0);
    assert_int_equal(precheck(names, DATE, "*", NOW_MS + edge + 1, SIGNATURE_SDK, why), -EACCES);
    assert_non_null(strstr(why, DATE)); /* both times are named */
    assert_non_null(strstr(why, "20230101T121500Z"));
    assert_int_equal(precheck(names, DATE, "*", NOW_MS - edge - 1, SIGNATURE_SDK, why), -EACCES);
    assert_int_equal(precheck(names, "2023-01-01", "*", NOW_MS, SIGNATURE_SDK, why), -EACCES);
}

static void host_and_date_must_be_signed_and_the_scope_must_fit(void **state)
{
    char why[256];
    const char *names = "host;x-sdk-date";
    (void)state;
    assert_int_equal(precheck("host", DATE, "*", NOW_MS, SIGNATURE_SDK, why), -EACCES);
    assert_int_equal(precheck("x-sdk-date", DATE, "*", NOW_MS, SIGNATURE_SDK, why), -EACCES);
    assert_int_equal(precheck(names, DATE, "region-1", NOW_MS, SIGNATURE_V11, why), 0);
    assert_int_equal(precheck(names, DATE, "region-2", NOW_MS, SIGNATURE_V11, why), -EACCES);
    assert_int_equal(
        precheck(names, "20230102T000000Z", "*", NOW_MS + 43200000, SIGNATURE_V11, why), -EACCES);
}

static void other_forms_of_the_header_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "Bearer x",
        "SDK-HMAC-SM3 Access=a, SignedHeaders=host, Signature=" EMPTY,
        "SDK-HMAC-SHA256",
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=host",
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=host, Signature=12",
        "SDK-HMAC-SHA256 Access=, SignedHeaders=host, Signature=" EMPTY,
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=Host, Signature=" EMPTY,
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=x;host, Signature=" EMPTY,
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=host;host, Signature=" EMPTY,
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=host;, Signature=" EMPTY,
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=host, Signature=" EMPTY ", x=y",
        "V11-HMAC-SHA256 Credential=a/20230101/iotdm, SignedHeaders=host, Signature=" EMPTY,
        "V11-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=" EMPTY,
        "V11-HMAC-SHA256 Access=a, SignedHeaders=host, Signature=" EMPTY,
    };
    struct signature s;
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(bad); i++) {
        if (signature_parse(&s, bad[i]) != -EINVAL)
            fail_msg("accepted: %s", bad[i]);
        signature_free(&s);
    }
}

static void a_listed_header_that_is_missing_counts_as_empty(void **state)
{
    struct signed_request r = post;
    (void)state;
    r.n_headers = 4; /* without instance-id */
    assert_int_equal(check(SIGNATURE_SDK, &r, SIGNED_POST, vectors[2].value), -EACCES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_official_sdks_sign_is_accepted),
        cmocka_unit_test(a_changed_request_is_refused),
        cmocka_unit_test(the_canonical_request_is_the_documented_one),
        cmocka_unit_test(a_refusal_can_name_the_digest_of_what_arrived),
        cmocka_unit_test(an_escaped_path_may_be_signed_decoded_or_raw),
        cmocka_unit_test(a_body_stays_unsigned_only_where_that_is_signed_and_allowed),
        cmocka_unit_test(a_clock_may_be_off_by_fifteen_minutes),
        cmocka_unit_test(host_and_date_must_be_signed_and_the_scope_must_fit),
        cmocka_unit_test(other_forms_of_the_header_are_refused),
        cmocka_unit_test(a_listed_header_that_is_missing_counts_as_empty),
    };
    return cmocka_run_group_tests_name("signature", tests, NULL, NULL);
}

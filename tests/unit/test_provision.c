/* What a device that registers itself becomes: the secret of a group's device, and a template
 * filled in from a certificate. links: services/device-registry/scope_secret.c
 * services/device-registry/template_body.c services/device-registry/subject.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "services/device-registry/scopes.h"
#include "services/device-registry/subject.h"
#include "services/device-registry/template_body.h"

#define CN "iotda::certificate::common_name"

/* ---- groups: the published arithmetic */

static void the_secret_of_a_device_of_a_group(void **state)
{
    (void)state;
    char secret[CW_DIGEST_HEX_LEN], pw[CW_DIGEST_HEX_LEN];
    unsigned char group[16];
    assert_int_equal(EVP_DecodeBlock(group, (const unsigned char *)"MTIzNDU2Nzg=", 12), 9);
    assert_string_equal(scope_device_secret(secret, "p1_dev7", group, 8),
                        "7453a5c8b9df537eeb0b7e6e4a21221af22a8084005a030c25bc4bf4e8298a43");
    assert_string_equal(cw_device_password(pw, secret, "2026010203"),
                        "185d08ad6e36c35faf55abb81620952cb5ffa8bdd4ca1d578329318cc3456b4f");
}

/* ---- templates */

static X509 *certificate(const char *const parts[][2])
{
    X509 *cert = X509_new();
    X509_NAME *name = X509_get_subject_name(cert);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 0xbeef);
    for (size_t i = 0; parts[i][0]; i++)
        assert_int_equal(X509_NAME_add_entry_by_txt(name, parts[i][0], MBSTRING_UTF8,
                                                    (const unsigned char *)parts[i][1], -1, -1, 0),
                         1);
    return cert;
}

static json_t *template(const char *device, const char *parameters)
{
    char *text =
        cw_sprintf("{\"parameters\":%s,\"resources\":{\"device\":%s}}", parameters, device);
    json_t *o = json_loads(text, 0, NULL);
    assert_non_null(o);
    free(text);
    return o;
}

#define ONE "{\"" CN "\":{\"type\":\"String\"}}"

static void a_device_of_a_certificate(void **state)
{
    (void)state;
    static const char *const parts[][2] = { { "CN", "pump7" },
                                            { "OU", "H\xc3\xa4lle" },
                                            { NULL, NULL } };
    struct login_refusal why = { 0 };
    X509 *cert = certificate(parts);
    json_t *t = template("{\"node_id\":{\"ref\":\"" CN "\"},\"product_id\":\"p1\",\"device_name\":"
                         "{\"ref\":\"iotda::certificate::organizational_unit\"},\"device_id\":"
                         "{\"ref\":\"iotda::certificate::serial_number\"}}",
                         "{\"" CN "\":{\"type\":\"String\"},"
                         "\"iotda::certificate::serial_number\":{\"type\":\"String\"},"
                         "\"iotda::certificate::organizational_unit\":{\"type\":\"String\"}}");
    char wrong[200];
    assert_null(template_fault(t, wrong, sizeof wrong));
    json_t *device = template_device(t, cert, &why);
    assert_non_null(device);
    assert_string_equal(json_string_value(json_object_get(device, "node_id")), "pump7");
    assert_string_equal(json_string_value(json_object_get(device, "product_id")), "p1");
    assert_string_equal(json_string_value(json_object_get(device, "device_name")), "H\xc3\xa4lle");
    /* the subject names none: the certificate's own */
    assert_string_equal(json_string_value(json_object_get(device, "device_id")), "beef");
    json_decref(device);
    json_decref(t);
    X509_free(cert);
}

static void a_value_that_the_certificate_has_not(void **state)
{
    (void)state;
    static const char *const parts[][2] = { { "O", "x" }, { NULL, NULL } };
    struct login_refusal why = { 0 };
    X509 *cert = certificate(parts);
    json_t *t = template("{\"node_id\":{\"ref\":\"" CN "\"},\"product_id\":\"p1\"}", ONE);
    assert_null(template_device(t, cert, &why));
    assert_string_equal(why.code, "provision_value_missing");
    assert_non_null(strstr(why.reason, CN));
    assert_non_null(strstr(why.reason, "node_id"));
    json_decref(t);
    X509_free(cert);
}

/* A name must not go on behind a NUL, nor be cut inside a character. */
static void names_that_deceive(void **state)
{
    (void)state;
    X509 *cert = X509_new();
    char out[4];
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_UTF8,
                               (const unsigned char *)"good\0bad", 8, -1, 0);
    json_t *t = template("{\"node_id\":{\"ref\":\"" CN "\"},\"product_id\":\"p1\"}", ONE);
    struct login_refusal why = { 0 };
    json_t *device = template_device(t, cert, &why);
    assert_string_equal(json_string_value(json_object_get(device, "node_id")), "good");
    X509_free(cert);
    json_decref(device);
    json_decref(t);
    static const char *const parts[][2] = { { "CN", "ab\xc3\xa4x" }, { NULL, NULL } };
    cert = certificate(parts);
    assert_string_equal(subject_text(out, sizeof out, cert, NID_commonName), "ab");
    X509_free(cert);
}

static void a_template_names_the_field_that_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *device, *parameters, *path;
    } rows[] = {
        { "{\"node_id\":{\"ref\":\"x\"},\"product_id\":\"p\"}", ONE,
          "template_body.resources.device.node_id.ref" },
        { "{\"node_id\":\"text\",\"product_id\":\"p\"}", ONE, "resources.device.node_id" },
        { "{\"node_id\":{\"ref\":\"" CN "\"},\"product_id\":[]}", ONE,
          "resources.device.product_id" },
        { "{\"node_id\":{\"ref\":\"" CN "\"},\"product_id\":\"p\"}",
          "{\"x\":{\"type\":\"String\"}}", "template_body.parameters" },
        { "{\"node_id\":{\"ref\":\"" CN "\"},\"product_id\":\"p\"}", "{\"" CN "\":{}}", CN },
        { "{\"node_id\":{\"ref\":\"" CN "\"},\"product_id\":\"p\",\"tags\":["
          "{\"tag_key\":\"a\"},{\"tag_key\":\"b\"},{\"tag_key\":\"a\"}]}",
          ONE, "resources.device.tags[2].tag_key: comes twice" },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        char wrong[300];
        json_t *t = template(rows[i].device, rows[i].parameters);
        assert_non_null(template_fault(t, wrong, sizeof wrong));
        if (!strstr(wrong, rows[i].path))
            print_error("%zu: %s\n", i, wrong);
        assert_non_null(strstr(wrong, rows[i].path));
        json_decref(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_secret_of_a_device_of_a_group),
        cmocka_unit_test(a_device_of_a_certificate),
        cmocka_unit_test(a_value_that_the_certificate_has_not),
        cmocka_unit_test(names_that_deceive),
        cmocka_unit_test(a_template_names_the_field_that_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

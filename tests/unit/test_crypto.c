#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/crypto.h"

static const uint8_t key[32] = { 1, 2, 3 }, other_key[32] = { 9 };

static void the_published_password_is_made(void **state)
{
    (void)state;
    char out[CW_DIGEST_HEX_LEN];
    assert_string_equal(cw_device_password(out, "12345678", "2025041401"),
                        "c75150e6cb841417396819e4d2ee4358a416344a03a083e3a8567074ddec820a");
    assert_string_equal(cw_device_password(out, "secret013", "2026112307"),
                        "571e5577533061a12521f8eb7b41df114a9515b856b82f56f4e2c4b00b2b54a6");
}

static void hex_goes_there_and_back(void **state)
{
    (void)state;
    uint8_t raw[3] = { 0 };
    char text[7];
    assert_int_equal(cw_unhex(raw, 3, "00aBff", 6), 0);
    assert_string_equal(cw_hex(text, raw, 3), "00abff");
    assert_int_equal(cw_unhex(raw, 3, "00abf", 5), -EINVAL);
    assert_int_equal(cw_unhex(raw, 3, "00abfg", 6), -EINVAL);
    assert_true(cw_equal("ab", 2, "ab", 2));
    assert_false(cw_equal("ab", 2, "ac", 2));
    assert_false(cw_equal("ab", 2, "abc", 3));
}

static void a_sealed_value_opens_only_where_it_belongs(void **state)
{
    (void)state;
    char *out = NULL, *sealed = cw_seal(key, "device.7", "hunter2", 7);
    size_t n = 0, last = strlen(sealed) - 1;
    assert_null(strstr(sealed, "hunter2"));
    assert_int_equal(cw_unseal(&out, &n, key, "device.7", sealed), 0);
    assert_int_equal(n, 7);
    assert_string_equal(out, "hunter2");
    free(out);
    assert_int_equal(cw_unseal(&out, NULL, key, "device.8", sealed), -EKEYREJECTED);
    assert_int_equal(cw_unseal(&out, NULL, other_key, "device.7", sealed), -EKEYREJECTED);
    sealed[last] = sealed[last] == '0' ? '1' : '0';
    assert_int_equal(cw_unseal(&out, NULL, key, "device.7", sealed), -EKEYREJECTED);
    free(sealed);
}

static void what_was_never_sealed_is_refused(void **state)
{
    (void)state;
    static const char *const rows[] = { "", "hunter2", "v1.", "v1.00000000.", "v1.00000000.zz" };
    char *out;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(cw_unseal(&out, NULL, key, "c", rows[i]), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_password_is_made),
        cmocka_unit_test(hex_goes_there_and_back),
        cmocka_unit_test(a_sealed_value_opens_only_where_it_belongs),
        cmocka_unit_test(what_was_never_sealed_is_refused),
    };
    return cmocka_run_group_tests_name("crypto", tests, NULL, NULL);
}

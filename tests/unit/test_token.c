/* Tokens: what identity signs, rest-gateway can check alone; nobody else's passes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/token.h"
#include "libcommon/util.h"

static const uint8_t key[32] = { 1, 2, 3 }, other[32] = { 1, 2, 4 };
static const struct cw_token sample = {
    .user_id = "u-1", .project_id = "p_1", .generation = 7, .issued_ms = 1000, .expires_ms = 2000
};

static void what_was_signed_comes_back(void **state)
{
    struct cw_token t;
    char *text = cw_token_make(key, &sample);
    (void)state;
    assert_int_equal(cw_token_check(&t, key, text, 1999), 0);
    assert_string_equal(t.user_id, "u-1");
    assert_string_equal(t.project_id, "p_1");
    assert_int_equal(t.generation, 7);
    assert_int_equal(t.issued_ms, 1000);
    assert_int_equal(t.expires_ms, 2000);
    free(text);
}

static void a_token_of_the_account_has_no_project(void **state)
{
    struct cw_token t = sample;
    (void)state;
    *t.project_id = '\0';
    char *text = cw_token_make(key, &t);
    assert_int_equal(cw_token_check(&t, key, text, 0), 0);
    assert_string_equal(t.project_id, "");
    free(text);
}

static void its_end_is_its_end(void **state)
{
    struct cw_token t;
    char *text = cw_token_make(key, &sample);
    (void)state;
    assert_int_equal(cw_token_check(&t, key, text, 2000), -EKEYEXPIRED);
    assert_int_equal(t.expires_ms, 2000); /* so that the answer can name it */
    free(text);
}

static void another_key_is_rejected(void **state)
{
    struct cw_token t;
    char *text = cw_token_make(other, &sample);
    (void)state;
    assert_int_equal(cw_token_check(&t, key, text, 0), -EKEYREJECTED);
    free(text);
}

static void any_changed_character_is_noticed(void **state)
{
    struct cw_token t;
    char *text = cw_token_make(key, &sample);
    (void)state;
    for (size_t i = 0; text[i]; i++) {
        char was = text[i];
        text[i] = was == '0' ? '1' : '0';
        if (cw_token_check(&t, key, text, 0) == 0)
            fail_msg("accepted with another character %zu", i);
        text[i] = was;
    }
    free(text);
}

static void what_is_no_token_is_refused(void **state)
{
    static const char *const bad[] = { "", "v1", "v1.", "v1..", "v1.00.00", "v2.aa.bb", "MIIabc" };
    struct cw_token t;
    char *huge = cw_malloc(200001);
    (void)state;
    memset(huge, 'a', 200000);
    huge[200000] = '\0';
    memcpy(huge, "v1.", 3);
    for (size_t i = 0; i < CW_ARRAY_LEN(bad); i++)
        assert_int_equal(cw_token_check(&t, key, bad[i], 0), -EINVAL);
    assert_int_equal(cw_token_check(&t, key, huge, 0), -EINVAL);
    char *text = cw_token_make(key, &sample);
    for (size_t n = strlen(text); n-- > 0;) { /* every beginning of a good one */
        text[n] = '\0';
        assert_true(cw_token_check(&t, key, text, 0) < 0);
    }
    free(text);
    free(huge);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_signed_comes_back),
        cmocka_unit_test(a_token_of_the_account_has_no_project),
        cmocka_unit_test(its_end_is_its_end),
        cmocka_unit_test(another_key_is_rejected),
        cmocka_unit_test(any_changed_character_is_noticed),
        cmocka_unit_test(what_is_no_token_is_refused),
    };
    return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}

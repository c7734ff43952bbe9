#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/config.h"
#include "libcommon/util.h"

struct settings {
    int64_t count, wait_ms, room_bytes;
    bool strict;
    char *name, *password;
    uint8_t key[32];
};
#define AT(f) offsetof(struct settings, f)
#define KEY64 "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"

static const struct cw_option table[] = {
    { "T_COUNT", CW_OPT_INT, "3", 1, 64, AT(count), "how many" },
    { "T_WAIT", CW_OPT_MS, "20s", 100, 60000, AT(wait_ms), "how long" },
    { "T_ROOM", CW_OPT_BYTES, "2M", 0, 1 << 30, AT(room_bytes), "how much" },
    { "T_STRICT", CW_OPT_BOOL, "0", 0, 1, AT(strict), "how strict" },
    { "T_NAME", CW_OPT_STRING, "x", 1, 8, AT(name), "how called" },
    { "T_PASSWORD", CW_OPT_SECRET, "p", 1, 8, AT(password), "how admitted" },
    { "T_KEY", CW_OPT_HEX32, KEY64, 0, 0, AT(key), "how sealed" },
    { 0 },
};

static void defaults_are_read_like_any_value(void **state)
{
    (void)state;
    struct settings s = { 0 };
    char err[200] = "";
    assert_int_equal(cw_config_load(table, &s, NULL, err, sizeof err), 0);
    assert_int_equal(s.count, 3);
    assert_int_equal(s.wait_ms, 20000);
    assert_int_equal(s.room_bytes, 2 << 20);
    assert_false(s.strict);
    assert_string_equal(s.name, "x");
    assert_int_equal(s.key[31], 0x1f);
    cw_config_free(table, &s);
    assert_null(s.name);
}

static void a_bad_value_is_named_and_a_secret_is_not_shown(void **state)
{
    (void)state;
    static const struct {
        const char *variable, *value, *says;
    } rows[] = {
        { "CAUSEWAY_T_WAIT", "20x", "CAUSEWAY_T_WAIT=\"20x\": not a time (100..60000)" },
        { "CAUSEWAY_T_WAIT", "20", "not a time" },
        { "CAUSEWAY_T_WAIT", "2h", "not a time" },
        { "CAUSEWAY_T_WAIT", "9999999999999999h", "not a time" },
        { "CAUSEWAY_T_COUNT", "0", "not a whole number (1..64)" },
        { "CAUSEWAY_T_COUNT", " 4", "not a whole number" },
        { "CAUSEWAY_T_COUNT", "", "not a whole number" },
        { "CAUSEWAY_T_ROOM", "3T", "not a size" },
        { "CAUSEWAY_T_STRICT", "yes!", "not a switch" },
        { "CAUSEWAY_T_NAME", "123456789", "not a text of the allowed length" },
        { "CAUSEWAY_T_PASSWORD", "hunter2hunter2", "CAUSEWAY_T_PASSWORD: not a text" },
        { "CAUSEWAY_T_KEY", "abc", "CAUSEWAY_T_KEY: not a key" },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct settings s = { 0 };
        char err[200] = "";
        setenv(rows[i].variable, rows[i].value, 1);
        assert_int_equal(cw_config_load(table, &s, NULL, err, sizeof err), -EINVAL);
        unsetenv(rows[i].variable);
        assert_non_null(strstr(err, rows[i].says));
        assert_null(strstr(err, "hunter2"));
        cw_config_free(table, &s);
    }
}

static void the_environment_wins_over_the_file(void **state)
{
    (void)state;
    char path[] = "/tmp/cw-config-XXXXXX", err[200] = "";
    static const char text[] = "CAUSEWAY_T_COUNT=7\nT_NAME=lamp\nT_NAMES=no\n";
    struct settings s = { 0 };
    int fd = mkstemp(path);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    setenv("CAUSEWAY_T_COUNT", "9", 1);
    assert_int_equal(cw_config_load(table, &s, path, err, sizeof err), 0);
    unsetenv("CAUSEWAY_T_COUNT");
    unlink(path);
    assert_int_equal(s.count, 9);
    assert_string_equal(s.name, "lamp");
    cw_config_free(table, &s);
    assert_int_equal(cw_config_load(table, &s, path, err, sizeof err), -ENOENT);
    assert_non_null(strstr(err, path));
}

static void a_setting_without_default_must_be_given(void **state)
{
    (void)state;
    static const struct cw_option must[] = {
        { "T_DB", CW_OPT_STRING, NULL, 1, 80, AT(name), "where the database is" },
        { 0 },
    };
    struct settings s = { 0 };
    char err[200] = "";
    assert_int_equal(cw_config_load(must, &s, NULL, err, sizeof err), -EINVAL);
    assert_string_equal(err, "CAUSEWAY_T_DB is not set: where the database is");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_read_like_any_value),
        cmocka_unit_test(a_bad_value_is_named_and_a_secret_is_not_shown),
        cmocka_unit_test(the_environment_wins_over_the_file),
        cmocka_unit_test(a_setting_without_default_must_be_given),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}

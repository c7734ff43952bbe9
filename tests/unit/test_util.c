#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/clock.h"
#include "libcommon/ids.h"
#include "libcommon/util.h"

static void a_buffer_keeps_what_was_added_and_its_end(void **state)
{
    (void)state;
    struct cw_buf b = { 0 };
    for (int i = 0; i < 1000; i++)
        cw_buf_printf(&b, "%03d", i);
    assert_int_equal(b.len, 3000);
    assert_int_equal(strlen(b.data), 3000);
    assert_memory_equal(b.data + 2997, "999", 3);
    cw_buf_free(&b);
    assert_null(b.data);
}

static void a_json_string_is_escaped(void **state)
{
    (void)state;
    struct cw_buf b = { 0 };
    cw_buf_json_string(&b, "a\"\\\n\0z", 6);
    assert_string_equal(b.data, "\"a\\\"\\\\\\u000a\\u0000z\"");
    cw_buf_free(&b);
}

static void only_well_formed_utf8_passes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        bool valid;
    } rows[] = {
        { "", 0, true },
        { "abc", 3, true },
        { "\xe4\xb8\xad", 3, true },
        { "\xf0\x9f\x92\xa1", 4, true },
        { "a\0b", 3, false },
        { "\xc0\x80", 2, false },
        { "\xed\xa0\x80", 3, false },
        { "\xf4\x90\x80\x80", 4, false },
        { "\xe4\xb8", 2, false },
        { "\x80", 1, false },
        { "\xff", 1, false },
        { "\xe4\xb8z", 3, false },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++)
        assert_int_equal(cw_utf8_valid(rows[i].text, rows[i].len), rows[i].valid);
    assert_int_equal(cw_utf8_len("a\xe4\xb8\xad", 4), 2);
}

static void times_are_written_in_both_forms_of_the_api(void **state)
{
    (void)state;
    char out[CW_TIME_LEN];
    assert_string_equal(cw_time_basic(out, 1795415640127), "20261123T063400Z");
    assert_string_equal(cw_time_extended(out, 1795415640127), "2026-11-23T06:34:00.127Z");
}

static void every_form_of_an_event_time_is_read_and_nothing_else(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
        int64_t ms;
    } rows[] = {
        { "20261123T063400Z", 0, 1795415640000 },
        { "2026-11-23T06:34:00.127Z", 0, 1795415640127 },
        { "2026-11-23T06:34:00Z", 0, 1795415640000 },
        { "2026-11-23 06:34:00", 0, 1795415640000 },
        { "", -EINVAL, 0 },
        { "20260631T000000Z", -EINVAL, 0 },
        { "20261123T246000Z", -EINVAL, 0 },
        { "20261123T063400Zx", -EINVAL, 0 },
        { "20261123T0634", -EINVAL, 0 },
        { "a text much longer than any time that exists", -EINVAL, 0 },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        int64_t ms = 0;
        assert_int_equal(cw_time_parse_any(&ms, rows[i].text, strlen(rows[i].text)), rows[i].rc);
        assert_int_equal(ms, rows[i].ms);
    }
    int64_t ms;
    assert_int_equal(cw_time_parse_basic(&ms, "2026-11-23 06:34:00"), -EINVAL);
}

static int64_t fake_ms;
static int64_t fake_now(void) { return fake_ms; }

static void record_ids_grow_even_when_the_clock_steps_back(void **state)
{
    (void)state;
    static const struct cw_clock fake = { fake_now, fake_now };
    const struct cw_clock *real = cw_clock;
    char last[CW_RECORD_ID_LEN] = "", id[CW_RECORD_ID_LEN];
    static const int64_t times[] = { 1795415640000, 1795415640000, 1795415641000, 1795415000000,
                                     1795415642000 };
    cw_clock = &fake;
    for (size_t i = 0; i < CW_ARRAY_LEN(times); i++) {
        fake_ms = times[i];
        assert_int_equal(strlen(cw_record_id(id)), 24);
        assert_true(strcmp(id, last) > 0);
        strcpy(last, id);
    }
    cw_clock = real;
}

static void ids_have_their_form(void **state)
{
    (void)state;
    char uuid[CW_UUID_LEN], other[CW_UUID_LEN], hex[33];
    assert_int_equal(strlen(cw_uuid(uuid)), 36);
    assert_int_equal(uuid[14], '4');
    assert_non_null(strchr("89ab", uuid[19]));
    assert_string_not_equal(uuid, cw_uuid(other));
    assert_int_equal(strspn(cw_random_hex(hex, 31), "0123456789abcdef"), 31);
}

/* The partition of a device is written into tables and streams: it must never change. */
static void the_partition_of_an_id_never_changes(void **state)
{
    (void)state;
    assert_true(cw_hash("", 0) == 0xcbf29ce484222325u); /* published FNV-1a vectors */
    assert_true(cw_hash("a", 1) == 0xaf63dc4c8601ec8cu);
    assert_true(cw_hash("foobar", 6) == 0x85944171f73967e8u);
    unsigned used = 0;
    for (int i = 0; i < 1000; i++) {
        char id[16];
        int n = snprintf(id, sizeof id, "lamp_%d", i);
        used |= 1u << cw_partition(id, (size_t)n, 8);
    }
    assert_int_equal(used, 0xff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_buffer_keeps_what_was_added_and_its_end),
        cmocka_unit_test(a_json_string_is_escaped),
        cmocka_unit_test(only_well_formed_utf8_passes),
        cmocka_unit_test(times_are_written_in_both_forms_of_the_api),
        cmocka_unit_test(every_form_of_an_event_time_is_read_and_nothing_else),
        cmocka_unit_test(record_ids_grow_even_when_the_clock_steps_back),
        cmocka_unit_test(ids_have_their_form),
        cmocka_unit_test(the_partition_of_an_id_never_changes),
    };
    return cmocka_run_group_tests_name("util", tests, NULL, NULL);
}

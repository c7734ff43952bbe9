/* How far a log may be trimmed: at least the margin behind, never much more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "libcommon/log_trail.h"
#include "libcommon/util.h"

#define RECORDS 200000

/* Records of up to `largest` bytes, done with one by one. */
static void walk(size_t largest)
{
    struct log_trail t = { .trim = 0 };
    uint64_t *end = calloc(RECORDS + 1, sizeof *end), before = 0;
    assert_non_null(end);
    for (uint64_t seq = 1; seq <= RECORDS && end[seq - 1] < 40ULL * LOG_TRAIL_MARGIN; seq++) {
        size_t bytes = 1 + (size_t)rand() % largest;
        end[seq] = end[seq - 1] + bytes;
        log_trail_add(&t, seq, bytes);
        assert_true(t.trim >= before && t.n <= LOG_TRAIL_POINTS);
        assert_true(t.trim == 0 || end[seq] - end[t.trim] >= LOG_TRAIL_MARGIN);
        if (end[seq] > LOG_TRAIL_MARGIN + LOG_TRAIL_STEP + 2 * largest)
            assert_true(end[seq] - end[t.trim] <= LOG_TRAIL_MARGIN + LOG_TRAIL_STEP + 2 * largest);
        before = t.trim;
    }
    free(end);
}

static void the_margin_is_kept_and_little_more(void **state)
{
    static const size_t largest[] = { 100, 5000, 600000, 8 << 20, 40 << 20 };
    (void)state;
    srand(7);
    for (size_t i = 0; i < CW_ARRAY_LEN(largest); i++)
        walk(largest[i]);
}

static void what_was_stored_never_falls(void **state)
{
    struct log_trail t = { .trim = 900 };
    (void)state;
    for (uint64_t seq = 1; seq < 1000; seq++) {
        log_trail_add(&t, seq, 1 << 20);
        assert_true(t.trim >= 900);
    }
    assert_in_range(t.trim, 999 - 16 - 8, 999 - 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_margin_is_kept_and_little_more),
        cmocka_unit_test(what_was_stored_never_falls),
    };
    return cmocka_run_group_tests_name("log_trail", tests, NULL, NULL);
}

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"

static int64_t fake_ms;
static int64_t fake_now(void) { return fake_ms; }
static const struct cw_clock fake = { fake_now, fake_now };

/* stderr goes into a pipe while a test runs; taken() is what came out since. */
static int pipe_fds[2], real_stderr;
static char captured[8192];

static int capture(void **state)
{
    (void)state;
    fake_ms = 1795415640127;
    cw_clock = &fake;
    cw_log_setup("lamp-gateway", CW_INFO);
    real_stderr = dup(STDERR_FILENO);
    return real_stderr < 0 || pipe(pipe_fds) < 0 || dup2(pipe_fds[1], STDERR_FILENO) < 0;
}

static int restore(void **state)
{
    (void)state;
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    close(pipe_fds[0]);
    return close(pipe_fds[1]);
}

static const char *taken(void)
{
    char end = '\0'; /* so that reading does not wait when nothing was written */
    size_t n = 0;
    if (write(pipe_fds[1], &end, 1) != 1)
        return NULL;
    do {
        ssize_t got = read(pipe_fds[0], captured + n, sizeof captured - n);
        if (got <= 0)
            return NULL;
        n += (size_t)got;
    } while (captured[n - 1]);
    return captured;
}

static void a_line_has_time_level_daemon_event_and_text(void **state)
{
    (void)state;
    cw_log(CW_WARN, "slow_disk", "ms=%d", 12);
    assert_string_equal(taken(), "2026-11-23T06:34:00.127Z WARN lamp-gateway slow_disk ms=12\n");
}

static void what_lies_below_the_level_is_not_written(void **state)
{
    (void)state;
    cw_log(CW_DEBUG, "detail", "n=%d", 1);
    assert_string_equal(taken(), "");
}

static void foreign_text_cannot_forge_a_line(void **state)
{
    (void)state;
    cw_log(CW_INFO, "refused", "topic=%s", "a\n2026-11-23 INFO forged\x1b[31m");
    const char *line = taken();
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    assert_null(strchr(line, 0x1b));
}

static void a_long_line_is_cut_and_ended(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    cw_log(CW_INFO, "long", "%s", text);
    const char *line = taken();
    assert_true(strlen(line) <= 2048);
    assert_int_equal(line[strlen(line) - 1], '\n');
}

static void a_gate_lets_one_line_a_second_through_and_counts_the_rest(void **state)
{
    (void)state;
    struct cw_log_gate gate = { 0 };
    for (int i = 0; i < 5; i++)
        cw_log_limited(&gate, CW_INFO, "full", "i=%d", i);
    assert_non_null(strstr(taken(), " full i=0\n"));
    fake_ms += 1000;
    cw_log_limited(&gate, CW_INFO, "full", "i=5");
    assert_non_null(strstr(taken(), " full i=5 held_back=4\n"));
}

static void a_level_is_read_by_its_word(void **state)
{
    (void)state;
    enum cw_log_level level = CW_DEBUG;
    assert_int_equal(cw_log_level_parse(&level, "error"), 0);
    assert_int_equal(level, CW_ERROR);
    assert_int_equal(cw_log_level_parse(&level, "loud"), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CAPTURED(f) cmocka_unit_test_setup_teardown(f, capture, restore)
        CAPTURED(a_line_has_time_level_daemon_event_and_text),
        CAPTURED(what_lies_below_the_level_is_not_written),
        CAPTURED(foreign_text_cannot_forge_a_line),
        CAPTURED(a_long_line_is_cut_and_ended),
        CAPTURED(a_gate_lets_one_line_a_second_through_and_counts_the_rest),
        cmocka_unit_test(a_level_is_read_by_its_word),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}

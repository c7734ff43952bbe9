#include "libcommon/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/clock.h"

static const char *const level_names[] = { "DEBUG", "INFO", "WARN", "ERROR" };
static const char *const level_words[] = { "debug", "info", "warn", "error" };
static const char *daemon_name = "-";
static enum cw_log_level least_level = CW_INFO;

void cw_log_setup(const char *daemon, enum cw_log_level least)
{
    daemon_name = daemon;
    least_level = least;
}

int cw_log_level_parse(enum cw_log_level *level, const char *text)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(level_words); i++)
        if (strcmp(text, level_words[i]) == 0) {
            *level = (enum cw_log_level)i;
            return 0;
        }
    return -EINVAL;
}

#define LINE_MAX_BYTES 2048 /* below PIPE_BUF: lines of several processes stay whole */

static void write_line(enum cw_log_level level, const char *event, const char *text)
{
    char line[LINE_MAX_BYTES], when[CW_TIME_LEN];
    int n = snprintf(line, sizeof line - 1, "%s %s %s %s %s", cw_time_extended(when, cw_now_ms()),
                     level_names[level], daemon_name, event, text);
    size_t len = n < (int)sizeof line - 1 ? (size_t)n : sizeof line - 2;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?'; /* a device's text must not start a line of its own */
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written; /* nowhere left to complain */
}

void cw_log(enum cw_log_level level, const char *event, const char *fmt, ...)
{
    char text[LINE_MAX_BYTES];
    va_list ap;
    if (level < least_level)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    write_line(level, event, text);
}

void cw_log_limited(struct cw_log_gate *gate, enum cw_log_level level, const char *event,
                    const char *fmt, ...)
{
    char text[LINE_MAX_BYTES];
    va_list ap;
    int64_t now_ms = cw_mono_ms();
    if (level < least_level)
        return;
    if (gate->open_at_ms > now_ms) {
        gate->held_back++;
        return;
    }
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (gate->held_back && n >= 0 && n < (int)sizeof text)
        snprintf(text + n, sizeof text - (size_t)n, " held_back=%u", gate->held_back);
    write_line(level, event, text);
    *gate = (struct cw_log_gate){ .open_at_ms = now_ms + 1000 };
}

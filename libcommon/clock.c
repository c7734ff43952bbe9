#include "libcommon/clock.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t system_wall_ms(void) { return read_clock(CLOCK_REALTIME); }

static int64_t system_mono_ms(void) { return read_clock(CLOCK_MONOTONIC); }

static const struct cw_clock system_clock = { system_wall_ms, system_mono_ms };
const struct cw_clock *cw_clock = &system_clock;

static struct tm broken_down(int64_t ms)
{
    time_t s = (time_t)(ms / 1000 - (ms % 1000 < 0));
    struct tm tm;
    gmtime_r(&s, &tm);
    return tm;
}

char *cw_time_basic(char *out, int64_t ms)
{
    struct tm tm = broken_down(ms);
    strftime(out, CW_TIME_LEN, "%Y%m%dT%H%M%SZ", &tm);
    return out;
}

char *cw_time_extended(char *out, int64_t ms)
{
    struct tm tm = broken_down(ms);
    size_t n = strftime(out, CW_TIME_LEN, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, CW_TIME_LEN - n, ".%03dZ", (int)((ms % 1000 + 1000) % 1000));
    return out;
}

/* Reads text by a pattern: a letter of YMDhmsf takes one digit of that field, others are literal.
 */
static int parse(int64_t *ms, const char *text, const char *pattern)
{
    static const char fields[] = "YMDhmsf";
    int v[7] = { 0 };
    for (; *pattern; pattern++, text++) {
        const char *f = strchr(fields, *pattern);
        if (f && isdigit((unsigned char)*text))
            v[f - fields] = v[f - fields] * 10 + (*text - '0');
        else if (f || *text != *pattern)
            return -EINVAL;
    }
    struct tm tm = { .tm_year = v[0] - 1900,
                     .tm_mon = v[1] - 1,
                     .tm_mday = v[2],
                     .tm_hour = v[3],
                     .tm_min = v[4],
                     .tm_sec = v[5] };
    struct tm given = tm;
    time_t s = timegm(&tm);
    /* timegm() normalises a 31st of June; what changed was not a date */
    if (*text || tm.tm_mon != given.tm_mon || tm.tm_mday != given.tm_mday ||
        tm.tm_hour != given.tm_hour || tm.tm_min != given.tm_min || tm.tm_sec != given.tm_sec)
        return -EINVAL;
    *ms = (int64_t)s * 1000 + v[6];
    return 0;
}

int cw_time_parse_basic(int64_t *ms, const char *text)
{
    return parse(ms, text, "YYYYMMDDThhmmssZ");
}

int cw_time_parse_any(int64_t *ms, const char *text, size_t len)
{
    static const char *const patterns[] = { "YYYYMMDDThhmmssZ", "YYYY-MM-DDThh:mm:ss.fffZ",
                                            "YYYY-MM-DDThh:mm:ssZ", "YYYY-MM-DD hh:mm:ss" };
    char copy[CW_TIME_LEN];
    if (len >= sizeof copy)
        return -EINVAL;
    memcpy(copy, text, len);
    copy[len] = '\0';
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (parse(ms, copy, patterns[i]) == 0)
            return 0;
    return -EINVAL;
}

/* clock.h - time, through one replaceable pointer, so that hours test in milliseconds. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct cw_clock {
    int64_t (*wall_ms)(void); /* ms since 1970, UTC */
    int64_t (*mono_ms)(void); /* ms, never goes back */
};
extern const struct cw_clock *cw_clock; /* the system's clock unless a test replaces it */

static inline int64_t cw_now_ms(void) { return cw_clock->wall_ms(); }
static inline int64_t cw_mono_ms(void) { return cw_clock->mono_ms(); }

/* Formats of the API; out needs CW_TIME_LEN bytes. */
#define CW_TIME_LEN 32
char *cw_time_basic(char *out, int64_t ms);    /* 20261123T063400Z */
char *cw_time_extended(char *out, int64_t ms); /* 2026-11-23T06:34:00.127Z */
/* Reads yyyyMMdd'T'HHmmss'Z' (only this form). 0 or -EINVAL. */
int cw_time_parse_basic(int64_t *ms, const char *text);
/* Reads every event_time form devices send (docs/protocol/time.md). 0 or -EINVAL. */
int cw_time_parse_any(int64_t *ms, const char *text, size_t len);

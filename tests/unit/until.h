/* until.h - runs an event loop until a count is reached: the condition, not the time, ends it. */
#pragma once

#include <event2/event.h>

#include "libcommon/clock.h"

#define UNTIL_LIMIT_MS 30000 /* then the test fails */

static inline void run_until(struct event_base *base, const int *n, int want)
{
    int64_t until_ms = cw_mono_ms() + UNTIL_LIMIT_MS;
    while (*n < want) {
        assert_true(cw_mono_ms() < until_ms);
        struct timeval tick = { 0, 10000 };
        event_base_loopexit(base, &tick);
        event_base_dispatch(base);
    }
}

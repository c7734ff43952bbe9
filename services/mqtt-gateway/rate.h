/* rate.h - a budget per second, kept as the time up to which it is spent. A second's worth may be
 * spent at once; beyond that one waits. */
#pragma once

#include <stdint.h>

#define RATE_SECOND_US 1000000

static inline void rate_spend(int64_t *due_us, int64_t now_us, int64_t amount, int64_t per_second)
{
    if (*due_us < now_us)
        *due_us = now_us;
    *due_us += amount * RATE_SECOND_US / per_second;
}

/* Milliseconds until there is budget again; 0: there is. */
static inline int64_t rate_wait_ms(int64_t due_us, int64_t now_us)
{
    int64_t over_us = due_us - now_us - RATE_SECOND_US;
    return over_us > 0 ? over_us / 1000 + 1 : 0;
}

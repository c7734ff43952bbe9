/* rate.h - so many requests a second for each principal; a burst of one second is allowed. */
#pragma once

#include "libcommon/util.h"

struct rate;
/* per_s >= 1, for each principal. */
struct rate *rate_open(int64_t per_s);
/* Sets *r to NULL; NULL is fine. */
void rate_close(struct rate **r);
/* 0, or the seconds after which to try again (>= 1). */
unsigned rate_take(struct rate *r, const char *who, int64_t mono_ms);

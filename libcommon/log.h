/* log.h - one line per finished thing, to stderr: time, level, daemon, event name, key=value. */
#pragma once

#include "libcommon/util.h"

enum cw_log_level { CW_DEBUG, CW_INFO, CW_WARN, CW_ERROR };

/* daemon is borrowed for ever. Lines before it bear "-" and begin at CW_INFO. */
void cw_log_setup(const char *daemon, enum cw_log_level least);
/* Reads debug, info, warn or error. 0 or -EINVAL. */
int cw_log_level_parse(enum cw_log_level *level, const char *text);
/* Never payloads, never secrets. Control characters in the result are replaced. */
void cw_log(enum cw_log_level level, const char *event, const char *fmt, ...) CW_PRINTF(3, 4);
/* Static and zero at its call site. */
struct cw_log_gate {
    int64_t open_at_ms;
    unsigned held_back;
};
/* The same, at most once a second per gate; the next line says how many it held back. */
void cw_log_limited(struct cw_log_gate *gate, enum cw_log_level level, const char *event,
                    const char *fmt, ...) CW_PRINTF(4, 5);

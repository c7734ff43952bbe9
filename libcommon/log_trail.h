/* log_trail.h - how far a reader of a log partition may let it be trimmed: not closer behind its
 * position than LOG_TRAIL_MARGIN bytes. The margin is not thrift: nats-server rewrites the block it
 * purges in place, and a kill then loses what lay in it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define LOG_TRAIL_MARGIN (16U << 20)
#define LOG_TRAIL_STEP                                                                             \
    (8U << 20) /* between two points: a block of nats-server, which is what a purge rewrites */
#define LOG_TRAIL_POINTS (LOG_TRAIL_MARGIN / LOG_TRAIL_STEP + 2)

/* Begins as zeros; `trim` may be set to what was stored. */
struct log_trail {
    uint64_t trim;  /* what lies below may go; never falls */
    uint64_t bytes; /* done with since the start */
    size_t n;
    struct {
        uint64_t seq, bytes;
    } at[LOG_TRAIL_POINTS];
};

/* Everything up to seq is done with, `bytes` more than at the last call. */
void log_trail_add(struct log_trail *t, uint64_t seq, size_t bytes);

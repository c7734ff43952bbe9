#include "libcommon/log_trail.h"

#include <string.h>

void log_trail_add(struct log_trail *t, uint64_t seq, size_t bytes)
{
    size_t gone = 0;
    t->bytes += bytes;
    while (gone < t->n && t->bytes - t->at[gone].bytes >= LOG_TRAIL_MARGIN)
        gone++;
    if (gone && t->at[gone - 1].seq > t->trim)
        t->trim = t->at[gone - 1].seq;
    t->n -= gone;
    memmove(t->at, t->at + gone, t->n * sizeof t->at[0]);
    if (t->n && t->bytes - t->at[t->n - 1].bytes < LOG_TRAIL_STEP)
        return;
    t->at[t->n].seq = seq;
    t->at[t->n++].bytes = t->bytes;
}

/* wire.h - batches of proto/causeway.proto put together and taken apart without decoding their
 * records: a batch is the concatenation of its length-delimited fields. */
#pragma once

#include "libcommon/util.h"

/* Tags, i.e. field number << 3 | 2. */
enum {
    WIRE_BATCH_GATEWAY = 0x0a, /* UplinkBatch.gateway */
    WIRE_BATCH_RECORD = 0x12,  /* UplinkBatch.records */
    WIRE_BATCH_ITEM = 0x0a,    /* EventBatch.events, PushBatch.pushes */
};

/* Appends one length-delimited field. */
static inline void wire_put(struct cw_buf *b, unsigned char tag, const void *data, size_t len)
{
    unsigned char head[11] = { tag };
    size_t n = 1;
    uint64_t v = len;
    do {
        head[n++] = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    cw_buf_add(b, head, n);
    cw_buf_add(b, data, len);
}

/* Bytes of the field at p with its tag, 0 when it is not a well-formed length-delimited one. */
static inline size_t wire_next(const unsigned char *p, size_t len)
{
    uint64_t v = 0;
    size_t n = 1;
    for (unsigned shift = 0; n < len && shift < 63; shift += 7) {
        v |= (uint64_t)(p[n] & 0x7f) << shift;
        if (!(p[n++] & 0x80))
            return (p[0] & 7) == 2 && v <= len - n ? n + (size_t)v : 0;
    }
    return 0;
}

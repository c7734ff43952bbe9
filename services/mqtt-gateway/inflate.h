/* inflate.h - payloads that devices compressed (?encoding=gzip). */
#pragma once

#include "libcommon/util.h"

#define INFLATED_MAX_BYTES (1U << 20)

/* One gzip member (RFC 1952), whole, of at most INFLATED_MAX_BYTES when it is inflated; replaces
 * *out. 0; -EINVAL: not that; -EMSGSIZE: more would come. */
int inflate_gzip(struct cw_buf *out, const void *data, size_t len);

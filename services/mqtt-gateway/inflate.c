#include "services/mqtt-gateway/inflate.h"

#include <errno.h>

#include <zlib.h>

#define GZIP_ONLY (16 + MAX_WBITS) /* to inflateInit2() */
#define CHUNK     16384

static int inflate_into(struct cw_buf *out, z_stream *z)
{
    unsigned char chunk[CHUNK];
    int rc = Z_OK;
    while (rc == Z_OK) {
        z->next_out = chunk;
        z->avail_out = sizeof chunk;
        rc = inflate(z, Z_NO_FLUSH);
        cw_buf_add(out, chunk, sizeof chunk - z->avail_out);
        if (out->len > INFLATED_MAX_BYTES)
            return -EMSGSIZE;
    }
    return rc == Z_STREAM_END && z->avail_in == 0 ? 0 : -EINVAL;
}

int inflate_gzip(struct cw_buf *out, const void *data, size_t len)
{
    z_stream z = { .next_in = (Bytef *)data, .avail_in = (uInt)len };
    cw_buf_reset(out);
    if (inflateInit2(&z, GZIP_ONLY) != Z_OK)
        return -EINVAL;
    int rc = inflate_into(out, &z);
    inflateEnd(&z);
    return rc;
}

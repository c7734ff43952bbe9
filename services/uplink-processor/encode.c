#include "services/uplink-processor/encode.h"

#include <limits.h>
#include <stdlib.h>

#include <openssl/evp.h>

void base64(struct cw_buf *out, const void *data, size_t len)
{
    unsigned char *text = cw_malloc((len + 2) / 3 * 4 + 1);
    int n = EVP_EncodeBlock(text, data, (int)len); /* at most a log record: far below INT_MAX */
    cw_buf_add(out, text, (size_t)n);
    free(text);
}

void base64_json(struct cw_buf *out, const void *data, size_t len)
{
    cw_buf_str(out, "\"");
    base64(out, data, len);
    cw_buf_str(out, "\"");
}

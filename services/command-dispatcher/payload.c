#include "services/command-dispatcher/payload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

int payload_from_base64(struct cw_buf *out, const char *text)
{
    size_t len = strlen(text);
    if (len == 0 || len % 4 != 0)
        return -EINVAL;
    uint8_t *raw = cw_malloc(len / 4 * 3);
    int n = EVP_DecodeBlock(raw, (const uint8_t *)text, (int)len);
    size_t padding = (text[len - 1] == '=') + (text[len - 2] == '=');
    if (n >= 0)
        cw_buf_add(out, raw, (size_t)n - padding);
    free(raw);
    return n < 0 ? -EINVAL : 0;
}

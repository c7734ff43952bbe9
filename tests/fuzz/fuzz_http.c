/* Heads of requests and chunked bodies. */
#include "libcommon/http_parse.h"
#include "tests/fuzz/fuzz.h"

static void feed(const uint8_t *data, size_t size)
{
    struct cw_http_chunks c = { 0 };
    struct cw_buf out = { 0 };
    bool done = false;
    while (size && !done) {
        size_t piece = size > 7 ? 7 : size;
        long n = cw_http_chunks_feed(&c, &out, 4096, (const char *)data, piece, &done);
        fuzz_check(n <= (long)piece && out.len <= 4096);
        if (n <= 0)
            break;
        data += n;
        size -= (size_t)n;
    }
    cw_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cw_http_head head;
    const char *why = NULL;
    const uint8_t *end = size ? memmem(data, size, "\r\n\r\n", 4) : NULL;
    if (!end) {
        feed(data, size);
        return 0;
    }
    size_t n = (size_t)(end - data) + 4;
    int status = cw_http_parse_head(&head, (const char *)data, n, &why);
    fuzz_check(status ? why != NULL : head.path && head.method);
    if (!status)
        cw_http_field(&head, "Host");
    cw_http_head_free(&head);
    feed(data + n, size - n);
    return 0;
}

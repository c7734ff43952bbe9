/* http_parse.h - heads of HTTP/1.1 requests and chunked bodies (RFC 9112), strictly. No I/O.
 *
 * What two parsers could read differently is refused: both Transfer-Encoding and Content-Length,
 * repeated or odd lengths, folded lines, blanks before a colon, bare CR or NUL, no or two Host. */
#pragma once

#include "libcommon/util.h"

#define CW_HTTP_LINES_MAX 100

struct cw_http_field {
    const char *name, *value; /* NUL-terminated, inside text; value without outer blanks */
};
struct cw_http_head {
    char *text; /* owned; the rest points into it */
    const char *method, *target;
    char *path, *query; /* owned; the target split at '?'; query NULL without */
    struct cw_http_field fields[CW_HTTP_LINES_MAX];
    size_t n_fields;
    bool http_1_0, close, chunked, expects_continue;
    uint64_t body_bytes; /* Content-Length, 0 without */
};

/* text[0..len) ends with the empty line. Returns 0, or the HTTP status to refuse with (400, 431,
 * 501, 505) and *why. The caller runs cw_http_head_free() in both cases. */
int cw_http_parse_head(struct cw_http_head *out, const char *text, size_t len, const char **why);
/* Frees what it owns and zeroes it; zeroed memory is fine. */
void cw_http_head_free(struct cw_http_head *h);
/* The first field of that name, in any case; NULL if absent. */
const char *cw_http_field(const struct cw_http_head *h, const char *name);

/* Decodes a chunked body bit by bit. Zeroed memory starts. */
struct cw_http_chunks {
    int state;
    uint64_t left;
    size_t line_bytes;
    bool seen_digit;
};
/* Consumes from p[0..n), appends content to out (at most max_bytes in all). Returns the bytes
 * consumed, or -EBADMSG, -EFBIG. *done: the last chunk and its trailer are over. */
long cw_http_chunks_feed(struct cw_http_chunks *c, struct cw_buf *out, size_t max_bytes,
                         const char *p, size_t n, bool *done);

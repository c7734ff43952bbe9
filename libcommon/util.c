#include "libcommon/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

void *cw_malloc(size_t n) { return must(malloc(n ? n : 1)); }

void *cw_calloc(size_t n, size_t size) { return must(calloc(n ? n : 1, size ? size : 1)); }

void *cw_realloc(void *p, size_t n) { return must(realloc(p, n ? n : 1)); }

char *cw_strdup(const char *s) { return must(strdup(s)); }

char *cw_strndup(const char *s, size_t n) { return must(strndup(n ? s : "", n)); }

void *cw_memdup(const void *p, size_t n) { return n ? memcpy(cw_malloc(n), p, n) : cw_malloc(0); }

char *cw_sprintf(const char *fmt, ...)
{
    char *out;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&out, fmt, ap) < 0)
        abort();
    va_end(ap);
    return out;
}

static void reserve(struct cw_buf *b, size_t more)
{
    if (b->len + more + 1 <= b->cap)
        return;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < b->len + more + 1)
        cap *= 2;
    b->data = cw_realloc(b->data, cap);
    b->cap = cap;
}

void cw_buf_add(struct cw_buf *b, const void *p, size_t n)
{
    reserve(b, n);
    if (n)
        memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void cw_buf_str(struct cw_buf *b, const char *s) { cw_buf_add(b, s, strlen(s)); }

void cw_buf_printf(struct cw_buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        abort();
    reserve(b, (size_t)n);
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void cw_buf_json_string(struct cw_buf *b, const char *s, size_t n)
{
    cw_buf_add(b, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            cw_buf_printf(b, "\\%c", c);
        else if (c < 0x20)
            cw_buf_printf(b, "\\u%04x", c);
        else
            cw_buf_add(b, &s[i], 1);
    }
    cw_buf_add(b, "\"", 1);
}

void cw_buf_reset(struct cw_buf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = '\0';
}

void cw_buf_free(struct cw_buf *b)
{
    free(b->data);
    *b = (struct cw_buf){ 0 };
}

/* Length of the well-formed sequence at s (RFC 3629, section 4), 0 if there is none. */
static size_t utf8_sequence(const unsigned char *s, size_t n)
{
    static const struct {
        unsigned char first_lo, first_hi, second_lo, second_hi, len;
    } rows[] = {
        { 0x01, 0x7f, 0, 0, 1 },       { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
        { 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
        { 0xf0, 0xf0, 0x90, 0xbf, 4 }, { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
    };
    for (size_t r = 0; r < CW_ARRAY_LEN(rows); r++) {
        size_t len = rows[r].len;
        if (s[0] < rows[r].first_lo || s[0] > rows[r].first_hi)
            continue;
        if (len > n || (len > 1 && (s[1] < rows[r].second_lo || s[1] > rows[r].second_hi)))
            return 0;
        for (size_t i = 2; i < len; i++)
            if ((s[i] & 0xc0) != 0x80)
                return 0;
        return len;
    }
    return 0;
}

bool cw_utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0, len; i < n; i += len)
        if (!(len = utf8_sequence((const unsigned char *)s + i, n - i)))
            return false;
    return true;
}

size_t cw_utf8_len(const char *s, size_t n)
{
    size_t points = 0;
    for (size_t i = 0; i < n; i++)
        points += ((unsigned char)s[i] & 0xc0) != 0x80;
    return points;
}

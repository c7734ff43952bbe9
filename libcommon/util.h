/* util.h - allocation that cannot fail, growing buffers, small things every file needs. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CW_PRINTF(a, b)                  __attribute__((format(printf, a, b)))
#define CW_ARRAY_LEN(a)                  (sizeof(a) / sizeof((a)[0]))
#define CW_CONTAINER_OF(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

/* Out of memory ends the process (the supervisor starts it again): none of these returns NULL. */
void *cw_malloc(size_t n);
void *cw_calloc(size_t n, size_t size);    /* zeroed */
void *cw_realloc(void *p, size_t n);       /* n 0: a byte is kept */
char *cw_strdup(const char *s);            /* s is not NULL */
char *cw_strndup(const char *s, size_t n); /* n bytes at most, and a NUL; n 0: s may be NULL */
void *cw_memdup(const void *p, size_t n);  /* n 0: p may be NULL */
char *cw_sprintf(const char *fmt, ...) CW_PRINTF(1, 2); /* for free() */

/* A growing byte buffer; zero it to start. data is NUL-terminated after each call (len without). */
struct cw_buf {
    char *data;
    size_t len, cap;
};
/* What is added, here and below, must not lie in b itself. */
void cw_buf_add(struct cw_buf *b, const void *p, size_t n);
void cw_buf_str(struct cw_buf *b, const char *s); /* without its NUL */
void cw_buf_printf(struct cw_buf *b, const char *fmt, ...) CW_PRINTF(2, 3);
void cw_buf_json_string(struct cw_buf *b, const char *s, size_t n); /* with quotes, escaped */
void cw_buf_reset(struct cw_buf *b);                                /* keeps the memory */
void cw_buf_free(struct cw_buf *b);

/* True if s[0..n) is well-formed UTF-8 without NUL (RFC 3629). */
bool cw_utf8_valid(const char *s, size_t n);
/* Code points in well-formed UTF-8. */
size_t cw_utf8_len(const char *s, size_t n);

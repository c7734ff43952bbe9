#include "libcommon/http_parse.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TRAILER_MAX 4096

static bool is_token(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("!#$%&'*+-.^_`|~", *s))
            return false;
    return true;
}

/* Cuts the line off at its CRLF and steps over it; NULL: a stray CR, LF or NUL is in it. */
static char *cut_line(char **text, char *end)
{
    char *line = *text, *lf = memchr(line, '\n', (size_t)(end - line));
    if (!lf || lf == line || lf[-1] != '\r')
        return NULL;
    *text = lf + 1;
    *--lf = '\0';
    return strlen(line) == (size_t)(lf - line) && !strchr(line, '\r') ? line : NULL;
}

static int read_request_line(struct cw_http_head *out, char *line, const char **why)
{
    char *target = strchr(line, ' '), *version = target ? strchr(target + 1, ' ') : NULL;
    *why = "The request line is malformed.";
    if (!version || strchr(version + 1, ' '))
        return 400;
    *target++ = *version++ = '\0';
    if (!is_token(line) || strlen(line) > 32)
        return 400;
    if (strncmp(version, "HTTP/", 5) != 0)
        return 400;
    *why = "Only HTTP/1.1 and HTTP/1.0 are served.";
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return 505;
    out->http_1_0 = version[7] == '0';
    out->method = line;
    *why = "The request target is not a path.";
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        target = strchr(strchr(target, ':') + 3, '/');
        if (!target)
            return 400;
    }
    if (*target != '/' || strchr(target, '#'))
        return 400;
    for (const char *p = target; *p; p++)
        if ((unsigned char)*p <= ' ' || *p == 127)
            return 400;
    out->target = target;
    size_t n = strcspn(target, "?");
    out->path = cw_strndup(target, n);
    out->query = target[n] ? cw_strdup(target + n + 1) : NULL;
    return 0;
}

static int read_field(struct cw_http_head *out, char *line, const char **why)
{
    char *colon = strchr(line, ':');
    *why = "A header line is malformed.";
    if (!colon)
        return 400;
    *colon = '\0';
    if (!is_token(line)) /* also refuses folded lines and blanks before the colon */
        return 400;
    char *value = colon + 1 + strspn(colon + 1, " \t"), *end = value + strlen(value);
    while (end > value && strchr(" \t", end[-1]))
        *--end = '\0';
    for (const char *p = value; *p; p++)
        if (((unsigned char)*p < ' ' && *p != '\t') || *p == 127)
            return 400;
    *why = "There are too many header lines.";
    if (out->n_fields == CW_HTTP_LINES_MAX)
        return 431;
    out->fields[out->n_fields++] = (struct cw_http_field){ line, value };
    return 0;
}

static size_t count(const struct cw_http_head *h, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < h->n_fields; i++)
        n += strcasecmp(h->fields[i].name, name) == 0;
    return n;
}

static bool has_word(const char *list, const char *word)
{
    size_t k = strlen(word);
    for (const char *p = list; p && *p;) {
        p += strspn(p, " \t,");
        size_t n = strcspn(p, " \t,");
        if (n == k && strncasecmp(p, word, k) == 0)
            return true;
        p += n;
    }
    return false;
}

static int read_length(struct cw_http_head *out, const char **why)
{
    const char *length = cw_http_field(out, "Content-Length");
    const char *coding = cw_http_field(out, "Transfer-Encoding");
    *why = "The length of the body is ambiguous.";
    if (count(out, "Content-Length") > 1 || count(out, "Transfer-Encoding") > 1 ||
        (length && coding) || (coding && out->http_1_0))
        return 400;
    if (coding && strcasecmp(coding, "chunked") != 0) {
        *why = "Only the transfer encoding chunked is served.";
        return 501;
    }
    out->chunked = coding != NULL;
    if (!length)
        return 0;
    size_t digits = strlen(length);
    if (digits == 0 || digits > 18 || strspn(length, "0123456789") != digits)
        return 400;
    out->body_bytes = strtoull(length, NULL, 10);
    return 0;
}

static int read_meaning(struct cw_http_head *out, const char **why)
{
    const char *expect = cw_http_field(out, "Expect"),
               *connection = cw_http_field(out, "Connection");
    *why = "Exactly one Host header is needed.";
    if (count(out, "Host") > 1 || (!out->http_1_0 && count(out, "Host") == 0))
        return 400;
    *why = "Only Expect: 100-continue is served.";
    if (expect && strcasecmp(expect, "100-continue") != 0)
        return 417;
    out->expects_continue = expect && !out->http_1_0;
    out->close =
        has_word(connection, "close") || (out->http_1_0 && !has_word(connection, "keep-alive"));
    return read_length(out, why);
}

int cw_http_parse_head(struct cw_http_head *out, const char *text, size_t len, const char **why)
{
    *out = (struct cw_http_head){ .text = cw_malloc(len + 1) };
    memcpy(out->text, text, len);
    out->text[len] = '\0';
    char *p = out->text, *end = p + len, *line = cut_line(&p, end);
    *why = "The request line is malformed.";
    int rc = line ? read_request_line(out, line, why) : 400;
    while (rc == 0) {
        *why = "A header line is malformed.";
        line = cut_line(&p, end);
        if (!line)
            return 400;
        if (!*line)
            return read_meaning(out, why);
        rc = read_field(out, line, why);
    }
    return rc;
}

void cw_http_head_free(struct cw_http_head *h)
{
    free(h->text);
    free(h->path);
    free(h->query);
    *h = (struct cw_http_head){ 0 };
}

const char *cw_http_field(const struct cw_http_head *h, const char *name)
{
    for (size_t i = 0; i < h->n_fields; i++)
        if (strcasecmp(h->fields[i].name, name) == 0)
            return h->fields[i].value;
    return NULL;
}

/* ---- chunks */

enum { SIZE, EXTENSION, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_LINE, DONE };

static int hex_value(char ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    ch |= 0x20;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* One byte of the framing. 0 or -EBADMSG. */
static int frame(struct cw_http_chunks *c, char ch)
{
    int digit = hex_value(ch);
    if (++c->line_bytes > TRAILER_MAX)
        return -EBADMSG;
    switch (c->state) {
    case SIZE:
        if (digit >= 0 && c->left < UINT32_MAX) {
            c->left = c->left << 4 | (unsigned)digit;
            c->seen_digit = true;
            return 0;
        }
        if (!c->seen_digit)
            return -EBADMSG;
        c->state = ch == '\r' ? SIZE_LF : EXTENSION;
        return ch == '\r' || ch == ';' || ch == ' ' || ch == '\t' ? 0 : -EBADMSG;
    case EXTENSION:
        if (ch == '\r')
            c->state = SIZE_LF;
        return ch == '\n' ? -EBADMSG : 0;
    case SIZE_LF:
        c->state = c->left ? DATA : TRAILER;
        c->seen_digit = false;
        return ch == '\n' ? 0 : -EBADMSG;
    case DATA_CR:
        c->state = DATA_LF;
        return ch == '\r' ? 0 : -EBADMSG;
    case DATA_LF:
        c->state = SIZE;
        c->line_bytes = 0;
        return ch == '\n' ? 0 : -EBADMSG;
    case TRAILER: /* at the start of a line */
        if (ch != '\r' && ch != '\n')
            c->state = TRAILER_LINE;
        else if (ch == '\n')
            c->state = DONE;
        return 0;
    default: /* TRAILER_LINE: read over */
        if (ch == '\n')
            c->state = TRAILER;
        return 0;
    }
}

long cw_http_chunks_feed(struct cw_http_chunks *c, struct cw_buf *out, size_t max_bytes,
                         const char *p, size_t n, bool *done)
{
    size_t i = 0;
    while (i < n && c->state != DONE) {
        if (c->state != DATA) {
            if (frame(c, p[i++]) < 0)
                return -EBADMSG;
            continue;
        }
        size_t part = n - i < c->left ? n - i : (size_t)c->left;
        if (out->len + part > max_bytes)
            return -EFBIG;
        cw_buf_add(out, p + i, part);
        i += part;
        c->left -= part;
        if (c->left == 0)
            c->state = DATA_CR;
    }
    *done = c->state == DONE;
    return (long)i;
}

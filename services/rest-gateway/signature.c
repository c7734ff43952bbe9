#include "services/rest-gateway/signature.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/clock.h"
#include "libcommon/crypto.h"
#include "services/rest-gateway/route.h"

#define UNSIGNED "UNSIGNED-PAYLOAD"
#define SERVICE  "iotdm"
#define PAIRS    256

static const char *const scheme_names[] = {
    [SIGNATURE_SDK] = "SDK-HMAC-SHA256", [SIGNATURE_V11] = "V11-HMAC-SHA256"
};

/* ---- the Authorization header */

/* Takes "<key>=<value>" up to the next comma; NULL when it is something else. */
static char *take(const char **text, const char *key)
{
    size_t k = strlen(key);
    *text += strspn(*text, " ");
    if (strncmp(*text, key, k) != 0 || (*text)[k] != '=')
        return NULL;
    const char *value = *text + k + 1;
    size_t n = strcspn(value, ", ");
    *text = value + n;
    if (**text == ',')
        (*text)++;
    return cw_strndup(value, n);
}

static int read_credential(struct signature *out, const char *text)
{
    char **parts[] = { &out->access, &out->date, &out->region, &out->service };
    for (size_t i = 0; i < CW_ARRAY_LEN(parts); i++) {
        size_t n = strcspn(text, "/");
        if (n == 0 || (text[n] == '/') != (i + 1 < CW_ARRAY_LEN(parts)))
            return -EINVAL;
        *parts[i] = cw_strndup(text, n);
        text += n + 1;
    }
    return 0;
}

static int read_signed(struct signature *out)
{
    for (const char *p = out->signed_text; *p;) {
        size_t n = strcspn(p, ";");
        if (n == 0 || out->n_signed == SIGNED_MAX)
            return -EINVAL;
        for (size_t i = 0; i < n; i++)
            if (isupper((unsigned char)p[i]))
                return -EINVAL;
        out->signed_names[out->n_signed++] = cw_strndup(p, n);
        p += n;
        if (*p == ';' && !*++p)
            return -EINVAL;
    }
    for (size_t i = 1; i < out->n_signed; i++) /* ascending, none twice */
        if (strcmp(out->signed_names[i - 1], out->signed_names[i]) >= 0)
            return -EINVAL;
    return 0;
}

int signature_parse(struct signature *out, const char *authorization)
{
    const char *p = authorization;
    int rc = 0;
    *out = (struct signature){ 0 };
    size_t n = strcspn(p, " ");
    if (n == strlen(scheme_names[SIGNATURE_V11]) && strncmp(p, scheme_names[SIGNATURE_V11], n) == 0)
        out->scheme = SIGNATURE_V11;
    else if (n != strlen(scheme_names[SIGNATURE_SDK]) ||
             strncmp(p, scheme_names[SIGNATURE_SDK], n) != 0)
        return -EINVAL;
    p += n;
    char *who = take(&p, out->scheme == SIGNATURE_V11 ? "Credential" : "Access");
    out->signed_text = take(&p, "SignedHeaders");
    out->value = take(&p, "Signature");
    if (!who || !out->signed_text || !out->value || *p || strlen(out->value) != 64)
        rc = -EINVAL;
    else if (out->scheme == SIGNATURE_V11)
        rc = read_credential(out, who);
    else
        out->access = cw_strdup(who);
    free(who);
    return rc == 0 && *out->access ? read_signed(out) : -EINVAL;
}

void signature_free(struct signature *s)
{
    char *owned[] = { s->access, s->date, s->region, s->service, s->signed_text, s->value };
    for (size_t i = 0; i < CW_ARRAY_LEN(owned); i++)
        free(owned[i]);
    for (size_t i = 0; i < s->n_signed; i++)
        free(s->signed_names[i]);
    *s = (struct signature){ 0 };
}

bool signature_covers(const struct signature *s, const char *name)
{
    for (size_t i = 0; i < s->n_signed; i++)
        if (strcasecmp(s->signed_names[i], name) == 0)
            return true;
    return false;
}

static const char *header(const struct signed_request *r, const char *name)
{
    for (size_t i = 0; i < r->n_headers; i++)
        if (strcasecmp(r->headers[i].name, name) == 0)
            return r->headers[i].value;
    return NULL;
}

/* ---- the canonical request */

static void add_encoded(struct cw_buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)s[i];
        if (isalnum(ch) || strchr("-_.~", ch))
            cw_buf_add(out, &s[i], 1);
        else
            cw_buf_printf(out, "%%%02X", ch);
    }
}

static void add_path(struct cw_buf *out, const char *path, bool raw)
{
    char *plain = raw ? cw_strdup(path) : url_decode(path, strlen(path), false);
    const char *p = plain ? plain : path;
    for (;;) {
        size_t n = strcspn(p, "/");
        add_encoded(out, p, n);
        p += n;
        if (!*p++)
            break;
        cw_buf_str(out, "/");
    }
    if (out->data[out->len - 1] != '/')
        cw_buf_str(out, "/");
    free(plain);
}

struct pair {
    char *name, *value;
};

static int by_name_and_value(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    int by_name = strcmp(x->name, y->name);
    return by_name ? by_name : strcmp(x->value, y->value);
}

static char *decode_or_keep(const char *s, size_t n)
{
    char *plain = url_decode(s, n, true);
    return plain ? plain : cw_strndup(s, n);
}

static void add_query(struct cw_buf *out, const char *query)
{
    struct pair pairs[PAIRS];
    size_t n_pairs = 0;
    for (const char *p = query; p && *p && n_pairs < PAIRS;) {
        size_t n = strcspn(p, "&"), eq = strcspn(p, "=&");
        if (n) {
            const char *value = eq < n ? p + eq + 1 : p + n;
            pairs[n_pairs++] = (struct pair){ decode_or_keep(p, eq),
                                              decode_or_keep(value, (size_t)(p + n - value)) };
        }
        p += n + (p[n] == '&');
    }
    qsort(pairs, n_pairs, sizeof *pairs, by_name_and_value);
    for (size_t i = 0; i < n_pairs; i++) {
        if (i)
            cw_buf_str(out, "&");
        add_encoded(out, pairs[i].name, strlen(pairs[i].name));
        cw_buf_str(out, "=");
        add_encoded(out, pairs[i].value, strlen(pairs[i].value));
        free(pairs[i].name);
        free(pairs[i].value);
    }
}

static void add_headers(struct cw_buf *out, const struct signature *s,
                        const struct signed_request *r)
{
    for (size_t i = 0; i < s->n_signed; i++) {
        const char *v = header(r, s->signed_names[i]); /* a missing one counts as empty: it fails */
        if (!v)
            v = "";
        v += strspn(v, " \t");
        size_t n = strlen(v);
        while (n && strchr(" \t", v[n - 1]))
            n--;
        cw_buf_printf(out, "%s:", s->signed_names[i]);
        cw_buf_add(out, v, n);
        cw_buf_str(out, "\n");
    }
}

void signature_canonical(struct cw_buf *out, const struct signature *s,
                         const struct signed_request *r, bool raw_path, const char *digest)
{
    cw_buf_reset(out);
    cw_buf_printf(out, "%s\n", r->method);
    add_path(out, r->path, raw_path);
    cw_buf_str(out, "\n");
    add_query(out, r->query);
    cw_buf_str(out, "\n");
    add_headers(out, s, r);
    cw_buf_printf(out, "\n%s\n%s", s->signed_text, digest);
}

static void derive_key(char out[CW_DIGEST_HEX_LEN], const char *access, const char *sk,
                       const char *info)
{
    uint8_t prk[CW_DIGEST_LEN], okm[CW_DIGEST_LEN];
    struct cw_buf text = { 0 };
    cw_hmac_sha256(prk, access, strlen(access), sk, strlen(sk));
    cw_buf_str(&text, info);
    cw_buf_add(&text, "\x01", 1);
    cw_hmac_sha256(okm, prk, sizeof prk, text.data, text.len);
    cw_hex(out, okm, sizeof okm);
    cw_buf_free(&text);
}

void signature_compute(char *out, const struct signature *s, const char *timestamp, const char *sk,
                       const char *canonical, size_t len)
{
    uint8_t digest[CW_DIGEST_LEN], mac[CW_DIGEST_LEN];
    char digest_hex[CW_DIGEST_HEX_LEN], derived[CW_DIGEST_HEX_LEN];
    struct cw_buf text = { 0 };
    const char *key = sk;
    cw_sha256(digest, canonical, len);
    cw_hex(digest_hex, digest, sizeof digest);
    cw_buf_printf(&text, "%s\n%s\n", scheme_names[s->scheme], timestamp);
    if (s->scheme == SIGNATURE_V11) {
        char *info = cw_sprintf("%s/%s/%s", s->date, s->region, s->service);
        derive_key(derived, s->access, sk, info);
        key = derived;
        cw_buf_printf(&text, "%s\n", info);
        free(info);
    }
    cw_buf_str(&text, digest_hex);
    cw_hmac_sha256(mac, key, strlen(key), text.data, text.len);
    cw_hex(out, mac, sizeof mac);
    cw_buf_free(&text);
}

/* ---- the checks */

static int fail(char *why, size_t size, const char *fmt, ...) CW_PRINTF(3, 4);
static int fail(char *why, size_t size, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, size, fmt, ap);
    va_end(ap);
    return -EACCES;
}

int signature_precheck(const struct signature *s, const struct signed_request *r,
                       const char *region, int64_t now_ms, char *why, size_t why_size)
{
    char ours[CW_TIME_LEN];
    int64_t at_ms;
    const char *date = header(r, "x-sdk-date");
    *why = '\0';
    if (!signature_covers(s, "host") || !signature_covers(s, "x-sdk-date"))
        return fail(why, why_size, "SignedHeaders must name host and x-sdk-date.");
    if (!date || cw_time_parse_basic(&at_ms, date) < 0)
        return fail(why, why_size, "X-Sdk-Date must be a time such as 20260105T081503Z.");
    if (at_ms < now_ms - SIGNATURE_SKEW_MS || at_ms > now_ms + SIGNATURE_SKEW_MS)
        return fail(why, why_size,
                    "The request was signed at %s, the server's time is %s: more than 15 minutes.",
                    date, cw_time_basic(ours, now_ms));
    if (s->scheme == SIGNATURE_V11 &&
        (strncmp(s->date, date, 8) != 0 || strlen(s->date) != 8 ||
         strcmp(s->service, SERVICE) != 0 ||
         (strcmp(region, "*") != 0 && strcmp(region, s->region) != 0)))
        return fail(why, why_size, "The scope must be <date of X-Sdk-Date>/%s/" SERVICE ".",
                    strcmp(region, "*") == 0 ? "<region>" : region);
    return 0;
}

static bool matches(const struct signature *s, const struct signed_request *r, const char *sk,
                    const char *digest)
{
    struct cw_buf text = { 0 };
    char want[CW_DIGEST_HEX_LEN];
    bool ok = false;
    int ways = strchr(r->path, '%') ? 2 : 1; /* one SDK signs the raw path */
    for (int raw = 0; raw < ways && !ok; raw++) {
        signature_canonical(&text, s, r, raw, digest);
        signature_compute(want, s, header(r, "x-sdk-date"), sk, text.data, text.len);
        ok = cw_equal(want, 64, s->value, strlen(s->value));
    }
    cw_buf_free(&text);
    return ok;
}

int signature_verify(const struct signature *s, const struct signed_request *r, const char *sk)
{
    uint8_t digest[CW_DIGEST_LEN];
    char real[CW_DIGEST_HEX_LEN];
    const char *given = header(r, "x-sdk-content-sha256");
    cw_sha256(digest, r->body, r->body_len);
    cw_hex(real, digest, sizeof digest);
    if (matches(s, r, sk, real))
        return 0;
    if (given && strcasecmp(given, real) == 0 && matches(s, r, sk, given))
        return 0; /* the same digest in capitals */
    /* a digest that the body does not have may stand in for it only where it was signed, and only
     * where there is no body to swap */
    if (!given || strcmp(given, UNSIGNED) != 0 || !signature_covers(s, "x-sdk-content-sha256"))
        return -EACCES;
    return (r->multipart || r->body_len == 0) && matches(s, r, sk, UNSIGNED) ? 0 : -EACCES;
}

void signature_digest(char *out, const struct signature *s, const struct signed_request *r)
{
    uint8_t digest[CW_DIGEST_LEN];
    char body[CW_DIGEST_HEX_LEN];
    struct cw_buf text = { 0 };
    cw_sha256(digest, r->body, r->body_len);
    signature_canonical(&text, s, r, false, cw_hex(body, digest, sizeof digest));
    cw_sha256(digest, text.data, text.len);
    cw_hex(out, digest, sizeof digest);
    cw_buf_free(&text);
}

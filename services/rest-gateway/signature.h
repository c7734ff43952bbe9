/* signature.h - SDK-HMAC-SHA256 and V11-HMAC-SHA256 requests, checked byte by byte.
 *
 * The canonical request: method, path, query, the headers that SignedHeaders names, SignedHeaders,
 * digest of the body, joined by newlines. docs/protocol/signature.md has the rules in full. */
#pragma once

#include "libcommon/util.h"

#define SIGNATURE_SKEW_MS (15LL * 60 * 1000)
#define SIGNED_MAX        64

enum signature_scheme { SIGNATURE_SDK, SIGNATURE_V11 };

/* The parsed Authorization header; owned strings. */
struct signature {
    enum signature_scheme scheme;
    char *access, *date, *region, *service; /* the last three: V11 only */
    char *signed_text, *signed_names[SIGNED_MAX];
    size_t n_signed;
    char *value; /* 64 lower-case hex digits */
};

struct signed_header {
    const char *name, *value; /* name in any case */
};
/* The request as it came in. */
struct signed_request {
    const char *method, *path, *query; /* raw; query NULL without */
    const struct signed_header *headers;
    size_t n_headers;
    const void *body;
    size_t body_len;
    bool multipart; /* the one kind of operation that may leave its body unsigned */
};

/* 0 or -EINVAL: not a header of these schemes. signature_free() in both cases. */
int signature_parse(struct signature *out, const char *authorization);
/* Zeroes it; zeroed memory is fine. */
void signature_free(struct signature *s);
/* True if SignedHeaders names the header; name in any case. */
bool signature_covers(const struct signature *s, const char *name);

/* What does not need the key: SignedHeaders, scope, clock. 0 or -EACCES with a sentence in why for
 * the caller's eyes; *why empty: say no more than that it failed. region "*": any. */
int signature_precheck(const struct signature *s, const struct signed_request *r,
                       const char *region, int64_t now_ms, char *why, size_t why_size);

/* 0 or -EACCES. */
int signature_verify(const struct signature *s, const struct signed_request *r, const char *sk);

/* SHA-256 of the canonical request, for the text of a refusal: a client that compares it with its
 * own knows whether request or key differs. Needs no secret. out needs 65 bytes. */
void signature_digest(char *out, const struct signature *s, const struct signed_request *r);

/* For tests: the canonical request with the digest given; raw_path: do not decode the path. */
void signature_canonical(struct cw_buf *out, const struct signature *s,
                         const struct signed_request *r, bool raw_path, const char *digest);
/* The signature over a canonical request. out needs 65 bytes. */
void signature_compute(char *out, const struct signature *s, const char *timestamp, const char *sk,
                       const char *canonical, size_t len);

/* ca_pem.h - reads the certificate of a CA that somebody sent. */
#pragma once

#include <stdint.h>

#include "libcommon/util.h"

struct ca_pem {
    char *content;      /* the one certificate as PEM, nothing around it */
    char *subject;      /* RFC 2253, UTF-8 */
    char *common_name;  /* of the subject, "" without */
    char *organization; /* the same */
    int64_t begins_ms, expires_ms;
    char fingerprint[65]; /* SHA-256, hex */
};

/* 0, the caller calls ca_pem_free(); -EINVAL after writing the reason to why. */
int ca_pem_read(struct ca_pem *out, const char *text, size_t len, int64_t now_ms, char *why,
                size_t size);
/* Once, and only after a 0. */
void ca_pem_free(struct ca_pem *ca);

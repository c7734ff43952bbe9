#include "libcommon/token.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "libcommon/util.h"

#define PREFIX "v1."

static void sign(uint8_t mac[CW_DIGEST_LEN], const uint8_t key[32], const char *text, size_t len)
{
    cw_hmac_sha256(mac, key, 32, text, len);
}

char *cw_token_make(const uint8_t key[32], const struct cw_token *t)
{
    char mac_hex[CW_DIGEST_HEX_LEN];
    uint8_t mac[CW_DIGEST_LEN];
    char *plain = cw_sprintf("%s %s %" PRId64 " %" PRId64 " %" PRId64, t->user_id,
                             *t->project_id ? t->project_id : ".", t->generation, t->issued_ms,
                             t->expires_ms);
    size_t n = strlen(plain);
    char *hex = cw_malloc(2 * n + 1);
    cw_hex(hex, (const uint8_t *)plain, n);
    char *head = cw_sprintf(PREFIX "%s", hex);
    sign(mac, key, head, strlen(head));
    char *text = cw_sprintf("%s.%s", head, cw_hex(mac_hex, mac, sizeof mac));
    free(head);
    free(hex);
    free(plain);
    return text;
}

static int read_payload(struct cw_token *out, const char *hex, size_t digits)
{
    char plain[CW_TOKEN_MAX];
    int end = -1;
    size_t n = digits / 2;
    if (digits % 2 || n >= sizeof plain || cw_unhex((uint8_t *)plain, n, hex, digits) < 0)
        return -EINVAL;
    plain[n] = '\0';
    if (sscanf(plain, "%64s %64s %" SCNd64 " %" SCNd64 " %" SCNd64 "%n", out->user_id,
               out->project_id, &out->generation, &out->issued_ms, &out->expires_ms, &end) != 5 ||
        end != (int)n)
        return -EINVAL;
    if (strcmp(out->project_id, ".") == 0)
        *out->project_id = '\0';
    return 0;
}

int cw_token_check(struct cw_token *out, const uint8_t key[32], const char *text, int64_t now_ms)
{
    uint8_t mac[CW_DIGEST_LEN], given[CW_DIGEST_LEN];
    size_t len = strnlen(text, CW_TOKEN_MAX);
    const char *dot = strrchr(text, '.');
    *out = (struct cw_token){ 0 };
    if (len == CW_TOKEN_MAX || strncmp(text, PREFIX, strlen(PREFIX)) != 0 ||
        dot < text + strlen(PREFIX))
        return -EINVAL;
    if (cw_unhex(given, sizeof given, dot + 1, len - (size_t)(dot + 1 - text)) < 0)
        return -EINVAL;
    sign(mac, key, text, (size_t)(dot - text));
    if (!cw_equal(mac, sizeof mac, given, sizeof given))
        return -EKEYREJECTED;
    const char *payload = text + strlen(PREFIX);
    if (read_payload(out, payload, (size_t)(dot - payload)) < 0)
        return -EINVAL;
    return now_ms < out->expires_ms ? 0 : -EKEYEXPIRED;
}

/* token.h - the tokens of X-Subject-Token and X-Auth-Token: signed, checked without asking.
 *
 * Text: "v1.<payload in hex>.<HMAC-SHA256 in hex>". Made by identity, checked by rest-gateway with
 * the key that both have (CAUSEWAY_KEY_TOKEN). The generation is the user's at the time of issue:
 * when the user's has grown since, the token is void. */
#pragma once

#include <stdint.h>

#define CW_TOKEN_ID_LEN 65
#define CW_TOKEN_MAX    1024 /* longer text is no token of ours */

struct cw_token {
    char user_id[CW_TOKEN_ID_LEN];
    char project_id[CW_TOKEN_ID_LEN]; /* empty: scope of the account */
    int64_t generation, issued_ms, expires_ms;
};

/* Ids are of letters, digits, '_' and '-'. The caller frees. */
char *cw_token_make(const uint8_t key[32], const struct cw_token *t);

/* 0; -EINVAL: no token; -EKEYREJECTED: signed with another key, or changed; -EKEYEXPIRED: ours, but
 * its time is over (*out is set). */
int cw_token_check(struct cw_token *out, const uint8_t key[32], const char *text, int64_t now_ms);

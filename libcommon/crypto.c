#include "libcommon/crypto.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "libcommon/ids.h"
#include "libcommon/util.h"

#define NONCE_LEN 12
#define TAG_LEN   16

/* Only out of memory or a broken library can fail these calls. */
static void must(int ok)
{
    if (ok != 1)
        abort();
}

void cw_sha256(uint8_t out[CW_DIGEST_LEN], const void *p, size_t n)
{
    must(EVP_Digest(p, n, out, NULL, EVP_sha256(), NULL));
}

void cw_hmac_sha256(uint8_t out[CW_DIGEST_LEN], const void *key, size_t key_len, const void *p,
                    size_t n)
{
    must(HMAC(EVP_sha256(), key, (int)key_len, p, n, out, NULL) != NULL);
}

char *cw_hex(char *out, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", p[i]);
    out[2 * n] = '\0';
    return out;
}

int cw_unhex(uint8_t *out, size_t n, const char *hex, size_t len)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    if (len != 2 * n)
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        const char *d = hex[i] ? strchr(digits, hex[i]) : NULL;
        if (!d)
            return -EINVAL;
        out[i / 2] = (uint8_t)(out[i / 2] << 4 | ((d - digits) & 15));
    }
    return 0;
}

bool cw_equal(const void *a, size_t a_len, const void *b, size_t b_len)
{
    return a_len == b_len && CRYPTO_memcmp(a, b, a_len) == 0;
}

char *cw_device_password(char out[CW_DIGEST_HEX_LEN], const char *secret, const char *timestamp)
{
    uint8_t mac[CW_DIGEST_LEN];
    cw_hmac_sha256(mac, timestamp, strlen(timestamp), secret, strlen(secret));
    return cw_hex(out, mac, sizeof mac);
}

/* "v1.<key id>.": the id is the start of the key's digest, enough to tell keys apart. */
static void seal_prefix(char out[16], const uint8_t key[32])
{
    uint8_t digest[CW_DIGEST_LEN];
    cw_sha256(digest, key, 32);
    snprintf(out, 16, "v1.%02x%02x%02x%02x.", digest[0], digest[1], digest[2], digest[3]);
}

char *cw_seal(const uint8_t key[32], const char *context, const void *p, size_t n)
{
    char prefix[16];
    int len;
    uint8_t *raw = cw_malloc(NONCE_LEN + n + TAG_LEN);
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    cw_random(raw, NONCE_LEN);
    must(c != NULL);
    must(EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, raw));
    must(EVP_EncryptUpdate(c, NULL, &len, (const uint8_t *)context, (int)strlen(context)));
    must(EVP_EncryptUpdate(c, raw + NONCE_LEN, &len, p, (int)n));
    must(EVP_EncryptFinal_ex(c, raw + NONCE_LEN + len, &len));
    must(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_LEN, raw + NONCE_LEN + n));
    EVP_CIPHER_CTX_free(c);
    seal_prefix(prefix, key);
    char *out = cw_malloc(strlen(prefix) + 2 * (NONCE_LEN + n + TAG_LEN) + 1);
    cw_hex(stpcpy(out, prefix), raw, NONCE_LEN + n + TAG_LEN);
    free(raw);
    return out;
}

static int open_raw(char *out, const uint8_t key[32], const char *context, uint8_t *raw, size_t n)
{
    int len;
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    must(c != NULL);
    must(EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, raw));
    must(EVP_DecryptUpdate(c, NULL, &len, (const uint8_t *)context, (int)strlen(context)));
    must(EVP_DecryptUpdate(c, (uint8_t *)out, &len, raw + NONCE_LEN, (int)n));
    must(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_LEN, raw + NONCE_LEN + n));
    int ok = EVP_DecryptFinal_ex(c, (uint8_t *)out + len, &len);
    EVP_CIPHER_CTX_free(c);
    return ok == 1 ? 0 : -EKEYREJECTED;
}

int cw_unseal(char **out, size_t *n, const uint8_t key[32], const char *context, const char *sealed)
{
    char prefix[16];
    const char *hex = strncmp(sealed, "v1.", 3) == 0 ? strchr(sealed + 3, '.') : NULL;
    size_t hex_len = hex ? strlen(++hex) : 0;
    size_t raw_len = hex_len / 2;
    if (raw_len < NONCE_LEN + TAG_LEN)
        return -EINVAL;
    seal_prefix(prefix, key);
    uint8_t *raw = cw_calloc(1, raw_len);
    char *text = cw_calloc(1, raw_len);
    int rc = cw_unhex(raw, raw_len, hex, hex_len);
    if (rc == 0 && strncmp(sealed, prefix, strlen(prefix)) != 0)
        rc = -EKEYREJECTED;
    if (rc == 0)
        rc = open_raw(text, key, context, raw, raw_len - NONCE_LEN - TAG_LEN);
    free(raw);
    if (rc < 0) {
        OPENSSL_cleanse(text, raw_len);
        free(text);
        return rc;
    }
    *out = text;
    text[raw_len - NONCE_LEN - TAG_LEN] = '\0';
    if (n)
        *n = raw_len - NONCE_LEN - TAG_LEN;
    return 0;
}

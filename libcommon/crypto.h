/* crypto.h - digests, constant-time comparison and sealed values, over OpenSSL. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CW_DIGEST_LEN     32
#define CW_DIGEST_HEX_LEN 65

/* Neither of the two fails: a library that cannot digest ends the process. */
void cw_sha256(uint8_t out[CW_DIGEST_LEN], const void *p, size_t n);
/* RFC 2104 over SHA-256. */
void cw_hmac_sha256(uint8_t out[CW_DIGEST_LEN], const void *key, size_t key_len, const void *p,
                    size_t n);
/* Lower-case hex; out needs 2 * n + 1 bytes. */
char *cw_hex(char *out, const uint8_t *p, size_t n);
/* Reads exactly 2 * n hex digits of either case. 0 or -EINVAL. */
int cw_unhex(uint8_t *out, size_t n, const char *hex, size_t len);
/* Time depends on the lengths alone. */
bool cw_equal(const void *a, size_t a_len, const void *b, size_t b_len);

/* What a device sends as its password: hex(HMAC-SHA256(key = timestamp, message = secret))
 * (docs/protocol/mqtt-login.md). */
char *cw_device_password(char out[CW_DIGEST_HEX_LEN], const char *secret, const char *timestamp);

/* Seals a secret for keeping: "v1.<key id>.<nonce, AES-256-GCM text and tag, in hex>", bound to
 * context (where it is kept), so that a row's value does not open in another row. The caller frees.
 */
char *cw_seal(const uint8_t key[32], const char *context, const void *p, size_t n);
/* Opens it; *out is NUL-terminated (length without in *n, may be NULL); the caller frees.
 * -EINVAL: not a sealed value; -EKEYREJECTED: another key, another context, or changed. */
int cw_unseal(char **out, size_t *n, const uint8_t key[32], const char *context,
              const char *sealed);

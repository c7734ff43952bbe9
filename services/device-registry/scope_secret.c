/* The arithmetic of registration groups. No I/O. */
#include <stdio.h>
#include <string.h>

#include "services/device-registry/scopes.h"

const char *scope_context(char out[SCOPE_CONTEXT_LEN], const char *scope_id)
{
    snprintf(out, SCOPE_CONTEXT_LEN, "scope.%.48s", scope_id);
    return out;
}

char *scope_device_secret(char out[CW_DIGEST_HEX_LEN], const char *device_id, const void *secret,
                          size_t len)
{
    uint8_t raw[CW_DIGEST_LEN];
    cw_hmac_sha256(raw, device_id, strlen(device_id), secret, len);
    return cw_hex(out, raw, sizeof raw);
}

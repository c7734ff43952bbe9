/* scopes.h - registration groups (docs/protocol/provisioning.md): whoever has the secret of one, or
 * a certificate of its space's CAs, registers itself. Devices name a group by its scope id. */
#pragma once

#include "libcommon/crypto.h"
#include "services/device-registry/registry.h"

/* Answers with the secret, as base64, which is shown here and after a reset only. */
void create_scope(struct cw_api_call *call, void *self);
void list_scopes(struct cw_api_call *call, void *self);
void show_scope(struct cw_api_call *call, void *self);
void update_scope(struct cw_api_call *call, void *self);
void delete_scope(struct cw_api_call *call, void *self);
void reset_scope_secret(struct cw_api_call *call, void *self);

/* What the secret of a group is bound to. */
#define SCOPE_CONTEXT_LEN 64
const char *scope_context(char out[SCOPE_CONTEXT_LEN], const char *scope_id);
/* The secret of a device of the group: hex(HMAC-SHA256(key = device id, message = the group's
 * secret)), the secret as bytes. */
char *scope_device_secret(char out[CW_DIGEST_HEX_LEN], const char *device_id, const void *secret,
                          size_t len);

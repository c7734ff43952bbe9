/* template_body.h - what a provisioning template says, and which device it makes of a certificate
 * (docs/protocol/provisioning.md). No I/O. */
#pragma once

#include <openssl/x509.h>

#include "services/device-registry/registry.h"

/* What is wrong with a template_body whose types are right, with the path of the field, in buf; or
 * NULL. */
const char *template_fault(const json_t *body, char *buf, size_t size);
/* The body of AddDevice for this certificate, without app_id and auth_info; the caller owns it.
 * NULL: *why says which value is missing. */
json_t *template_device(const json_t *body, const X509 *cert, struct login_refusal *why);
/* Borrowed; NULL: none. */
const json_t *template_policies(const json_t *body);
const json_t *template_tags(const json_t *body);

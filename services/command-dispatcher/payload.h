/* payload.h - bytes that callers write as text. */
#pragma once

#include "services/command-dispatcher/dispatcher.h"

/* Appends what the base64 (RFC 4648, section 4, with padding) stands for. 0 or -EINVAL. */
int payload_from_base64(struct cw_buf *out, const char *text);

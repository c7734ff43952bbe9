/* encode.h - bytes as text. */
#pragma once

#include "libcommon/util.h"

/* RFC 4648, section 4, with padding and without line ends; appended. */
void base64(struct cw_buf *out, const void *data, size_t len);
void base64_json(struct cw_buf *out, const void *data, size_t len); /* with quotes */

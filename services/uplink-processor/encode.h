/* encode.h - bytes as text. */
#pragma once

#include "libcommon/util.h"

void base64(struct cw_buf *out, const void *data, size_t len);
void base64_json(struct cw_buf *out, const void *data, size_t len); /* with quotes */

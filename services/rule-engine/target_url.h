/* target_url.h - is this a URL that can be pushed to? (docs/protocol/push.md) */
#pragma once

#include "libcommon/cidr.h"

/* 0; or -EINVAL after writing to why (size bytes) which part is wrong and, if it can be told, the
 * URL as it should be. deny may be NULL; it is looked at when the host is an address. */
int target_url_check(const char *url, const struct cw_cidr_list *deny, char *why, size_t size);
/* The same for "host:port" of cn_name; the port may be left out. */
int target_name_check(const char *name, char *why, size_t size);

/* cidr.h - lists of networks ("10.0.0.0/8, fe80::/10"), for whoever checks addresses. */
#pragma once

#include "libcommon/util.h"

struct sockaddr;
struct cw_cidr_list;
/* Networks with commas or blanks between them; NULL or "": none. -EINVAL: *out is NULL, err says
 * which word is no network. */
int cw_cidr_parse(struct cw_cidr_list **out, const char *text, char *err, size_t size);
/* IPv4 and its IPv4-mapped IPv6 form are one (RFC 4291, 2.5.5.2). An address of another family is
 * in every list: what cannot be judged is not connected to. */
bool cw_cidr_has(const struct cw_cidr_list *list, const struct sockaddr *address);
/* Sets *list to NULL; NULL is fine. */
void cw_cidr_free(struct cw_cidr_list **list);

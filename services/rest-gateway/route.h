/* route.h - finds the operation of a request in the table of openapi.json. */
#pragma once

#include "proto/route_table.h"

#define ROUTE_VARS 4

/* Path parameters of a match, in the order of route->path; decoded, owned. */
struct route_match {
    const struct cw_route *route;
    struct route_var {
        char *name, *value;
    } vars[ROUTE_VARS];
    size_t n_vars;
    char allow[48]; /* after -EOPNOTSUPP: methods that the path has, for Allow */
};

/* path: as sent, without query. 0; -ENOENT: no such URL; -EOPNOTSUPP: another method. After 0 the
 * caller runs route_match_free(). */
int route_find(struct route_match *out, const char *method, const char *path);
/* Frees its names and values and zeroes it; zeroed memory is fine. */
void route_match_free(struct route_match *m);
const char *route_var(const struct route_match *m, const char *name); /* NULL if absent */

/* Percent-decodes s[0..n); plus: '+' is a space. The caller frees. NULL: a broken or NUL escape. */
char *url_decode(const char *s, size_t n, bool plus);

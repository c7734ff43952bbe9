/* api_space.h - calls of users whose policies name resource spaces.
 *
 * rest-gateway tells with each call in which spaces the caller may do it; only who keeps a thing
 * knows in which space it lies. So the owner looks, before the operation's handler runs: by the
 * operation's x-space (openapi.json) and a statement for it. Callers without such policies, nearly
 * all, cost nothing.
 *
 * x-space: app: {app_id} of the path · list: the answer is filtered, app_id of the query is looked
 * at · all: needs all spaces · others: as the owner's table says. */
#pragma once

#include "libcommon/api.h"
#include "libcommon/db.h"

#define CW_SPACE_PARAMS 2

/* How the space of a call is found. stmt returns a row with app_id; NULL: the thing lies in no
 * space, and needs all; no row: there is no such thing, and the handler says so. from: what its
 * parameters are, "path:device_id", "query:app_id", "body:app_id", or "any:app_id" (query, else
 * body); absent ones are NULL. */
struct cw_space_rule {
    const char *space;
    struct cw_stmt stmt;
    const char *from[CW_SPACE_PARAMS];
};
/* After cw_api_serve() of the service. The table ends with a zero row and outlives the process. */
void cw_api_space_rules(const char *service, const struct cw_space_rule *rules);

/* True if the caller may do this in the space; app_id NULL: in all of them. */
bool cw_api_may(const struct cw_api_call *call, const char *app_id);
/* For lists: false when the caller may see all spaces. allowed and denied are filled either way
 * (zeroed before; the caller frees both). */
bool cw_api_spaces(const struct cw_api_call *call, struct cw_db_array *allowed,
                   struct cw_db_array *denied);
/* allowed as a text[]: SQL NULL for all. */
struct cw_db_param cw_api_spaces_param(struct cw_db_array *allowed);

/* ---- for api.c */

/* Runs then(call, self) when the caller may; else ends the call. */
void cw_api_space_check(struct cw_api_call *call, const struct cw_space_rule *rules,
                        struct cw_app *app, cw_api_fn *then, void *self);

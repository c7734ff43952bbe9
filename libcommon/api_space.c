#include "libcommon/api_space.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/api_rows.h"
#include "libcommon/service.h"
#include "proto/routes.h"

#define ALL "*"

static bool contains(char **list, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], what) == 0)
            return true;
    return false;
}

bool cw_api_may(const struct cw_api_call *call, const char *app_id)
{
    const Causeway__ApiRequest *q = cw_api_request(call);
    if (!q->some_spaces)
        return true;
    if (!app_id)
        return contains(q->spaces, q->n_spaces, ALL) && q->n_spaces_denied == 0;
    return (contains(q->spaces, q->n_spaces, ALL) || contains(q->spaces, q->n_spaces, app_id)) &&
           !contains(q->spaces_denied, q->n_spaces_denied, app_id);
}

bool cw_api_spaces(const struct cw_api_call *call, struct cw_db_array *allowed,
                   struct cw_db_array *denied)
{
    const Causeway__ApiRequest *q = cw_api_request(call);
    cw_db_array_reset(denied, CW_ARRAY_TEXT);
    if (!q->some_spaces)
        return false;
    for (size_t i = 0; i < q->n_spaces_denied; i++)
        cw_db_array_str(denied, q->spaces_denied[i]);
    if (contains(q->spaces, q->n_spaces, ALL))
        return true;
    cw_db_array_reset(allowed, CW_ARRAY_TEXT);
    for (size_t i = 0; i < q->n_spaces; i++)
        cw_db_array_str(allowed, q->spaces[i]);
    return true;
}

struct cw_db_param cw_api_spaces_param(struct cw_db_array *allowed)
{
    return allowed->buf.len ? cw_db_array_param(allowed) : CW_NULL;
}

/* ---- before a handler */

static void deny(struct cw_api_call *call, const char *app_id)
{
    const Causeway__ApiRequest *q = cw_api_request(call);
    if (app_id)
        cw_api_fail(call, CW_E_SPACE_DENIED, "\"%s\" needs %s in resource space \"%s\".",
                    q->user_name, q->permission, app_id);
    else
        cw_api_fail(call, CW_E_SPACE_DENIED,
                    "\"%s\" needs %s in all resource spaces: what it is about lies in none.",
                    q->user_name, q->permission);
}

static const char *space_of(const char *operation)
{
    const struct cw_route *route = cw_route_of(operation);
    return route ? route->space : NULL;
}

static const char *value(struct cw_api_call *call, const char *from)
{
    const char *name = strchr(from, ':') + 1, *v = NULL;
    if (*from == 'p')
        v = cw_api_path(call, name);
    if (*from == 'q' || *from == 'a')
        v = cw_api_query(call, name);
    if (!v && (*from == 'b' || *from == 'a'))
        v = cw_body_text(cw_api_body(call), name);
    return v;
}

struct checking {
    struct cw_api_call *call;
    cw_api_fn *then;
    void *self;
};

static void on_space(PGresult *res, void *arg)
{
    struct checking k = *(struct checking *)arg;
    free(arg);
    if (cw_api_db_failed(k.call, res, "find the resource space"))
        return;
    if (PQntuples(res) == 0 || cw_api_may(k.call, cw_db_str(res, 0, "app_id")))
        k.then(k.call, k.self);
    else
        deny(k.call, cw_db_str(res, 0, "app_id"));
}

static void ask(struct cw_api_call *call, const struct cw_space_rule *rule, struct cw_app *app,
                cw_api_fn *then, void *self)
{
    struct cw_db_param p[CW_SPACE_PARAMS];
    int n = 0;
    while (n < CW_SPACE_PARAMS && rule->from[n]) {
        p[n] = CW_TEXT(value(call, rule->from[n]));
        n++;
    }
    struct checking *k = cw_malloc(sizeof *k);
    *k = (struct checking){ call, then, self };
    if (!cw_db_exec(cw_app_db(app), &rule->stmt, n, p, on_space, k)) {
        free(k);
        cw_api_no_db(call);
    }
}

void cw_api_space_check(struct cw_api_call *call, const struct cw_space_rule *rules,
                        struct cw_app *app, cw_api_fn *then, void *self)
{
    const char *space = space_of(cw_api_request(call)->operation), *app_id = NULL;
    for (; space && rules && rules->space; rules++)
        if (strcmp(rules->space, space) == 0) {
            ask(call, rules, app, then, self);
            return;
        }
    bool fine = !space;
    if (space && strcmp(space, "app") == 0)
        fine = cw_api_may(call, app_id = cw_api_path(call, "app_id"));
    else if (space && strcmp(space, "list") == 0)
        fine = !(app_id = cw_api_query(call, "app_id")) || cw_api_may(call, app_id);
    else if (space) /* all, or one that nobody has a rule for */
        fine = cw_api_may(call, NULL);
    if (fine)
        then(call, self);
    else
        deny(call, app_id);
}

#include "services/rest-gateway/policy.h"

#include <fnmatch.h>
#include <string.h>

#include "libcommon/json.h"

#define APP "iotda:*:*:app:"

static bool acts(const json_t *statement, const char *action)
{
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(statement, "Action"), i, v)
    {
        const char *pattern = json_string_value(v);
        if (pattern && fnmatch(pattern, action, 0) == 0)
            return true;
    }
    return false;
}

static bool has(const char *const *list, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], what) == 0)
            return true;
    return false;
}

static void drop(struct access *a, size_t at) { a->allowed[at] = a->allowed[--a->n_allowed]; }

/* More names than there is room for: what cannot be kept is not allowed. */
static void allow(struct access *a, const char *space)
{
    if (!has(a->allowed, a->n_allowed, space) && a->n_allowed < ACCESS_SPACES)
        a->allowed[a->n_allowed++] = space;
}

static void deny(struct access *a, const char *space)
{
    if (has(a->denied, a->n_denied, space))
        return;
    if (a->n_denied == ACCESS_SPACES)
        a->none = true;
    else
        a->denied[a->n_denied++] = space;
}

static void add_statement(struct access *a, const json_t *statement)
{
    const char *effect = cw_json_text(statement, "Effect");
    const json_t *resources = json_object_get(statement, "Resource");
    bool allows = effect && strcmp(effect, "Allow") == 0;
    size_t i;
    json_t *v;
    if (!json_array_size(resources)) {
        *(allows ? &a->all : &a->none) = true;
        return;
    }
    json_array_foreach(resources, i, v)
    {
        const char *s = json_string_value(v);
        if (s && strcmp(s, "*") == 0)
            *(allows ? &a->all : &a->none) = true;
        else if (s && strncmp(s, APP, strlen(APP)) == 0)
            (allows ? allow : deny)(a, s + strlen(APP));
    }
}

static void add_document(struct access *a, const json_t *document, const char *action)
{
    size_t i;
    json_t *statement;
    json_array_foreach(json_object_get(document, "Statement"), i, statement)
    {
        if (acts(statement, action))
            add_statement(a, statement);
    }
}

/* What is denied is not among what is allowed. */
static void settle(struct access *a)
{
    for (size_t i = a->n_allowed; i-- > 0;)
        if (has(a->denied, a->n_denied, a->allowed[i]))
            drop(a, i);
}

void access_of_grants(struct access *out, const json_t *grants, const char *project,
                      const char *action)
{
    size_t i;
    json_t *grant;
    *out = (struct access){ 0 };
    json_array_foreach(grants, i, grant)
    {
        const char *of = cw_json_text(grant, "project_id");
        if (!project || (of && strcmp(of, project) == 0))
            add_document(out, json_object_get(grant, "policy"), action);
    }
    settle(out);
}

void access_limit(struct access *a, const json_t *document, const char *action)
{
    struct access b = { 0 };
    add_document(&b, document, action);
    settle(&b);
    a->none |= b.none;
    for (size_t i = 0; i < b.n_denied; i++)
        deny(a, b.denied[i]);
    if (a->all && !b.all) { /* what is allowed is what the document names */
        memcpy(a->allowed, b.allowed, sizeof a->allowed);
        a->n_allowed = b.n_allowed;
    } else if (!b.all) {
        for (size_t i = a->n_allowed; i-- > 0;)
            if (!has(b.allowed, b.n_allowed, a->allowed[i]))
                drop(a, i);
    }
    a->all &= b.all;
    settle(a);
}

bool access_any(const struct access *a) { return !a->none && (a->all || a->n_allowed); }

bool access_everywhere(const struct access *a) { return !a->none && a->all && !a->n_denied; }

#include "services/mqtt-gateway/policy.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct statement {
    bool denies;
    unsigned actions; /* enum policy_action */
    size_t n;
    char **patterns;
};

struct policy {
    char *name;
    size_t n;
    struct statement *statements;
};

/* ---- reading */

static unsigned read_actions(const json_t *list)
{
    unsigned actions = 0;
    size_t i;
    const json_t *v;
    json_array_foreach(list, i, v)
    {
        const char *name = json_string_value(v);
        if (name && strcmp(name, "iotda:devices:publish") == 0)
            actions |= POLICY_PUBLISH;
        if (name && strcmp(name, "iotda:devices:subscribe") == 0)
            actions |= POLICY_SUBSCRIBE;
    }
    return actions;
}

static bool read_statement(struct statement *s, const json_t *from)
{
    static const char prefix[] = "topic:";
    const char *effect = json_string_value(json_object_get(from, "effect"));
    const json_t *resources = json_object_get(from, "resources"), *v;
    size_t i;
    if (!effect || !json_is_array(resources))
        return false;
    s->denies = strcmp(effect, "DENY") == 0;
    s->actions = read_actions(json_object_get(from, "actions"));
    s->patterns = cw_calloc(json_array_size(resources) + 1, sizeof *s->patterns);
    json_array_foreach(resources, i, v)
    {
        const char *text = json_string_value(v);
        if (!text || strncmp(text, prefix, strlen(prefix)) != 0)
            return false;
        s->patterns[s->n++] = cw_strdup(text + strlen(prefix));
    }
    return true;
}

struct policy *policy_read(const char *name, const char *statement)
{
    json_t *list = json_loads(statement, 0, NULL);
    size_t n = json_array_size(list);
    struct policy *p = cw_calloc(1, sizeof *p);
    bool fine = json_is_array(list);
    p->name = cw_strdup(name);
    p->statements = cw_calloc(n + 1, sizeof *p->statements);
    for (; fine && p->n < n; p->n++)
        fine = read_statement(&p->statements[p->n], json_array_get(list, p->n));
    json_decref(list);
    if (fine)
        return p;
    policy_free(p);
    return NULL;
}

void policy_free(struct policy *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n; i++) {
        for (size_t k = 0; k < p->statements[i].n; k++)
            free(p->statements[i].patterns[k]);
        free(p->statements[i].patterns);
    }
    free(p->statements);
    free(p->name);
    free(p);
}

const char *policy_name(const struct policy *p) { return p->name; }

bool policy_denies(const struct policy *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->statements[i].denies)
            return true;
    return false;
}

bool policy_is_open(const struct policy *p)
{
    unsigned open = 0;
    for (size_t i = 0; i < p->n; i++) {
        const struct statement *s = &p->statements[i];
        for (size_t k = 0; !s->denies && k < s->n; k++)
            if (strcmp(s->patterns[k], "*") == 0)
                open |= s->actions;
    }
    return open == (POLICY_PUBLISH | POLICY_SUBSCRIBE);
}

/* ---- matching */

/* The bytes of the character at t[i]. */
static size_t char_len(struct text t, size_t i)
{
    size_t n = 1;
    while (i + n < t.len && ((unsigned char)t.p[i + n] & 0xc0) == 0x80)
        n++;
    return n;
}

/* Goes back to the last * only: what an earlier one could take more, the last one can take too. */
bool policy_matches(const char *pattern, struct text topic)
{
    const char *star = NULL;
    size_t i = 0, from = 0;
    while (i < topic.len) {
        if (*pattern == '*') {
            star = pattern++;
            from = i;
        } else if (*pattern == '?') {
            pattern++;
            i += char_len(topic, i);
        } else if (*pattern == topic.p[i]) {
            pattern++;
            i++;
        } else if (star) {
            pattern = star + 1;
            from += char_len(topic, from);
            i = from;
        } else
            return false;
    }
    while (*pattern == '*')
        pattern++;
    return !*pattern;
}

/* What the variable at p stands for, and its length; NULL: there is none. */
static const char *value_of(const char *p, size_t *len, const struct policy_question *q)
{
    static const char device[] = "${devices.deviceId}", product[] = "${devices.productId}";
    if (strncmp(p, device, strlen(device)) == 0) {
        *len = strlen(device);
        return q->device_id;
    }
    if (strncmp(p, product, strlen(product)) == 0) {
        *len = strlen(product);
        return q->product_id;
    }
    return NULL;
}

bool policy_expand(char *out, size_t size, const char *pattern, const struct policy_question *q)
{
    size_t n = 0, taken;
    while (*pattern) {
        const char *value = value_of(pattern, &taken, q);
        size_t more = value ? strlen(value) : 1;
        if (n + more >= size)
            return false;
        memcpy(out + n, value ? value : pattern, more);
        n += more;
        pattern += value ? taken : 1;
    }
    out[n] = '\0';
    return true;
}

/* ---- asking */

static size_t common_prefix(const char *pattern, struct text topic)
{
    size_t n = 0;
    while (n < topic.len && pattern[n] == topic.p[n])
        n++;
    return n;
}

static void remember(char out[POLICY_PATTERN_MAX], const char *pattern)
{
    size_t n = strnlen(pattern, POLICY_PATTERN_MAX - 1);
    memcpy(out, pattern, n);
    out[n] = '\0';
}

static void ask_statement(const struct policy *p, const struct statement *s,
                          struct policy_question *q)
{
    char pattern[2048] = "";
    for (size_t i = 0; i < s->n; i++) {
        bool fits = policy_expand(pattern, sizeof pattern, s->patterns[i], q);
        bool matches = fits && policy_matches(pattern, q->topic);
        if (s->denies && !q->denied_by && (matches || !fits)) { /* too long: rather denied */
            q->denied_by = p;
            remember(q->denied, s->patterns[i]);
        } else if (!s->denies) {
            size_t common = fits ? common_prefix(pattern, q->topic) : 0;
            q->limited = true;
            q->allowed |= matches;
            if (fits && (common > q->common || !*q->nearest)) {
                q->common = common;
                remember(q->nearest, pattern);
            }
        }
    }
}

void policy_ask(const struct policy *p, struct policy_question *q)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->statements[i].actions & q->action)
            ask_statement(p, &p->statements[i], q);
}

bool policy_refuses(const struct policy_question *q)
{
    return q->denied_by || (q->limited && !q->allowed);
}

#include "services/rule-engine/match.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"

#define KIND(k) CAUSEWAY__EVENT_KIND__EVENT_##k

/* kind EVENT_NONE: known and not served. What notify_data has: a header (with tags), a body. */
static const struct subject {
    const char *resource, *event;
    Causeway__EventKind kind;
    bool header, tags, body;
} subjects[] = {
    { "device.property", "report", KIND(PROPERTY_REPORT), true, true, true },
    { "device.message", "report", KIND(MESSAGE_REPORT), true, true, true },
    { "device.status", "update", KIND(DEVICE_STATUS), true, false, true },
    { "device", "create", KIND(DEVICE_CREATED), false, false, true },
    { "device", "delete", KIND(DEVICE_DELETED), true, false, false },
    { "device", "update", KIND(DEVICE_UPDATED), false, false, true },
    { "device.message.status", "update", KIND(MESSAGE_STATUS), true, false, true },
    { "device.command.status", "update", KIND(COMMAND_STATUS), true, false, true },
    { "batchtask", "update", KIND(NONE), false, false, true },
    { "product", "create", KIND(PRODUCT_CREATED), false, false, true },
    { "product", "delete", KIND(PRODUCT_DELETED), false, false, true },
    { "product", "update", KIND(PRODUCT_UPDATED), false, false, true },
};

static const struct subject *find(const char *resource, const char *event)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(subjects); i++)
        if (strcmp(subjects[i].resource, resource) == 0 && strcmp(subjects[i].event, event) == 0)
            return &subjects[i];
    return NULL;
}

static const struct subject *subject_of(Causeway__EventKind kind)
{
    for (size_t i = 0; kind != KIND(NONE) && i < CW_ARRAY_LEN(subjects); i++)
        if (subjects[i].kind == kind)
            return &subjects[i];
    return NULL;
}

enum subject_state subject_state(const char *resource, const char *event)
{
    const struct subject *s = find(resource, event);
    if (!s)
        return SUBJECT_UNKNOWN;
    return s->kind == KIND(NONE) ? SUBJECT_KNOWN : SUBJECT_SERVED;
}

const char *subjects_served(void) { return "all of them but batchtask:update"; }

void rule_set_add(struct rule_set *set, const char *resource, const char *event,
                  const char *rule_id, const char *action_id, const char *app_id)
{
    const struct subject *s = find(resource, event);
    if (!s || s->kind == KIND(NONE))
        return;
    struct rule **rows = &set->rows[s->kind];
    size_t n = set->n[s->kind]++;
    if ((n & (n - 1)) == 0) /* grows at each power of two */
        *rows = cw_realloc(*rows, (n ? 2 * n : 1) * sizeof **rows);
    (*rows)[n] = (struct rule){ .rule_id = cw_strdup(rule_id),
                                .action_id = cw_strdup(action_id),
                                .app_id = app_id ? cw_strdup(app_id) : NULL };
}

void rule_set_free(struct rule_set *set)
{
    for (size_t k = 0; k < CW_ARRAY_LEN(set->rows); k++) {
        for (size_t i = 0; i < set->n[k]; i++) {
            free(set->rows[k][i].rule_id);
            free(set->rows[k][i].action_id);
            free(set->rows[k][i].app_id);
        }
        free(set->rows[k]);
    }
    memset(set, 0, sizeof *set);
}

size_t rule_set_match(const struct rule_set *set, const Causeway__Event *event, rule_hit_fn *hit,
                      void *arg)
{
    size_t hits = 0;
    if ((size_t)event->kind >= CW_ARRAY_LEN(set->rows))
        return 0; /* a newer daemon's event */
    for (size_t i = 0; i < set->n[event->kind]; i++) {
        const struct rule *r = &set->rows[event->kind][i];
        if (r->app_id && strcmp(r->app_id, event->app_id) != 0)
            continue;
        hit(r, arg);
        hits++;
    }
    return hits;
}

/* ---- the notification */

static void member(struct cw_buf *out, const char *before, const char *value)
{
    cw_buf_str(out, before);
    cw_buf_json_string(out, value, strlen(value));
}

static void write_header(struct cw_buf *out, const Causeway__Event *e, bool tags)
{
    member(out, "\"header\":{\"app_id\":", e->app_id);
    member(out, ",\"device_id\":", e->device_id);
    member(out, ",\"node_id\":", e->node_id);
    member(out, ",\"product_id\":", e->product_id);
    member(out, ",\"gateway_id\":", *e->gateway_id ? e->gateway_id : e->device_id);
    if (tags)
        cw_buf_str(out, ",\"tags\":[]"); /* devices have none yet */
    cw_buf_str(out, "}");
}

static int write_body(struct cw_buf *out, const Causeway__Event *e)
{
    const uint8_t *p = e->body.data;
    size_t n = e->body.len;
    cw_buf_str(out, "\"body\":");
    /* written by a daemon of ours, not by a device: the ends are enough */
    if (n < 2 || p[0] != '{' || p[n - 1] != '}')
        return -EBADMSG;
    cw_buf_add(out, p, n);
    return 0;
}

int notification_write(struct cw_buf *out, const Causeway__Event *e)
{
    const struct subject *s = subject_of(e->kind);
    char basic[CW_TIME_LEN], extended[CW_TIME_LEN];
    if (!s)
        return -EBADMSG;
    cw_buf_printf(out, "{\"resource\":\"%s\",\"event\":\"%s\",\"event_time\":\"%s\"", s->resource,
                  s->event, cw_time_basic(basic, e->time_ms));
    cw_buf_printf(out, ",\"event_time_ms\":\"%s\"", cw_time_extended(extended, e->time_ms));
    member(out, ",\"request_id\":", e->request_id);
    cw_buf_str(out, ",\"notify_data\":{");
    if (s->header)
        write_header(out, e, s->tags);
    if (s->header && s->body)
        cw_buf_str(out, ",");
    int rc = s->body ? write_body(out, e) : 0;
    cw_buf_str(out, "}}");
    return rc;
}

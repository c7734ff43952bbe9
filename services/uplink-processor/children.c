#include "services/uplink-processor/children.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "libcommon/json.h"

#define REPORT_MAX_BYTES (64U << 10) /* of a batch report; events may have 1 MB (logs) */

struct payload {
    const Causeway__Uplink *up; /* the key of the hash */
    json_t *root;
    UT_hash_handle hh;
};
struct child {
    int64_t key;
    const Causeway__Uplink *up; /* that named it first */
    bool several;               /* another gateway named it too */
    UT_hash_handle hh;
    char id[]; /* the key of the hash */
};
struct children {
    struct payload *payloads;
    struct child *ids;
};

static const struct cw_stmt stmt_keys = {
    "children_keys",
    "SELECT device_id, device_key FROM registry.device_view WHERE device_id = ANY($1)"
};

static void remember(struct children *c, const Causeway__Uplink *up, const char *id)
{
    struct child *known;
    size_t n = id ? strlen(id) : 0;
    if (n == 0 || n > 128)
        return;
    HASH_FIND(hh, c->ids, id, n, known);
    if (known) {
        known->several |= known->up->device_key != up->device_key;
        return;
    }
    known = cw_calloc(1, sizeof *known + n + 1);
    known->up = up;
    memcpy(known->id, id, n);
    HASH_ADD(hh, c->ids, id, n, known);
}

/* Whom devices[] and services[].paras name. */
static void remember_all(struct children *c, const Causeway__Uplink *up, const json_t *root)
{
    size_t i, k;
    json_t *v, *status;
    remember(c, up, cw_json_text(root, "object_device_id"));
    json_array_foreach(json_object_get(root, "devices"), i, v)
        remember(c, up, cw_json_text(v, "device_id"));
    json_array_foreach(json_object_get(root, "services"), i, v)
    {
        const json_t *list = json_object_get(json_object_get(v, "paras"), "device_statuses");
        json_array_foreach(list, k, status) remember(c, up, cw_json_text(status, "device_id"));
    }
}

/* Most messages speak of nobody else: they are not parsed twice. */
static bool may_name_a_child(const Causeway__Uplink *up)
{
    static const char word[] = "object_device_id";
    return strstr(up->topic, "/sys/gateway/") || strstr(up->topic, "/sys/events/") ||
           strstr(up->topic, "/sys/shadow/get/") ||
           (strstr(up->topic, "/sys/messages/up") && up->body.len &&
            memmem(up->body.data, up->body.len, word, sizeof word - 1));
}

void children_read(struct children **at, const Causeway__Uplink *up)
{
    struct cw_json_error err;
    if (!may_name_a_child(up))
        return;
    if (!*at)
        *at = cw_calloc(1, sizeof **at);
    struct payload *p = cw_calloc(1, sizeof *p);
    p->up = up;
    if (up->body.len <= REPORT_MAX_BYTES || !strstr(up->topic, "/sys/gateway/"))
        p->root = cw_json_parse(up->body.data, up->body.len, &err);
    HASH_ADD_PTR((*at)->payloads, up, p);
    if (json_is_object(p->root))
        remember_all(*at, up, p->root);
}

struct loading {
    struct children *c;
    children_fn *cb;
    void *arg;
};

static void on_keys(PGresult *res, void *arg)
{
    struct loading l = *(struct loading *)arg;
    bool ok = cw_db_outcome(res) == CW_DB_OK;
    free(arg);
    for (int i = 0; ok && i < PQntuples(res); i++) {
        struct child *known;
        const char *id = cw_db_str(res, i, "device_id");
        HASH_FIND(hh, l.c->ids, id, strlen(id), known);
        if (known)
            known->key = cw_db_i64(res, i, "device_key", 0);
    }
    l.cb(ok ? 0 : -EIO, l.arg);
}

int children_load(struct children *c, struct cw_db *db, children_fn *cb, void *arg)
{
    struct cw_db_array ids = { 0 };
    if (!c || !c->ids)
        return 1;
    cw_db_array_reset(&ids, CW_ARRAY_TEXT);
    for (struct child *k = c->ids; k; k = k->hh.next)
        cw_db_array_str(&ids, k->id);
    struct loading *l = cw_malloc(sizeof *l);
    *l = (struct loading){ c, cb, arg };
    struct cw_db_param p = cw_db_array_param(&ids);
    int rc = cw_db_exec(db, &stmt_keys, 1, &p, on_keys, l) ? 0 : -ENOTCONN;
    if (rc < 0)
        free(l);
    cw_db_array_free(&ids);
    return rc;
}

void children_each(const struct children *c, void (*fn)(int64_t key, void *arg), void *arg)
{
    for (const struct child *k = c ? c->ids : NULL; k; k = k->hh.next)
        if (k->key)
            fn(k->key, arg);
}

json_t *children_payload(const struct children *c, const Causeway__Uplink *up)
{
    struct payload *p = NULL;
    if (c)
        HASH_FIND_PTR(c->payloads, &up, p);
    return p ? p->root : NULL;
}

static const struct child *find(const struct children *c, const char *device_id)
{
    struct child *known = NULL;
    if (c && device_id)
        HASH_FIND(hh, c->ids, device_id, strlen(device_id), known);
    return known;
}

const Causeway__Uplink *children_speaker(const struct children *c, const char *device_id)
{
    const struct child *known = find(c, device_id);
    return known && !known->several ? known->up : NULL;
}

int64_t children_key(const struct children *c, const char *device_id)
{
    const struct child *known = find(c, device_id);
    return known ? known->key : 0;
}

void children_free(struct children **at)
{
    struct children *c = *at;
    if (!c)
        return;
    *at = NULL;
    struct payload *p = c->payloads, *next_p;
    struct child *k = c->ids, *next_k;
    HASH_CLEAR(hh, c->payloads);
    HASH_CLEAR(hh, c->ids);
    for (; p; p = next_p) {
        next_p = p->hh.next;
        json_decref(p->root);
        free(p);
    }
    for (; k; k = next_k) {
        next_k = k->hh.next;
        free(k);
    }
    free(c);
}

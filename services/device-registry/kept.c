#include "services/device-registry/kept.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"

#define FILTERS_MAX 100

/* Not for a session that is over: a newer one may have said otherwise. */
static const struct cw_stmt stmt_keep = {
    "kept_keep",
    "WITH s AS (SELECT device_key, session_no FROM registry.session"
    "  WHERE device_key = $1::bigint AND session_no = $2::bigint),"
    " kept AS (INSERT INTO registry.kept_session AS k"
    "   (device_key, session_no, change_no, expiry_s, filters)"
    "  SELECT device_key, session_no, $3::bigint, $4::bigint, $5 FROM s"
    "  ON CONFLICT (device_key) DO UPDATE SET session_no = EXCLUDED.session_no,"
    "   change_no = EXCLUDED.change_no, expiry_s = EXCLUDED.expiry_s, filters = EXCLUDED.filters"
    "  WHERE (k.session_no, k.change_no) < (EXCLUDED.session_no, EXCLUDED.change_no))"
    " SELECT 1 FROM s"
};
static const struct cw_stmt stmt_forget = {
    "kept_forget",
    "DELETE FROM registry.kept_session WHERE device_key = $1::bigint AND session_no < $2::bigint"
};
static const struct cw_stmt stmt_extend = {
    "kept_extend", "UPDATE registry.kept_session SET expiry_s = $3::bigint"
                   " WHERE device_key = $1::bigint AND session_no < $2::bigint"
};

void kept_change(struct registry *r, int64_t device_key, int64_t session_no, uint32_t expiry_s)
{
    char key[24], number[24], expiry[24];
    const struct cw_db_param p[] = { cw_db_int(device_key, key), cw_db_int(session_no, number),
                                     cw_db_int(expiry_s, expiry) };
    if (expiry_s)
        cw_db_exec(r->logins, &stmt_extend, 3, p, NULL, NULL);
    else
        cw_db_exec(r->logins, &stmt_forget, 2, p, NULL, NULL);
}

/* ---- keeping */

struct keeping {
    struct registry *r;
    char reply[];
};

static void on_kept(PGresult *res, void *arg)
{
    struct keeping *k = arg;
    if (cw_db_outcome(res) == CW_DB_OK && PQntuples(res) > 0)
        cw_bus_publish(cw_app_bus(k->r->app), k->reply, NULL, "", 0);
    cw_app_in_flight(k->r->app, -1);
    free(k);
}

static char *filters_text(const Causeway__SessionKeep *m)
{
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_subscriptions && i < FILTERS_MAX; i++) {
        const Causeway__Subscription *s = m->subscriptions[i];
        json_array_append_new(list, json_pack("[s, i, b]", s->filter, (int)s->qos, s->no_local));
    }
    char *text = json_text(list);
    json_decref(list);
    return text;
}

static void keep(struct registry *r, const Causeway__SessionKeep *m, const char *reply)
{
    char key[24], number[24], change[24], expiry[24], *filters = filters_text(m);
    struct keeping *k = cw_malloc(sizeof *k + strlen(reply) + 1);
    k->r = r;
    strcpy(k->reply, reply);
    const struct cw_db_param p[] = { cw_db_int(m->device_key, key),
                                     cw_db_int(m->session_no, number),
                                     cw_db_int((int64_t)m->change_no, change),
                                     cw_db_int(m->expiry_s, expiry), CW_TEXT(filters) };
    cw_app_in_flight(r->app, 1);
    if (!cw_db_exec(r->logins, &stmt_keep, CW_ARRAY_LEN(p), p, on_kept, k))
        on_kept(NULL, k); /* the gateway's time runs out */
    free(filters);
}

void sessions_keep(const struct cw_bus_msg *msg, void *self)
{
    if (msg->no_responders || !msg->reply)
        return;
    Causeway__SessionKeep *m = causeway__session_keep__unpack(NULL, msg->len, msg->data);
    if (!m)
        return;
    keep(self, m, msg->reply);
    causeway__session_keep__free_unpacked(m, NULL);
}

/* ---- resuming */

static void *block(struct kept_lists *lists, void *p)
{
    lists->blocks = cw_realloc(lists->blocks, (lists->n + 1) * sizeof *lists->blocks);
    lists->blocks[lists->n++] = p;
    return p;
}

void kept_unpack(struct kept_lists *lists, Causeway__SessionOpened *to, const char *filters)
{
    json_t *list = json_loads(filters, 0, NULL), *row;
    size_t n = json_array_size(list), i;
    Causeway__Subscription *subs = block(lists, cw_calloc(n + 1, sizeof *subs));
    to->subscriptions = block(lists, cw_calloc(n + 1, sizeof(void *)));
    to->present = true;
    json_array_foreach(list, i, row)
    {
        const char *filter = json_string_value(json_array_get(row, 0));
        causeway__subscription__init(&subs[i]);
        subs[i].filter = block(lists, cw_strdup(filter ? filter : ""));
        subs[i].qos = (uint32_t)json_integer_value(json_array_get(row, 1));
        subs[i].no_local = json_is_true(json_array_get(row, 2));
        to->subscriptions[to->n_subscriptions++] = &subs[i];
    }
    json_decref(list);
}

void kept_lists_free(struct kept_lists *lists)
{
    for (size_t i = 0; i < lists->n; i++)
        free(lists->blocks[i]);
    free(lists->blocks);
}

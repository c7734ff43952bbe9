/* SearchDevices: runs what search_read() has read, on a connection of its own with a limit of time.
 */
#include "services/device-registry/search.h"

#include <stdlib.h>
#include <string.h>

#include "services/device-registry/groups.h"

struct searching {
    struct registry *r;
    struct cw_api_call *call;
    bool counts;
    uint32_t shown;
};

/* The columns that were asked for. */
static json_t *pruned(json_t *device, uint32_t shown)
{
    if (!shown)
        return device;
    json_t *o = json_object();
    for (size_t i = 0; search_columns[i]; i++)
        if (shown & 1U << i && json_object_get(device, search_columns[i]))
            json_object_set(o, search_columns[i], json_object_get(device, search_columns[i]));
    json_decref(device);
    return o;
}

static json_t *found_json(const struct searching *w, const PGresult *res, int row)
{
    json_t *o = device_json(w->r, res, row, DEVICE_LISTED);
    json_object_del(o, "description");
    cw_row_json(o, "groups", res, row, "groups");
    json_object_set_new(o, "modules", json_array()); /* of upgrades, which there are none of yet */
    cw_row_text(o, "marker", res, row, "record_id");
    return pruned(o, w->shown);
}

static void on_found(PGresult *res, void *arg)
{
    struct searching w = *(struct searching *)arg;
    free(arg);
    if (res && strcmp(cw_db_sqlstate(res), "57014") == 0) {
        cw_api_fail(w.call, CW_E_SEARCH_WIDE, "sql: after %lld ms.", (long long)w.r->search_ms);
        return;
    }
    if (cw_api_db_failed(w.call, res, "search devices"))
        return;
    if (w.counts) {
        cw_api_reply_json(w.call, 200,
                          json_pack("{s:[], s:I}", "devices", "count",
                                    (json_int_t)cw_db_i64(res, 0, "count", 0)));
        return;
    }
    json_t *list = json_array();
    for (int i = 0; i < PQntuples(res); i++)
        json_array_append_new(list, found_json(&w, res, i));
    cw_api_reply_json(w.call, 200, json_pack("{s:o}", "devices", list));
}

/* The whole rows of those that were found, in the order that was asked for. */
static struct cw_buf with_rows(const struct search *s, struct cw_buf *found)
{
    struct cw_buf b = { 0 };
    cw_buf_printf(&b,
                  "WITH page AS MATERIALIZED (%.*s) SELECT %s, (SELECT json_agg(json_build_object("
                  "'group_id', g.group_id, 'name', g.name) ORDER BY g.group_id)"
                  " FROM registry.group_member m JOIN registry.device_group g USING (group_id)"
                  " WHERE m.device_key = d.device_key) AS groups %s WHERE d.device_key ="
                  " ANY(ARRAY(SELECT device_key FROM page)) ORDER BY d.record_id %s",
                  (int)found->len, found->data, device_columns, device_from,
                  s->ascending ? "ASC" : "DESC");
    cw_buf_free(found);
    return b;
}

static bool run(struct registry *r, const struct search *s, struct searching *w)
{
    struct cw_db_array allowed = { 0 }, denied = { 0 }, values[SEARCH_CONDITIONS] = { 0 };
    struct cw_db_param p[2 + SEARCH_CONDITIONS];
    struct cw_buf sql = search_sql(s);
    if (!s->counts)
        sql = with_rows(s, &sql);
    cw_buf_add(&sql, "", 1);
    cw_api_spaces(w->call, &allowed, &denied);
    search_params(s, values);
    p[0] = cw_api_spaces_param(&allowed);
    p[1] = cw_db_array_param(&denied);
    for (size_t i = 0; i < s->n; i++)
        p[2 + i] = cw_db_array_param(&values[i]);
    bool sent = cw_db_exec(r->searches, &(struct cw_stmt){ NULL, sql.data }, (int)(2 + s->n), p,
                           on_found, w) != NULL;
    cw_buf_free(&sql);
    cw_db_array_free(&allowed);
    cw_db_array_free(&denied);
    for (size_t i = 0; i < s->n; i++)
        cw_db_array_free(&values[i]);
    return sent;
}

void search_devices(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    struct search s;
    char fault[SEARCH_FAULT_LEN];
    if (!search_read(&s, cw_body_text(cw_api_body(call), "sql"), fault)) {
        cw_api_fail(call, CW_E_SEARCH_WRONG, "sql: %s.", fault);
        return;
    }
    struct searching *w = cw_malloc(sizeof *w);
    *w = (struct searching){ r, call, s.counts, s.shown };
    if (run(r, &s, w))
        return;
    free(w);
    cw_api_no_db(call);
}

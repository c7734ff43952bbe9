/* What device policies hold for: devices, products of the policy's space, the space itself. */
#include <stdlib.h>

#include "libcommon/error.h"
#include "services/device-registry/policies.h"

#define COUNT_MAX 10000 /* as far as targets are counted */

#define GIVEN                                                                                      \
    "WITH p AS (SELECT policy_id, app_id FROM registry.device_policy WHERE policy_id = "           \
    "lower($1)),"                                                                                  \
    " i AS (SELECT id, min(n) AS n FROM unnest($3::text[]) WITH ORDINALITY u(id, n) GROUP BY id),"

/* Rows that the trigger leaves out are one policy or product too many. */
static const struct cw_stmt stmt_bind = {
    "policies_bind", GIVEN
    " t AS (SELECT i.id, d.device_key, NULL::bigint AS product_key FROM p CROSS JOIN i"
    "   JOIN registry.device d ON d.device_id = i.id AND d.app_id = p.app_id WHERE $2 = 'device'"
    "  UNION ALL SELECT i.id, NULL, r.product_key FROM p CROSS JOIN i"
    "   JOIN registry.product r ON r.product_id = i.id AND r.app_id = p.app_id"
    "   WHERE $2 = 'product'"
    "  UNION ALL SELECT i.id, NULL, NULL FROM p JOIN i ON i.id = p.app_id WHERE $2 = 'app'),"
    " done AS (INSERT INTO registry.policy_target AS o"
    "   (policy_id, target_type, target_id, device_key, product_key)"
    "  SELECT p.policy_id, $2, t.id, t.device_key, t.product_key FROM p CROSS JOIN t ORDER BY t.id"
    "  ON CONFLICT (policy_id, target_type, target_id) DO UPDATE SET target_id = o.target_id"
    "  RETURNING target_id, device_key)"
    " SELECT p.policy_id, i.id, t.id IS NOT NULL AS known, d.target_id IS NOT NULL AS done,"
    "  d.device_key FROM p CROSS JOIN i LEFT JOIN t ON t.id = i.id"
    "  LEFT JOIN done d ON d.target_id = i.id ORDER BY i.n"
};
static const struct cw_stmt stmt_unbind = {
    "policies_unbind", GIVEN
    " done AS (DELETE FROM registry.policy_target o USING p, i WHERE o.policy_id = p.policy_id"
    "  AND o.target_type = $2 AND o.target_id = i.id RETURNING o.target_id, o.device_key)"
    " SELECT p.policy_id, i.id, true AS known, d.target_id IS NOT NULL AS done, d.device_key"
    "  FROM p CROSS JOIN i LEFT JOIN done d ON d.target_id = i.id ORDER BY i.n"
};
#define TARGETS(which)                                                                             \
    "WITH p AS (SELECT policy_id FROM registry.device_policy WHERE policy_id = lower($1)),"        \
    " n AS (SELECT count(*) FROM (SELECT FROM registry.policy_target t JOIN p USING (policy_id)"   \
    "  WHERE " which " LIMIT 10001) x),"                                                           \
    " page AS (SELECT t.target_type, t.target_id, t.record_id FROM registry.policy_target t"       \
    "  JOIN p USING (policy_id) WHERE " which " AND t.record_id < lower($3)"                       \
    "  ORDER BY t.record_id DESC OFFSET $4::bigint LIMIT $5::bigint)"                              \
    " SELECT (SELECT policy_id FROM p) AS policy_id, (SELECT count FROM n) AS count, page.*"       \
    " FROM (SELECT) one LEFT JOIN page ON true ORDER BY page.record_id DESC"
static const struct cw_stmt stmt_targets = { "policies_targets", TARGETS("$2::text IS NULL") };
static const struct cw_stmt stmt_targets_of = { "policies_targets_of",
                                                TARGETS("t.target_type = $2") };

struct binding {
    struct registry *r;
    struct cw_api_call *call;
    bool binds;
};

/* ---- bind and unbind */

static json_t *failure(const struct binding *b, const PGresult *res, int row)
{
    const char *type = cw_body_text(cw_api_body(b->call), "target_type");
    bool known = *cw_db_str(res, row, "known") == 't';
    enum cw_error e = !b->binds      ? CW_E_NOT_BOUND
                      : known        ? CW_E_TARGET_QUOTA
                      : *type == 'd' ? CW_E_NO_DEVICE
                      : *type == 'p' ? CW_E_NO_PRODUCT
                                     : CW_E_NO_APP;
    return json_pack("{s:s, s:s, s:s}", "target_id", cw_db_str(res, row, "id"), "error_code",
                     cw_error_row(e)->code, "error_msg",
                     b->binds && !known ? "The space of the policy has no such target."
                                        : cw_error_row(e)->what);
}

static void answer(const struct binding *b, const PGresult *res)
{
    json_t *fine = json_array(), *failed = json_array();
    int n = PQntuples(res);
    int64_t *keys = cw_calloc((size_t)n + 1, sizeof *keys);
    size_t n_keys = 0, changed = 0;
    for (int i = 0; i < n; i++) {
        if (*cw_db_str(res, i, "done") != 't') {
            json_array_append_new(failed, failure(b, res, i));
            continue;
        }
        json_array_append_new(fine, json_string(cw_db_str(res, i, "id")));
        changed++;
        if (cw_db_str(res, i, "device_key"))
            keys[n_keys++] = cw_db_i64(res, i, "device_key", 0);
    }
    if (changed)
        policies_changed(b->r, keys, n_keys);
    free(keys);
    cw_api_reply_json(b->call, 200,
                      json_pack("{s:s, s:s, s:o, s:o}", "policy_id", cw_db_str(res, 0, "policy_id"),
                                "target_type", cw_body_text(cw_api_body(b->call), "target_type"),
                                "success_targets", fine, "failure_targets", failed));
}

static void on_done(PGresult *res, void *arg)
{
    struct binding *b = arg;
    if (!cw_api_db_failed(b->call, res, "bind a policy") &&
        policy_is_there(b->call, PQntuples(res) > 0))
        answer(b, res);
    free(b);
}

static void change(struct registry *r, struct cw_api_call *call, bool binds)
{
    const json_t *body = cw_api_body(call), *id;
    struct cw_db_array ids = { 0 };
    size_t i;
    cw_db_array_reset(&ids, CW_ARRAY_TEXT);
    json_array_foreach(json_object_get(body, "target_ids"), i, id)
        cw_db_array_str(&ids, json_string_value(id));
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "policy_id")),
                                     CW_TEXT(cw_body_text(body, "target_type")),
                                     cw_db_array_param(&ids) };
    struct binding *b = cw_malloc(sizeof *b);
    *b = (struct binding){ r, call, binds };
    if (!cw_db_exec(registry_db(r), binds ? &stmt_bind : &stmt_unbind, 3, p, on_done, b)) {
        free(b);
        cw_api_no_db(call);
    }
    cw_db_array_free(&ids);
}

void bind_policy(struct cw_api_call *call, void *self) { change(self, call, true); }

void unbind_policy(struct cw_api_call *call, void *self) { change(self, call, false); }

/* ---- list */

static void on_targets(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list the targets of a policy") ||
        !policy_is_there(call, cw_db_str(res, 0, "policy_id") != NULL))
        return;
    int n = cw_db_str(res, 0, "target_id") ? PQntuples(res) : 0;
    json_t *list = json_array(), *out = json_pack("{s:o}", "targets", list);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s}", "target_type",
                                              cw_db_str(res, i, "target_type"), "target_id",
                                              cw_db_str(res, i, "target_id")));
    put_page(out, res, n);
    json_t *page = json_object_get(out, "page");
    if (json_integer_value(json_object_get(page, "count")) > COUNT_MAX) {
        json_object_set_new(page, "count", json_integer(COUNT_MAX));
        json_object_set_new(page, "count_exact", json_false());
    }
    cw_api_reply_json(call, 200, out);
}

void list_policy_targets(struct cw_api_call *call, void *self)
{
    const json_t *body = cw_api_body(call), *limit = json_object_get(body, "limit");
    const char *type = cw_body_text(body, "target_type"), *marker = cw_body_text(body, "marker");
    char from[24], most[24];
    const struct cw_db_param p[] = {
        CW_TEXT(cw_api_path(call, "policy_id")), CW_TEXT(type),
        CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
        cw_db_int(json_integer_value(json_object_get(body, "offset")), from),
        cw_db_int(json_is_integer(limit) ? json_integer_value(limit) : 10, most)
    };
    if (!cw_db_exec(registry_db(self), type ? &stmt_targets_of : &stmt_targets, CW_ARRAY_LEN(p), p,
                    on_targets, call))
        cw_api_no_db(call);
}

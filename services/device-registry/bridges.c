#include "services/device-registry/bridges.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"

static const struct cw_stmt stmt_add = {
    "bridges_add", "INSERT INTO registry.bridge (bridge_id, bridge_name, secret) SELECT $1, $2, $3"
                   " WHERE (SELECT count(*) FROM registry.bridge) < $4::bigint"
                   " RETURNING bridge_id, bridge_name, " SQL_BASIC_TIME("created") " AS create_time"
};
static const struct cw_stmt stmt_list = {
    "bridges_list",
    "WITH page AS (SELECT bridge_id, bridge_name, gateway, record_id FROM registry.bridge"
    "  WHERE record_id < lower($1) ORDER BY record_id DESC OFFSET $2::bigint LIMIT $3::bigint)"
    " SELECT (SELECT count(*) FROM registry.bridge) AS count, page.*"
    " FROM (SELECT) one LEFT JOIN page ON true ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_delete = {
    "bridges_delete",
    "DELETE FROM registry.bridge WHERE bridge_id = $1 RETURNING gateway, session_no"
};
static const struct cw_stmt stmt_secret = { "bridges_secret",
                                            "UPDATE registry.bridge SET secret = $2"
                                            " WHERE bridge_id = $1 RETURNING gateway, session_no" };

const char *bridge_context(char out[BRIDGE_CONTEXT_LEN], const char *bridge_id)
{
    snprintf(out, BRIDGE_CONTEXT_LEN, "bridge.%.48s", bridge_id);
    return out;
}

/* A call, and the secret that its answer shows. */
struct bridge_call {
    struct registry *r;
    struct cw_api_call *call;
    const char *done; /* what stands when the connection was not cut */
    char id[40];
    char secret[33];
};

static struct bridge_call *call_new(struct registry *r, struct cw_api_call *call, const char *id)
{
    struct bridge_call *b = cw_calloc(1, sizeof *b);
    b->r = r;
    b->call = call;
    snprintf(b->id, sizeof b->id, "%s", id);
    return b;
}

static void call_free(struct bridge_call *b)
{
    explicit_bzero(b->secret, sizeof b->secret);
    free(b);
}

static char *make_secret(struct bridge_call *b)
{
    char context[BRIDGE_CONTEXT_LEN];
    cw_random_hex(b->secret, 32);
    return cw_seal(b->r->seal_key, bridge_context(context, b->id), b->secret, strlen(b->secret));
}

static void no_db(struct bridge_call *b)
{
    cw_api_no_db(b->call);
    call_free(b);
}

/* ---- add */

static void on_added(PGresult *res, void *arg)
{
    struct bridge_call *b = arg;
    if (cw_db_broke(res, "bridge_pkey"))
        cw_api_fail(b->call, CW_E_BRIDGE_TAKEN, "bridge_id \"%s\" is in use.", b->id);
    else if (cw_api_db_failed(b->call, res, "add a bridge"))
        ;
    else if (PQntuples(res) == 0)
        cw_api_fail(b->call, CW_E_BRIDGE_QUOTA,
                    "There are as many bridges as CAUSEWAY_BRIDGES_MAX allows.");
    else
        cw_api_reply_json(b->call, 201,
                          json_pack("{s:s, s:s, s:{s:s, s:s}, s:s}", "bridge_id", b->id,
                                    "bridge_name", cw_db_str(res, 0, "bridge_name"), "auth_info",
                                    "auth_type", "SECRET", "secret", b->secret, "create_time",
                                    cw_db_str(res, 0, "create_time")));
    call_free(b);
}

void add_bridge(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const json_t *body = cw_api_body(call);
    const char *given = cw_body_text(body, "bridge_id");
    char made[CW_RECORD_ID_LEN], max[24];
    struct bridge_call *b = call_new(r, call, given ? given : cw_record_id(made));
    char *sealed = make_secret(b);
    const struct cw_db_param p[] = { CW_TEXT(b->id), CW_TEXT(cw_body_text(body, "bridge_name")),
                                     CW_TEXT(sealed), cw_db_int(r->bridges_max, max) };
    if (!cw_db_exec(registry_db(r), &stmt_add, 4, p, on_added, b))
        no_db(b);
    free(sealed);
}

/* ---- list */

static json_t *bridge_json(const struct registry *r, const PGresult *res, int row)
{
    const char *gateway = cw_db_str(res, row, "gateway");
    bool online = gateway && !gateway_lost(r, gateway);
    json_t *o = json_pack("{s:s}", "status", online ? "ONLINE" : "OFFLINE");
    cw_row_text(o, "bridge_id", res, row, "bridge_id");
    cw_row_text(o, "bridge_name", res, row, "bridge_name");
    return o;
}

static void on_list(PGresult *res, void *arg)
{
    struct bridge_call *b = arg;
    if (!cw_api_db_failed(b->call, res, "list bridges")) {
        int n = cw_db_str(res, 0, "bridge_id") ? PQntuples(res) : 0;
        json_t *list = json_array(), *out = json_pack("{s:o}", "bridges", list);
        for (int i = 0; i < n; i++)
            json_array_append_new(list, bridge_json(b->r, res, i));
        put_page(out, res, n);
        cw_api_reply_json(b->call, 200, out);
    }
    call_free(b);
}

void list_bridges(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char offset[24], limit[24];
    const char *marker = cw_api_query(call, "marker");
    struct bridge_call *b = call_new(r, call, "");
    const struct cw_db_param p[] = { CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
                                     cw_db_int(cw_api_query_int(call, "offset", 0), offset),
                                     cw_db_int(cw_api_query_int(call, "limit", 10), limit) };
    if (!cw_db_exec(registry_db(r), &stmt_list, 3, p, on_list, b))
        no_db(b);
}

/* ---- a new secret, and the end: with what cuts the connection */

static void answer(struct bridge_call *b)
{
    if (*b->secret)
        cw_api_reply_json(b->call, 200,
                          json_pack("{s:s, s:s}", "bridge_id", b->id, "secret", b->secret));
    else
        cw_api_reply(b->call, 204, NULL, 0);
    call_free(b);
}

static void on_cut(bool confirmed, void *arg)
{
    struct bridge_call *b = arg;
    if (confirmed) {
        answer(b);
        return;
    }
    cw_api_fail(b->call, CW_E_UNAVAILABLE,
                "%s, but its gateway has not confirmed that the connection is closed.", b->done);
    call_free(b);
}

static void on_changed(PGresult *res, void *arg)
{
    struct bridge_call *b = arg;
    bool cuts =
        !*b->secret || json_is_true(json_object_get(cw_api_body(b->call), "force_disconnect"));
    if (cw_api_db_failed(b->call, res, "change a bridge")) {
        call_free(b);
        return;
    }
    if (PQntuples(res) == 0) {
        cw_api_fail(b->call, CW_E_NO_BRIDGE, "Bridge \"%s\".", b->id);
        call_free(b);
    } else if (cuts && cw_db_str(res, 0, "gateway"))
        close_session(b->r, cw_db_str(res, 0, "gateway"), 0, cw_db_i64(res, 0, "session_no", 0),
                      *b->secret ? "secret_reset" : "deleted", on_cut, b);
    else
        answer(b);
}

void delete_bridge(struct cw_api_call *call, void *self)
{
    struct bridge_call *b = call_new(self, call, cw_api_path(call, "bridge_id"));
    b->done = "The bridge is deleted";
    if (!cw_db_exec(registry_db(self), &stmt_delete, 1, &CW_TEXT(b->id), on_changed, b))
        no_db(b);
}

void reset_bridge_secret(struct cw_api_call *call, void *self)
{
    struct bridge_call *b = call_new(self, call, cw_api_path(call, "bridge_id"));
    char *sealed = make_secret(b);
    const struct cw_db_param p[] = { CW_TEXT(b->id), CW_TEXT(sealed) };
    b->done = "The secret is changed";
    if (!cw_db_exec(registry_db(self), &stmt_secret, 2, p, on_changed, b))
        no_db(b);
    free(sealed);
}

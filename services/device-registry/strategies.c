#include "services/device-registry/strategies.h"

#include <stdlib.h>
#include <string.h>

#define COLUMNS                                                                                    \
    "s.strategy_id, s.strategy_id AS record_id, s.app_id, s.keyword, s.address, s.init_config,"    \
    " " SQL_BASIC_TIME("s.created") " AS create_time, " SQL_BASIC_TIME("s.updated") " AS "         \
                                                                                    "update_time"

static const struct cw_stmt stmt_create = {
    "strategies_create",
    "WITH a AS (SELECT app_id FROM registry.app"
    "  WHERE CASE WHEN $2::text IS NULL THEN default_app ELSE app_id = $2 END),"
    " s AS (INSERT INTO registry.bootstrap_strategy (strategy_id, app_id, keyword, address,"
    "  init_config) SELECT $1, a.app_id, COALESCE($3, ''), $4, $5::json FROM a"
    "  WHERE (SELECT count(*) FROM registry.bootstrap_strategy o WHERE o.app_id = a.app_id)"
    "   < $6::bigint RETURNING *)"
    " SELECT (SELECT count(*) FROM a) AS spaces, " COLUMNS " FROM (SELECT) one LEFT JOIN s ON true"
};
static const struct cw_stmt stmt_list = {
    "strategies_list",
    "WITH m AS (SELECT " COLUMNS " FROM registry.bootstrap_strategy s"
    "  WHERE ($1::text IS NULL OR s.app_id = $1)"
    "  AND ($5::text[] IS NULL OR s.app_id = ANY($5)) AND s.app_id <> ALL($6::text[])),"
    " page AS (SELECT * FROM m WHERE record_id < lower($2) ORDER BY record_id DESC"
    "  OFFSET $3::bigint LIMIT $4::bigint)"
    " SELECT (SELECT count(*) FROM m) AS count, page.* FROM (SELECT) one LEFT JOIN page ON true"
    " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_show = { "strategies_show",
                                          "SELECT " COLUMNS " FROM registry.bootstrap_strategy s"
                                          " WHERE s.strategy_id = $1" };
static const struct cw_stmt stmt_update = {
    "strategies_update",
    "UPDATE registry.bootstrap_strategy s SET address = COALESCE($2, s.address),"
    " init_config = COALESCE($3::json, s.init_config), updated = now() WHERE s.strategy_id = $1"
    " RETURNING " COLUMNS
};
static const struct cw_stmt stmt_delete = {
    "strategies_delete",
    "DELETE FROM registry.bootstrap_strategy WHERE strategy_id = $1 RETURNING 1"
};

static json_t *strategy_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "strategy_id", "app_id",      "keyword",
                                         "address",     "create_time", "update_time" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    if (!*cw_db_str(res, row, "keyword"))
        json_object_del(o, "keyword");
    cw_row_json(o, "init_config", res, row, "init_config");
    return o;
}

/* True: it is there. */
static bool is_there(struct cw_api_call *call, const PGresult *res, const char *what)
{
    if (cw_api_db_failed(call, res, what))
        return false;
    if (PQntuples(res) > 0)
        return true;
    cw_api_fail(call, CW_E_NO_STRATEGY, "strategy_id \"%s\".", cw_api_path(call, "strategy_id"));
    return false;
}

/* ---- create, change */

/* "host:port", as devices split it. False: the call has been failed. */
static bool address_fits(struct cw_api_call *call)
{
    const char *address = cw_body_text(cw_api_body(call), "address");
    const char *colon = address ? strrchr(address, ':') : NULL;
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    long port = colon ? strtol(colon + 1, NULL, 10) : 0;
    bool fine = !address ||
                (colon && colon > address && digits && digits <= 5 && !colon[1 + digits] &&
                 port > 0 && port < 65536 && strcspn(address, " \t\r\n/\"\\") == strlen(address));
    if (!fine)
        cw_api_fail(call, CW_E_INVALID, "address: must be host:port.");
    return fine;
}

static char *config_of(struct cw_api_call *call)
{
    const json_t *config = json_object_get(cw_api_body(call), "init_config");
    return json_is_object(config) ? json_text(config) : NULL;
}

static void on_created(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    const json_t *body = cw_api_body(call);
    const char *keyword = cw_body_text(body, "keyword");
    if (cw_db_broke(res, "bootstrap_strategy_once"))
        cw_api_fail(call, CW_E_STRATEGY_TAKEN, "keyword \"%s\".", keyword ? keyword : "");
    else if (cw_api_db_failed(call, res, "create a strategy"))
        ;
    else if (cw_db_i64(res, 0, "spaces", 0) == 0)
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(body, "app_id"));
    else if (!cw_db_str(res, 0, "strategy_id"))
        cw_api_fail(call, CW_E_STRATEGY_QUOTA,
                    "The space has as many as CAUSEWAY_STRATEGIES_MAX allows.");
    else
        cw_api_reply_json(call, 201, strategy_json(res, 0));
}

void create_strategy(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const json_t *body = cw_api_body(call);
    char id[CW_RECORD_ID_LEN], max[24], *config;
    if (!address_fits(call))
        return;
    config = config_of(call);
    const struct cw_db_param p[] = { CW_TEXT(cw_record_id(id)),
                                     CW_TEXT(cw_body_text(body, "app_id")),
                                     CW_TEXT(cw_body_text(body, "keyword")),
                                     CW_TEXT(cw_body_text(body, "address")),
                                     CW_TEXT(config),
                                     cw_db_int(r->strategies_max, max) };
    if (!cw_db_exec(registry_db(r), &stmt_create, CW_ARRAY_LEN(p), p, on_created, call))
        cw_api_no_db(call);
    free(config);
}

static void on_shown(PGresult *res, void *arg)
{
    if (is_there(arg, res, "a strategy"))
        cw_api_reply_json(arg, 200, strategy_json(res, 0));
}

void update_strategy(struct cw_api_call *call, void *self)
{
    if (!address_fits(call))
        return;
    char *config = config_of(call);
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "strategy_id")),
                                     CW_TEXT(cw_body_text(cw_api_body(call), "address")),
                                     CW_TEXT(config) };
    if (!cw_db_exec(registry_db(self), &stmt_update, 3, p, on_shown, call))
        cw_api_no_db(call);
    free(config);
}

/* ---- list, show, delete */

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list strategies"))
        reply_page(arg, res, "strategies", "strategy_id", strategy_json);
}

void list_strategies(struct cw_api_call *call, void *self)
{
    const struct cw_db_param filters[] = { CW_TEXT(cw_api_query(call, "app_id")) };
    list_of_spaces(self, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
}

void show_strategy(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "strategy_id")),
                    on_shown, call))
        cw_api_no_db(call);
}

static void on_deleted(PGresult *res, void *arg)
{
    if (is_there(arg, res, "delete a strategy"))
        cw_api_reply(arg, 204, NULL, 0);
}

void delete_strategy(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_delete, 1, &CW_TEXT(cw_api_path(call, "strategy_id")),
                    on_deleted, call))
        cw_api_no_db(call);
}

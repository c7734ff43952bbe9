/* Devices: the list. Each combination of filters is a statement of its own, so that each has a plan
 * of its own: an index that is walked from the marker downwards, as far as the page goes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/device-registry/registry.h"

#define COUNT_MAX 10000 /* as far as matches are counted one by one */

/* Filters, as bits of a combination. */
enum filter {
    BY_PRODUCT = 1,
    BY_GATEWAY = 2,
    CASCADE = 4,
    BY_NODE = 8,
    BY_NAME = 16,
    BY_START = 32,
    BY_END = 64,
    BY_APP = 128,
    SOME_SPACES = 256, /* the caller may see some spaces only */
    COMBINATIONS = 512,
};

/* Where the rows come from: the columns of d, and the index that is walked. The text ends within
 * WHERE; what else must hold follows. */
static const char from_all[] = "FROM registry.device d WHERE true";
static const char from_app[] = "FROM registry.device d WHERE d.app_id = $1";
static const char from_spaces[] = "FROM registry.device d WHERE d.app_id = s.app_id";
static const char from_product[] = "FROM registry.device d WHERE d.product_key = s.product_key";
static const char from_node[] = "FROM registry.device d WHERE d.node_id = $4";
static const char from_name[] = "FROM registry.device d WHERE d.device_name = $5";
static const char from_parent[] = "FROM registry.device d WHERE d.parent_key ="
                                  " (SELECT device_key FROM registry.device WHERE device_id = $3)";
/* All levels below: of a directly connected device by its id, of a child there is one more only. */
static const char from_root[] = "FROM registry.device d WHERE d.root_id = $3 AND d.depth > 0";
static const char from_child[] =
    "FROM registry.device d WHERE d.parent_key ="
    " (SELECT device_key FROM registry.device WHERE device_id = $3 AND depth > 0)";

/* Spaces that the caller may see: $11 those, or NULL for all, but not $12. */
#define MAY_SEE(app) "($11::text[] IS NULL OR " app " = ANY($11)) AND " app " <> ALL($12::text[])"

static struct cw_stmt statements[COMBINATIONS];

static const char *source(unsigned f)
{
    return f & BY_GATEWAY    ? from_parent
           : f & BY_NODE     ? from_node
           : f & BY_NAME     ? from_name
           : f & BY_PRODUCT  ? from_product
           : f & BY_APP      ? from_app
           : f & SOME_SPACES ? from_spaces
                             : from_all;
}

/* What is left of the filters once the source has taken its own. A record id begins with the second
 * of the registration, so that times are a range of it. */
static void conditions(struct cw_buf *b, unsigned f)
{
    const char *from = source(f);
    if (f & BY_APP && from != from_app)
        cw_buf_str(b, " AND d.app_id = $1");
    if (f & BY_PRODUCT && from != from_product)
        cw_buf_str(b, " AND d.product_key IN (SELECT product_key FROM registry.product"
                      " WHERE product_id = $2)");
    if (f & BY_NODE && from != from_node)
        cw_buf_str(b, " AND d.node_id = $4");
    if (f & BY_NAME && from != from_name)
        cw_buf_str(b, " AND d.device_name = $5");
    if (f & BY_START)
        cw_buf_str(b, " AND d.record_id >= $6");
    if (f & BY_END)
        cw_buf_str(b, " AND d.record_id < $7");
    if (f & SOME_SPACES && from != from_spaces)
        cw_buf_str(b, " AND " MAY_SEE("d.app_id"));
}

/* Rows of one source: page: those of the page and before it; else as many as are counted. */
static void branch(struct cw_buf *b, unsigned f, const char *from, bool page)
{
    cw_buf_printf(b, "(SELECT d.device_key, d.record_id %s", from);
    conditions(b, f);
    if (page)
        cw_buf_str(b, " AND d.record_id < lower($8) ORDER BY d.record_id DESC"
                      " LIMIT $9::bigint + $10::bigint)");
    else
        cw_buf_printf(b, " LIMIT %d)", COUNT_MAX + 1);
}

/* All rows: one source, or one for each product or space, or two levels below a gateway. */
static void rows(struct cw_buf *b, unsigned f, bool page)
{
    const char *from = source(f);
    if (from == from_product)
        cw_buf_str(b, "SELECT r.* FROM (SELECT product_key FROM registry.product"
                      " WHERE product_id = $2) s CROSS JOIN LATERAL ");
    else if (from == from_spaces)
        cw_buf_str(b, "SELECT r.* FROM (SELECT app_id FROM registry.app WHERE " MAY_SEE(
                          "app_id") ") s CROSS JOIN LATERAL ");
    else
        cw_buf_str(b, "SELECT r.* FROM ");
    if (f & BY_GATEWAY && f & CASCADE) {
        cw_buf_str(b, "(");
        branch(b, f, from_root, page);
        cw_buf_str(b, " UNION ALL ");
        branch(b, f, from_child, page);
        cw_buf_str(b, ")");
    } else
        branch(b, f, from, page);
    cw_buf_str(b, " r");
}

/* The counters know lists of everything, of spaces and of products; others are counted. */
static void count(struct cw_buf *b, unsigned f)
{
    if (f & ~(unsigned)(BY_APP | BY_PRODUCT | SOME_SPACES | CASCADE)) {
        cw_buf_str(b, "SELECT count(*) AS n FROM (SELECT FROM (");
        rows(b, f, false);
        cw_buf_printf(b, ") y LIMIT %d) z", COUNT_MAX + 1);
        return;
    }
    cw_buf_str(b,
               "SELECT COALESCE(sum(c.n), 0)::bigint AS n FROM registry.device_count c WHERE true");
    if (f & BY_APP)
        cw_buf_str(b, " AND c.app_id = $1");
    if (f & BY_PRODUCT)
        cw_buf_str(b, " AND (c.app_id, c.product_key) IN (SELECT app_id, product_key"
                      " FROM registry.product WHERE product_id = $2)");
    if (f & SOME_SPACES)
        cw_buf_str(b, " AND " MAY_SEE("c.app_id"));
}

/* The types of all parameters, since a combination does not use each. */
#define TYPES                                                                                      \
    "WITH types AS (SELECT $1::text, $2::text, $3::text, $4::text, $5::text, $6::text, $7::text,"  \
    " $8::text, $9::bigint, $10::bigint, $11::text[], $12::text[]), "

static const struct cw_stmt *spell(unsigned f)
{
    struct cw_stmt *s = &statements[f];
    struct cw_buf b = { 0 };
    if (s->sql)
        return s;
    cw_buf_str(&b, TYPES "m AS MATERIALIZED (");
    rows(&b, f, true);
    cw_buf_str(&b, "), page AS MATERIALIZED (SELECT device_key FROM m ORDER BY record_id DESC"
                   " OFFSET $9::bigint LIMIT $10::bigint), c AS (");
    count(&b, f);
    cw_buf_printf(&b,
                  ") SELECT c.n AS count, k.known, x.* FROM c CROSS JOIN (SELECT $1::text IS NULL"
                  " OR EXISTS (SELECT FROM registry.app WHERE app_id = $1) AS known) k"
                  " LEFT JOIN LATERAL (SELECT %s %s WHERE d.device_key = ANY(ARRAY"
                  "(SELECT device_key FROM page))) x ON true ORDER BY x.record_id DESC",
                  device_columns, device_from);
    s->name = cw_sprintf("devices_list_%x", f);
    s->sql = b.data;
    return s;
}

struct asked {
    struct registry *r;
    struct cw_api_call *call;
    bool counted;
};

static void on_list(PGresult *res, void *arg)
{
    struct asked a = *(struct asked *)arg;
    free(arg);
    if (cw_api_db_failed(a.call, res, "list devices"))
        return;
    if (*cw_db_str(res, 0, "known") != 't') {
        cw_api_fail(a.call, CW_E_NO_APP, "Space \"%s\".", cw_api_query(a.call, "app_id"));
        return;
    }
    int n = cw_db_str(res, 0, "device_key") ? PQntuples(res) : 0;
    json_t *list = json_array(), *out = json_pack("{s:o}", "devices", list);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, device_json(a.r, res, i, DEVICE_LISTED));
    put_page(out, res, n);
    if (cw_db_i64(res, 0, "count", 0) > COUNT_MAX && a.counted) {
        json_t *page = json_object_get(out, "page");
        json_object_set_new(page, "count", json_integer(COUNT_MAX));
        json_object_set_new(page, "count_exact", json_false());
    }
    cw_api_reply_json(a.call, 200, out);
}

/* The first record id of the second that a time of the query names, plus add_s. False: the call has
 * been failed. */
static bool bound(struct cw_api_call *call, const char *name, int64_t add_s, char out[9],
                  struct cw_db_param *p, int64_t *ms)
{
    const char *s = cw_api_query(call, name);
    *p = CW_NULL;
    if (!s)
        return true;
    if (cw_time_parse_basic(ms, s) < 0) {
        cw_api_fail(call, CW_E_TIME_FORMAT, "%s: \"%s\".", name, s);
        return false;
    }
    int64_t at = *ms / 1000 + add_s;
    snprintf(out, 9, "%08x", at < 0 ? 0U : at > UINT32_MAX ? UINT32_MAX : (unsigned)at);
    *p = CW_TEXT(out);
    return true;
}

static unsigned filters(struct cw_api_call *call, bool some_spaces)
{
    static const struct {
        const char *name;
        enum filter bit;
    } given[] = { { "app_id", BY_APP },         { "product_id", BY_PRODUCT },
                  { "gateway_id", BY_GATEWAY }, { "node_id", BY_NODE },
                  { "device_name", BY_NAME },   { "start_time", BY_START },
                  { "end_time", BY_END } };
    const char *cascade = cw_api_query(call, "is_cascade_query");
    unsigned f = some_spaces ? SOME_SPACES : 0;
    for (size_t i = 0; i < CW_ARRAY_LEN(given); i++)
        if (cw_api_query(call, given[i].name))
            f |= given[i].bit;
    if (f & BY_APP) /* it has been looked at whether he may see that one */
        f &= ~(unsigned)SOME_SPACES;
    if (f & BY_GATEWAY && cascade && strcmp(cascade, "true") == 0)
        f |= CASCADE;
    return f;
}

void list_devices(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    char from_id[9], to_id[9], offset[24], limit[24];
    int64_t from_ms = INT64_MIN, to_ms = INT64_MAX;
    struct cw_db_param from, to;
    struct cw_db_array allowed = { 0 }, denied = { 0 };
    const char *marker = cw_api_query(call, "marker");
    if (!bound(call, "start_time", 0, from_id, &from, &from_ms) ||
        !bound(call, "end_time", 1, to_id, &to, &to_ms)) /* the second that is named, wholly */
        return;
    if (from_ms > to_ms) {
        cw_api_fail(call, CW_E_TIME_ORDER, "start_time lies after end_time.");
        return;
    }
    unsigned f = filters(call, cw_api_spaces(call, &allowed, &denied));
    const struct cw_db_param p[] = { CW_TEXT(cw_api_query(call, "app_id")),
                                     CW_TEXT(cw_api_query(call, "product_id")),
                                     CW_TEXT(cw_api_query(call, "gateway_id")),
                                     CW_TEXT(cw_api_query(call, "node_id")),
                                     CW_TEXT(cw_api_query(call, "device_name")),
                                     from,
                                     to,
                                     CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
                                     cw_db_int(cw_api_query_int(call, "offset", 0), offset),
                                     cw_db_int(cw_api_query_int(call, "limit", 10), limit),
                                     cw_api_spaces_param(&allowed),
                                     cw_db_array_param(&denied) };
    struct asked *a = cw_malloc(sizeof *a);
    *a = (struct asked){ r, call,
                         (f & ~(unsigned)(BY_APP | BY_PRODUCT | SOME_SPACES | CASCADE)) != 0 };
    if (!cw_db_exec(registry_db(r), spell(f), CW_ARRAY_LEN(p), p, on_list, a)) {
        cw_api_no_db(call);
        free(a);
    }
    cw_db_array_free(&allowed);
    cw_db_array_free(&denied);
}

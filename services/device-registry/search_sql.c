/* The search language: from struct search to one parameterised query.
 *
 * Each way to match (what stands between two or) is a branch that can walk an index of its own from
 * the marker as far as the page goes; the branches are united. What a device has once (the tag of a
 * key, a group) is joined by the record id, in the order of which its index lies: the planner may
 * begin at either side. */
#include <stdio.h>
#include <string.h>

#include "libcommon/clock.h"
#include "services/device-registry/search_fields.h"

#define BIT(op) (1U << SEARCH_##op)
#define SETS    (BIT(EQ) | BIT(NE) | BIT(IN) | BIT(NOT_IN))
#define ORDERED (SETS | BIT(LT) | BIT(GT))
#define TAGS    (BIT(EQ) | BIT(NE) | BIT(LIKE))

/* gateway_id is the device above, or the device itself: as lists show it. */
#define GATEWAY                                                                                    \
    "d.device_key = ANY(ARRAY(SELECT g.device_key FROM registry.device g WHERE g.device_id ="      \
    " ANY($%d::text[]) UNION ALL SELECT x.device_key FROM registry.device g JOIN registry.device"  \
    " x ON x.parent_key = g.device_key WHERE g.device_id = ANY($%d::text[])))"

const struct search_field search_fields[] = {
    { "app_id", FIELD_PLAIN, SETS, "d.app_id", "c.app_id" },
    { "device_id", FIELD_PLAIN, SETS, "d.device_id", NULL },
    { "gateway_id", FIELD_GATEWAY, SETS, GATEWAY, NULL },
    { "product_id", FIELD_PRODUCT, SETS, "d.product_key", "c.product_key" },
    { "device_name", FIELD_PLAIN, SETS | BIT(LIKE), "d.device_name", NULL },
    { "node_id", FIELD_PLAIN, SETS | BIT(LIKE), "d.node_id", NULL },
    { "status", FIELD_PLAIN, SETS, "registry.shown_status(d.frozen, d.status)", "c.status" },
    { "node_type", FIELD_PLAIN, SETS,
      "CASE WHEN d.parent_key IS NULL THEN 'GATEWAY' ELSE 'ENDPOINT' END", NULL },
    { "tag_key", FIELD_TAG_KEY, TAGS, NULL, NULL },
    { "tag_value", FIELD_TAG_VALUE, TAGS, NULL, NULL },
    { "sw_version", FIELD_PLAIN, SETS, "d.sw_version", NULL },
    { "fw_version", FIELD_PLAIN, SETS, "d.fw_version", NULL },
    { "group_id", FIELD_GROUP, SETS, NULL, NULL },
    { "create_time", FIELD_TIME, ORDERED, NULL, NULL },
    { "marker", FIELD_MARKER, ORDERED, "d.record_id", NULL },
    { 0 },
};

const struct search_field *search_field(const char *name, size_t len)
{
    for (const struct search_field *f = search_fields; f->name; f++)
        if (strlen(f->name) == len && strncmp(f->name, name, len) == 0)
            return f;
    return NULL;
}

static bool negative(const struct search_condition *c)
{
    return c->op == SEARCH_NE || c->op == SEARCH_NOT_IN;
}

/* ---- one condition; at: its parameter */

/* The first record id of a second: record ids begin with the time they were made. */
static void time_bound(char out[9], const char *time, int64_t add_s)
{
    int64_t ms = 0;
    cw_time_parse_basic(&ms, time);
    int64_t s = ms / 1000 + add_s;
    snprintf(out, 9, "%08x", s < 0 ? 0U : s > UINT32_MAX ? UINT32_MAX : (unsigned)s);
}

/* The array of a time has for each value the first record id of its second and of the next one. */
static void put_time(struct cw_buf *b, const struct search_condition *c, int at)
{
    if (c->op == SEARCH_LT)
        cw_buf_printf(b, "d.record_id < ($%d::text[])[1]", at);
    else if (c->op == SEARCH_GT)
        cw_buf_printf(b, "d.record_id >= ($%d::text[])[2]", at);
    else if (c->n == 1)
        cw_buf_printf(b, "%s(d.record_id >= ($%d::text[])[1] AND d.record_id < ($%d::text[])[2])",
                      negative(c) ? "NOT " : "", at, at);
    else {
        cw_buf_printf(b, "%s(false", negative(c) ? "NOT " : "");
        for (size_t i = 0; i < c->n; i++)
            cw_buf_printf(b,
                          " OR d.record_id >= ($%d::text[])[%zu] AND d.record_id <"
                          " ($%d::text[])[%zu]",
                          at, 2 * i + 1, at, 2 * i + 2);
        cw_buf_str(b, ")");
    }
}

/* expression = ANY, NOT, LIKE, <, > of a column. */
static void put_compared(struct cw_buf *b, const struct search_condition *c, const char *sql,
                         int at)
{
    if (c->op == SEARCH_LIKE)
        cw_buf_printf(b, "%s LIKE ($%d::text[])[1]", sql, at);
    else if (c->op == SEARCH_LT || c->op == SEARCH_GT)
        cw_buf_printf(b, "%s %s ($%d::text[])[1]", sql, c->op == SEARCH_LT ? "<" : ">", at);
    else if (c->n == 1 && !negative(c))
        cw_buf_printf(b, "%s = ($%d::text[])[1]", sql, at);
    else
        cw_buf_printf(b,
                      negative(c) ? "(%s = ANY($%d::text[])) IS NOT TRUE" : "%s = ANY($%d::text[])",
                      sql, at);
}

static void put_gateway(struct cw_buf *b, const struct search_condition *c, int at)
{
    cw_buf_str(b, negative(c) ? "NOT " : "");
    for (const char *p = c->field->sql, *mark; *p; p = mark) {
        mark = strstr(p, "%d");
        mark = mark ? mark : p + strlen(p);
        cw_buf_add(b, p, (size_t)(mark - p));
        if (*mark) {
            cw_buf_printf(b, "%d", at);
            mark += 2;
        }
    }
}

/* A key that is known when the query is planned: how many devices it has is known then, too. */
static void put_product(struct cw_buf *b, const struct search_condition *c, const char *sql, int at)
{
    const char *form = "%s%s = ANY(ARRAY(SELECT product_key FROM registry.product"
                       " WHERE product_id = ANY($%d::text[])))";
    if (c->keyed)
        form = c->keys == 1 ? "%s%s = ($%d::bigint[])[1]" : "%s%s = ANY($%d::bigint[])";
    cw_buf_printf(b, form, negative(c) ? "NOT " : "", sql, at);
}

/* A device has it at most once. */
static bool is_joined(const struct search_condition *c)
{
    return (c->field->kind == FIELD_TAG_KEY && c->op == SEARCH_EQ) ||
           (c->field->kind == FIELD_GROUP && c->n == 1 && !negative(c));
}

/* Condition i as a table: j<i>. */
static void put_table(struct cw_buf *b, const struct search_condition *c, size_t i)
{
    if (is_joined(c))
        cw_buf_printf(b, ", registry.%s j%zu",
                      c->field->kind == FIELD_GROUP ? "group_member" : "device_tag", i);
}

static void put_group(struct cw_buf *b, const struct search_condition *c, size_t i, int at)
{
    if (is_joined(c))
        cw_buf_printf(b, "j%zu.record_id = d.record_id AND j%zu.group_id = ($%d::text[])[1]", i, i,
                      at);
    else
        cw_buf_printf(b,
                      "%sEXISTS (SELECT FROM registry.group_member m WHERE m.device_key ="
                      " d.device_key AND m.group_id = ANY($%d::text[]))",
                      negative(c) ? "NOT " : "", at);
}

/* A condition on tag_key speaks of a tag of its own; conditions on tag_value that follow speak of
 * the same one. tag_key != 'x' is true of devices that have no such tag. */
static size_t put_tag(struct cw_buf *b, const struct search *s, size_t i, size_t end, int first)
{
    struct search_condition c = s->conditions[i];
    bool by_key = c.field->kind == FIELD_TAG_KEY, joined = is_joined(&c);
    char table[24] = "t", column[48];
    if (joined)
        snprintf(table, sizeof table, "j%zu", i);
    else
        cw_buf_printf(b, "%sEXISTS (SELECT FROM registry.device_tag t WHERE ",
                      by_key && c.op == SEARCH_NE ? "NOT " : "");
    if (by_key && c.op == SEARCH_NE)
        c.op = SEARCH_EQ;
    /* indexes: by key or value and then record id; by device */
    const char *by = c.op == SEARCH_EQ ? "record_id" : "device_key";
    cw_buf_printf(b, "%s.%s = d.%s AND ", table, by, by);
    snprintf(column, sizeof column, "%s.%s", table, by_key ? "tag_key" : "tag_value");
    put_compared(b, &c, column, first + (int)i);
    snprintf(column, sizeof column, "%s.tag_value", table);
    for (i++; i < end && s->conditions[i].field->kind == FIELD_TAG_VALUE; i++) {
        cw_buf_str(b, " AND ");
        put_compared(b, &s->conditions[i], column, first + (int)i);
    }
    cw_buf_str(b, joined ? "" : ")");
    return i;
}

/* ---- conditions and branches */

static size_t branch_end(const struct search *s, size_t i)
{
    for (i++; i < s->n && !s->conditions[i].starts;)
        i++;
    return i < s->n ? i : s->n;
}

/* " AND …" for the conditions [i, end). */
static void put_conditions(struct cw_buf *b, const struct search *s, size_t i, size_t end,
                           int first)
{
    while (i < end) {
        const struct search_condition *c = &s->conditions[i];
        int at = first + (int)i;
        cw_buf_str(b, " AND ");
        if (c->field->kind == FIELD_TAG_KEY || c->field->kind == FIELD_TAG_VALUE) {
            i = put_tag(b, s, i, end, first);
            continue;
        }
        if (c->field->kind == FIELD_GROUP)
            put_group(b, c, i, at);
        else if (c->field->kind == FIELD_TIME)
            put_time(b, c, at);
        else if (c->field->kind == FIELD_GATEWAY)
            put_gateway(b, c, at);
        else if (c->field->kind == FIELD_PRODUCT)
            put_product(b, c, c->field->sql, at);
        else
            put_compared(b, c, c->field->sql, at);
        i++;
    }
}

/* The branches, united; rest: what else must hold, and how far each goes. */
static void put_branches(struct cw_buf *b, const struct search *s, const char *holds,
                         const char *rest, int first)
{
    size_t i = 0;
    do {
        size_t end = s->n ? branch_end(s, i) : 0;
        cw_buf_str(b, i ? " UNION (" : "(");
        cw_buf_str(b, "SELECT d.device_key, d.record_id FROM registry.device d");
        for (size_t k = i; k < end; k++)
            put_table(b, &s->conditions[k], k);
        cw_buf_printf(b, " WHERE %s", holds);
        put_conditions(b, s, i, end, first);
        cw_buf_printf(b, "%s)", rest);
        i = end;
    } while (i < s->n);
}

#define MAY_SEE(app) "($1::text[] IS NULL OR " app " = ANY($1)) AND " app " <> ALL($2::text[])"

/* The counters of the registry know spaces, products and statuses. */
static bool is_counted(const struct search *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (!s->conditions[i].field->counted || (i && s->conditions[i].starts))
            return false;
    return true;
}

static void put_counted(struct cw_buf *b, const struct search *s)
{
    cw_buf_str(b, "SELECT COALESCE(sum(c.n), 0)::bigint AS count FROM registry.device_count c"
                  " WHERE " MAY_SEE("c.app_id"));
    for (size_t i = 0; i < s->n; i++) {
        const struct search_condition *c = &s->conditions[i];
        cw_buf_str(b, " AND ");
        if (c->field->kind == FIELD_PRODUCT)
            put_product(b, c, c->field->counted, 3 + (int)i);
        else
            put_compared(b, c, c->field->counted, 3 + (int)i);
    }
}

struct cw_buf search_sql(const struct search *s)
{
    struct cw_buf b = { 0 };
    char rest[96] = "", order[48] = "";
    bool like = false;
    for (size_t i = 0; i < s->n; i++)
        like |= s->conditions[i].op == SEARCH_LIKE;
    if (s->counts && is_counted(s)) {
        put_counted(&b, s);
        return b;
    }
    /* whoever asks for no order gets the newest first, unless that kept prefixes from their index
     */
    if (s->ordered || !like)
        snprintf(order, sizeof order, " ORDER BY record_id %s", s->ascending ? "ASC" : "DESC");
    if (!s->counts)
        snprintf(rest, sizeof rest, "%s LIMIT %u", order, s->offset + s->limit);
    cw_buf_str(&b, s->counts ? "SELECT count(*) AS count FROM (" : "SELECT * FROM (");
    put_branches(&b, s, MAY_SEE("d.app_id"), rest, 3);
    cw_buf_str(&b, ") found");
    if (!s->counts)
        cw_buf_printf(&b, "%s OFFSET %u LIMIT %u", order, s->offset, s->limit);
    return b;
}

struct cw_buf search_rule_sql(const struct search *s)
{
    struct cw_buf b = { 0 };
    cw_buf_str(&b, "SELECT * FROM (");
    put_branches(&b, s,
                 "($1::bigint[] IS NULL OR d.device_key = ANY($1)) AND d.record_id < $2"
                 " AND d.app_id = $3",
                 " ORDER BY record_id DESC LIMIT $4::bigint", 6);
    cw_buf_str(&b, ") found ORDER BY record_id DESC LIMIT $4::bigint");
    return b;
}

/* A _ of a prefix stands for itself; markers are kept in lower case. */
static void put_value(struct cw_db_array *a, const struct search_condition *c, const char *value)
{
    char text[2 * SEARCH_TEXT_MAX + 1];
    size_t n = 0;
    for (const char *p = value; *p; p++) {
        if (c->op == SEARCH_LIKE && *p == '_')
            text[n++] = '\\';
        text[n] = *p;
        if (c->field->kind == FIELD_MARKER && *p >= 'A' && *p <= 'F')
            text[n] = "abcdef"[*p - 'A'];
        n++;
    }
    cw_db_array_bytes(a, text, n);
}

void search_params(const struct search *s, struct cw_db_array *arrays)
{
    char bound[9];
    for (size_t i = 0; i < s->n; i++) {
        const struct search_condition *c = &s->conditions[i];
        cw_db_array_reset(&arrays[i], CW_ARRAY_TEXT);
        for (size_t k = 0; k < c->n; k++) {
            const char *value = s->values[c->first + k];
            if (c->field->kind != FIELD_TIME) {
                put_value(&arrays[i], c, value);
                continue;
            }
            time_bound(bound, value, 0);
            cw_db_array_str(&arrays[i], bound);
            time_bound(bound, value, 1);
            cw_db_array_str(&arrays[i], bound);
        }
    }
}

/* ---- products */

bool search_product_ids(const struct search *s, struct cw_db_array *ids)
{
    cw_db_array_reset(ids, CW_ARRAY_TEXT);
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < s->conditions[i].n; k++)
            if (s->conditions[i].field->kind == FIELD_PRODUCT)
                cw_db_array_str(ids, s->values[s->conditions[i].first + k]);
    return ids->n > 0;
}

void search_by_keys(struct search *s, struct cw_db_array *arrays)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->conditions[i].field->kind == FIELD_PRODUCT) {
            cw_db_array_reset(&arrays[i], CW_ARRAY_INT8);
            s->conditions[i].keyed = true;
            s->conditions[i].keys = 0;
        }
}

void search_product_key(struct search *s, struct cw_db_array *arrays, const char *id, int64_t key)
{
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; s->conditions[i].keyed && k < s->conditions[i].n; k++)
            if (strcmp(s->values[s->conditions[i].first + k], id) == 0) {
                cw_db_array_int(&arrays[i], key);
                s->conditions[i].keys++;
                break;
            }
}

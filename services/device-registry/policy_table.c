/* All device policies, those of some devices, and custom topics of some products, as gateways ask
 * for them. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/log.h"
#include "services/device-registry/policies.h"
#include "services/device-registry/product_topics.h"

static const struct cw_stmt stmt_table = {
    "policies_table",
    "SELECT p.policy_id, p.app_id, p.policy_name, p.statement::text AS statement,"
    " EXISTS (SELECT FROM registry.policy_target t WHERE t.policy_id = p.policy_id"
    "  AND t.target_type = 'app') AS of_space,"
    " (SELECT string_agg(t.product_key::text, ' ') FROM registry.policy_target t"
    "  WHERE t.policy_id = p.policy_id AND t.target_type = 'product') AS products,"
    " NULL::bigint AS device_key, NULL AS policies, NULL::bigint AS product_key, NULL AS topics"
    " FROM registry.device_policy p"
    " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, device_key,"
    "  string_agg(policy_id, '' ORDER BY policy_id), NULL, NULL FROM registry.policy_target"
    "  WHERE device_key = ANY($1::bigint[]) GROUP BY device_key"
    " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, product_key, topics"
    "  FROM registry.product WHERE product_key = ANY($2::bigint[])"
};

struct telling {
    struct registry *r;
    char reply[];
};

static char *or_empty(const char *s) { return (char *)(s ? s : ""); }

/* "1 22 3" */
static void read_keys(Causeway__DevicePolicy *p, const char *keys)
{
    size_t max = strlen(keys) / 2 + 1;
    p->product_keys = cw_calloc(max, sizeof *p->product_keys);
    for (char *end; *keys; keys = *end ? end + 1 : end)
        p->product_keys[p->n_product_keys++] = strtoll(keys, &end, 10);
}

static void read_policy(Causeway__DevicePolicy *p, const PGresult *res, int row)
{
    causeway__device_policy__init(p);
    p->policy_id = or_empty(cw_db_str(res, row, "policy_id"));
    p->policy_name = or_empty(cw_db_str(res, row, "policy_name"));
    p->app_id = or_empty(cw_db_str(res, row, "app_id"));
    p->statement = or_empty(cw_db_str(res, row, "statement"));
    p->of_space = *cw_db_str(res, row, "of_space") == 't';
    read_keys(p, or_empty(cw_db_str(res, row, "products")));
}

static void publish(const struct telling *t, const Causeway__PoliciesReply *out)
{
    size_t n = causeway__policies_reply__get_packed_size(out);
    uint8_t *packed = cw_malloc(n + 1);
    causeway__policies_reply__pack(out, packed);
    int rc = cw_bus_publish(cw_app_bus(t->r->app), t->reply, NULL, packed, n);
    if (rc < 0)
        cw_log(CW_ERROR, "policies_not_told", "bytes=%zu reason=\"%s\"", n, strerror(-rc));
    free(packed);
}

static void tell(const struct telling *t, const PGresult *res)
{
    size_t n = (size_t)PQntuples(res);
    Causeway__PoliciesReply out = CAUSEWAY__POLICIES_REPLY__INIT;
    Causeway__DevicePolicy *policies = cw_calloc(n + 1, sizeof *policies);
    Causeway__DevicePolicies *devices = cw_calloc(n + 1, sizeof *devices);
    struct topics_told topics = { 0 };
    out.policies = cw_calloc(n + 1, sizeof(void *));
    out.devices = cw_calloc(n + 1, sizeof(void *));
    for (size_t i = 0; i < n; i++) {
        if (cw_db_str(res, (int)i, "policy_id")) {
            read_policy(&policies[i], res, (int)i);
            out.policies[out.n_policies++] = &policies[i];
            continue;
        }
        if (cw_db_str(res, (int)i, "product_key")) {
            topics_add(&topics, cw_db_i64(res, (int)i, "product_key", 0),
                       cw_db_str(res, (int)i, "topics"));
            continue;
        }
        causeway__device_policies__init(&devices[i]);
        devices[i].device_key = cw_db_i64(res, (int)i, "device_key", 0);
        devices[i].policies = or_empty(cw_db_str(res, (int)i, "policies"));
        out.devices[out.n_devices++] = &devices[i];
    }
    out.topics = topics.list;
    out.n_topics = topics.n;
    publish(t, &out);
    topics_free(&topics);
    for (size_t i = 0; i < n; i++)
        free(policies[i].product_keys);
    free(policies);
    free(devices);
    free(out.policies);
    free(out.devices);
}

static void tell_away(const struct telling *t, const PGresult *res)
{
    Causeway__PoliciesReply out = CAUSEWAY__POLICIES_REPLY__INIT;
    cw_log(CW_WARN, "policies_not_read", "reason=\"%s\"", cw_db_error(res));
    out.away = true;
    publish(t, &out);
}

static void on_table(PGresult *res, void *arg)
{
    struct telling *t = arg;
    if (cw_db_outcome(res) == CW_DB_OK)
        tell(t, res);
    else
        tell_away(t, res);
    cw_app_in_flight(t->r->app, -1);
    free(t);
}

void policies_tell(const struct cw_bus_msg *msg, void *self)
{
    struct registry *r = self;
    struct cw_db_array keys = { 0 }, products = { 0 };
    if (msg->no_responders || !msg->reply)
        return;
    Causeway__PoliciesAsk *ask = causeway__policies_ask__unpack(NULL, msg->len, msg->data);
    if (!ask)
        return;
    cw_db_array_reset(&keys, CW_ARRAY_INT8);
    for (size_t i = 0; i < ask->n_device_keys; i++)
        cw_db_array_int(&keys, ask->device_keys[i]);
    cw_db_array_reset(&products, CW_ARRAY_INT8);
    for (size_t i = 0; i < ask->n_product_keys; i++)
        cw_db_array_int(&products, ask->product_keys[i]);
    causeway__policies_ask__free_unpacked(ask, NULL);
    struct telling *t = cw_malloc(sizeof *t + strlen(msg->reply) + 1);
    t->r = r;
    strcpy(t->reply, msg->reply);
    cw_app_in_flight(r->app, 1);
    const struct cw_db_param p[] = { cw_db_array_param(&keys), cw_db_array_param(&products) };
    if (!cw_db_exec(r->logins, &stmt_table, 2, p, on_table, t))
        on_table(NULL, t);
    cw_db_array_free(&keys);
    cw_db_array_free(&products);
}

static void give_hint(struct registry *r, const Causeway__PoliciesAsk *hint)
{
    size_t len = causeway__policies_ask__get_packed_size(hint);
    uint8_t *packed = cw_malloc(len + 1);
    causeway__policies_ask__pack(hint, packed);
    cw_bus_publish(cw_app_bus(r->app), "invalidate.policy", NULL, packed, len);
    free(packed);
}

void policies_changed(struct registry *r, const int64_t *device_keys, size_t n)
{
    Causeway__PoliciesAsk hint = CAUSEWAY__POLICIES_ASK__INIT;
    hint.device_keys = (int64_t *)device_keys;
    hint.n_device_keys = n;
    give_hint(r, &hint);
}

void topics_changed(struct registry *r, int64_t product_key)
{
    Causeway__PoliciesAsk hint = CAUSEWAY__POLICIES_ASK__INIT;
    hint.product_keys = &product_key;
    hint.n_product_keys = 1;
    give_hint(r, &hint);
}

/* Requests of devices, as EVENT has them: kept in the transaction of the reader. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/device-registry/subdevices.h"

static const enum cw_array_type request_types[] = { CW_ARRAY_INT4, CW_ARRAY_INT8, CW_ARRAY_TEXT,
                                                    CW_ARRAY_TEXT, CW_ARRAY_TEXT, CW_ARRAY_INT8,
                                                    CW_ARRAY_TEXT };

static const struct cw_stmt stmt_requests = {
    "requests_keep",
    "INSERT INTO registry.device_request (partition, device_key, device_id, app_id, gateway,"
    " session_no, body) SELECT u.* FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[],"
    " $5::text[], $6::bigint[], $7::text[]) AS u"
};
/* In the order of the keys, as whoever else changes several devices. Versions that are not said
 * stay as they are. */
static const struct cw_stmt stmt_sdk = {
    "requests_sdk",
    "WITH l AS (SELECT DISTINCT ON (d.device_key) u.* FROM registry.device d JOIN"
    " unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY"
    "  AS u(device_key, sdk, sw, fw, n) USING (device_key) ORDER BY d.device_key, u.n DESC)"
    " UPDATE registry.device d SET device_sdk_version = coalesce(l.sdk, device_sdk_version),"
    " sw_version = coalesce(l.sw, sw_version), fw_version = coalesce(l.fw, fw_version)"
    " FROM l WHERE d.device_key = l.device_key AND (coalesce(l.sdk, device_sdk_version),"
    " coalesce(l.sw, sw_version), coalesce(l.fw, fw_version)) IS DISTINCT FROM"
    " (device_sdk_version, sw_version, fw_version)"
};

static bool names(const json_t *service, const char *id)
{
    const char *s = cw_json_text(service, "service_id");
    return s && strcmp(*s == '$' ? s + 1 : s, id) == 0;
}

static void note_request(struct device_requests *r, const Causeway__Event *e, uint32_t partition)
{
    if (!r->n_requests++)
        for (size_t i = 0; i < CW_ARRAY_LEN(request_types); i++)
            cw_db_array_reset(&r->request[i], request_types[i]);
    cw_db_array_int(&r->request[0], partition);
    cw_db_array_int(&r->request[1], e->device_key);
    cw_db_array_str(&r->request[2], e->device_id);
    cw_db_array_str(&r->request[3], e->app_id);
    cw_db_array_str(&r->request[4], e->gateway);
    cw_db_array_int(&r->request[5], e->session_no);
    cw_db_array_bytes(&r->request[6], e->body.data, e->body.len);
}

/* At most 64 characters of what a device says its version is. */
static void add_version(struct cw_db_array *a, const json_t *paras, const char *key)
{
    const char *v = cw_json_text(paras, key);
    if (v && strlen(v) <= 256)
        cw_db_array_str(a, v);
    else
        cw_db_array_null(a);
}

static void note_sdk(struct device_requests *r, const Causeway__Event *e, const json_t *paras)
{
    static const char *const keys[] = { "device_sdk_version", "sw_version", "fw_version" };
    if (!r->n_sdk++)
        for (size_t i = 0; i < CW_ARRAY_LEN(r->sdk); i++)
            cw_db_array_reset(&r->sdk[i], i == 0 ? CW_ARRAY_INT8 : CW_ARRAY_TEXT);
    cw_db_array_int(&r->sdk[0], e->device_key);
    for (size_t i = 0; i < CW_ARRAY_LEN(keys); i++)
        add_version(&r->sdk[i + 1], paras, keys[i]);
}

void requests_note(struct device_requests *r, const Causeway__Event *e, uint32_t partition)
{
    struct cw_json_error err;
    size_t i;
    json_t *service, *body = cw_json_parse(e->body.data, e->body.len, &err);
    bool manager = false;
    json_array_foreach(json_object_get(body, "services"), i, service)
    {
        manager |= names(service, "sub_device_manager");
        if (names(service, "sdk_info"))
            note_sdk(r, e, json_object_get(service, "paras"));
    }
    if (manager)
        note_request(r, e, partition);
    json_decref(body);
}

static void store(struct cw_log_txn *txn, const struct cw_stmt *stmt, struct cw_db_array *columns,
                  size_t n)
{
    struct cw_db_param p[CW_ARRAY_LEN(request_types)];
    for (size_t i = 0; i < n; i++)
        p[i] = cw_db_array_param(&columns[i]);
    cw_log_txn_exec(txn, stmt, (int)n, p, NULL, NULL);
}

void requests_store(struct device_requests *r, struct cw_log_txn *txn)
{
    if (r->n_requests)
        store(txn, &stmt_requests, r->request, CW_ARRAY_LEN(r->request));
    if (r->n_sdk)
        store(txn, &stmt_sdk, r->sdk, CW_ARRAY_LEN(r->sdk));
}

void requests_free(struct device_requests *r)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(r->request); i++)
        cw_db_array_free(&r->request[i]);
    for (size_t i = 0; i < CW_ARRAY_LEN(r->sdk); i++)
        cw_db_array_free(&r->sdk[i]);
    *r = (struct device_requests){ 0 };
}

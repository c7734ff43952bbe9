/* A device's row as the API shows it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "services/device-registry/registry.h"

const char device_columns[] =
    "d.record_id, d.device_key, d.device_id, d.node_id, d.device_name, d.description,"
    " d.extension_info, d.app_id, a.app_name, d.product_key, p.product_id, p.name AS product_name,"
    " COALESCE(g.device_id, d.device_id) AS gateway_id, d.parent_key, d.root_id, d.partition,"
    " d.auth_type, d.secret, d.secondary_secret, d.fingerprint, d.secondary_fingerprint,"
    " d.secure_access, d.timeout_s, d.auth_version, d.version, d.fw_version, d.sw_version,"
    " d.device_sdk_version, d.status AS connection_status,"
    " (SELECT json_agg(json_strip_nulls(json_build_object('tag_key', t.tag_key, 'tag_value',"
    "  NULLIF(t.tag_value, ''))) ORDER BY t.tag_key) FROM registry.device_tag t"
    "  WHERE t.device_key = d.device_key) AS tags,"
    " CASE WHEN d.frozen THEN 'FROZEN' ELSE d.status END AS status,"
    " " SQL_BASIC_TIME("d.created") " AS create_time, " SQL_EXTENDED_TIME(
        "d.active_time") " AS active_time,"
                         " " SQL_EXTENDED_TIME(
                             "d.connection_status_update_time") " AS connection_status_update_time";

const char device_from[] = "FROM registry.device d JOIN registry.product p USING (product_key)"
                           " JOIN registry.app a ON a.app_id = d.app_id"
                           " LEFT JOIN registry.device g ON g.device_key = d.parent_key";

const char *seal_context(char out[64], int64_t device_key, bool secondary)
{
    snprintf(out, 64, "device.%" PRId64 ".%s", device_key, secondary ? "secondary" : "primary");
    return out;
}

static void put_secret(json_t *o, const char *key, const struct registry *r, const PGresult *res,
                       int row, bool secondary)
{
    char context[64], *plain;
    int64_t device_key = cw_db_i64(res, row, "device_key", 0);
    const char *sealed = cw_db_str(res, row, key);
    if (!sealed)
        return;
    int rc =
        cw_unseal(&plain, NULL, r->seal_key, seal_context(context, device_key, secondary), sealed);
    if (rc < 0) {
        cw_log(CW_ERROR, "secret_not_opened", "device_key=%" PRId64 " reason=%s", device_key,
               strerror(-rc));
        return;
    }
    json_object_set_new(o, key, json_string(plain));
    explicit_bzero(plain, strlen(plain));
    free(plain);
}

static json_t *auth_json(const struct registry *r, const PGresult *res, int row, bool secrets)
{
    json_t *o = json_object();
    cw_row_text(o, "auth_type", res, row, "auth_type");
    if (secrets) {
        put_secret(o, "secret", r, res, row, false);
        put_secret(o, "secondary_secret", r, res, row, true);
        cw_row_text(o, "fingerprint", res, row, "fingerprint");
        cw_row_text(o, "secondary_fingerprint", res, row, "secondary_fingerprint");
    }
    json_object_set_new(o, "secure_access",
                        json_boolean(*cw_db_str(res, row, "secure_access") == 't'));
    json_object_set_new(o, "timeout", json_integer(cw_db_i64(res, row, "timeout_s", 0)));
    return o;
}

json_t *device_json(const struct registry *r, const PGresult *res, int row, enum device_parts parts)
{
    static const char *const listed[] = {
        "app_id",      "app_name",     "device_id",  "node_id",    "gateway_id",
        "device_name", "description",  "fw_version", "sw_version", "device_sdk_version",
        "product_id",  "product_name", "status"
    };
    static const char *const more[] = { "create_time", "connection_status_update_time",
                                        "active_time" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(listed); i++)
        cw_row_text(o, listed[i], res, row, listed[i]);
    json_object_set_new(o, "node_type",
                        json_string(cw_db_str(res, row, "parent_key") ? "ENDPOINT" : "GATEWAY"));
    json_object_set_new(o, "tags", json_array());
    cw_row_json(o, "tags", res, row, "tags");
    if (parts == DEVICE_LISTED)
        return o;
    cw_row_json(o, "extension_info", res, row, "extension_info");
    for (size_t i = 0; i < CW_ARRAY_LEN(more); i++)
        cw_row_text(o, more[i], res, row, more[i]);
    json_object_set_new(o, "auth_info", auth_json(r, res, row, parts == DEVICE_WHOLE));
    return o;
}

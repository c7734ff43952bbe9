/* Devices: update and delete. */
#include <stdlib.h>
#include <string.h>

#include "services/device-registry/change.h"

static const struct cw_stmt stmt_update = {
    "devices_update",
    "WITH d AS (UPDATE registry.device SET device_name = $3, description = $4,"
    "  extension_info = $5::jsonb, secure_access = $6::boolean, timeout_s = $7::int,"
    "  auth_version = auth_version + 1, version = version + 1, updated = now()"
    "  WHERE device_key = $1 AND version = $2 RETURNING partition)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $8::bytea FROM d"
    " RETURNING id"
};
static const struct cw_stmt stmt_delete = {
    "devices_delete",
    "WITH d AS (DELETE FROM registry.device WHERE device_key = $1"
    "  RETURNING device_key, device_id, product_key, app_id, created, partition),"
    " t AS (INSERT INTO registry.device_tombstone (device_key, device_id, product_key, app_id,"
    "  created, reason, deleted_by, request_id) SELECT device_key, device_id, product_key, app_id,"
    "  created, 'deleted', $3, $4 FROM d)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $2::bytea FROM d"
    " RETURNING id"
};
/* Nobody would remove it later: what a deleted device says no longer becomes a status. */
static const struct cw_stmt stmt_end_session = {
    "devices_end_session",
    "DELETE FROM registry.session WHERE device_key = $1 RETURNING gateway, session_no"
};

/* ---- update */

/* What a request may change, in either form of the device. */
static void overlay(json_t *device, json_t *body)
{
    static const char *const own[] = { "device_name", "description", "extension_info" },
                             *const auth[] = { "secure_access", "timeout" };
    json_t *v, *to = json_object_get(device, "auth_info"),
               *from = json_object_get(body, "auth_info");
    for (size_t i = 0; i < CW_ARRAY_LEN(own); i++)
        if ((v = json_object_get(body, own[i])) && !json_is_null(v))
            json_object_set(device, own[i], v);
    for (size_t i = 0; i < CW_ARRAY_LEN(auth); i++)
        if ((v = json_object_get(from, auth[i])) && !json_is_null(v))
            json_object_set(to, auth[i], v);
}

static void on_updated(PGresult *res, void *arg)
{
    struct change *c = arg;
    if (!change_written(c, res, "update a device"))
        return;
    cw_api_reply_json(c->call, 200, json_incref(c->device));
    change_free(c);
}

static void make_update(struct change *c, const PGresult *row)
{
    char key[24], version[24], timeout[24];
    json_t *body = cw_api_body(c->call), *shown = device_json(c->r, row, 0, DEVICE_PUBLIC);
    json_decref(c->device);
    c->device = device_json(c->r, row, 0, DEVICE_WHOLE);
    overlay(c->device, body);
    overlay(shown, body);
    struct cw_buf event = change_event(c, row, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_UPDATED, shown);
    json_t *extension = json_object_get(shown, "extension_info"),
           *auth = json_object_get(shown, "auth_info");
    char *extension_text = extension ? json_text(extension) : NULL;
    const struct cw_db_param p[] = {
        cw_db_int(c->device_key, key),
        cw_db_int(c->version, version),
        CW_TEXT(cw_body_text(shown, "device_name")),
        CW_TEXT(cw_body_text(shown, "description")),
        CW_TEXT(extension_text),
        CW_TEXT(json_is_true(json_object_get(auth, "secure_access")) ? "t" : "f"),
        cw_db_int(json_integer_value(json_object_get(auth, "timeout")), timeout),
        CW_BIN(event.data, event.len),
    };
    if (!cw_db_exec(registry_db(c->r), &stmt_update, 8, p, on_updated, c))
        change_no_db(c);
    free(extension_text);
    cw_buf_free(&event);
    json_decref(shown);
}

void update_device(struct cw_api_call *call, void *self) { change_begin(self, call, make_update); }

/* ---- delete */

/* The device is gone whatever the gateway says: an unconfirmed end is in the log only. */
static void on_deleted_cut(bool confirmed, void *arg)
{
    struct change *c = arg;
    (void)confirmed;
    cw_api_reply(c->call, 204, NULL, 0);
    change_free(c);
}

static void on_deleted_session(PGresult *res, void *arg)
{
    struct change *c = arg;
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) == 0)
        on_deleted_cut(false, c);
    else
        close_session(c->r, cw_db_str(res, 0, "gateway"), c->device_key,
                      cw_db_i64(res, 0, "session_no", 0), "deleted", on_deleted_cut, c);
}

static void on_deleted(PGresult *res, void *arg)
{
    struct change *c = arg;
    char key[24];
    if (cw_db_broke(res, "device_parent")) {
        change_fail(c, CW_E_HAS_CHILDREN, "Device \"%s\".", cw_api_path(c->call, "device_id"));
        return;
    }
    if (!change_written(c, res, "delete a device"))
        return;
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key) };
    if (!cw_db_exec(registry_db(c->r), &stmt_end_session, 1, p, on_deleted_session, c))
        on_deleted_cut(false, c);
}

static void make_delete(struct change *c, const PGresult *row)
{
    char key[24];
    struct cw_buf event = change_event(c, row, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_DELETED, NULL);
    const Causeway__ApiRequest *q = cw_api_request(c->call);
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key), CW_BIN(event.data, event.len),
                                     CW_TEXT(q->user_name), CW_TEXT(q->request_id) };
    if (!cw_db_exec(registry_db(c->r), &stmt_delete, 4, p, on_deleted, c))
        change_no_db(c);
    cw_buf_free(&event);
}

void delete_device(struct cw_api_call *call, void *self) { change_begin(self, call, make_delete); }

/* Devices: update, delete, reset of a secret. Each reads the row, builds the change with its event,
 * and writes if nobody else has written meanwhile. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "services/device-registry/registry.h"

#define TRIES 5 /* against other changes of the same device */

static const struct cw_stmt stmt_update = {
    "devices_update",
    "WITH d AS (UPDATE registry.device SET device_name = $3, description = $4,"
    "  extension_info = $5::jsonb, secure_access = $6::boolean, timeout_s = $7::int,"
    "  auth_version = auth_version + 1, version = version + 1, updated = now()"
    "  WHERE device_key = $1 AND version = $2 RETURNING partition)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $8::bytea FROM d"
    " RETURNING id"
};
static const struct cw_stmt stmt_reset = {
    "devices_reset_secret",
    "WITH d AS (UPDATE registry.device SET secret = CASE WHEN $3::boolean THEN secret ELSE $4 END,"
    "  secondary_secret = CASE WHEN $3::boolean THEN $4 ELSE secondary_secret END,"
    "  auth_version = auth_version + 1, version = version + 1, updated = now()"
    "  WHERE device_key = $1 AND version = $2 RETURNING partition)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $5::bytea FROM d"
    " RETURNING id"
};
static const struct cw_stmt stmt_delete = {
    "devices_delete",
    "WITH d AS (DELETE FROM registry.device WHERE device_key = $1"
    "  RETURNING device_key, device_id, product_key, app_id, created, partition),"
    " t AS (INSERT INTO registry.device_tombstone (device_key, device_id, product_key, app_id,"
    "  created) SELECT device_key, device_id, product_key, app_id, created FROM d)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $2::bytea FROM d"
    " RETURNING id"
};
/* Sent after the change is committed: a login that was under way has waited for the row, so that it
 * either is in this snapshot or has seen the change. */
static const struct cw_stmt stmt_session = {
    "devices_session", "SELECT gateway, session_no FROM registry.session WHERE device_key = $1"
};

/* Nobody would remove it later: what a deleted device says no longer becomes a status. */
static const struct cw_stmt stmt_end_session = {
    "devices_end_session",
    "DELETE FROM registry.session WHERE device_key = $1 RETURNING gateway, session_no"
};

struct change {
    struct registry *r;
    struct cw_api_call *call;
    void (*make)(struct change *c, const PGresult *row); /* builds and sends the change */
    json_t *device;                                      /* as it will be answered */
    int64_t device_key, version;
    uint32_t partition;
    int tries;
    char secret[36];
    bool secondary;
};

bool find_device(struct registry *r, const char *device_id, cw_db_fn *cb, void *arg);

static void change_free(struct change *c)
{
    explicit_bzero(c->secret, sizeof c->secret);
    json_decref(c->device);
    free(c);
}

static void no_db(struct change *c)
{
    cw_api_no_db(c->call);
    change_free(c);
}

static void no_device(struct change *c)
{
    cw_api_fail(c->call, CW_E_NO_DEVICE, "Device \"%s\".", cw_api_path(c->call, "device_id"));
    change_free(c);
}

static void on_found(PGresult *res, void *arg)
{
    struct change *c = arg;
    if (cw_api_db_failed(c->call, res, "change a device"))
        change_free(c);
    else if (PQntuples(res) == 0)
        no_device(c);
    else {
        c->device_key = cw_db_i64(res, 0, "device_key", 0);
        c->version = cw_db_i64(res, 0, "version", 0);
        c->partition = (uint32_t)cw_db_i64(res, 0, "partition", 0);
        c->make(c, res);
    }
}

static void try_change(struct change *c)
{
    if (c->tries++ == TRIES) {
        cw_api_fail(c->call, CW_E_UNAVAILABLE, "Others change this device at the moment.");
        change_free(c);
    } else if (!find_device(c->r, cw_api_path(c->call, "device_id"), on_found, c))
        no_db(c);
}

static void begin(struct registry *r, struct cw_api_call *call,
                  void (*make)(struct change *c, const PGresult *row))
{
    struct change *c = cw_calloc(1, sizeof *c);
    c->r = r;
    c->call = call;
    c->make = make;
    try_change(c);
}

/* True if the change is committed; else it is tried again or the call has been failed. */
static bool written(struct change *c, const PGresult *res, const char *what)
{
    if (cw_api_db_failed(c->call, res, what)) {
        change_free(c);
        return false;
    }
    if (PQntuples(res) == 0) {
        try_change(c);
        return false;
    }
    secrets_drop(c->r->secrets, c->device_key);
    fact_told(c->r, "device", c->device_key, c->partition);
    return true;
}

static struct cw_buf event_of(const struct change *c, const PGresult *row, Causeway__EventKind kind,
                              const json_t *body)
{
    return fact_pack(&(struct fact){ .kind = kind,
                                     .request_id = cw_api_request(c->call)->request_id,
                                     .time_ms = cw_now_ms(),
                                     .device_key = c->device_key,
                                     .device_id = cw_db_str(row, 0, "device_id"),
                                     .node_id = cw_db_str(row, 0, "node_id"),
                                     .root_id = cw_db_str(row, 0, "root_id"),
                                     .product_key = cw_db_i64(row, 0, "product_key", 0),
                                     .product_id = cw_db_str(row, 0, "product_id"),
                                     .app_id = cw_db_str(row, 0, "app_id"),
                                     .body = body });
}

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
    if (!written(c, res, "update a device"))
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
    struct cw_buf event = event_of(c, row, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_UPDATED, shown);
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
    if (!cw_db_exec(c->r->db, &stmt_update, 8, p, on_updated, c))
        no_db(c);
    free(extension_text);
    cw_buf_free(&event);
    json_decref(shown);
}

void update_device(struct cw_api_call *call, void *self) { begin(self, call, make_update); }

/* ---- reset of a secret */

static void answer_reset(struct change *c)
{
    cw_api_reply_json(c->call, 200,
                      json_pack("{s:s, s:s, s:s}", "device_id", cw_api_path(c->call, "device_id"),
                                "secret", c->secret, "secret_type",
                                c->secondary ? "SECONDARY" : "PRIMARY"));
    change_free(c);
}

static void on_cut(bool confirmed, void *arg)
{
    struct change *c = arg;
    if (confirmed)
        answer_reset(c);
    else {
        cw_api_fail(c->call, CW_E_UNAVAILABLE,
                    "The secret is changed, but the device's gateway has not confirmed that the "
                    "connection is closed.");
        change_free(c);
    }
}

static void on_session_to_cut(PGresult *res, void *arg)
{
    struct change *c = arg;
    if (cw_api_db_failed(c->call, res, "find the session (the secret is changed)"))
        change_free(c);
    else if (PQntuples(res) == 0)
        answer_reset(c);
    else
        close_session(c->r, cw_db_str(res, 0, "gateway"), c->device_key,
                      cw_db_i64(res, 0, "session_no", 0), "secret_reset", on_cut, c);
}

static void on_reset(PGresult *res, void *arg)
{
    struct change *c = arg;
    char key[24];
    if (!written(c, res, "reset a secret"))
        return;
    if (!json_is_true(json_object_get(cw_api_body(c->call), "force_disconnect"))) {
        answer_reset(c);
        return;
    }
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key) };
    if (!cw_db_exec(c->r->db, &stmt_session, 1, p, on_session_to_cut, c))
        no_db(c);
}

static void make_reset(struct change *c, const PGresult *row)
{
    char key[24], version[24], context[64];
    json_t *body = cw_api_body(c->call);
    const char *given = cw_body_text(body, "secret"), *type = cw_body_text(body, "secret_type");
    if (strcmp(cw_db_str(row, 0, "auth_type"), "SECRET") != 0) {
        cw_api_fail(c->call, CW_E_INVALID, "The device has auth_type CERTIFICATES: no secret.");
        change_free(c);
        return;
    }
    c->secondary = type && strcmp(type, "SECONDARY") == 0;
    if (given)
        snprintf(c->secret, sizeof c->secret, "%s", given);
    else
        cw_random_hex(c->secret, 32);
    char *sealed = cw_seal(c->r->seal_key, seal_context(context, c->device_key, c->secondary),
                           c->secret, strlen(c->secret));
    json_t *shown = device_json(c->r, row, 0, DEVICE_PUBLIC);
    struct cw_buf event = event_of(c, row, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_UPDATED, shown);
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key), cw_db_int(c->version, version),
                                     CW_TEXT(c->secondary ? "t" : "f"), CW_TEXT(sealed),
                                     CW_BIN(event.data, event.len) };
    if (!cw_db_exec(c->r->db, &stmt_reset, 5, p, on_reset, c))
        no_db(c);
    free(sealed);
    cw_buf_free(&event);
    json_decref(shown);
}

void reset_device_secret(struct cw_api_call *call, void *self) { begin(self, call, make_reset); }

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
        cw_api_fail(c->call, CW_E_HAS_CHILDREN, "Device \"%s\".",
                    cw_api_path(c->call, "device_id"));
        change_free(c);
        return;
    }
    if (!written(c, res, "delete a device"))
        return;
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key) };
    if (!cw_db_exec(c->r->db, &stmt_end_session, 1, p, on_deleted_session, c))
        on_deleted_cut(false, c);
}

static void make_delete(struct change *c, const PGresult *row)
{
    char key[24];
    struct cw_buf event = event_of(c, row, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_DELETED, NULL);
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key), CW_BIN(event.data, event.len) };
    if (!cw_db_exec(c->r->db, &stmt_delete, 2, p, on_deleted, c))
        no_db(c);
    cw_buf_free(&event);
}

void delete_device(struct cw_api_call *call, void *self) { begin(self, call, make_delete); }

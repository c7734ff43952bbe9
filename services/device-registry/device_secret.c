/* Devices: what a login is checked against. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "services/device-registry/change.h"

static const struct cw_stmt stmt_secret = {
    "devices_reset_secret",
    "WITH d AS (UPDATE registry.device SET secret = CASE WHEN $3::boolean THEN secret ELSE $4 END,"
    "  secondary_secret = CASE WHEN $3::boolean THEN $4 ELSE secondary_secret END,"
    "  auth_version = auth_version + 1, version = version + 1, updated = now()"
    "  WHERE device_key = $1 AND version = $2 RETURNING partition)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $5::bytea FROM d"
    " RETURNING id"
};
static const struct cw_stmt stmt_fingerprint = {
    "devices_reset_fingerprint",
    "WITH d AS (UPDATE registry.device SET"
    "  fingerprint = CASE WHEN $3::boolean THEN fingerprint ELSE $4 END,"
    "  secondary_fingerprint = CASE WHEN $3::boolean THEN $4 ELSE secondary_fingerprint END,"
    "  auth_version = auth_version + 1, version = version + 1, updated = now()"
    "  WHERE device_key = $1 AND version = $2 RETURNING partition)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $5::bytea FROM d"
    " RETURNING id"
};

static const char *type_name(const struct change *c)
{
    return c->secondary ? "SECONDARY" : "PRIMARY";
}

/* The device as it is now goes into the event; it has no secrets. */
static bool write_change(struct change *c, const PGresult *row, const struct cw_stmt *stmt,
                         const char *value, cw_db_fn *cb)
{
    char key[24], version[24];
    json_t *shown = device_json(c->r, row, 0, DEVICE_PUBLIC);
    struct cw_buf event = change_event(c, row, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_UPDATED, shown);
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key), cw_db_int(c->version, version),
                                     CW_TEXT(c->secondary ? "t" : "f"), CW_TEXT(value),
                                     CW_BIN(event.data, event.len) };
    bool sent = cw_db_exec(registry_db(c->r), stmt, 5, p, cb, c) != NULL;
    cw_buf_free(&event);
    json_decref(shown);
    return sent;
}

static bool is_secondary(const json_t *body, const char *key)
{
    const char *type = cw_body_text(body, key);
    return type && strcmp(type, "SECONDARY") == 0;
}

static void cut_if_asked(struct change *c, const char *done)
{
    if (json_is_true(json_object_get(cw_api_body(c->call), "force_disconnect")))
        change_cut(c, done);
    else
        c->answer(c);
}

/* ---- secret */

static void answer_secret(struct change *c)
{
    cw_api_reply_json(c->call, 200,
                      json_pack("{s:s, s:s, s:s}", "device_id", cw_api_path(c->call, "device_id"),
                                "secret", c->secret, "secret_type", type_name(c)));
    change_free(c);
}

static void on_secret(PGresult *res, void *arg)
{
    struct change *c = arg;
    if (change_written(c, res, "reset a secret"))
        cut_if_asked(c, "The secret is changed");
}

static void make_secret(struct change *c, const PGresult *row)
{
    char context[64];
    const char *given = cw_body_text(cw_api_body(c->call), "secret");
    if (strcmp(cw_db_str(row, 0, "auth_type"), "SECRET") != 0) {
        change_fail(c, CW_E_INVALID, "The device has auth_type CERTIFICATES: no secret.");
        return;
    }
    c->secondary = is_secondary(cw_api_body(c->call), "secret_type");
    c->answer = answer_secret;
    c->cause = "secret_reset";
    if (given)
        snprintf(c->secret, sizeof c->secret, "%s", given);
    else if (!*c->secret) /* a second try answers with the same */
        cw_random_hex(c->secret, 32);
    char *sealed = cw_seal(c->r->seal_key, seal_context(context, c->device_key, c->secondary),
                           c->secret, strlen(c->secret));
    if (!write_change(c, row, &stmt_secret, sealed, on_secret))
        change_no_db(c);
    free(sealed);
}

void reset_device_secret(struct cw_api_call *call, void *self)
{
    change_begin(self, call, make_secret);
}

/* ---- fingerprint */

static void answer_fingerprint(struct change *c)
{
    const char *given = cw_body_text(cw_api_body(c->call), "fingerprint");
    json_t *o = json_pack("{s:s, s:s}", "device_id", cw_api_path(c->call, "device_id"),
                          "fingerprint_type", type_name(c));
    if (given)
        json_object_set_new(o, "fingerprint", json_string(given));
    cw_api_reply_json(c->call, 200, o);
    change_free(c);
}

static void on_fingerprint(PGresult *res, void *arg)
{
    struct change *c = arg;
    if (change_written(c, res, "reset a fingerprint"))
        cut_if_asked(c, "The fingerprint is changed");
}

static void make_fingerprint(struct change *c, const PGresult *row)
{
    if (strcmp(cw_db_str(row, 0, "auth_type"), "CERTIFICATES") != 0) {
        change_fail(c, CW_E_INVALID, "The device has auth_type SECRET: no fingerprint.");
        return;
    }
    c->secondary = is_secondary(cw_api_body(c->call), "fingerprint_type");
    c->answer = answer_fingerprint;
    c->cause = "fingerprint_reset";
    if (!write_change(c, row, &stmt_fingerprint, cw_body_text(cw_api_body(c->call), "fingerprint"),
                      on_fingerprint))
        change_no_db(c);
}

bool fingerprint_fits(const char *fingerprint)
{
    return !fingerprint || strlen(fingerprint) == 40 || strlen(fingerprint) == 64;
}

void reset_fingerprint(struct cw_api_call *call, void *self)
{
    if (!fingerprint_fits(cw_body_text(cw_api_body(call), "fingerprint")))
        cw_api_fail(call, CW_E_INVALID, "Field \"fingerprint\": must have 40 or 64 hex digits.");
    else
        change_begin(self, call, make_fingerprint);
}

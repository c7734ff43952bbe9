#include "services/device-registry/change.h"

#include <stdlib.h>
#include <string.h>

#define TRIES 5 /* against other changes of the same device */

/* Sent after the change is committed: a login that was under way has waited for the row, so that it
 * either is in this snapshot or has seen the change. */
static const struct cw_stmt stmt_session = {
    "devices_session", "SELECT gateway, session_no FROM registry.session WHERE device_key = $1"
};

void change_free(struct change *c)
{
    explicit_bzero(c->secret, sizeof c->secret);
    json_decref(c->device);
    free(c);
}

void change_no_db(struct change *c)
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

void change_again(struct change *c)
{
    if (c->tries++ == TRIES) {
        cw_api_fail(c->call, CW_E_UNAVAILABLE, "Others change this device at the moment.");
        change_free(c);
    } else if (!find_device(c->r, cw_api_path(c->call, "device_id"), on_found, c))
        change_no_db(c);
}

void change_begin(struct registry *r, struct cw_api_call *call,
                  void (*make)(struct change *c, const PGresult *row))
{
    struct change *c = cw_calloc(1, sizeof *c);
    c->r = r;
    c->call = call;
    c->make = make;
    change_again(c);
}

void change_told(struct change *c)
{
    secrets_drop(c->r->secrets, c->device_key);
    fact_told(c->r, "device", c->device_key, c->partition);
}

bool change_written(struct change *c, const PGresult *res, const char *what)
{
    if (cw_api_db_failed(c->call, res, what)) {
        change_free(c);
        return false;
    }
    if (PQntuples(res) == 0) {
        change_again(c);
        return false;
    }
    change_told(c);
    return true;
}

struct cw_buf change_event(const struct change *c, const PGresult *row, Causeway__EventKind kind,
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

/* ---- cutting the session */

struct cutting {
    struct change *c;
    char done[80];
};

static void on_cut(bool confirmed, void *arg)
{
    struct cutting *k = arg;
    struct change *c = k->c;
    if (confirmed)
        c->answer(c);
    else
        change_fail(c, CW_E_UNAVAILABLE,
                    "%s, but the device's gateway has not confirmed that the connection is closed.",
                    k->done);
    free(k);
}

static void on_session_to_cut(PGresult *res, void *arg)
{
    struct cutting *k = arg;
    struct change *c = k->c;
    if (cw_db_outcome(res) == CW_DB_OK && PQntuples(res) > 0) {
        close_session(c->r, cw_db_str(res, 0, "gateway"), c->device_key,
                      cw_db_i64(res, 0, "session_no", 0), c->cause, on_cut, k);
        return;
    }
    if (cw_api_db_failed(c->call, res, "find the session (what was asked for is done)"))
        change_free(c);
    else
        c->answer(c);
    free(k);
}

void change_cut(struct change *c, const char *done)
{
    char key[24];
    struct cutting *k = cw_calloc(1, sizeof *k);
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key) };
    k->c = c;
    snprintf(k->done, sizeof k->done, "%s", done);
    if (!cw_db_exec(registry_db(c->r), &stmt_session, 1, p, on_session_to_cut, k)) {
        change_no_db(c);
        free(k);
    }
}

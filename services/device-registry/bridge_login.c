/* What gateways ask for a bridge: its login, its end, and a new secret for one of its devices. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "services/device-registry/bridges.h"

#define SECRET_MIN 8
#define SECRET_MAX 32

static const struct cw_stmt stmt_lookup = {
    "bridges_lookup", "SELECT secret FROM registry.bridge WHERE bridge_id = $1"
};
/* The secret is the one that was checked: a reset in between is not overtaken. */
static const struct cw_stmt stmt_open = {
    "bridges_open",
    "UPDATE registry.bridge b SET gateway = $2, session_no = nextval('registry.session_no')"
    " FROM (SELECT gateway, session_no FROM registry.bridge WHERE bridge_id = $1 FOR UPDATE) old"
    " WHERE b.bridge_id = $1 AND b.secret = $3"
    " RETURNING b.session_no, old.gateway AS old_gateway, old.session_no AS old_session_no"
};
static const struct cw_stmt stmt_close = {
    "bridges_close", "UPDATE registry.bridge SET gateway = NULL WHERE bridge_id = $1"
                     " AND session_no = $2::bigint"
};
static const struct cw_stmt stmt_secret = {
    "bridges_device_secret",
    "WITH d AS (UPDATE registry.device SET secret = $3, auth_version = auth_version + 1,"
    "  version = version + 1, updated = now() WHERE device_key = $1::bigint AND version = "
    "$2::bigint"
    "  RETURNING partition)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $4::bytea FROM d"
    " RETURNING partition"
};

/* ---- login */

struct opening {
    struct registry *r;
    Causeway__SessionOpenBatch *request;
    char *sealed;
    char reply_to[];
};

static void reply_opened(struct opening *o, Causeway__SessionOpened *result)
{
    session_answer(o->r, o->reply_to, result);
    cw_app_in_flight(o->r->app, -1);
    causeway__session_open_batch__free_unpacked(o->request, NULL);
    free(o->sealed);
    free(o);
}

static void refuse(struct opening *o, const struct login_refusal *why)
{
    Causeway__SessionOpened result = CAUSEWAY__SESSION_OPENED__INIT;
    result.connack = why->connack;
    result.code = (char *)why->code;
    result.reason = (char *)why->reason;
    result.next_step = (char *)why->next_step;
    reply_opened(o, &result);
}

static void unavailable(struct opening *o)
{
    refuse(o, &(struct login_refusal){ .connack = 3,
                                       .code = "registry_unavailable",
                                       .next_step = "Connect again in a moment.",
                                       .reason = "PostgreSQL did not answer." });
}

static void on_opened(PGresult *res, void *arg)
{
    struct opening *o = arg;
    Causeway__SessionOpened result = CAUSEWAY__SESSION_OPENED__INIT;
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) == 0) {
        unavailable(o);
        return;
    }
    const char *old = cw_db_str(res, 0, "old_gateway");
    result.session_no = cw_db_i64(res, 0, "session_no", 0);
    result.old_gateway = (char *)(old ? old : "");
    result.old_session_no = cw_db_i64(res, 0, "old_session_no", 0);
    reply_opened(o, &result);
}

/* As a device with this secret would be checked. */
static void check(struct opening *o, struct login_refusal *why, bool known)
{
    const Causeway__SessionOpen *open = o->request->opens[0];
    struct secret_pair pair = { 0 };
    char context[BRIDGE_CONTEXT_LEN];
    struct login_device as = { .auth_type = "SECRET" };
    if (known && cw_unseal(&pair.primary, NULL, o->r->seal_key,
                           bridge_context(context, open->device_id), o->sealed) == 0)
        as.secrets = &pair;
    login_check(why, open, known ? &as : NULL, NULL, cw_now_ms());
    if (pair.primary)
        explicit_bzero(pair.primary, strlen(pair.primary));
    free(pair.primary);
}

static void on_looked_up(PGresult *res, void *arg)
{
    struct opening *o = arg;
    struct login_refusal why;
    if (cw_db_outcome(res) != CW_DB_OK) {
        unavailable(o);
        return;
    }
    bool known = PQntuples(res) > 0;
    o->sealed = known ? cw_strdup(cw_db_str(res, 0, "secret")) : NULL;
    check(o, &why, known);
    const struct cw_db_param p[] = { CW_TEXT(o->request->opens[0]->device_id),
                                     CW_TEXT(o->request->gateway), CW_TEXT(o->sealed) };
    if (why.connack)
        refuse(o, &why);
    else if (!cw_db_exec(o->r->logins, &stmt_open, 3, p, on_opened, o))
        unavailable(o);
}

void bridges_open(const struct cw_bus_msg *msg, void *self)
{
    struct registry *r = self;
    Causeway__SessionOpenBatch *request =
        msg->reply ? causeway__session_open_batch__unpack(NULL, msg->len, msg->data) : NULL;
    if (!request || request->n_opens != 1) {
        causeway__session_open_batch__free_unpacked(request, NULL);
        return;
    }
    struct opening *o = cw_calloc(1, sizeof *o + strlen(msg->reply) + 1);
    o->r = r;
    o->request = request;
    strcpy(o->reply_to, msg->reply);
    cw_app_in_flight(r->app, 1);
    if (!cw_db_exec(r->logins, &stmt_lookup, 1, &CW_TEXT(request->opens[0]->device_id),
                    on_looked_up, o))
        unavailable(o);
}

/* ---- the end */

struct closing {
    struct registry *r;
    char reply_to[];
};

static void on_closed(PGresult *res, void *arg)
{
    struct closing *c = arg;
    if (cw_db_outcome(res) == CW_DB_OK)
        cw_bus_publish(cw_app_bus(c->r->app), c->reply_to, NULL, "", 0);
    cw_app_in_flight(c->r->app, -1);
    free(c);
}

void bridges_close(const struct cw_bus_msg *msg, void *self)
{
    struct registry *r = self;
    char number[24];
    Causeway__BridgeClosed *m =
        msg->reply ? causeway__bridge_closed__unpack(NULL, msg->len, msg->data) : NULL;
    if (!m)
        return;
    struct closing *c = cw_malloc(sizeof *c + strlen(msg->reply) + 1);
    c->r = r;
    strcpy(c->reply_to, msg->reply);
    cw_app_in_flight(r->app, 1);
    const struct cw_db_param p[] = { CW_TEXT(m->bridge_id), cw_db_int(m->session_no, number) };
    if (!cw_db_exec(r->logins, &stmt_close, 2, p, on_closed, c))
        on_closed(NULL, c);
    causeway__bridge_closed__free_unpacked(m, NULL);
}

/* ---- a device changes its secret */

struct renewal {
    struct registry *r;
    Causeway__BridgeSecret *m;
    int64_t device_key;
    char reply_to[];
};

/* reason: for a person; NULL: it is done. */
static void answer(struct renewal *n, const char *reason)
{
    Causeway__BridgeSecretReply out = CAUSEWAY__BRIDGE_SECRET_REPLY__INIT;
    uint8_t packed[256];
    out.result = reason != NULL;
    out.reason = (char *)(reason ? reason : "");
    cw_bus_publish(cw_app_bus(n->r->app), n->reply_to, NULL, packed,
                   causeway__bridge_secret_reply__pack(&out, packed));
    cw_app_in_flight(n->r->app, -1);
    explicit_bzero(n->m->old_secret, strlen(n->m->old_secret));
    explicit_bzero(n->m->new_secret, strlen(n->m->new_secret));
    causeway__bridge_secret__free_unpacked(n->m, NULL);
    free(n);
}

static bool secret_fits(const char *secret)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t len = strlen(secret);
    return len >= SECRET_MIN && len <= SECRET_MAX && strspn(secret, allowed) == len;
}

static bool is_its_secret(const struct renewal *n, const PGresult *row)
{
    char context[64], *plain = NULL;
    const char *sealed = cw_db_str(row, 0, "secret");
    if (!sealed || cw_unseal(&plain, NULL, n->r->seal_key,
                             seal_context(context, n->device_key, false), sealed) < 0)
        return false;
    bool same = cw_equal(plain, strlen(plain), n->m->old_secret, strlen(n->m->old_secret));
    explicit_bzero(plain, strlen(plain));
    free(plain);
    return same;
}

static void on_renewed(PGresult *res, void *arg)
{
    struct renewal *n = arg;
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) == 0) {
        answer(n, "The platform could not write it; try again.");
        return;
    }
    secrets_drop(n->r->secrets, n->device_key);
    fact_told(n->r, "device", n->device_key, (uint32_t)cw_db_i64(res, 0, "partition", 0));
    answer(n, NULL);
}

static bool write_secret(struct renewal *n, const PGresult *row)
{
    char context[64], key[24], version[24], id[CW_UUID_LEN];
    json_t *shown = device_json(n->r, row, 0, DEVICE_PUBLIC);
    struct cw_buf event =
        fact_pack(&(struct fact){ .kind = CAUSEWAY__EVENT_KIND__EVENT_DEVICE_UPDATED,
                                  .request_id = cw_uuid(id),
                                  .time_ms = cw_now_ms(),
                                  .device_key = n->device_key,
                                  .device_id = n->m->device_id,
                                  .node_id = cw_db_str(row, 0, "node_id"),
                                  .root_id = cw_db_str(row, 0, "root_id"),
                                  .product_key = cw_db_i64(row, 0, "product_key", 0),
                                  .product_id = cw_db_str(row, 0, "product_id"),
                                  .app_id = cw_db_str(row, 0, "app_id"),
                                  .body = shown });
    char *sealed = cw_seal(n->r->seal_key, seal_context(context, n->device_key, false),
                           n->m->new_secret, strlen(n->m->new_secret));
    const struct cw_db_param p[] = { cw_db_int(n->device_key, key),
                                     cw_db_int(cw_db_i64(row, 0, "version", 0), version),
                                     CW_TEXT(sealed), CW_BIN(event.data, event.len) };
    bool sent = cw_db_exec(registry_db(n->r), &stmt_secret, 4, p, on_renewed, n) != NULL;
    free(sealed);
    cw_buf_free(&event);
    json_decref(shown);
    return sent;
}

static void on_device(PGresult *res, void *arg)
{
    struct renewal *n = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        answer(n, "The platform could not read it; try again.");
        return;
    }
    n->device_key = PQntuples(res) ? cw_db_i64(res, 0, "device_key", 0) : 0;
    if (!n->device_key || strcmp(cw_db_str(res, 0, "auth_type"), "SECRET") != 0)
        answer(n, "There is no device of this id that has a secret.");
    else if (!is_its_secret(n, res))
        answer(n, "old_secret is not the device's secret.");
    else if (!secret_fits(n->m->new_secret))
        answer(n, "new_secret: 8 to 32 letters, digits, _ and -.");
    else if (!write_secret(n, res))
        answer(n, "The platform could not write it; try again.");
}

void bridges_secret(const struct cw_bus_msg *msg, void *self)
{
    struct registry *r = self;
    Causeway__BridgeSecret *m =
        msg->reply ? causeway__bridge_secret__unpack(NULL, msg->len, msg->data) : NULL;
    if (!m)
        return;
    struct renewal *n = cw_calloc(1, sizeof *n + strlen(msg->reply) + 1);
    n->r = r;
    n->m = m;
    strcpy(n->reply_to, msg->reply);
    cw_app_in_flight(r->app, 1);
    if (!find_device(r, m->device_id, on_device, n))
        answer(n, "The platform could not read it; try again.");
}

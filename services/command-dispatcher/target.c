#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "services/command-dispatcher/dispatcher.h"

/* A child is reached through the directly connected device above it: its session counts. */
static const struct cw_stmt find = {
    "target_find",
    "SELECT d.device_key, d.device_id, d.node_id, d.app_id, d.product_key, d.product_id, "
    "r.status, r.device_key AS root_key, r.device_id AS root_id, d.partition, "
    "s.session_no, s.gateway "
    "FROM registry.device_view d JOIN registry.device_view r ON r.device_id = d.gateway_id "
    "LEFT JOIN registry.session_view s ON s.device_key = r.device_key "
    "WHERE d.device_id = $1"
};

struct finding {
    target_fn *cb;
    void *arg;
};

static char *copy(const PGresult *res, const char *column)
{
    const char *s = cw_db_str(res, 0, column);
    return s ? cw_strdup(s) : NULL;
}

static struct target read_row(const PGresult *res)
{
    return (struct target){ .device_id = copy(res, "device_id"),
                            .root_id = copy(res, "root_id"),
                            .node_id = copy(res, "node_id"),
                            .app_id = copy(res, "app_id"),
                            .product_id = copy(res, "product_id"),
                            .status = copy(res, "status"),
                            .gateway = copy(res, "gateway"),
                            .device_key = cw_db_i64(res, 0, "device_key", 0),
                            .root_key = cw_db_i64(res, 0, "root_key", 0),
                            .product_key = cw_db_i64(res, 0, "product_key", 0),
                            .session_no = cw_db_i64(res, 0, "session_no", 0),
                            .partition = (uint32_t)cw_db_i64(res, 0, "partition", 0) };
}

static void on_found(PGresult *res, void *arg)
{
    struct finding f = *(struct finding *)arg;
    free(arg);
    if (cw_db_outcome(res) != CW_DB_OK) {
        cw_log(CW_WARN, "target_failed", "reason=\"%s\"", cw_db_error(res));
        f.cb(-EIO, NULL, f.arg);
        return;
    }
    struct target t = { 0 };
    if (PQntuples(res) > 0)
        t = read_row(res);
    f.cb(PQntuples(res) > 0, &t, f.arg);
    target_free(&t); /* nothing is left in it if cb took it over */
}

int target_find(struct dispatcher *d, const char *device_id, target_fn *cb, void *arg)
{
    struct finding *f = cw_malloc(sizeof *f);
    *f = (struct finding){ cb, arg };
    if (cw_db_exec(d->db, &find, 1, &CW_TEXT(device_id), on_found, f))
        return 0;
    free(f);
    return -ENOTCONN;
}

void target_free(struct target *t)
{
    char *texts[] = { t->device_id,  t->root_id, t->node_id, t->app_id,
                      t->product_id, t->status,  t->gateway };
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        free(texts[i]);
    *t = (struct target){ 0 };
}

static void note_offline(struct dispatcher *d, const struct target *t, const char *what)
{
    bool frozen = strcmp(t->status, "FROZEN") == 0;
    char reason[320];
    snprintf(reason, sizeof reason, "A %s was refused: the device is %s (%s).", what,
             frozen ? "frozen" : "not online", t->status);
    cw_notice(d->notices,
              &(struct cw_notice){ .layer = CW_LAYER_COMMAND,
                                   .device_key = t->root_key,
                                   .device_id = t->root_id,
                                   .code = frozen ? "frozen" : "offline",
                                   .reason = reason,
                                   .next_step = frozen ? "Unfreeze the device."
                                                       : "Send it when the device is online; the "
                                                         "changes say when it was last." });
}

bool target_takes(struct dispatcher *d, struct cw_api_call *call, int found, const struct target *t,
                  const char *what, bool kept)
{
    const char *id = cw_api_path(call, "device_id");
    if (found < 0)
        cw_api_fail(call, CW_E_UNAVAILABLE, "PostgreSQL did not answer (device).");
    else if (found == 0)
        cw_api_fail(call, CW_E_NO_DEVICE, "Device \"%s\".", id);
    else if (strcmp(t->status, "FROZEN") == 0)
        cw_api_fail(call, CW_E_OFFLINE, "Device \"%s\" is frozen.", t->root_id);
    else if (!t->gateway && !kept)
        cw_api_fail(call, CW_E_OFFLINE,
                    "Stage: not sent. Device \"%s\" is not online (%s); its history is at "
                    "devices/%s/why.",
                    t->root_id, t->status, t->root_id);
    else
        return true;
    if (found > 0)
        note_offline(d, t, what);
    return false;
}

/* Asynchronous commands are taken, and canceled; queue.c sends them, async_answers.c takes in what
 * devices answer. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/command-dispatcher/async.h"
#include "services/command-dispatcher/command_kind.h"

#define EXPIRE_S  86400  /* unless the caller says otherwise */
#define NOW_MS    300000 /* the whole resend plan, and a little */
#define QUEUE_MAX "20"   /* PENDING of one device */

struct creating {
    struct dispatcher *d;
    struct cw_api_call *call;
    struct target to;
    char id[CW_UUID_LEN], record_id[CW_RECORD_ID_LEN];
    int64_t created_ms, expire_s;
    bool kept;
};

static void creating_free(struct creating *c)
{
    target_free(&c->to);
    free(c);
}

static const struct cw_stmt insert = {
    "async_insert",
    "INSERT INTO command.async_command (command_id, record_id, device_key, device_id, root_key,"
    " root_id, partition, service_id, command_name, paras, send_strategy, expire_time, topic,"
    " payload, created, expires) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, "
    "$14,"
    " to_timestamp($15::bigint / 1000.0), to_timestamp($16::bigint / 1000.0)"
    " WHERE (SELECT count(*) FROM command.async_command WHERE root_key = $5::bigint"
    "  AND status IN ('PENDING', 'SENT') AND status = 'PENDING' AND device_key = $3::bigint)"
    " < " QUEUE_MAX " RETURNING 1"
};

static void on_inserted(PGresult *res, void *arg)
{
    struct creating *c = arg;
    char at[CW_TIME_LEN];
    json_t *o, *body = cw_api_body(c->call);
    if (cw_api_db_failed(c->call, res, "command")) {
        creating_free(c);
        return;
    }
    if (PQntuples(res) == 0) {
        cw_api_fail(c->call, CW_E_QUEUE_FULL, "Device \"%s\": " QUEUE_MAX " commands wait for it.",
                    c->to.device_id);
        creating_free(c);
        return;
    }
    o = json_pack("{s:s, s:s, s:s, s:s, s:I}", "device_id", c->to.device_id, "command_id", c->id,
                  "status", delivery_name(DELIVERY_PENDING), "created_time",
                  cw_time_basic(at, c->created_ms), "expire_time", (json_int_t)c->expire_s);
    static const char *const keys[] = { "service_id", "command_name", "paras", "send_strategy" };
    for (size_t i = 0; i < CW_ARRAY_LEN(keys); i++)
        if (json_object_get(body, keys[i]))
            json_object_set(o, keys[i], json_object_get(body, keys[i]));
    cw_api_reply_json(c->call, 200, o);
    dispatcher_wake(c->d, c->to.partition, c->d->asyncs);
    creating_free(c);
}

static void store(struct creating *c)
{
    char key[24], root[24], partition[24], expire[24], created[24], expires[24], topic[256];
    struct command_words w;
    struct cw_buf paras = { 0 }, payload = { 0 };
    int64_t life_ms = c->kept ? c->expire_s * 1000 : NOW_MS;
    kind_command.words(&w, c->call);
    cw_json_write(&paras, w.paras);
    command_payload(&payload, &kind_command, &c->to, c->call);
    snprintf(topic, sizeof topic, "$oc/devices/%s/sys/commands/request_id=%s", c->to.root_id,
             c->id);
    const struct cw_db_param par[] = { CW_TEXT(c->id),
                                       CW_TEXT(c->record_id),
                                       cw_db_int(c->to.device_key, key),
                                       CW_TEXT(c->to.device_id),
                                       cw_db_int(c->to.root_key, root),
                                       CW_TEXT(c->to.root_id),
                                       cw_db_int(c->to.partition, partition),
                                       CW_TEXT(w.service_id),
                                       CW_TEXT(w.command_name),
                                       CW_TEXT(paras.data),
                                       CW_TEXT(c->kept ? "delay" : "immediately"),
                                       cw_db_int(c->expire_s, expire),
                                       CW_TEXT(topic),
                                       CW_BIN(payload.data, payload.len),
                                       cw_db_int(c->created_ms, created),
                                       cw_db_int(c->created_ms + life_ms, expires) };
    if (!cw_db_exec(c->d->db, &insert, CW_ARRAY_LEN(par), par, on_inserted, c)) {
        cw_api_no_db(c->call);
        creating_free(c);
    }
    cw_buf_free(&paras);
    cw_buf_free(&payload);
}

static void on_model(int rc, void *arg)
{
    struct creating *c = arg;
    if (rc < 0)
        cw_api_fail(c->call, CW_E_UNAVAILABLE, "PostgreSQL did not answer (product).");
    const struct cw_model *model =
        rc < 0 ? NULL : cw_products_find(c->d->products, c->to.product_key);
    if (rc < 0 || (model && !kind_command.fits(c->call, model)))
        creating_free(c);
    else
        store(c);
}

static void on_target(int found, struct target *t, void *arg)
{
    struct creating *c = arg;
    if (!target_takes(c->d, c->call, found, t, "command", c->kept)) {
        creating_free(c);
        return;
    }
    c->to = *t;
    *t = (struct target){ 0 };
    int rc = cw_products_load(c->d->products, &c->to.product_key, 1, on_model, c);
    if (rc != 0)
        on_model(rc < 0 ? rc : 0, c);
}

/* Where the official platform has them for NB-IoT and LwM2M devices only, ours has them for all. */
static void take(struct cw_api_call *call, struct dispatcher *d)
{
    const json_t *body = cw_api_body(call);
    int64_t expire_s = json_integer_value(json_object_get(body, "expire_time"));
    struct creating *c = cw_calloc(1, sizeof *c);
    c->d = d;
    c->call = call;
    c->created_ms = cw_now_ms();
    c->kept = strcmp(cw_json_text(body, "send_strategy"), "delay") == 0;
    c->expire_s = !c->kept ? 0 : expire_s ? expire_s : EXPIRE_S;
    cw_uuid(c->id);
    cw_record_id(c->record_id);
    if (target_find(d, cw_api_path(call, "device_id"), on_target, c) < 0) {
        cw_api_no_db(call);
        creating_free(c);
    }
}

void create_async_command(struct cw_api_call *call, void *self)
{
    struct dispatcher *d = self;
    if (cw_app_strict(d->app))
        cw_api_fail(call, CW_E_NO_ASYNC, "CAUSEWAY_STRICT=1: MQTT devices have none.");
    else
        take(call, d);
}

/* ---- cancel: what the device cannot have seen yet */

struct canceling {
    struct dispatcher *d;
    struct cw_api_call *call;
};

static void on_canceled(int rc, void *arg)
{
    struct canceling c = *(struct canceling *)arg;
    free(arg);
    if (rc == 0)
        cw_api_reply(c.call, 204, NULL, 0);
    else if (rc == -EAGAIN)
        cw_api_fail(c.call, CW_E_NOT_PENDING, "Command \"%s\" is just being sent.",
                    cw_api_path(c.call, "command_id"));
    else
        cw_api_no_db(c.call);
}

static void on_found(PGresult *res, void *arg)
{
    struct canceling *c = arg;
    struct async_change change = { .event = ON_CANCEL };
    if (!async_is_there(c->call, res)) {
        free(c);
        return;
    }
    queue_item_read(&change.item, &kind_async, res, 0);
    if (change.item.status != DELIVERY_PENDING) {
        cw_api_fail(c->call, CW_E_NOT_PENDING, "Command \"%s\" is %s.", change.item.id,
                    delivery_name(change.item.status));
        free(c);
    } else if (async_change(c->d, &change, on_canceled, c) < 0) {
        cw_api_no_db(c->call);
        free(c);
    }
    queue_item_clear(&change.item);
}

void cancel_async_command(struct cw_api_call *call, void *self)
{
    struct canceling *c = cw_malloc(sizeof *c);
    *c = (struct canceling){ self, call };
    if (async_find(self, call, on_found, c) < 0) {
        cw_api_no_db(call);
        free(c);
    }
}

/* The shadow of a device: shown, its desired values set, cleared. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "services/uplink-processor/serve.h"

#define SERVICES_MAX 500

/* ---- show */

static const struct cw_stmt stmt_shadow = {
    "serve_shadow",
    "SELECT (SELECT coalesce(json_agg(json_build_object('service_id', s.service_id,"
    " 'desired', json_build_object('properties', s.desired, 'event_time',"
    " coalesce(s.desired_time, s.created_time)), 'reported', json_build_object('properties',"
    " s.reported, 'event_time', coalesce(s.reported_time, s.created_time)), 'version', s.version)"
    " ORDER BY s.service_id), '[]') FROM data.shadow s WHERE s.device_key = d.device_key) AS shadow"
    " FROM registry.device_view d WHERE d.device_id = $1"
};

static void on_shadow(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    const char *id = cw_api_path(call, "device_id");
    struct cw_buf out = { 0 };
    if (!serve_has_rows(call, res))
        return;
    const char *shadow = cw_db_str(res, 0, "shadow");
    cw_buf_str(&out, "{\"device_id\":");
    cw_buf_json_string(&out, id, strlen(id));
    cw_buf_str(&out, ",\"shadow\":");
    cw_json_compact(&out, shadow, strlen(shadow));
    cw_buf_str(&out, "}");
    cw_api_reply(call, 200, out.data, out.len);
    cw_buf_free(&out);
}

void show_shadow(struct cw_api_call *call, void *self)
{
    struct cw_db_param par = CW_TEXT(cw_api_path(call, "device_id"));
    serve_query(call, self, &stmt_shadow, 1, &par, on_shadow);
}

/* ---- whose shadow it is */

static const struct cw_stmt stmt_device = {
    "serve_shadow_device",
    "SELECT device_key, device_id, node_id, app_id, product_key, product_id, gateway_id, partition"
    " FROM registry.device_view WHERE device_id = $1"
};

/* A change on its way. */
struct setting {
    struct uplink *u;
    struct cw_api_call *call;
    int64_t device_key, product_key;
    uint32_t partition;
    const json_t *wish[SERVICES_MAX]; /* of the body, in the order of their service ids */
    size_t n;
    struct cw_buf event; /* what dispatcher reads */
};

static void setting_free(struct setting *s)
{
    cw_buf_free(&s->event);
    free(s);
}

static const char *service_of(const json_t *wish) { return cw_json_text(wish, "service_id"); }

static void pack_event(struct setting *s, const PGresult *res)
{
    Causeway__Event e = CAUSEWAY__EVENT__INIT;
    e.kind = CAUSEWAY__EVENT_KIND__EVENT_SHADOW_DESIRED;
    e.request_id = cw_api_request(s->call)->request_id;
    e.time_ms = cw_now_ms();
    e.device_key = s->device_key;
    e.device_id = (char *)cw_db_str(res, 0, "device_id");
    e.node_id = (char *)cw_db_str(res, 0, "node_id");
    e.gateway_id = (char *)cw_db_str(res, 0, "gateway_id");
    e.product_key = s->product_key;
    e.product_id = (char *)cw_db_str(res, 0, "product_id");
    e.app_id = (char *)cw_db_str(res, 0, "app_id");
    s->event.len = s->event.cap = causeway__event__get_packed_size(&e);
    s->event.data = cw_malloc(s->event.len + 1);
    causeway__event__pack(&e, (uint8_t *)s->event.data);
}

/* ---- the wishes fit: names, and the model of the product */

static int by_service(const void *a, const void *b)
{
    return strcmp(service_of(*(json_t *const *)a), service_of(*(json_t *const *)b));
}

/* False: the call has been failed. */
static bool read_wishes(struct setting *s)
{
    json_t *shadow = json_object_get(cw_api_body(s->call), "shadow"), *wish, *v;
    const char *key;
    size_t i;
    json_array_foreach(shadow, i, wish)
    {
        json_object_foreach(json_object_get(wish, "desired"), key, v) if (strpbrk(key, ".$"))
        {
            cw_api_fail(s->call, CW_E_SHADOW_KEY, "shadow[%zu].desired: \"%s\".", i, key);
            return false;
        }
        s->wish[s->n++] = wish;
    }
    qsort(s->wish, s->n, sizeof s->wish / SERVICES_MAX, by_service);
    for (i = 1; i < s->n; i++)
        if (by_service(&s->wish[i - 1], &s->wish[i]) == 0) {
            cw_api_fail(s->call, CW_E_INVALID, "Field \"shadow\": service \"%s\" is named twice.",
                        service_of(s->wish[i]));
            return false;
        }
    return true;
}

static bool fits_model(struct setting *s, const struct cw_model *m)
{
    struct cw_verdicts v = { 0 };
    bool fine = true;
    for (size_t i = 0; fine && i < s->n; i++) {
        fine = cw_model_check_set(m, service_of(s->wish[i]), json_object_get(s->wish[i], "desired"),
                                  &v);
        for (size_t k = 0; !fine && k < v.n; k++)
            if (v.items[k].code != CW_VERDICT_OK) {
                cw_api_fail(s->call, CW_E_NOT_WRITABLE, "service \"%s\"%s%s: %s.",
                            service_of(s->wish[i]), *v.items[k].name ? ", property " : "",
                            v.items[k].name, v.items[k].text);
                break;
            }
        cw_verdicts_reset(&v);
    }
    cw_verdicts_free(&v);
    return fine;
}

/* ---- writing, with the event that makes the dispatcher look */

static const struct cw_stmt stmt_set = {
    "serve_shadow_set",
    "WITH s AS MATERIALIZED (SELECT data.set_desired($1::bigint, $2::text[], $3::text[],"
    " $4::bigint[], $5::text))"
    " INSERT INTO data.outbox (partition, event) SELECT $6::int, $7::bytea FROM s RETURNING id"
};

/* True: another version than the one that was sent, and the call has been failed. */
static bool conflicts(struct setting *s, const PGresult *res)
{
    if (strcmp(cw_db_sqlstate(res), "CW409") != 0)
        return false;
    const char *service = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT),
               *version = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
    json_int_t sent = 0;
    for (size_t i = 0; i < s->n; i++)
        if (service && strcmp(service_of(s->wish[i]), service) == 0)
            sent = json_integer_value(json_object_get(s->wish[i], "version"));
    cw_api_fail(s->call, CW_E_SHADOW_CONFLICT,
                "Service \"%s\" has version %s, not %" JSON_INTEGER_FORMAT ".",
                service ? service : "", version ? version : "", sent);
    return true;
}

static void on_set(PGresult *res, void *arg)
{
    struct setting *s = arg;
    char subject[64];
    if (!conflicts(s, res) && !cw_api_db_failed(s->call, res, "set desired values")) {
        snprintf(subject, sizeof subject, "wake.uplink-processor.%u", s->partition);
        cw_bus_publish(cw_app_bus(s->u->app), subject, NULL, "", 0); /* a hint */
        show_shadow(s->call, s->u);
    }
    setting_free(s);
}

static void write_wishes(struct setting *s)
{
    char key[24], part[24], at[CW_TIME_LEN];
    struct cw_db_array service = { 0 }, wish = { 0 }, version = { 0 };
    struct cw_buf text = { 0 };
    cw_db_array_reset(&service, CW_ARRAY_TEXT);
    cw_db_array_reset(&wish, CW_ARRAY_TEXT);
    cw_db_array_reset(&version, CW_ARRAY_INT8);
    for (size_t i = 0; i < s->n; i++) {
        const json_t *v = json_object_get(s->wish[i], "version");
        cw_buf_reset(&text);
        cw_json_write(&text, json_object_get(s->wish[i], "desired"));
        cw_db_array_str(&service, service_of(s->wish[i]));
        cw_db_array_bytes(&wish, text.data, text.len);
        if (v)
            cw_db_array_int(&version, json_integer_value(v));
        else
            cw_db_array_null(&version);
    }
    const struct cw_db_param p[] = { cw_db_int(s->device_key, key),
                                     cw_db_array_param(&service),
                                     cw_db_array_param(&wish),
                                     cw_db_array_param(&version),
                                     CW_TEXT(cw_time_basic(at, cw_now_ms())),
                                     cw_db_int(s->partition, part),
                                     CW_BIN(s->event.data, s->event.len) };
    if (!cw_db_exec(cw_app_db(s->u->app), &stmt_set, CW_ARRAY_LEN(p), p, on_set, s)) {
        cw_api_no_db(s->call);
        setting_free(s);
    }
    cw_buf_free(&text);
    cw_db_array_free(&service);
    cw_db_array_free(&wish);
    cw_db_array_free(&version);
}

static void on_model(int rc, void *arg)
{
    struct setting *s = arg;
    const struct cw_model *m = rc < 0 ? NULL : cw_products_find(s->u->products, s->product_key);
    if (!m)
        cw_api_fail(s->call, CW_E_UNAVAILABLE, "The model of the product cannot be read.");
    else if (fits_model(s, m)) {
        write_wishes(s);
        return;
    }
    setting_free(s);
}

static void on_device(PGresult *res, void *arg)
{
    struct setting *s = arg;
    if (!serve_has_rows(s->call, res)) {
        setting_free(s);
        return;
    }
    s->device_key = cw_db_i64(res, 0, "device_key", 0);
    s->product_key = cw_db_i64(res, 0, "product_key", 0);
    s->partition = (uint32_t)cw_db_i64(res, 0, "partition", 0);
    pack_event(s, res);
    int rc = cw_products_load(s->u->products, &s->product_key, 1, on_model, s);
    if (rc != 0)
        on_model(rc < 0 ? rc : 0, s);
}

void update_shadow(struct cw_api_call *call, void *self)
{
    struct setting *s = cw_calloc(1, sizeof *s);
    struct cw_db_param par = CW_TEXT(cw_api_path(call, "device_id"));
    s->u = self;
    s->call = call;
    if (!read_wishes(s))
        setting_free(s);
    else if (!cw_db_exec(cw_app_db(s->u->app), &stmt_device, 1, &par, on_device, s)) {
        cw_api_no_db(call);
        setting_free(s);
    }
}

/* ---- clear */

static const struct cw_stmt stmt_clear = {
    "serve_shadow_clear",
    "WITH d AS (SELECT device_key FROM registry.device_view WHERE device_id = $1),"
    " x AS (DELETE FROM data.shadow s USING d WHERE s.device_key = d.device_key)"
    " SELECT device_key FROM d"
};

static void on_cleared(PGresult *res, void *arg)
{
    if (serve_has_rows(arg, res))
        cw_api_reply(arg, 204, NULL, 0);
}

void delete_shadow(struct cw_api_call *call, void *self)
{
    struct cw_db_param par = CW_TEXT(cw_api_path(call, "device_id"));
    serve_query(call, self, &stmt_clear, 1, &par, on_cleared);
}

#include "services/uplink-processor/answers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/ids.h"
#include "libcommon/json.h"
#include "proto/causeway.pb-c.h"
#include "services/uplink-processor/uplink.h"

#define DEADLINE_MS 8000

struct answer {
    struct answer *next;
    struct uplink *u;
    char *gateway, *topic;
    int64_t device_key, session_no;
    struct cw_buf payload;
    /* of a shadow, which is read after the commit; shadow_key 0: an event */
    int64_t shadow_key;
    char *shadow_of, *service_id;
    char *app_id, *keyword; /* of a bootstrap, whose strategy is read after the commit */
    bool needs_subscription;
};

static void answer_free(struct answer *a)
{
    free(a->gateway);
    free(a->topic);
    free(a->shadow_of);
    free(a->service_id);
    free(a->app_id);
    free(a->keyword);
    cw_buf_free(&a->payload);
    free(a);
}

static struct answer *add(struct answers *list, const struct answer_to *to, char *topic)
{
    struct answer *a = cw_calloc(1, sizeof *a);
    a->gateway = cw_strdup(to->gateway);
    a->topic = topic;
    a->device_key = to->device_key;
    a->session_no = to->session_no;
    if (!list->first)
        list->end = &list->first;
    *list->end = a;
    list->end = &a->next;
    return a;
}

void answers_event(struct answers *list, const struct answer_to *to, const char *object_device_id,
                   const char *service_id, const char *type, const char *event_id, json_t *paras)
{
    char time[CW_TIME_LEN], id[CW_UUID_LEN];
    struct answer *a = add(list, to, cw_sprintf("$oc/devices/%s/sys/events/down", to->device_id));
    json_t *o = json_pack("{s:s, s:[{s:s, s:s, s:s, s:s, s:o}]}", "object_device_id",
                          object_device_id, "services", "service_id", service_id, "event_type",
                          type, "event_time", cw_time_basic(time, cw_now_ms()), "event_id",
                          event_id ? event_id : cw_uuid(id), "paras", paras);
    cw_json_write(&a->payload, o);
    json_decref(o);
}

void answers_shadow(struct answers *list, const struct answer_to *to, int64_t device_key,
                    const char *device_id, const char *service_id, const char *request_id)
{
    struct answer *a = add(list, to,
                           cw_sprintf("$oc/devices/%s/sys/shadow/get/response/request_id=%s",
                                      to->device_id, request_id));
    a->shadow_key = device_key;
    a->shadow_of = cw_strdup(device_id);
    a->service_id = service_id ? cw_strdup(service_id) : NULL;
}

void answers_bootstrap(struct answers *list, const struct answer_to *to, const char *app_id,
                       const char *keyword)
{
    struct answer *a =
        add(list, to, cw_sprintf("$oc/devices/%s/sys/bootstrap/down", to->device_id));
    a->needs_subscription = true;
    a->app_id = cw_strdup(app_id);
    a->keyword = cw_strdup(keyword);
}

/* ---- the way down */

/* Takes a. The gateway's own limits and resending apply; what becomes of it is not waited for. */
static void send_down(struct answer *a)
{
    char subject[128];
    Causeway__Downlink d = CAUSEWAY__DOWNLINK__INIT;
    d.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH;
    d.deadline_ms = cw_now_ms() + DEADLINE_MS;
    d.device_key = a->device_key;
    d.session_no = a->session_no;
    d.topic = a->topic;
    d.payload = (ProtobufCBinaryData){ a->payload.len, (uint8_t *)a->payload.data };
    d.qos = 1;
    d.resend_ms = 2000;
    d.resends = 3;
    d.needs_subscription = a->needs_subscription;
    uint8_t *packed = cw_malloc(causeway__downlink__get_packed_size(&d));
    size_t n = causeway__downlink__pack(&d, packed);
    snprintf(subject, sizeof subject, "downlink.%s", a->gateway);
    cw_bus_publish(cw_app_bus(a->u->app), subject, NULL, packed, n);
    free(packed);
    answer_free(a);
}

static const struct cw_stmt stmt_shadow = {
    "answer_shadow",
    "SELECT coalesce(json_agg(json_build_object('service_id', s.service_id,"
    " 'desired', json_build_object('properties', s.desired, 'event_time',"
    " coalesce(s.desired_time, s.created_time)), 'reported', json_build_object('properties',"
    " s.reported, 'event_time', coalesce(s.reported_time, s.created_time)), 'version', s.version)"
    " ORDER BY s.service_id), '[]') AS shadow FROM data.shadow s WHERE s.device_key = $1"
    " AND ($2::text IS NULL OR s.service_id = $2)"
};

static void on_shadow(PGresult *res, void *arg)
{
    struct answer *a = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        answer_free(a); /* the device asks again */
        return;
    }
    const char *shadow = cw_db_str(res, 0, "shadow");
    cw_buf_str(&a->payload, "{\"object_device_id\":");
    cw_buf_json_string(&a->payload, a->shadow_of, strlen(a->shadow_of));
    cw_buf_str(&a->payload, ",\"shadow\":");
    cw_json_compact(&a->payload, shadow, strlen(shadow));
    cw_buf_str(&a->payload, "}");
    send_down(a);
}

/* A space that has no strategies, and a device that names none, get the platform's own address. */
static const struct cw_stmt stmt_strategy = {
    "answer_strategy",
    "SELECT v.app_id IS NOT NULL OR $2 = '' OR NOT EXISTS (SELECT FROM registry.bootstrap_view o"
    "  WHERE o.app_id = $1) AS known, v.address, v.init_config::text AS init_config"
    " FROM (SELECT) one LEFT JOIN registry.bootstrap_view v ON v.app_id = $1 AND v.keyword = $2"
};

static json_t *place(const struct answer *a, const PGresult *res)
{
    const char *address = cw_db_str(res, 0, "address"), *config = cw_db_str(res, 0, "init_config");
    char *wrong = NULL;
    if (!address)
        address = a->u->bootstrap_address;
    if (*cw_db_str(res, 0, "known") != 't')
        wrong = cw_sprintf("no strategy: the space has none for baseStrategyKeyword \"%.64s\"",
                           a->keyword);
    else if (!address || !*address)
        wrong = cw_strdup("no strategy: BOOTSTRAP_ADDRESS of uplink-processor is not set");
    json_t *o = wrong ? json_pack("{s:s, s:s}", "errorCode", "100414", "errorMsg", wrong)
                      : json_pack("{s:s, s:s*}", "address", address, "initConfig", config);
    free(wrong);
    return o;
}

static void on_strategy(PGresult *res, void *arg)
{
    struct answer *a = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        answer_free(a); /* the device asks again */
        return;
    }
    json_t *o = place(a, res);
    cw_json_write(&a->payload, o);
    json_decref(o);
    send_down(a);
}

/* Its answer takes a look into the database. */
static void look(struct answer *a)
{
    char key[24];
    const struct cw_db_param shadow[] = { cw_db_int(a->shadow_key, key), CW_TEXT(a->service_id) };
    const struct cw_db_param place[] = { CW_TEXT(a->app_id), CW_TEXT(a->keyword) };
    if (a->keyword ? !cw_db_exec(a->u->db, &stmt_strategy, 2, place, on_strategy, a)
                   : !cw_db_exec(a->u->db, &stmt_shadow, 2, shadow, on_shadow, a))
        answer_free(a);
}

void answers_send(struct answers *list, struct uplink *u)
{
    for (struct answer *a; (a = list->first);) {
        list->first = a->next;
        a->u = u;
        if (a->shadow_key || a->keyword)
            look(a);
        else
            send_down(a);
    }
}

void answers_drop(struct answers *list)
{
    for (struct answer *a; (a = list->first);) {
        list->first = a->next;
        answer_free(a);
    }
}

/* Broadcasts: what an application says to all devices of a space that have subscribed its topic and
 * are online. Nothing is kept; gateways deliver it as what devices say to each other. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/command-dispatcher/payload.h"

#define PREFIX "$oc/broadcast/"

struct broadcast {
    struct dispatcher *d;
    struct cw_api_call *call;
    struct cw_buf payload;
    char id[104];
};

static void broadcast_free(struct broadcast *b)
{
    cw_buf_free(&b->payload);
    free(b);
}

static const struct cw_stmt find_app = {
    "broadcast_app", "SELECT app_id FROM registry.app_view"
                     " WHERE CASE WHEN $1::text IS NULL THEN default_app ELSE app_id = $1 END"
};

/* As mqtt-gateway/route.c names the subject of what begins so. */
#define SUBJECT "route._=24oc=2fbroadcast"

static bool publish(struct broadcast *b, const char *app_id, const char *topic)
{
    Causeway__Routed r = CAUSEWAY__ROUTED__INIT;
    r.app_id = (char *)app_id;
    r.topic = (char *)topic;
    r.payload = (ProtobufCBinaryData){ b->payload.len, (uint8_t *)b->payload.data };
    r.qos = 1;
    size_t n = causeway__routed__get_packed_size(&r);
    uint8_t *packed = cw_malloc(n);
    causeway__routed__pack(&r, packed);
    int rc = cw_bus_publish(cw_app_bus(b->d->app), SUBJECT, NULL, packed, n);
    free(packed);
    return rc == 0;
}

static void on_app(PGresult *res, void *arg)
{
    struct broadcast *b = arg;
    char at[CW_TIME_LEN];
    const char *topic = cw_json_text(cw_api_body(b->call), "topic_full_name");
    if (cw_api_db_failed(b->call, res, "resource space"))
        ;
    else if (PQntuples(res) == 0)
        cw_api_fail(b->call, CW_E_NO_APP, "Resource space \"%s\".",
                    cw_json_text(cw_api_body(b->call), "app_id"));
    else if (!publish(b, cw_db_str(res, 0, "app_id"), topic))
        cw_api_fail(b->call, CW_E_UNAVAILABLE, "NATS is not connected.");
    else
        cw_api_reply_json(b->call, 201,
                          json_pack("{s:s, s:s, s:s, s:s}", "app_id", cw_db_str(res, 0, "app_id"),
                                    "topic_full_name", topic, "message_id", b->id, "created_time",
                                    cw_time_basic(at, cw_now_ms())));
    broadcast_free(b);
}

/* NULL, or which field is wrong and how. */
static const char *wrong_in(struct broadcast *b, const json_t *body)
{
    const char *topic = cw_json_text(body, "topic_full_name");
    if (strncmp(topic, PREFIX, strlen(PREFIX)) != 0 || !topic[strlen(PREFIX)])
        return "topic_full_name: must begin with " PREFIX ".";
    if (strpbrk(topic, "+#"))
        return "topic_full_name: a wildcard.";
    if (payload_from_base64(&b->payload, cw_json_text(body, "message")) < 0)
        return "message: not base64.";
    return NULL;
}

void broadcast_message(struct cw_api_call *call, void *self)
{
    struct broadcast *b = cw_calloc(1, sizeof *b);
    const json_t *body = cw_api_body(call);
    const char *id = cw_json_text(body, "message_id");
    b->d = self;
    b->call = call;
    if (id)
        snprintf(b->id, sizeof b->id, "%s", id);
    else
        cw_uuid(b->id);
    const char *wrong = wrong_in(b, body);
    if (!wrong && json_integer_value(json_object_get(body, "ttl"))) {
        cw_api_fail(call, CW_E_NOT_BUILT,
                    "ttl: broadcasts are not kept for devices that are away.");
        broadcast_free(b);
        return;
    }
    if (wrong) {
        cw_api_fail(call, CW_E_INVALID, "%s", wrong);
        broadcast_free(b);
    } else if (!cw_db_exec(b->d->db, &find_app, 1, &CW_TEXT(cw_json_text(body, "app_id")), on_app,
                           b)) {
        cw_api_no_db(call);
        broadcast_free(b);
    }
}

/* events/up and shadow/get: what a device asks and tells. What is answered here goes down after the
 * commit; what another daemon owns goes to it by EVENT. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"
#include "services/uplink-processor/interpret.h"

#define STATUSES_MAX 100

static struct answer_to speaker(const struct item *it)
{
    return (struct answer_to){ .gateway = it->gateway,
                               .device_id = it->up->device_id,
                               .device_key = it->up->device_key,
                               .session_no = it->up->session_no };
}

/* ---- shadow/get */

void on_shadow_get(struct item *it)
{
    struct answer_to to = speaker(it);
    const json_t *root = children_payload(it->b->children, it->up);
    const struct device *d = object_of(it, root);
    if (it->up->body.len && !json_is_object(root)) {
        item_refuse(it, "decode", "not_json", "The question for the shadow is no JSON object.",
                    "Send {}, or {\"service_id\":\"…\"}.");
        return;
    }
    if (!d) {
        item_count(it, LEDGER_REFUSED);
        no_child(it, cw_json_text(root, "object_device_id"));
        return;
    }
    item_count(it, LEDGER_STORED);
    answers_shadow(&it->b->answers, &to, d->device_key, d->device_id,
                   cw_json_text(root, "service_id"), it->topic.request_id);
}

/* ---- $time_sync: device_send_time goes back as it came */

static void time_sync(struct item *it, const struct device *d, const json_t *service)
{
    struct answer_to to = speaker(it);
    const json_t *sent = json_object_get(json_object_get(service, "paras"), "device_send_time");
    json_t *paras =
        json_pack("{s:O?, s:I, s:I}", "device_send_time", sent, "server_recv_time",
                  (json_int_t)it->up->received_ms, "server_send_time", (json_int_t)cw_now_ms());
    answers_event(&it->b->answers, &to, d->device_id, "$time_sync", "time_sync_response",
                  cw_json_text(service, "event_id"), paras);
}

/* ---- sub_device_update_status: a gateway says which of its children are there */

/* What an older connection said, or another gateway before somebody else saw it come online. */
static bool is_old(const struct item *it, const struct state *s, bool other)
{
    if (other)
        return it->up->received_ms < s->connected_ms;
    return it->up->session_no < (s->via_key ? s->via_session : s->session_no);
}

/* session_no counts on, so that what is older says nothing more, here and in other daemons. */
static void note_speaker(const struct item *it, struct state *s, bool other)
{
    int64_t said_in = s->via_key ? s->via_session : s->session_no, session = it->up->session_no;
    if (other || session != said_in)
        s->session_no = session > s->session_no ? session : s->session_no + 1;
    s->via_key = it->up->device_key;
    s->via_session = session;
    s->gateway = it->gateway;
}

static void tell_why(struct item *it, const struct device *d, bool online)
{
    const char *speaker = it->up->device_id, *status = online ? "ONLINE" : "OFFLINE";
    bool own = strcmp(d->gateway_id, speaker) == 0;
    why_change(&it->b->why, d->device_key, it->up->received_ms,
               online ? "connected" : "disconnected", "gateway",
               own ? cw_sprintf("Its gateway says that it is %s.", status)
                   : cw_sprintf("Gateway \"%s\" says that it is %s.", speaker, status));
}

static void state_child(struct item *it, const struct device *d, struct state *s, bool online)
{
    struct item child = *it;
    bool was_online = s->online, other = is_of_other(it, d, s);
    if (is_old(it, s, other) || (other && !online && !was_online))
        return;
    note_speaker(it, s, other);
    s->changed = true;
    s->online = online;
    s->cause = online ? NULL : "gateway";
    if (online && (!was_online || other))
        s->connected_ms = it->up->received_ms;
    if (online == was_online && !other)
        return;
    if (online != was_online)
        s->since_ms = it->up->received_ms;
    tell_why(it, d, online);
    child.device = d;
    child.session_no = s->session_no;
    item_status(&child, s, online ? it->up->received_ms : s->connected_ms);
}

static json_t *status_failure(const char *id, const char *code, const char *text)
{
    return json_pack("{s:s, s:s, s:s}", "device_id", id ? id : "", "error_code", code, "error_msg",
                     text);
}

/* One row of device_statuses; a refusal, or NULL. */
static json_t *update_one(struct item *it, const json_t *row, size_t nth)
{
    const char *id = cw_json_text(row, "device_id"), *status = cw_json_text(row, "status");
    const struct device *d = id ? child_of(it, id) : NULL;
    bool online = status && strcmp(status, "ONLINE") == 0;
    char text[200];
    if (nth >= STATUSES_MAX)
        return status_failure(id, "IOTDA.000006", "more than 100 device_statuses");
    if (!d || d == it->device) {
        no_child(it, id);
        return status_failure(id, "IOTDA.014000", "no child of this gateway");
    }
    if (!online && (!status || strcmp(status, "OFFLINE") != 0))
        return status_failure(id, "IOTDA.000006", "status: must be ONLINE or OFFLINE");
    struct state *s = batch_state(it->b, d->device_key);
    const char *via = online ? NULL : held_by(it, d, s);
    if (via) {
        snprintf(text, sizeof text, "status: it is online through gateway \"%s\"", via);
        return status_failure(id, "IOTDA.000006", text);
    }
    state_child(it, d, s, online);
    return NULL;
}

static void update_status(struct item *it, const json_t *service)
{
    struct answer_to to = speaker(it);
    const json_t *list = json_object_get(json_object_get(service, "paras"), "device_statuses");
    json_t *row, *no, *good = json_array(), *bad = json_array();
    size_t i;
    json_array_foreach(list, i, row)
    {
        if ((no = update_one(it, row, i)))
            json_array_append_new(bad, no);
        else
            json_array_append_new(good, json_pack("{s:O, s:O}", "device_id",
                                                  json_object_get(row, "device_id"), "status",
                                                  json_object_get(row, "status")));
    }
    answers_event(&it->b->answers, &to, it->up->device_id, "$sub_device_manager",
                  "sub_device_update_status_response", cw_json_text(service, "event_id"),
                  json_pack("{s:o, s:o}", "successful_devices", good, "failed_devices", bad));
}

/* ---- all services of an event, in order */

static bool names(const json_t *service, const char *id, const char *type)
{
    const char *s = cw_json_text(service, "service_id"), *t = cw_json_text(service, "event_type");
    return s && t && strcmp(s[0] == '$' ? s + 1 : s, id) == 0 && strcmp(t, type) == 0;
}

/* Lists that devices ask for and that are empty here. */
static const struct {
    const char *service, *request, *answer, *list;
} lists[] = {
    { "$device_rule", "device_rule_config_request", "device_rule_config_response", "rulesInfos" },
    { "$oh_soft_bus", "soft_bus_config_request", "soft_bus_config_response", "bus_infos" },
};

static bool empty_list(struct item *it, const struct device *d, const json_t *service)
{
    struct answer_to to = speaker(it);
    for (size_t i = 0; i < CW_ARRAY_LEN(lists); i++)
        if (names(service, lists[i].service + 1, lists[i].request)) {
            answers_event(&it->b->answers, &to, d->device_id, lists[i].service, lists[i].answer,
                          cw_json_text(service, "event_id"), json_pack("{s:[]}", lists[i].list));
            return true;
        }
    return false;
}

/* The device waits for a URL that nobody here can give. */
static void no_files(struct item *it, const struct device *d)
{
    struct item about = *it;
    about.device = d;
    item_fail(&about, "decode", "no_file_store",
              "The device asked $file_manager for a URL; this platform keeps no files of devices.",
              "Let the device send its data in messages, or its files to a store of your own.");
}

/* True if another daemon may have to look at it. */
static bool take_service(struct item *it, const struct device *d, const json_t *service)
{
    if (names(service, "time_sync", "time_sync_request"))
        time_sync(it, d, service);
    else if (names(service, "sub_device_manager", "sub_device_update_status"))
        update_status(it, service);
    else if (names(service, "file_manager", "get_upload_url") ||
             names(service, "file_manager", "get_download_url"))
        no_files(it, d);
    else
        return !empty_list(it, d, service);
    return false;
}

static void store_event(struct item *it, const struct device *d)
{
    static struct cw_buf none;
    batch_history(it->b, &(struct history_row){ .uplink = it->up,
                                                .device_key = d->device_key,
                                                .ord = item_order(it),
                                                .kind = "event",
                                                .topic = it->up->topic,
                                                .request_id = item_request_id(it),
                                                .body = it->up->body.data,
                                                .len = it->up->body.len,
                                                .verdicts = &none });
}

/* ---- bootstrap: this platform, when it is told how it is reached from outside */

#define BOOTSTRAP_MAX 4096 /* bytes of a question; a longer one names nothing */

void on_bootstrap(struct item *it)
{
    struct answer_to to = speaker(it);
    struct cw_json_error err;
    size_t len = it->up->body.len;
    json_t *asked =
        len && len <= BOOTSTRAP_MAX ? cw_json_parse(it->up->body.data, len, &err) : NULL;
    const char *keyword = cw_json_text(asked, "baseStrategyKeyword");
    item_count(it, LEDGER_STORED);
    answers_bootstrap(&it->b->answers, &to, it->device->app_id, keyword ? keyword : "");
    json_decref(asked);
}

/* ---- topics of older SDKs */

void on_old(struct item *it)
{
    item_count(it, LEDGER_STORED);
    if (it->up->body.len && cw_utf8_valid((const char *)it->up->body.data, it->up->body.len))
        store_event(it, it->device);
}

void on_events(struct item *it)
{
    const json_t *root = children_payload(it->b->children, it->up);
    const json_t *services = json_object_get(root, "services");
    const struct device *d = object_of(it, root);
    size_t i;
    json_t *service;
    bool others = false;
    if (!json_is_array(services)) {
        item_refuse(
            it, "decode", "no_services", "The event is no JSON object with a list named services.",
            "Send {\"services\":[{\"service_id\":\"…\",\"event_type\":\"…\",\"paras\":{…}}]}.");
        return;
    }
    if (!d) {
        item_count(it, LEDGER_REFUSED);
        no_child(it, cw_json_text(root, "object_device_id"));
        return;
    }
    item_count(it, LEDGER_STORED);
    store_event(it, d);
    json_array_foreach(services, i, service) others |= take_service(it, d, service);
    if (others) {
        struct item about = *it;
        struct cw_buf body = { .data = (char *)it->up->body.data, .len = it->up->body.len };
        about.device = d;
        item_emit(&about, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_REQUEST, item_request_id(it), &body);
    }
}

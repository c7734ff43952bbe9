#include "services/command-dispatcher/command_kind.h"

#include "libcommon/json.h"

static void copy(json_t *out, const json_t *from, const char *key)
{
    json_t *v = json_object_get(from, key);
    if (v)
        json_object_set(out, key, v);
}

/* The first verdict that is not OK. */
static void fail_verdict(struct cw_api_call *call, enum cw_error e, const char *where,
                         const struct cw_verdicts *v)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->items[i].code != CW_VERDICT_OK) {
            cw_api_fail(call, e, "Stage: not sent. %s%s%s: %s.", where,
                        *v->items[i].name ? "." : "", v->items[i].name, v->items[i].text);
            return;
        }
}

static json_t *as_it_is(json_t *answer) { return answer; }

/* ---- a command */

static void words_of_command(struct command_words *out, struct cw_api_call *call)
{
    const json_t *body = cw_api_body(call);
    *out = (struct command_words){ cw_json_text(body, "service_id"),
                                   cw_json_text(body, "command_name"),
                                   json_object_get(body, "paras") };
}

/* With a service the model decides; without, the application speaks past it. */
static bool command_fits(struct cw_api_call *call, const struct cw_model *model)
{
    struct command_words w;
    struct cw_verdicts v = { 0 };
    words_of_command(&w, call);
    bool fine =
        !w.service_id || cw_model_check_command(model, w.service_id,
                                                w.command_name ? w.command_name : "", w.paras, &v);
    if (!fine)
        fail_verdict(call, CW_E_NOT_IN_MODEL, "paras", &v);
    cw_verdicts_free(&v);
    return fine;
}

static void payload_of_command(json_t *out, struct cw_api_call *call)
{
    const json_t *body = cw_api_body(call);
    copy(out, body, "service_id");
    copy(out, body, "command_name");
    copy(out, body, "paras");
}

/* ---- properties are written */

static void words_of_set(struct command_words *out, struct cw_api_call *call)
{
    *out = (struct command_words){ .paras = json_object_get(cw_api_body(call), "services") };
}

static bool set_fits(struct cw_api_call *call, const struct cw_model *model)
{
    size_t i;
    json_t *service;
    bool fine = true;
    json_array_foreach(json_object_get(cw_api_body(call), "services"), i, service)
    {
        char where[64];
        struct cw_verdicts v = { 0 };
        snprintf(where, sizeof where, "services[%zu].properties", i);
        fine = cw_model_check_set(model, cw_json_text(service, "service_id"),
                                  json_object_get(service, "properties"), &v);
        if (!fine)
            fail_verdict(call, CW_E_NOT_WRITABLE, where, &v);
        cw_verdicts_free(&v);
        if (!fine)
            break;
    }
    return fine;
}

static void payload_of_set(json_t *out, struct cw_api_call *call)
{
    size_t i;
    json_t *service, *list = json_array();
    json_array_foreach(json_object_get(cw_api_body(call), "services"), i, service)
    {
        json_t *one = json_object();
        copy(one, service, "service_id");
        copy(one, service, "properties");
        json_array_append_new(list, one);
    }
    json_object_set_new(out, "services", list);
}

/* ---- properties are read */

static void words_of_get(struct command_words *out, struct cw_api_call *call)
{
    *out = (struct command_words){ .service_id = cw_api_query(call, "service_id") };
}

/* The device knows what it has. */
static bool get_fits(struct cw_api_call *call, const struct cw_model *model)
{
    (void)call, (void)model;
    return true;
}

static void payload_of_get(json_t *out, struct cw_api_call *call)
{
    json_object_set_new(out, "service_id", json_string(cw_api_query(call, "service_id")));
}

/* The Go SDK sends the service itself instead of a list. */
static json_t *services_of_answer(json_t *answer)
{
    if (json_object_get(answer, "services") || !json_object_get(answer, "service_id"))
        return answer;
    return json_pack("{s:[o]}", "services", answer);
}

const struct command_kind kind_command = { .name = "command",
                                           .what = "command",
                                           .topic = "commands",
                                           .id_name = "command_id",
                                           .result_code = true,
                                           .words = words_of_command,
                                           .fits = command_fits,
                                           .payload = payload_of_command,
                                           .response = as_it_is };
const struct command_kind kind_set = { .name = "set",
                                       .what = "property write",
                                       .topic = "properties/set",
                                       .id_name = "request_id",
                                       .result_code = true,
                                       .words = words_of_set,
                                       .fits = set_fits,
                                       .payload = payload_of_set,
                                       .response = as_it_is };
const struct command_kind kind_get = { .name = "get",
                                       .what = "property read",
                                       .topic = "properties/get",
                                       .id_name = "request_id",
                                       .words = words_of_get,
                                       .fits = get_fits,
                                       .payload = payload_of_get,
                                       .response = services_of_answer };

void command_payload(struct cw_buf *out, const struct command_kind *kind, const struct target *to,
                     struct cw_api_call *call)
{
    json_t *o = json_object();
    if (to->device_key != to->root_key)
        json_object_set_new(o, "object_device_id", json_string(to->device_id));
    kind->payload(o, call);
    cw_json_write(out, o);
    json_decref(o);
}

#include "services/mqtt-gateway/legacy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"

#define MIDS_MAX 32
#define ID_MAX   128

struct legacy_mids {
    unsigned next;
    struct {
        uint32_t mid;
        char request_id[ID_MAX + 1];
    } last[MIDS_MAX];
};

void legacy_command_topic(char out[LEGACY_TOPIC_LEN], const char *device_id)
{
    snprintf(out, LEGACY_TOPIC_LEN, "/huawei/v1/devices/%s/command/json", device_id);
}

static void rename_member(json_t *to, const char *name, const json_t *from, const char *old)
{
    json_t *v = json_object_get(from, old);
    if (v)
        json_object_set(to, name, v);
}

/* ---- up */

static const char *read_report(struct cw_buf *out, const json_t *said)
{
    json_t *services = json_array(), *row;
    const json_t *data = json_object_get(said, "data");
    size_t i;
    json_array_foreach(data, i, row)
    {
        json_t *service = json_object();
        rename_member(service, "service_id", row, "serviceId");
        rename_member(service, "properties", row, "serviceData");
        rename_member(service, "event_time", row, "eventTime");
        json_array_append_new(services, service);
    }
    json_t *root = json_pack("{s:o}", "services", services);
    cw_json_write(out, root);
    json_decref(root);
    return json_is_array(data) ? NULL : "data: must be a list of {serviceId, serviceData}";
}

static const char *read_answer(struct legacy_said *out, const json_t *said)
{
    const json_t *mid = json_object_get(said, "mid"), *code = json_object_get(said, "errcode");
    json_int_t number = json_integer_value(mid);
    json_t *root = json_object();
    if (!json_is_integer(mid) || number < 0 || number > UINT32_MAX) {
        json_decref(root);
        return "mid: must be the number of the command that is answered";
    }
    out->answer = true;
    out->mid = (uint32_t)number;
    json_object_set_new(root, "result_code", json_integer(json_integer_value(code)));
    rename_member(root, "paras", said, "body");
    cw_json_write(&out->payload, root);
    json_decref(root);
    return NULL;
}

const char *legacy_read(struct legacy_said *out, const void *data, size_t len)
{
    struct cw_json_error err;
    *out = (struct legacy_said){ 0 };
    json_t *said = cw_json_parse(data, len, &err);
    const char *type = cw_json_text(said, "msgType"),
               *wrong = "msgType: must be deviceReq or deviceRsp";
    if (!json_is_object(said))
        wrong = "The payload is no JSON object.";
    else if (type && strcmp(type, "deviceReq") == 0)
        wrong = read_report(&out->payload, said);
    else if (type && strcmp(type, "deviceRsp") == 0)
        wrong = read_answer(out, said);
    json_decref(said);
    return wrong;
}

/* ---- down */

int legacy_command(struct cw_buf *out, const void *data, size_t len, uint32_t mid)
{
    struct cw_json_error err;
    json_t *command = cw_json_parse(data, len, &err);
    cw_buf_reset(out);
    if (!json_is_object(command)) {
        json_decref(command);
        return -EINVAL;
    }
    json_t *request = json_pack("{s:s}", "msgType", "cloudReq");
    rename_member(request, "serviceId", command, "service_id");
    rename_member(request, "cmd", command, "command_name");
    json_object_set_new(request, "mid", json_integer(mid));
    rename_member(request, "paras", command, "paras");
    cw_json_write(out, request);
    json_decref(request);
    json_decref(command);
    return 0;
}

/* FNV-1a, in the 31 bits that every device's integers have. */
static uint32_t number_of(struct text id)
{
    uint32_t h = 2166136261U;
    for (size_t i = 0; i < id.len; i++)
        h = (h ^ (unsigned char)id.p[i]) * 16777619U;
    return h & INT32_MAX;
}

uint32_t legacy_mid(struct legacy_mids **mids, struct text request_id)
{
    struct legacy_mids *m = *mids;
    uint32_t mid = number_of(request_id);
    if (!m)
        m = *mids = cw_calloc(1, sizeof *m);
    const char *known = legacy_request(m, mid);
    if (known && strlen(known) == request_id.len &&
        memcmp(known, request_id.p, request_id.len) == 0)
        return mid; /* sent again */
    unsigned at = m->next++ % MIDS_MAX;
    m->last[at].mid = mid;
    snprintf(m->last[at].request_id, ID_MAX + 1, "%.*s", (int)request_id.len, request_id.p);
    return mid;
}

const char *legacy_request(const struct legacy_mids *mids, uint32_t mid)
{
    for (unsigned i = 0; mids && i < MIDS_MAX; i++) {
        unsigned at = (mids->next - 1 - i) % MIDS_MAX; /* the newest first */
        if (*mids->last[at].request_id && mids->last[at].mid == mid)
            return mids->last[at].request_id;
    }
    return NULL;
}

#include "libcommon/device_status.h"

#include <string.h>

#include "libcommon/json.h"

static const char *const words[] = {
    [CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE] = "ONLINE",
    [CAUSEWAY__DEVICE_STATUS__STATUS_OFFLINE] = "OFFLINE",
    [CAUSEWAY__DEVICE_STATUS__STATUS_ABNORMAL] = "ABNORMAL",
};

const char *cw_device_status_word(Causeway__DeviceStatus status)
{
    return (size_t)status < CW_ARRAY_LEN(words) ? words[status] : NULL;
}

Causeway__DeviceStatus cw_device_status_of(const char *word)
{
    for (size_t i = 0; word && i < CW_ARRAY_LEN(words); i++)
        if (words[i] && strcmp(words[i], word) == 0)
            return (Causeway__DeviceStatus)i;
    return CAUSEWAY__DEVICE_STATUS__STATUS_NOT_TOLD;
}

Causeway__DeviceStatus cw_device_status(const Causeway__Event *e)
{
    if (e->kind != CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS)
        return CAUSEWAY__DEVICE_STATUS__STATUS_NOT_TOLD;
    if (cw_device_status_word(e->status))
        return e->status;
    struct cw_json_error err;
    json_t *body = cw_json_parse(e->body.data, e->body.len, &err);
    Causeway__DeviceStatus status = cw_device_status_of(cw_json_text(body, "status"));
    json_decref(body);
    return status;
}

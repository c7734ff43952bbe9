/* answers.h - what a device asked and is answered once its record is committed. An answer may be
 * lost with this process or the connection: the device asks again. */
#pragma once

#include <jansson.h>

#include "libcommon/util.h"

struct uplink;

/* To whom. */
struct answer_to {
    const char *gateway, *device_id; /* the directly connected device */
    int64_t device_key, session_no;
};

struct answer;
struct answers { /* zero it to start */
    struct answer *first, **end;
};

/* An events/down with one service: takes paras. */
void answers_event(struct answers *a, const struct answer_to *to, const char *object_device_id,
                   const char *service_id, const char *type, const char *event_id, json_t *paras);
/* shadow/get/response: the shadow of device_key, which has this id; service_id NULL: all. */
void answers_shadow(struct answers *a, const struct answer_to *to, int64_t device_key,
                    const char *device_id, const char *service_id, const char *request_id);
/* bootstrap/down, if the device has subscribed it: by the strategy of its space for this keyword,
 * "": none. */
void answers_bootstrap(struct answers *a, const struct answer_to *to, const char *app_id,
                       const char *keyword);
/* After the commit: they go. Empties the list. */
void answers_send(struct answers *a, struct uplink *u);
/* Instead of the commit: nothing was said. Empties the list. */
void answers_drop(struct answers *a);

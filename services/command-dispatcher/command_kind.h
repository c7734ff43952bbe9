/* command_kind.h - what a caller can ask of a device and wait for: a command, the writing of
 * properties, the reading of properties (docs/protocol/way-down.md). */
#pragma once

#include <jansson.h>

#include "libcommon/model.h"
#include "services/command-dispatcher/dispatcher.h"

/* What the receipt keeps of a call; borrowed from it. */
struct command_words {
    const char *service_id, *command_name; /* may be NULL */
    const json_t *paras;                   /* NULL: {} */
};

struct command_kind {
    const char *name;    /* in command.command */
    const char *what;    /* in texts for people */
    const char *topic;   /* below …/sys/; the answer comes on <topic>/response */
    const char *id_name; /* of the id in the answer to the caller */
    bool result_code;    /* the answer says by result_code whether it worked */
    void (*words)(struct command_words *out, struct cw_api_call *call);
    /* False: the call has been failed. model is never NULL. */
    bool (*fits)(struct cw_api_call *call, const struct cw_model *model);
    /* Adds to the payload what the device gets besides object_device_id. */
    void (*payload)(json_t *out, struct cw_api_call *call);
    /* What the caller gets of the device's answer, an object; takes and returns a reference. */
    json_t *(*response)(json_t *answer);
};

extern const struct command_kind kind_command, kind_set, kind_get;

/* What the device gets: that, and object_device_id if it is a child. */
void command_payload(struct cw_buf *out, const struct command_kind *kind, const struct target *to,
                     struct cw_api_call *call);

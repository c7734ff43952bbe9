/* legacy.h - devices of the V3 protocol (docs/protocol/legacy-topics.md): what they say on
 * data/json becomes what V5 says, and commands go to them as they know them. */
#pragma once

#include "services/mqtt-gateway/packet.h"

#define LEGACY_TOPIC_LEN 300

/* A publish on data/json, as V5 has it. */
struct legacy_said {
    struct cw_buf payload;
    bool answer;  /* of a command; else a report */
    uint32_t mid; /* of that command */
};

/* NULL, or what is wrong with the payload, for a person; out->payload is the caller's to free. */
const char *legacy_read(struct legacy_said *out, const void *data, size_t len);

/* /huawei/v1/devices/<device id>/command/json */
void legacy_command_topic(char out[LEGACY_TOPIC_LEN], const char *device_id);
/* Replaces *out by the V3 form of a V5 command. -EINVAL: it is none. */
int legacy_command(struct cw_buf *out, const void *data, size_t len, uint32_t mid);

/* V3 numbers its commands: the last ones of a session, and the requests they stand for. A number is
 * made of the request's id, so that one of an earlier session is not taken for another's. */
struct legacy_mids;
uint32_t legacy_mid(struct legacy_mids **mids, struct text request_id);
/* The request id, or NULL. */
const char *legacy_request(const struct legacy_mids *mids, uint32_t mid);

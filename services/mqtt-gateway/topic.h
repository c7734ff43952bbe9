/* topic.h - which topics exist, who may use them, and what a client id says
 * (docs/protocol/mqtt-login.md). Pure functions. */
#pragma once

#include "services/mqtt-gateway/packet.h"

#define TOPIC_NEAREST_LEN 400
#define DEVICE_ID_MAX     128
#define BRIDGE_ID_MAX     36
#define REQUEST_ID_MAX    128
#define CUSTOM_NAME_MAX   64

/* What a device's publish is. */
struct topic_info {
    bool report;                     /* limited to 64 KB */
    bool gzip;                       /* the payload is compressed */
    bool legacy;                     /* data/json of V3 */
    bool answer;                     /* of a command or property request: request_id says which */
    struct text custom;              /* what stands behind the own user/; len 0: none */
    struct text request_id;          /* from the topic; len 0: to be made */
    const char *code, *rule;         /* refused: stable word, and the rule in words */
    char nearest[TOPIC_NEAREST_LEN]; /* refused: a topic that would be right, or "" */
};

/* 0; -EPERM: refused, see code, rule and nearest. */
int topic_check_publish(struct topic_info *out, const char *device_id, struct text topic);
/* 0; -EINVAL: not a filter; -EPERM: not for this device. */
int topic_check_filter(const char *device_id, struct text filter);
/* What stands behind the own user/ in a topic or a filter; len 0: it is another one. */
struct text topic_custom(const char *device_id, struct text topic);
/* How many letters must change to make a of b; both have CUSTOM_NAME_MAX at most. */
size_t topic_distance(struct text a, const char *b);
/* Outside $oc and the topics of V3: device policies decide. */
bool topic_is_free(struct text topic);
/* A topic by which the platform speaks to this device, delivered without subscription. */
bool topic_is_system_down(const char *device_id, struct text topic);
/* By the wildcards of MQTT 3.1.1, 4.7; one at the beginning does not catch a topic with $. */
bool topic_matches(struct text filter, struct text topic);
/* Below $oc: goes to the platform only. The request id at the end of a topic, len 0 without. */
struct text topic_request_id(struct text topic);

#define SCOPE_ID_MIN 4 /* so that no sign type is one */
#define SCOPE_ID_MAX 36

struct client_id {
    char device_id[DEVICE_ID_MAX + 1];
    char timestamp[11];
    uint8_t sign_type;
    bool bridge;                     /* the id is that of a bridge */
    char scope_id[SCOPE_ID_MAX + 1]; /* of a registration group, or "" */
};
/* Reads "<device id>_0_<sign type>_<ten digits>" from the right; id type 3: of a bridge; or, of a
 * device that registers itself in a group, "<device id>_0_<scope id>", with or without "_<sign
 * type>_<ten digits>" behind it. NULL; or
 * the reason, for a person, why it is refused with CONNACK 2: out->device_id is then the user name
 * if that can be one, else
 * "". */
const char *client_id_read(struct client_id *out, struct text client_id, struct text user);

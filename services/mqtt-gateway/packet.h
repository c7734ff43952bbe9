/* packet.h - control packets of MQTT 3.1, 3.1.1 (OASIS, 2014) and 5 (OASIS, 2019): read without
 * copying, written into a buffer. What is read points into the caller's bytes. */
#pragma once

#include <sys/types.h>

#include "services/mqtt-gateway/text.h"

enum packet_type {
    PACKET_CONNECT = 1,
    PACKET_CONNACK,
    PACKET_PUBLISH,
    PACKET_PUBACK,
    PACKET_PUBREC,
    PACKET_PUBREL,
    PACKET_PUBCOMP,
    PACKET_SUBSCRIBE,
    PACKET_SUBACK,
    PACKET_UNSUBSCRIBE,
    PACKET_UNSUBACK,
    PACKET_PINGREQ,
    PACKET_PINGRESP,
    PACKET_DISCONNECT,
    PACKET_AUTH,
};

/* Reason codes of MQTT 5 (2.4). */
enum reason {
    REASON_SUCCESS = 0x00,
    REASON_NO_SUBSCRIPTION = 0x11,
    REASON_UNSPECIFIED = 0x80,
    REASON_MALFORMED = 0x81,
    REASON_PROTOCOL = 0x82,
    REASON_IMPLEMENTATION = 0x83,
    REASON_VERSION = 0x84,
    REASON_CLIENT_ID = 0x85,
    REASON_CREDENTIALS = 0x86,
    REASON_NOT_AUTHORIZED = 0x87,
    REASON_UNAVAILABLE = 0x88,
    REASON_SHUTTING_DOWN = 0x8b,
    REASON_AUTH_METHOD = 0x8c,
    REASON_KEEP_ALIVE = 0x8d,
    REASON_TAKEN_OVER = 0x8e,
    REASON_FILTER = 0x8f,
    REASON_ALIAS = 0x94,
    REASON_TOO_LARGE = 0x95,
    REASON_QUOTA = 0x97,
    REASON_ADMINISTRATIVE = 0x98,
    REASON_PAYLOAD = 0x99,
    REASON_RETAIN = 0x9a,
    REASON_QOS = 0x9b,
    REASON_SHARED = 0x9e,
    REASON_SUBSCRIPTION_ID = 0xa1,
};

#define LEVEL_5 5

#define PACKET_PAYLOAD_MAX_BYTES (1U << 20)
#define PACKET_FILTERS_MAX       1000 /* in one SUBSCRIBE */

/* What the gateway looks at of the properties of MQTT 5; all zero without. */
struct packet_props {
    struct text raw; /* as they came, without their length */
    uint32_t session_expiry_s, max_packet;
    uint16_t receive_max, topic_alias; /* 0: not given */
    bool auth_method, auth_data, subscription_id, session_expiry;
    bool no_problems; /* request problem information 0 */
};

struct packet_connect {
    struct packet_props props;
    struct text client_id, user, password;
    uint16_t keep_alive_s;
    uint8_t level; /* 3: MQTT 3.1, 4: 3.1.1, 5 */
    uint8_t will_qos;
    bool clean, has_user, has_password, has_will, will_retain;
};

struct packet_publish {
    struct packet_props props;
    struct text topic; /* no wildcard; empty only with a topic alias */
    const void *payload;
    size_t len;
    uint16_t id; /* 0 with QoS 0 */
    uint8_t qos;
    bool dup, retain;
};

struct packet_filters {
    uint16_t id;
    uint16_t count;
    struct text rest; /* what packet_filter() takes from */
    uint8_t level;
    bool with_qos, subscription_id;
};

/* Options of a subscription (3.8.3.1); before MQTT 5 there is but the QoS. */
struct packet_filter {
    struct text filter;
    uint8_t qos;
    bool no_local;
};

struct packet_answer { /* PUBACK and its like, DISCONNECT */
    uint16_t id;
    uint8_t reason;
    struct packet_props props;
};

struct packet {
    enum packet_type type;
    uint8_t reason;    /* set with an error, for a peer that speaks MQTT 5 */
    const char *fault; /* set with an error: what is wrong, for a person */
    union {
        struct packet_connect connect;
        struct packet_publish publish;
        struct packet_filters filters; /* SUBSCRIBE, UNSUBSCRIBE */
        struct packet_answer answer;
    };
};

/* Reads the packet that begins at data; level is that of the connection's CONNECT, 0 before it. The
 * bytes that it takes; 0 when more are needed; -EPROTO: not MQTT (out->fault says why); -EMSGSIZE:
 * larger than may be (known from its header, before it has arrived); -EPROTONOSUPPORT: a CONNECT of
 * another version. */
ssize_t packet_read(struct packet *out, uint8_t level, const void *data, size_t len);

/* Takes the next filter; false at the end. */
bool packet_filter(struct packet_filters *from, struct packet_filter *out);

/* code: of 3.1.1 (3.2.2.3). present: a session was kept. */
void packet_put_connack(struct cw_buf *to, uint8_t code, bool present);
/* MQTT 5 (3.2.2): with what the gateway offers if it is let in. */
void packet_put_connack5(struct cw_buf *to, uint8_t reason, bool present);
/* reason: other than 0 with MQTT 5 only. */
void packet_put_ack(struct cw_buf *to, enum packet_type type, uint16_t id, uint8_t reason);
/* SUBACK, UNSUBACK. codes: per filter, in their order, the QoS granted or why not (3.9.3); the
 * UNSUBACK of 3.1.1 has none. */
void packet_put_codes(struct cw_buf *to, uint8_t level, enum packet_type type, uint16_t id,
                      const uint8_t *codes, size_t n);
/* MQTT 5 only (3.14). text may be NULL. */
void packet_put_disconnect(struct cw_buf *to, uint8_t reason, const char *text);
/* Answers PINGREQ (3.13). */
void packet_put_pingresp(struct cw_buf *to);
struct outbound {
    struct text topic;
    const void *payload;
    size_t len;
    struct text props; /* of MQTT 5, without their length; left out for others */
    uint16_t id;       /* looked at with qos 1 only */
    uint8_t level, qos;
};
void packet_put_publish(struct cw_buf *to, const struct outbound *o);
/* Bytes that it will take. */
size_t packet_publish_size(const struct outbound *o);
/* Marks a packed PUBLISH as sent before. */
void packet_set_dup(char *packed);

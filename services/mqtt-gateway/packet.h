/* packet.h - control packets of MQTT 3.1.1 (OASIS, 2014): read without copying, written into a
 * buffer. What is read points into the caller's bytes. */
#pragma once

#include <sys/types.h>

#include "libcommon/util.h"

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
};

#define PACKET_PAYLOAD_MAX_BYTES (1U << 20)
#define PACKET_FILTERS_MAX       1000 /* in one SUBSCRIBE */

/* Text of a packet, not NUL-terminated. Always well-formed UTF-8 without NUL, but for a will or a
 * password, which are bytes. */
struct text {
    const char *p;
    size_t len;
};

struct packet_connect {
    struct text client_id, user, password;
    uint16_t keep_alive_s;
    uint8_t level; /* 3: MQTT 3.1, 4: 3.1.1 */
    bool clean, has_user, has_password;
};

struct packet_publish {
    struct text topic; /* at least one character, no wildcard */
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
    bool with_qos;
};

struct packet {
    enum packet_type type;
    const char *fault; /* set with an error: what is wrong, for a person */
    union {
        struct packet_connect connect;
        struct packet_publish publish;
        struct packet_filters filters; /* SUBSCRIBE, UNSUBSCRIBE */
        uint16_t id;                   /* PUBACK and its like */
    };
};

/* Reads the packet that begins at data. The bytes that it takes; 0 when more are needed; -EPROTO:
 * not MQTT (out->fault says why); -EMSGSIZE: larger than may be (known from its header, before it
 * has arrived); -EPROTONOSUPPORT: a CONNECT of another version. */
ssize_t packet_read(struct packet *out, const void *data, size_t len);

/* Takes the next filter; false at the end. */
bool packet_filter(struct packet_filters *from, struct text *filter, uint8_t *qos);

void packet_put_connack(struct cw_buf *to, uint8_t code); /* a session is never present */
void packet_put_ack(struct cw_buf *to, enum packet_type type, uint16_t id);
/* codes: per filter, in their order, the QoS granted or 0x80 (3.9.3). */
void packet_put_suback(struct cw_buf *to, uint16_t id, const uint8_t *codes, size_t n);
/* Answers PINGREQ (3.13). */
void packet_put_pingresp(struct cw_buf *to);
/* id is looked at with qos 1 only. */
void packet_put_publish(struct cw_buf *to, struct text topic, const void *payload, size_t len,
                        uint8_t qos, uint16_t id);
/* Marks a packed PUBLISH as sent before. */
void packet_set_dup(char *packed);

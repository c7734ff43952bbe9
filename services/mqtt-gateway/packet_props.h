/* packet_props.h - properties of MQTT 5 (OASIS, 2019; section 2.2.2): read without copying, written
 * into a buffer. */
#pragma once

#include "services/mqtt-gateway/packet.h"

/* What remains of a packet. */
struct cursor {
    const uint8_t *p;
    size_t left;
};
bool cursor_take8(struct cursor *c, uint8_t *out);
bool cursor_take16(struct cursor *c, uint16_t *out);
bool cursor_take_bytes(struct cursor *c, struct text *out);
bool cursor_take_text(struct cursor *c, struct text *out); /* UTF-8 without NUL */

#define PROPS_WILL 0 /* instead of a packet type */

/* Reads the length and the properties of a packet of this type (or PROPS_WILL) into *props. 0, or
 * -EPROTO with out->fault and out->reason. */
int packet_props_read(struct packet *out, struct packet_props *props, unsigned type,
                      struct cursor *c);

enum property {
    PROP_CONTENT_TYPE = 0x03,
    PROP_RESPONSE_TOPIC = 0x08,
    PROP_CORRELATION = 0x09,
    PROP_REASON_STRING = 0x1f,
    PROP_TOPIC_ALIAS_MAX = 0x22,
    PROP_MAX_QOS = 0x24,
    PROP_RETAIN = 0x25,
    PROP_USER = 0x26,
    PROP_MAX_PACKET = 0x27,
    PROP_SUBSCRIPTION_ID = 0x29,
    PROP_SHARED = 0x2a,
};
/* One property; number or text by its type. */
void packet_prop_put(struct cw_buf *to, enum property id, uint32_t number, struct text text);
void packet_user_property_put(struct cw_buf *to, const char *name, const char *value);
/* A length of 2.2.2.1, then the properties. */
void packet_props_put(struct cw_buf *to, const void *props, size_t len);
/* What of the properties of a PUBLISH goes on to its receivers (3.3.2.3): all but alias and
 * identifiers. Appends to `to`; without the length. */
void packet_props_forward(struct cw_buf *to, const struct packet_props *props);
/* The same for applications, as a JSON object: content_type, response_topic, correlation_data (what
 * is no text: its base64), user_properties [{prop_key, prop_value}], those that are there; appends
 * nothing if none is. */
void packet_props_tell(struct cw_buf *to, const struct packet_props *props);

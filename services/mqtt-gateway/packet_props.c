#include "services/mqtt-gateway/packet_props.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#define BIT(t) (1U << PACKET_##t)
#define WILL   (1U << PROPS_WILL)

enum form { NONE, BYTE, TWO, FOUR, VARIABLE, BYTES, TEXT, PAIR };

/* Table 2-4; what only a server sends is not among them. */
static const struct {
    uint8_t form;
    bool repeats;
    uint16_t packets;
} properties[0x2b] = {
    [0x01] = { BYTE, false, BIT(PUBLISH) | WILL },            /* payload format indicator */
    [0x02] = { FOUR, false, BIT(PUBLISH) | WILL },            /* message expiry interval */
    [0x03] = { TEXT, false, BIT(PUBLISH) | WILL },            /* content type */
    [0x08] = { TEXT, false, BIT(PUBLISH) | WILL },            /* response topic */
    [0x09] = { BYTES, false, BIT(PUBLISH) | WILL },           /* correlation data */
    [0x0b] = { VARIABLE, false, BIT(SUBSCRIBE) },             /* subscription identifier */
    [0x11] = { FOUR, false, BIT(CONNECT) | BIT(DISCONNECT) }, /* session expiry interval */
    [0x15] = { TEXT, false, BIT(CONNECT) },                   /* authentication method */
    [0x16] = { BYTES, false, BIT(CONNECT) },                  /* authentication data */
    [0x17] = { BYTE, false, BIT(CONNECT) },                   /* request problem information */
    [0x18] = { FOUR, false, WILL },                           /* will delay interval */
    [0x19] = { BYTE, false, BIT(CONNECT) },                   /* request response information */
    [0x1f] = { TEXT, false,
               BIT(PUBACK) | BIT(PUBREC) | BIT(PUBREL) | BIT(PUBCOMP) | BIT(DISCONNECT) },
    [0x21] = { TWO, false, BIT(CONNECT) }, /* receive maximum */
    [0x22] = { TWO, false, BIT(CONNECT) }, /* topic alias maximum */
    [0x23] = { TWO, false, BIT(PUBLISH) }, /* topic alias */
    [0x26] = { PAIR, true,
               BIT(CONNECT) | BIT(PUBLISH) | BIT(PUBACK) | BIT(PUBREC) | BIT(PUBREL) |
                   BIT(PUBCOMP) | BIT(SUBSCRIBE) | BIT(UNSUBSCRIBE) | BIT(DISCONNECT) | WILL },
    [0x27] = { FOUR, false, BIT(CONNECT) }, /* maximum packet size */
};

bool cursor_take8(struct cursor *c, uint8_t *out)
{
    if (c->left < 1)
        return false;
    *out = *c->p++;
    c->left--;
    return true;
}

bool cursor_take16(struct cursor *c, uint16_t *out)
{
    if (c->left < 2)
        return false;
    *out = (uint16_t)(c->p[0] << 8 | c->p[1]);
    c->p += 2;
    c->left -= 2;
    return true;
}

bool cursor_take_bytes(struct cursor *c, struct text *out)
{
    uint16_t len;
    if (!cursor_take16(c, &len) || c->left < len)
        return false;
    *out = (struct text){ (const char *)c->p, len };
    c->p += len;
    c->left -= len;
    return true;
}

bool cursor_take_text(struct cursor *c, struct text *out)
{
    return cursor_take_bytes(c, out) && cw_utf8_valid(out->p, out->len);
}

/* Seven bits a byte, four bytes at most (1.5.5). */
static bool take_variable(struct cursor *c, uint32_t *out)
{
    uint8_t b = 0x80;
    *out = 0;
    for (int i = 0; i < 4 && b & 0x80; i++) {
        if (!cursor_take8(c, &b))
            return false;
        *out |= (uint32_t)(b & 0x7f) << (7 * i);
    }
    return !(b & 0x80);
}

struct value {
    uint32_t number;
    struct text text, second;
};

static bool take_number(struct cursor *c, int bytes, uint32_t *out)
{
    uint8_t b;
    *out = 0;
    for (int i = 0; i < bytes; i++) {
        if (!cursor_take8(c, &b))
            return false;
        *out = *out << 8 | b;
    }
    return true;
}

static bool take_value(struct cursor *c, enum form form, struct value *v)
{
    switch (form) {
    case BYTE:
        return take_number(c, 1, &v->number);
    case TWO:
        return take_number(c, 2, &v->number);
    case FOUR:
        return take_number(c, 4, &v->number);
    case VARIABLE:
        return take_variable(c, &v->number);
    case BYTES:
        return cursor_take_bytes(c, &v->text);
    case TEXT:
        return cursor_take_text(c, &v->text);
    default:
        return cursor_take_text(c, &v->text) && cursor_take_text(c, &v->second);
    }
}

static int fault(struct packet *out, uint8_t reason, const char *why)
{
    out->fault = why;
    out->reason = reason;
    return -EPROTO;
}

static bool has_wildcard(struct text t)
{
    return memchr(t.p, '+', t.len) || memchr(t.p, '#', t.len);
}

/* What a value may be, and where it is kept. NULL, or what is wrong. */
static const char *keep(struct packet_props *p, uint8_t id, const struct value *v)
{
    switch (id) {
    case 0x01:
        return v->number > 1 ? "a payload format indicator above 1" : NULL;
    case 0x08:
        return has_wildcard(v->text) ? "a response topic with wildcards" : NULL;
    case 0x0b:
        p->subscription_id = true;
        return v->number == 0 ? "a subscription identifier of 0" : NULL;
    case 0x11:
        p->session_expiry = true;
        p->session_expiry_s = v->number;
        return NULL;
    case 0x15:
        p->auth_method = true;
        return NULL;
    case 0x16:
        p->auth_data = true;
        return NULL;
    case 0x17:
        p->no_problems = v->number == 0;
        return v->number > 1 ? "request problem information above 1" : NULL;
    case 0x19:
        return v->number > 1 ? "request response information above 1" : NULL;
    case 0x21:
        p->receive_max = (uint16_t)v->number;
        return v->number == 0 ? "a receive maximum of 0" : NULL;
    case 0x23:
        p->topic_alias = (uint16_t)v->number;
        return v->number == 0 ? "a topic alias of 0" : NULL;
    case 0x27:
        p->max_packet = v->number;
        return v->number == 0 ? "a maximum packet size of 0" : NULL;
    default:
        return NULL;
    }
}

static int read_one(struct packet *out, struct packet_props *p, unsigned type, struct cursor *c,
                    uint64_t *seen)
{
    uint8_t id;
    struct value v = { 0 };
    const char *wrong;
    if (!cursor_take8(c, &id) || id >= CW_ARRAY_LEN(properties) ||
        !(properties[id].packets >> type & 1))
        return fault(out, REASON_MALFORMED, "a property that this packet cannot have");
    if (!take_value(c, properties[id].form, &v))
        return fault(out, REASON_MALFORMED, "a property that is cut short or no text");
    if (!properties[id].repeats && *seen >> id & 1)
        return fault(out, REASON_PROTOCOL, "a property that is there twice");
    *seen |= UINT64_C(1) << id;
    if ((wrong = keep(p, id, &v)))
        return fault(out, id == 0x23 ? REASON_ALIAS : REASON_PROTOCOL, wrong);
    return 0;
}

int packet_props_read(struct packet *out, struct packet_props *props, unsigned type,
                      struct cursor *c)
{
    uint32_t len;
    uint64_t seen = 0;
    int rc = 0;
    *props = (struct packet_props){ 0 };
    if (!take_variable(c, &len) || len > c->left)
        return fault(out, REASON_MALFORMED, "properties that are longer than their packet");
    struct cursor own = { c->p, len };
    props->raw = (struct text){ (const char *)c->p, len };
    c->p += len;
    c->left -= len;
    while (rc == 0 && own.left)
        rc = read_one(out, props, type, &own, &seen);
    if (rc == 0 && props->auth_data && !props->auth_method)
        rc = fault(out, REASON_PROTOCOL, "authentication data without a method");
    return rc;
}

void packet_props_forward(struct cw_buf *to, const struct packet_props *props)
{
    struct cursor c = { (const uint8_t *)props->raw.p, props->raw.len };
    while (c.left) {
        const uint8_t *from = c.p;
        uint8_t id = 0;
        struct value v = { 0 };
        if (!cursor_take8(&c, &id) || id >= CW_ARRAY_LEN(properties) ||
            !take_value(&c, properties[id].form, &v))
            return; /* has been read before: cannot be */
        if (id != 0x23)
            cw_buf_add(to, from, (size_t)(c.p - from));
    }
}

/* ---- told to applications */

static void tell_base64(struct cw_buf *to, struct text v)
{
    char *text = cw_malloc((v.len + 2) / 3 * 4 + 1);
    int n = EVP_EncodeBlock((uint8_t *)text, (const uint8_t *)v.p, (int)v.len);
    cw_buf_json_string(to, text, (size_t)n);
    free(text);
}

static void tell_text(struct cw_buf *to, const char *name, struct text v)
{
    cw_buf_printf(to, "%s\"%s\":", to->data[to->len - 1] == '{' ? "" : ",", name);
    if (v.len == 0 || (cw_utf8_valid(v.p, v.len) && !memchr(v.p, 0, v.len)))
        cw_buf_json_string(to, v.p, v.len);
    else
        tell_base64(to, v);
}

static void tell_pair(struct cw_buf *pairs, const struct value *v)
{
    cw_buf_str(pairs, pairs->len ? ",{" : "{");
    tell_text(pairs, "prop_key", v->text);
    tell_text(pairs, "prop_value", v->second);
    cw_buf_str(pairs, "}");
}

void packet_props_tell(struct cw_buf *to, const struct packet_props *props)
{
    static const char *const names[] = { [PROP_CONTENT_TYPE] = "content_type",
                                         [PROP_RESPONSE_TOPIC] = "response_topic",
                                         [PROP_CORRELATION] = "correlation_data" };
    struct cursor c = { (const uint8_t *)props->raw.p, props->raw.len };
    struct cw_buf pairs = { 0 };
    size_t before = to->len;
    uint8_t id;
    cw_buf_str(to, "{");
    while (cursor_take8(&c, &id) && id < CW_ARRAY_LEN(properties)) {
        struct value v = { 0 };
        if (!take_value(&c, properties[id].form, &v))
            break; /* has been read before: cannot be */
        if (id == PROP_USER)
            tell_pair(&pairs, &v);
        else if (id < CW_ARRAY_LEN(names) && names[id])
            tell_text(to, names[id], v.text);
    }
    if (pairs.len)
        cw_buf_printf(to, "%s\"user_properties\":[%.*s]", to->len == before + 1 ? "" : ",",
                      (int)pairs.len, pairs.data);
    if (to->len == before + 1)
        to->len = before;
    else
        cw_buf_str(to, "}");
    cw_buf_free(&pairs);
}

static void put_variable(struct cw_buf *to, size_t n)
{
    do {
        uint8_t b = (uint8_t)((n & 127) | (n > 127 ? 128 : 0));
        cw_buf_add(to, &b, 1);
        n >>= 7;
    } while (n);
}

void packet_props_put(struct cw_buf *to, const void *props, size_t len)
{
    put_variable(to, len);
    if (len)
        cw_buf_add(to, props, len);
}

static void put_text(struct cw_buf *to, struct text t)
{
    cw_buf_add(to, (uint8_t[]){ (uint8_t)(t.len >> 8), (uint8_t)t.len }, 2);
    cw_buf_add(to, t.p, t.len);
}

void packet_prop_put(struct cw_buf *to, enum property id, uint32_t n, struct text text)
{
    static const uint8_t bytes[] = { [BYTE] = 1, [TWO] = 2, [FOUR] = 4 };
    static const uint8_t forms[] = {
        [PROP_RESPONSE_TOPIC] = TEXT, [PROP_CORRELATION] = BYTES,    [PROP_REASON_STRING] = TEXT,
        [PROP_TOPIC_ALIAS_MAX] = TWO, [PROP_MAX_QOS] = BYTE,         [PROP_RETAIN] = BYTE,
        [PROP_MAX_PACKET] = FOUR,     [PROP_SUBSCRIPTION_ID] = BYTE, [PROP_SHARED] = BYTE
    };
    cw_buf_add(to, &(uint8_t){ (uint8_t)id }, 1);
    if (forms[id] == TEXT || forms[id] == BYTES)
        put_text(to, text);
    else
        for (int i = bytes[forms[id]] - 1; i >= 0; i--)
            cw_buf_add(to, &(uint8_t){ (uint8_t)(n >> (8 * i)) }, 1);
}

void packet_user_property_put(struct cw_buf *to, const char *name, const char *value)
{
    cw_buf_add(to, &(uint8_t){ PROP_USER }, 1);
    put_text(to, text_of(name));
    put_text(to, text_of(value));
}

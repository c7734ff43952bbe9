#include "services/mqtt-gateway/packet_props.h"

#include <errno.h>
#include <string.h>

#define TEXT_MAX_BYTES  65535U
#define SMALL_MAX_BYTES (16U << 10) /* all but PUBLISH, and the properties of that */
/* Told to those who speak MQTT 5: the largest PUBLISH, with its header. */
#define PACKET_MAX_BYTES (PACKET_PAYLOAD_MAX_BYTES + TEXT_MAX_BYTES + SMALL_MAX_BYTES + 9)

/* What a device may send: the low four bits that its first byte must have, and its size. */
static const struct kind {
    bool known, any_flags;
    uint8_t flags;
    size_t least, most;
} kinds[16] = {
    [PACKET_CONNECT] = { true, false, 0, 10, SMALL_MAX_BYTES },
    [PACKET_PUBLISH] = { true, true, 0, 3, PACKET_PAYLOAD_MAX_BYTES + TEXT_MAX_BYTES + 4 },
    [PACKET_PUBACK] = { true, false, 0, 2, 2 },
    [PACKET_PUBREC] = { true, false, 0, 2, 2 },
    [PACKET_PUBREL] = { true, false, 2, 2, 2 },
    [PACKET_PUBCOMP] = { true, false, 0, 2, 2 },
    [PACKET_SUBSCRIBE] = { true, false, 2, 6, SMALL_MAX_BYTES },
    [PACKET_UNSUBSCRIBE] = { true, false, 2, 5, SMALL_MAX_BYTES },
    [PACKET_PINGREQ] = { true, false, 0, 0, 0 },
    [PACKET_DISCONNECT] = { true, false, 0, 0, 0 },
    [PACKET_AUTH] = { true, false, 0, 0, 0 }, /* MQTT 5: none is ever expected here */
};

static int fault_as(struct packet *out, uint8_t reason, int rc, const char *why)
{
    out->fault = why;
    out->reason = reason;
    return rc;
}

static int fault(struct packet *out, int rc, const char *why)
{
    return fault_as(out, rc == -EMSGSIZE ? REASON_TOO_LARGE : REASON_MALFORMED, rc, why);
}

/* The version comes first and decides how the rest is to be read. */
static int read_version(struct packet *out, struct cursor *c)
{
    static const struct {
        const char *name;
        uint8_t level;
    } versions[] = { { "MQTT", 4 }, { "MQTT", LEVEL_5 }, { "MQIsdp", 3 } };
    bool known = false;
    struct text name;
    if (!cursor_take_text(c, &name) || !cursor_take8(c, &out->connect.level))
        return fault(out, -EPROTO, "CONNECT without a protocol name");
    for (size_t i = 0; i < CW_ARRAY_LEN(versions); i++)
        if (name.len == strlen(versions[i].name) &&
            memcmp(name.p, versions[i].name, name.len) == 0) {
            known = true;
            if (out->connect.level == versions[i].level)
                return 0;
        }
    return known ? fault_as(out, REASON_VERSION, -EPROTONOSUPPORT,
                            "only MQTT 3.1, 3.1.1 and 5 are spoken here")
                 : fault(out, -EPROTO, "CONNECT of another protocol");
}

/* Flags, keep-alive; the properties of MQTT 5. */
static int read_connect_head(struct packet *out, struct cursor *c)
{
    struct packet_connect *con = &out->connect;
    uint8_t flags;
    if (!cursor_take8(c, &flags) || !cursor_take16(c, &con->keep_alive_s))
        return fault(out, -EPROTO, "CONNECT is cut short");
    con->clean = flags & 0x02;
    con->has_will = flags & 0x04;
    con->will_qos = flags >> 3 & 3;
    con->will_retain = flags & 0x20;
    con->has_user = flags & 0x80;
    con->has_password = flags & 0x40;
    if ((flags & 0x01) || con->will_qos == 3 || (!con->has_will && (flags & 0x38)) ||
        (con->has_password && !con->has_user && con->level < LEVEL_5))
        return fault(out, -EPROTO, "CONNECT flags contradict each other");
    return con->level < LEVEL_5 ? 0 : packet_props_read(out, &con->props, PACKET_CONNECT, c);
}

static int read_connect(struct packet *out, struct cursor *c)
{
    struct packet_connect *con = &out->connect;
    struct packet_props will_props;
    struct text will;
    int rc = read_version(out, c);
    if (rc < 0 || (rc = read_connect_head(out, c)) < 0)
        return rc;
    if (!cursor_take_text(c, &con->client_id))
        return fault(out, -EPROTO, "CONNECT is cut short");
    if (con->has_will && con->level == LEVEL_5 &&
        (rc = packet_props_read(out, &will_props, PROPS_WILL, c)) < 0)
        return rc;
    if (con->has_will && (!cursor_take_text(c, &will) || !cursor_take_bytes(c, &will)))
        return fault(out, -EPROTO, "the will of CONNECT is malformed");
    if ((con->has_user && !cursor_take_text(c, &con->user)) ||
        (con->has_password && !cursor_take_bytes(c, &con->password)) || c->left)
        return fault(out, -EPROTO, "user name or password of CONNECT is malformed");
    return 0;
}

static int read_publish(struct packet *out, struct cursor *c, uint8_t level, uint8_t flags)
{
    struct packet_publish *pub = &out->publish;
    int rc;
    pub->dup = flags & 0x08;
    pub->qos = flags >> 1 & 3;
    pub->retain = flags & 0x01;
    if (pub->qos == 3 || (pub->dup && pub->qos == 0))
        return fault(out, -EPROTO, "PUBLISH with a QoS that does not exist");
    if (!cursor_take_text(c, &pub->topic) || (pub->topic.len == 0 && level < LEVEL_5))
        return fault(out, -EPROTO, "PUBLISH with a topic that is not text");
    if (memchr(pub->topic.p, '+', pub->topic.len) || memchr(pub->topic.p, '#', pub->topic.len))
        return fault(out, -EPROTO, "PUBLISH to a topic with wildcards");
    if (pub->qos && (!cursor_take16(c, &pub->id) || pub->id == 0))
        return fault(out, -EPROTO, "PUBLISH without a packet id");
    if (level == LEVEL_5 && (rc = packet_props_read(out, &pub->props, PACKET_PUBLISH, c)) < 0)
        return rc;
    if (pub->topic.len == 0 && !pub->props.topic_alias)
        return fault_as(out, REASON_PROTOCOL, -EPROTO, "PUBLISH without a topic or an alias");
    pub->payload = c->p;
    pub->len = c->left;
    return pub->len > PACKET_PAYLOAD_MAX_BYTES ? fault(out, -EMSGSIZE, "PUBLISH of more than 1 MB")
                                               : 0;
}

/* Reserved bits are 0, QoS 3 and retain handling 3 do not exist (3.8.3.1). */
static bool read_options(struct packet_filter *out, uint8_t options, uint8_t level)
{
    out->qos = options & 3;
    out->no_local = level == LEVEL_5 && options & 4;
    return level < LEVEL_5 ? options <= 2
                           : !(options & 0xc0) && out->qos < 3 && (options & 0x30) != 0x30;
}

bool packet_filter(struct packet_filters *from, struct packet_filter *out)
{
    struct cursor c = { (const uint8_t *)from->rest.p, from->rest.len };
    uint8_t options = 0;
    *out = (struct packet_filter){ 0 };
    if (!cursor_take_text(&c, &out->filter) || (from->with_qos && !cursor_take8(&c, &options)) ||
        !read_options(out, options, from->level))
        return false;
    from->rest = (struct text){ (const char *)c.p, c.left };
    return true;
}

static int read_filters(struct packet *out, struct cursor *c, uint8_t level)
{
    struct packet_filters *f = &out->filters, walk;
    struct packet_filter one;
    struct packet_props props;
    int rc;
    f->with_qos = out->type == PACKET_SUBSCRIBE;
    f->level = level;
    if (!cursor_take16(c, &f->id) || f->id == 0)
        return fault(out, -EPROTO, "SUBSCRIBE or UNSUBSCRIBE without a packet id");
    if (level == LEVEL_5 && (rc = packet_props_read(out, &props, out->type, c)) < 0)
        return rc;
    if (level == LEVEL_5)
        f->subscription_id = props.subscription_id;
    f->rest = (struct text){ (const char *)c->p, c->left };
    for (walk = *f; walk.rest.len; f->count++)
        if (!packet_filter(&walk, &one) || one.filter.len == 0 || f->count == PACKET_FILTERS_MAX)
            return fault(out, -EPROTO, "a topic filter is malformed");
    return f->count
               ? 0
               : fault_as(out, REASON_PROTOCOL, -EPROTO, "SUBSCRIBE or UNSUBSCRIBE of nothing");
}

/* Reason and properties may be left out at the end (3.4.2.1, 3.14.2.1). */
static int read_answer(struct packet *out, struct cursor *c, uint8_t level)
{
    struct packet_answer *a = &out->answer;
    if (out->type != PACKET_DISCONNECT && (!cursor_take16(c, &a->id) || a->id == 0))
        return fault(out, -EPROTO, "an answer without packet id");
    if (level < LEVEL_5 || !cursor_take8(c, &a->reason) || !c->left)
        return 0;
    int rc = packet_props_read(out, &a->props, out->type, c);
    return rc < 0 || !c->left ? rc : fault(out, -EPROTO, "a packet longer than its parts");
}

static int read_body(struct packet *out, struct cursor *c, uint8_t level, uint8_t flags)
{
    switch (out->type) {
    case PACKET_CONNECT:
        return read_connect(out, c);
    case PACKET_PUBLISH:
        return read_publish(out, c, level, flags);
    case PACKET_SUBSCRIBE:
    case PACKET_UNSUBSCRIBE:
        return read_filters(out, c, level);
    case PACKET_PINGREQ:
        return 0;
    case PACKET_AUTH:
        return fault_as(out, REASON_PROTOCOL, -EPROTO, "AUTH, which nobody asked for");
    default:
        return read_answer(out, c, level);
    }
}

/* Remaining length: seven bits a byte, four bytes at most. 0, or the bytes that it takes. */
static int read_length(struct packet *out, const uint8_t *p, size_t len, size_t *remaining)
{
    *remaining = 0;
    for (int i = 0; i < 4; i++) {
        if ((size_t)i == len)
            return 0;
        *remaining |= (size_t)(p[i] & 127) << (7 * i);
        if (!(p[i] & 128))
            return i + 1;
    }
    return fault(out, -EPROTO, "a length of more than four bytes");
}

/* MQTT 5 puts a reason and properties behind answers. */
static size_t most_bytes(const struct kind *k, uint8_t level, enum packet_type type)
{
    if (level < LEVEL_5)
        return k->most;
    if (type == PACKET_PUBLISH)
        return k->most + SMALL_MAX_BYTES;
    return type == PACKET_PINGREQ ? 0 : SMALL_MAX_BYTES;
}

static int check_header(struct packet *out, uint8_t level, uint8_t first, size_t remaining)
{
    const struct kind *k = &kinds[first >> 4];
    if (remaining < k->least)
        return fault(out, -EPROTO, "a packet too short for its type");
    if (remaining > most_bytes(k, level, first >> 4))
        return k->most > SMALL_MAX_BYTES ? fault(out, -EMSGSIZE, "PUBLISH of more than 1 MB")
                                         : fault(out, -EPROTO, "a packet too long for its type");
    return 0;
}

/* A PUBLISH is measured without its topic as soon as the length of that is known. */
static int check_payload(struct packet *out, uint8_t level, const uint8_t *body, size_t have,
                         size_t remaining, uint8_t flags)
{
    if (out->type != PACKET_PUBLISH || have < 2)
        return 0;
    size_t room = level == LEVEL_5 ? SMALL_MAX_BYTES : 0; /* of properties */
    size_t before = 2 + ((size_t)body[0] << 8 | body[1]) + (flags & 6 ? 2 : 0);
    if (before > remaining)
        return fault(out, -EPROTO, "PUBLISH with a topic longer than itself");
    return remaining - before > PACKET_PAYLOAD_MAX_BYTES + room
               ? fault(out, -EMSGSIZE, "PUBLISH of more than 1 MB")
               : 0;
}

ssize_t packet_read(struct packet *out, uint8_t level, const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t remaining;
    int n, rc;
    *out = (struct packet){ 0 };
    if (len == 0)
        return 0;
    const struct kind *k = &kinds[p[0] >> 4];
    if (!k->known || (p[0] >> 4 == PACKET_AUTH && level < LEVEL_5) ||
        (!k->any_flags && (p[0] & 15) != k->flags))
        return fault(out, -EPROTO, "a first byte that no packet has");
    out->type = p[0] >> 4;
    if ((n = read_length(out, p + 1, len - 1, &remaining)) <= 0)
        return n;
    struct cursor c = { p + 1 + n, remaining };
    size_t have = len - 1 - (size_t)n;
    if ((rc = check_header(out, level, p[0], remaining)) < 0 ||
        (rc = check_payload(out, level, c.p, have, remaining, p[0] & 15)) < 0)
        return rc;
    if (have < remaining)
        return 0;
    if ((rc = read_body(out, &c, level, p[0] & 15)) < 0)
        return rc;
    return 1 + n + (ssize_t)remaining;
}

static void put_header(struct cw_buf *to, uint8_t first, size_t remaining)
{
    uint8_t b[5] = { first };
    size_t n = 1;
    do {
        b[n] = remaining & 127;
        remaining >>= 7;
        b[n++] |= remaining ? 128 : 0;
    } while (remaining);
    cw_buf_add(to, b, n);
}

static void put16(struct cw_buf *to, size_t n)
{
    cw_buf_add(to, (uint8_t[]){ (uint8_t)(n >> 8), (uint8_t)n }, 2);
}

static void put8(struct cw_buf *to, uint8_t n) { cw_buf_add(to, &n, 1); }

#define NONE_TEXT ((struct text){ 0 })

/* Header, `head`, the properties. */
static void put_with_props(struct cw_buf *to, enum packet_type type, const uint8_t *head, size_t n,
                           struct cw_buf *props)
{
    struct cw_buf body = { 0 };
    cw_buf_add(&body, head, n);
    packet_props_put(&body, props->data, props->len);
    put_header(to, (uint8_t)(type << 4), body.len);
    cw_buf_add(to, body.data, body.len);
    cw_buf_free(&body);
    cw_buf_free(props);
}

void packet_put_connack(struct cw_buf *to, uint8_t code, bool present)
{
    cw_buf_add(to, (uint8_t[]){ PACKET_CONNACK << 4, 2, present, code }, 4);
}

void packet_put_connack5(struct cw_buf *to, uint8_t reason, bool present)
{
    struct cw_buf props = { 0 };
    if (reason == REASON_SUCCESS) {
        packet_prop_put(&props, PROP_MAX_QOS, 1, NONE_TEXT);
        packet_prop_put(&props, PROP_RETAIN, 0, NONE_TEXT);
        packet_prop_put(&props, PROP_TOPIC_ALIAS_MAX, UINT16_MAX, NONE_TEXT);
        packet_prop_put(&props, PROP_MAX_PACKET, PACKET_MAX_BYTES, NONE_TEXT);
        packet_prop_put(&props, PROP_SUBSCRIPTION_ID, 0, NONE_TEXT);
        packet_prop_put(&props, PROP_SHARED, 0, NONE_TEXT);
    }
    put_with_props(to, PACKET_CONNACK, (uint8_t[]){ present, reason }, 2, &props);
}

void packet_put_ack(struct cw_buf *to, enum packet_type type, uint16_t id, uint8_t reason)
{
    put_header(to, (uint8_t)(type << 4), reason ? 3 : 2);
    put16(to, id);
    if (reason)
        put8(to, reason);
}

void packet_put_codes(struct cw_buf *to, uint8_t level, enum packet_type type, uint16_t id,
                      const uint8_t *codes, size_t n)
{
    bool five = level == LEVEL_5;
    if (!five && type == PACKET_UNSUBACK)
        n = 0;
    put_header(to, (uint8_t)(type << 4), 2 + n + (five ? 1 : 0));
    put16(to, id);
    if (five)
        put8(to, 0); /* no properties */
    if (n)
        cw_buf_add(to, codes, n);
}

void packet_put_disconnect(struct cw_buf *to, uint8_t reason, const char *text)
{
    struct cw_buf props = { 0 };
    if (text)
        packet_prop_put(&props, PROP_REASON_STRING, 0, text_of(text));
    put_with_props(to, PACKET_DISCONNECT, &reason, 1, &props);
}

void packet_put_pingresp(struct cw_buf *to)
{
    cw_buf_add(to, (uint8_t[]){ PACKET_PINGRESP << 4, 0 }, 2);
}

static size_t remaining_of(const struct outbound *o)
{
    size_t n = 2 + o->topic.len + (o->qos ? 2 : 0) + o->len, p = o->props.len;
    if (o->level == LEVEL_5)
        n += p + (p < 128 ? 1 : p < 16384 ? 2 : 3);
    return n;
}

size_t packet_publish_size(const struct outbound *o)
{
    size_t n = remaining_of(o);
    return n + (n < 128 ? 2 : n < 16384 ? 3 : n < 2097152 ? 4 : 5);
}

void packet_put_publish(struct cw_buf *to, const struct outbound *o)
{
    put_header(to, (uint8_t)(PACKET_PUBLISH << 4 | o->qos << 1), remaining_of(o));
    put16(to, o->topic.len);
    cw_buf_add(to, o->topic.p, o->topic.len);
    if (o->qos)
        put16(to, o->id);
    if (o->level == LEVEL_5)
        packet_props_put(to, o->props.p, o->props.len);
    cw_buf_add(to, o->payload, o->len);
}

void packet_set_dup(char *packed) { packed[0] = (char)(packed[0] | 0x08); }

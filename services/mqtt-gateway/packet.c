#include "services/mqtt-gateway/packet.h"

#include <errno.h>
#include <string.h>

#define TEXT_MAX_BYTES  65535U
#define SMALL_MAX_BYTES (16U << 10) /* CONNECT, SUBSCRIBE, UNSUBSCRIBE */

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
};

struct cursor {
    const uint8_t *p;
    size_t left;
};

static bool take8(struct cursor *c, uint8_t *out)
{
    if (c->left < 1)
        return false;
    *out = *c->p++;
    c->left--;
    return true;
}

static bool take16(struct cursor *c, uint16_t *out)
{
    if (c->left < 2)
        return false;
    *out = (uint16_t)(c->p[0] << 8 | c->p[1]);
    c->p += 2;
    c->left -= 2;
    return true;
}

static bool take_bytes(struct cursor *c, struct text *out)
{
    uint16_t len;
    if (!take16(c, &len) || c->left < len)
        return false;
    *out = (struct text){ (const char *)c->p, len };
    c->p += len;
    c->left -= len;
    return true;
}

static bool take_text(struct cursor *c, struct text *out)
{
    return take_bytes(c, out) && cw_utf8_valid(out->p, out->len);
}

static int fault(struct packet *out, int rc, const char *why)
{
    out->fault = why;
    return rc;
}

/* The version comes first and decides how the rest is to be read. */
static int read_version(struct packet *out, struct cursor *c)
{
    static const struct {
        const char *name;
        uint8_t level;
    } versions[] = { { "MQTT", 4 }, { "MQIsdp", 3 } };
    struct text name;
    if (!take_text(c, &name) || !take8(c, &out->connect.level))
        return fault(out, -EPROTO, "CONNECT without a protocol name");
    for (size_t i = 0; i < CW_ARRAY_LEN(versions); i++)
        if (name.len == strlen(versions[i].name) && memcmp(name.p, versions[i].name, name.len) == 0)
            return out->connect.level == versions[i].level
                       ? 0
                       : fault(out, -EPROTONOSUPPORT, "only MQTT 3.1.1 and 3.1 are spoken here");
    return fault(out, -EPROTO, "CONNECT of another protocol");
}

static int read_connect(struct packet *out, struct cursor *c)
{
    struct packet_connect *con = &out->connect;
    struct text will;
    uint8_t flags;
    int rc = read_version(out, c);
    if (rc < 0)
        return rc;
    if (!take8(c, &flags) || !take16(c, &con->keep_alive_s) || !take_text(c, &con->client_id))
        return fault(out, -EPROTO, "CONNECT is cut short");
    con->clean = flags & 0x02;
    con->has_user = flags & 0x80;
    con->has_password = flags & 0x40;
    bool has_will = flags & 0x04;
    if ((flags & 0x01) || (flags & 0x18) == 0x18 || (!has_will && (flags & 0x38)) ||
        (con->has_password && !con->has_user))
        return fault(out, -EPROTO, "CONNECT flags contradict each other");
    if (has_will && (!take_text(c, &will) || !take_bytes(c, &will)))
        return fault(out, -EPROTO, "the will of CONNECT is malformed");
    if ((con->has_user && !take_text(c, &con->user)) ||
        (con->has_password && !take_bytes(c, &con->password)) || c->left)
        return fault(out, -EPROTO, "user name or password of CONNECT is malformed");
    return 0;
}

static int read_publish(struct packet *out, struct cursor *c, uint8_t flags)
{
    struct packet_publish *pub = &out->publish;
    pub->dup = flags & 0x08;
    pub->qos = flags >> 1 & 3;
    pub->retain = flags & 0x01;
    if (pub->qos == 3 || (pub->dup && pub->qos == 0))
        return fault(out, -EPROTO, "PUBLISH with a QoS that does not exist");
    if (!take_text(c, &pub->topic) || pub->topic.len == 0)
        return fault(out, -EPROTO, "PUBLISH with a topic that is not text");
    if (memchr(pub->topic.p, '+', pub->topic.len) || memchr(pub->topic.p, '#', pub->topic.len))
        return fault(out, -EPROTO, "PUBLISH to a topic with wildcards");
    if (pub->qos && (!take16(c, &pub->id) || pub->id == 0))
        return fault(out, -EPROTO, "PUBLISH without a packet id");
    pub->payload = c->p;
    pub->len = c->left;
    return 0;
}

bool packet_filter(struct packet_filters *from, struct text *filter, uint8_t *qos)
{
    struct cursor c = { (const uint8_t *)from->rest.p, from->rest.len };
    *qos = 0;
    if (!take_text(&c, filter) || (from->with_qos && !take8(&c, qos)))
        return false;
    from->rest = (struct text){ (const char *)c.p, c.left };
    return true;
}

static int read_filters(struct packet *out, struct cursor *c)
{
    struct packet_filters *f = &out->filters, walk;
    struct text filter;
    uint8_t qos;
    f->with_qos = out->type == PACKET_SUBSCRIBE;
    if (!take16(c, &f->id) || f->id == 0)
        return fault(out, -EPROTO, "SUBSCRIBE or UNSUBSCRIBE without a packet id");
    f->rest = (struct text){ (const char *)c->p, c->left };
    for (walk = *f; walk.rest.len; f->count++)
        if (!packet_filter(&walk, &filter, &qos) || qos > 2 || filter.len == 0 ||
            f->count == PACKET_FILTERS_MAX)
            return fault(out, -EPROTO, "a topic filter is malformed");
    return f->count ? 0 : fault(out, -EPROTO, "SUBSCRIBE or UNSUBSCRIBE of nothing");
}

static int read_id(struct packet *out, struct cursor *c)
{
    return take16(c, &out->id) && out->id ? 0 : fault(out, -EPROTO, "an answer without packet id");
}

static int read_body(struct packet *out, struct cursor *c, uint8_t flags)
{
    switch (out->type) {
    case PACKET_CONNECT:
        return read_connect(out, c);
    case PACKET_PUBLISH:
        return read_publish(out, c, flags);
    case PACKET_SUBSCRIBE:
    case PACKET_UNSUBSCRIBE:
        return read_filters(out, c);
    case PACKET_PINGREQ:
    case PACKET_DISCONNECT:
        return 0;
    default:
        return read_id(out, c);
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

static int check_header(struct packet *out, uint8_t first, size_t remaining)
{
    const struct kind *k = &kinds[first >> 4];
    if (remaining < k->least)
        return fault(out, -EPROTO, "a packet too short for its type");
    if (remaining > k->most)
        return k->most > SMALL_MAX_BYTES ? fault(out, -EMSGSIZE, "PUBLISH of more than 1 MB")
                                         : fault(out, -EPROTO, "a packet too long for its type");
    return 0;
}

/* A PUBLISH is measured without its topic as soon as the length of that is known. */
static int check_payload(struct packet *out, const uint8_t *body, size_t have, size_t remaining,
                         uint8_t flags)
{
    if (out->type != PACKET_PUBLISH || have < 2)
        return 0;
    size_t before = 2 + ((size_t)body[0] << 8 | body[1]) + (flags & 6 ? 2 : 0);
    if (before > remaining)
        return fault(out, -EPROTO, "PUBLISH with a topic longer than itself");
    return remaining - before > PACKET_PAYLOAD_MAX_BYTES
               ? fault(out, -EMSGSIZE, "PUBLISH of more than 1 MB")
               : 0;
}

ssize_t packet_read(struct packet *out, const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t remaining;
    int n, rc;
    *out = (struct packet){ 0 };
    if (len == 0)
        return 0;
    const struct kind *k = &kinds[p[0] >> 4];
    if (!k->known || (!k->any_flags && (p[0] & 15) != k->flags))
        return fault(out, -EPROTO, "a first byte that no packet has");
    out->type = p[0] >> 4;
    if ((n = read_length(out, p + 1, len - 1, &remaining)) <= 0)
        return n;
    struct cursor c = { p + 1 + n, remaining };
    size_t have = len - 1 - (size_t)n;
    if ((rc = check_header(out, p[0], remaining)) < 0 ||
        (rc = check_payload(out, c.p, have, remaining, p[0] & 15)) < 0)
        return rc;
    if (have < remaining)
        return 0;
    if ((rc = read_body(out, &c, p[0] & 15)) < 0)
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

void packet_put_connack(struct cw_buf *to, uint8_t code)
{
    cw_buf_add(to, (uint8_t[]){ PACKET_CONNACK << 4, 2, 0, code }, 4);
}

void packet_put_ack(struct cw_buf *to, enum packet_type type, uint16_t id)
{
    cw_buf_add(to, (uint8_t[]){ (uint8_t)(type << 4), 2, (uint8_t)(id >> 8), (uint8_t)id }, 4);
}

void packet_put_suback(struct cw_buf *to, uint16_t id, const uint8_t *codes, size_t n)
{
    put_header(to, PACKET_SUBACK << 4, 2 + n);
    cw_buf_add(to, (uint8_t[]){ (uint8_t)(id >> 8), (uint8_t)id }, 2);
    cw_buf_add(to, codes, n);
}

void packet_put_pingresp(struct cw_buf *to)
{
    cw_buf_add(to, (uint8_t[]){ PACKET_PINGRESP << 4, 0 }, 2);
}

void packet_put_publish(struct cw_buf *to, struct text topic, const void *payload, size_t len,
                        uint8_t qos, uint16_t id)
{
    put_header(to, (uint8_t)(PACKET_PUBLISH << 4 | qos << 1), 2 + topic.len + (qos ? 2 : 0) + len);
    cw_buf_add(to, (uint8_t[]){ (uint8_t)(topic.len >> 8), (uint8_t)topic.len }, 2);
    cw_buf_add(to, topic.p, topic.len);
    if (qos)
        cw_buf_add(to, (uint8_t[]){ (uint8_t)(id >> 8), (uint8_t)id }, 2);
    cw_buf_add(to, payload, len);
}

void packet_set_dup(char *packed) { packed[0] = (char)(packed[0] | 0x08); }

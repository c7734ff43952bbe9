/* What a client id says, read from the right, since a device id has underscores of its own. */
#include <string.h>

#include "services/mqtt-gateway/topic.h"

#define CLIENT_ID_MAX 256

static bool is_device_id(struct text t)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    if (t.len == 0 || t.len > DEVICE_ID_MAX)
        return false;
    for (size_t i = 0; i < t.len; i++)
        if (!t.p[i] || !strchr(allowed, t.p[i]))
            return false;
    return true;
}

/* Takes "_<n characters>" from the end. */
static bool take_last(struct text *t, size_t n, const char **field)
{
    if (t->len < n + 1 || t->p[t->len - n - 1] != '_')
        return false;
    *field = t->p + t->len - n;
    t->len -= n + 1;
    return true;
}

static bool is_digits(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] < '0' || p[i] > '9')
            return false;
    return true;
}

static bool is_scope_id(struct text t)
{
    if (t.len < SCOPE_ID_MIN || t.len > SCOPE_ID_MAX)
        return false;
    for (size_t i = 0; i < t.len; i++)
        if (!(t.p[i] >= '0' && t.p[i] <= '9') &&
            !((t.p[i] | 0x20) >= 'a' && (t.p[i] | 0x20) <= 'z'))
            return false;
    return true;
}

/* What a certificate logs in with needs no timestamp: it is one that nobody looks at. */
#define NO_STAMP "0000000000"

/* The forms that name a registration group; the id in front is the user name. */
static bool read_scope(struct client_id *out, struct text id, struct text user)
{
    const char *stamp = NO_STAMP, *sign = "0";
    if (id.len < user.len || memcmp(id.p, user.p, user.len) != 0)
        return false;
    id = (struct text){ id.p + user.len, id.len - user.len };
    if (!text_skip(&id, "_0_"))
        return false;
    struct text rest = id;
    if (take_last(&rest, 10, &stamp) && is_digits(stamp, 10) && take_last(&rest, 1, &sign) &&
        *sign >= '0' && *sign <= '1')
        id = rest;
    else
        stamp = NO_STAMP, sign = "0";
    if (!is_scope_id(id))
        return false;
    memcpy(out->scope_id, id.p, id.len);
    memcpy(out->timestamp, stamp, 10);
    out->sign_type = (uint8_t)(*sign - '0');
    return true;
}

static const char *read_plain(struct client_id *out, struct text id, struct text user)
{
    const char *stamp, *sign, *type;
    if (!take_last(&id, 10, &stamp) || !is_digits(stamp, 10))
        return "The client id does not end in _ and a timestamp of ten digits (YYYYMMDDHH, UTC).";
    if (!take_last(&id, 1, &sign) || !is_digits(sign, 1) || !take_last(&id, 1, &type))
        return "The client id is not <device id>_0_<sign type>_<timestamp>.";
    if (*type != '0' && *type != '3')
        return "The id type of the client id is not 0 (device) or 3 (bridge): others are not "
               "offered.";
    if (*type == '3' && user.len > BRIDGE_ID_MAX)
        return "A bridge's id has 36 characters at most.";
    if (*sign > '1')
        return "The sign type of the client id is not 0 or 1 (HMAC-SHA256): others are not "
               "offered.";
    if (id.len != user.len || memcmp(id.p, user.p, id.len) != 0)
        return "The client id does not begin with the user name; both must be the device id.";
    memcpy(out->timestamp, stamp, 10);
    out->sign_type = (uint8_t)(*sign - '0');
    out->bridge = *type == '3';
    return NULL;
}

const char *client_id_read(struct client_id *out, struct text id, struct text user)
{
    *out = (struct client_id){ 0 };
    if (!is_device_id(user))
        return "The user name is not a device id (1 to 128 letters, digits, _ and -).";
    memcpy(out->device_id, user.p, user.len);
    if (id.len > CLIENT_ID_MAX)
        return "The client id has more than 256 characters.";
    const char *wrong = read_plain(out, id, user);
    return wrong && read_scope(out, id, user) ? NULL : wrong;
}

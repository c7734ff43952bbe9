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

const char *client_id_read(struct client_id *out, struct text id, struct text user)
{
    const char *stamp, *sign, *type;
    *out = (struct client_id){ 0 };
    if (!is_device_id(user))
        return "The user name is not a device id (1 to 128 letters, digits, _ and -).";
    memcpy(out->device_id, user.p, user.len);
    if (id.len > CLIENT_ID_MAX)
        return "The client id has more than 256 characters.";
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

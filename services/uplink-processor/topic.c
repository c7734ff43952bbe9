#include "services/uplink-processor/topic.h"

#include <string.h>

static const struct {
    const char *path; /* below $oc/devices/{id}/sys/ */
    enum topic_kind kind;
} paths[] = {
    { "properties/report", TOPIC_REPORT },
    { "messages/up", TOPIC_MESSAGE },
    { "gateway/sub_devices/properties/report", TOPIC_CHILDREN },
    { "events/up", TOPIC_EVENTS },
    { "events/down", TOPIC_EVENTS },
    { "bootstrap/up", TOPIC_BOOTSTRAP },
    { "sub_device_manage/messages/up", TOPIC_OLD },
};

/* The request id follows. */
static const struct {
    const char *path;
    enum topic_kind kind;
} requests[] = {
    { "commands/response/request_id=", TOPIC_COMMAND_RESPONSE },
    { "properties/set/response/request_id=", TOPIC_COMMAND_RESPONSE },
    { "properties/get/response/request_id=", TOPIC_COMMAND_RESPONSE },
    { "shadow/get/request_id=", TOPIC_SHADOW_GET },
};

static const char *after(const char *text, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(text, prefix, n) == 0 ? text + n : NULL;
}

/* Longer ids are nobody's: then the platform's own is used. */
static void take_id(struct topic *t, const char *id, size_t n)
{
    if (n >= sizeof t->request_id)
        return;
    memcpy(t->request_id, id, n);
    t->request_id[n] = '\0';
}

/* a=b&c=d behind the question mark. */
static void read_suffix(struct topic *t, const char *at)
{
    while (*at) {
        size_t n = strcspn(at, "&");
        const char *id = after(at, "request_id=");
        if (id && id <= at + n)
            take_id(t, id, n - (size_t)(id - at));
        at += n + (at[n] == '&');
    }
}

static void read_system(struct topic *t, const char *path)
{
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        const char *id = after(path, requests[i].path);
        if (!id)
            continue;
        t->kind = requests[i].kind;
        take_id(t, id, strlen(id));
        return;
    }
    size_t n = strcspn(path, "?");
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (strlen(paths[i].path) == n && strncmp(path, paths[i].path, n) == 0)
            t->kind = paths[i].kind;
    t->system = path[n] == '\0';
    if (path[n] == '?')
        read_suffix(t, path + n + 1);
}

void topic_read(struct topic *t, const char *text, const char *device_id)
{
    *t = (struct topic){ .kind = TOPIC_UNKNOWN };
    const char *rest = after(text, "$oc/devices/");
    if (!rest) {
        if (strncmp(text, "$oc/", 4) != 0 || strncmp(text, "$oc/m2m/", 8) == 0)
            t->kind = TOPIC_MESSAGE;
        return;
    }
    size_t n = strlen(device_id);
    if (strncmp(rest, device_id, n) != 0 || rest[n] != '/')
        return;
    rest += n + 1;
    const char *path = after(rest, "sys/");
    t->standard = path != NULL;
    if (path)
        read_system(t, path);
    else if (after(rest, "user/"))
        t->kind = TOPIC_MESSAGE;
}

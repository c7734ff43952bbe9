#include "services/mqtt-gateway/topic.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CUSTOM_TOPIC_MAX 128
#define RID              "request_id="

enum direction { UP, DOWN };

/* Below $oc/devices/<own id>/sys/. */
static const struct row {
    const char *name;
    enum direction direction;
    bool rid;    /* ends in /request_id=<text> */
    bool query;  /* may end in ?request_id=…&encoding=… */
    bool report; /* 64 KB at most */
    bool answer;
} rows[] = {
    { "messages/up", UP, false, true, false, false },
    { "messages/down", DOWN, false, false, false, false },
    { "properties/report", UP, false, true, true, false },
    { "gateway/sub_devices/properties/report", UP, false, true, true, false },
    { "properties/set", DOWN, true, false, false, false },
    { "properties/set/response", UP, true, false, false, true },
    { "properties/get", DOWN, true, false, false, false },
    { "properties/get/response", UP, true, false, false, true },
    { "commands", DOWN, true, false, false, false },
    { "commands/response", UP, true, false, false, true },
    { "shadow/get", UP, true, false, false, false },
    { "shadow/get/response", DOWN, true, false, false, false },
    { "events/up", UP, false, false, false, false },
    { "events/down", DOWN, false, false, false, false },
    { "events/down", UP, false, false, false, false }, /* the Go SDK reports results there */
    { "bootstrap/up", UP, false, false, false, false },
    { "bootstrap/down", DOWN, false, false, false, false },
    { "sub_device_manage/messages/up", UP, false, false, false, false },
};

/* Takes "$oc/devices/<device id>/" away. */
static bool skip_own(struct text *t, const char *device_id)
{
    struct text rest = *t;
    if (!text_skip(&rest, "$oc/devices/") || !text_skip(&rest, device_id) || !text_skip(&rest, "/"))
        return false;
    *t = rest;
    return true;
}

static bool has_control(struct text t)
{
    for (size_t i = 0; i < t.len; i++)
        if ((unsigned char)t.p[i] < 0x20 || t.p[i] == 0x7f)
            return true;
    return false;
}

/* "request_id=c&encoding=gzip"; false when a name is unknown or a value bad. */
static bool read_query(struct text query, struct text *request_id, bool *gzip)
{
    while (query.len) {
        const char *amp = memchr(query.p, '&', query.len);
        struct text pair = { query.p, amp ? (size_t)(amp - query.p) : query.len };
        query.p += pair.len + (amp ? 1 : 0);
        query.len -= pair.len + (amp ? 1 : 0);
        if (text_skip(&pair, RID)) {
            if (pair.len == 0 || pair.len > REQUEST_ID_MAX || has_control(pair))
                return false;
            *request_id = pair;
        } else if (text_is(pair, "encoding=gzip"))
            *gzip = true;
        else
            return false;
    }
    return true;
}

/* True when rest (after sys/) is what the row describes. */
static bool row_takes(const struct row *row, struct text rest, struct text *request_id, bool *gzip)
{
    struct text query = { 0 };
    const char *mark = row->query ? memchr(rest.p, '?', rest.len) : NULL;
    if (mark) {
        query = (struct text){ mark + 1, rest.len - (size_t)(mark - rest.p) - 1 };
        rest.len = (size_t)(mark - rest.p);
    }
    *request_id = (struct text){ 0 };
    *gzip = false;
    if (!text_skip(&rest, row->name))
        return false;
    if (!row->rid)
        return rest.len == 0 && read_query(query, request_id, gzip);
    if (!text_skip(&rest, "/" RID) || rest.len == 0 || rest.len > REQUEST_ID_MAX ||
        memchr(rest.p, '/', rest.len) || has_control(rest))
        return false;
    *request_id = rest;
    return true;
}

static const struct row *find_row(struct text rest, enum direction d, struct text *request_id,
                                  bool *gzip)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++)
        if (rows[i].direction == d && row_takes(&rows[i], rest, request_id, gzip))
            return &rows[i];
    return NULL;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

size_t topic_distance(struct text a, const char *b)
{
    size_t line[CUSTOM_NAME_MAX + 1], n = strlen(b);
    if (a.len && a.len < n && b[a.len] == '/' && memcmp(a.p, b, a.len) == 0)
        return 1; /* only the rest was forgotten */
    for (size_t j = 0; j <= n; j++)
        line[j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t diagonal = line[0];
        line[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t same = diagonal + (a.p[i - 1] != b[j - 1]);
            diagonal = line[j];
            line[j] = least(same, least(line[j], line[j - 1]) + 1);
        }
    }
    return line[n];
}

/* The topic of the table that looks most like what was meant; rest as after sys/. */
static void find_nearest(struct topic_info *out, const char *device_id, struct text rest)
{
    const struct row *best = NULL;
    size_t best_d = SIZE_MAX, end = 0;
    while (end < rest.len && end < 60 && rest.p[end] != '?' &&
           !(rest.p[end] == '/' && rest.len - end > strlen(RID) &&
             memcmp(rest.p + end + 1, RID, strlen(RID)) == 0))
        end++;
    rest.len = end;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        size_t d = rows[i].direction == UP ? topic_distance(rest, rows[i].name) : SIZE_MAX;
        if (d < best_d) {
            best_d = d;
            best = &rows[i];
        }
    }
    snprintf(out->nearest, sizeof out->nearest, "$oc/devices/%s/sys/%s%s", device_id, best->name,
             best->rid ? "/" RID "<the id of the request>" : "");
}

static int refuse(struct topic_info *out, const char *code, const char *rule)
{
    out->code = code;
    out->rule = rule;
    return -EPERM;
}

static int check_system(struct topic_info *out, const char *device_id, struct text rest)
{
    struct text request_id;
    bool gzip;
    const struct row *row = find_row(rest, UP, &out->request_id, &out->gzip);
    if (row) {
        out->report = row->report;
        out->answer = row->answer;
        return 0;
    }
    find_nearest(out, device_id, rest);
    if (find_row(rest, DOWN, &request_id, &gzip))
        return refuse(out, "topic_direction",
                      "This topic is for the platform to speak to devices; "
                      "a device may only receive it.");
    return refuse(out, "topic_unknown", "Below sys/ only the topics of the protocol exist.");
}

static int check_custom(struct topic_info *out, const char *device_id, struct text name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/";
    bool good = name.len >= 1 && name.len <= CUSTOM_NAME_MAX && *name.p != '/';
    for (size_t i = 0; good && i < name.len; i++)
        good = strchr(allowed, name.p[i]) && name.p[i] &&
               !(name.p[i] == '/' && i + 1 < name.len && name.p[i + 1] == '/');
    out->custom = name;
    if (good)
        return 0;
    find_nearest(out, device_id, (struct text){ "messages/up", 11 });
    return refuse(out, "topic_custom_name",
                  "The name of a custom topic has 1 to 64 letters, digits, _ and /, no two / in a "
                  "row.");
}

/* $oc/m2m/to/<other>/from/<own id>[/…]: its own id cannot be another's. */
static bool is_own_m2m(const char *device_id, struct text rest)
{
    const char *slash;
    if (!text_skip(&rest, "$oc/m2m/to/") || !(slash = memchr(rest.p, '/', rest.len)))
        return false;
    rest.len -= (size_t)(slash - rest.p);
    rest.p = slash;
    return text_skip(&rest, "/from/") && text_skip(&rest, device_id) &&
           (rest.len == 0 || *rest.p == '/');
}

/* $oc/ and not below the device's own id. */
static int check_foreign(struct topic_info *out, const char *device_id, struct text topic)
{
    struct text rest = topic;
    if (is_own_m2m(device_id, topic))
        return 0;
    if (text_skip(&rest, "$oc/m2m/"))
        return refuse(out, "topic_m2m",
                      "A device speaks to another on $oc/m2m/to/<its id>/from/<own id>/….");
    if (text_skip(&rest, "$oc/broadcast/"))
        return refuse(out, "topic_broadcast", "Only applications publish to $oc/broadcast/.");
    if (!text_skip(&rest, "$oc/devices/"))
        return refuse(out, "topic_not_offered",
                      "Below $oc/ a device may publish to $oc/devices/<its own id>/ and to "
                      "$oc/m2m/ only.");
    const char *slash = memchr(rest.p, '/', rest.len);
    if (slash) {
        rest.len -= (size_t)(slash + 1 - rest.p);
        rest.p = slash + 1;
        text_skip(&rest, "sys/");
        find_nearest(out, device_id, rest);
    }
    return refuse(out, "topic_foreign_device",
                  "A device may publish below its own device id only.");
}

static bool is_legacy_of_other(struct text topic, const char *device_id)
{
    return text_skip(&topic, "/huawei/v1/devices/") &&
           !(text_skip(&topic, device_id) && text_skip(&topic, "/"));
}

static bool is_legacy_data(struct text topic, const char *device_id)
{
    return text_skip(&topic, "/huawei/v1/devices/") && text_skip(&topic, device_id) &&
           text_is(topic, "/data/json");
}

int topic_check_publish(struct topic_info *out, const char *device_id, struct text topic)
{
    struct text rest = topic;
    out->report = out->answer = out->gzip = out->legacy = false;
    out->request_id = out->custom = (struct text){ 0 };
    out->code = out->rule = NULL;
    out->nearest[0] = '\0';
    if (skip_own(&rest, device_id)) {
        if (text_skip(&rest, "sys/"))
            return check_system(out, device_id, rest);
        if (text_skip(&rest, "user/"))
            return topic.len > CUSTOM_TOPIC_MAX + strlen(device_id)
                       ? refuse(out, "topic_length", "The topic is too long.")
                       : check_custom(out, device_id, rest);
        find_nearest(out, device_id, rest);
        return refuse(out, "topic_unknown", "After the device id comes sys/ or user/.");
    }
    if (text_skip(&rest, "$oc/"))
        return check_foreign(out, device_id, topic);
    if (topic.p[0] == '$')
        return refuse(out, "topic_not_offered", "Topics that begin with $ belong to the platform.");
    if (is_legacy_of_other(topic, device_id))
        return refuse(out, "topic_foreign_device", "The topic names another device.");
    out->legacy = out->report = is_legacy_data(topic, device_id);
    return out->legacy || topic.len <= CUSTOM_TOPIC_MAX
               ? 0
               : refuse(out, "topic_length", "A topic outside $oc/ has 128 bytes at most.");
}

static bool is_filter(struct text f)
{
    for (size_t i = 0; i < f.len; i++) {
        if (f.p[i] != '+' && f.p[i] != '#')
            continue;
        if ((i > 0 && f.p[i - 1] != '/') || (i + 1 < f.len && f.p[i + 1] != '/') ||
            (f.p[i] == '#' && i + 1 < f.len))
            return false;
    }
    return f.len > 0;
}

/* Does a filter below sys/ catch anything that the platform sends? */
static bool catches_down(struct text rest)
{
    char sample[96];
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        struct text request_id;
        bool gzip;
        if (rows[i].direction != DOWN)
            continue;
        int n = snprintf(sample, sizeof sample, "%s%s", rows[i].name, rows[i].rid ? "/" RID : "");
        if (topic_matches(rest, (struct text){ sample, (size_t)n }) ||
            row_takes(&rows[i], rest, &request_id, &gzip))
            return true;
    }
    return false;
}

int topic_check_filter(const char *device_id, struct text filter)
{
    struct text rest = filter;
    if (!is_filter(filter))
        return -EINVAL;
    if (skip_own(&rest, device_id)) {
        if (text_skip(&rest, "user/"))
            return rest.len ? 0 : -EPERM;
        return text_is(rest, "#") || (text_skip(&rest, "sys/") && catches_down(rest)) ? 0 : -EPERM;
    }
    if (text_skip(&rest, "$oc/broadcast/"))
        return rest.len ? 0 : -EPERM;
    if (text_skip(&rest, "$oc/m2m/to/"))
        return text_skip(&rest, device_id) && text_skip(&rest, "/") && rest.len ? 0 : -EPERM;
    return filter.p[0] == '$' || is_legacy_of_other(filter, device_id) ? -EPERM : 0;
}

struct text topic_custom(const char *device_id, struct text topic)
{
    return skip_own(&topic, device_id) && text_skip(&topic, "user/") ? topic : (struct text){ 0 };
}

bool topic_is_free(struct text topic)
{
    return topic.len && topic.p[0] != '$' && !text_skip(&topic, "/huawei/v1/");
}

bool topic_is_system_down(const char *device_id, struct text topic)
{
    struct text request_id;
    bool gzip;
    return skip_own(&topic, device_id) && text_skip(&topic, "sys/") &&
           find_row(topic, DOWN, &request_id, &gzip);
}

struct text topic_request_id(struct text topic)
{
    const char *slash = memrchr(topic.p, '/', topic.len);
    struct text last = slash ? (struct text){ slash + 1, topic.len - (size_t)(slash + 1 - topic.p) }
                             : (struct text){ 0 };
    return last.p && text_skip(&last, RID) ? last : (struct text){ 0 };
}

/* Takes the first level away; false when there was none. */
static bool next_level(struct text *from, struct text *level)
{
    if (!from->p)
        return false;
    const char *slash = from->len ? memchr(from->p, '/', from->len) : NULL;
    *level = (struct text){ from->p, slash ? (size_t)(slash - from->p) : from->len };
    *from = slash ? (struct text){ slash + 1, from->len - level->len - 1 } : (struct text){ 0 };
    return true;
}

bool topic_matches(struct text filter, struct text topic)
{
    struct text f, t;
    if (topic.len && topic.p[0] == '$' && filter.len && filter.p[0] != '$')
        return false;
    while (next_level(&filter, &f)) {
        if (text_is(f, "#"))
            return true;
        if (!next_level(&topic, &t) ||
            (!text_is(f, "+") && (f.len != t.len || memcmp(f.p, t.p, f.len) != 0)))
            return false;
    }
    return !topic.p;
}

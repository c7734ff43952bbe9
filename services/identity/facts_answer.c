/* What the processes have told, put together. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "proto/subjects.h"
#include "services/identity/facts.h"

#define NEAR_PERCENT 80
#define DAY_MS       (24LL * 3600 * 1000)
#define EXPIRY_DAYS  30

/* All that IoTDA has, too; why: what to tell when nobody listens for it. */
static const struct {
    const char *name, *why;
} protocols[] = {
    { "mqtt", "no mqtt-gateway listens: CAUSEWAY_MQTT_PORT is 0, or none runs" },
    { "mqtts", "no mqtt-gateway listens: CAUSEWAY_MQTTS_PORT is 0, or none runs" },
    { "ws", "no mqtt-gateway listens: CAUSEWAY_MQTT_WS_PORT is 0, or none runs" },
    { "wss", "no mqtt-gateway listens: CAUSEWAY_MQTT_WSS_PORT is 0, or none runs" },
    { "mqtts11", "off unless CAUSEWAY_MQTTS11_PORT is set: TLS 1.1 is weak" },
    { "http", "no rest-gateway listens: CAUSEWAY_HTTP_PORT is 0" },
    { "https", "no rest-gateway listens: CAUSEWAY_HTTPS_PORT is 0" },
    { "coap", "not part of this release" },
    { "coaps", "not part of this release" },
    { "https_device", "not part of this release" },
    { "amqps", "not part of this release" },
};

struct facts_ports {
    bool given;
    int number[CW_ARRAY_LEN(protocols)]; /* 0: not published */
};

static int protocol_find(const char *name, size_t len)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(protocols); i++)
        if (strlen(protocols[i].name) == len && memcmp(protocols[i].name, name, len) == 0)
            return (int)i;
    return -1;
}

struct facts_ports *facts_ports_read(const char *text, char *err, size_t size)
{
    struct facts_ports *p = cw_calloc(1, sizeof *p);
    for (const char *at = text + strspn(text, " "); *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " "), name = strcspn(at, "= ");
        char *end;
        int i = protocol_find(at, name);
        long port = at[name] == '=' ? strtol(at + name + 1, &end, 10) : 0;
        if (i < 0 || port < 1 || port > 65535 || end != at + n) {
            snprintf(err, size,
                     "CAUSEWAY_PUBLIC_PORTS: \"%.*s\" is not <protocol>=<port>; protocols: mqtt, "
                     "mqtts, ws, wss, mqtts11, http, https",
                     (int)(n < 100 ? n : 100), at);
            free(p);
            return NULL;
        }
        p->given = true;
        p->number[i] = (int)port;
        at += n;
    }
    return p;
}

/* ---- addresses */

static bool is_any(const char *address)
{
    return strcmp(address, "0.0.0.0") == 0 || strcmp(address, "::") == 0;
}

/* The name of the machine, where a daemon listens on all its addresses. */
static const char *public_host(const struct facts *f, const char *address, char name[256])
{
    if (*f->i->public_host)
        return f->i->public_host;
    if (!is_any(address) || gethostname(name, 255) < 0)
        return address;
    name[255] = '\0';
    return name;
}

static json_int_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static json_t *find_address(json_t *list, const char *protocol, const char *host, int64_t port)
{
    size_t i;
    json_t *a;
    json_array_foreach(list, i, a)
    {
        if (strcmp(cw_json_text(a, "protocol"), protocol) == 0 &&
            strcmp(cw_json_text(a, "host"), host) == 0 && number(a, "port") == port)
            return a;
    }
    return NULL;
}

static void add_address(const struct facts *f, json_t *list, const char *daemon, json_t *listener)
{
    const char *protocol = cw_json_text(listener, "protocol");
    char name[256] = "";
    const char *host = public_host(f, cw_json_text(listener, "address"), name);
    int64_t port = number(listener, "port");
    int known = protocol_find(protocol, strlen(protocol));
    if (f->ports->given && known >= 0)
        port = f->ports->number[known];
    if (!port)
        return; /* entries do not publish it */
    json_t *a = find_address(list, protocol, host, port);
    if (!a) {
        a = json_pack("{s:s, s:s, s:I, s:s, s:i}", "protocol", protocol, "host", host, "port",
                      (json_int_t)port, "daemon", daemon, "instances", 0);
        if (json_object_get(listener, "tls"))
            json_object_set(a, "tls", json_object_get(listener, "tls"));
        json_array_append_new(list, a);
    }
    json_object_set_new(a, "instances", json_integer(number(a, "instances") + 1));
}

static json_t *addresses(const struct facts *f, const json_t *answers)
{
    json_t *list = json_array(), *a, *l;
    size_t i, k;
    json_array_foreach(answers, i, a)
    {
        json_array_foreach(json_object_get(a, "listeners"), k, l)
        {
            add_address(f, list, cw_json_text(a, "daemon"), l);
        }
    }
    return list;
}

static json_t *not_there(const json_t *addresses)
{
    json_t *list = json_array();
    for (size_t i = 0; i < CW_ARRAY_LEN(protocols); i++)
        if (!cw_json_find(addresses, "protocol", protocols[i].name))
            json_array_append_new(list, json_pack("{s:s, s:s}", "protocol", protocols[i].name,
                                                  "reason", protocols[i].why));
    return list;
}

/* ---- limits */

static json_t *find_limit(json_t *list, const char *daemon, const char *setting)
{
    size_t i;
    json_t *l;
    json_array_foreach(list, i, l)
    {
        if (strcmp(cw_json_text(l, "daemon"), daemon) == 0 &&
            strcmp(cw_json_text(l, "setting"), setting) == 0)
            return l;
    }
    return NULL;
}

static void add_limit(json_t *list, const char *daemon, json_t *setting)
{
    json_t *known = find_limit(list, daemon, cw_json_text(setting, "setting"));
    if (!known) {
        known = json_pack("{s:s}", "daemon", daemon);
        json_array_append_new(list, known);
    } else if (number(known, "used") >= number(setting, "used"))
        return;
    json_object_update(known, setting);
}

/* Of several instances the one that has used most. */
static json_t *limits(const json_t *answers)
{
    json_t *list = json_array(), *a, *s;
    size_t i, k;
    json_array_foreach(answers, i, a)
    {
        json_array_foreach(json_object_get(a, "settings"), k, s)
        {
            add_limit(list, cw_json_text(a, "daemon"), s);
        }
    }
    return list;
}

static void warn(json_t *list, char *take)
{
    json_array_append_new(list, json_string(take));
    free(take);
}

static void warn_of_limits(json_t *warnings, const json_t *limits)
{
    size_t i;
    const json_t *l;
    json_array_foreach(limits, i, l)
    {
        json_int_t max = number(l, "value"), used = number(l, "used");
        if (!json_object_get(l, "used") || max <= 0 || used < (max * NEAR_PERCENT + 99) / 100)
            continue;
        const char *setting = cw_json_text(l, "setting"), *daemon = cw_json_text(l, "daemon");
        warn(warnings, cw_sprintf("%s: %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT
                                  " are used (%s of %s)%s: %s.",
                                  cw_json_text(l, "meaning"), used, max, setting, daemon,
                                  used >= max ? ", the limit is reached" : "; at the limit",
                                  cw_json_text(l, "at_limit")));
    }
}

static void warn_of_certificates(json_t *warnings, const json_t *addresses)
{
    size_t i;
    const json_t *a;
    json_array_foreach(addresses, i, a)
    {
        const json_t *cert = json_object_get(json_object_get(a, "tls"), "certificate");
        const char *end = cw_json_text(cert, "expiry_date");
        int64_t ms;
        if (!end || cw_time_parse_basic(&ms, end) < 0 || ms > cw_now_ms() + EXPIRY_DAYS * DAY_MS)
            continue;
        warn(warnings, cw_sprintf("the certificate of %s, port %" JSON_INTEGER_FORMAT ", %s on %s.",
                                  cw_json_text(a, "protocol"), number(a, "port"),
                                  ms < cw_now_ms() ? "ended" : "ends", end));
    }
}

static void warn_of_trouble(json_t *warnings, const json_t *answers)
{
    size_t i;
    const json_t *a;
    json_array_foreach(answers, i, a)
    {
        const char *trouble = cw_json_text(a, "trouble");
        if (trouble)
            warn(warnings, cw_sprintf("%s: %s.", cw_json_text(a, "instance"), trouble));
    }
}

/* ---- processes */

static json_t *processes(const json_t *answers)
{
    json_t *list = json_array();
    size_t i;
    const json_t *a;
    json_array_foreach(answers, i, a)
    {
        json_t *p = json_object();
        json_object_set(p, "daemon", json_object_get(a, "daemon"));
        json_object_set(p, "instance", json_object_get(a, "instance"));
        json_object_set(p, "started", json_object_get(a, "started"));
        json_array_append_new(list, p);
    }
    return list;
}

/* Names of daemons, separated by spaces. */
static const char *asked(void)
{
#define OF_FACTS(name, pattern, kind, senders, receivers)                                          \
    if (strcmp(#name, "FACTS") == 0)                                                               \
        return receivers;
    CW_SUBJECTS(OF_FACTS)
#undef OF_FACTS
    abort(); /* a mistake in the list */
}

json_t *facts_missing(const json_t *answers)
{
    json_t *list = json_array();
    for (const char *p = asked(); *p;) {
        size_t n = strcspn(p, " ");
        char *name = cw_strndup(p, n);
        if (!cw_json_find(answers, "daemon", name))
            json_array_append_new(list, json_string(name));
        free(name);
        p += n + (p[n] == ' ');
    }
    return list;
}

/* The first of this name that a process has told; NULL: none has. */
static json_t *told(const json_t *answers, const char *name)
{
    size_t i;
    const json_t *a;
    json_array_foreach(answers, i, a)
    {
        if (json_object_get(a, name))
            return json_object_get(a, name);
    }
    return NULL;
}

static bool holds(const json_t *list, const json_t *value)
{
    size_t i;
    const json_t *known;
    json_array_foreach(list, i, known)
    {
        if (json_equal(known, value))
            return true;
    }
    return false;
}

/* Of all push-notifiers, each address once. */
static json_t *push_sources(const json_t *answers)
{
    json_t *list = json_array(), *a, *s;
    size_t i, k;
    json_array_foreach(answers, i, a)
    {
        json_array_foreach(json_object_get(a, "push_source_addresses"), k, s)
        {
            if (!holds(list, s))
                json_array_append(list, s);
        }
    }
    return list;
}

json_t *facts_merge(const struct facts *f, const json_t *answers)
{
    char now[CW_TIME_LEN];
    json_t *at = addresses(f, answers), *all = limits(answers), *warnings = json_array();
    json_t *o = json_pack("{s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o}", "time",
                          cw_time_basic(now, cw_now_ms()), "strict", cw_app_strict(f->i->app),
                          "addresses", at, "unavailable", not_there(at), "push_source_addresses",
                          push_sources(answers), "device_sdks", facts_sdks(at), "daemons",
                          processes(answers), "missing", facts_missing(answers));
    static const char *const copied[] = { "default_app_id", "bootstrap_address" };
    for (size_t i = 0; i < CW_ARRAY_LEN(copied); i++)
        if (told(answers, copied[i]))
            json_object_set(o, copied[i], told(answers, copied[i]));
    if (f->ca)
        json_object_set_new(o, "ca_certificate", json_string(f->ca));
    warn_of_limits(warnings, all);
    warn_of_certificates(warnings, at);
    warn_of_trouble(warnings, answers);
    json_object_set_new(o, "warnings", warnings);
    json_object_set_new(o, "limits", all);
    return o;
}

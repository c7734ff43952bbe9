/* devices.c - a connection for each device, all served by one poll(). */
#include "simulator.h"

#include <mosquitto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define KEEP_ALIVE_S  60
#define RETRY_MAX_S   30
#define DEVICES_MAX   1000
#define MESSAGE_SHOWN 200

enum link { LINK_DOWN, LINK_WAITING, LINK_UP };

struct device {
    struct device *next;
    char id[129], secret[257];
    struct thing thing;
    struct mosquitto *mosq;
    enum link link;
    unsigned tries, reports, unacknowledged;
    int64_t retry_s;
    const struct options *o;
};

static void say(const struct device *d, const char *what, const char *detail)
{
    char clock[16];
    time_t t = time(NULL);
    struct tm tm;
    strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&t, &tm));
    printf("%s  %-24s %-13s %s%s\n", clock, d->id, d->thing.kind->label, what, detail);
    fflush(stdout);
}

/* ---- login: the timestamp is the key of the password, the secret its message */

static void password(const char *secret, const char *stamp, char hex[65])
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    HMAC(EVP_sha256(), stamp, strlen(stamp), (const unsigned char *)secret, strlen(secret), mac,
         &len);
    for (unsigned i = 0; i < 32; i++)
        sprintf(hex + 2 * i, "%02x", mac[i]);
}

static void link_down(struct device *d, int64_t now_s)
{
    d->link = LINK_DOWN;
    d->unacknowledged = 0;
    d->retry_s = now_s + (1 << (d->tries < 5 ? d->tries : 5));
    if (d->retry_s > now_s + RETRY_MAX_S)
        d->retry_s = now_s + RETRY_MAX_S;
    d->tries++;
}

static void on_connect(struct mosquitto *m, void *arg, int code)
{
    struct device *d = arg;
    (void)m;
    if (code == 0) {
        d->link = LINK_UP;
        d->tries = 0;
    }
    say(d, code == 0 ? "connected" : "refused: ", code == 0 ? "" : mosquitto_connack_string(code));
}

static void on_disconnect(struct mosquitto *m, void *arg, int rc)
{
    struct device *d = arg;
    (void)m;
    if (rc && d->link == LINK_UP)
        say(d, "connection lost: ", mosquitto_strerror(rc));
    link_down(d, time(NULL));
}

static void on_acknowledged(struct mosquitto *m, void *arg, int mid)
{
    struct device *d = arg;
    (void)m, (void)mid;
    if (d->unacknowledged)
        d->unacknowledged--;
}

/* ---- what the platform says */

static void answer(struct device *d, const char *request, json_t *body)
{
    char topic[400];
    char *text = json_dumps(body, JSON_COMPACT);
    snprintf(topic, sizeof topic, "$oc/devices/%s/sys/commands/response/request_id=%s", d->id,
             request);
    if (mosquitto_publish(d->mosq, NULL, topic, strlen(text), text, 1, false) == MOSQ_ERR_SUCCESS)
        d->unacknowledged++;
    free(text);
}

static void obey(struct device *d, const char *request, json_t *in)
{
    const char *command = json_string_value(json_object_get(in, "command_name"));
    const char *service = json_string_value(json_object_get(in, "service_id"));
    json_t *paras = NULL, *body;
    char line[300];
    int code;
    if (!command || (service && *service && strcmp(service, d->thing.kind->service))) {
        code = 1;
        paras = json_pack("{s:s}", "reason", "not a command of this service");
    } else {
        code = d->thing.kind->obey(&d->thing, command, json_object_get(in, "paras"), &paras);
    }
    snprintf(line, sizeof line, "%s -> result_code %d", command ? command : "?", code);
    say(d, "command ", line);
    body = json_pack("{s:i, s:s, s:o}", "result_code", code, "response_name",
                     command ? command : "", "paras", paras);
    answer(d, request, body);
    json_decref(body);
}

static void on_message(struct mosquitto *m, void *arg, const struct mosquitto_message *msg)
{
    struct device *d = arg;
    const char *sys = strstr(msg->topic, "/sys/"), *request;
    char line[MESSAGE_SHOWN + 1];
    json_t *in;
    (void)m;
    if (sys && !strncmp(sys, "/sys/commands/request_id=", 25)) {
        request = sys + 25;
        in = json_loadb(msg->payload, msg->payloadlen, 0, NULL);
        obey(d, request, in);
        json_decref(in);
        return;
    }
    snprintf(line, sizeof line, "%.*s", msg->payloadlen, (const char *)msg->payload);
    say(d, sys && !strcmp(sys, "/sys/messages/down") ? "message " : "received ", line);
}

/* ---- connections */

static void dial(struct device *d, int64_t now_s)
{
    char stamp[11], hex[65];
    time_t t = time(NULL);
    struct tm tm;
    char client[200];
    int rc;
    strftime(stamp, sizeof stamp, "%Y%m%d%H", gmtime_r(&t, &tm));
    password(d->secret, stamp, hex);
    snprintf(client, sizeof client, "%s_0_0_%s", d->id, stamp);
    mosquitto_reinitialise(d->mosq, client, true, d);
    mosquitto_connect_callback_set(d->mosq, on_connect);
    mosquitto_disconnect_callback_set(d->mosq, on_disconnect);
    mosquitto_publish_callback_set(d->mosq, on_acknowledged);
    mosquitto_message_callback_set(d->mosq, on_message);
    mosquitto_username_pw_set(d->mosq, d->id, hex);
    if (d->o->cafile && (rc = mosquitto_tls_set(d->mosq, d->o->cafile, NULL, NULL, NULL, NULL)))
        say(d, "CA file: ", mosquitto_strerror(rc));
    d->link = LINK_WAITING;
    rc = mosquitto_connect(d->mosq, d->o->host, d->o->port, KEEP_ALIVE_S);
    if (rc != MOSQ_ERR_SUCCESS) {
        say(d, "cannot connect: ", mosquitto_strerror(rc));
        link_down(d, now_s);
    }
}

static void report(struct device *d)
{
    char text[200], topic[256];
    json_t *properties = d->thing.kind->report(&d->thing, text, sizeof text);
    json_t *body = json_pack("{s:[{s:s, s:o}]}", "services", "service_id", d->thing.kind->service,
                             "properties", properties);
    char *payload = json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(8));
    snprintf(topic, sizeof topic, "$oc/devices/%s/sys/properties/report", d->id);
    if (mosquitto_publish(d->mosq, NULL, topic, strlen(payload), payload, 1, false) ==
        MOSQ_ERR_SUCCESS) {
        d->reports++;
        d->unacknowledged++;
        say(d, text, "");
    }
    free(payload);
    json_decref(body);
}

void devices_second(struct device *list, int64_t now_s)
{
    for (struct device *d = list; d; d = d->next) {
        d->thing.kind->step(&d->thing);
        if (d->link == LINK_DOWN && now_s >= d->retry_s)
            dial(d, now_s);
        else if (d->link == LINK_UP && !(d->o->once && d->reports))
            report(d);
        mosquitto_loop_misc(d->mosq);
    }
}

void devices_serve(struct device *list, int wait_ms)
{
    static struct pollfd fds[DEVICES_MAX];
    nfds_t n = 0;
    for (struct device *d = list; d; d = d->next) {
        fds[n].fd = mosquitto_socket(d->mosq); /* -1 is left out by poll() */
        fds[n++].events = POLLIN | (mosquitto_want_write(d->mosq) ? POLLOUT : 0);
    }
    if (poll(fds, n, wait_ms) <= 0)
        return;
    n = 0;
    for (struct device *d = list; d; d = d->next, n++) {
        if (fds[n].revents & (POLLIN | POLLERR | POLLHUP))
            mosquitto_loop_read(d->mosq, 1);
        if (mosquitto_socket(d->mosq) >= 0 && mosquitto_want_write(d->mosq))
            mosquitto_loop_write(d->mosq, 1);
    }
}

bool devices_done(const struct device *list)
{
    for (const struct device *d = list; d; d = d->next)
        if (!d->reports || d->unacknowledged)
            return false;
    return true;
}

static struct device *device_new(const struct options *o, const char *line, int number)
{
    struct device *d = calloc(1, sizeof *d);
    char kind[32];
    if (!d)
        abort();
    d->o = o;
    if (sscanf(line, "%128s %256s %31s", d->id, d->secret, kind) == 3)
        d->thing.kind = kind_find(kind);
    if (!d->thing.kind) {
        fprintf(stderr, "simulator: %s:%d: not `device_id secret streetlight|watermeter`\n",
                o->devices, number);
        free(d);
        return NULL;
    }
    d->thing.kind->start(&d->thing, number);
    d->mosq = mosquitto_new(NULL, true, d);
    return d;
}

int devices_load(struct device **list, const struct options *o)
{
    FILE *f = fopen(o->devices, "r");
    char *line = NULL;
    size_t size = 0;
    int count = 0, number = 0;
    if (!f) {
        perror(o->devices);
        return -1;
    }
    for (; count >= 0 && count < DEVICES_MAX && getline(&line, &size, f) > 0;) {
        number++;
        if (*line == '#' || *line == '\n')
            continue;
        if (!(*list = device_new(o, line, number)))
            count = -1;
        else
            list = &(*list)->next, count++;
    }
    free(line);
    fclose(f);
    return count;
}

void devices_close(struct device **list)
{
    for (struct device *d = *list, *next; d; d = next) {
        next = d->next;
        mosquitto_disconnect_callback_set(d->mosq, NULL);
        if (d->link == LINK_UP)
            mosquitto_disconnect(d->mosq);
        mosquitto_destroy(d->mosq);
        free(d);
    }
    *list = NULL;
}

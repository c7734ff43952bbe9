#include "libcommon/notice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <uthash.h>

#include "libcommon/clock.h"
#include "libcommon/ids.h"
#include "libcommon/log_append.h"
#include "libcommon/metrics.h"
#include "libcommon/service.h"
#include "proto/causeway.pb-c.h"

#define KINDS_MAX    4096
#define QUIET_MS     1000 /* between two records of one kind */
#define SAMPLE_BYTES 256
#define TEXT_BYTES   512

static const char *const layers[] = {
    [CW_LAYER_CONNECT] = "connect", [CW_LAYER_AUTHENTICATE] = "authenticate",
    [CW_LAYER_TOPIC] = "topic",     [CW_LAYER_DECODE] = "decode",
    [CW_LAYER_MODEL] = "model",     [CW_LAYER_RULE] = "rule",
    [CW_LAYER_PUSH] = "push",       [CW_LAYER_COMMAND] = "command",
    [CW_LAYER_UPGRADE] = "upgrade",
};

/* One (device, layer, code): sent at once, then again each second while it goes on. */
struct kind {
    UT_hash_handle hh;
    char *key, *device_id, *code, *reason, *next_step, *sample;
    enum cw_layer layer;
    int64_t device_key, first_ms, last_ms;
    uint32_t count; /* not sent yet */
};

struct cw_notices {
    struct cw_app *app;
    struct cw_log_append *uplink;
    struct kind *kinds;
    struct event *timer;
    struct cw_metric *dropped;
};

const char *cw_layer_name(enum cw_layer layer) { return layers[layer]; }

/* A copy that is valid UTF-8 whatever a device sent, and short. */
static char *copy(const char *text, size_t max)
{
    char *s = cw_strndup(text ? text : "", max);
    if (!cw_utf8_valid(s, strlen(s)))
        for (char *c = s; *c; c++)
            if ((unsigned char)*c >= 0x80)
                *c = '?';
    return s;
}

static void kind_free(struct cw_notices *n, struct kind *k)
{
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the table has let go of what was freed */
    HASH_DEL(n->kinds, k);
    free(k->key);
    free(k->device_id);
    free(k->code);
    free(k->reason);
    free(k->next_step);
    free(k->sample);
    free(k);
}

static void append(struct cw_notices *n, struct kind *k)
{
    char id[CW_UUID_LEN];
    Causeway__Notice notice = CAUSEWAY__NOTICE__INIT;
    Causeway__Uplink up = CAUSEWAY__UPLINK__INIT;
    notice.layer = (char *)layers[k->layer];
    notice.code = k->code;
    notice.reason = k->reason;
    notice.next_step = k->next_step;
    notice.sample = k->sample;
    notice.count = k->count;
    notice.first_ms = k->first_ms;
    notice.last_ms = k->last_ms;
    up.kind = CAUSEWAY__UPLINK_KIND__UPLINK_NOTICE;
    up.device_key = k->device_key;
    up.device_id = k->device_id;
    up.received_ms = k->last_ms;
    up.request_id = cw_uuid(id);
    up.notice = &notice;
    size_t len = causeway__uplink__get_packed_size(&up);
    uint8_t *packed = cw_malloc(len);
    causeway__uplink__pack(&up, packed);
    cw_log_append(n->uplink,
                  cw_partition(k->device_id, strlen(k->device_id), cw_app_partitions(n->app)),
                  packed, len, NULL, NULL);
    free(packed);
    k->count = 0;
}

static void replace(char **at, const char *text, size_t max)
{
    free(*at);
    *at = copy(text, max);
}

static struct kind *kind_new(struct cw_notices *n, const struct cw_notice *what, char *key)
{
    struct kind *k = cw_calloc(1, sizeof *k);
    k->key = key;
    k->layer = what->layer;
    k->device_id = copy(what->device_id, TEXT_BYTES);
    k->code = copy(what->code, TEXT_BYTES);
    HASH_ADD_KEYPTR(hh, n->kinds, k->key, strlen(k->key), k);
    return k;
}

void cw_notice(struct cw_notices *n, const struct cw_notice *what)
{
    struct kind *k;
    char *key = cw_sprintf("%d %s %s", (int)what->layer, what->code, what->device_id);
    HASH_FIND_STR(n->kinds, key, k);
    bool fresh = !k;
    if (fresh && HASH_COUNT(n->kinds) >= KINDS_MAX) {
        cw_metric_add(n->dropped, 1);
        free(key);
        return;
    }
    if (fresh)
        k = kind_new(n, what, key);
    else
        free(key);
    replace(&k->reason, what->reason, TEXT_BYTES);
    replace(&k->next_step, what->next_step, TEXT_BYTES);
    replace(&k->sample, what->sample, SAMPLE_BYTES);
    k->device_key = what->device_key ? what->device_key : k->device_key;
    k->last_ms = cw_now_ms();
    if (k->count++ == 0)
        k->first_ms = k->last_ms;
    if (fresh)
        append(n, k);
}

/* What went on since the last second is sent; what did not is forgotten. */
static void on_second(evutil_socket_t fd, short what, void *arg)
{
    struct cw_notices *n = arg;
    struct kind *k, *next;
    (void)fd, (void)what;
    HASH_ITER(hh, n->kinds, k, next)
    {
        if (k->count)
            append(n, k);
        else if (cw_now_ms() - k->last_ms >= QUIET_MS || cw_now_ms() < k->last_ms)
            kind_free(n, k);
    }
}

struct cw_notices *cw_notices_open(struct cw_app *app, struct cw_log_append *uplink)
{
    static const struct timeval second = { QUIET_MS / 1000, 0 };
    struct cw_notices *n = cw_calloc(1, sizeof *n);
    n->app = app;
    n->uplink = uplink;
    n->dropped = cw_counter("causeway_notices_dropped_total", NULL, "notices beyond the limit");
    n->timer = event_new(cw_app_base(app), -1, EV_PERSIST, on_second, n);
    evtimer_add(n->timer, &second);
    return n;
}

void cw_notices_close(struct cw_notices **at)
{
    struct cw_notices *n = *at;
    struct kind *k, *next;
    if (!n)
        return;
    *at = NULL;
    HASH_ITER(hh, n->kinds, k, next)
    {
        if (k->count)
            append(n, k);
        kind_free(n, k);
    }
    event_free(n->timer);
    free(n);
}

#include "services/rest-gateway/known.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <openssl/crypto.h>

#include "libcommon/api.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/ids.h"
#include "libcommon/json.h"
#include "libcommon/service.h"

#define BUCKETS     1024
#define ENTRIES_MAX 20000
#define ASK_MS      5000
#define USER_MS     5000
#define SECRET_MS   60000
#define UNKNOWN_MS  5000
#define SWEEP_S     5

struct known_waiter {
    STAILQ_ENTRY(known_waiter) link;
    known_fn *cb;
    void *arg;
};

struct known_cache {
    struct cw_app *app;
    struct event *sweep;
    LIST_HEAD(, known) buckets[BUCKETS];
    size_t n;
};

static void clear(struct known *k)
{
    if (k->secret)
        OPENSSL_cleanse(k->secret, strlen(k->secret));
    char **texts[] = { &k->user_id,   &k->secret,      &k->user_name,
                       &k->domain_id, &k->domain_name, &k->token_hash };
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++) {
        free(*texts[i]);
        *texts[i] = NULL;
    }
    for (size_t i = 0; i < k->n_projects; i++)
        free(k->projects[i]);
    json_decref(k->grants);
    json_decref(k->policy);
    k->grants = k->policy = NULL;
    free(k->projects);
    k->projects = NULL;
    k->n_projects = 0;
    k->found = false;
}

static void forget(struct known *k)
{
    clear(k);
    LIST_REMOVE(k, link);
    k->cache->n--;
    free(k->id);
    free(k);
}

static char *copy(const json_t *o, const char *key)
{
    const char *v = cw_json_text(o, key);
    return cw_strdup(v ? v : "");
}

static bool read_answer(struct known *k, const Causeway__ApiReply *reply)
{
    struct cw_json_error err;
    json_t *o = cw_json_parse(reply->body.data, reply->body.len, &err), *project;
    size_t i;
    if (!json_is_object(o)) {
        json_decref(o);
        return false;
    }
    k->user_id = copy(o, "user_id");
    k->user_name = copy(o, "user_name");
    k->domain_id = copy(o, "domain_id");
    k->domain_name = copy(o, "domain_name");
    k->generation = json_integer_value(json_object_get(o, "generation"));
    k->enabled = json_is_true(json_object_get(o, "enabled"));
    k->grants = json_incref(json_object_get(o, "grants"));
    if (k->kind == KNOWN_ACCESS_KEY) {
        k->secret = copy(o, "secret");
        k->token_hash = copy(o, "token_hash");
        k->expires_ms = json_integer_value(json_object_get(o, "expires_ms"));
        k->policy = json_incref(json_object_get(o, "policy"));
    }
    json_t *projects = json_object_get(o, "projects");
    k->projects = cw_calloc(json_array_size(projects) + 1, sizeof *k->projects);
    json_array_foreach(projects, i, project) if (json_is_string(project))
        k->projects[k->n_projects++] = cw_strdup(json_string_value(project));
    json_decref(o);
    return true;
}

/* k stays: only the sweep and a reconnect drop it. */
static void tell(struct known *k, int rc)
{
    struct known_waiter *w;
    STAILQ_HEAD(, known_waiter) waiters = STAILQ_HEAD_INITIALIZER(waiters);
    STAILQ_CONCAT(&waiters, &k->waiters);
    while ((w = STAILQ_FIRST(&waiters))) {
        STAILQ_REMOVE_HEAD(&waiters, link);
        w->cb(rc, rc == 0 ? k : NULL, w->arg);
        free(w);
    }
}

static void on_answer(int rc, const Causeway__ApiReply *reply, void *arg)
{
    struct known *k = arg;
    int64_t keep_ms = k->kind == KNOWN_USER ? USER_MS : SECRET_MS;
    if (!k->cache) { /* the daemon ends */
        free(k->id);
        free(k);
        return;
    }
    k->loading = false;
    if (rc == 0 && reply->status == 404) {
        rc = -ENOENT;
        keep_ms = UNKNOWN_MS;
    } else if (rc == 0 && reply->status != 200)
        rc = -EIO;
    else if (rc == 0 && !read_answer(k, reply))
        rc = -EBADMSG;
    k->found = rc == 0;
    k->until_ms = rc == 0 || rc == -ENOENT ? cw_mono_ms() + keep_ms : 0;
    tell(k, rc);
}

static int ask(struct known *k)
{
    Causeway__ApiRequest request = CAUSEWAY__API_REQUEST__INIT;
    Causeway__Pair id = CAUSEWAY__PAIR__INIT, *path[] = { &id };
    char request_id[33];
    request.operation = k->kind == KNOWN_USER ? "ShowPrincipal" : "ShowAccessKey";
    request.request_id = cw_random_hex(request_id, 32);
    request.deadline_ms = cw_now_ms() + ASK_MS;
    id.name = "id";
    id.value = k->id;
    request.path = path;
    request.n_path = 1;
    return cw_api_ask(k->cache->app, "identity", &request, on_answer, k);
}

/* Makes room: what nobody is known by goes first, so that guessed keys do not shut out real ones.
 */
static void drop_unknown(struct known_cache *cache)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct known *k = LIST_FIRST(&cache->buckets[i]), *next; k; k = next) {
            next = LIST_NEXT(k, link);
            if (!k->loading && !k->found)
                forget(k);
        }
}

static struct known *entry(struct known_cache *cache, enum known_kind kind, const char *id)
{
    size_t bucket = cw_hash(id, strlen(id)) % BUCKETS;
    struct known *k;
    LIST_FOREACH(k, &cache->buckets[bucket], link)
    if (k->kind == kind && strcmp(k->id, id) == 0)
        return k;
    if (cache->n == ENTRIES_MAX)
        drop_unknown(cache);
    if (cache->n == ENTRIES_MAX)
        return NULL;
    k = cw_calloc(1, sizeof *k);
    k->cache = cache;
    k->kind = kind;
    k->id = cw_strdup(id);
    STAILQ_INIT(&k->waiters);
    LIST_INSERT_HEAD(&cache->buckets[bucket], k, link);
    cache->n++;
    return k;
}

void known_get(struct known_cache *cache, enum known_kind kind, const char *id, known_fn *cb,
               void *arg)
{
    struct known *k = entry(cache, kind, id);
    if (!k) {
        cb(-EAGAIN, NULL, arg);
        return;
    }
    if (!k->loading && cw_mono_ms() < k->until_ms) {
        cb(k->found ? 0 : -ENOENT, k->found ? k : NULL, arg);
        return;
    }
    if (!k->loading) {
        clear(k);
        int rc = ask(k);
        if (rc < 0) {
            cb(rc, NULL, arg);
            return;
        }
        k->loading = true;
    }
    struct known_waiter *w = cw_malloc(sizeof *w);
    *w = (struct known_waiter){ .cb = cb, .arg = arg };
    STAILQ_INSERT_TAIL(&k->waiters, w, link);
}

bool known_has_project(const struct known *user, const char *project_id)
{
    for (size_t i = 0; i < user->n_projects; i++)
        if (strcmp(user->projects[i], project_id) == 0)
            return true;
    return false;
}

static void drop_older(struct known_cache *cache, int64_t mono_ms)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct known *k = LIST_FIRST(&cache->buckets[i]), *next; k; k = next) {
            next = LIST_NEXT(k, link);
            if (!k->loading && k->until_ms <= mono_ms)
                forget(k);
        }
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    drop_older(arg, cw_mono_ms());
}

static void on_bus(bool connected, void *arg)
{
    if (connected) /* changes may have been missed */
        drop_older(arg, INT64_MAX);
}

/* Rights or keys have changed. */
static void on_invalidate(const struct cw_bus_msg *msg, void *arg)
{
    (void)msg;
    drop_older(arg, INT64_MAX);
}

struct known_cache *known_open(struct cw_app *app)
{
    static const struct timeval often = { SWEEP_S, 0 };
    struct known_cache *cache = cw_calloc(1, sizeof *cache);
    cache->app = app;
    cache->sweep = event_new(cw_app_base(app), -1, EV_PERSIST, on_sweep, cache);
    event_add(cache->sweep, &often);
    cw_bus_watch(cw_app_bus(app), on_bus, cache);
    cw_bus_subscribe(cw_app_bus(app), "invalidate.identity", NULL, on_invalidate, cache);
    return cache;
}

void known_close(struct known_cache **out)
{
    struct known_cache *cache = *out;
    if (!cache)
        return;
    event_free(cache->sweep);
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct known *k = LIST_FIRST(&cache->buckets[i]), *next; k; k = next) {
            next = LIST_NEXT(k, link);
            if (!k->loading) {
                forget(k);
                continue;
            }
            tell(k, -ENOTCONN); /* its answer is still to come: the bus ends after us */
            LIST_REMOVE(k, link);
            k->cache = NULL;
        }
    free(cache);
    *out = NULL;
}

#include "libcommon/service.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/thread.h>

#include "libcommon/app_internal.h"
#include "libcommon/clock.h"
#include "libcommon/metrics.h"

#define RETRY_MS       300
#define FLUSH_LIMIT_MS 1000
#define AT(f)          offsetof(struct app_settings, f)

static const struct cw_option common[] = {
    { "VAR", CW_OPT_STRING, "var", 1, 1000, AT(var), "folder of the platform's state" },
    { "INSTANCE", CW_OPT_INT, "1", 0, 64, AT(instance),
      "number of this instance of the daemon; 0: made of the host's name (containers)" },
    { "NATS_URL", CW_OPT_STRING, "nats://127.0.0.1:14222", 1, 1000, AT(nats_url),
      "address of nats-server; of a cluster several, with commas" },
    { "NATS_USER", CW_OPT_STRING, "", 0, 64, AT(nats_user), "user at nats-server" },
    { "NATS_PASSWORD", CW_OPT_SECRET, "", 0, 128, AT(nats_password), "password at nats-server" },
    { "DB", CW_OPT_SECRET, "", 0, 500, AT(db), "libpq connection text of the daemon's role" },
    { "PARTITIONS", CW_OPT_INT, "8", 1, 64, AT(partitions),
      "partitions of each log; never change" },
    { "LOG_LEVEL", CW_OPT_STRING, "info", 4, 5, AT(log_level), "debug, info, warn or error" },
    { "ADMIN_SOCKET", CW_OPT_STRING, "", 0, 107, AT(admin_socket),
      "path of the admin socket; empty: $VAR/run/<name>.<instance>.sock" },
    { "ADMIN_PORT", CW_OPT_INT, "0", 0, 65535, AT(admin_port), "the same on TCP; 0: off" },
    { "ADMIN_BIND", CW_OPT_STRING, "127.0.0.1", 2, 45, AT(admin_bind),
      "address of ADMIN_PORT; what it tells is not for strangers" },
    { "LOG_BYTES", CW_OPT_BYTES, "512M", 64 << 20, 1LL << 40, AT(log_bytes),
      "size of a new EVENT or PUSH partition; UPLINK gets twice that" },
    { "LOG_REPLICAS", CW_OPT_INT, "1", 1, 5, AT(log_replicas),
      "copies of a new partition, on as many servers of a NATS cluster" },
    { "DRAIN", CW_OPT_MS, "10s", 100, 600000, AT(drain_ms), "longest drain after SIGTERM" },
    { "STRICT", CW_OPT_BOOL, "0", 0, 1, AT(strict), "refuse extensions as IoTDA does" },
    { 0 },
};

struct event_base *cw_app_base(struct cw_app *app) { return app->base; }
struct cw_bus *cw_app_bus(struct cw_app *app) { return app->bus; }
struct cw_db *cw_app_db(struct cw_app *app) { return app->db; }
const char *cw_app_name(const struct cw_app *app) { return app->name; }
const char *cw_app_instance(const struct cw_app *app) { return app->instance; }
uint64_t cw_app_boot(const struct cw_app *app) { return app->boot; }
uint32_t cw_app_partitions(const struct cw_app *app) { return (uint32_t)app->set.partitions; }
int64_t cw_app_log_bytes(const struct cw_app *app) { return app->set.log_bytes; }
int cw_app_log_replicas(const struct cw_app *app) { return (int)app->set.log_replicas; }
const char *cw_app_var(const struct cw_app *app) { return app->set.var; }
bool cw_app_strict(const struct cw_app *app) { return app->set.strict; }
bool cw_app_draining(const struct cw_app *app) { return app->draining; }
const char *cw_app_db_conninfo(const struct cw_app *app) { return app->set.db; }

void cw_app_exit(struct cw_app *app, int code)
{
    app->exit_code = code;
    event_base_loopbreak(app->base);
}

static void end_if_drained(struct cw_app *app)
{
    if (app->draining && app->in_flight <= 0 && LIST_EMPTY(&app->holds))
        cw_app_exit(app, 0);
}

static struct reason *find(struct reason *r, const char *name)
{
    while (r && strcmp(r->name, name) != 0)
        r = LIST_NEXT(r, link);
    return r;
}

static void reason_free(struct reason *r)
{
    LIST_REMOVE(r, link);
    free(r->name);
    free(r->text);
    free(r);
}

void cw_app_hold(struct cw_app *app, const char *name)
{
    struct reason *r = find(LIST_FIRST(&app->holds), name);
    if (!r) {
        r = cw_calloc(1, sizeof *r);
        r->name = cw_strdup(name);
        LIST_INSERT_HEAD(&app->holds, r, link);
    }
    r->held++;
}

void cw_app_release(struct cw_app *app, const char *name)
{
    struct reason *r = find(LIST_FIRST(&app->holds), name);
    if (!r)
        abort(); /* unbalanced: a mistake in the source */
    if (--r->held == 0)
        reason_free(r);
    end_if_drained(app);
}

void cw_app_fault(struct cw_app *app, const char *what, const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        abort();
    va_end(ap);
    struct reason *r = find(LIST_FIRST(&app->faults), what);
    if (!r) {
        cw_log(CW_ERROR, "fault", "what=%s reason=\"%s\"", what, text);
        r = cw_calloc(1, sizeof *r);
        r->name = cw_strdup(what);
        LIST_INSERT_HEAD(&app->faults, r, link);
    }
    free(r->text);
    r->text = text;
}

void cw_app_fault_clear(struct cw_app *app, const char *what)
{
    struct reason *r = find(LIST_FIRST(&app->faults), what);
    if (!r)
        return;
    cw_log(CW_INFO, "fault_over", "what=%s", what);
    reason_free(r);
}

void cw_app_in_flight(struct cw_app *app, int delta)
{
    app->in_flight += delta;
    end_if_drained(app);
}

void cw_app_on_drain(struct cw_app *app, struct cw_bus_sub *sub)
{
    app->drained = cw_realloc(app->drained, (app->n_drained + 1) * sizeof(struct cw_bus_sub *));
    app->drained[app->n_drained++] = sub;
}

static void on_drain_limit(evutil_socket_t fd, short what, void *arg)
{
    struct cw_app *app = arg;
    (void)fd, (void)what;
    cw_log(CW_WARN, "drain_limit", "in_flight=%d", app->in_flight);
    cw_app_exit(app, 0);
}

static void on_drain_check(evutil_socket_t fd, short what, void *arg)
{
    static const struct timeval soon = { 0, 10000 };
    struct cw_app *app = arg;
    (void)fd, (void)what;
    for (size_t i = 0; i < app->n_drained; i++)
        if (!cw_bus_sub_drained(app->drained[i])) {
            evtimer_add(app->drain_check, &soon);
            return;
        }
    cw_app_in_flight(app, -1);
}

static void on_term(evutil_socket_t sig, short what, void *arg)
{
    struct cw_app *app = arg;
    struct timeval limit = { app->set.drain_ms / 1000, app->set.drain_ms % 1000 * 1000 };
    (void)what;
    event_del(app->term); /* a second signal kills */
    event_del(app->interrupt);
    cw_log(CW_INFO, "drain", "signal=%d in_flight=%d", (int)sig, app->in_flight);
    app->draining = true;
    if (!app->started) {
        cw_app_exit(app, 0);
        return;
    }
    evtimer_add(app->drain_timer, &limit);
    for (size_t i = 0; i < app->n_drained; i++)
        cw_bus_sub_drain(app->drained[i]);
    app->in_flight++; /* taken back when nothing more can come from the bus */
    if (app->svc->drain)
        app->svc->drain(app, app->svc->self);
    event_active(app->drain_check, 0, 0);
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    event_base_loopbreak(((struct cw_app *)arg)->base);
}

/* Runs the loop for a moment, so that signals and the admin socket work while a server is awaited.
 */
static bool wait_a_moment(struct cw_app *app)
{
    static const struct timeval t = { 0, RETRY_MS * 1000L };
    evtimer_add(app->pause, &t);
    event_base_dispatch(app->base);
    evtimer_del(app->pause);
    return !app->draining;
}

static int connect_bus(struct cw_app *app)
{
    struct cw_bus_config cfg = { .url = app->set.nats_url,
                                 .user = app->set.nats_user,
                                 .password = app->set.nats_password,
                                 .name = app->name };
    while (!(app->bus = cw_bus_open(app->base, &cfg)))
        if (!wait_a_moment(app))
            return -ECANCELED;
    return 0;
}

static void on_check_due(bool connected, void *arg)
{
    struct cw_app *app = arg;
    if (connected && !app->started)
        event_base_loopbreak(app->base); /* ends the pause */
}

struct schema_answer {
    bool done, ok;
};

static void on_schema(PGresult *res, void *arg)
{
    struct schema_answer *a = arg;
    a->done = cw_db_outcome(res) == CW_DB_OK;
    a->ok = a->done && strcmp(PQgetvalue(res, 0, 0), "t") == 0;
}

static bool ask_schema(struct cw_app *app, struct schema_answer *a)
{
    char *sql =
        cw_sprintf("SELECT EXISTS (SELECT FROM public.schema_migration WHERE version >= %d)",
                   app->svc->schema_version);
    struct cw_db_query *q = cw_db_query(app->db, sql, on_schema, a);
    free(sql);
    while (q && cw_db_waiting(app->db) && !app->draining)
        event_base_loop(app->base, EVLOOP_ONCE);
    if (q && cw_db_waiting(app->db))
        cw_db_cancel(q);
    return a->done;
}

/* Waits for PostgreSQL, and for the migrations that this code relies on. */
static int connect_db(struct cw_app *app)
{
    static struct cw_log_gate gate;
    app->db = cw_db_open(app->base, app->set.db, app->name);
    cw_db_watch(app->db, on_check_due, app);
    for (;;) {
        struct schema_answer a = { 0 };
        if (cw_db_connected(app->db) && ask_schema(app, &a) && a.ok)
            return 0;
        if (cw_db_connected(app->db))
            cw_log_limited(&gate, CW_WARN, "schema_too_old", "needs=%d", app->svc->schema_version);
        if (!wait_a_moment(app))
            return -ECANCELED;
    }
}

static int prepare(struct cw_app *app)
{
    evthread_use_pthreads(); /* nats.c attaches to the loop from a thread of its own on reconnect */
    struct event_config *cfg = event_config_new();
    event_config_set_flag(cfg, EVENT_BASE_FLAG_PRECISE_TIMER);
    app->base = event_base_new_with_config(cfg);
    event_config_free(cfg);
    signal(SIGPIPE, SIG_IGN);
    app->term = evsignal_new(app->base, SIGTERM, on_term, app);
    app->interrupt = evsignal_new(app->base, SIGINT, on_term, app);
    app->drain_timer = evtimer_new(app->base, on_drain_limit, app);
    app->pause = evtimer_new(app->base, on_pause_over, app);
    app->drain_check = evtimer_new(app->base, on_drain_check, app);
    event_add(app->term, NULL);
    event_add(app->interrupt, NULL);
    return admin_start(app);
}

static int start(struct cw_app *app)
{
    int rc = prepare(app);
    if (rc == 0 && (app->svc->needs & CW_NEEDS_BUS))
        rc = connect_bus(app);
    if (rc == 0 && (app->svc->needs & CW_NEEDS_DB))
        rc = connect_db(app);
    if (rc == 0)
        rc = app->svc->start(app, app->svc->self);
    if (rc == 0) {
        app->started = true;
        if (app->bus)
            cw_facts_serve(app);
        cw_log(CW_INFO, "ready", "instance=%s", app->instance);
    }
    return rc;
}

static void app_free(struct cw_app *app)
{
    cw_db_end(app->db); /* who still waits for it gives up while all it knows is there */
    if (app->svc->stop)
        app->svc->stop(app->svc->self);
    admin_stop(app);
    cw_db_close(&app->db);
    cw_bus_close(&app->bus);
    free(app->drained);
    struct event *events[] = { app->term, app->interrupt, app->drain_timer, app->drain_check,
                               app->pause };
    for (size_t i = 0; i < CW_ARRAY_LEN(events); i++)
        if (events[i])
            event_free(events[i]);
    for (struct reason *r = LIST_FIRST(&app->holds), *next; r; r = next) {
        next = LIST_NEXT(r, link);
        reason_free(r);
    }
    for (struct reason *r = LIST_FIRST(&app->faults), *next; r; r = next) {
        next = LIST_NEXT(r, link);
        reason_free(r);
    }
    if (app->base)
        event_base_free(app->base);
    if (app->svc->options)
        cw_config_free(app->svc->options, app->svc->self);
    cw_config_free(common, &app->set);
}

static void help(const struct cw_service *svc)
{
    printf("%s: %s\n\nusage: %s [--config FILE] [--check-config | --healthcheck | --help]\n\n"
           "--healthcheck asks the running daemon with these settings, and ends with 0 when it is "
           "ready.\n\n"
           "Settings, from the environment or as NAME=value lines of FILE:\n",
           svc->name, svc->summary, svc->name);
    if (svc->options)
        cw_config_help(svc->options);
    cw_config_help(common);
}

/* FNV-1a of the host's name: the same after a restart, another for each container. */
static int64_t host_number(void)
{
    char name[256] = "";
    uint32_t hash = 2166136261U;
    if (gethostname(name, sizeof name - 1) < 0)
        *name = '\0';
    for (const char *p = name; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619U;
    return 1 + (int64_t)hash;
}

static int load(struct cw_app *app, const char *file)
{
    char err[256];
    enum cw_log_level level = CW_INFO;
    int rc = cw_config_load(common, &app->set, file, err, sizeof err);
    if (rc == 0 && app->svc->options)
        rc = cw_config_load(app->svc->options, app->svc->self, file, err, sizeof err);
    if (rc == 0 && (rc = cw_log_level_parse(&level, app->set.log_level)) < 0)
        snprintf(err, sizeof err, "CAUSEWAY_LOG_LEVEL=\"%s\": not debug, info, warn or error",
                 app->set.log_level);
    if (rc == 0 && (app->svc->needs & CW_NEEDS_DB) && !*app->set.db) {
        rc = -EINVAL;
        snprintf(err, sizeof err, "CAUSEWAY_DB is not set: this daemon needs PostgreSQL");
    }
    if (rc < 0) {
        fprintf(stderr, "%s: could not start: %s\n", app->svc->name, err);
        return rc;
    }
    if (app->set.instance == 0)
        app->set.instance = host_number();
    app->boot = (uint64_t)cw_now_ms();
    snprintf(app->name, sizeof app->name, "%s.%" PRId64, app->svc->name, app->set.instance);
    snprintf(app->instance, sizeof app->instance, "%s-%" PRId64 "-%" PRIu64, app->svc->name,
             app->set.instance, app->boot);
    cw_log_setup(app->name, level);
    return 0;
}

/* The last answers may still be on their way to the socket. */
static void flush_bus(struct cw_app *app)
{
    int64_t until_ms = cw_mono_ms() + FLUSH_LIMIT_MS;
    while (app->bus && cw_bus_connected(app->bus) && cw_bus_buffered(app->bus) &&
           cw_mono_ms() < until_ms)
        if (event_base_loop(app->base, EVLOOP_NONBLOCK) == 0)
            usleep(500);
}

static int run(struct cw_app *app)
{
    int rc = start(app);
    if (rc == 0) {
        event_base_dispatch(app->base);
        flush_bus(app);
    } else if (!app->draining)
        app->exit_code = CW_EXIT_FAILURE;
    cw_log(CW_INFO, "end", "code=%d", app->exit_code);
    return app->exit_code;
}

int cw_service_run(const struct cw_service *svc, int argc, char **argv)
{
    struct cw_app app = { .svc = svc };
    const char *file = NULL;
    bool check = false, health = false;
    int code = svc->main_mode ? svc->main_mode(argc, argv, svc->self) : -1;
    if (code >= 0)
        return code;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            help(svc);
            return 0;
        }
        if (strcmp(argv[i], "--check-config") == 0)
            check = true;
        else if (strcmp(argv[i], "--healthcheck") == 0)
            health = true;
        else if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            file = argv[++i];
        else {
            fprintf(stderr, "%s: unknown option %s; see --help\n", svc->name, argv[i]);
            return CW_EXIT_CONFIG;
        }
    }
    code = load(&app, file) < 0 ? CW_EXIT_CONFIG
           : check              ? 0
           : health             ? admin_healthcheck(&app)
                                : run(&app);
    app_free(&app);
    return code;
}

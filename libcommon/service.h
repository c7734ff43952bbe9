/* service.h - the skeleton of every daemon: options, servers, readiness, signals, drain, admin
 * socket.
 *
 * main() hands tables to cw_service_run() and returns its result. Order of a start: settings are
 * read; NATS and PostgreSQL are connected (for ever, with a pause; not ready meanwhile); the
 * schema version is checked; start() runs; the daemon is ready once start() has returned 0 and, if
 * it called cw_app_hold(), after cw_app_release(). SIGTERM: drain() runs, then the loop goes on
 * until in_flight is 0 and everything held is released, or the drain limit; then stop(). A second
 * SIGTERM or SIGINT kills. Admin socket: GET /healthz (200 or 503 with one line per reason), GET
 * /metrics. */
#pragma once

#include "libcommon/config.h"
#include "libcommon/facts.h"
#include "libcommon/log.h"
#include "libcommon/util.h"

struct event_base;
struct cw_bus;
struct cw_bus_sub;
struct cw_db;
struct cw_log_append;

enum { CW_NEEDS_BUS = 1, CW_NEEDS_DB = 2 };
enum { CW_EXIT_FAILURE = 1, CW_EXIT_CONFIG = 2 };

struct cw_app; /* the running process */

struct cw_service {
    const char *name;                /* "identity" */
    const char *summary;             /* one line for --help */
    const struct cw_option *options; /* own rows; into *self */
    void *self;
    unsigned needs;     /* CW_NEEDS_* */
    int schema_version; /* highest migration this code relies on; 0 without database */
    int (*start)(struct cw_app *app, void *self);  /* 0 or negative errno: the process ends */
    void (*drain)(struct cw_app *app, void *self); /* may be NULL: stop taking new work */
    void (*stop)(void *self);                      /* half-started is fine */
    const struct cw_facts_use *uses; /* may be NULL: limits of which PostgreSQL knows the use */
    void (*facts)(struct cw_facts *f, void *self);       /* may be NULL: what it tells of itself */
    int (*main_mode)(int argc, char **argv, void *self); /* may be NULL: extra --flags before start;
                                                            < 0: not mine, else exit code */
};

/* The whole life of the process; main() returns what it returns: 0, CW_EXIT_FAILURE,
 * CW_EXIT_CONFIG, or the code of cw_app_exit() or main_mode(). */
int cw_service_run(const struct cw_service *svc, int argc, char **argv);

/* Borrowed; all three end after stop(). */
struct event_base *cw_app_base(struct cw_app *app);
struct cw_bus *cw_app_bus(struct cw_app *app);         /* NULL without CW_NEEDS_BUS */
struct cw_db *cw_app_db(struct cw_app *app);           /* NULL without CW_NEEDS_DB */
const char *cw_app_name(const struct cw_app *app);     /* mqtt-gateway.1 */
const char *cw_app_instance(const struct cw_app *app); /* mqtt-gateway-1-<boot>: a subject token */
uint64_t cw_app_boot(const struct cw_app *app);        /* ms of the start, unique per name */
uint32_t cw_app_partitions(const struct cw_app *app);
int64_t cw_app_log_bytes(const struct cw_app *app); /* size of a new EVENT or PUSH stream */
int cw_app_log_replicas(const struct cw_app *app);  /* of a new partition */
const char *cw_app_var(const struct cw_app *app);   /* folder of the platform's state */
bool cw_app_strict(const struct cw_app *app);       /* extensions are refused, as IoTDA does */
bool cw_app_draining(const struct cw_app *app);     /* from SIGTERM on: nothing new is begun */
const char *cw_app_db_conninfo(const struct cw_app *app); /* for a connection of one's own */

/* Not ready / not drained while held; reason is copied and shown by /healthz. */
void cw_app_hold(struct cw_app *app, const char *reason);
/* Once for each hold of the reason, or the process aborts; the last one may end a drain. */
void cw_app_release(struct cw_app *app, const char *reason);
/* A lasting fault that a person must see ("stream UPLINK_3 was replaced"): /healthz turns 503. */
void cw_app_fault(struct cw_app *app, const char *what, const char *fmt, ...) CW_PRINTF(3, 4);
/* Mended; without such a fault nothing happens. */
void cw_app_fault_clear(struct cw_app *app, const char *what);
/* Work that a drain waits for, +1 and later -1: whoever is owed an answer. */
void cw_app_in_flight(struct cw_app *app, int delta);
/* The subscription is drained first thing on SIGTERM: new calls go to other instances. */
void cw_app_on_drain(struct cw_app *app, struct cw_bus_sub *sub);
/* Ends the process in order with an exit code, e.g. when a fence was lost. */
void cw_app_exit(struct cw_app *app, int code);

#ifdef CW_RELEASE
#define cw_crash_point(name) ((void)0)
#else
/* Crash points for tests: ends the process with SIGKILL when CAUSEWAY_CRASH_AT is "name" or
 * "name:n" (the n-th pass; "name:~n": each pass with chance 1/n). Nothing in release builds. */
void cw_crash_point(const char *name);
#endif

/* registry.h - what the files of device-registry share. */
#pragma once

#include "libcommon/api_rows.h"
#include "libcommon/api_space.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/db.h"
#include "libcommon/ids.h"
#include "libcommon/service.h"

struct secrets;
struct gateways;
struct subdevices;
struct trust;
struct group_keeper;
struct searches;
struct cw_notices;

/* Commits of several connections wait for the disk together. */
#define CALL_CONNECTIONS 4

struct registry {
    struct cw_app *app;
    struct cw_db *calls[CALL_CONNECTIONS]; /* registry_db() chooses one */
    struct cw_db *logins;                  /* sessions: never behind a long list */
    struct searches *searches;             /* with a limit of time of their own */
    struct secrets *secrets;
    struct gateways *gateways;
    struct subdevices *subdevices;
    struct trust *trust;
    struct group_keeper *groups;
    struct event *expiry;
    struct cw_log_append *uplink;
    struct cw_notices *notices;
    struct cw_log_reader *events;
    uint8_t seal_key[32];
    int64_t apps_max, products_max, devices_max, children_max, secrets_max, cas_max, policies_max,
        bridges_max, proxies_max, tags_max, undelete_days, groups_max, group_devices_max,
        device_groups_max, search_ms, device_certs_max, templates_max, scopes_max, strategies_max,
        provision_rate;
    char *default_app; /* id of the default space; NULL until it is there */
    int64_t lost_ms;   /* silence after which a gateway is taken for gone */
    int64_t close_ms;  /* longest wait for a gateway that is to cut a session */
};

/* ---- answer.c: answers in the forms of this daemon */

/* For the next statement of a call: the connection on which the fewest wait. Statements of one call
 * may go over several; each sees what was committed before it was sent. */
struct cw_db *registry_db(const struct registry *r);

/* "page":{count,marker} from column count of any row and record_id of the last. */
void put_page(json_t *o, const PGresult *res, int shown);
/* Runs a list: its parameters are the filters, then $n+1 marker, offset, limit, allowed and denied
 * spaces (api_space.h). n: 4 at most. */
void list_of_spaces(struct registry *r, struct cw_api_call *call, const struct cw_stmt *stmt,
                    size_t n, const struct cw_db_param *filters, cw_db_fn *cb);
/* Answers {name: [rows], page}; there are none where column id of the first is NULL. */
void reply_page(struct cw_api_call *call, const PGresult *res, const char *name, const char *id,
                json_t *(*row)(const PGresult *res, int at));
/* For lists whose statement counts to COUNTED_MAX + 1: from there on the count is not exact. */
#define COUNTED_MAX 10000
void put_counted_page(json_t *o, const PGresult *res, int shown);
/* "expiry_warning" of a certificate that ends within 30 days; todo: what somebody should do. */
void put_expiry_warning(json_t *o, int64_t expires_ms, const char *todo);
/* Compact text, from malloc. */
char *json_text(const json_t *v);

/* Times that the API writes, made by PostgreSQL. */
#define SQL_BASIC_TIME(c) "to_char(" c " AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"')"
#define SQL_EXTENDED_TIME(c)                                                                       \
    "to_char(" c " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
#define SQL_TIME(ms) "to_timestamp(" ms "::bigint / 1000.0)"

/* ---- apps.c */

#define APP_COLUMNS "app_id, app_name, default_app, " SQL_BASIC_TIME("created") " AS create_time"
json_t *app_json(const PGresult *res, int row); /* of APP_COLUMNS */

/* ---- facts.c: events of the outbox, and what caches are told */

struct fact {
    Causeway__EventKind kind;
    const char *request_id;
    int64_t time_ms, device_key, product_key;
    const char *device_id, *node_id, *root_id, *product_id, *app_id;
    const json_t *body; /* notify_data.body, or NULL */
};
/* Packed Causeway.Event; the caller frees data. */
struct cw_buf fact_pack(const struct fact *f);
/* After the commit: caches drop the key, the owner of the partition looks into the outbox. */
void fact_told(struct registry *r, const char *kind, int64_t key, uint32_t partition);
/* id: of the directly connected device; for the facts of a product its product_id. */
uint32_t partition_of(const struct registry *r, const char *id);

/* ---- operations, as openapi.json has them; self is the registry. A change and its event are
 * stored by one statement; caches are told after it. */

/* The oldest first, without pages: there are few. */
void show_applications(struct cw_api_call *call, void *self);
/* With its secret, which is shown here and after a reset only. */
void add_application(struct cw_api_call *call, void *self);
void show_application(struct cw_api_call *call, void *self);
void update_application(struct cw_api_call *call, void *self);
/* APP_DEFAULT, APP_NOT_EMPTY. */
void delete_application(struct cw_api_call *call, void *self);
void reset_application_secret(struct cw_api_call *call, void *self);
/* Makes the default space at the first start, then runs done(rc) once. */
void apps_start(struct registry *r);

/* A page without the models, newest first. */
void list_products(struct cw_api_call *call, void *self);
/* MODEL: where the model breaks docs/protocol/product-model.md. Members left out are filled in. */
void create_product(struct cw_api_call *call, void *self);
/* Without app_id that of the default space, else the oldest of that id; so do the next two. */
void show_product(struct cw_api_call *call, void *self);
/* Members left out stay. Tries five times against others that change it meanwhile, then 503. */
void update_product(struct cw_api_call *call, void *self);
/* PRODUCT_IN_USE while it has devices. */
void delete_product(struct cw_api_call *call, void *self);

/* A product of the ZIP form of its model: PACKAGE lists what is wrong with it, MODEL_TAKEN. */
void import_product(struct cw_api_call *call, void *self);
void export_product(struct cw_api_call *call, void *self); /* the ZIP form */

/* A page without secrets, newest first. */
void list_devices(struct cw_api_call *call, void *self);
/* Without device_id it is <product_id>_<node_id>; a secret that is not given is made. */
void add_device(struct cw_api_call *call, void *self);
/* With its secrets. */
void show_device(struct cw_api_call *call, void *self);
/* As update_product(); what is cached of its secrets goes. */
void update_device(struct cw_api_call *call, void *self);
/* 204 once its session is cut, or nobody has confirmed that within close_ms; HAS_CHILDREN. */
void delete_device(struct cw_api_call *call, void *self);
/* The next two, with force_disconnect, and freeze_device() answer when the session is cut; 503 if
 * nobody confirms that, and then the change stands all the same. */
void reset_device_secret(struct cw_api_call *call, void *self);
void reset_fingerprint(struct cw_api_call *call, void *self); /* without one: cleared */
void freeze_device(struct cw_api_call *call, void *self);     /* NOT_DIRECT, FROZEN */
void unfreeze_device(struct cw_api_call *call, void *self);   /* NOT_DIRECT, NOT_FROZEN */
/* Of a child without children, to a device of the same space. */
void change_gateway(struct cw_api_call *call, void *self);

/* ---- device_shape.c */

/* Columns that device_json() reads, and the tables that they come from. */
extern const char device_columns[], device_from[];
enum device_parts { DEVICE_LISTED, DEVICE_PUBLIC, DEVICE_WHOLE };
/* Listed: the short form of lists. Public: all but secrets (events). Whole: with secrets, which are
 * opened with the seal key. */
json_t *device_json(const struct registry *r, const PGresult *res, int row,
                    enum device_parts parts);
/* "device.<key>.primary": what a sealed secret is bound to. */
const char *seal_context(char out[64], int64_t device_key, bool secondary);

/* devices.c: one row of device_columns, or none. False: cb will not run. */
bool find_device(struct registry *r, const char *device_id, cw_db_fn *cb, void *arg);
/* device_secret.c: NULL, or 40 or 64 digits. */
bool fingerprint_fits(const char *fingerprint);

/* ---- device_desired.c */

/* A name that a shadow cannot have, or NULL. Borrowed. */
const char *bad_shadow_key(const json_t *properties);
/* {property: default} of what is writable in a service of a model; the caller owns it. */
json_t *model_defaults(const json_t *service);
/* [{service_id, desired}] of defaults and wishes (as in AddDevice.shadow); NULL: none. Owned. */
json_t *first_desired(const json_t *model, const json_t *wishes);
/* Wishes must be in the model, writable and of the right type. False: the call has been failed. */
bool check_desired(struct cw_api_call *call, const json_t *wishes, const json_t *model);

/* ---- cas.c */

void add_ca(struct cw_api_call *call, void *self); /* unverified, with a verify_code */
void list_cas(struct cw_api_call *call, void *self);
void show_ca(struct cw_api_call *call, void *self);
void delete_ca(struct cw_api_call *call, void *self);
/* CheckCertificate: a certificate with the verify_code as common name, signed by the CA. */
void check_ca(struct cw_api_call *call, void *self);
/* Whether devices register themselves by it, and as which template says; OCSP is refused. */
void update_ca(struct cw_api_call *call, void *self);

/* ---- close.c */

typedef void close_fn(bool confirmed, void *arg);
/* Asks a gateway to cut a session and to say so. cb runs once: true when it is cut or its gateway
 * is gone, false when nobody answered within close_ms. Counts as in flight; texts are copied. */
void close_session(struct registry *r, const char *gateway, int64_t device_key, int64_t session_no,
                   const char *cause, close_fn *cb, void *arg);

/* ---- secrets.c: opened secrets, bounded, least recently used first out */

struct secret_pair {
    char *primary, *secondary; /* NULL: not set */
};
/* Room for max devices, at least 1. */
struct secrets *secrets_open(size_t max);
/* Borrowed until the next call. Opens the sealed texts (either may be NULL) unless the same
 * auth_version is known. NULL: they do not open with our key. */
const struct secret_pair *secrets_get(struct secrets *s, const uint8_t key[32], int64_t device_key,
                                      int64_t auth_version, const char *primary,
                                      const char *secondary);
/* The device has changed. Texts that go, here and below, are overwritten first. */
void secrets_drop(struct secrets *s, int64_t device_key);
/* NATS was away: changes may have been missed. */
void secrets_drop_all(struct secrets *s);
/* Sets *s to NULL; NULL is fine. */
void secrets_close(struct secrets **s);

/* ---- login.c: what a CONNECT is told; no I/O */

struct login_device {
    const char *auth_type;
    bool frozen, child, secure_access;
    const struct secret_pair *secrets; /* NULL: could not be opened */
    const struct trust_verdict *certificate;
    const char *fingerprint, *secondary_fingerprint; /* NULL: none yet */
};
#define LOGIN_REASON_LEN  320
#define EXPIRY_WARNING_MS (INT64_C(30) * 86400000) /* before the end of a certificate */
struct login_refusal {
    unsigned connack; /* 0: accepted */
    const char *code, *next_step;
    char reason[LOGIN_REASON_LEN];
};
/* trust.c: what a certificate is, for a device that is registered with one; else NULL.
 * device NULL: unknown; deleted: when a device of this id was deleted (text), or NULL. */
void login_check(struct login_refusal *out, const Causeway__SessionOpen *open,
                 const struct login_device *device, const char *deleted, int64_t now_ms);

/* ---- sessions.c */

void sessions_open(const struct cw_bus_msg *msg, void *self); /* api.registry.open_sessions */
/* The same for who was asked whether he registers himself, and is registered now if he could.
 * Takes request. */
void sessions_open_final(struct registry *r, Causeway__SessionOpenBatch *request,
                         const char *reply_to);
/* The answer to a batch of one. */
void session_answer(struct registry *r, const char *reply_to, Causeway__SessionOpened *result);

/* ---- gateways.c, events.c */

/* Needs r->logins, r->uplink and r->events. Sessions of a gateway that was silent for lost_ms, or
 * has booted again, are ended by the owner of their partition. */
void gateways_start(struct registry *r);
bool gateway_lost(const struct registry *r, const char *instance);
/* At the end of the process; endings under way may still be answered. */
void gateways_stop(struct registry *r);
/* Reads EVENT into r->events, and relays the outbox. */
void events_start(struct registry *r);

/* ---- expiry.c */

/* Each 10 s: registrations whose timeout is over and that were never active, in own partitions. */
void expiry_start(struct registry *r);
/* Also if it was never started. */
void expiry_stop(struct registry *r);

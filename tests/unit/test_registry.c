/* device-registry: the daemon itself against real servers, asked over the bus as rest-gateway and
 * the gateways ask it. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>
#include <event2/thread.h>
#include <jansson.h>
#include <libpq-fe.h>

#include "libcommon/bus.h"
#include "libcommon/crypto.h"
#include "libcommon/ids.h"
#include "libcommon/log.h"
#include "proto/causeway.pb-c.h"
#include "tests/unit/servers.h"
#include "tests/unit/until.h"

static struct server nats, pg;
static char daemon_path[256], var[] = "/tmp/cw-reg-XXXXXX";
static struct event_base *base;
static struct cw_bus *bus;
static PGconn *db;
static pid_t daemon_pid;

/* ---- the daemon */

static void run_daemon(void)
{
    daemon_pid = fork();
    if (daemon_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!getenv("TEST_VERBOSE") && !freopen("/dev/null", "w", stderr))
            _exit(126);
        execl(daemon_path, daemon_path, NULL);
        _exit(127);
    }
}

static const char *admin_get(const char *path)
{
    static char answer[131072];
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    size_t n = 0;
    ssize_t got;
    snprintf(at.sun_path, sizeof at.sun_path, "%s/run/device-registry.1.sock", var);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    answer[0] = '\0';
    if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0) {
        dprintf(fd, "GET %s HTTP/1.0\r\n\r\n", path);
        while (n < sizeof answer - 1 && (got = read(fd, answer + n, sizeof answer - 1 - n)) > 0)
            n += (size_t)got;
        answer[n] = '\0';
    }
    close(fd);
    return answer;
}

/* ---- PostgreSQL, for looking behind the daemon's back */

static PGresult *sql(const char *text)
{
    PGresult *res = PQexec(db, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(db));
    return res;
}

static int64_t sql_int(const char *text)
{
    PGresult *res = sql(text);
    int64_t v = PQntuples(res) ? atoll(PQgetvalue(res, 0, 0)) : -1;
    PQclear(res);
    return v;
}

static void migrate(void)
{
    char command[256];
    snprintf(command, sizeof command,
             "PGHOST=127.0.0.1 PGPORT=%d PGUSER=postgres PGDATABASE=postgres scripts/migrate"
             " >/dev/null",
             pg.port);
    assert_int_equal(system(command), 0);
}

/* ---- calls */

struct answer {
    int n, rc, status;
    json_t *body;
};

static void on_answer(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct answer *a = arg;
    Causeway__ApiReply *r = rc == 0 ? causeway__api_reply__unpack(NULL, msg->len, msg->data) : NULL;
    a->n++;
    a->rc = rc;
    if (!r)
        return;
    a->status = (int)r->status;
    a->body = json_loadb((char *)r->body.data, r->body.len, 0, NULL);
    causeway__api_reply__free_unpacked(r, NULL);
}

/* names: "path:device_id=x", "query:limit=5", … ended by NULL. */
static void ask(struct answer *a, const char *operation, const char *body, const char *const *names)
{
    char subject[64], copy[16][200];
    Causeway__ApiRequest req = CAUSEWAY__API_REQUEST__INIT;
    Causeway__Pair pairs[16], *path[16], *query[16];
    uint8_t *packed = malloc(1 << 20);
    for (size_t i = 0; names && names[i]; i++) {
        snprintf(copy[i], sizeof copy[i], "%s", strchr(names[i], ':') + 1);
        char *eq = strchr(copy[i], '=');
        *eq = '\0';
        causeway__pair__init(&pairs[i]);
        pairs[i].name = copy[i];
        pairs[i].value = eq + 1;
        if (names[i][0] == 'p')
            path[req.n_path++] = &pairs[i];
        else
            query[req.n_query++] = &pairs[i];
    }
    req.operation = (char *)operation;
    req.request_id = (char *)"req-1";
    req.deadline_ms = cw_now_ms() + 15000;
    req.path = path;
    req.query = query;
    req.body = (ProtobufCBinaryData){ body ? strlen(body) : 0, (uint8_t *)body };
    size_t n = causeway__api_request__pack(&req, packed);
    snprintf(subject, sizeof subject, "api.registry.%s", operation);
    assert_non_null(cw_bus_request(bus, subject, packed, n, 15000, on_answer, a));
    free(packed);
}

/* Asks and waits; the caller owns the body (NULL for none). */
static json_t *call(int want, const char *operation, const char *body, const char *const *names)
{
    struct answer a = { 0 };
    ask(&a, operation, body, names);
    run_until(base, &a.n, 1);
    if (a.rc || a.status != want) {
        char *text = a.body ? json_dumps(a.body, 0) : NULL;
        fail_msg("%s: rc %d, status %d, not %d: %s", operation, a.rc, a.status, want, text);
    }
    return a.body;
}
/* Whatever kept the loop from turning for seconds may have cost this test's connection: it is back,
 * and heard by the server, when a call is answered. */
static void await_bus(void)
{
    int64_t until_ms = cw_mono_ms() + UNTIL_LIMIT_MS;
    for (struct answer a = { .rc = -1 }; a.rc != 0;) {
        assert_true(cw_mono_ms() < until_ms);
        struct timeval tick = { 0, 10000 };
        event_base_loopexit(base, &tick);
        event_base_dispatch(base);
        if (!cw_bus_connected(bus))
            continue;
        a = (struct answer){ 0 };
        ask(&a, "ShowApplications", NULL, NULL);
        run_until(base, &a.n, 1);
        json_decref(a.body);
    }
}

static void await_ready(void)
{
    int64_t until_ms = cw_mono_ms() + UNTIL_LIMIT_MS;
    while (!strstr(admin_get("/healthz"), "200 ")) {
        if (cw_mono_ms() > until_ms)
            fail_msg("not ready: %s", admin_get("/healthz"));
        struct timeval tick = { 0, 10000 };
        event_base_loopexit(base, &tick);
        event_base_dispatch(base);
    }
    await_bus();
}

#define NAMES(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void refused(int status, const char *code, const char *part, const char *operation,
                    const char *body, const char *const *names)
{
    json_t *o = call(status, operation, body, names);
    const char *text = json_string_value(json_object_get(o, "error_msg"));
    assert_string_equal(json_string_value(json_object_get(o, "error_code")), code);
    if (!strstr(text, part))
        fail_msg("\"%s\" does not say \"%s\"", text, part);
    json_decref(o);
}

static const char *text(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "(none)";
}

static void done(int status, const char *operation, const char *body, const char *const *names)
{
    json_decref(call(status, operation, body, names));
}

/* ---- what the daemon says on EVENT and UPLINK, heard as it is appended */

#define HEARD_MAX 512
static Causeway__Event *heard[HEARD_MAX];
static Causeway__Uplink *ends[HEARD_MAX];
static char heard_on[HEARD_MAX][64];
static int n_heard, n_seen, n_ends;

static void on_event(const struct cw_bus_msg *msg, void *arg)
{
    (void)arg;
    Causeway__EventBatch *b = causeway__event_batch__unpack(NULL, msg->len, msg->data);
    for (size_t i = 0; b && i < b->n_events && n_heard < HEARD_MAX; i++) {
        snprintf(heard_on[n_heard], sizeof heard_on[0], "%s", msg->subject);
        heard[n_heard++] = b->events[i];
        b->events[i] = NULL;
    }
    if (b) {
        b->n_events = 0;
        causeway__event_batch__free_unpacked(b, NULL);
    }
}

static void on_uplink(const struct cw_bus_msg *msg, void *arg)
{
    (void)arg;
    Causeway__UplinkBatch *b = causeway__uplink_batch__unpack(NULL, msg->len, msg->data);
    for (size_t i = 0; b && i < b->n_records && n_ends < HEARD_MAX; i++) {
        ends[n_ends++] = b->records[i];
        b->records[i] = NULL;
    }
    if (b) {
        b->n_records = 0;
        causeway__uplink_batch__free_unpacked(b, NULL);
    }
}

/* The next event after those already looked at; it must be of this kind. Freed at the end. */
static Causeway__Event *next_event(Causeway__EventKind kind)
{
    run_until(base, &n_heard, n_seen + 1);
    Causeway__Event *e = heard[n_seen++];
    if (e->kind != kind)
        fail_msg("event of kind %d about %s%s, not %d", e->kind, e->device_id, e->product_id, kind);
    return e;
}
/* Events of several partitions come in any order. */
static void skip_events(int n)
{
    run_until(base, &n_heard, n_seen + n);
    n_seen += n;
}

#define CREATED         CAUSEWAY__EVENT_KIND__EVENT_DEVICE_CREATED
#define UPDATED         CAUSEWAY__EVENT_KIND__EVENT_DEVICE_UPDATED
#define DELETED         CAUSEWAY__EVENT_KIND__EVENT_DEVICE_DELETED
#define PRODUCT_CREATED CAUSEWAY__EVENT_KIND__EVENT_PRODUCT_CREATED
#define PRODUCT_UPDATED CAUSEWAY__EVENT_KIND__EVENT_PRODUCT_UPDATED
#define PRODUCT_DELETED CAUSEWAY__EVENT_KIND__EVENT_PRODUCT_DELETED

/* The newest event of a kind about a device, waited for. */
static Causeway__Event *newest_event(Causeway__EventKind kind, const char *device_id)
{
    for (int64_t until_ms = cw_mono_ms() + UNTIL_LIMIT_MS;;) {
        for (int i = n_heard; i-- > 0;)
            if (heard[i]->kind == kind && strcmp(heard[i]->device_id, device_id) == 0)
                return heard[i];
        assert_true(cw_mono_ms() < until_ms);
        run_until(base, &n_heard, n_heard + 1);
    }
}

/* Runs the loop until a question to PostgreSQL has this answer. */
static void await_sql(const char *text, int64_t want)
{
    int64_t until_ms = cw_mono_ms() + UNTIL_LIMIT_MS;
    while (sql_int(text) != want) {
        if (cw_mono_ms() > until_ms)
            fail_msg("%s: %" PRId64 ", not %" PRId64, text, sql_int(text), want);
        struct timeval tick = { 0, 10000 };
        event_base_loopexit(base, &tick);
        event_base_dispatch(base);
    }
}

/* ---- set-up */

static int start(void **state)
{
    char conninfo[160];
    (void)state;
    cw_log_setup("test", CW_ERROR);
    evthread_use_pthreads();
    base = event_base_new();
    nats_start(&nats);
    pg_start(&pg);
    if (!mkdtemp(var))
        return -1;
    snprintf(conninfo, sizeof conninfo, "%s/run", var);
    mkdir(conninfo, 0700);
    migrate();
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=postgres dbname=postgres",
             pg.port);
    db = PQconnectdb(conninfo);
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=registry dbname=postgres",
             pg.port);
    setenv("CAUSEWAY_DB", conninfo, 1);
    setenv("CAUSEWAY_VAR", var, 1);
    setenv("CAUSEWAY_KEY_SEAL", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
           1);
    setenv("CAUSEWAY_CLOSE_TIMEOUT", "500ms", 1);
    setenv("CAUSEWAY_GATEWAY_LOST", "10m", 1);
    setenv("CAUSEWAY_LOG_BYTES", "64M", 1);
    snprintf(conninfo, sizeof conninfo, "nats://127.0.0.1:%d", nats.port);
    setenv("CAUSEWAY_NATS_URL", conninfo, 1);
    bus = cw_bus_open(base, &(struct cw_bus_config){ .url = conninfo, .name = "test" });
    if (!bus)
        return -1;
    cw_bus_subscribe(bus, "event.*.device-registry", NULL, on_event, NULL);
    cw_bus_subscribe(bus, "uplink.*", NULL, on_uplink, NULL);
    run_daemon();
    await_ready();
    return 0;
}

static int stop(void **state)
{
    char command[128];
    (void)state;
    kill(daemon_pid, SIGKILL);
    waitpid(daemon_pid, NULL, 0);
    PQfinish(db);
    for (int i = 0; i < n_heard; i++)
        causeway__event__free_unpacked(heard[i], NULL);
    for (int i = 0; i < n_ends; i++)
        causeway__uplink__free_unpacked(ends[i], NULL);
    cw_bus_close(&bus);
    event_base_free(base);
    server_end(&nats);
    server_end(&pg);
    snprintf(command, sizeof command, "rm -rf '%s'", var);
    return system(command);
}

static void create_product(const char *product_id, const char *app_id)
{
    char body[1200];
    snprintf(body, sizeof body,
             "{\"product_id\":\"%s\",\"name\":\"pump\",\"device_type\":\"Pump\","
             "\"protocol_type\":\"MQTT\",\"data_format\":\"json\",%s%s%s\"service_capabilities\":["
             "{\"service_id\":\"S\",\"properties\":[{\"property_name\":\"on\",\"data_type\":"
             "\"boolean\",\"method\":\"RW\"},{\"property_name\":\"t\",\"data_type\":\"int\","
             "\"method\":\"R\"}]}]}",
             product_id, app_id ? "\"app_id\":\"" : "", app_id ? app_id : "", app_id ? "\"," : "");
    done(201, "CreateProduct", body, NULL);
}

static json_t *add_device(const char *node_id, const char *more)
{
    char body[600];
    snprintf(body, sizeof body, "{\"product_id\":\"p1\",\"node_id\":\"%s\"%s}", node_id, more);
    return call(201, "AddDevice", body, NULL);
}

/* ---- spaces */

static void the_default_space_is_there_and_written_down(void **state)
{
    (void)state;
    char path[128], line[128] = "", mode[8];
    struct stat st;
    json_t *o = call(200, "ShowApplications", NULL, NAMES("query:default_app=true"));
    json_t *app = json_array_get(json_object_get(o, "applications"), 0);
    assert_int_equal(json_array_size(json_object_get(o, "applications")), 1);
    assert_int_equal(strlen(text(app, "app_id")), 32);
    assert_true(json_is_true(json_object_get(app, "default_app")));
    assert_int_equal(strlen(text(app, "create_time")), 16);
    snprintf(path, sizeof path, "%s/access.d/device-registry.env", var);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    assert_memory_equal(line, "CAUSEWAY_APP_ID=", 16);
    assert_memory_equal(line + 16, text(app, "app_id"), 32);
    assert_int_equal(stat(path, &st), 0);
    snprintf(mode, sizeof mode, "%o", st.st_mode & 0777);
    assert_string_equal(mode, "600");
    json_decref(o);
}

static void spaces_are_made_shown_and_limited(void **state)
{
    (void)state;
    char path[64];
    json_t *o = call(201, "AddApplication", "{\"app_name\":\"plant\"}", NULL);
    snprintf(path, sizeof path, "path:app_id=%s", text(o, "app_id"));
    assert_true(json_is_false(json_object_get(o, "default_app")));
    json_decref(o);
    o = call(200, "ShowApplication", NULL, NAMES(path));
    assert_string_equal(text(o, "app_name"), "plant");
    json_decref(o);
    refused(400, "IOTDA.001900", "plant", "AddApplication", "{\"app_name\":\"plant\"}", NULL);
    refused(403, "IOTDA.001000", "nowhere", "ShowApplication", NULL, NAMES("path:app_id=nowhere"));
    for (int i = 0; i < 8; i++) {
        char body[64];
        snprintf(body, sizeof body, "{\"app_name\":\"more-%d\"}", i);
        done(201, "AddApplication", body, NULL);
    }
    refused(403, "IOTDA.001902", "APPS_MAX", "AddApplication", "{\"app_name\":\"eleven\"}", NULL);
}

/* ---- products */

static void a_product_lives_from_create_to_delete(void **state)
{
    (void)state;
    create_product("p0", NULL);
    Causeway__Event *e = next_event(PRODUCT_CREATED);
    assert_string_equal(e->request_id, "req-1");
    assert_string_equal(e->product_id, "p0");
    int64_t key = e->product_key;
    json_t *o = call(200, "ShowProduct", NULL, NAMES("path:product_id=p0"));
    json_t *s = json_array_get(json_object_get(o, "service_capabilities"), 0);
    assert_string_equal(text(s, "service_type"), "S");
    assert_string_equal(text(s, "option"), "Optional");
    assert_int_equal(json_array_size(json_object_get(s, "properties")), 2);
    json_decref(o);
    refused(
        400, "IOTDA.013901", "p0", "CreateProduct",
        "{\"product_id\":\"p0\",\"name\":\"n\",\"device_type\":\"d\",\"protocol_type\":\"MQTT\","
        "\"data_format\":\"json\",\"service_capabilities\":[]}",
        NULL);
    o = call(200, "UpdateProduct", "{\"name\":\"new\",\"description\":\"d\"}",
             NAMES("path:product_id=p0"));
    assert_string_equal(text(o, "name"), "new");
    assert_string_equal(text(o, "device_type"), "Pump");
    assert_int_equal(json_array_size(json_object_get(o, "service_capabilities")), 1);
    json_decref(o);
    e = next_event(PRODUCT_UPDATED);
    json_t *body = json_loadb((char *)e->body.data, e->body.len, 0, NULL);
    assert_string_equal(text(body, "name"), "new");
    json_decref(body);
    refused(400, "IOTDA.000006", "CoAP", "UpdateProduct", "{\"protocol_type\":\"CoAP\"}",
            NAMES("path:product_id=p0"));
    done(204, "DeleteProduct", NULL, NAMES("path:product_id=p0"));
    refused(404, "IOTDA.013900", "p0", "ShowProduct", NULL, NAMES("path:product_id=p0"));
    next_event(PRODUCT_DELETED);
    create_product("p0", NULL);
    e = next_event(PRODUCT_CREATED);
    assert_true(e->product_key > key); /* never used again */
    done(204, "DeleteProduct", NULL, NAMES("path:product_id=p0"));
    e = next_event(PRODUCT_DELETED);
    assert_string_equal(e->product_id, "p0");
}

static void a_broken_model_is_refused_by_its_path(void **state)
{
    (void)state;
    refused(400, "IOTDA.013904", "service_capabilities[0].properties[0].max", "CreateProduct",
            "{\"name\":\"n\",\"device_type\":\"d\",\"protocol_type\":\"MQTT\",\"data_format\":"
            "\"json\",\"service_capabilities\":[{\"service_id\":\"a\",\"properties\":[{"
            "\"property_name\":\"p\",\"data_type\":\"int\",\"method\":\"R\",\"min\":\"5\","
            "\"max\":\"1\"}]}]}",
            NULL);
    refused(403, "IOTDA.001000", "nowhere", "CreateProduct",
            "{\"name\":\"n\",\"device_type\":\"d\",\"protocol_type\":\"MQTT\",\"data_format\":"
            "\"json\",\"service_capabilities\":[],\"app_id\":\"nowhere\"}",
            NULL);
}

static void a_product_without_its_space_is_that_of_the_default_space(void **state)
{
    (void)state;
    char app[40], query[64];
    PGresult *res = sql("SELECT app_id FROM registry.app WHERE app_name = 'plant'");
    snprintf(app, sizeof app, "%s", PQgetvalue(res, 0, 0));
    PQclear(res);
    snprintf(query, sizeof query, "query:app_id=%s", app);
    create_product("twice", app);
    json_t *o = call(200, "ShowProduct", NULL, NAMES("path:product_id=twice"));
    assert_string_equal(text(o, "app_id"), app); /* none in the default space */
    json_decref(o);
    create_product("twice", NULL);
    o = call(200, "ShowProduct", NULL, NAMES("path:product_id=twice"));
    assert_string_not_equal(text(o, "app_id"), app);
    json_decref(o);
    o = call(200, "ShowProduct", NULL, NAMES("path:product_id=twice", query));
    assert_string_equal(text(o, "app_id"), app);
    json_decref(o);
    done(204, "DeleteProduct", NULL, NAMES("path:product_id=twice", query));
    done(204, "DeleteProduct", NULL, NAMES("path:product_id=twice"));
    for (int i = 0; i < 4; i++) /* one partition, so in this order */
        next_event(i < 2 ? PRODUCT_CREATED : PRODUCT_DELETED);
    refused(403, "IOTDA.001000", "nowhere", "ListProducts", NULL, NAMES("query:app_id=nowhere"));
}

static void lists_come_newest_first_in_pages(void **state)
{
    (void)state;
    char id[16], marker[48];
    for (int i = 0; i < 5; i++) {
        snprintf(id, sizeof id, "page-%d", i);
        create_product(id, NULL);
    }
    json_t *o = call(200, "ListProducts", NULL, NAMES("query:limit=2", "query:product_name=pump"));
    json_t *list = json_object_get(o, "products"), *page = json_object_get(o, "page");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(text(json_array_get(list, 0), "product_id"), "page-4");
    assert_null(json_object_get(json_array_get(list, 0), "service_capabilities"));
    assert_int_equal(json_integer_value(json_object_get(page, "count")), 5);
    snprintf(marker, sizeof marker, "query:marker=%s", text(page, "marker"));
    json_decref(o);
    o = call(200, "ListProducts", NULL, NAMES("query:limit=2", marker, "query:offset=1"));
    list = json_object_get(o, "products");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(text(json_array_get(list, 0), "product_id"), "page-1");
    json_decref(o);
    o = call(200, "ListProducts", NULL, NAMES("query:offset=5"));
    assert_int_equal(json_array_size(json_object_get(o, "products")), 0);
    page = json_object_get(o, "page");
    assert_int_equal(json_integer_value(json_object_get(page, "count")), 5);
    assert_null(json_object_get(page, "marker"));
    json_decref(o);
    for (int i = 0; i < 5; i++) {
        char path[40];
        snprintf(path, sizeof path, "path:product_id=page-%d", i);
        done(204, "DeleteProduct", NULL, NAMES(path));
    }
    skip_events(10);
}

/* ---- devices */

static void a_device_is_registered_with_a_secret(void **state)
{
    (void)state;
    char subject[64];
    create_product("p1", NULL);
    json_t *o = add_device("n1", ",\"device_name\":\"one\",\"extension_info\":{\"a\":1}");
    json_t *auth = json_object_get(o, "auth_info");
    assert_string_equal(text(o, "device_id"), "p1_n1");
    assert_string_equal(text(o, "gateway_id"), "p1_n1");
    assert_string_equal(text(o, "node_type"), "GATEWAY");
    assert_string_equal(text(o, "status"), "INACTIVE");
    assert_string_equal(text(o, "product_name"), "pump");
    assert_string_equal(text(auth, "auth_type"), "SECRET");
    assert_int_equal(strlen(text(auth, "secret")), 32);
    json_t *shown = call(200, "ShowDevice", NULL, NAMES("path:device_id=p1_n1"));
    assert_true(json_equal(o, shown)); /* the answer is what is there, secret included */
    PGresult *res = sql("SELECT secret FROM registry.device WHERE device_id = 'p1_n1'");
    assert_memory_equal(PQgetvalue(res, 0, 0), "v1.", 3);
    assert_null(strstr(PQgetvalue(res, 0, 0), text(auth, "secret")));
    PQclear(res);
    next_event(PRODUCT_CREATED);
    Causeway__Event *e = next_event(CREATED);
    assert_string_equal(e->device_id, "p1_n1");
    assert_string_equal(e->gateway_id, "p1_n1");
    char *body = strndup((char *)e->body.data, e->body.len);
    assert_null(strstr(body, text(auth, "secret")));
    assert_non_null(strstr(body, "\"device_name\":\"one\""));
    snprintf(subject, sizeof subject, "event.%u.device-registry", cw_partition("p1_n1", 5, 8));
    assert_string_equal(heard_on[n_heard - 1], subject);
    free(body);
    json_decref(o);
    json_decref(shown);
    refused(400, "IOTDA.014031", "p1_n1", "AddDevice", "{\"product_id\":\"p1\",\"node_id\":\"n1\"}",
            NULL);
    refused(404, "IOTDA.013900", "nothing", "AddDevice",
            "{\"product_id\":\"nothing\",\"node_id\":\"n1\"}", NULL);
    refused(404, "IOTDA.014000", "nobody", "ShowDevice", NULL, NAMES("path:device_id=nobody"));
    refused(403, "IOTDA.013902", "p1", "DeleteProduct", NULL, NAMES("path:product_id=p1"));
}

static void children_hang_below_gateways_two_levels_deep(void **state)
{
    (void)state;
    json_t *o = add_device("c1", ",\"gateway_id\":\"p1_n1\"");
    assert_string_equal(text(o, "node_type"), "ENDPOINT");
    assert_string_equal(text(o, "gateway_id"), "p1_n1");
    json_decref(o);
    json_decref(add_device("c2", ",\"gateway_id\":\"p1_c1\""));
    next_event(CREATED);
    Causeway__Event *e = next_event(CREATED);
    assert_string_equal(e->gateway_id, "p1_n1"); /* travels with the directly connected device */
    refused(403, "IOTDA.014901", "p1_c2", "AddDevice",
            "{\"product_id\":\"p1\",\"node_id\":\"c3\",\"gateway_id\":\"p1_c2\"}", NULL);
    refused(400, "IOTDA.014902", "nobody", "AddDevice",
            "{\"product_id\":\"p1\",\"node_id\":\"c3\",\"gateway_id\":\"nobody\"}", NULL);
    refused(403, "IOTDA.014900", "p1_n1", "DeleteDevice", NULL, NAMES("path:device_id=p1_n1"));
    o = call(200, "ListDevices", NULL, NAMES("query:gateway_id=p1_n1"));
    assert_int_equal(json_array_size(json_object_get(o, "devices")), 1);
    json_decref(o);
    o = call(200, "ListDevices", NULL,
             NAMES("query:gateway_id=p1_n1", "query:is_cascade_query=true"));
    assert_int_equal(json_array_size(json_object_get(o, "devices")), 2);
    json_decref(o);
    o = call(200, "ListDevices", NULL, NAMES("query:node_id=c2"));
    json_t *one = json_array_get(json_object_get(o, "devices"), 0);
    assert_string_equal(text(one, "device_id"), "p1_c2");
    assert_null(json_object_get(one, "auth_info"));
    json_decref(o);
    o = call(200, "ListDevices", NULL, NAMES("query:device_name=one", "query:product_id=p1"));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "page"), "count")), 1);
    json_decref(o);
    o = call(200, "ListDevices", NULL, NAMES("query:end_time=20200101T000000Z"));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "page"), "count")), 0);
    json_decref(o);
    refused(400, "IOTDA.000010", "start_time", "ListDevices", NULL,
            NAMES("query:start_time=20300101T000000Z", "query:end_time=20200101T000000Z"));
    refused(403, "IOTDA.001000", "nowhere", "ListDevices", NULL, NAMES("query:app_id=nowhere"));
}

static void desired_values_must_be_in_the_model_and_writable(void **state)
{
    (void)state;
    refused(400, "IOTDA.013002", "shadow[0].desired.t: its method", "AddDevice",
            "{\"product_id\":\"p1\",\"node_id\":\"s1\",\"shadow\":[{\"service_id\":\"S\","
            "\"desired\":{\"t\":1}}]}",
            NULL);
    refused(400, "IOTDA.013002", "did you mean \"on\"", "AddDevice",
            "{\"product_id\":\"p1\",\"node_id\":\"s1\",\"shadow\":[{\"service_id\":\"S\","
            "\"desired\":{\"onn\":true}}]}",
            NULL);
    json_decref(add_device("s1", ",\"shadow\":[{\"service_id\":\"S\",\"desired\":{\"on\":true}}]"));
    assert_int_equal(sql_int("SELECT count(*) FROM registry.device_view WHERE device_id = 'p1_s1'"
                             " AND initial_desired @> '[{\"desired\":{\"on\":true}}]'"),
                     1);
}

static void an_update_changes_what_is_sent(void **state)
{
    (void)state;
    json_t *o = call(200, "UpdateDevice",
                     "{\"description\":\"new\",\"auth_info\":{\"secure_access\":true}}",
                     NAMES("path:device_id=p1_s1"));
    json_t *shown = call(200, "ShowDevice", NULL, NAMES("path:device_id=p1_s1"));
    assert_true(json_equal(o, shown));
    assert_string_equal(text(o, "description"), "new");
    assert_true(json_is_true(json_object_get(json_object_get(o, "auth_info"), "secure_access")));
    json_decref(o);
    json_decref(shown);
    next_event(CREATED);
    assert_string_equal(next_event(UPDATED)->device_id, "p1_s1");
    refused(404, "IOTDA.014000", "nobody", "UpdateDevice", "{}", NAMES("path:device_id=nobody"));
}

static void many_updates_at_once_all_count(void **state)
{
    (void)state;
    struct answer a[4] = { 0 };
    int64_t version = sql_int("SELECT version FROM registry.device WHERE device_id = 'p1_s1'");
    for (size_t i = 0; i < CW_ARRAY_LEN(a); i++)
        ask(&a[i], "UpdateDevice", "{\"device_name\":\"x\"}", NAMES("path:device_id=p1_s1"));
    for (size_t i = 0; i < CW_ARRAY_LEN(a); i++) {
        run_until(base, &a[i].n, 1);
        assert_int_equal(a[i].status, 200);
        json_decref(a[i].body);
    }
    assert_int_equal(sql_int("SELECT version FROM registry.device WHERE device_id = 'p1_s1'"),
                     version + 4);
}

/* ---- logins */

struct login_answer {
    int n, rc;
    Causeway__SessionOpenReply *reply;
};

static void on_login(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct login_answer *a = arg;
    a->rc = rc;
    a->n++;
    if (rc == 0)
        a->reply = causeway__session_open_reply__unpack(NULL, msg->len, msg->data);
}

static void hour(char out[16], int offset)
{
    time_t t = time(NULL) + 3600 * offset;
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(out, 16, "%Y%m%d%H", &tm);
}

struct login {
    const char *device_id, *secret; /* secret: the password is computed from it; or … */
    const char *password;           /* … is given */
    unsigned sign_type;
    int hours_off;
    bool secure;
};

static Causeway__SessionOpenReply *log_in(const char *gateway, const struct login *logins, size_t n)
{
    Causeway__SessionOpenBatch batch = CAUSEWAY__SESSION_OPEN_BATCH__INIT;
    Causeway__SessionOpen opens[16], *list[16];
    char password[16][CW_DIGEST_HEX_LEN], timestamp[16][16];
    uint8_t packed[16384];
    struct login_answer a = { 0 };
    for (size_t i = 0; i < n; i++) {
        causeway__session_open__init(list[i] = &opens[i]);
        hour(timestamp[i], logins[i].hours_off);
        opens[i].device_id = (char *)logins[i].device_id;
        opens[i].sign_type = logins[i].sign_type;
        opens[i].timestamp = timestamp[i];
        opens[i].secure = logins[i].secure;
        opens[i].client_id = (char *)"client";
        opens[i].peer = (char *)"127.0.0.1:9";
        opens[i].password = logins[i].secret
                                ? cw_device_password(password[i], logins[i].secret, timestamp[i])
                                : (char *)logins[i].password;
    }
    batch.gateway = (char *)gateway;
    batch.deadline_ms = cw_now_ms() + 10000;
    batch.opens = list;
    batch.n_opens = n;
    size_t len = causeway__session_open_batch__pack(&batch, packed);
    assert_non_null(
        cw_bus_request(bus, "api.registry.open_sessions", packed, len, 10000, on_login, &a));
    run_until(base, &a.n, 1);
    assert_int_equal(a.rc, 0);
    assert_non_null(a.reply);
    assert_int_equal(a.reply->n_results, n);
    return a.reply;
}

static char secret_n1[40];

static void a_batch_of_logins_is_answered_in_order(void **state)
{
    (void)state;
    json_t *o = call(200, "ShowDevice", NULL, NAMES("path:device_id=p1_n1"));
    snprintf(secret_n1, sizeof secret_n1, "%s", text(json_object_get(o, "auth_info"), "secret"));
    json_decref(o);
    json_decref(add_device("frozen", ",\"auth_info\":{\"secret\":\"abcdefgh\"}"));
    json_decref(
        add_device("tls", ",\"auth_info\":{\"secret\":\"abcdefgh\",\"secure_access\":true}"));
    json_decref(add_device("cert", ",\"auth_info\":{\"auth_type\":\"CERTIFICATES\"}"));
    json_decref(add_device("gone", ",\"auth_info\":{\"secret\":\"abcdefgh\"}"));
    done(204, "DeleteDevice", NULL, NAMES("path:device_id=p1_gone"));
    PQclear(sql("UPDATE registry.device SET frozen = true WHERE device_id = 'p1_frozen'"));
    const struct {
        struct login login;
        unsigned connack;
        const char *code, *reason;
    } cases[] = {
        { { "p1_n1", secret_n1, NULL, 1, 0, false }, 0, "", "" },
        { { "p1_n1", "not-the-one", NULL, 0, 0, false }, 4, "wrong_password", "does not belong" },
        { { "p1_n1", NULL, secret_n1, 0, 0, false }, 4, "password_is_secret", "secret itself" },
        { { "p1_n1", NULL, "", 0, 0, false }, 4, "no_password", "no password" },
        { { "p1_n1", secret_n1, NULL, 0, -50, false }, 0, "", "" },
        { { "p1_n1", secret_n1, NULL, 1, -3, false }, 4, "stale_timestamp", "3 hours behind" },
        { { "p1_n1", secret_n1, NULL, 1, 4, false }, 4, "stale_timestamp", "4 hours ahead" },
        { { "p1_n1", secret_n1, NULL, 1, 2, false }, 0, "", "" },
        { { "p1_n1", secret_n1, NULL, 2, 0, false }, 2, "sign_type", "2" },
        { { "nobody", "abcdefgh", NULL, 0, 0, false }, 4, "unknown_device", "No device" },
        { { "p1_gone", "abcdefgh", NULL, 0, 0, false }, 4, "device_deleted", "was deleted at 20" },
        { { "p1_frozen", "abcdefgh", NULL, 0, 0, false }, 5, "frozen", "frozen" },
        { { "p1_tls", "abcdefgh", NULL, 0, 0, false }, 5, "needs_tls", "not encrypted" },
        { { "p1_tls", "abcdefgh", NULL, 0, 0, true }, 0, "", "" },
        { { "p1_cert", "abcdefgh", NULL, 0, 0, true }, 5, "certificate_missing", "has shown none" },
        { { "p1_cert", "abcdefgh", NULL, 0, 0, false }, 5, "auth_type", "not encrypted" },
    };
    struct login logins[CW_ARRAY_LEN(cases)];
    for (size_t i = 0; i < CW_ARRAY_LEN(cases); i++)
        logins[i] = cases[i].login;
    Causeway__SessionOpenReply *r = log_in("gw-1-1", logins, CW_ARRAY_LEN(cases));
    int64_t last = 0;
    for (size_t i = 0; i < CW_ARRAY_LEN(cases); i++) {
        Causeway__SessionOpened *s = r->results[i];
        if (s->connack != cases[i].connack || strcmp(s->code, cases[i].code) != 0 ||
            !strstr(s->reason, cases[i].reason))
            fail_msg("%zu: connack %u code %s reason %s", i, s->connack, s->code, s->reason);
        assert_int_equal(s->session_no > 0, s->connack == 0);
        assert_int_equal(s->device_key > 0,
                         strcmp(s->code, "unknown_device") && strcmp(s->code, "device_deleted"));
        assert_true(!s->connack || *s->next_step);
        if (s->connack == 0 && strcmp(cases[i].login.device_id, "p1_n1") == 0) {
            assert_true(s->session_no > last); /* the same device again: in the batch's order */
            assert_int_equal(s->old_session_no, last);
            assert_string_equal(s->old_gateway, last ? "gw-1-1" : "");
            last = s->session_no;
        }
    }
    assert_int_equal(sql_int("SELECT session_no FROM registry.session WHERE device_id = 'p1_n1'"),
                     last);
    causeway__session_open_reply__free_unpacked(r, NULL);
    const struct login again = { "p1_n1", secret_n1, NULL, 0, 0, false };
    r = log_in("gw-2-1", &again, 1);
    assert_string_equal(r->results[0]->old_gateway, "gw-1-1");
    assert_int_equal(r->results[0]->old_session_no, last);
    causeway__session_open_reply__free_unpacked(r, NULL);
}

static void a_registered_device_logs_in_again_after_a_delete_under_a_new_key(void **state)
{
    (void)state;
    const struct login l = { "p1_gone", "abcdefgh", NULL, 0, 0, false };
    int64_t old = sql_int(
        "SELECT max(device_key) FROM registry.device_tombstone WHERE device_id = 'p1_gone'");
    json_decref(add_device("gone", ",\"auth_info\":{\"secret\":\"abcdefgh\"}"));
    Causeway__SessionOpenReply *r = log_in("gw-1-1", &l, 1);
    assert_int_equal(r->results[0]->connack, 0);
    assert_true(r->results[0]->device_key > old);
    causeway__session_open_reply__free_unpacked(r, NULL);
}

/* ---- secrets and open sessions */

struct gateway {
    int n;
    char cause[32];
    int64_t session_no;
};

static void on_downlink(const struct cw_bus_msg *msg, void *arg)
{
    struct gateway *g = arg;
    Causeway__Downlink *d = causeway__downlink__unpack(NULL, msg->len, msg->data);
    Causeway__DownlinkReply reply = CAUSEWAY__DOWNLINK_REPLY__INIT;
    uint8_t packed[64];
    assert_non_null(d);
    assert_int_equal(d->kind, CAUSEWAY__DOWNLINK_KIND__DOWNLINK_CLOSE);
    snprintf(g->cause, sizeof g->cause, "%s", d->cause);
    g->session_no = d->session_no;
    g->n++;
    causeway__downlink__free_unpacked(d, NULL);
    reply.outcome = CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_CLOSED;
    cw_bus_publish(bus, msg->reply, NULL, packed, causeway__downlink_reply__pack(&reply, packed));
}

static void a_new_secret_replaces_one_and_can_cut_the_session(void **state)
{
    (void)state;
    struct gateway gw = { 0 };
    const struct login first = { "p1_n1", secret_n1, NULL, 0, 0, false },
                       second = { "p1_n1", "second-secret", NULL, 0, 0, false };
    json_t *o = call(200, "ResetDeviceSecret",
                     "{\"secret\":\"second-secret\",\"secret_type\":\"SECONDARY\"}",
                     NAMES("path:device_id=p1_n1", "query:action_id=resetSecret"));
    assert_string_equal(text(o, "secret"), "second-secret");
    assert_string_equal(text(o, "secret_type"), "SECONDARY");
    json_decref(o);
    Causeway__SessionOpenReply *r = log_in("gw-3-1", (struct login[]){ first, second }, 2);
    assert_int_equal(r->results[0]->connack, 0); /* both are good */
    assert_int_equal(r->results[1]->connack, 0);
    int64_t session_no = r->results[1]->session_no;
    causeway__session_open_reply__free_unpacked(r, NULL);
    struct cw_bus_sub *sub = cw_bus_subscribe(bus, "downlink.gw-3-1", NULL, on_downlink, &gw);
    o = call(200, "ResetDeviceSecret", "{\"force_disconnect\":true}",
             NAMES("path:device_id=p1_n1", "query:action_id=resetSecret"));
    assert_int_equal(gw.n, 1);
    assert_string_equal(gw.cause, "secret_reset");
    assert_int_equal(gw.session_no, session_no);
    assert_string_equal(text(o, "secret_type"), "PRIMARY");
    assert_int_equal(strlen(text(o, "secret")), 32);
    r = log_in("gw-3-1", (struct login[]){ first, second }, 2);
    assert_int_equal(r->results[0]->connack, 4); /* the old one is not */
    assert_int_equal(r->results[1]->connack, 0);
    causeway__session_open_reply__free_unpacked(r, NULL);
    snprintf(secret_n1, sizeof secret_n1, "%s", text(o, "secret"));
    json_decref(o);
    cw_bus_unsubscribe(&sub);
    /* nobody serves the gateway's subject: it is gone, and so is the session */
    done(200, "ResetDeviceSecret", "{\"force_disconnect\":true}",
         NAMES("path:device_id=p1_n1", "query:action_id=resetSecret"));
    refused(400, "IOTDA.000006", "CERTIFICATES", "ResetDeviceSecret", "{}",
            NAMES("path:device_id=p1_cert", "query:action_id=resetSecret"));
}

static void on_silence(const struct cw_bus_msg *msg, void *arg)
{
    (void)msg;
    ++*(int *)arg;
}

static void a_gateway_that_does_not_confirm_is_named(void **state)
{
    (void)state;
    int asked = 0;
    struct cw_bus_sub *sub = cw_bus_subscribe(bus, "downlink.gw-3-1", NULL, on_silence, &asked);
    refused(503, "IOTDA.000903", "secret is changed", "ResetDeviceSecret",
            "{\"force_disconnect\":true}",
            NAMES("path:device_id=p1_n1", "query:action_id=resetSecret"));
    assert_true(asked > 0);
    cw_bus_unsubscribe(&sub);
}

static void a_delete_cuts_the_session_and_leaves_a_tombstone(void **state)
{
    (void)state;
    struct gateway gw = { 0 };
    struct cw_bus_sub *sub = cw_bus_subscribe(bus, "downlink.gw-1-1", NULL, on_downlink, &gw);
    int64_t tombs = sql_int("SELECT count(*) FROM registry.device_tombstone");
    done(204, "DeleteDevice", NULL, NAMES("path:device_id=p1_gone"));
    assert_string_equal(gw.cause, "deleted");
    Causeway__Event *e = newest_event(DELETED, "p1_gone");
    assert_int_equal(e->body.len, 0);
    assert_int_equal(sql_int("SELECT count(*) FROM registry.device_tombstone"), tombs + 1);
    assert_int_equal(sql_int("SELECT count(*) FROM registry.session WHERE device_id = 'p1_gone'"),
                     0);
    refused(404, "IOTDA.014000", "p1_gone", "DeleteDevice", NULL, NAMES("path:device_id=p1_gone"));
    cw_bus_unsubscribe(&sub);
}

static void a_late_batch_opens_nothing(void **state)
{
    (void)state;
    Causeway__SessionOpenBatch batch = CAUSEWAY__SESSION_OPEN_BATCH__INIT;
    Causeway__SessionOpen open = CAUSEWAY__SESSION_OPEN__INIT, *list[] = { &open };
    uint8_t packed[256];
    struct login_answer a = { 0 };
    batch.gateway = (char *)"gw-1-1";
    batch.deadline_ms = cw_now_ms() - 1;
    batch.opens = list;
    batch.n_opens = 1;
    size_t len = causeway__session_open_batch__pack(&batch, packed);
    assert_non_null(
        cw_bus_request(bus, "api.registry.open_sessions", packed, len, 300, on_login, &a));
    run_until(base, &a.n, 1);
    assert_int_equal(a.rc, -ETIMEDOUT);
    assert_non_null(strstr(admin_get("/metrics"), "causeway_logins_late_total 1\n"));
}

static void without_postgresql_calls_and_logins_fail_at_once_and_come_back(void **state)
{
    (void)state;
    const struct login l = { "p1_n1", "second-secret", NULL, 0, 0, false };
    PQfinish(db);
    server_kill(&pg);
    refused(503, "IOTDA.000903", "PostgreSQL", "ShowDevice", NULL, NAMES("path:device_id=p1_n1"));
    Causeway__SessionOpenReply *r = log_in("gw-1-1", &l, 1);
    assert_int_equal(r->results[0]->connack, 3);
    causeway__session_open_reply__free_unpacked(r, NULL);
    pg_run(&pg);
    await_bus();
    char conninfo[128];
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=postgres dbname=postgres",
             pg.port);
    db = PQconnectdb(conninfo);
    int64_t until_ms = cw_mono_ms() + UNTIL_LIMIT_MS;
    unsigned connack;
    do {
        assert_true(cw_mono_ms() < until_ms);
        r = log_in("gw-1-1", &l, 1);
        connack = r->results[0]->connack;
        causeway__session_open_reply__free_unpacked(r, NULL);
    } while (connack != 0);
    await_ready();
    done(200, "ShowDevice", NULL, NAMES("path:device_id=p1_n1"));
}

static void a_registration_that_times_out_is_deleted(void **state)
{
    (void)state;
    json_decref(add_device("late", ",\"auth_info\":{\"timeout\":1}"));
    json_decref(add_device("slow", ",\"auth_info\":{\"timeout\":3600}"));
    newest_event(DELETED, "p1_late");
    refused(404, "IOTDA.014000", "p1_late", "ShowDevice", NULL, NAMES("path:device_id=p1_late"));
    done(200, "ShowDevice", NULL, NAMES("path:device_id=p1_slow"));
}

static void it_drains_and_ends(void **state)
{
    int status;
    (void)state;
    kill(daemon_pid, SIGTERM);
    assert_int_equal(waitpid(daemon_pid, &status, 0), daemon_pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    run_daemon();
    await_ready(); /* and finds its default space again */
    assert_int_equal(sql_int("SELECT count(*) FROM registry.app WHERE default_app"), 1);
}

/* ---- device.status, and gateways that are gone */

/* Puts a status onto EVENT as uplink-processor does. */
static void state_status(const char *device_id, int64_t session_no, const char *status)
{
    char body[128], subject[64], question[128];
    uint8_t packed[512];
    Causeway__EventBatch batch = CAUSEWAY__EVENT_BATCH__INIT;
    Causeway__Event e = CAUSEWAY__EVENT__INIT, *list[] = { &e };
    snprintf(question, sizeof question,
             "SELECT device_key FROM registry.device WHERE device_id = '%s'", device_id);
    int n = snprintf(body, sizeof body, "{\"status\":\"%s\"}", status);
    e.kind = CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS;
    e.device_key = sql_int(question);
    e.device_id = e.gateway_id = (char *)device_id;
    e.session_no = session_no;
    e.time_ms = 1767323045678; /* 2026-01-02T03:04:05.678Z */
    e.body = (ProtobufCBinaryData){ (size_t)n, (uint8_t *)body };
    batch.events = list;
    batch.n_events = 1;
    snprintf(subject, sizeof subject, "event.%u.uplink-processor",
             cw_partition(device_id, strlen(device_id), 8));
    size_t len = causeway__event_batch__pack(&batch, packed);
    assert_int_equal(cw_bus_publish(bus, subject, NULL, packed, len), 0);
}

static void a_status_on_event_becomes_the_device_s_status(void **state)
{
    (void)state;
    const struct login l = { "p1_n1", "second-secret", NULL, 0, 0, false };
    Causeway__SessionOpenReply *r = log_in("gw-1-1", &l, 1);
    int64_t session_no = r->results[0]->session_no;
    causeway__session_open_reply__free_unpacked(r, NULL);
    state_status("p1_n1", session_no, "ONLINE");
    await_sql(
        "SELECT count(*) FROM registry.device WHERE device_id = 'p1_n1' AND status = 'ONLINE'", 1);
    json_t *o = call(200, "ShowDevice", NULL, NAMES("path:device_id=p1_n1"));
    assert_string_equal(text(o, "active_time"), "2026-01-02T03:04:05.678Z");
    assert_string_equal(text(o, "connection_status_update_time"), "2026-01-02T03:04:05.678Z");
    json_decref(o);
    state_status("p1_n1", session_no - 1, "OFFLINE"); /* of a session before */
    state_status("p1_n1", session_no, "OFFLINE");
    await_sql("SELECT count(*) FROM registry.session WHERE device_id = 'p1_n1'", 0);
    o = call(200, "ShowDevice", NULL, NAMES("path:device_id=p1_n1"));
    assert_string_equal(text(o, "status"), "OFFLINE");
    json_decref(o);
    await_sql("SELECT count(*) FROM registry.outbox", 0);
}

static void an_older_session_changes_nothing(void **state)
{
    (void)state;
    const struct login l = { "p1_n1", "second-secret", NULL, 0, 0, false };
    Causeway__SessionOpenReply *r = log_in("gw-1-1", &l, 1);
    int64_t session_no = r->results[0]->session_no;
    causeway__session_open_reply__free_unpacked(r, NULL);
    state_status("p1_n1", session_no, "ONLINE");
    state_status("p1_n1", session_no - 1, "OFFLINE");
    state_status("p1_tls", 1, "ONLINE");
    await_sql("SELECT count(*) FROM registry.device WHERE device_id IN ('p1_n1', 'p1_tls')"
              " AND status = 'ONLINE'",
              2);
    assert_int_equal(sql_int("SELECT session_no FROM registry.session WHERE device_id = 'p1_n1'"),
                     session_no);
}

static void beat(const char *gateway)
{
    char subject[64];
    snprintf(subject, sizeof subject, "heartbeat.%s", gateway);
    cw_bus_publish(bus, subject, NULL, "", 0);
}

/* The end of this session on UPLINK, waited for while `alive` goes on beating; NULL: not said. */
static Causeway__Uplink *end_of(int64_t session_no, const char *alive)
{
    for (int64_t until_ms = cw_mono_ms() + UNTIL_LIMIT_MS; cw_mono_ms() < until_ms;) {
        for (int i = 0; i < n_ends; i++)
            if (ends[i]->session_no == session_no)
                return ends[i];
        struct timeval tick = { 0, 100000 };
        beat(alive);
        event_base_loopexit(base, &tick);
        event_base_dispatch(base);
    }
    return NULL;
}

static void the_sessions_of_a_lost_gateway_are_ended(void **state)
{
    (void)state;
    const struct login dead = { "p1_tls", "abcdefgh", NULL, 0, 0, true },
                       alive = { "p1_n1", "second-secret", NULL, 0, 0, false };
    kill(daemon_pid, SIGKILL);
    waitpid(daemon_pid, NULL, 0);
    setenv("CAUSEWAY_GATEWAY_LOST", "2s", 1);
    run_daemon();
    await_ready();
    Causeway__SessionOpenReply *d = log_in("gw-8-100", &dead, 1),
                               *a = log_in("gw-9-100", &alive, 1);
    int64_t session_no = d->results[0]->session_no;
    Causeway__Uplink *end = end_of(session_no, "gw-9-100");
    assert_non_null(end);
    assert_int_equal(end->kind, CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT);
    assert_string_equal(end->cause, "gateway_lost");
    assert_string_equal(end->device_id, "p1_tls");
    assert_int_equal(end->device_key, d->results[0]->device_key);
    assert_int_equal(end->product_key, d->results[0]->product_key);
    await_sql("SELECT count(*) FROM registry.session WHERE lost IS NOT NULL"
              " AND device_id = 'p1_tls'",
              1);
    assert_int_equal(sql_int("SELECT count(*) FROM registry.session WHERE lost IS NULL"
                             " AND gateway = 'gw-9-100'"),
                     1);
    /* its holder is gone for good: nobody has to be waited for */
    Causeway__SessionOpenReply *again = log_in("gw-9-100", &dead, 1);
    assert_string_equal(again->results[0]->old_gateway, "");
    assert_int_equal(again->results[0]->old_session_no, session_no);
    causeway__session_open_reply__free_unpacked(again, NULL);
    causeway__session_open_reply__free_unpacked(d, NULL);
    causeway__session_open_reply__free_unpacked(a, NULL);
}

static void a_gateway_that_came_back_ends_what_its_predecessor_held(void **state)
{
    (void)state;
    kill(daemon_pid, SIGKILL);
    waitpid(daemon_pid, NULL, 0);
    setenv("CAUSEWAY_GATEWAY_LOST", "10m", 1); /* silence is not the reason */
    run_daemon();
    await_ready();
    const struct login l = { "p1_n1", "second-secret", NULL, 0, 0, false };
    Causeway__SessionOpenReply *r = log_in("gw-9-100", &l, 1);
    assert_non_null(end_of(r->results[0]->session_no, "gw-9-200"));
    causeway__session_open_reply__free_unpacked(r, NULL);
}

int main(int argc, char **argv)
{
    (void)argc;
    char *slash = strrchr(argv[0], '/');
    snprintf(daemon_path, sizeof daemon_path, "%.*s/../bin/device-registry",
             slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_default_space_is_there_and_written_down),
        cmocka_unit_test(spaces_are_made_shown_and_limited),
        cmocka_unit_test(a_product_lives_from_create_to_delete),
        cmocka_unit_test(a_broken_model_is_refused_by_its_path),
        cmocka_unit_test(a_product_without_its_space_is_that_of_the_default_space),
        cmocka_unit_test(lists_come_newest_first_in_pages),
        cmocka_unit_test(a_device_is_registered_with_a_secret),
        cmocka_unit_test(children_hang_below_gateways_two_levels_deep),
        cmocka_unit_test(desired_values_must_be_in_the_model_and_writable),
        cmocka_unit_test(an_update_changes_what_is_sent),
        cmocka_unit_test(many_updates_at_once_all_count),
        cmocka_unit_test(a_batch_of_logins_is_answered_in_order),
        cmocka_unit_test(a_registered_device_logs_in_again_after_a_delete_under_a_new_key),
        cmocka_unit_test(a_new_secret_replaces_one_and_can_cut_the_session),
        cmocka_unit_test(a_gateway_that_does_not_confirm_is_named),
        cmocka_unit_test(a_delete_cuts_the_session_and_leaves_a_tombstone),
        cmocka_unit_test(a_late_batch_opens_nothing),
        cmocka_unit_test(without_postgresql_calls_and_logins_fail_at_once_and_come_back),
        cmocka_unit_test(a_status_on_event_becomes_the_device_s_status),
        cmocka_unit_test(an_older_session_changes_nothing),
        cmocka_unit_test(the_sessions_of_a_lost_gateway_are_ended),
        cmocka_unit_test(a_gateway_that_came_back_ends_what_its_predecessor_held),
        cmocka_unit_test(a_registration_that_times_out_is_deleted),
        cmocka_unit_test(it_drains_and_ends),
    };
    return cmocka_run_group_tests_name("registry", tests, start, stop);
}

/* The real uplink-processor against a real nats-server and PostgreSQL: records go into UPLINK,
 * rows, events and answers come out. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "tests/unit/logs_fixture.h"

#include "libcommon/api.h"
#include "libcommon/ids.h"
#include "libcommon/json.h"
#include "libcommon/log_append.h"
#include "proto/subjects.h"

#define PARTITIONS  2
#define PRODUCT_KEY 5
#define MODEL                                                                                      \
    "[{\"service_id\":\"Pump\",\"properties\":[{\"property_name\":\"flow\",\"data_type\":"         \
    "\"decimal\",\"method\":\"RE\",\"min\":\"0\",\"max\":\"100\"},{\"property_name\":"             \
    "\"luminance\",\"data_type\":\"int\",\"method\":\"RE\"},{\"property_name\":\"label\","         \
    "\"data_type\":\"string\",\"method\":\"RE\",\"max_length\":64}]}]"

static struct server pg;
static pid_t daemon_pid;
static char var[] = "/tmp/cw-upl-XXXXXX";
static struct cw_log_append *uplink;
static struct cw_bus_sub *events;
static PGconn *sql;

/* ---- what the daemon says on EVENT */

static struct event_seen {
    Causeway__EventKind kind;
    Causeway__DeviceStatus status;
    char device[64], request_id[64], body[4096];
} seen[2000];
static size_t n_seen;

static void on_event(const struct cw_bus_msg *msg, void *arg)
{
    Causeway__EventBatch *b = causeway__event_batch__unpack(NULL, msg->len, msg->data);
    (void)arg;
    for (size_t i = 0; b && i < b->n_events && n_seen < CW_ARRAY_LEN(seen); i++) {
        const Causeway__Event *e = b->events[i];
        struct event_seen *s = &seen[n_seen++];
        s->kind = e->kind;
        s->status = e->status;
        snprintf(s->device, sizeof s->device, "%s", e->device_id);
        snprintf(s->request_id, sizeof s->request_id, "%s", e->request_id);
        snprintf(s->body, sizeof s->body, "%.*s", (int)e->body.len, (char *)e->body.data);
    }
    causeway__event_batch__free_unpacked(b, NULL);
}

/* The n-th event of a kind about a device, or NULL. */
static const struct event_seen *event_of(Causeway__EventKind kind, const char *device, int n)
{
    for (size_t i = 0; i < n_seen; i++)
        if (seen[i].kind == kind && strcmp(seen[i].device, device) == 0 && n-- == 0)
            return &seen[i];
    return NULL;
}

/* ---- what goes in and what is asked */

static int64_t next_key = 100;
static int n_stored;

static void run_sql(const char *text)
{
    PGresult *res = PQexec(sql, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(sql));
    PQclear(res);
}

static char *ask_sql(const char *text)
{
    static char out[8192];
    PGresult *res = PQexec(sql, text);
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", text, PQerrorMessage(sql));
    snprintf(out, sizeof out, "%s", PQntuples(res) ? PQgetvalue(res, 0, 0) : "");
    PQclear(res);
    return out;
}

/* A device of its own for each test. */
static int64_t new_device(const char *id)
{
    int64_t key = next_key++;
    char *text = cw_sprintf(
        "INSERT INTO registry.device (device_key, record_id, device_id, node_id, app_id,"
        " product_key, root_id, depth, partition, auth_type, created, updated) VALUES (%" PRId64
        ", '%s', '%s', 'node', 'app', %d, '%s', 0, %u, 'SECRET', now(), now())",
        key, id, id, PRODUCT_KEY, id, cw_partition(id, strlen(id), PARTITIONS));
    run_sql(text);
    free(text);
    return key;
}

static void on_stored(int rc, void *arg)
{
    (void)arg;
    assert_int_equal(rc, 0);
    n_stored++;
}

static int64_t clock_off_ms; /* how far the gateway's clock is wrong */

static Causeway__Uplink record(Causeway__UplinkKind kind, const char *id, int64_t key)
{
    static char request[32];
    static int n;
    Causeway__Uplink u = CAUSEWAY__UPLINK__INIT;
    snprintf(request, sizeof request, "r-%d", ++n);
    u.kind = kind;
    u.device_id = (char *)id;
    u.device_key = key;
    u.product_key = PRODUCT_KEY;
    u.session_no = 1;
    u.received_ms = cw_now_ms() + clock_off_ms;
    u.request_id = request;
    return u;
}

static void append(const Causeway__Uplink *u)
{
    uint8_t *packed = cw_malloc(causeway__uplink__get_packed_size(u));
    size_t n = causeway__uplink__pack(u, packed);
    cw_log_append(uplink, cw_partition(u->device_id, strlen(u->device_id), PARTITIONS), packed, n,
                  on_stored, NULL);
    free(packed);
}

static void publish(const char *id, int64_t key, const char *path, const char *body, size_t len)
{
    char topic[512];
    Causeway__Uplink u = record(CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH, id, key);
    snprintf(topic, sizeof topic, "$oc/devices/%s/%s", id, path);
    u.topic = topic;
    u.body = (ProtobufCBinaryData){ len, (uint8_t *)body };
    append(&u);
}

static void report(const char *id, int64_t key, const char *body)
{
    publish(id, key, "sys/properties/report", body, strlen(body));
}

static void session(Causeway__UplinkKind kind, const char *id, int64_t key, int64_t no)
{
    Causeway__Uplink u = record(kind, id, key);
    u.session_no = no;
    u.peer = "127.0.0.1:5555";
    u.client = "client";
    u.cause = kind == CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT ? "keep_alive" : "";
    append(&u);
}

struct answer {
    int n, status;
    json_t *body;
};

static void on_answer(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct answer *a = arg;
    struct cw_json_error err;
    Causeway__ApiReply *r = rc == 0 ? causeway__api_reply__unpack(NULL, msg->len, msg->data) : NULL;
    a->n++;
    if (!r)
        return;
    a->status = (int)r->status;
    a->body = cw_json_parse(r->body.data, r->body.len, &err);
    causeway__api_reply__free_unpacked(r, NULL);
}

/* Asks the daemon; the caller owns the body. query: name, value, …, NULL. status 0: any; NULL while
 * nobody answers. */
static json_t *ask(const char *operation, const char *device, int status, const char *const *query)
{
    Causeway__ApiRequest req = CAUSEWAY__API_REQUEST__INIT;
    Causeway__Pair pairs[8], *list[8], *path;
    struct answer a = { 0 };
    char subject[64];
    uint8_t packed[1024];
    for (size_t i = 0; i < CW_ARRAY_LEN(pairs); i++) {
        causeway__pair__init(&pairs[i]);
        list[i] = &pairs[i];
    }
    path = &pairs[7];
    path->name = "device_id";
    path->value = (char *)device;
    req.path = &path;
    req.n_path = 1;
    for (; query && query[2 * req.n_query]; req.n_query++) {
        pairs[req.n_query].name = (char *)query[2 * req.n_query];
        pairs[req.n_query].value = (char *)query[2 * req.n_query + 1];
    }
    req.query = list;
    req.operation = (char *)operation;
    req.deadline_ms = cw_now_ms() + 5000;
    snprintf(subject, sizeof subject, "api.data.%s", operation);
    size_t n = causeway__api_request__pack(&req, packed);
    assert_non_null(cw_bus_request(app.bus, subject, packed, n, 5000, on_answer, &a));
    UNTIL(a.n == 1);
    if (status && a.status != status)
        fail_msg("%s: status %d", operation, a.status);
    return a.body;
}

/* Asks until the text is in the answer. */
static json_t *await(const char *operation, const char *device, const char *part,
                     const char *const *query)
{
    int64_t until_ms = cw_mono_ms() + 20000;
    struct cw_buf text = { 0 };
    for (;;) {
        json_t *body = ask(operation, device, 200, query);
        cw_buf_reset(&text);
        cw_json_write(&text, body);
        if (strstr(text.data, part)) {
            cw_buf_free(&text);
            return body;
        }
        if (cw_mono_ms() > until_ms)
            fail_msg("%s never says %s but %s", operation, part, text.data);
        json_decref(body);
        for (int i = 0; i < 5; i++)
            turn();
    }
}

static const char *text_at(const json_t *root, const char *path)
{
    char key[64];
    for (const char *p = path; root && *p; p += *p == '.') {
        size_t n = strcspn(p, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, p);
        root = key[0] >= '0' && key[0] <= '9' ? json_array_get(root, (size_t)atoi(key))
                                              : json_object_get(root, key);
        p += n;
    }
    const char *text = json_string_value(root);
    return text ? text : "";
}

/* ---- the suite */

static void start_daemon(void)
{
    const char *build = getenv("BUILD");
    char path[256];
    snprintf(path, sizeof path, "%s/bin/uplink-processor", build ? build : "build");
    daemon_pid = fork();
    if (daemon_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!getenv("DAEMON_LOG") &&
            (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)))
            _exit(126);
        execl(path, path, NULL);
        _exit(127);
    }
}

static void await_daemon(void)
{
    json_t *body;
    int64_t until_ms = cw_mono_ms() + 20000;
    while (!(body = ask("ShowDeviceWhy", "nobody", 0, NULL))) {
        assert_true(cw_mono_ms() < until_ms);
        turn();
    }
    json_decref(body);
}

static void connect_sql(void)
{
    char text[128];
    snprintf(text, sizeof text, "host=127.0.0.1 port=%d user=postgres dbname=causeway", pg.port);
    sql = PQconnectdb(text);
    assert_int_equal(PQstatus(sql), CONNECTION_OK);
}

static void migrate(void)
{
    char text[200];
    snprintf(text, sizeof text,
             "PGHOST=127.0.0.1 PGPORT=%d PGUSER=postgres scripts/migrate >/dev/null", pg.port);
    assert_int_equal(system(text), 0);
    connect_sql();
    run_sql("INSERT INTO registry.app (app_id, app_name) VALUES ('app', 'plant')");
    char *product = cw_sprintf(
        "INSERT INTO registry.product (product_key, record_id, app_id, product_id, name,"
        " device_type, protocol_type, data_format, service_capabilities, created, updated) VALUES"
        " (%d, 'p', 'app', 'prod', 'pump', 'Pump', 'MQTT', 'json', '%s', now(), now())",
        PRODUCT_KEY, MODEL);
    run_sql(product);
    free(product);
}

static int start(void **state)
{
    char text[160];
    (void)state;
    nats_start(&nats);
    pg_start(&pg);
    migrate();
    app_up(PARTITIONS);
    if (!mkdtemp(var))
        return -1;
    snprintf(text, sizeof text, "%s/run", var);
    mkdir(text, 0700);
    setenv("CAUSEWAY_VAR", var, 1);
    snprintf(text, sizeof text, "nats://127.0.0.1:%d", nats.port);
    setenv("CAUSEWAY_NATS_URL", text, 1);
    snprintf(text, sizeof text, "host=127.0.0.1 port=%d user=data dbname=causeway", pg.port);
    setenv("CAUSEWAY_DB", text, 1);
    setenv("CAUSEWAY_PARTITIONS", "2", 1);
    setenv("CAUSEWAY_LOG_BYTES", "64M", 1);
    events = cw_bus_subscribe(app.bus, "event.*.uplink-processor", NULL, on_event, NULL);
    uplink = cw_log_append_open(&app, CW_LOG_UPLINK);
    start_daemon();
    await_daemon();
    return 0;
}

static int stop(void **state)
{
    char command[128];
    (void)state;
    kill(daemon_pid, SIGKILL);
    waitpid(daemon_pid, NULL, 0);
    cw_log_append_close(&uplink);
    cw_bus_unsubscribe(&events);
    app_down();
    PQfinish(sql);
    server_end(&nats);
    server_end(&pg);
    snprintf(command, sizeof command, "rm -rf '%s'", var);
    return system(command);
}

static void a_report_becomes_shadow_history_and_event(void **state)
{
    int64_t key = new_device("dev-a");
    (void)state;
    report("dev-a", key,
           "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"flow\":1.5},"
           "\"event_time\":\"20260102T030405Z\"}]}");
    static const char second[] =
        "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"luminance\":7}}]}";
    publish("dev-a", key, "sys/properties/report?request_id=mine", second, sizeof second - 1);
    json_t *shadow = await("ShowDeviceShadow", "dev-a", "luminance", NULL);
    const json_t *pump = json_array_get(json_object_get(shadow, "shadow"), 0);
    assert_string_equal(text_at(pump, "service_id"), "Pump");
    assert_int_equal(json_integer_value(json_object_get(pump, "version")), 2);
    const json_t *now = json_object_get(json_object_get(pump, "reported"), "properties");
    assert_true(json_real_value(json_object_get(now, "flow")) == 1.5);
    assert_true(json_is_object(json_object_get(json_object_get(pump, "desired"), "properties")));
    json_decref(shadow);

    json_t *list = ask("ListDeviceHistory", "dev-a", 200, NULL);
    assert_int_equal(json_array_size(json_object_get(list, "reports")), 2);
    assert_string_equal(text_at(list, "reports.0.request_id"), "mine");
    assert_string_equal(text_at(list, "reports.1.topic"),
                        "$oc/devices/dev-a/sys/properties/report");
    assert_non_null(strstr(text_at(list, "reports.1.body"), "1.5"));
    assert_string_equal(text_at(list, "reports.0.kind"), "property");
    json_decref(list);

    UNTIL(event_of(CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT, "dev-a", 1));
    const struct event_seen *e = event_of(CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT, "dev-a", 0);
    assert_string_equal(e->body, "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"flow\":"
                                 "1.5},\"event_time\":\"20260102T030405Z\"}]}");
    assert_string_equal(
        event_of(CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT, "dev-a", 1)->request_id, "mine");
}

static void report_luminance(const char *id, int64_t key, int from, int to)
{
    char body[128];
    for (int i = from; i < to; i++) {
        snprintf(body, sizeof body,
                 "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"luminance\":%d}}]}", i);
        report(id, key, body);
    }
}

static void history_is_paged_newest_first(void **state)
{
    static const char *page1[] = { "limit", "4", NULL };
    const char *page2[] = { "limit", "50", "marker", NULL, NULL };
    int64_t key = new_device("dev-p");
    (void)state;
    report_luminance("dev-p", key, 0, 10);
    json_decref(await("ListDeviceHistory", "dev-p", "\\\"luminance\\\":9", NULL));
    json_t *first = ask("ListDeviceHistory", "dev-p", 200, page1);
    assert_int_equal(json_array_size(json_object_get(first, "reports")), 4);
    assert_non_null(strstr(text_at(first, "reports.3.body"), "\"luminance\":6"));
    page2[3] = text_at(first, "page.marker");
    assert_string_equal(page2[3], text_at(first, "reports.3.id"));
    json_t *second = ask("ListDeviceHistory", "dev-p", 200, page2);
    assert_int_equal(json_array_size(json_object_get(second, "reports")), 6);
    assert_non_null(strstr(text_at(second, "reports.0.body"), "\"luminance\":5"));
    assert_non_null(strstr(text_at(second, "reports.5.body"), "\"luminance\":0"));
    json_decref(first);
    json_decref(second);
    static const char *other[] = { "service_id", "Pmup", NULL };
    json_t *none = ask("ListDeviceHistory", "dev-p", 200, other);
    assert_int_equal(json_array_size(json_object_get(none, "reports")), 0);
    json_decref(none);
    static const char *bad[] = { "start_time", "20260102T030405Z", "end_time", "20250102T030405Z",
                                 NULL };
    json_t *refused = ask("ListDeviceHistory", "dev-p", 400, bad);
    assert_string_equal(text_at(refused, "error_code"), "IOTDA.000010");
    json_decref(refused);
}

static void a_clock_that_jumps_keeps_the_order_of_history(void **state)
{
    static const char *page[] = { "limit", "50", NULL };
    int64_t key = new_device("dev-t"), off_ms[] = { 0, -3600000, -60000, 3600000, 0 };
    (void)state;
    for (int i = 0; i < (int)CW_ARRAY_LEN(off_ms); i++) {
        char last[32];
        clock_off_ms = off_ms[i];
        report_luminance("dev-t", key, 2 * i, 2 * i + 2);
        snprintf(last, sizeof last, "\\\"luminance\\\":%d}", 2 * i + 1);
        json_decref(await("ListDeviceHistory", "dev-t", last, NULL));
        if (i != 1)
            continue;
        kill(daemon_pid, SIGKILL); /* what it knew of the device's last record is gone */
        waitpid(daemon_pid, NULL, 0);
        start_daemon();
        await_daemon();
    }
    clock_off_ms = 0;
    json_t *all = ask("ListDeviceHistory", "dev-t", 200, page);
    assert_int_equal(json_array_size(json_object_get(all, "reports")), 10);
    for (int i = 0; i < 10; i++) {
        char at[32], want[32];
        snprintf(at, sizeof at, "reports.%d.body", i);
        snprintf(want, sizeof want, "\"luminance\":%d}", 9 - i);
        assert_non_null(strstr(text_at(all, at), want));
    }
    json_decref(all);
    assert_string_equal(
        ask_sql("SELECT (max(received_ms) < extract(epoch FROM now()) * 1000 + 10001)"
                "::text FROM data.history"),
        "true");
}

static void a_misspelt_property_is_forwarded_and_explained(void **state)
{
    int64_t key = new_device("dev-m");
    (void)state;
    for (int i = 0; i < 3; i++)
        report("dev-m", key,
               "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"luminace\":7}}]}");
    json_t *why = await("ShowDeviceWhy", "dev-m", "\"count\":3", NULL);
    assert_string_equal(text_at(why, "failures.model.code"), "unknown_property");
    assert_non_null(strstr(text_at(why, "failures.model.reason"), "luminance"));
    assert_true(strlen(text_at(why, "failures.model.next_step")) > 0);
    assert_non_null(strstr(text_at(why, "failures.model.sample"), "luminace"));
    assert_string_equal(text_at(why, "changes.0.what"), "model");
    assert_int_equal(json_array_size(json_object_get(why, "changes")), 1);
    json_decref(why);
    UNTIL(event_of(CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT, "dev-m", 2));
    json_t *shadow = ask("ShowDeviceShadow", "dev-m", 200, NULL);
    assert_int_equal(json_array_size(json_object_get(shadow, "shadow")), 0);
    json_decref(shadow);
    json_t *list = ask("ListDeviceHistory", "dev-m", 200, NULL);
    assert_string_equal(text_at(list, "reports.0.verdicts.0.property"), "luminace");
    json_decref(list);
}

static void what_cannot_be_read_is_refused_between_good_reports(void **state)
{
    static const char good[] =
        "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"luminance\":1}}]}";
    int64_t key = new_device("dev-r");
    (void)state;
    report("dev-r", key, good);
    report("dev-r", key, "{\"services\":[{\"service_id\":\"P\\u0000\"}]}");
    report("dev-r", key, good);
    json_t *why = await("ShowDeviceWhy", "dev-r", "decode", NULL);
    assert_non_null(strstr(text_at(why, "failures.decode.reason"), "at byte"));
    json_decref(why);
    json_t *list = ask("ListDeviceHistory", "dev-r", 200, NULL);
    assert_int_equal(json_array_size(json_object_get(list, "reports")), 2);
    json_decref(list);
    assert_string_equal(ask_sql("SELECT sum(totals[2])::text FROM data.position"), "1");
}

static void messages_of_any_bytes_are_kept_and_stated(void **state)
{
    int64_t key = new_device("dev-b");
    (void)state;
    publish("dev-b", key, "sys/messages/up", "{ \"a\" : [1.50] }", 16);
    publish("dev-b", key, "user/alarm", "42 l", 4);
    publish("dev-b", key, "sys/messages/up", "\xff\0x", 3);
    UNTIL(event_of(CAUSEWAY__EVENT_KIND__EVENT_MESSAGE_REPORT, "dev-b", 2));
    static const char *const bodies[] = {
        "{\"topic\":\"$oc/devices/dev-b/sys/messages/up\",\"content\":{\"a\":[1.50]}}",
        "{\"topic\":\"$oc/devices/dev-b/user/alarm\",\"content\":\"42 l\"}",
        "{\"topic\":\"$oc/devices/dev-b/sys/messages/up\",\"content\":\"/wB4\"}",
    };
    for (int i = 0; i < 3; i++)
        assert_string_equal(event_of(CAUSEWAY__EVENT_KIND__EVENT_MESSAGE_REPORT, "dev-b", i)->body,
                            bodies[i]);
    json_t *list = await("ListDeviceHistory", "dev-b", "/wB4", NULL);
    assert_string_equal(text_at(list, "reports.2.kind"), "message");
    assert_string_equal(text_at(list, "reports.1.topic"), "$oc/devices/dev-b/user/alarm");
    assert_string_equal(text_at(list, "reports.0.verdicts.0.code"), "binary");
    json_decref(list);
}

static void an_older_session_says_nothing_any_more(void **state)
{
    int64_t key = new_device("dev-s");
    const Causeway__EventKind status = CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS;
    (void)state;
    session(CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT, "dev-s", key, 10);
    session(CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT, "dev-s", key, 12);
    session(CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT, "dev-s", key, 10);
    json_t *why = await("ShowDeviceWhy", "dev-s", "session 12", NULL);
    assert_string_equal(text_at(why, "state.status"), "ONLINE");
    json_decref(why);
    session(CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT, "dev-s", key, 12);
    session(CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT, "dev-s", key, 12);
    session(CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT, "dev-s", key, 11);
    session(CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT, "dev-s", key, 13);
    UNTIL(event_of(status, "dev-s", 2));
    for (int i = 0; i < 3; i++) {
        const struct event_seen *e = event_of(status, "dev-s", i);
        const char *word = i == 1 ? "\"OFFLINE\"" : "\"ONLINE\"";
        assert_non_null(strstr(e->body, word));
        assert_int_equal(e->status, i == 1 ? CAUSEWAY__DEVICE_STATUS__STATUS_OFFLINE
                                           : CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE);
    }
    why = await("ShowDeviceWhy", "dev-s", "session 13", NULL);
    assert_string_equal(text_at(why, "state.cause"), "keep_alive");
    assert_int_equal(json_array_size(json_object_get(why, "changes")), 4);
    json_decref(why);
    assert_null(event_of(status, "dev-s", 3));
}

static void come_and_go(const char *id, int64_t key, int from, int to)
{
    for (int i = from; i <= to; i++) {
        session(CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT, id, key, i);
        session(CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT, id, key, i);
    }
}

static int stored_changes(int64_t key)
{
    char text[100];
    snprintf(text, sizeof text,
             "SELECT count(*)::text FROM data.change WHERE device_key = %" PRId64, key);
    return atoi(ask_sql(text));
}

static void the_last_64_changes_are_kept(void **state)
{
    char ended[40];
    int64_t key = new_device("dev-c");
    (void)state;
    come_and_go("dev-c", key, 1, 50);
    json_t *why = await("ShowDeviceWhy", "dev-c", "Session 50 ended", NULL);
    assert_int_equal(json_array_size(json_object_get(why, "changes")), 64);
    assert_string_equal(text_at(why, "changes.0.what"), "disconnected");
    json_decref(why);
    /* what is older goes by lot: after one of sixteen changes */
    for (int to = 90; stored_changes(key) >= 2 * (to - 40); to += 40) {
        assert_true(to < 2000);
        come_and_go("dev-c", key, to - 39, to);
        snprintf(ended, sizeof ended, "Session %d ended", to);
        json_decref(await("ShowDeviceWhy", "dev-c", ended, NULL));
    }
    assert_true(stored_changes(key) >= 64);
}

static void a_notice_finds_its_device_by_name(void **state)
{
    Causeway__Notice n = CAUSEWAY__NOTICE__INIT;
    (void)state;
    new_device("dev-n");
    Causeway__Uplink u = record(CAUSEWAY__UPLINK_KIND__UPLINK_NOTICE, "dev-n", 0);
    n.layer = "authenticate";
    n.code = "wrong_password";
    n.reason = "The secret differs.";
    n.next_step = "Compare the secret.";
    n.count = 4;
    n.first_ms = n.last_ms = cw_now_ms();
    u.notice = &n;
    append(&u);
    json_t *why = await("ShowDeviceWhy", "dev-n", "wrong_password", NULL);
    assert_int_equal(
        json_integer_value(json_object_get(
            json_object_get(json_object_get(why, "failures"), "authenticate"), "count")),
        4);
    assert_string_equal(text_at(why, "state.status"), "INACTIVE");
    json_decref(why);
}

static void an_unknown_device_is_404(void **state)
{
    static const char *const operations[] = { "ShowDeviceShadow", "ListDeviceHistory",
                                              "ShowDeviceWhy" };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(operations); i++) {
        json_t *body = ask(operations[i], "nobody", 404, NULL);
        assert_string_equal(text_at(body, "error_code"), "IOTDA.014000");
        json_decref(body);
    }
}

static void what_postgresql_refuses_is_alone_in_quarantine(void **state)
{
    int64_t key = new_device("dev-q");
    char body[160];
    (void)state;
    run_sql("CREATE FUNCTION data.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.body"
            " LIKE '%spring%' THEN RAISE EXCEPTION 'trapped' USING ERRCODE = '23514'; END IF;"
            " RETURN NEW; END $$; CREATE TRIGGER trap BEFORE INSERT ON data.history FOR EACH ROW"
            " EXECUTE FUNCTION data.trap()");
    for (int i = 0; i < 60; i++) {
        snprintf(body, sizeof body,
                 "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"luminance\":%d%s}}]}",
                 i, i == 30 ? ",\"label\":\"spring\"" : "");
        report("dev-q", key, body);
    }
    json_t *why = await("ShowDeviceWhy", "dev-q", "quarantined", NULL);
    assert_non_null(strstr(text_at(why, "failures.decode.reason"), "trapped"));
    json_decref(why);
    json_decref(await("ListDeviceHistory", "dev-q", "\\\"luminance\\\":59", NULL));
    run_sql("DROP TRIGGER trap ON data.history");
    assert_string_equal(ask_sql("SELECT count(*)::text FROM data.quarantine"), "1");
    assert_string_equal(ask_sql("SELECT count(*)::text FROM data.history WHERE device_key ="
                                " (SELECT max(device_key) FROM registry.device WHERE device_id ="
                                " 'dev-q')"),
                        "59");
    assert_string_equal(ask_sql("SELECT s.version::text FROM data.shadow s JOIN registry.device"
                                " USING (device_key) WHERE device_id = 'dev-q'"),
                        "59");
    assert_string_equal(ask_sql("SELECT sum(n)::text FROM data.quarantined"), "1");
}

static void nothing_is_lost_or_doubled_when_it_is_killed(void **state)
{
    int64_t key = new_device("dev-k");
    char body[128];
    (void)state;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100; i++) {
            snprintf(body, sizeof body,
                     "{\"services\":[{\"service_id\":\"Pump\",\"properties\":{\"luminance\":%d}}]}",
                     100 * round + i);
            report("dev-k", key, body);
            turn();
        }
        kill(daemon_pid, SIGKILL);
        waitpid(daemon_pid, NULL, 0);
        start_daemon();
    }
    UNTIL(n_stored > 0 && cw_log_append_waiting(uplink, 0) + cw_log_append_waiting(uplink, 1) == 0);
    char want[8] = "";
    int64_t until_ms = cw_mono_ms() + 60000;
    while (strcmp(want, "300") != 0) {
        if (cw_mono_ms() > until_ms)
            fail_msg("%s of 300 stored", want);
        for (int i = 0; i < 10; i++)
            turn();
        snprintf(want, sizeof want, "%s",
                 ask_sql("SELECT count(*)::text FROM data.history JOIN registry.device USING"
                         " (device_key) WHERE device_id = 'dev-k'"));
    }
    assert_string_equal(ask_sql("SELECT s.version::text FROM data.shadow s JOIN registry.device"
                                " USING (device_key) WHERE device_id = 'dev-k'"),
                        "300");
    for (int i = 0; i < 300; i++) {
        const struct event_seen *e;
        UNTIL((e = event_of(CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT, "dev-k", i)));
        snprintf(body, sizeof body, "\"luminance\":%d}", i);
        assert_non_null(strstr(e->body, body));
    }
    assert_null(event_of(CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT, "dev-k", 300));
    assert_string_equal(ask_sql("SELECT ((SELECT sum(totals[1]) FROM data.position) ="
                                " (SELECT count(*) FROM data.history))::text"),
                        "true");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_report_becomes_shadow_history_and_event),
        cmocka_unit_test(history_is_paged_newest_first),
        cmocka_unit_test(a_clock_that_jumps_keeps_the_order_of_history),
        cmocka_unit_test(a_misspelt_property_is_forwarded_and_explained),
        cmocka_unit_test(what_cannot_be_read_is_refused_between_good_reports),
        cmocka_unit_test(messages_of_any_bytes_are_kept_and_stated),
        cmocka_unit_test(an_older_session_says_nothing_any_more),
        cmocka_unit_test(the_last_64_changes_are_kept),
        cmocka_unit_test(a_notice_finds_its_device_by_name),
        cmocka_unit_test(an_unknown_device_is_404),
        cmocka_unit_test(what_postgresql_refuses_is_alone_in_quarantine),
        cmocka_unit_test(nothing_is_lost_or_doubled_when_it_is_killed),
    };
    return cmocka_run_group_tests_name("uplink daemon", tests, start, stop);
}

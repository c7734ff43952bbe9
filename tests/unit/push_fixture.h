/* push_fixture.h - rule-engine and push-notifier as processes against real servers; the test plays
 * rest-gateway (calls) and uplink-processor (events). */
#pragma once

#include <event2/event.h>
#include <event2/thread.h>
#include <jansson.h>
#include <libgen.h>
#include <libpq-fe.h>
#include <sys/stat.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "proto/causeway.pb-c.h"
#include "tests/unit/tls_target.h"

#define PARTITIONS 2

static struct server nats, pg;
static struct event_base *base;
static struct cw_bus *bus;
static PGconn *sql;
static char var[] = "/tmp/cw-pu-XXXXXX", bin[400];
static pid_t engine, notifier;

static inline void turn(void)
{
    struct timeval tick = { 0, 2000 };
    event_base_loopexit(base, &tick);
    event_base_dispatch(base);
}

/* Runs the loop until the condition holds; 30 s, then the test fails. */
#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        int64_t until_limit_ms = cw_mono_ms() + 30000;                                             \
        while (!(condition)) {                                                                     \
            assert_true(cw_mono_ms() < until_limit_ms);                                            \
            turn();                                                                                \
        }                                                                                          \
    } while (0)

static inline void conninfo(char out[128], const char *role)
{
    snprintf(out, 128, "host=127.0.0.1 port=%d user=%s dbname=causeway", pg.port, role);
}

/* First column of the first row, or "". */
static inline const char *query(const char *text)
{
    static char out[512];
    PGresult *res = PQexec(sql, text);
    if (PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
        fail_msg("%s: %s", text, PQerrorMessage(sql));
    snprintf(out, sizeof out, "%s", PQntuples(res) ? PQgetvalue(res, 0, 0) : "");
    PQclear(res);
    return out;
}

static inline pid_t run_daemon(const char *name, const char *role, int instance)
{
    char path[512], text[128];
    pid_t pid = fork();
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(path, sizeof path, "%s/%s.%d.log", var, name, instance);
    if (!freopen("/dev/null", "w", stdout) || !freopen(path, "a", stderr))
        _exit(126);
    conninfo(text, role);
    setenv("CAUSEWAY_DB", text, 1);
    snprintf(text, sizeof text, "%d", instance);
    setenv("CAUSEWAY_INSTANCE", text, 1);
    snprintf(path, sizeof path, "%s/%s", bin, name);
    execl(path, path, NULL);
    _exit(127);
}

static inline void end_daemon(pid_t pid, int signal)
{
    int status;
    kill(pid, signal);
    waitpid(pid, &status, 0);
    if (signal == SIGTERM)
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static inline void migrate(void)
{
    char command[512];
    snprintf(command, sizeof command,
             "PGHOST=127.0.0.1 PGPORT=%d PGUSER=postgres scripts/migrate >/dev/null", pg.port);
    if (system(command) != 0)
        abort();
}

static const char *const settings[][2] = {
    { "PARTITIONS", "2" },
    { "KEY_SEAL", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff" },
    { "PUSH_TIMEOUT", "2s" },
    { "PUSH_RETRY_DELAY", "50ms" },
    { "PUSH_RETRY_WINDOW", "2s" },
    { "PUSH_BLOCK_AFTER", "5" },
    { "PUSH_PROBE", "300ms" },
    { "PUSH_PARK", "200ms" },
    { "PUSH_SWEEP", "200ms" },
    { "RULES_MAX", "20" },
    { "ACTIONS_MAX", "3" },
    { "LOG_BYTES", "64M" },
};

static inline int push_up(const char *program)
{
    char text[128], path[512];
    struct event_config *cfg = event_config_new();
    snprintf(path, sizeof path, "%s", program);
    snprintf(bin, sizeof bin, "%s/../bin", dirname(path));
    cw_log_setup("test", CW_ERROR);
    evthread_use_pthreads();
    event_config_set_flag(cfg, EVENT_BASE_FLAG_PRECISE_TIMER);
    base = event_base_new_with_config(cfg);
    event_config_free(cfg);
    nats_start(&nats);
    pg_start(&pg);
    migrate();
    if (!mkdtemp(var))
        return -1;
    snprintf(path, sizeof path, "%s/run", var);
    mkdir(path, 0700);
    setenv("CAUSEWAY_VAR", var, 1);
    for (size_t i = 0; i < CW_ARRAY_LEN(settings); i++) {
        snprintf(text, sizeof text, "CAUSEWAY_%s", settings[i][0]);
        setenv(text, settings[i][1], 1);
    }
    snprintf(text, sizeof text, "nats://127.0.0.1:%d", nats.port);
    setenv("CAUSEWAY_NATS_URL", text, 1);
    bus = cw_bus_open(base, &(struct cw_bus_config){ .url = text, .name = "test" });
    conninfo(text, "postgres");
    sql = PQconnectdb(text);
    if (!bus || PQstatus(sql) != CONNECTION_OK)
        return -1;
    query("INSERT INTO registry.app (app_id, app_name, default_app) VALUES ('a1', 'one', true),"
          " ('a2', 'two', false)");
    engine = run_daemon("rule-engine", "rule", 1);
    notifier = run_daemon("push-notifier", "push", 1);
    return 0;
}

static inline int push_down(void)
{
    char command[128];
    end_daemon(engine, SIGKILL);
    end_daemon(notifier, SIGKILL);
    PQfinish(sql);
    cw_bus_close(&bus);
    event_base_free(base);
    server_end(&nats);
    server_end(&pg);
    snprintf(command, sizeof command, "%s -rf %s", getenv("KEEP") ? "echo" : "rm", var);
    return system(command);
}

/* ---- calls */

struct answer {
    bool done;
    int rc, status;
    json_t *body;
};

static inline void on_call(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct answer *a = arg;
    Causeway__ApiReply *r = rc == 0 ? causeway__api_reply__unpack(NULL, msg->len, msg->data) : NULL;
    a->done = true;
    a->rc = rc;
    if (!r)
        return;
    a->status = (int)r->status;
    a->body = json_loadb((char *)r->body.data, r->body.len, 0, NULL);
    causeway__api_reply__free_unpacked(r, NULL);
}

/* One call; name and value of a path or query parameter may be NULL. Again while nobody serves it.
 */
static inline struct answer call(const char *operation, const char *name, const char *value,
                                 const char *body)
{
    char subject[64];
    uint8_t packed[65536 + 4096];
    int64_t until_ms = cw_mono_ms() + 20000;
    Causeway__Pair pair = { PROTOBUF_C_MESSAGE_INIT(&causeway__pair__descriptor), (char *)name,
                            (char *)value };
    Causeway__Pair *pairs[] = { &pair };
    Causeway__ApiRequest req = CAUSEWAY__API_REQUEST__INIT;
    req.operation = (char *)operation;
    req.path = req.query = pairs;
    req.n_path = req.n_query = name ? 1 : 0;
    req.body = (ProtobufCBinaryData){ body ? strlen(body) : 0, (uint8_t *)body };
    snprintf(subject, sizeof subject, "api.rule.%s", operation);
    for (;;) {
        struct answer a = { 0 };
        req.deadline_ms = cw_now_ms() + 10000;
        size_t len = causeway__api_request__pack(&req, packed);
        assert_non_null(cw_bus_request(bus, subject, packed, len, 10000, on_call, &a));
        UNTIL(a.done);
        if (a.rc != -EHOSTUNREACH || cw_mono_ms() > until_ms)
            return a;
    }
}

static inline const char *field(const struct answer *a, const char *key)
{
    const char *s = json_string_value(json_object_get(a->body, key));
    return s ? s : "";
}

static inline void expect(struct answer a, int status, const char *code, const char *text)
{
    if (a.status != status || strcmp(field(&a, "error_code"), code) != 0 ||
        !strstr(field(&a, "error_msg"), text))
        fail_msg("%d %s %s", a.status, field(&a, "error_code"), field(&a, "error_msg"));
    json_decref(a.body);
}

/* Keeps the value of key of a 2xx answer in out. */
static inline void keep(struct answer a, const char *key, char out[64])
{
    if (a.status / 100 != 2)
        fail_msg("%d %s", a.status, field(&a, "error_msg"));
    snprintf(out, 64, "%s", field(&a, key));
    json_decref(a.body);
}

/* An active rule for reports with one action; the action's id. */
static inline void rule_to(const char *url, const char *cert_id, char rule[64], char action[64])
{
    keep(call("CreateRoutingRule", NULL, NULL,
              "{\"subject\":{\"resource\":\"device.property\",\"event\":\"report\"}}"),
         "rule_id", rule);
    char *body = cw_sprintf("{\"rule_id\":\"%s\",\"channel\":\"HTTP_FORWARDING\",\"channel_detail\""
                            ":{\"http_forwarding\":{\"url\":\"%s\"%s%s%s}}}",
                            rule, url, cert_id ? ",\"cert_id\":\"" : "", cert_id ? cert_id : "",
                            cert_id ? "\"" : "");
    keep(call("CreateRuleAction", NULL, NULL, body), "action_id", action);
    free(body);
    char ignored[64];
    keep(call("UpdateRoutingRule", "rule_id", rule, "{\"active\":true}"), "rule_id", ignored);
}

static inline void rule_end(const char *rule)
{
    struct answer a = call("DeleteRoutingRule", "rule_id", rule, NULL);
    assert_int_equal(a.status, 204);
}

/* ---- events */

struct append {
    bool done, stored;
};

static inline void on_append(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct append *a = arg;
    a->done = true;
    a->stored = rc == 0 && memmem(msg->data, msg->len, "\"seq\"", 5);
}

/* n reports of a device, numbered from first, in one message of EVENT. */
static inline void report(int device, int first, int n)
{
    Causeway__EventBatch batch = CAUSEWAY__EVENT_BATCH__INIT;
    Causeway__Event *events[256], event[256];
    char body[256][80], request[256][32], id[32], subject[32];
    assert_true(n <= 256);
    snprintf(id, sizeof id, "dev-%d", device);
    for (int i = 0; i < n; i++) {
        snprintf(body[i], sizeof body[i], "{\"services\":[{\"service_id\":\"S\",\"n\":%d}]}",
                 first + i);
        snprintf(request[i], sizeof request[i], "%d.%d", device, first + i);
        causeway__event__init(&event[i]);
        event[i].kind = CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT;
        event[i].request_id = request[i];
        event[i].time_ms = cw_now_ms();
        event[i].device_key = 1000 + device;
        event[i].device_id = event[i].gateway_id = event[i].node_id = id;
        event[i].product_id = (char *)"p";
        event[i].app_id = (char *)"a1";
        event[i].body = (ProtobufCBinaryData){ strlen(body[i]), (uint8_t *)body[i] };
        events[i] = &event[i];
    }
    batch.events = events;
    batch.n_events = (size_t)n;
    size_t len = causeway__event_batch__get_packed_size(&batch);
    uint8_t *packed = malloc(len);
    causeway__event_batch__pack(&batch, packed);
    snprintf(subject, sizeof subject, "event.%d.tester", device % PARTITIONS);
    for (struct append a = { 0 }; !a.stored;) { /* the stream may not be there yet */
        a.done = false;
        assert_non_null(cw_bus_request(bus, subject, packed, len, 2000, on_append, &a));
        UNTIL(a.done);
    }
    free(packed);
}

/* ---- what targets got */

#define DEVICES_MAX 64
#define NUMBERS_MAX 4096
struct got {
    int last[DEVICES_MAX], n[DEVICES_MAX]; /* newest number; different ones */
    int repeats, backwards, requests;
    bool seen[DEVICES_MAX][NUMBERS_MAX];
    char first[2000]; /* the first request, whole */
};

/* Looks at all that has come to the target. */
static inline void collect(struct target *t, struct got *g)
{
    char *text;
    while ((text = target_next(t, 0))) {
        const char *id = strstr(text, "\"request_id\":\"");
        int device, number;
        assert_non_null(id);
        assert_int_equal(sscanf(id + 14, "%d.%d", &device, &number), 2);
        if (g->requests++ == 0)
            snprintf(g->first, sizeof g->first, "%s", text);
        if (g->seen[device][number])
            g->repeats++;
        else
            g->n[device]++;
        if (!g->seen[device][number] && number < g->last[device])
            g->backwards++; /* new, but older than what came before it */
        g->seen[device][number] = true;
        g->last[device] = number;
        free(text);
    }
}

static inline bool ledger_balances(void)
{
    return strcmp(query("SELECT count(*) FROM (SELECT totals[1] - totals[2] - totals[3] -"
                        " totals[4] - totals[5] - (SELECT count(*) FROM push.backlog b WHERE"
                        " b.partition = p.partition AND b.seq <= p.seq) AS rest"
                        " FROM push.position p) a WHERE rest <> 0"),
                  "0") == 0;
}

static inline int number_of(const char *text) { return atoi(query(text)); }
#define OWED      "SELECT coalesce(sum(totals[1]), 0) FROM push.position"
#define DELIVERED "SELECT coalesce(sum(totals[2]), 0) FROM push.position"
#define FAILED    "SELECT coalesce(sum(totals[3]), 0) FROM push.position"
#define EXPIRED   "SELECT coalesce(sum(totals[4]), 0) FROM push.position"
#define PARKED    "SELECT count(*) FROM push.backlog"

/* All that rule-engine has put into PUSH is counted by push-notifier. */
static inline bool settled(void)
{
    return number_of("SELECT coalesce(sum(totals[3]), 0) FROM rule.position") == number_of(OWED) &&
           ledger_balances();
}

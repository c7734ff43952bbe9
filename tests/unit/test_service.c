/* A whole daemon on the skeleton, against real servers: it is this program started again. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <libpq-fe.h>

#include "libcommon/api.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/service.h"
#include "tests/unit/servers.h"
#include "tests/unit/until.h"

/* ---- the daemon: echoes at once, slowly, or not at all */

struct lamp {
    struct cw_app *app;
    int64_t pause_ms;
};
static const struct cw_option options[] = {
    { "T_PAUSE", CW_OPT_MS, "300ms", 1, 10000, offsetof(struct lamp, pause_ms), "slow answers" },
    { 0 },
};

static void echo(struct cw_api_call *call, void *self)
{
    (void)self;
    json_t *out = json_pack("{s:s, s:i, s:O}", "who", cw_api_path(call, "who"), "limit",
                            (int)cw_api_query_int(call, "limit", 10), "body", cw_api_body(call));
    cw_api_reply_header(call, "X-Test", "yes");
    cw_api_reply_json(call, 201, out);
}

static void on_slow(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    cw_api_fail(arg, CW_E_NO_DEVICE, "Device \"%s\".", "x\xff");
}

static void slow(struct cw_api_call *call, void *self)
{
    struct lamp *l = self;
    struct timeval t = { l->pause_ms / 1000, l->pause_ms % 1000 * 1000 };
    event_base_once(cw_app_base(l->app), -1, EV_TIMEOUT, on_slow, call, &t);
}

static const struct cw_api_op ops[] = { { "echo", echo }, { "slow", slow }, { 0 } };

static int lamp_start(struct cw_app *app, void *self)
{
    ((struct lamp *)self)->app = app;
    cw_api_serve(app, "lamp", ops, self);
    return 0;
}

static int daemon_main(int argc, char **argv)
{
    static struct lamp self;
    return cw_service_run(&(struct cw_service){ .name = "lamp",
                                                .summary = "a lamp",
                                                .options = options,
                                                .self = &self,
                                                .needs = CW_NEEDS_BUS | CW_NEEDS_DB,
                                                .schema_version = 3,
                                                .start = lamp_start },
                          argc, argv);
}

/* ---- the test */

static struct server nats, pg;
static const char *program;
static char var[] = "/tmp/cw-svc-XXXXXX";
static struct event_base *base;
static struct cw_bus *bus;

static pid_t run_daemon(const char *flag)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
            _exit(126);
        setenv("TEST_DAEMON", "1", 1);
        execl(program, program, flag, NULL);
        _exit(127);
    }
    return pid;
}

static int exit_code(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* The answer of the admin socket to GET path, "" while nobody listens. */
static const char *admin_get(const char *path)
{
    static char answer[65536];
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    size_t n = 0;
    ssize_t got;
    snprintf(at.sun_path, sizeof at.sun_path, "%s/run/lamp.1.sock", var);
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

static void await_health(const char *part)
{
    int64_t until_ms = cw_mono_ms() + 30000;
    while (!strstr(admin_get("/healthz"), part)) {
        assert_true(cw_mono_ms() < until_ms);
        usleep(10000);
    }
}

static void psql(const char *sql)
{
    char conninfo[128];
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=postgres dbname=postgres",
             pg.port);
    PGconn *c = PQconnectdb(conninfo);
    PGresult *res = PQexec(c, sql);
    assert_int_equal(PQresultStatus(res), PGRES_COMMAND_OK);
    PQclear(res);
    PQfinish(c);
}

struct answer {
    int n, rc, status;
    char body[256], header[32];
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
    snprintf(a->body, sizeof a->body, "%.*s", (int)r->body.len, (char *)r->body.data);
    if (r->n_headers)
        snprintf(a->header, sizeof a->header, "%s=%s", r->headers[0]->name, r->headers[0]->value);
    causeway__api_reply__free_unpacked(r, NULL);
}

static void ask(struct answer *a, const char *operation, int64_t deadline_ms, const char *body)
{
    char subject[64];
    Causeway__ApiRequest req = CAUSEWAY__API_REQUEST__INIT;
    Causeway__Pair who = { PROTOBUF_C_MESSAGE_INIT(&causeway__pair__descriptor), "who", "me" };
    Causeway__Pair *path[] = { &who };
    uint8_t packed[512];
    req.operation = (char *)operation;
    req.deadline_ms = deadline_ms;
    req.path = path;
    req.n_path = 1;
    req.body = (ProtobufCBinaryData){ strlen(body), (uint8_t *)body };
    size_t n = causeway__api_request__pack(&req, packed);
    snprintf(subject, sizeof subject, "api.lamp.%s", operation);
    assert_non_null(cw_bus_request(bus, subject, packed, n, 2000, on_answer, a));
}

static pid_t daemon_pid;

static int start(void **state)
{
    char text[128];
    (void)state;
    cw_log_setup("test", CW_ERROR);
    evthread_use_pthreads();
    base = event_base_new();
    nats_start(&nats);
    pg_start(&pg);
    if (!mkdtemp(var))
        return -1;
    snprintf(text, sizeof text, "%s/run", var);
    mkdir(text, 0700);
    setenv("CAUSEWAY_VAR", var, 1);
    snprintf(text, sizeof text, "nats://127.0.0.1:%d", nats.port);
    setenv("CAUSEWAY_NATS_URL", text, 1);
    bus = cw_bus_open(base, &(struct cw_bus_config){ .url = text, .name = "test" });
    snprintf(text, sizeof text, "host=127.0.0.1 port=%d user=postgres dbname=postgres", pg.port);
    setenv("CAUSEWAY_DB", text, 1);
    psql("CREATE TABLE public.schema_migration (version int)");
    daemon_pid = run_daemon(NULL);
    return bus ? 0 : -1;
}

static int stop(void **state)
{
    char command[128];
    (void)state;
    cw_bus_close(&bus);
    event_base_free(base);
    server_end(&nats);
    server_end(&pg);
    snprintf(command, sizeof command, "rm -rf '%s'", var);
    return system(command);
}

static void it_is_ready_only_when_the_schema_is_there(void **state)
{
    (void)state;
    await_health("503 "); /* the table is empty */
    assert_non_null(strstr(admin_get("/healthz"), "starting"));
    psql("INSERT INTO public.schema_migration VALUES (3)");
    await_health("200 ");
}

static void a_call_is_answered_by_its_handler(void **state)
{
    (void)state;
    struct answer a = { 0 };
    ask(&a, "echo", cw_now_ms() + 2000, "{\"on\":true}");
    run_until(base, &a.n, 1);
    assert_int_equal(a.status, 201);
    assert_string_equal(a.header, "X-Test=yes");
    assert_string_equal(a.body, "{\"who\":\"me\",\"limit\":10,\"body\":{\"on\":true}}");
}

static void a_failure_names_code_and_detail_in_valid_utf8(void **state)
{
    (void)state;
    struct answer a = { 0 };
    ask(&a, "slow", cw_now_ms() + 2000, "");
    run_until(base, &a.n, 1);
    assert_int_equal(a.status, 404);
    assert_string_equal(a.body,
                        "{\"error_code\":\"IOTDA.014000\",\"error_msg\":\"The device does not "
                        "exist. Device \\\"x?\\\". List the devices.\"}");
}

static void an_unknown_operation_says_so_and_a_late_call_is_dropped(void **state)
{
    (void)state;
    struct answer a = { 0 }, late = { 0 };
    ask(&late, "echo", cw_now_ms() - 1, "");
    ask(&a, "fly", cw_now_ms() + 2000, "");
    run_until(base, &a.n, 1);
    assert_int_equal(a.status, 501);
    run_until(base, &late.n, 1);
    assert_int_equal(late.rc, -ETIMEDOUT);
    assert_non_null(strstr(admin_get("/metrics"), "causeway_api_late_total 1\n"));
}

static void lost_servers_are_named_and_found_again(void **state)
{
    (void)state;
    struct answer a = { 0 };
    server_kill(&pg);
    await_health("postgresql: not connected");
    pg_run(&pg);
    await_health("200 ");
    server_kill(&nats);
    await_health("nats: not connected");
    nats_run(&nats);
    await_health("200 ");
    while (cw_bus_epoch(bus) < 2 || !cw_bus_connected(bus)) /* lost and found, by us as well */
        event_base_loop(base, EVLOOP_ONCE);
    ask(&a, "echo", cw_now_ms() + 2000, "");
    run_until(base, &a.n, 1);
    assert_int_equal(a.status, 201);
}

static void a_drain_finishes_what_was_taken(void **state)
{
    (void)state;
    struct answer a[20] = { 0 }, last = { 0 };
    for (size_t i = 0; i < CW_ARRAY_LEN(a); i++)
        ask(&a[i], "slow", cw_now_ms() + 2000, "");
    ask(&last, "echo", cw_now_ms() + 2000, "");
    run_until(base, &last.n, 1); /* the last has been taken, so have the others */
    kill(daemon_pid, SIGTERM);
    for (size_t i = 0; i < CW_ARRAY_LEN(a); i++) {
        run_until(base, &a[i].n, 1);
        assert_int_equal(a[i].status, 404);
    }
    assert_int_equal(exit_code(daemon_pid), 0);
    assert_string_equal(admin_get("/healthz"), "");
}

static void options_are_checked_without_a_start(void **state)
{
    (void)state;
    assert_int_equal(exit_code(run_daemon("--help")), 0);
    assert_int_equal(exit_code(run_daemon("--check-config")), 0);
    assert_int_equal(exit_code(run_daemon("--fly")), CW_EXIT_CONFIG);
    setenv("CAUSEWAY_T_PAUSE", "soon", 1);
    assert_int_equal(exit_code(run_daemon("--check-config")), CW_EXIT_CONFIG);
    unsetenv("CAUSEWAY_T_PAUSE");
}

int main(int argc, char **argv)
{
    if (getenv("TEST_DAEMON"))
        return daemon_main(argc, argv);
    program = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_ready_only_when_the_schema_is_there),
        cmocka_unit_test(a_call_is_answered_by_its_handler),
        cmocka_unit_test(a_failure_names_code_and_detail_in_valid_utf8),
        cmocka_unit_test(an_unknown_operation_says_so_and_a_late_call_is_dropped),
        cmocka_unit_test(lost_servers_are_named_and_found_again),
        cmocka_unit_test(a_drain_finishes_what_was_taken),
        cmocka_unit_test(options_are_checked_without_a_start),
    };
    return cmocka_run_group_tests_name("service", tests, start, stop);
}

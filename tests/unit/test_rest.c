/* rest-gateway and two instances of identity against real servers, asked over HTTP and HTTPS as
 * clients ask. The owner behind them is this program started again. */
/* links: services/rest-gateway/signature.c services/rest-gateway/route.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <curl/curl.h>
#include <jansson.h>
#include <libpq-fe.h>

#include "libcommon/api.h"
#include "libcommon/clock.h"
#include "libcommon/crypto.h"
#include "libcommon/service.h"
#include "libcommon/token.h"
#include "services/rest-gateway/signature.h"
#include "tests/unit/servers.h"

#define KEY_TOKEN "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define KEY_SEAL  "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"
#define WAIT_MS   30000

/* ---- the owner: says what it was asked */

static json_t *pairs(Causeway__Pair **list, size_t n)
{
    json_t *out = json_object();
    for (size_t i = 0; i < n; i++)
        json_object_set_new(out, list[i]->name, json_string(list[i]->value));
    return out;
}

static void on_echo(struct cw_api_call *call, void *self)
{
    const Causeway__ApiRequest *r = cw_api_request(call);
    (void)self;
    cw_api_reply_json(call, 200,
                      json_pack("{s:s, s:s, s:s, s:o, s:o, s:s%, s:b}", "operation", r->operation,
                                "project", r->project_id, "user", r->user_name, "path",
                                pairs(r->path, r->n_path), "query", pairs(r->query, r->n_query),
                                "body", r->body.data ? (char *)r->body.data : "", r->body.len,
                                "in_time", cw_api_remaining_ms(call) > 9000));
}

static void on_delete(struct cw_api_call *call, void *self)
{
    (void)self;
    cw_api_reply(call, 204, NULL, 0);
}

static int owner_start(struct cw_app *app, void *self)
{
    static const struct cw_api_op ops[] = {
        { "ListDevices", on_echo }, { "AddDevice", on_echo }, { "DeleteDevice", on_delete }, { 0 }
    };
    cw_api_serve(app, "registry", ops, self);
    return 0;
}

static int owner_main(int argc, char **argv)
{
    return cw_service_run(&(struct cw_service){ .name = "owner",
                                                .summary = "answers what it was asked",
                                                .needs = CW_NEEDS_BUS,
                                                .start = owner_start },
                          argc, argv);
}

/* ---- the processes */

static struct server nats, pg;
static const char *program;
static char bin[200], var[] = "/tmp/cw-rest-XXXXXX", http[64], https[64];
static pid_t identity[2], gateway, owner;
static PGconn *db;

static pid_t run(const char *path, const char *instance)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setenv("CAUSEWAY_INSTANCE", instance, 1);
        if (!getenv("TEST_VERBOSE") && !freopen("/dev/null", "w", stderr))
            _exit(126);
        execl(path, path, NULL);
        _exit(127);
    }
    return pid;
}

static pid_t run_daemon(const char *name, const char *instance)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", bin, name);
    return run(path, instance);
}

static void shell(const char *fmt, ...) CW_PRINTF(1, 2);
static void shell(const char *fmt, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    if (system(command) != 0)
        fail_msg("%s", command);
}

static void sql(const char *text)
{
    PGresult *res = PQexec(db, text);
    if (PQresultStatus(res) != PGRES_COMMAND_OK)
        fail_msg("%s: %s", text, PQerrorMessage(db));
    PQclear(res);
}

static int64_t sql_int(const char *text)
{
    PGresult *res = PQexec(db, text);
    assert_int_equal(PQresultStatus(res), PGRES_TUPLES_OK);
    int64_t v = atoll(PQgetvalue(res, 0, 0));
    PQclear(res);
    return v;
}

/* A setting of access.d/identity.env. */
static const char *access_of(const char *key)
{
    static char line[300];
    char path[100], want[64];
    size_t n = (size_t)snprintf(want, sizeof want, "CAUSEWAY_%s=", key);
    snprintf(path, sizeof path, "%s/access.d/identity.env", var);
    FILE *f = fopen(path, "r");
    if (!f)
        return NULL;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, want, n) == 0) {
            line[strcspn(line, "\n")] = '\0';
            fclose(f);
            return line + n;
        }
    fclose(f);
    return NULL;
}

/* ---- a client */

struct result {
    long status;
    char body[1 << 20], token[CW_TOKEN_MAX], retry_after[16], allow[64], id[64];
    json_t *json;
};
static struct result got;
static CURL *curl;

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    size_t used = strlen(got.body), len = size * n;
    (void)arg;
    if (len > sizeof got.body - 1 - used)
        return 0;
    memcpy(got.body + used, p, len);
    got.body[used + len] = '\0';
    return len;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    static const struct {
        const char *name;
        size_t at, room;
    } rows[] = {
        { "X-Subject-Token: ", offsetof(struct result, token), sizeof got.token },
        { "Retry-After: ", offsetof(struct result, retry_after), sizeof got.retry_after },
        { "Allow: ", offsetof(struct result, allow), sizeof got.allow },
        { "X-Request-Id: ", offsetof(struct result, id), sizeof got.id },
    };
    (void)arg;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        size_t k = strlen(rows[i].name);
        if (size * n > k && strncmp(p, rows[i].name, k) == 0)
            snprintf((char *)&got + rows[i].at, rows[i].room, "%.*s", (int)(size * n - k - 2),
                     p + k);
    }
    return size * n;
}

/* headers end with NULL; body NULL: none. The answer is in got. */
static long ask(const char *method, const char *base, const char *path, const char *const *headers,
                const void *body, size_t len)
{
    char url[512], ca[100];
    struct curl_slist *list = NULL;
    for (size_t i = 0; headers && headers[i]; i++)
        list = curl_slist_append(list, headers[i]);
    if (body)
        list = curl_slist_append(list, "Expect:");
    json_decref(got.json);
    memset(&got, 0, sizeof got);
    snprintf(url, sizeof url, "%s%s", base, path);
    snprintf(ca, sizeof ca, "%s/c.pem", var);
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 30L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    if (body) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)len);
    }
    CURLcode rc = curl_easy_perform(curl);
    curl_slist_free_all(list);
    if (rc != CURLE_OK)
        fail_msg("%s %s: %s", method, url, curl_easy_strerror(rc));
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &got.status);
    assert_int_equal(strlen(got.id), 32); /* on every answer */
    got.json = json_loads(got.body, 0, NULL);
    return got.status;
}

static const char *text_at(const char *a, const char *b)
{
    const json_t *o = json_object_get(got.json, a);
    const char *v = json_string_value(b ? json_object_get(o, b) : o);
    return v ? v : "";
}

static void assert_error(long status, const char *code)
{
    if (got.status != status || strcmp(text_at("error_code", NULL), code) != 0)
        fail_msg("expected %ld %s, got %ld %s", status, code, got.status, got.body);
}

static long login(const char *user, const char *password, const char *project)
{
    char body[600];
    int n = snprintf(body, sizeof body,
                     "{\"auth\":{\"identity\":{\"methods\":[\"password\"],\"password\":{\"user\":{"
                     "\"name\":\"%s\",\"password\":\"%s\",\"domain\":{\"name\":\"causeway\"}}}},"
                     "\"scope\":{\"project\":{\"name\":\"%s\"}}}}",
                     user, password, project);
    const char *headers[] = { "Content-Type: application/json;charset=utf8", NULL };
    return ask("POST", https, "/v3/auth/tokens?nocatalog=true", headers, body, (size_t)n);
}

static char project[64], password[64], token_header[CW_TOKEN_MAX + 32];

static long call(const char *method, const char *path, const char *body)
{
    const char *headers[] = { token_header, "Content-Type: application/json", NULL };
    char full[400];
    snprintf(full, sizeof full, "/v5/iot/%s%s", project, path);
    return ask(method, http, full, headers, body, body ? strlen(body) : 0);
}

/* A header with a token that identity could have made. */
static void token_for(const char *user_id, int64_t generation, int64_t age_ms, char *out,
                      size_t size)
{
    uint8_t key[32];
    struct cw_token t = { .generation = generation, .issued_ms = cw_now_ms() - age_ms };
    t.expires_ms = t.issued_ms + 24 * 3600 * 1000LL;
    snprintf(t.user_id, sizeof t.user_id, "%s", user_id);
    snprintf(t.project_id, sizeof t.project_id, "%s", project);
    cw_unhex(key, sizeof key, KEY_TOKEN, strlen(KEY_TOKEN));
    char *text = cw_token_make(key, &t);
    snprintf(out, size, "X-Auth-Token: %s", text);
    free(text);
}

static char *user_id(void)
{
    static char id[64];
    PGresult *res = PQexec(db, "SELECT user_id FROM identity.principal WHERE name = 'admin'");
    snprintf(id, sizeof id, "%s", PQgetvalue(res, 0, 0));
    PQclear(res);
    return id;
}

static void await_ready(const char *name)
{
    char command[256];
    int64_t until_ms = cw_mono_ms() + WAIT_MS;
    snprintf(command, sizeof command,
             "curl -sf -o /dev/null --unix-socket %s/run/%s.sock http://x/healthz", var, name);
    while (system(command) != 0) {
        assert_true(cw_mono_ms() < until_ms);
        usleep(20000);
    }
}

static int start(void **state)
{
    char text[256];
    int http_port = free_port(), https_port = free_port();
    (void)state;
    nats_start(&nats);
    pg_start(&pg);
    if (!mkdtemp(var))
        return -1;
    shell("mkdir %s/run", var);
    shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "
          "%s/k.pem -out %s/c.pem -days 2 -subj /CN=localhost -addext "
          "subjectAltName=IP:127.0.0.1 2>/dev/null",
          var, var);
    shell("PGPORT=%d scripts/migrate >/dev/null", pg.port);
    snprintf(text, sizeof text, "host=127.0.0.1 port=%d user=postgres dbname=causeway", pg.port);
    db = PQconnectdb(text);
    snprintf(text, sizeof text, "host=127.0.0.1 port=%d user=identity dbname=causeway", pg.port);
    setenv("CAUSEWAY_DB", text, 1);
    snprintf(text, sizeof text, "nats://127.0.0.1:%d", nats.port);
    setenv("CAUSEWAY_NATS_URL", text, 1);
    setenv("CAUSEWAY_VAR", var, 1);
    setenv("CAUSEWAY_KEY_TOKEN", KEY_TOKEN, 1);
    setenv("CAUSEWAY_KEY_SEAL", KEY_SEAL, 1);
    setenv("CAUSEWAY_REST_RATE", "200", 1);
    snprintf(text, sizeof text, "%d", http_port);
    setenv("CAUSEWAY_HTTP_PORT", text, 1);
    snprintf(text, sizeof text, "%d", https_port);
    setenv("CAUSEWAY_HTTPS_PORT", text, 1);
    snprintf(text, sizeof text, "%s/c.pem", var);
    setenv("CAUSEWAY_TLS_CERT", text, 1);
    snprintf(text, sizeof text, "%s/k.pem", var);
    setenv("CAUSEWAY_TLS_KEY", text, 1);
    snprintf(http, sizeof http, "http://127.0.0.1:%d", http_port);
    snprintf(https, sizeof https, "https://127.0.0.1:%d", https_port);
    curl_global_init(CURL_GLOBAL_ALL);
    curl = curl_easy_init();
    identity[0] = run_daemon("identity", "1"); /* both at once */
    identity[1] = run_daemon("identity", "2");
    gateway = run_daemon("rest-gateway", "1");
    setenv("TEST_OWNER", "1", 1);
    owner = run(program, "1");
    unsetenv("TEST_OWNER");
    await_ready("identity.1");
    await_ready("identity.2");
    await_ready("rest-gateway.1");
    await_ready("owner.1");
    return 0;
}

static int stop(void **state)
{
    pid_t all[] = { owner, gateway, identity[0], identity[1] };
    int status, rc = 0;
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(all); i++) {
        kill(all[i], SIGTERM);
        if (waitpid(all[i], &status, 0) != all[i] || status != 0)
            rc = -1;
    }
    json_decref(got.json);
    curl_easy_cleanup(curl);
    curl_global_cleanup();
    PQfinish(db);
    server_end(&nats);
    server_end(&pg);
    shell("rm -rf '%s'", var);
    return rc;
}

/* ---- identity */

static void two_instances_that_start_at_once_agree(void **state)
{
    char path[100];
    struct stat st;
    (void)state;
    assert_int_equal(sql_int("SELECT count(*) FROM identity.account"), 1);
    assert_int_equal(sql_int("SELECT count(*) FROM identity.principal"), 1);
    assert_int_equal(sql_int("SELECT count(*) FROM identity.project"), 1);
    assert_int_equal(sql_int("SELECT count(*) FROM identity.access_key"), 1);
    snprintf(path, sizeof path, "%s/access.d/identity.env", var);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_string_equal(access_of("REGION"), "region-1");
    assert_string_equal(access_of("DOMAIN"), "causeway");
    snprintf(project, sizeof project, "%s", access_of("PROJECT_ID"));
    snprintf(password, sizeof password, "%s", access_of("PASSWORD"));
    assert_int_equal(strlen(project), 32);
    assert_int_equal(strlen(password), 24);
    /* nothing of it is kept in clear */
    char query[256];
    snprintf(query, sizeof query,
             "SELECT count(*) FROM identity.principal p, identity.first_access f, "
             "identity.access_key k WHERE concat(p, f, k) LIKE '%%%s%%'",
             password);
    assert_int_equal(sql_int(query), 0);
}

static void a_password_gives_a_token_for_a_day(void **state)
{
    (void)state;
    assert_int_equal(login("admin", password, "region-1"), 201);
    const json_t *token = json_object_get(got.json, "token");
    assert_string_equal(json_string_value(json_object_get(json_object_get(token, "project"), "id")),
                        project);
    const char *issued = json_string_value(json_object_get(token, "issued_at"));
    const char *expires = json_string_value(json_object_get(token, "expires_at"));
    assert_int_equal(strlen(issued), strlen("2026-01-05T08:15:03.412000Z"));
    assert_string_equal(issued + 10, expires + 10); /* the same time, */
    assert_string_not_equal(issued, expires);       /* another day */
    snprintf(token_header, sizeof token_header, "X-Auth-Token: %s", got.token);
}

static void a_wrong_login_is_401_in_the_form_of_iam(void **state)
{
    static const char *const wrong[][3] = { { "admin", "wrong", "region-1" },
                                            { "nobody", "wrong", "region-1" },
                                            { "admin", "", "region-1" } };
    char other[600];
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(wrong); i++) {
        long status = login(wrong[i][0], wrong[i][1], wrong[i][2]);
        assert_int_equal(status, *wrong[i][1] ? 401 : 400);
        const json_t *error = json_object_get(got.json, "error");
        assert_int_equal(json_integer_value(json_object_get(error, "code")), status);
        assert_string_equal(json_string_value(json_object_get(error, "title")),
                            status == 401 ? "Unauthorized" : "Bad Request");
        assert_string_equal(got.token, "");
        if (i == 0)
            strcpy(other, got.body);
        if (i == 1) /* who guesses learns nothing about names */
            assert_string_equal(got.body, other);
    }
    assert_int_equal(login("admin", password, "region-9"), 401);
    assert_int_equal(ask("POST", http, "/v3/auth/tokens", NULL, "{", 1), 400);
    assert_non_null(json_object_get(got.json, "error"));
}

static void the_helper_that_hashes_may_die(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        shell("kill -9 $(cat /proc/%d/task/%d/children)", (int)identity[i], (int)identity[i]);
    for (int i = 0; i < 4; i++)
        assert_int_equal(login("admin", password, "region-1"), 201);
}

static void the_sdks_find_exactly_one_project(void **state)
{
    const char *headers[] = { token_header, "Content-Type: application/json", NULL };
    (void)state;
    assert_int_equal(ask("GET", https, "/v3/projects?name=region-1", headers, NULL, 0), 200);
    const json_t *list = json_object_get(got.json, "projects");
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), project);
    assert_int_equal(ask("GET", https, "/v3/projects?name=region-2", headers, NULL, 0), 200);
    assert_int_equal(json_array_size(json_object_get(got.json, "projects")), 0);
    assert_int_equal(ask("GET", https, "/v3/regions", headers, NULL, 0), 200);
    assert_int_equal(json_array_size(json_object_get(got.json, "regions")), 1);
    assert_int_equal(ask("GET", https, "/v3/auth/domains", headers, NULL, 0), 200);
    assert_int_equal(json_array_size(json_object_get(got.json, "domains")), 1);
    assert_int_equal(ask("GET", https, "/v3/projects", NULL, NULL, 0), 401);
    assert_non_null(json_object_get(got.json, "error"));
}

/* ---- who */

static void only_a_good_token_opens(void **state)
{
    static const struct {
        int64_t generation, age_ms;
        const char *says;
    } rows[] = { { 1, 25 * 3600 * 1000LL, "The token expired at 20" },
                 { 2, 0, "The token was withdrawn." } };
    char header[CW_TOKEN_MAX + 32], path[128];
    const char *headers[] = { header, NULL };
    (void)state;
    snprintf(path, sizeof path, "/v5/iot/%s/devices", project);
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        token_for(user_id(), rows[i].generation, rows[i].age_ms, header, sizeof header);
        ask("GET", http, path, headers, NULL, 0);
        assert_error(401, "IOTDA.000002");
        assert_non_null(strstr(got.body, rows[i].says));
    }
    token_for("0123456789abcdef0123456789abcdef", 1, 0, header, sizeof header);
    ask("GET", http, path, headers, NULL, 0);
    assert_error(401, "IOTDA.000002");
    strcpy(header, "X-Auth-Token: MIIx");
    ask("GET", http, path, headers, NULL, 0);
    assert_error(401, "IOTDA.000002");
    ask("GET", http, path, NULL, NULL, 0);
    assert_error(401, "IOTDA.000002");
}

struct signing {
    const char *sk, *region, *project; /* project: of X-Project-Id */
    enum signature_scheme scheme;
    int64_t skew_ms;
};

/* GETs the devices with a signature as an SDK makes it. */
static long ask_signed(const struct signing *how)
{
    char date[CW_TIME_LEN], value[65], header[4][300], path[128];
    struct cw_buf text = { 0 };
    struct signature s = { .scheme = how->scheme,
                           .access = cw_strdup(access_of("AK")),
                           .signed_text = cw_strdup("host;x-project-id;x-sdk-date"),
                           .signed_names = { cw_strdup("host"), cw_strdup("x-project-id"),
                                             cw_strdup("x-sdk-date") },
                           .n_signed = 3,
                           .region = cw_strdup(how->region),
                           .service = cw_strdup("iotdm") };
    snprintf(path, sizeof path, "/v5/iot/%s/devices", project);
    cw_time_basic(date, cw_now_ms() + how->skew_ms);
    s.date = cw_strndup(date, 8);
    const struct signed_header signed_headers[] = { { "host", strstr(http, "//") + 2 },
                                                    { "x-project-id", how->project },
                                                    { "x-sdk-date", date } };
    struct signed_request r = {
        .method = "GET", .path = path, .query = "limit=5", .headers = signed_headers, .n_headers = 3
    };
    signature_canonical(&text, &s, &r, false,
                        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    signature_compute(value, &s, date, how->sk, text.data, text.len);
    if (how->scheme == SIGNATURE_SDK)
        snprintf(header[0], sizeof header[0],
                 "Authorization: SDK-HMAC-SHA256 Access=%s, SignedHeaders=%s, Signature=%s",
                 s.access, s.signed_text, value);
    else
        snprintf(header[0], sizeof header[0],
                 "Authorization: V11-HMAC-SHA256 Credential=%s/%s/%s/iotdm, SignedHeaders=%s, "
                 "Signature=%s",
                 s.access, s.date, s.region, s.signed_text, value);
    snprintf(header[1], sizeof header[1], "X-Sdk-Date: %s", date);
    snprintf(header[2], sizeof header[2], "X-Project-Id: %s", how->project);
    const char *headers[] = { header[0], header[1], header[2], "X-Auth-Token: ignored", NULL };
    cw_buf_free(&text);
    signature_free(&s);
    strcat(path, "?limit=5");
    return ask("GET", http, path, headers, NULL, 0);
}

static void requests_signed_by_either_scheme_are_taken(void **state)
{
    char sk[64];
    (void)state;
    snprintf(sk, sizeof sk, "%s", access_of("SK"));
    for (int scheme = SIGNATURE_SDK; scheme <= SIGNATURE_V11; scheme++) {
        struct signing good = { sk, "anything", project, scheme, 0 }, bad = good;
        assert_int_equal(ask_signed(&good), 200);
        assert_string_equal(text_at("user", NULL), "admin");
        assert_string_equal(text_at("query", "limit"), "5");
        bad.sk = "wrong";
        ask_signed(&bad);
        assert_error(401, "IOTDA.000002");
        bad = good;
        bad.skew_ms = -16 * 60 * 1000;
        ask_signed(&bad);
        assert_error(401, "IOTDA.000002");
        assert_non_null(strstr(got.body, "The request was signed at 20"));
        assert_non_null(strstr(got.body, "the server's time is 20"));
        bad = good;
        bad.project = "another";
        ask_signed(&bad);
        assert_error(403, "IOTDA.000021");
    }
}

/* ---- may he */

static void another_project_is_not_his(void **state)
{
    char full[200];
    const char *headers[] = { token_header, NULL };
    (void)state;
    snprintf(full, sizeof full, "/v5/iot/%s/devices", "ffffffffffffffffffffffffffffffff");
    ask("GET", http, full, headers, NULL, 0);
    assert_error(403, "IOTDA.000021");
    ask("GET", http, "/v5/iot/%7Bproject_id%7D/devices", headers, NULL, 0);
    assert_error(403, "IOTDA.000021");
}

static void a_reader_looks_and_changes_nothing(void **state)
{
    (void)state;
    sql("INSERT INTO identity.principal (user_id, domain_id, name, password_hash, role) "
        "SELECT 'reader-1', domain_id, 'eve', '-', 'reader' FROM identity.account");
    sql("DO $$ BEGIN PERFORM identity.first_group(u.domain_id, p.project_id, u.user_id, 'readers', "
        "'00000000000000000000000000000003') FROM identity.principal u "
        "JOIN identity.project p USING (domain_id) WHERE u.user_id = 'reader-1'; END $$");
    token_for("reader-1", 1, 0, token_header, sizeof token_header);
    assert_int_equal(call("GET", "/devices", NULL), 200);
    assert_string_equal(text_at("user", NULL), "eve");
    call("POST", "/devices", "{\"node_id\":\"n\",\"product_id\":\"p\"}");
    assert_error(403, "IOTDA.000022");
    assert_non_null(strstr(text_at("error_msg", NULL), "The user does not have the permission"));
    assert_non_null(strstr(text_at("error_msg", NULL), "iotda:devices:register"));
    assert_non_null(strstr(text_at("error_msg", NULL), "AddDevice"));
}

static void too_many_are_403_with_a_time_to_wait(void **state)
{
    bool limited = false;
    (void)state;
    for (int i = 0; i < 3000 && !limited; i++)
        limited = call("GET", "/devices?limit=0", NULL) == 403;
    assert_error(403, "IOTDA.021101");
    assert_string_equal(got.retry_after, "1");
}

static void a_disabled_user_is_out_within_seconds(void **state)
{
    int64_t until_ms = cw_mono_ms() + WAIT_MS;
    (void)state;
    sql("UPDATE identity.principal SET enabled = false WHERE user_id = 'reader-1'");
    while (call("GET", "/devices", NULL) != 401) {
        assert_true(cw_mono_ms() < until_ms);
        usleep(50000);
    }
    assert_error(401, "IOTDA.000002");
    token_for(user_id(), 1, 0, token_header, sizeof token_header);
}

/* ---- is it valid, whose is it */

static void the_owner_gets_what_was_checked(void **state)
{
    (void)state;
    assert_int_equal(
        call("GET", "/devices?limit=7&device_name=%E4%B8%AD&nonsense=1&app_id=&limit=9", NULL),
        200);
    assert_string_equal(text_at("operation", NULL), "ListDevices");
    assert_string_equal(text_at("project", NULL), project);
    assert_string_equal(text_at("user", NULL), "admin");
    assert_string_equal(text_at("path", "project_id"), project);
    assert_string_equal(text_at("query", "limit"), "9"); /* the last one wins */
    assert_string_equal(text_at("query", "offset"), "0");
    assert_string_equal(text_at("query", "marker"), "ffffffffffffffffffffffff");
    assert_string_equal(text_at("query", "device_name"), "\xe4\xb8\xad");
    assert_int_equal(json_object_size(json_object_get(got.json, "query")), 4);
    assert_true(json_is_true(json_object_get(got.json, "in_time")));
    const char *body = "{ \"node_id\":\"a\", \"product_id\":\"p\", \"n\": 1.50 }";
    assert_int_equal(call("POST", "/devices", body), 200);
    assert_string_equal(text_at("body", NULL), body); /* as it was sent */
    call("POST", "/devices", "{\"node_id\":\"a\",\"product_id\":\"p\",\"app_id\":null}");
    assert_string_equal(text_at("body", NULL), "{\"node_id\":\"a\",\"product_id\":\"p\"}");
    assert_int_equal(call("DELETE", "/devices/d", NULL), 204);
    assert_string_equal(got.body, "");
}

static void what_is_refused_names_its_reason(void **state)
{
    static const struct {
        const char *method, *path, *body, *code, *says;
    } rows[] = {
        { "GET", "/devices?limit=51", NULL, "IOTDA.000017", "limit" },
        { "GET", "/devices?marker=x", NULL, "IOTDA.000018", "marker" },
        { "GET", "/devices?offset=501", NULL, "IOTDA.000006", "offset" },
        { "GET", "/devices?start_time=yesterday", NULL, "IOTDA.000009", "start_time" },
        { "GET", "/devices?start_time=20260105T081503Z&end_time=20260105T081502Z", NULL,
          "IOTDA.000010", "start_time" },
        { "GET", "/devices/a%2Fb", NULL, "IOTDA.000006", "device_id" },
        { "POST", "/devices/d/action", "{}", "IOTDA.000006", "action_id" },
        { "POST", "/devices/d/action?action_id=explode", "{}", "IOTDA.000006", "resetSecret" },
        { "POST", "/devices", "", "IOTDA.000008", "missing" },
        { "POST", "/devices", "{\"node_id\":", "IOTDA.000008", "byte" },
        { "POST", "/devices", "{\"node_id\":\"\xff\"}", "IOTDA.000008", "" },
        { "POST", "/devices", "{\"node_id\":\"a\\u0000\"}", "IOTDA.000008", "" },
        { "POST", "/devices", "[]", "IOTDA.000006", "object" },
        { "POST", "/devices", "{\"product_id\":\"p\"}", "IOTDA.000006", "node_id" },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        call(rows[i].method, rows[i].path, rows[i].body);
        assert_error(400, rows[i].code);
        if (!strstr(text_at("error_msg", NULL), rows[i].says))
            fail_msg("%s does not say %s", got.body, rows[i].says);
    }
}

static void depth_size_and_media_type_have_limits(void **state)
{
    const char *headers[] = { token_header, "Content-Type: text/xml", NULL };
    char path[100], *deep = cw_calloc(1, 3000), *huge = cw_malloc(1100000);
    (void)state;
    snprintf(path, sizeof path, "/v5/iot/%s/devices", project);
    ask("POST", http, path, headers, "<a/>", 4);
    assert_error(400, "IOTDA.000008");
    memset(deep, '[', 2000);
    call("POST", "/devices", deep);
    assert_error(400, "IOTDA.000008");
    memset(huge, ' ', 1100000);
    headers[1] = "Content-Type: application/json";
    assert_int_equal(ask("POST", http, path, headers, huge, 1100000), 413);
    assert_error(413, "IOTDA.000902");
    free(deep);
    free(huge);
}

static void other_urls_and_methods_are_told(void **state)
{
    (void)state;
    call("GET", "/nothing", NULL);
    assert_error(404, "IOTDA.000900");
    call("PATCH", "/devices", "{}");
    assert_error(405, "IOTDA.000901");
    assert_string_equal(got.allow, "GET, POST");
    assert_int_equal(ask("GET", http, "/openapi.json", NULL, NULL, 0), 200);
    assert_string_equal(text_at("openapi", NULL), "3.0.3");
}

static void a_service_that_is_away_is_named(void **state)
{
    (void)state;
    call("GET", "/devices/d/shadow", NULL);
    assert_error(503, "IOTDA.000903");
    assert_non_null(strstr(got.body, "uplink-processor"));
    call("PUT", "/devices/d", "{}"); /* there, but does not know the operation */
    assert_error(501, "IOTDA.000904");
}

int main(int argc, char **argv)
{
    if (getenv("TEST_OWNER"))
        return owner_main(argc, argv);
    program = argv[0];
    const char *slash = strrchr(argv[0], '/');
    snprintf(bin, sizeof bin, "%.*s/../bin", slash ? (int)(slash - argv[0]) : 1,
             slash ? argv[0] : ".");
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_instances_that_start_at_once_agree),
        cmocka_unit_test(a_password_gives_a_token_for_a_day),
        cmocka_unit_test(a_wrong_login_is_401_in_the_form_of_iam),
        cmocka_unit_test(the_helper_that_hashes_may_die),
        cmocka_unit_test(the_sdks_find_exactly_one_project),
        cmocka_unit_test(only_a_good_token_opens),
        cmocka_unit_test(requests_signed_by_either_scheme_are_taken),
        cmocka_unit_test(the_owner_gets_what_was_checked),
        cmocka_unit_test(another_project_is_not_his),
        cmocka_unit_test(what_is_refused_names_its_reason),
        cmocka_unit_test(depth_size_and_media_type_have_limits),
        cmocka_unit_test(other_urls_and_methods_are_told),
        cmocka_unit_test(a_service_that_is_away_is_named),
        cmocka_unit_test(a_reader_looks_and_changes_nothing),
        cmocka_unit_test(too_many_are_403_with_a_time_to_wait),
        cmocka_unit_test(a_disabled_user_is_out_within_seconds),
    };
    return cmocka_run_group_tests_name("rest", tests, start, stop);
}

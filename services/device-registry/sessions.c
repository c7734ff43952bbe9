/* Logins, in batches: one query for the devices, the checks, one statement that opens the sessions.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/metrics.h"
#include "services/device-registry/kept.h"
#include "services/device-registry/trust.h"

#define BATCH_MAX 4096

static const struct cw_stmt stmt_lookup = {
    "sessions_lookup",
    "SELECT d.device_key, d.product_key, d.auth_type, d.secret, d.secondary_secret, d.frozen,"
    " d.secure_access, d.parent_key, d.auth_version, d.app_id,"
    " d.fingerprint, d.secondary_fingerprint, k.filters,"
    " (SELECT string_agg(t.policy_id, '' ORDER BY t.policy_id) FROM registry.policy_target t"
    "  WHERE t.device_key = d.device_key) AS policies, p.product_id,"
    " k.filters IS NOT NULL AND k.expiry_s < 4294967295 AND d.status = 'OFFLINE' AND"
    " d.connection_status_update_time + k.expiry_s * interval '1 second' < now() AS kept_over,"
    " CASE WHEN d.device_key IS NULL THEN"
    "  (SELECT " SQL_BASIC_TIME(
        "t.deleted") " || CASE WHEN t.reason = 'timeout' THEN ' by its timeout'"
                     "    WHEN t.deleted_by <> '' THEN ' by user ' || t.deleted_by ELSE '' END"
                     "   FROM registry.device_tombstone t WHERE t.device_id = i.id"
                     "   ORDER BY t.deleted DESC LIMIT 1) END AS deleted"
                     " FROM unnest($1::text[]) WITH ORDINALITY AS i(id, n)"
                     " LEFT JOIN registry.device d ON d.device_id = i.id"
                     " LEFT JOIN registry.product p USING (product_key)"
                     " LEFT JOIN registry.kept_session k USING (device_key) ORDER BY i.n"
};
/* The lock on the device's row puts logins of one device into one order, so that session numbers
 * grow with time, and makes a login wait for a change of the secret and then find it. */
#define OPEN(bind)                                                                                 \
    "WITH ok AS (SELECT d.device_key, d.device_id, d.product_key, d.partition, u.client, u.peer,"  \
    "  u.fingerprint"                                                                              \
    "  FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $6::text[])"                \
    "  AS u(device_key, auth_version, client, peer, fingerprint)"                                  \
    "  JOIN registry.device d ON d.device_key = u.device_key AND d.auth_version = u.auth_version"  \
    "  WHERE NOT d.frozen AND (u.fingerprint IS NULL OR d.fingerprint IS NULL)"                    \
    "  ORDER BY d.device_key FOR NO KEY UPDATE OF d)," bind                                        \
    " new AS (INSERT INTO registry.session AS s (device_key, session_no, gateway, device_id,"      \
    "  product_key, partition, client, peer) SELECT device_key, nextval('registry.session_no'),"   \
    "  $5, device_id, product_key, partition, client, peer FROM ok ON CONFLICT (device_key)"       \
    "  DO UPDATE SET session_no = EXCLUDED.session_no, gateway = EXCLUDED.gateway,"                \
    "  device_id = EXCLUDED.device_id, product_key = EXCLUDED.product_key,"                        \
    "  partition = EXCLUDED.partition, client = EXCLUDED.client, peer = EXCLUDED.peer,"            \
    "  opened = now(), lost = NULL, old_session_no = s.session_no,"                                \
    "  old_gateway = CASE WHEN s.lost IS NULL THEN s.gateway END"                                  \
    "  RETURNING device_key, session_no, old_gateway, old_session_no)"                             \
    " SELECT device_key, session_no, old_gateway, old_session_no FROM new ORDER BY device_key"
static const struct cw_stmt stmt_open = { "sessions_open", OPEN("") };
/* The first login with a certificate binds the device to it; another one in the same moment finds
 * it bound. */
static const struct cw_stmt stmt_open_bind = {
    "sessions_open_bind",
    OPEN(" bound AS (UPDATE registry.device d SET fingerprint = ok.fingerprint FROM ok"
         "  WHERE d.device_key = ok.device_key AND ok.fingerprint IS NOT NULL),")
};

/* One open of a batch. */
struct login {
    struct login_refusal refusal;
    int64_t device_key, product_key, auth_version, session_no, old_session_no;
    char *old_gateway, *app_id, *product_id, *policies;
    char fingerprint[65]; /* to be bound; "": none */
    char *kept;           /* subscriptions of a session that is resumed, JSON; NULL: none */
    bool kept_changes;    /* is kept for kept_s from now on; 0: goes */
    uint32_t kept_s;
    int round; /* the k-th accepted open of its device goes into statement k */
};

struct batch {
    struct registry *r;
    char *reply_to;
    Causeway__SessionOpenBatch *request;
    struct login *logins;
    size_t n;
    int64_t began_ms;
    int waiting; /* statements not answered */
};

static struct {
    struct cw_metric *opened, *refused, *late, *time;
} stat;

static void make_stats(void)
{
    if (stat.opened)
        return;
    stat.opened = cw_counter("causeway_logins_total", "result=\"opened\"", "Logins by result");
    stat.refused = cw_counter("causeway_logins_total", "result=\"refused\"", "Logins by result");
    stat.late = cw_counter("causeway_logins_late_total", NULL,
                           "Logins dropped since their gateway waits no more");
    stat.time = cw_histogram_ms("causeway_login_batch_ms", NULL, "From batch to answer");
}

static void batch_free(struct batch *b)
{
    cw_app_in_flight(b->r->app, -1);
    for (size_t i = 0; i < b->n; i++) {
        free(b->logins[i].old_gateway);
        free(b->logins[i].app_id);
        free(b->logins[i].product_id);
        free(b->logins[i].policies);
        free(b->logins[i].kept);
    }
    causeway__session_open_batch__free_unpacked(b->request, NULL);
    free(b->logins);
    free(b->reply_to);
    free(b);
}

static char *or_empty(const char *s) { return (char *)(s ? s : ""); }

static void reply(struct batch *b)
{
    Causeway__SessionOpenReply out = CAUSEWAY__SESSION_OPEN_REPLY__INIT;
    Causeway__SessionOpened *rows = cw_calloc(b->n, sizeof *rows),
                            **list = cw_calloc(b->n, sizeof(void *));
    struct kept_lists kept = { 0 };
    for (size_t i = 0; i < b->n; i++) {
        struct login *l = &b->logins[i];
        causeway__session_opened__init(&rows[i]);
        rows[i].connack = l->refusal.connack;
        rows[i].device_key = l->device_key;
        rows[i].product_key = l->product_key;
        rows[i].session_no = l->session_no;
        rows[i].old_session_no = l->old_session_no;
        rows[i].old_gateway = or_empty(l->old_gateway);
        rows[i].app_id = or_empty(l->app_id);
        rows[i].product_id = or_empty(l->product_id);
        rows[i].policies = or_empty(l->policies);
        if (l->kept && !l->refusal.connack)
            kept_unpack(&kept, &rows[i], l->kept);
        rows[i].code = or_empty(l->refusal.code);
        rows[i].reason = l->refusal.reason;
        rows[i].next_step = or_empty(l->refusal.next_step);
        list[i] = &rows[i];
        cw_metric_add(l->refusal.connack ? stat.refused : stat.opened, 1);
    }
    out.n_results = b->n;
    out.results = list;
    size_t size = causeway__session_open_reply__get_packed_size(&out);
    uint8_t *packed = cw_malloc(size + 1);
    causeway__session_open_reply__pack(&out, packed);
    cw_bus_publish(cw_app_bus(b->r->app), b->reply_to, NULL, packed, size);
    cw_metric_observe(stat.time, (double)(cw_mono_ms() - b->began_ms));
    free(packed);
    free(rows);
    free(list);
    kept_lists_free(&kept);
    batch_free(b);
}

static void unavailable(struct login *l, const char *code, const char *reason)
{
    l->refusal = (struct login_refusal){ .connack = 3,
                                         .code = code,
                                         .next_step = "Connect again in a moment." };
    snprintf(l->refusal.reason, sizeof l->refusal.reason, "%s", reason);
}

static void all_unavailable(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        unavailable(&b->logins[i], "registry_unavailable", "PostgreSQL did not answer.");
    reply(b);
}

/* ---- opening */

static void change_kept(const struct batch *b)
{
    for (size_t i = 0; i < b->n; i++) {
        const struct login *l = &b->logins[i];
        if (l->kept_changes && l->session_no)
            kept_change(b->r, l->device_key, l->session_no, l->kept_s);
    }
}

static void settle(struct batch *b)
{
    if (--b->waiting > 0)
        return;
    change_kept(b);
    for (size_t i = 0; i < b->n; i++)
        if (!b->logins[i].refusal.connack && !b->logins[i].session_no)
            unavailable(&b->logins[i], "login_interrupted",
                        "The session could not be stored, or the device was changed meanwhile.");
    reply(b);
}

/* One statement: at most one login of a device, in the order of their keys. */
struct opening {
    struct batch *b;
    size_t n;
    struct login *logins[];
};

static int by_key(const void *a, const void *b)
{
    const struct login *x = *(struct login *const *)a, *y = *(struct login *const *)b;
    return x->device_key < y->device_key ? -1 : x->device_key > y->device_key;
}

static void on_opened(PGresult *res, void *arg)
{
    struct opening *o = arg;
    struct batch *b = o->b;
    bool fine = cw_db_outcome(res) == CW_DB_OK;
    if (!fine)
        cw_log(CW_WARN, "sessions_not_opened", "sqlstate=%s reason=\"%s\"", cw_db_sqlstate(res),
               cw_db_error(res));
    for (int i = 0; fine && i < PQntuples(res); i++) {
        struct login sought = { .device_key = cw_db_i64(res, i, "device_key", 0) };
        const struct login *key = &sought;
        struct login *l =
            *(struct login **)bsearch(&key, o->logins, o->n, sizeof(struct login *), by_key);
        const char *gateway = cw_db_str(res, i, "old_gateway");
        l->session_no = cw_db_i64(res, i, "session_no", 0);
        l->old_session_no = cw_db_i64(res, i, "old_session_no", 0);
        l->old_gateway = gateway ? cw_strdup(gateway) : NULL;
    }
    free(o);
    settle(b);
}

static struct opening *collect(struct batch *b, int round)
{
    struct opening *o = cw_malloc(sizeof *o + b->n * sizeof(struct login *));
    *o = (struct opening){ .b = b };
    for (size_t i = 0; i < b->n; i++)
        if (!b->logins[i].refusal.connack && b->logins[i].round == round)
            o->logins[o->n++] = &b->logins[i];
    qsort(o->logins, o->n, sizeof(struct login *), by_key);
    return o;
}

static bool open_round(struct batch *b, int round)
{
    struct cw_db_array key = { 0 }, version = { 0 }, client = { 0 }, peer = { 0 },
                       fingerprint = { 0 };
    bool binds = false;
    struct opening *o = collect(b, round);
    cw_db_array_reset(&key, CW_ARRAY_INT8);
    cw_db_array_reset(&version, CW_ARRAY_INT8);
    cw_db_array_reset(&client, CW_ARRAY_TEXT);
    cw_db_array_reset(&peer, CW_ARRAY_TEXT);
    cw_db_array_reset(&fingerprint, CW_ARRAY_TEXT);
    for (size_t i = 0; i < o->n; i++) {
        const Causeway__SessionOpen *open = b->request->opens[o->logins[i] - b->logins];
        cw_db_array_int(&key, o->logins[i]->device_key);
        cw_db_array_int(&version, o->logins[i]->auth_version);
        cw_db_array_str(&client, open->client_id);
        cw_db_array_str(&peer, open->peer);
        const char *bind = *o->logins[i]->fingerprint ? o->logins[i]->fingerprint : NULL;
        cw_db_array_str(&fingerprint, bind);
        binds |= bind != NULL;
    }
    const struct cw_db_param p[] = {
        cw_db_array_param(&key),  cw_db_array_param(&version),  cw_db_array_param(&client),
        cw_db_array_param(&peer), CW_TEXT(b->request->gateway), cw_db_array_param(&fingerprint)
    };
    bool sent =
        cw_db_exec(b->r->logins, binds ? &stmt_open_bind : &stmt_open, 6, p, on_opened, o) != NULL;
    if (!sent)
        free(o);
    cw_db_array_free(&key);
    cw_db_array_free(&version);
    cw_db_array_free(&client);
    cw_db_array_free(&peer);
    cw_db_array_free(&fingerprint);
    return sent;
}

/* Numbers the accepted opens of each device; returns how many statements that takes. */
static int make_rounds(struct batch *b)
{
    size_t mask = 15;
    int rounds = 0;
    while (mask < 2 * b->n)
        mask = 2 * mask + 1;
    uint32_t *last = cw_calloc(mask + 1, sizeof *last); /* index + 1 of the device's last open */
    for (size_t i = 0; i < b->n; i++) {
        struct login *l = &b->logins[i];
        if (l->refusal.connack)
            continue;
        size_t at = (size_t)l->device_key & mask;
        while (last[at] && b->logins[last[at] - 1].device_key != l->device_key)
            at = (at + 1) & mask;
        l->round = last[at] ? b->logins[last[at] - 1].round + 1 : 0;
        last[at] = (uint32_t)i + 1;
        if (l->round >= rounds)
            rounds = l->round + 1;
    }
    free(last);
    return rounds;
}

/* ---- checking */

static bool is_set(const PGresult *res, int row, const char *column)
{
    const char *s = cw_db_str(res, row, column);
    return s && *s == 't';
}

/* What an older session has kept. */
static void resume(struct login *l, const Causeway__SessionOpen *open, const PGresult *res, int row)
{
    const char *filters = cw_db_str(res, row, "filters");
    if (!filters)
        return;
    bool resumes = !open->clean && !is_set(res, row, "kept_over");
    l->kept = resumes ? cw_strdup(filters) : NULL;
    l->kept_s = resumes ? open->expiry_s : 0;
    l->kept_changes = true;
}

static void check_one(struct batch *b, const PGresult *res, size_t i, int64_t now_ms)
{
    struct login *l = &b->logins[i];
    int row = (int)i;
    struct login_device device = { 0 };
    struct trust_verdict verdict;
    bool known = cw_db_str(res, row, "device_key") != NULL;
    if (known) {
        l->device_key = cw_db_i64(res, row, "device_key", 0);
        l->product_key = cw_db_i64(res, row, "product_key", 0);
        l->auth_version = cw_db_i64(res, row, "auth_version", 0);
        l->app_id = cw_strdup(cw_db_str(res, row, "app_id"));
        l->product_id = cw_strdup(cw_db_str(res, row, "product_id"));
        const char *policies = cw_db_str(res, row, "policies");
        l->policies = policies ? cw_strdup(policies) : NULL;
        device.auth_type = cw_db_str(res, row, "auth_type");
        device.frozen = is_set(res, row, "frozen");
        device.child = cw_db_str(res, row, "parent_key") != NULL;
        device.secure_access = is_set(res, row, "secure_access");
        device.secrets =
            secrets_get(b->r->secrets, b->r->seal_key, l->device_key, l->auth_version,
                        cw_db_str(res, row, "secret"), cw_db_str(res, row, "secondary_secret"));
        device.fingerprint = cw_db_str(res, row, "fingerprint");
        device.secondary_fingerprint = cw_db_str(res, row, "secondary_fingerprint");
    }
    if (known && strcmp(device.auth_type, "CERTIFICATES") == 0) {
        const Causeway__SessionOpen *open = b->request->opens[i];
        trust_check(b->r->trust, &verdict, l->app_id, open->certificates, open->n_certificates,
                    now_ms);
        device.certificate = &verdict;
    }
    login_check(&l->refusal, b->request->opens[i], known ? &device : NULL,
                cw_db_str(res, row, "deleted"), now_ms);
    resume(l, b->request->opens[i], res, row);
    if (device.certificate && !l->refusal.connack && !device.fingerprint)
        snprintf(l->fingerprint, sizeof l->fingerprint, "%s", verdict.sha256);
}

static void on_looked_up(PGresult *res, void *arg)
{
    struct batch *b = arg;
    int64_t now_ms = cw_now_ms();
    if (cw_db_outcome(res) != CW_DB_OK || (size_t)PQntuples(res) != b->n) {
        cw_log(CW_WARN, "logins_not_looked_up", "sqlstate=%s reason=\"%s\"", cw_db_sqlstate(res),
               cw_db_error(res));
        all_unavailable(b);
        return;
    }
    if (b->request->deadline_ms <= now_ms) { /* a session that nobody holds would be worse */
        cw_metric_add(stat.late, (int64_t)b->n);
        batch_free(b);
        return;
    }
    for (size_t i = 0; i < b->n; i++)
        check_one(b, res, i, now_ms);
    b->waiting = 1; /* ours, so that the answer waits until all is sent */
    for (int round = 0, rounds = make_rounds(b); round < rounds; round++)
        b->waiting += open_round(b, round);
    settle(b);
}

static void look_up(struct batch *b)
{
    struct cw_db_array ids = { 0 };
    cw_db_array_reset(&ids, CW_ARRAY_TEXT);
    for (size_t i = 0; i < b->n; i++)
        cw_db_array_str(&ids, b->request->opens[i]->device_id);
    const struct cw_db_param p[] = { cw_db_array_param(&ids) };
    bool sent = cw_db_exec(b->r->logins, &stmt_lookup, 1, p, on_looked_up, b) != NULL;
    cw_db_array_free(&ids);
    if (!sent)
        all_unavailable(b);
}

void sessions_open(const struct cw_bus_msg *msg, void *self)
{
    struct registry *r = self;
    make_stats();
    Causeway__SessionOpenBatch *request =
        msg->reply ? causeway__session_open_batch__unpack(NULL, msg->len, msg->data) : NULL;
    if (!request || request->n_opens > BATCH_MAX) {
        cw_log(CW_WARN, "logins_unreadable", "bytes=%zu opens=%zu", msg->len,
               request ? request->n_opens : 0);
        causeway__session_open_batch__free_unpacked(request, NULL);
        return;
    }
    if (request->deadline_ms <= cw_now_ms()) {
        cw_metric_add(stat.late, (int64_t)request->n_opens);
        causeway__session_open_batch__free_unpacked(request, NULL);
        return;
    }
    struct batch *b = cw_calloc(1, sizeof *b);
    *b = (struct batch){ .r = r,
                         .reply_to = cw_strdup(msg->reply),
                         .request = request,
                         .n = request->n_opens,
                         .logins = cw_calloc(request->n_opens + 1, sizeof(struct login)),
                         .began_ms = cw_mono_ms() };
    cw_app_in_flight(r->app, 1);
    look_up(b);
}

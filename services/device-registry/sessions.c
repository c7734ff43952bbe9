/* Logins, in batches: one query for the devices, the checks, one statement that opens the sessions.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/metrics.h"
#include "services/device-registry/device_certs.h"
#include "services/device-registry/kept.h"
#include "services/device-registry/product_topics.h"
#include "services/device-registry/refusals.h"
#include "services/device-registry/trust.h"

#define BATCH_MAX 4096

/* Of a batch in which a device shows a certificate: its record, too. Few devices have policies of
 * their own, and that there is none is found sooner than put together. */
#define LOOKUP(shown, column, status, certificate)                                                 \
    "SELECT d.device_key, d.product_key, d.auth_type, d.secret, d.secondary_secret, d.frozen,"     \
    " d.secure_access, d.parent_key, d.auth_version, d.app_id, d.fingerprint,"                     \
    " d.secondary_fingerprint, " status " AS certificate_status, k.filters, p.product_id,"         \
    " p.topics, CASE WHEN EXISTS (SELECT FROM registry.policy_target t"                            \
    "   WHERE t.device_key = d.device_key)"                                                        \
    "  THEN (SELECT string_agg(t.policy_id, '' ORDER BY t.policy_id)"                              \
    "   FROM registry.policy_target t WHERE t.device_key = d.device_key) END AS policies,"         \
    " k.filters IS NOT NULL AND k.expiry_s < 4294967295 AND d.status = 'OFFLINE' AND"              \
    " d.connection_status_update_time + k.expiry_s * interval '1 second' < now() AS kept_over,"    \
    " CASE WHEN d.device_key IS NULL THEN"                                                         \
    "  (SELECT " SQL_BASIC_TIME(                                                                   \
        "t.deleted") " || CASE WHEN t.reason = 'timeout'"                                          \
                     "    THEN ' by its timeout' WHEN t.deleted_by <> '' THEN ' by user ' || "     \
                     "t.deleted_by"                                                                \
                     "    ELSE '' END FROM registry.device_tombstone t WHERE t.device_id = i.id"   \
                     "   ORDER BY t.deleted DESC LIMIT 1) END AS deleted"                          \
                     " FROM unnest($1::text[]" shown ") WITH ORDINALITY AS i(id, " column "n)"     \
                     " LEFT JOIN registry.device d ON d.device_id = i.id" certificate              \
                     " LEFT JOIN registry.product p USING (product_key)"                           \
                     " LEFT JOIN registry.kept_session k USING (device_key) ORDER BY i.n"
static const struct cw_stmt stmt_lookup = { "sessions_lookup", LOOKUP("", "", "NULL", "") };
static const struct cw_stmt stmt_lookup_certificate = {
    "sessions_lookup_certificate",
    LOOKUP(", $2::text[]", "shown, ", "c.status",
           " LEFT JOIN registry.device_certificate c ON c.app_id = d.app_id"
           "  AND c.fingerprint = i.shown AND d.auth_type = 'CERTIFICATES'")
};
/* The lock on the device's row puts logins of one device into one order, so that session numbers
 * grow with time, and makes a login wait for a change of the secret and then find it. */
#define OPEN(first, arrays, columns, wanted, unless, bound)                                        \
    "WITH " first "ok AS (SELECT d.device_key, d.device_id, d.product_key, d.partition, u.client," \
    "  u.peer" wanted "  FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]" arrays    \
    ")"                                                                                            \
    "  AS u(device_key, auth_version, client, peer" columns ")"                                    \
    "  JOIN registry.device d ON d.device_key = u.device_key AND d.auth_version = u.auth_version"  \
    "  WHERE NOT d.frozen" unless "  ORDER BY d.device_key FOR NO KEY UPDATE OF d)," bound         \
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
static const struct cw_stmt stmt_open = { "sessions_open", OPEN("", "", "", "", "", "") };
/* The first login with a certificate binds the device to it; another one in the same moment finds
 * it bound. The lock on the certificate's record: whoever makes it INACTIVE waits for this and then
 * sees the session, or is seen. */
static const struct cw_stmt stmt_open_certificate = {
    "sessions_open_certificate",
    OPEN("c AS (SELECT c.app_id, c.fingerprint, c.status FROM registry.device_certificate c"
         "  WHERE c.fingerprint = ANY($7::text[]) ORDER BY c.certificate_id FOR SHARE), ",
         ", $6::text[], $7::text[]", ", fingerprint, shown", ", u.fingerprint",
         "  AND (u.fingerprint IS NULL OR d.fingerprint IS NULL)"
         "  AND NOT EXISTS (SELECT FROM c WHERE c.app_id = d.app_id AND c.fingerprint = u.shown"
         "   AND c.status = 'INACTIVE')",
         " bound AS (UPDATE registry.device d SET fingerprint = ok.fingerprint FROM ok"
         "  WHERE d.device_key = ok.device_key AND ok.fingerprint IS NOT NULL),")
};

/* One open of a batch. */
struct login {
    struct login_refusal refusal;
    int64_t device_key, product_key, auth_version, session_no, old_session_no;
    char *old_gateway, *app_id, *product_id, *policies, *topics;
    char shown[65];    /* SHA-256 of the certificate that let it in; "": none */
    bool binds;        /* the device to it */
    bool provision;    /* the gateway is to ask whether it registers itself */
    char *kept;        /* subscriptions of a session that is resumed, JSON; NULL: none */
    bool kept_changes; /* is kept for kept_s from now on; 0: goes */
    uint32_t kept_s;
    int round; /* the k-th accepted open of its device goes into statement k */
};

struct batch {
    struct registry *r;
    char *reply_to;
    Causeway__SessionOpenBatch *request;
    struct login *logins;
    struct device_certs fresh; /* certificates without a record */
    size_t n;
    int64_t began_ms;
    int waiting; /* statements not answered */
    bool final;  /* who is not registered does not register itself */
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
        free(b->logins[i].topics);
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
    struct topics_told topics = { 0 };
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
        if (!l->refusal.connack)
            topics_add(&topics, l->product_key, l->topics);
        rows[i].code = or_empty(l->refusal.code);
        rows[i].reason = l->refusal.reason;
        rows[i].next_step = or_empty(l->refusal.next_step);
        rows[i].provision = l->provision;
        list[i] = &rows[i];
        cw_metric_add(l->refusal.connack ? stat.refused : stat.opened, 1);
    }
    out.n_results = b->n;
    out.results = list;
    out.n_topics = topics.n;
    out.topics = topics.list;
    size_t size = causeway__session_open_reply__get_packed_size(&out);
    uint8_t *packed = cw_malloc(size + 1);
    causeway__session_open_reply__pack(&out, packed);
    cw_bus_publish(cw_app_bus(b->r->app), b->reply_to, NULL, packed, size);
    cw_metric_observe(stat.time, (double)(cw_mono_ms() - b->began_ms));
    free(packed);
    free(rows);
    free(list);
    kept_lists_free(&kept);
    topics_free(&topics);
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
                       fingerprint = { 0 }, shown = { 0 };
    bool certificates = false;
    struct opening *o = collect(b, round);
    cw_db_array_reset(&key, CW_ARRAY_INT8);
    cw_db_array_reset(&version, CW_ARRAY_INT8);
    cw_db_array_reset(&client, CW_ARRAY_TEXT);
    cw_db_array_reset(&peer, CW_ARRAY_TEXT);
    cw_db_array_reset(&fingerprint, CW_ARRAY_TEXT);
    cw_db_array_reset(&shown, CW_ARRAY_TEXT);
    for (size_t i = 0; i < o->n; i++) {
        const Causeway__SessionOpen *open = b->request->opens[o->logins[i] - b->logins];
        cw_db_array_int(&key, o->logins[i]->device_key);
        cw_db_array_int(&version, o->logins[i]->auth_version);
        cw_db_array_str(&client, open->client_id);
        cw_db_array_str(&peer, open->peer);
        const char *by = *o->logins[i]->shown ? o->logins[i]->shown : NULL;
        cw_db_array_str(&shown, by);
        cw_db_array_str(&fingerprint, o->logins[i]->binds ? by : NULL);
        certificates |= by != NULL;
    }
    const struct cw_db_param p[] = { cw_db_array_param(&key),      cw_db_array_param(&version),
                                     cw_db_array_param(&client),   cw_db_array_param(&peer),
                                     CW_TEXT(b->request->gateway), cw_db_array_param(&fingerprint),
                                     cw_db_array_param(&shown) };
    bool sent = cw_db_exec(b->r->logins, certificates ? &stmt_open_certificate : &stmt_open,
                           certificates ? 7 : 5, p, on_opened, o) != NULL;
    if (!sent)
        free(o);
    cw_db_array_free(&key);
    cw_db_array_free(&version);
    cw_db_array_free(&client);
    cw_db_array_free(&peer);
    cw_db_array_free(&fingerprint);
    cw_db_array_free(&shown);
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

static void check_certificate(struct batch *b, const PGresult *res, size_t i, int64_t now_ms,
                              struct trust_verdict *verdict)
{
    const Causeway__SessionOpen *open = b->request->opens[i];
    const char *status = cw_db_str(res, (int)i, "certificate_status");
    trust_check(b->r->trust, verdict, b->logins[i].app_id, open->certificates, open->n_certificates,
                now_ms);
    if (!verdict->fine || !status || *status != 'I')
        return;
    verdict->fine = false;
    verdict->code = "certificate_inactive";
    verdict->next_step = "Give the device another certificate, or set this one's status to ACTIVE.";
    snprintf(verdict->reason, sizeof verdict->reason,
             "Somebody has made the certificate (SHA-256 %.16s...) INACTIVE.", verdict->sha256);
}

/* A device with a certificate is let in by it. */
static void note_certificate(struct batch *b, const PGresult *res, size_t i,
                             const struct login_device *device)
{
    struct login *l = &b->logins[i];
    const struct trust_verdict *v = device->certificate;
    snprintf(l->shown, sizeof l->shown, "%s", v->sha256);
    l->binds = !device->fingerprint;
    if (!cw_db_str(res, (int)i, "certificate_status"))
        device_certs_add(&b->fresh, l->app_id, v->sha256, v->sha1,
                         &b->request->opens[i]->certificates[0]);
}

/* It may register itself, or an operator may read of it. */
static void note_unknown(struct batch *b, size_t i)
{
    struct login *l = &b->logins[i];
    const Causeway__SessionOpen *open = b->request->opens[i];
    bool of_id = l->refusal.connack == 4;
    l->provision =
        of_id && !b->final && open->secure && open->n_certificates && trust_provisions(b->r->trust);
    if (!l->provision)
        refusals_note(b->r, &(struct refused){ .code = l->refusal.code,
                                               .reason = l->refusal.reason,
                                               .next_step = l->refusal.next_step,
                                               .device_id = open->device_id,
                                               .peer = open->peer,
                                               .server_name = open->server_name });
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
        const char *topics = cw_db_str(res, row, "topics");
        l->topics = topics ? cw_strdup(topics) : NULL;
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
        check_certificate(b, res, i, now_ms, &verdict);
        device.certificate = &verdict;
    }
    login_check(&l->refusal, b->request->opens[i], known ? &device : NULL,
                cw_db_str(res, row, "deleted"), now_ms);
    resume(l, b->request->opens[i], res, row);
    if (!known)
        note_unknown(b, i);
    else if (device.certificate && !l->refusal.connack)
        note_certificate(b, res, i, &device);
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
    device_certs_keep(b->r, &b->fresh); /* before the statements that look at them */
    b->waiting = 1;                     /* ours, so that the answer waits until all is sent */
    for (int round = 0, rounds = make_rounds(b); round < rounds; round++)
        b->waiting += open_round(b, round);
    settle(b);
}

static void look_up(struct batch *b)
{
    struct cw_db_array ids = { 0 }, shown = { 0 };
    char fingerprint[65];
    bool certificates = false;
    cw_db_array_reset(&ids, CW_ARRAY_TEXT);
    cw_db_array_reset(&shown, CW_ARRAY_TEXT);
    for (size_t i = 0; i < b->n; i++) {
        const Causeway__SessionOpen *open = b->request->opens[i];
        cw_db_array_str(&ids, open->device_id);
        cw_db_array_str(&shown, open->n_certificates
                                    ? trust_fingerprint(fingerprint, &open->certificates[0])
                                    : NULL);
        certificates |= open->n_certificates > 0;
    }
    const struct cw_db_param p[] = { cw_db_array_param(&ids), cw_db_array_param(&shown) };
    bool sent = cw_db_exec(b->r->logins, certificates ? &stmt_lookup_certificate : &stmt_lookup,
                           certificates ? 2 : 1, p, on_looked_up, b) != NULL;
    cw_db_array_free(&ids);
    cw_db_array_free(&shown);
    if (!sent)
        all_unavailable(b);
}

static struct batch *batch_new(struct registry *r, Causeway__SessionOpenBatch *request,
                               const char *reply_to)
{
    struct batch *b = cw_calloc(1, sizeof *b);
    *b = (struct batch){ .r = r,
                         .reply_to = cw_strdup(reply_to),
                         .request = request,
                         .n = request->n_opens,
                         .logins = cw_calloc(request->n_opens + 1, sizeof(struct login)),
                         .began_ms = cw_mono_ms() };
    cw_app_in_flight(r->app, 1);
    return b;
}

void sessions_open_final(struct registry *r, Causeway__SessionOpenBatch *request,
                         const char *reply_to)
{
    struct batch *b = batch_new(r, request, reply_to);
    make_stats();
    b->final = true;
    look_up(b);
}

void session_answer(struct registry *r, const char *reply_to, Causeway__SessionOpened *result)
{
    Causeway__SessionOpenReply out = CAUSEWAY__SESSION_OPEN_REPLY__INIT;
    out.results = &result;
    out.n_results = 1;
    uint8_t *packed = cw_malloc(causeway__session_open_reply__get_packed_size(&out) + 1);
    cw_bus_publish(cw_app_bus(r->app), reply_to, NULL, packed,
                   causeway__session_open_reply__pack(&out, packed));
    free(packed);
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
    look_up(batch_new(r, request, msg->reply));
}

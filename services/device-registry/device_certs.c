#include "services/device-registry/device_certs.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "services/device-registry/subject.h"

#define CUT_AT_ONCE 200 /* sessions of one step */
#define NAME_LEN    256

#define COLUMNS                                                                                    \
    "c.certificate_id, c.certificate_id AS record_id, c.app_id, c.common_name, c.fingerprint,"     \
    " c.sha1, c.status, (extract(epoch FROM c.expiry) * 1000)::bigint AS expires_ms,"              \
    " " SQL_BASIC_TIME("c.expiry") " AS expiry_date"
#define LIST(by)                                                                                   \
    "WITH n AS (SELECT count(*) FROM (SELECT FROM registry.device_certificate c WHERE " by         \
    "  AND ($6::text[] IS NULL OR c.app_id = ANY($6)) AND c.app_id <> ALL($7::text[])"             \
    "  LIMIT 10001) x),"                                                                           \
    " page AS (SELECT " COLUMNS " FROM registry.device_certificate c WHERE " by                    \
    "  AND ($6::text[] IS NULL OR c.app_id = ANY($6)) AND c.app_id <> ALL($7::text[])"             \
    "  AND c.certificate_id < lower($3) ORDER BY c.certificate_id DESC"                            \
    "  OFFSET $4::bigint LIMIT $5::bigint)"                                                        \
    " SELECT (SELECT count FROM n) AS count, page.* FROM (SELECT) one LEFT JOIN page ON true"      \
    " ORDER BY page.record_id DESC"
#define WITH_NAME                                                                                  \
    "($1::text IS NULL OR (c.common_name >= $1 AND c.common_name < $1 || chr(1114111)))"
#define WITH_FINGERPRINT "c.fingerprint = lower($2)"

static const struct cw_stmt stmt_list = { "device_certs_list", LIST(WITH_NAME " AND $2::text"
                                                                              " IS NULL") };
static const struct cw_stmt stmt_list_name = {
    "device_certs_list_name", LIST("c.common_name >= $1::text AND c.common_name < $1 ||"
                                   " chr(1114111) AND $2::text IS NULL")
};
static const struct cw_stmt stmt_list_print = { "device_certs_list_print",
                                                LIST(WITH_FINGERPRINT " AND " WITH_NAME) };
static const struct cw_stmt stmt_show = { "device_certs_show",
                                          "SELECT " COLUMNS
                                          ", c.content FROM registry.device_certificate c"
                                          " WHERE c.certificate_id = lower($1)" };
/* A login that shows it holds the row: it is through before this, or finds it changed. */
static const struct cw_stmt stmt_update = { "device_certs_update",
                                            "UPDATE registry.device_certificate c SET status = $2"
                                            " WHERE c.certificate_id = lower($1)"
                                            " RETURNING " COLUMNS ", c.content" };
static const struct cw_stmt stmt_delete = {
    "device_certs_delete",
    "DELETE FROM registry.device_certificate WHERE certificate_id = lower($1) RETURNING 1"
};
/* $1 space, $2 SHA-256, $3 SHA-1. */
#define USERS                                                                                      \
    "(SELECT d.device_key FROM registry.device d WHERE lower(d.fingerprint) IN ($2, $3)"           \
    "  AND d.fingerprint IS NOT NULL AND d.app_id = $1 UNION"                                      \
    " SELECT d.device_key FROM registry.device d WHERE lower(d.secondary_fingerprint) IN ($2, $3)" \
    "  AND d.secondary_fingerprint IS NOT NULL AND d.app_id = $1)"
static const struct cw_stmt stmt_sessions = {
    "device_certs_sessions",
    "SELECT s.device_key, s.gateway, s.session_no FROM registry.session s"
    " WHERE s.device_key IN " USERS " AND s.lost IS NULL AND s.device_key > $4::bigint"
    " ORDER BY s.device_key LIMIT $5::bigint"
};
static const struct cw_stmt stmt_users = {
    "device_certs_users",
    "WITH k AS " USERS ", page AS (SELECT d.app_id, d.device_id, d.node_id, d.device_name,"
    "  d.record_id, p.product_id, COALESCE(g.device_id, d.device_id)"
    "  AS gateway_id FROM registry.device d JOIN registry.product p"
    "  USING (product_key) LEFT JOIN registry.device g"
    "  ON g.device_key = d.parent_key"
    "  WHERE d.device_key = ANY(ARRAY(SELECT device_key FROM k))"
    "  AND d.record_id < lower($4) ORDER BY d.record_id DESC"
    "  OFFSET $5::bigint LIMIT $6::bigint)"
    " SELECT (SELECT count(*) FROM (SELECT FROM k LIMIT 10001) x) AS count,"
    " page.* FROM (SELECT) one LEFT JOIN page ON true"
    " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_keep = {
    "device_certs_keep",
    "INSERT INTO registry.device_certificate (certificate_id, app_id, fingerprint, sha1,"
    " common_name, content, expiry) SELECT id, app_id, fingerprint, sha1, common_name, content,"
    " to_timestamp(expires_ms / 1000.0) FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],"
    " $5::text[], $6::text[], $7::bigint[])"
    " AS u(id, app_id, fingerprint, sha1, common_name, content, expires_ms)"
    " WHERE $8::bigint = 0 OR (SELECT n FROM registry.device_certificate_count) < $8"
    " ORDER BY fingerprint ON CONFLICT DO NOTHING RETURNING 1"
};

/* ---- list, show */

static json_t *cert_json(const PGresult *res, int row, bool whole)
{
    static const char *const texts[] = { "certificate_id", "app_id",      "common_name",
                                         "fingerprint",    "expiry_date", "status" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    put_expiry_warning(o, cw_db_i64(res, row, "expires_ms", 0), "give the device another one");
    if (whole)
        cw_row_text(o, "certificate_pem", res, row, "content");
    return o;
}

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list certificates of devices"))
        return;
    int n = cw_db_str(res, 0, "certificate_id") ? PQntuples(res) : 0;
    json_t *list = json_array(), *out = json_pack("{s:o}", "device_certificates", list);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, cert_json(res, i, false));
    put_counted_page(out, res, n);
    cw_api_reply_json(call, 200, out);
}

void list_device_certs(struct cw_api_call *call, void *self)
{
    const char *name = cw_api_query(call, "common_name"),
               *fingerprint = cw_api_query(call, "fingerprint");
    const struct cw_db_param filters[] = { CW_TEXT(name), CW_TEXT(fingerprint) };
    list_of_spaces(self, call,
                   fingerprint ? &stmt_list_print
                   : name      ? &stmt_list_name
                               : &stmt_list,
                   CW_ARRAY_LEN(filters), filters, on_list);
}

static bool is_there(struct cw_api_call *call, const PGresult *res)
{
    if (cw_api_db_failed(call, res, "certificate of a device"))
        return false;
    if (PQntuples(res) > 0)
        return true;
    cw_api_fail(call, CW_E_NO_CERT, "Certificate \"%s\".", cw_api_path(call, "certificate_id"));
    return false;
}

static void on_show(PGresult *res, void *arg)
{
    if (is_there(arg, res))
        cw_api_reply_json(arg, 200, cert_json(res, 0, true));
}

void show_device_cert(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "certificate_id")),
                    on_show, call))
        cw_api_no_db(call);
}

static void on_deleted(PGresult *res, void *arg)
{
    if (is_there(arg, res))
        cw_api_reply(arg, 204, NULL, 0);
}

void delete_device_cert(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_delete, 1,
                    &CW_TEXT(cw_api_path(call, "certificate_id")), on_deleted, call))
        cw_api_no_db(call);
}

/* ---- which devices */

struct asking {
    struct registry *r;
    struct cw_api_call *call;
    json_t *answer; /* of a change */
    char app_id[40], sha256[65], sha1[41];
    int64_t after; /* device_key of the last session that was cut */
    int cutting, failed;
};

static struct asking *asking_new(struct registry *r, struct cw_api_call *call)
{
    struct asking *a = cw_calloc(1, sizeof *a);
    a->r = r;
    a->call = call;
    return a;
}

static void asking_free(struct asking *a)
{
    json_decref(a->answer);
    free(a);
}

static void asking_failed(struct asking *a)
{
    cw_api_no_db(a->call);
    asking_free(a);
}

static void remember(struct asking *a, const PGresult *res)
{
    snprintf(a->app_id, sizeof a->app_id, "%s", cw_db_str(res, 0, "app_id"));
    snprintf(a->sha256, sizeof a->sha256, "%s", cw_db_str(res, 0, "fingerprint"));
    snprintf(a->sha1, sizeof a->sha1, "%s", cw_db_str(res, 0, "sha1"));
}

static void on_users(PGresult *res, void *arg)
{
    static const char *const texts[] = { "app_id",     "device_id",   "node_id",
                                         "gateway_id", "device_name", "product_id" };
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list devices of a certificate"))
        return;
    int n = cw_db_str(res, 0, "device_id") ? PQntuples(res) : 0;
    json_t *list = json_array(), *out = json_pack("{s:o}", "devices", list);
    for (int i = 0; i < n; i++) {
        json_t *o = json_object();
        for (size_t k = 0; k < CW_ARRAY_LEN(texts); k++)
            cw_row_text(o, texts[k], res, i, texts[k]);
        json_array_append_new(list, o);
    }
    put_counted_page(out, res, n);
    cw_api_reply_json(call, 200, out);
}

static void on_cert(PGresult *res, void *arg)
{
    struct asking *a = arg;
    struct cw_api_call *call = a->call;
    const json_t *body = cw_api_body(call), *limit = json_object_get(body, "limit");
    const char *marker = cw_body_text(body, "marker");
    char from[24], most[24];
    if (is_there(call, res)) {
        remember(a, res);
        const struct cw_db_param p[] = {
            CW_TEXT(a->app_id),
            CW_TEXT(a->sha256),
            CW_TEXT(a->sha1),
            CW_TEXT(marker ? marker : "ffffffffffffffffffffffff"),
            cw_db_int(json_integer_value(json_object_get(body, "offset")), from),
            cw_db_int(json_is_integer(limit) ? json_integer_value(limit) : 10, most)
        };
        if (!cw_db_exec(registry_db(a->r), &stmt_users, CW_ARRAY_LEN(p), p, on_users, call))
            cw_api_no_db(call);
    }
    asking_free(a);
}

void list_devices_of_cert(struct cw_api_call *call, void *self)
{
    struct asking *a = asking_new(self, call);
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "certificate_id")),
                    on_cert, a))
        asking_failed(a);
}

/* ---- change, and the sessions that it ends */

static void cut_next(struct asking *a);

static void cut_one_less(struct asking *a)
{
    if (--a->cutting == 0)
        cut_next(a);
}

static void on_cut(bool confirmed, void *arg)
{
    struct asking *a = arg;
    a->failed += !confirmed;
    cut_one_less(a);
}

static void finish(struct asking *a)
{
    if (a->failed)
        cw_api_fail(a->call, CW_E_UNAVAILABLE,
                    "The certificate is INACTIVE, but gateways have not confirmed that %d of its "
                    "connections are closed.",
                    a->failed);
    else
        cw_api_reply_json(a->call, 200, json_incref(a->answer));
    asking_free(a);
}

static void on_sessions(PGresult *res, void *arg)
{
    struct asking *a = arg;
    if (cw_api_db_failed(a->call, res, "find the sessions (the certificate is INACTIVE)")) {
        asking_free(a);
        return;
    }
    int n = PQntuples(res);
    a->cutting = n + 1;
    for (int i = 0; i < n; i++) {
        a->after = cw_db_i64(res, i, "device_key", 0);
        close_session(a->r, cw_db_str(res, i, "gateway"), a->after,
                      cw_db_i64(res, i, "session_no", 0), "certificate_inactive", on_cut, a);
    }
    if (n == 0)
        finish(a);
    else
        cut_one_less(a);
}

static void cut_next(struct asking *a)
{
    char after[24], most[24];
    const struct cw_db_param p[] = { CW_TEXT(a->app_id), CW_TEXT(a->sha256), CW_TEXT(a->sha1),
                                     cw_db_int(a->after, after), cw_db_int(CUT_AT_ONCE, most) };
    if (!cw_db_exec(registry_db(a->r), &stmt_sessions, CW_ARRAY_LEN(p), p, on_sessions, a))
        asking_failed(a);
}

static void on_updated(PGresult *res, void *arg)
{
    struct asking *a = arg;
    if (!is_there(a->call, res)) {
        asking_free(a);
        return;
    }
    a->answer = cert_json(res, 0, true);
    remember(a, res);
    if (*cw_db_str(res, 0, "status") == 'I')
        cut_next(a);
    else
        finish(a);
}

void update_device_cert(struct cw_api_call *call, void *self)
{
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "certificate_id")),
                                     CW_TEXT(cw_body_text(cw_api_body(call), "status")) };
    struct asking *a = asking_new(self, call);
    if (!cw_db_exec(registry_db(self), &stmt_update, 2, p, on_updated, a))
        asking_failed(a);
}

/* ---- records of logins */

static const enum cw_array_type types[] = { CW_ARRAY_TEXT, CW_ARRAY_TEXT, CW_ARRAY_TEXT,
                                            CW_ARRAY_TEXT, CW_ARRAY_TEXT, CW_ARRAY_TEXT,
                                            CW_ARRAY_INT8 };

static void columns(struct device_certs *c, struct cw_db_array *out[CW_ARRAY_LEN(types)])
{
    struct cw_db_array *const all[] = { &c->id,          &c->app_id,  &c->fingerprint, &c->sha1,
                                        &c->common_name, &c->content, &c->expires };
    memcpy(out, all, sizeof all);
}

static int64_t ends_ms(const X509 *cert)
{
    struct tm tm = { 0 };
    return ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) == 1 ? (int64_t)timegm(&tm) * 1000 : 0;
}

static void add_pem(struct cw_db_array *a, X509 *cert)
{
    char *text;
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, cert);
    long len = BIO_get_mem_data(bio, &text);
    cw_db_array_bytes(a, text, (size_t)len);
    BIO_free(bio);
}

void device_certs_add(struct device_certs *c, const char *app_id, const char *sha256,
                      const char *sha1, const ProtobufCBinaryData *der)
{
    const unsigned char *p = der->data;
    char id[CW_RECORD_ID_LEN], name[NAME_LEN];
    struct cw_db_array *all[CW_ARRAY_LEN(types)];
    X509 *cert = d2i_X509(NULL, &p, (long)der->len);
    ERR_clear_error();
    if (!cert)
        return;
    columns(c, all);
    for (size_t i = 0; !c->n && i < CW_ARRAY_LEN(types); i++)
        cw_db_array_reset(all[i], types[i]);
    c->n++;
    cw_db_array_str(&c->id, cw_record_id(id));
    cw_db_array_str(&c->app_id, app_id);
    cw_db_array_str(&c->fingerprint, sha256);
    cw_db_array_str(&c->sha1, sha1);
    cw_db_array_str(&c->common_name, subject_text(name, sizeof name, cert, NID_commonName));
    add_pem(&c->content, cert);
    cw_db_array_int(&c->expires, ends_ms(cert));
    X509_free(cert);
}

static void on_kept(PGresult *res, void *arg)
{
    static struct cw_log_gate gate;
    (void)arg;
    if (cw_db_outcome(res) != CW_DB_OK)
        cw_log_limited(&gate, CW_WARN, "device_certificates_not_kept", "reason=\"%s\"",
                       cw_db_error(res));
}

void device_certs_keep(struct registry *r, struct device_certs *c)
{
    char max[24];
    struct cw_db_array *all[CW_ARRAY_LEN(types)];
    struct cw_db_param p[CW_ARRAY_LEN(types) + 1];
    int64_t most = r->device_certs_max ? r->device_certs_max : r->devices_max * 3 / 2;
    if (!c->n)
        return;
    columns(c, all);
    for (size_t i = 0; i < CW_ARRAY_LEN(types); i++)
        p[i] = cw_db_array_param(all[i]);
    p[CW_ARRAY_LEN(types)] = cw_db_int(most, max);
    cw_db_exec(r->logins, &stmt_keep, CW_ARRAY_LEN(types) + 1, p, on_kept, NULL);
    for (size_t i = 0; i < CW_ARRAY_LEN(types); i++)
        cw_db_array_free(all[i]);
    c->n = 0;
}

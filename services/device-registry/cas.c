/* CA certificates of devices: uploaded, proven to be the owner's, listed, deleted. trust.c uses
 * them. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/ca_pem.h"
#include "services/device-registry/trust.h"

#define COLUMNS                                                                                    \
    "c.certificate_id, c.certificate_id AS record_id, c.app_id, c.cn_name, c.owner, c.status,"     \
    " c.verify_code, c.content, c.provision_enable, c.template_id,"                                \
    " (extract(epoch FROM c.expiry) * 1000)::bigint AS expires_ms, " SQL_BASIC_TIME(               \
        "c.created") " AS create_date, " SQL_BASIC_TIME("c.effective") " AS "                      \
                                                                       "effective_date,"           \
                                                                       " " SQL_BASIC_TIME("c."     \
                                                                                          "expir"  \
                                                                                          "y") " " \
                                                                                               "A" \
                                                                                               "S" \
                                                                                               " " \
                                                                                               "e" \
                                                                                               "x" \
                                                                                               "p" \
                                                                                               "i" \
                                                                                               "r" \
                                                                                               "y" \
                                                                                               "_" \
                                                                                               "d" \
                                                                                               "a" \
                                                                                               "t" \
                                                                                               "e"

static const struct cw_stmt stmt_add = {
    "cas_add",
    "WITH a AS (SELECT app_id FROM registry.app"
    "  WHERE CASE WHEN $2::text IS NULL THEN default_app ELSE app_id = $2 END),"
    " c AS (INSERT INTO registry.ca_certificate (certificate_id, app_id, cn_name, owner, content,"
    "  fingerprint, verify_code, effective, expiry) SELECT $1, app_id, $3, $4, $5, $6, "
    "$7, " SQL_TIME("$8") ", " SQL_TIME(
        "$9") " FROM a WHERE (SELECT count(*) FROM"
              "  registry.ca_certificate) < $10::bigint RETURNING *)"
              " SELECT (SELECT count(*) FROM a) AS spaces, " COLUMNS
              " FROM (SELECT) one LEFT JOIN c ON true"
};
static const struct cw_stmt stmt_list = {
    "cas_list",
    "WITH m AS (SELECT " COLUMNS " FROM registry.ca_certificate c"
    "  WHERE ($1::text IS NULL OR c.app_id = $1)"
    "  AND ($5::text[] IS NULL OR c.app_id = ANY($5)) AND c.app_id <> ALL($6::text[])),"
    " page AS (SELECT * FROM m WHERE record_id < lower($2) ORDER BY record_id DESC"
    "  OFFSET $3::bigint LIMIT $4::bigint)"
    " SELECT (SELECT count(*) FROM m) AS count, page.* FROM (SELECT) one LEFT JOIN page ON true"
    " ORDER BY page.record_id DESC"
};
static const struct cw_stmt stmt_show = { "cas_show",
                                          "SELECT " COLUMNS " FROM registry.ca_certificate c"
                                          " WHERE c.certificate_id = lower($1)" };
static const struct cw_stmt stmt_delete = {
    "cas_delete", "DELETE FROM registry.ca_certificate WHERE certificate_id = lower($1) RETURNING 1"
};
static const struct cw_stmt stmt_verified = {
    "cas_verified",
    "UPDATE registry.ca_certificate SET status = true WHERE certificate_id = lower($1)"
    " AND verify_code = $2 RETURNING 1"
};

static const struct cw_stmt stmt_update = {
    "cas_update",
    "UPDATE registry.ca_certificate c SET"
    " provision_enable = COALESCE($2::boolean, c.provision_enable),"
    " template_id = CASE WHEN $3::boolean THEN $4 ELSE c.template_id END, project_id = $5"
    " WHERE c.certificate_id = lower($1) RETURNING " COLUMNS
};

struct asking {
    struct registry *r;
    struct cw_api_call *call;
};

static struct asking *asking_new(struct registry *r, struct cw_api_call *call)
{
    struct asking *a = cw_malloc(sizeof *a);
    *a = (struct asking){ r, call };
    return a;
}

static json_t *ca_json(const PGresult *res, int row, bool whole)
{
    static const char *const texts[] = { "certificate_id", "cn_name",     "owner",
                                         "verify_code",    "template_id", "create_date",
                                         "effective_date", "expiry_date" };
    json_t *o = json_pack("{s:b, s:b}", "ocsp_enable", 0, "ocsp_ssl_enable", 0);
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    cw_row_bool(o, "status", res, row, "status");
    cw_row_bool(o, "provision_enable", res, row, "provision_enable");
    put_expiry_warning(o, cw_db_i64(res, row, "expires_ms", 0), "upload and verify its successor");
    if (whole) {
        cw_row_text(o, "name", res, row, "cn_name");
        cw_row_text(o, "content", res, row, "content");
    }
    return o;
}

/* ---- upload */

static void on_added(PGresult *res, void *arg)
{
    struct registry *r = ((struct asking *)arg)->r;
    struct cw_api_call *call = ((struct asking *)arg)->call;
    free(arg);
    if (cw_db_broke(res, "ca_certificate_once"))
        cw_api_fail(call, CW_E_CA_TAKEN, "content: a certificate with this fingerprint.");
    else if (cw_api_db_failed(call, res, "keep a certificate"))
        ;
    else if (cw_db_i64(res, 0, "spaces", 0) == 0)
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(cw_api_body(call), "app_id"));
    else if (!cw_db_str(res, 0, "certificate_id"))
        cw_api_fail(call, CW_E_CERT_QUOTA,
                    "There are as many certificates as CAUSEWAY_CAS_MAX allows.");
    else {
        trust_changed(r); /* a device that it issued is told that it is not verified */
        cw_api_reply_json(call, 201, ca_json(res, 0, false));
    }
}

void add_ca(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const json_t *body = cw_api_body(call);
    const char *content = cw_body_text(body, "content");
    char id[CW_RECORD_ID_LEN], code[41], begins[24], expires[24], max[24], why[200];
    struct ca_pem ca;
    if (ca_pem_read(&ca, content, strlen(content), cw_now_ms(), why, sizeof why) < 0) {
        cw_api_fail(call, CW_E_CERT_BAD, "content: %s.", why);
        return;
    }
    const struct cw_db_param p[] = { CW_TEXT(cw_record_id(id)),
                                     CW_TEXT(cw_body_text(body, "app_id")),
                                     CW_TEXT(ca.common_name),
                                     CW_TEXT(ca.organization),
                                     CW_TEXT(ca.content),
                                     CW_TEXT(ca.fingerprint),
                                     CW_TEXT(cw_random_hex(code, 40)),
                                     cw_db_int(ca.begins_ms, begins),
                                     cw_db_int(ca.expires_ms, expires),
                                     cw_db_int(r->cas_max, max) };
    struct asking *a = asking_new(r, call);
    if (!cw_db_exec(registry_db(r), &stmt_add, CW_ARRAY_LEN(p), p, on_added, a)) {
        cw_api_no_db(call);
        free(a);
    }
    ca_pem_free(&ca);
}

/* ---- list, show, delete */

static json_t *listed_json(const PGresult *res, int row) { return ca_json(res, row, false); }

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "list certificates"))
        return;
    reply_page(call, res, "certificates", "certificate_id", listed_json);
}

void list_cas(struct cw_api_call *call, void *self)
{
    const struct cw_db_param filters[] = { CW_TEXT(cw_api_query(call, "app_id")) };
    list_of_spaces(self, call, &stmt_list, CW_ARRAY_LEN(filters), filters, on_list);
}

static bool is_there(struct cw_api_call *call, const PGresult *res)
{
    if (cw_api_db_failed(call, res, "certificate"))
        return false;
    if (PQntuples(res) > 0)
        return true;
    cw_api_fail(call, CW_E_NO_CERT, "Certificate \"%s\".", cw_api_path(call, "certificate_id"));
    return false;
}

static void on_show(PGresult *res, void *arg)
{
    if (is_there(arg, res))
        cw_api_reply_json(arg, 200, ca_json(res, 0, true));
}

void show_ca(struct cw_api_call *call, void *self)
{
    if (!cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "certificate_id")),
                    on_show, call))
        cw_api_no_db(call);
}

static void on_changed(PGresult *res, void *arg)
{
    struct asking a = *(struct asking *)arg;
    bool deletes = strcmp(cw_api_request(a.call)->operation, "DeleteCertificate") == 0;
    free(arg);
    if (!is_there(a.call, res))
        return;
    trust_changed(a.r);
    cw_api_reply(a.call, deletes ? 204 : 200, NULL, 0);
}

void delete_ca(struct cw_api_call *call, void *self)
{
    struct asking *a = asking_new(self, call);
    if (cw_db_exec(registry_db(self), &stmt_delete, 1,
                   &CW_TEXT(cw_api_path(call, "certificate_id")), on_changed, a))
        return;
    free(a);
    cw_api_no_db(call);
}

/* ---- change: which template registers devices by it */

static void on_updated(PGresult *res, void *arg)
{
    struct asking a = *(struct asking *)arg;
    free(arg);
    if (cw_db_broke(res, "ca_template"))
        cw_api_fail(a.call, CW_E_NO_TEMPLATE, "template_id \"%s\".",
                    cw_body_text(cw_api_body(a.call), "template_id"));
    else if (cw_db_broke(res, "ca_provisions_once"))
        cw_api_fail(a.call, CW_E_CA_PROVISIONS, "provision_enable.");
    else if (is_there(a.call, res)) {
        trust_changed(a.r);
        cw_api_reply_json(a.call, 200, ca_json(res, 0, true));
    }
}

/* The name of a field that wants OCSP, or NULL. */
static const char *wants_ocsp(const json_t *body)
{
    static const char *const switches[] = { "ocsp_enable", "ocsp_ssl_enable" };
    for (size_t i = 0; i < CW_ARRAY_LEN(switches); i++)
        if (json_is_true(json_object_get(body, switches[i])))
            return switches[i];
    return cw_body_text(body, "ocsp_server_ca_id") ? "ocsp_server_ca_id" : NULL;
}

void update_ca(struct cw_api_call *call, void *self)
{
    const json_t *body = cw_api_body(call), *enable = json_object_get(body, "provision_enable");
    const char *ocsp = wants_ocsp(body);
    if (ocsp) {
        cw_api_fail(call, CW_E_NO_OCSP, "%s.", ocsp);
        return;
    }
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "certificate_id")),
                                     CW_TEXT(!json_is_boolean(enable) ? NULL
                                             : json_is_true(enable)   ? "t"
                                                                      : "f"),
                                     CW_TEXT(json_object_get(body, "template_id") ? "t" : "f"),
                                     CW_TEXT(cw_body_text(body, "template_id")),
                                     CW_TEXT(cw_api_request(call)->project_id) };
    struct asking *a = asking_new(self, call);
    if (cw_db_exec(registry_db(self), &stmt_update, CW_ARRAY_LEN(p), p, on_updated, a))
        return;
    free(a);
    cw_api_no_db(call);
}

/* ---- verify: whoever uploaded it has its key */

static void on_proof(PGresult *res, void *arg)
{
    struct asking *a = arg;
    if (!is_there(a->call, res)) {
        free(a);
        return;
    }
    const char *wrong = trust_prove(cw_db_str(res, 0, "content"),
                                    cw_body_text(cw_api_body(a->call), "verify_content"),
                                    cw_db_str(res, 0, "verify_code"), cw_now_ms());
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(a->call, "certificate_id")),
                                     CW_TEXT(cw_db_str(res, 0, "verify_code")) };
    if (wrong)
        cw_api_fail(a->call, CW_E_CA_PROOF, "%s.", wrong);
    else if (cw_db_exec(registry_db(a->r), &stmt_verified, 2, p, on_changed, a))
        return;
    else
        cw_api_no_db(a->call);
    free(a);
}

void check_ca(struct cw_api_call *call, void *self)
{
    struct asking *a = asking_new(self, call);
    if (cw_db_exec(registry_db(self), &stmt_show, 1, &CW_TEXT(cw_api_path(call, "certificate_id")),
                   on_proof, a))
        return;
    free(a);
    cw_api_no_db(call);
}

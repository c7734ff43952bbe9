/* CA certificates of devices: uploaded, proven to be the owner's, listed, deleted. trust.c uses
 * them. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/ca_pem.h"
#include "services/device-registry/trust.h"

#define COLUMNS                                                                                    \
    "c.certificate_id, c.certificate_id AS record_id, c.app_id, c.cn_name, c.owner, c.status,"     \
    " c.verify_code, c.content, " SQL_BASIC_TIME("c.created") " AS create_date, " SQL_BASIC_TIME(  \
        "c.effective") " AS effective_date, " SQL_BASIC_TIME("c.expiry") " AS expiry_date"

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
                                         "verify_code",    "create_date", "effective_date",
                                         "expiry_date" };
    json_t *o =
        json_pack("{s:b, s:b, s:b}", "provision_enable", 0, "ocsp_enable", 0, "ocsp_ssl_enable", 0);
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    cw_row_bool(o, "status", res, row, "status");
    if (whole) {
        cw_row_text(o, "name", res, row, "cn_name");
        cw_row_text(o, "content", res, row, "content");
    }
    return o;
}

/* ---- upload */

static void on_added(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_db_broke(res, "ca_certificate_once"))
        cw_api_fail(call, CW_E_CA_TAKEN, "content: a certificate with this fingerprint.");
    else if (cw_api_db_failed(call, res, "keep a certificate"))
        ;
    else if (cw_db_i64(res, 0, "spaces", 0) == 0)
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_body_text(cw_api_body(call), "app_id"));
    else if (!cw_db_str(res, 0, "certificate_id"))
        cw_api_fail(call, CW_E_CERT_QUOTA,
                    "There are as many certificates as CAUSEWAY_CAS_MAX allows.");
    else
        cw_api_reply_json(call, 201, ca_json(res, 0, false));
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
    if (!cw_db_exec(registry_db(r), &stmt_add, CW_ARRAY_LEN(p), p, on_added, call))
        cw_api_no_db(call);
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

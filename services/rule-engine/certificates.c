/* Certificates: the CAs that the servers of applications are checked against. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/ca_pem.h"
#include "services/rule-engine/engine.h"

#define CERT_COLUMNS                                                                               \
    "cert_id, cert_id AS record_id, name, subject, to_char(expires AT TIME ZONE 'UTC',"            \
    " 'YYYYMMDD\"T\"HH24MISS\"Z\"') AS expires, fingerprint, check_common_name"

static const struct cw_stmt stmt_create = {
    "certs_create", "INSERT INTO rule.certificate (cert_id, name, content, subject, expires,"
                    " fingerprint, check_common_name)"
                    " SELECT $1, $2, $3, $4, to_timestamp($5::bigint / 1000.0), $6, $7::boolean"
                    " WHERE (SELECT count(*) FROM rule.certificate) < $8::bigint"
                    " RETURNING " CERT_COLUMNS
};
static const struct cw_stmt stmt_list = { "certs_list", "WITH m AS (SELECT " CERT_COLUMNS
                                                        " FROM rule.certificate)" PAGE(
                                                            "record_id", "$1", "$2", "$3") };
static const struct cw_stmt stmt_show = { "certs_show",
                                          "SELECT " CERT_COLUMNS
                                          " FROM rule.certificate WHERE cert_id = lower($1)" };
static const struct cw_stmt stmt_delete = {
    "certs_delete", "DELETE FROM rule.certificate WHERE cert_id = lower($1) RETURNING cert_id"
};

static json_t *cert_json(const PGresult *res, int row)
{
    json_t *o = json_object();
    cw_row_text(o, "cert_id", res, row, "cert_id");
    cw_row_text(o, "name", res, row, "name");
    cw_row_text(o, "subject", res, row, "subject");
    cw_row_text(o, "expires", res, row, "expires");
    cw_row_text(o, "fingerprint", res, row, "fingerprint");
    cw_row_bool(o, "check_common_name", res, row, "check_common_name");
    return o;
}

static void on_create(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "keep a certificate"))
        return;
    if (PQntuples(res) == 0)
        cw_api_fail(call, CW_E_CERT_QUOTA,
                    "There are as many certificates as CAUSEWAY_CERTIFICATES_MAX allows.");
    else
        cw_api_reply_json(call, 201, cert_json(res, 0));
}

void create_certificate(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    json_t *body = cw_api_body(call);
    const char *content = cw_body_text(body, "content");
    char id[CW_RECORD_ID_LEN], expires[24], max[24], why[200];
    struct ca_pem ca;
    if (!content) {
        cw_api_fail(call, CW_E_INVALID, "content is missing.");
        return;
    }
    if (ca_pem_read(&ca, content, strlen(content), cw_now_ms(), why, sizeof why) < 0) {
        cw_api_fail(call, CW_E_CERT_BAD, "content: %s.", why);
        return;
    }
    const struct cw_db_param p[] = {
        CW_TEXT(cw_record_id(id)),
        CW_TEXT(cw_body_text(body, "name")),
        CW_TEXT(ca.content),
        CW_TEXT(ca.subject),
        cw_db_int(ca.expires_ms, expires),
        CW_TEXT(ca.fingerprint),
        CW_TEXT(text_of(!json_is_false(json_object_get(body, "check_common_name")))),
        cw_db_int(e->certificates_max, max)
    };
    if (!cw_db_exec(e->db, &stmt_create, CW_ARRAY_LEN(p), p, on_create, call))
        cw_api_no_db(call);
    ca_pem_free(&ca);
}

static void on_list(PGresult *res, void *arg)
{
    if (!cw_api_db_failed(arg, res, "list certificates"))
        answer_page(arg, res, "certificates", cert_json);
}

void list_certificates(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    struct cw_db_param p[3];
    struct page_text t;
    page_params(call, p, &t);
    if (!cw_db_exec(e->db, &stmt_list, CW_ARRAY_LEN(p), p, on_list, call))
        cw_api_no_db(call);
}

static void fail_no_cert(struct cw_api_call *call)
{
    cw_api_fail(call, CW_E_NO_CERT, "Certificate \"%s\".", cw_api_path(call, "cert_id"));
}

static void on_show(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "show a certificate"))
        return;
    if (PQntuples(res) == 0)
        fail_no_cert(call);
    else
        cw_api_reply_json(call, 200, cert_json(res, 0));
}

void show_certificate(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "cert_id")) };
    if (!cw_db_exec(e->db, &stmt_show, 1, p, on_show, call))
        cw_api_no_db(call);
}

static void on_delete(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_db_broke(res, "action_cert")) {
        cw_api_fail(call, CW_E_CERT_IN_USE, "Certificate \"%s\" is used by actions.",
                    cw_api_path(call, "cert_id"));
        return;
    }
    if (cw_api_db_failed(call, res, "delete a certificate"))
        return;
    if (PQntuples(res) == 0)
        fail_no_cert(call);
    else
        cw_api_reply(call, 204, NULL, 0);
}

void delete_certificate(struct cw_api_call *call, void *self)
{
    struct engine *e = self;
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "cert_id")) };
    if (!cw_db_exec(e->db, &stmt_delete, 1, p, on_delete, call))
        cw_api_no_db(call);
}

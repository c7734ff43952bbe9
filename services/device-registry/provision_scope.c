/* Registration groups: a device whose client id names one, and its secret or certificate. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "libcommon/json.h"
#include "services/device-registry/provision.h"
#include "services/device-registry/scopes.h"

enum { CONNACK_PASSWORD = 4, CONNACK_DENIED = 5 };

/* $3: the product that the device id would name. */
static const struct cw_stmt stmt_scope = {
    "provision_scope",
    "SELECT g.scope_id, g.app_id, g.auth_type, g.secret, g.product_id, g.enabled, g.device_limit,"
    " g.registered, g.project_id, d.device_key, d.app_id AS device_app,"
    " (SELECT p.product_id FROM registry.product p WHERE p.app_id = g.app_id"
    "  AND g.product_of_device_id AND p.product_id = $3) AS named_product,"
    " (SELECT x.status FROM registry.device_certificate x WHERE x.app_id = g.app_id"
    "  AND x.fingerprint = $4) AS certificate_status"
    " FROM (SELECT) one LEFT JOIN registry.registration_group g ON g.scope_id = $1"
    " LEFT JOIN registry.device d ON d.device_id = $2"
};
/* One place is taken before the device is registered. If this process dies in between the place is
 * lost: rather one too few. */
static const struct cw_stmt stmt_enter = {
    "provision_enter_scope",
    "UPDATE registry.registration_group SET registered = registered + 1 WHERE scope_id = $1"
    " AND registered < device_limit AND enabled RETURNING 1"
};
static const struct cw_stmt stmt_leave = {
    "provision_leave_scope", "UPDATE registry.registration_group SET registered = registered - 1"
                             " WHERE scope_id = $1 AND registered > 0"
};

void provision_leave_scope(struct provision *p)
{
    cw_db_exec(registry_db(p->r), &stmt_leave, 1, &CW_TEXT(p->scope_id), NULL, NULL);
    free(p->scope_id);
    p->scope_id = NULL;
}

/* What stands before the only underscore, or NULL. From malloc. */
static char *product_part(const char *device_id)
{
    const char *first = strchr(device_id, '_');
    if (!first || first == device_id || !first[1] || strchr(first + 1, '_'))
        return NULL;
    return cw_strndup(device_id, (size_t)(first - device_id));
}

/* ---- the group's own check of a device that is not registered. False: p has ended. */

static bool fits_secret(struct provision *p, const PGresult *res, char derived[CW_DIGEST_HEX_LEN])
{
    char context[SCOPE_CONTEXT_LEN], *secret = NULL;
    size_t len = 0;
    struct login_refusal why;
    struct secret_pair pair = { .primary = derived };
    struct login_device as = { .auth_type = "SECRET" };
    if (cw_unseal(&secret, &len, p->r->seal_key, scope_context(context, p->open->scope_id),
                  cw_db_str(res, 0, "secret")) == 0) {
        scope_device_secret(derived, p->open->device_id, secret, len);
        as.secrets = &pair;
        explicit_bzero(secret, len);
    }
    free(secret);
    login_check(&why, p->open, &as, NULL, cw_now_ms());
    if (!why.connack)
        return true;
    if (strcmp(why.code, "wrong_password") == 0)
        provision_deny(p, CONNACK_PASSWORD, "wrong_group_secret",
                       "Derive the device's secret, hex(HMAC-SHA256(key = device id, message = "
                       "decoded group secret)), and the password of that.",
                       "The password does not belong to the secret of group %s and this device id.",
                       p->open->scope_id);
    else
        provision_refuse(p, &why);
    return false;
}

static bool fits_certificate(struct provision *p, const PGresult *res)
{
    const char *status = cw_db_str(res, 0, "certificate_status");
    trust_check(p->r->trust, &p->verdict, cw_db_str(res, 0, "app_id"), p->open->certificates,
                p->open->n_certificates, cw_now_ms());
    if (!p->open->secure)
        provision_deny(p, CONNACK_DENIED, "needs_tls", "Connect over TLS with the certificate.",
                       "Devices of the group register with a certificate, the connection is not "
                       "encrypted.");
    else if (!p->verdict.fine)
        provision_deny(p, CONNACK_DENIED, p->verdict.code, p->verdict.next_step, "%s",
                       p->verdict.reason);
    else if (status && *status == 'I')
        provision_deny(p, CONNACK_DENIED, "certificate_inactive",
                       "Give the device another certificate, or set this one's status to ACTIVE.",
                       "Somebody has made the certificate (SHA-256 %.16s...) INACTIVE.",
                       p->verdict.sha256);
    else
        return true;
    return false;
}

static bool is_open(struct provision *p, const PGresult *res)
{
    if (*cw_db_str(res, 0, "enabled") != 't')
        provision_deny(p, CONNACK_DENIED, "group_disabled", "Set enabled of the group.",
                       "Registration group %s is not enabled.", p->open->scope_id);
    else if (cw_db_i64(res, 0, "registered", 0) >= cw_db_i64(res, 0, "device_limit", 0))
        provision_deny(p, CONNACK_DENIED, "group_full", "Raise device_limit of the group.",
                       "Registration group %s has registered as many devices as its device_limit "
                       "allows.",
                       p->open->scope_id);
    else
        return true;
    return false;
}

/* ---- the device */

static bool make_device(struct provision *p, const PGresult *res)
{
    const char *named = cw_db_str(res, 0, "named_product"), *id = p->open->device_id,
               *product = named ? named : cw_db_str(res, 0, "product_id");
    bool certificate = *cw_db_str(res, 0, "auth_type") == 'C';
    if (!product) {
        provision_deny(p, CONNACK_DENIED, "provision_no_product",
                       "Give the group a product_id, or the device an id <product id>_<node id>.",
                       "The device id names no product of the space, and group %s has none.",
                       p->open->scope_id);
        return false;
    }
    json_t *auth = json_pack("{s:s, s:b}", "auth_type", certificate ? "CERTIFICATES" : "SECRET",
                             "secure_access", certificate);
    if (certificate)
        json_object_set_new(auth, "fingerprint", json_string(p->verdict.sha256));
    p->device = json_pack("{s:s, s:s, s:s, s:s, s:o}", "device_id", id, "node_id",
                          named ? strchr(id, '_') + 1 : id, "product_id", product, "app_id",
                          cw_db_str(res, 0, "app_id"), "auth_info", auth);
    p->project_id = cw_strdup(cw_db_str(res, 0, "project_id"));
    p->grounds = certificate ? cw_sprintf("certificate %s in registration group %s",
                                          p->verdict.sha256, p->open->scope_id)
                             : cw_sprintf("secret of registration group %s", p->open->scope_id);
    return true;
}

struct entering {
    struct provision *p;
    char secret[CW_DIGEST_HEX_LEN]; /* "": none */
};

static void on_entered(PGresult *res, void *arg)
{
    struct entering e = *(struct entering *)arg;
    struct provision *p = e.p;
    explicit_bzero(arg, sizeof e);
    free(arg);
    if (cw_db_outcome(res) != CW_DB_OK)
        provision_unavailable(p);
    else if (PQntuples(res) == 0)
        provision_deny(p, CONNACK_DENIED, "group_full", "Raise device_limit of the group.",
                       "Registration group %s has registered as many devices as its device_limit "
                       "allows.",
                       p->open->scope_id);
    else {
        p->scope_id = cw_strdup(p->open->scope_id);
        provision_register(p, *e.secret ? e.secret : NULL);
    }
    explicit_bzero(&e, sizeof e);
}

static void enter(struct provision *p, const PGresult *res)
{
    struct entering *e = cw_calloc(1, sizeof *e);
    e->p = p;
    if (!is_open(p, res) ||
        !(*cw_db_str(res, 0, "auth_type") == 'C' ? fits_certificate(p, res)
                                                 : fits_secret(p, res, e->secret)) ||
        !make_device(p, res)) {
        explicit_bzero(e, sizeof *e);
        free(e);
        return;
    }
    if (cw_db_exec(registry_db(p->r), &stmt_enter, 1, &CW_TEXT(p->open->scope_id), on_entered, e))
        return;
    explicit_bzero(e, sizeof *e);
    free(e);
    provision_unavailable(p);
}

static void on_scope(PGresult *res, void *arg)
{
    struct provision *p = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        provision_unavailable(p);
        return;
    }
    p->device_key = cw_db_i64(res, 0, "device_key", 0);
    const char *app = cw_db_str(res, 0, "app_id"), *device_app = cw_db_str(res, 0, "device_app");
    if (!app)
        provision_deny(p, CONNACK_PASSWORD, "unknown_scope",
                       "Use the scope id that the registration group shows.",
                       "No registration group has scope id \"%.36s\".", p->open->scope_id);
    else if (device_app && strcmp(app, device_app) != 0)
        provision_deny(p, CONNACK_DENIED, "scope_of_another_space",
                       "Use a registration group of the device's space.",
                       "The device is registered in another space than group %s.",
                       p->open->scope_id);
    else if (device_app)
        provision_login(p);
    else if (!provision_too_fast(p))
        enter(p, res);
}

void provision_by_scope(struct provision *p)
{
    char *product = product_part(p->open->device_id), fingerprint[65];
    const struct cw_db_param params[] = {
        CW_TEXT(p->open->scope_id), CW_TEXT(p->open->device_id), CW_TEXT(product),
        CW_TEXT(p->open->n_certificates ? trust_fingerprint(fingerprint, &p->open->certificates[0])
                                        : NULL)
    };
    if (!cw_db_exec(registry_db(p->r), &stmt_scope, 4, params, on_scope, p))
        provision_unavailable(p);
    free(product);
}

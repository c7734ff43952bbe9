#include "services/device-registry/provision.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>

#include "libcommon/json.h"
#include "libcommon/metrics.h"
#include "libcommon/validate.h"
#include "proto/routes.h"
#include "services/device-registry/refusals.h"
#include "services/device-registry/subject.h"
#include "services/device-registry/template_body.h"

#define ASK_MS 4000
#define ACTOR  "self-registration" /* what the audit log names as user */

enum { CONNACK_UNAVAILABLE = 3, CONNACK_PASSWORD = 4, CONNACK_DENIED = 5 };

static const struct cw_stmt stmt_template = {
    "provision_template",
    "SELECT c.app_id, c.project_id, t.template_id, t.template_name, t.template_body,"
    " (SELECT x.status FROM registry.device_certificate x WHERE x.app_id = c.app_id"
    "  AND x.fingerprint = $2) AS certificate_status,"
    " (SELECT v FROM json_array_elements_text(t.template_body #> '{resources,policy,policy_ids}') v"
    "  WHERE NOT EXISTS (SELECT FROM registry.device_policy q WHERE q.policy_id = lower(v)"
    "   AND q.app_id = c.app_id) LIMIT 1) AS missing_policy"
    " FROM registry.ca_certificate c LEFT JOIN registry.provisioning_template t USING (template_id)"
    " WHERE c.certificate_id = $1 AND c.provision_enable"
};

static struct {
    struct cw_metric *registered, *refused;
    int64_t due_us; /* when the next may register */
} state;

static void make_stats(void)
{
    if (state.registered)
        return;
    state.registered = cw_counter("causeway_self_registrations_total", "result=\"registered\"",
                                  "Devices that registered themselves, and that could not");
    state.refused = cw_counter("causeway_self_registrations_total", "result=\"refused\"",
                               "Devices that registered themselves, and that could not");
}

/* ---- the end */

static void provision_free(struct provision *p)
{
    cw_app_in_flight(p->r->app, -1);
    if (p->request)
        causeway__session_open_batch__free_unpacked(p->request, NULL);
    json_decref(p->device);
    free(p->reply_to);
    free(p->policies);
    free(p->tags);
    free(p->project_id);
    free(p->grounds);
    free(p->scope_id);
    free(p);
}

static void note(const struct provision *p, const struct login_refusal *why)
{
    const Causeway__SessionOpen *open = p->open;
    char name[128] = "";
    if (open->n_certificates) {
        const unsigned char *der = open->certificates[0].data;
        X509 *cert = d2i_X509(NULL, &der, (long)open->certificates[0].len);
        if (cert)
            subject_text(name, sizeof name, cert, NID_commonName);
        X509_free(cert);
        ERR_clear_error();
    }
    refusals_note(p->r, &(struct refused){ .code = why->code,
                                           .reason = why->reason,
                                           .next_step = why->next_step,
                                           .device_id = open->device_id,
                                           .peer = open->peer,
                                           .common_name = name,
                                           .fingerprint = p->verdict.sha256,
                                           .server_name = open->server_name });
}

void provision_refuse(struct provision *p, const struct login_refusal *why)
{
    Causeway__SessionOpened result = CAUSEWAY__SESSION_OPENED__INIT;
    result.connack = why->connack;
    result.device_key = p->device_key;
    result.code = (char *)why->code;
    result.reason = (char *)why->reason;
    result.next_step = (char *)why->next_step;
    session_answer(p->r, p->reply_to, &result);
    cw_metric_add(state.refused, 1);
    if (!p->device_key)
        note(p, why);
    if (p->scope_id)
        provision_leave_scope(p);
    provision_free(p);
}

void provision_deny(struct provision *p, unsigned connack, const char *code, const char *next_step,
                    const char *fmt, ...)
{
    struct login_refusal why = { .connack = connack, .code = code, .next_step = next_step };
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why.reason, sizeof why.reason, fmt, ap);
    va_end(ap);
    provision_refuse(p, &why);
}

void provision_unavailable(struct provision *p)
{
    provision_deny(p, CONNACK_UNAVAILABLE, "registry_unavailable", "Connect again in a moment.",
                   "PostgreSQL did not answer.");
}

void provision_login(struct provision *p)
{
    Causeway__SessionOpenBatch *request = p->request;
    p->request = NULL;
    sessions_open_final(p->r, request, p->reply_to);
    provision_free(p);
}

/* ---- register: the audit log first, then the device, then how it ended */

static int ask(struct provision *p, const char *service, Causeway__ApiRequest *q,
               const json_t *body, cw_api_answer_fn *cb, void *arg)
{
    struct cw_buf text = { 0 };
    cw_json_write(&text, body);
    q->request_id = p->request_id;
    q->deadline_ms = cw_now_ms() + ASK_MS;
    q->user_name = (char *)ACTOR;
    q->body = (ProtobufCBinaryData){ text.len, (uint8_t *)text.data };
    int rc = cw_api_ask(p->r->app, service, q, cb, arg);
    if (text.data)
        explicit_bzero(text.data, text.len);
    cw_buf_free(&text);
    return rc;
}

static void on_end_written(int rc, const Causeway__ApiReply *reply, void *arg)
{
    (void)reply, (void)arg;
    if (rc < 0)
        cw_log(CW_WARN, "audit_end_lost", "reason=\"%s\"", strerror(-rc));
}

static void audit_end(struct provision *p, int status, const char *error_code)
{
    Causeway__ApiRequest q = CAUSEWAY__API_REQUEST__INIT;
    json_t *body =
        json_pack("{s:[], s:[{s:s, s:i, s:s?, s:s}]}", "begun", "ended", "record_id", p->audit_id,
                  "status", status, "error_code", error_code, "resource_id", p->open->device_id);
    q.operation = (char *)"WriteAudit";
    ask(p, "identity", &q, body, on_end_written, NULL);
    json_decref(body);
}

static void on_added(int rc, const Causeway__ApiReply *reply, void *arg)
{
    struct provision *p = arg;
    struct cw_json_error err;
    json_t *o = rc == 0 ? cw_json_parse(reply->body.data, reply->body.len, &err) : NULL;
    const char *code = cw_json_text(o, "error_code"), *text = cw_json_text(o, "error_msg");
    bool taken = code && strcmp(code, cw_error_row(CW_E_DEVICE_TAKEN)->code) == 0;
    if (rc < 0 || reply->status == 503)
        provision_unavailable(p); /* as far as anybody knows; the device comes again */
    else if (reply->status == 201) {
        cw_metric_add(state.registered, 1);
        cw_log(CW_INFO, "device_registered_itself", "device=%s by=\"%s\"", p->open->device_id,
               p->grounds);
        audit_end(p, 201, NULL);
        provision_login(p);
    } else {
        audit_end(p, (int)reply->status, code);
        if (taken) { /* it came twice at once */
            if (p->scope_id)
                provision_leave_scope(p);
            provision_login(p);
        } else
            provision_deny(p, CONNACK_DENIED, "provision_refused",
                           "Correct what is named in the template, group or certificate.",
                           "The device could not be registered: %s", text ? text : "");
    }
    json_decref(o);
}

static void add(struct provision *p)
{
    Causeway__ApiRequest q = CAUSEWAY__API_REQUEST__INIT;
    Causeway__Pair policies = CAUSEWAY__PAIR__INIT, tags = CAUSEWAY__PAIR__INIT;
    Causeway__Pair *pairs[] = { &policies, &tags };
    policies.name = (char *)"policy_ids";
    policies.value = p->policies ? p->policies : (char *)"";
    tags.name = (char *)"tags";
    tags.value = p->tags ? p->tags : (char *)"";
    q.operation = (char *)"AddDevice";
    q.path = pairs;
    q.n_path = CW_ARRAY_LEN(pairs);
    if (ask(p, "registry", &q, p->device, on_added, p) < 0)
        provision_unavailable(p);
}

static void on_begun(int rc, const Causeway__ApiReply *reply, void *arg)
{
    struct provision *p = arg;
    if (rc < 0 || reply->status != 200)
        provision_deny(p, CONNACK_UNAVAILABLE, "audit_unavailable", "Connect again in a moment.",
                       "The audit log cannot be written; nothing was registered.");
    else
        add(p);
}

static void audit_begin(struct provision *p)
{
    Causeway__ApiRequest q = CAUSEWAY__API_REQUEST__INIT;
    /* the device too: the end of it, which has the resource's id, may be lost */
    char *resource = cw_sprintf("device %s by %s", p->open->device_id, p->grounds);
    json_t *body = json_pack(
        "{s:[{s:s, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}], s:[]}", "begun", "record_id",
        cw_record_id(p->audit_id), "at_ms", (json_int_t)cw_now_ms(), "project_id", p->project_id,
        "user_id", "", "user_name", ACTOR, "peer", p->open->peer, "request_id", p->request_id,
        "operation", "AddDevice", "method", "MQTT", "resource", resource, "ended");
    free(resource);
    q.operation = (char *)"WriteAudit";
    if (ask(p, "identity", &q, body, on_begun, p) < 0)
        provision_unavailable(p);
    json_decref(body);
}

void provision_register(struct provision *p, const char *secret)
{
    struct cw_refusal no;
    bool changed;
    if (cw_validate_body(&no, &changed, cw_route_of("AddDevice")->body, p->device) < 0) {
        provision_deny(p, CONNACK_DENIED, "provision_invalid",
                       "Correct the certificate's subject, the template or the device id.",
                       "The device cannot be registered as it says: %s", no.text);
        return;
    }
    if (secret) /* longer than one that a person may choose */
        json_object_set_new(json_object_get(p->device, "auth_info"), "secret", json_string(secret));
    cw_random_hex(p->request_id, 32);
    audit_begin(p);
}

/* ---- by a certificate and its CA's template */

static void join_policies(struct provision *p, const json_t *ids)
{
    struct cw_buf b = { 0 };
    const json_t *id;
    size_t i;
    json_array_foreach(ids, i, id) cw_buf_printf(&b, "%s%s", i ? "," : "", json_string_value(id));
    p->policies = b.data;
}

/* p->device and what belongs to it. False: p has ended. */
static bool fill(struct provision *p, const json_t *body)
{
    struct login_refusal why = { 0 };
    const unsigned char *der = p->open->certificates[0].data;
    X509 *cert = d2i_X509(NULL, &der, (long)p->open->certificates[0].len);
    p->device = template_device(body, cert, &why);
    X509_free(cert);
    if (p->device)
        return true;
    provision_refuse(p, &why);
    return false;
}

/* False: p has ended. */
static bool is_named_so(struct provision *p)
{
    const char *given = cw_json_text(p->device, "device_id");
    char *id = given ? cw_strdup(given)
                     : cw_sprintf("%s_%s", cw_json_text(p->device, "product_id"),
                                  cw_json_text(p->device, "node_id"));
    bool same = strcmp(id, p->open->device_id) == 0;
    if (!same)
        provision_deny(p, CONNACK_DENIED, "provision_name_mismatch",
                       "Log in with the id that the template makes of the certificate.",
                       "By its certificate and the template the device is \"%.128s\", but it logs "
                       "in as \"%.128s\".",
                       id, p->open->device_id);
    free(id);
    return same;
}

/* False: p has ended. */
static bool allows(struct provision *p, const PGresult *res)
{
    const char *status = cw_db_str(res, 0, "certificate_status");
    if (status && *status == 'I')
        provision_deny(p, CONNACK_DENIED, "certificate_inactive",
                       "Give the device another certificate, or set this one's status to ACTIVE.",
                       "Somebody has made the certificate (SHA-256 %.16s...) INACTIVE.",
                       p->verdict.sha256);
    else if (!cw_db_str(res, 0, "template_id"))
        provision_deny(
            p, CONNACK_DENIED, "provision_no_template", "Bind a provisioning template to the CA.",
            "CA %s registers devices, but no template is bound to it.", p->ca.certificate_id);
    else if (cw_db_str(res, 0, "missing_policy"))
        provision_deny(p, CONNACK_DENIED, "provision_no_policy",
                       "Take the policy out of the template, or make it in the CA's space.",
                       "The template names policy %.36s, which the space has not.",
                       cw_db_str(res, 0, "missing_policy"));
    else
        return true;
    return false;
}

static void on_template(PGresult *res, void *arg)
{
    struct provision *p = arg;
    if (cw_db_outcome(res) != CW_DB_OK) {
        provision_unavailable(p);
        return;
    }
    if (PQntuples(res) == 0) {
        provision_deny(p, CONNACK_DENIED, "provision_disabled", "Connect again in a moment.",
                       "CA %s no longer registers devices.", p->ca.certificate_id);
        return;
    }
    if (!allows(p, res))
        return;
    json_t *body = json_loads(cw_db_str(res, 0, "template_body"), 0, NULL);
    p->project_id = cw_strdup(cw_db_str(res, 0, "project_id"));
    p->grounds = cw_sprintf("certificate %s of CA %s by template %s (%s)", p->verdict.sha256,
                            p->ca.certificate_id, cw_db_str(res, 0, "template_id"),
                            cw_db_str(res, 0, "template_name"));
    join_policies(p, template_policies(body));
    p->tags = template_tags(body) ? json_text(template_tags(body)) : NULL;
    if (fill(p, body) && is_named_so(p)) {
        json_object_set_new(p->device, "app_id", json_string(cw_db_str(res, 0, "app_id")));
        json_object_set_new(p->device, "auth_info",
                            json_pack("{s:s, s:s, s:b}", "auth_type", "CERTIFICATES", "fingerprint",
                                      p->verdict.sha256, "secure_access", 1));
        provision_register(p, NULL);
    }
    json_decref(body);
}

static void by_certificate(struct provision *p)
{
    const Causeway__SessionOpen *open = p->open;
    trust_find(p->r->trust, &p->verdict, &p->ca, open->certificates, open->n_certificates,
               cw_now_ms());
    const struct cw_db_param params[] = { CW_TEXT(p->ca.certificate_id),
                                          CW_TEXT(p->verdict.sha256) };
    if (!p->verdict.fine)
        provision_deny(p, CONNACK_DENIED, p->verdict.code, p->verdict.next_step, "%s",
                       p->verdict.reason);
    else if (!p->ca.provisions)
        provision_deny(p, CONNACK_DENIED, "provision_disabled",
                       "Register the device, or set provision_enable of the CA and bind a template "
                       "to it.",
                       "No device of this id is registered, and CA %s registers none.",
                       p->ca.certificate_id);
    else if (!open->named)
        provision_deny(
            p, CONNACK_DENIED, "provision_server_name",
            "Let the device connect by the platform's name, and send it in TLS (SNI); or "
            "see CAUSEWAY_SERVER_NAMES of mqtt-gateway.",
            *open->server_name
                ? "In TLS the device called the platform \"%.100s\", which is not its "
                  "name."
                : "The device named no server in TLS (SNI)%s.",
            open->server_name);
    else if (!cw_db_exec(registry_db(p->r), &stmt_template, 2, params, on_template, p))
        provision_unavailable(p);
}

/* ---- the beginning */

bool provision_too_fast(struct provision *p)
{
    int64_t now_us = cw_mono_ms() * 1000, each_us = 1000000 / p->r->provision_rate;
    if (state.due_us <= now_us + 1000000) {
        state.due_us = (state.due_us > now_us ? state.due_us : now_us) + each_us;
        return false;
    }
    provision_deny(p, CONNACK_UNAVAILABLE, "provision_rate", "The device connects again.",
                   "More devices want to register themselves than CAUSEWAY_PROVISION_RATE allows "
                   "in a second.");
    return true;
}

void provision_open(const struct cw_bus_msg *msg, void *self)
{
    struct registry *r = self;
    Causeway__SessionOpenBatch *request =
        msg->reply ? causeway__session_open_batch__unpack(NULL, msg->len, msg->data) : NULL;
    if (!request || request->n_opens != 1 || request->deadline_ms <= cw_now_ms()) {
        if (request)
            causeway__session_open_batch__free_unpacked(request, NULL);
        return;
    }
    make_stats();
    struct provision *p = cw_calloc(1, sizeof *p);
    p->r = r;
    p->request = request;
    p->open = request->opens[0];
    p->reply_to = cw_strdup(msg->reply);
    cw_app_in_flight(r->app, 1);
    if (*p->open->scope_id)
        provision_by_scope(p);
    else if (!provision_too_fast(p))
        by_certificate(p);
}

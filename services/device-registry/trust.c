#include "services/device-registry/trust.h"

#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <uthash.h>

#include "libcommon/crypto.h"

#define RELOAD_S  60
#define CHAIN_MAX 5

struct ca {
    UT_hash_handle hh; /* by app_id */
    X509_STORE *store; /* of one space */
    char app_id[];
};

struct trust {
    struct registry *r;
    struct ca *spaces;
    struct event *timer;
    struct cw_db_query *loading;
    struct cw_bus_sub *changes;
    bool again;
};

static const struct cw_stmt stmt_load = {
    "trust_load", "SELECT app_id, content FROM registry.ca_certificate WHERE status"
};

static X509 *read_pem(const char *text)
{
    BIO *bio = BIO_new_mem_buf(text, (int)strlen(text));
    X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    ERR_clear_error();
    return cert;
}

/* ---- loading */

static void forget(struct ca *spaces)
{
    struct ca *next;
    for (struct ca *c = spaces; c; c = next) {
        next = c->hh.next;
        X509_STORE_free(c->store);
        free(c);
    }
}

static struct ca *space_of(struct ca **spaces, const char *app_id)
{
    struct ca *c;
    HASH_FIND_STR(*spaces, app_id, c);
    if (c)
        return c;
    c = cw_calloc(1, sizeof *c + strlen(app_id) + 1);
    strcpy(c->app_id, app_id);
    c->store = X509_STORE_new();
    /* what was uploaded is trusted, also when it is no root */
    X509_STORE_set_flags(c->store, X509_V_FLAG_PARTIAL_CHAIN);
    HASH_ADD_STR(*spaces, app_id, c);
    return c;
}

static void load(struct trust *t);

static void on_loaded(PGresult *res, void *arg)
{
    struct trust *t = arg;
    struct ca *fresh = NULL, *old = t->spaces;
    t->loading = NULL;
    if (cw_db_outcome(res) == CW_DB_OK) {
        for (int row = 0; row < PQntuples(res); row++) {
            X509 *cert = read_pem(cw_db_str(res, row, "content"));
            if (cert)
                X509_STORE_add_cert(space_of(&fresh, cw_db_str(res, row, "app_id"))->store, cert);
            X509_free(cert);
        }
        HASH_CLEAR(hh, t->spaces);
        t->spaces = fresh;
        forget(old);
    }
    if (t->again)
        load(t);
}

static void load(struct trust *t)
{
    t->again = t->loading != NULL;
    if (!t->loading)
        t->loading = cw_db_exec(t->r->logins, &stmt_load, 0, NULL, on_loaded, t);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    load(arg);
}

static void on_change(const struct cw_bus_msg *msg, void *arg)
{
    if (!msg->no_responders)
        load(arg);
}

static void on_db(bool connected, void *arg)
{
    if (connected)
        load(arg);
}

void trust_changed(struct registry *r)
{
    cw_bus_publish(cw_app_bus(r->app), "invalidate.ca", NULL, "", 0);
}

struct trust *trust_open(struct registry *r)
{
    static const struct timeval period = { RELOAD_S, 0 };
    struct trust *t = cw_calloc(1, sizeof *t);
    t->r = r;
    t->changes = cw_bus_subscribe(cw_app_bus(r->app), "invalidate.ca", NULL, on_change, t);
    t->timer = event_new(cw_app_base(r->app), -1, EV_PERSIST, on_timer, t);
    event_add(t->timer, &period);
    cw_db_watch(r->logins, on_db, t);
    return t;
}

void trust_close(struct trust **at)
{
    struct trust *t = *at;
    if (!t)
        return;
    *at = NULL;
    if (t->loading)
        cw_db_cancel(t->loading);
    cw_db_unwatch(t->r->logins, on_db, t);
    cw_bus_unsubscribe(&t->changes);
    event_free(t->timer);
    struct ca *spaces = t->spaces;
    HASH_CLEAR(hh, t->spaces);
    forget(spaces);
    free(t);
}

/* ---- checking */

static void CW_PRINTF(4, 5)
    refuse(struct trust_verdict *out, const char *code, const char *next_step, const char *fmt, ...)
{
    va_list ap;
    out->code = code;
    out->next_step = next_step;
    va_start(ap, fmt);
    vsnprintf(out->reason, sizeof out->reason, fmt, ap);
    va_end(ap);
}

static X509 *read_der(const ProtobufCBinaryData *d)
{
    const unsigned char *p = d->data;
    X509 *cert = d2i_X509(NULL, &p, (long)d->len);
    ERR_clear_error();
    return cert;
}

static void digest(const X509 *cert, const EVP_MD *md, char *hex)
{
    uint8_t raw[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    X509_digest(cert, md, raw, &n);
    cw_hex(hex, raw, n);
}

static void name_text(const X509_NAME *name, char out[120])
{
    X509_NAME_oneline(name, out, 120);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
            *p = '?';
}

static void judge(struct trust_verdict *out, X509 *leaf, int error)
{
    char issuer[120];
    if (error == X509_V_OK) {
        out->fine = true;
        return;
    }
    name_text(X509_get_issuer_name(leaf), issuer);
    if (error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID)
        refuse(out, "certificate_expired", "Give the device a certificate that is valid now.",
               "The certificate: %s.", X509_verify_cert_error_string(error));
    else
        refuse(out, "certificate_untrusted",
               "Upload the CA that issued it to the device's resource space, and verify it.",
               "The certificate, issued by %s: %s.", issuer, X509_verify_cert_error_string(error));
}

static void verify(struct trust_verdict *out, X509_STORE *store, X509 *leaf,
                   STACK_OF(X509) * others, int64_t now_ms)
{
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    X509_STORE_CTX_init(ctx, store, leaf, others);
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(ctx), (time_t)(now_ms / 1000));
    X509_STORE_CTX_set_depth(ctx, CHAIN_MAX);
    int ok = X509_verify_cert(ctx);
    judge(out, leaf, ok == 1 ? X509_V_OK : X509_STORE_CTX_get_error(ctx));
    X509_STORE_CTX_free(ctx);
    ERR_clear_error();
}

static void check_leaf(const struct trust *t, struct trust_verdict *out, const char *app_id,
                       X509 *leaf, const ProtobufCBinaryData *chain, size_t n, int64_t now_ms)
{
    const struct ca *space;
    digest(leaf, EVP_sha256(), out->sha256);
    digest(leaf, EVP_sha1(), out->sha1);
    HASH_FIND_STR(t->spaces, app_id, space);
    if (!space) {
        refuse(out, "no_ca", "Upload the CA that issued it, and verify it.",
               "The device's resource space has no verified CA.");
        return;
    }
    STACK_OF(X509) *others = sk_X509_new_null();
    for (size_t i = 1; i < n && i < CHAIN_MAX; i++) {
        X509 *cert = read_der(&chain[i]);
        if (cert)
            sk_X509_push(others, cert);
    }
    verify(out, space->store, leaf, others, now_ms);
    sk_X509_pop_free(others, X509_free);
}

void trust_check(const struct trust *t, struct trust_verdict *out, const char *app_id,
                 const ProtobufCBinaryData *chain, size_t n, int64_t now_ms)
{
    *out = (struct trust_verdict){ 0 };
    X509 *leaf = n ? read_der(&chain[0]) : NULL;
    if (!n)
        refuse(out, "certificate_missing", "Give the device its certificate and private key.",
               "The device is registered with a certificate, and has shown none.");
    else if (!leaf)
        refuse(out, "certificate_unreadable", "Give the device an X.509 certificate.",
               "What the device has shown is no certificate.");
    else
        check_leaf(t, out, app_id, leaf, chain, n, now_ms);
    X509_free(leaf);
}

/* ---- who has the key of a CA */

static bool has_name(X509 *cert, const char *common_name)
{
    char name[128] = "";
    int n =
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof name);
    return n > 0 && strcmp(name, common_name) == 0;
}

const char *trust_prove(const char *ca_text, const char *proof_text, const char *common_name,
                        int64_t now_ms)
{
    time_t now = (time_t)(now_ms / 1000);
    X509 *ca = read_pem(ca_text), *proof = read_pem(proof_text);
    EVP_PKEY *key = ca ? X509_get0_pubkey(ca) : NULL;
    const char *wrong = NULL;
    if (!proof)
        wrong = "verify_content is no PEM certificate";
    else if (!key || X509_verify(proof, key) != 1)
        wrong = "the certificate was not signed with the key of the CA";
    else if (!has_name(proof, common_name))
        wrong = "the common name of the certificate is not the verify_code";
    else if (X509_cmp_time(X509_get0_notAfter(proof), &now) < 0)
        wrong = "the certificate has expired";
    X509_free(ca);
    X509_free(proof);
    ERR_clear_error();
    return wrong;
}

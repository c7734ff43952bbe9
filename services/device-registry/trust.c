#include "services/device-registry/trust.h"

#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <uthash.h>

#include "libcommon/crypto.h"
#include "libcommon/metrics.h"

#define RELOAD_S  60
#define CHAIN_MAX 5
#define DAY_MS    INT64_C(86400000)
#define NAME_LEN  120

struct ca {
    struct trust_ca row;
    bool verified;
    int64_t expires_ms;
    X509 *cert;
};

/* The verified CAs of one space. */
struct space {
    UT_hash_handle hh; /* by app_id */
    X509_STORE *store;
    char app_id[];
};

/* All that was loaded at once. */
struct cas {
    struct ca *all;
    size_t n;
    struct space *spaces;
    X509_STORE *everywhere; /* verified */
    bool provisions;
};

struct trust {
    struct registry *r;
    struct cas cas;
    struct event *timer;
    struct cw_db_query *loading;
    struct cw_bus_sub *changes;
    int64_t warned_ms; /* when the log was last told of those that end soon */
    bool again;
};

static const struct cw_stmt stmt_load = {
    "trust_load", "SELECT certificate_id, app_id, content, status, provision_enable,"
                  " (extract(epoch FROM expiry) * 1000)::bigint AS expires_ms"
                  " FROM registry.ca_certificate ORDER BY certificate_id"
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

static void forget(struct cas *cas)
{
    struct space *s = cas->spaces, *next;
    HASH_CLEAR(hh, cas->spaces); /* the table itself; its rows keep their order */
    for (; s; s = next) {
        next = s->hh.next;
        X509_STORE_free(s->store);
        free(s);
    }
    for (size_t i = 0; i < cas->n; i++)
        X509_free(cas->all[i].cert);
    X509_STORE_free(cas->everywhere);
    free(cas->all);
    *cas = (struct cas){ 0 };
}

static X509_STORE *store_new(void)
{
    X509_STORE *store = X509_STORE_new();
    /* what was uploaded is trusted, also when it is no root */
    X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
    return store;
}

static struct space *space_of(struct cas *cas, const char *app_id)
{
    struct space *s;
    HASH_FIND_STR(cas->spaces, app_id, s);
    if (s)
        return s;
    s = cw_calloc(1, sizeof *s + strlen(app_id) + 1);
    strcpy(s->app_id, app_id);
    s->store = store_new();
    HASH_ADD_STR(cas->spaces, app_id, s);
    return s;
}

static bool is_true(const PGresult *res, int row, const char *column)
{
    return *cw_db_str(res, row, column) == 't';
}

static void take(struct cas *cas, const PGresult *res, int row)
{
    struct ca *c = &cas->all[cas->n];
    X509 *cert = read_pem(cw_db_str(res, row, "content"));
    if (!cert)
        return;
    *c = (struct ca){ .cert = cert,
                      .verified = is_true(res, row, "status"),
                      .expires_ms = cw_db_i64(res, row, "expires_ms", 0) };
    snprintf(c->row.certificate_id, sizeof c->row.certificate_id, "%s",
             cw_db_str(res, row, "certificate_id"));
    snprintf(c->row.app_id, sizeof c->row.app_id, "%s", cw_db_str(res, row, "app_id"));
    c->row.provisions = c->verified && is_true(res, row, "provision_enable");
    cas->provisions |= c->row.provisions;
    cas->n++;
    if (!c->verified)
        return;
    X509_STORE_add_cert(space_of(cas, c->row.app_id)->store, cert);
    X509_STORE_add_cert(cas->everywhere, cert);
}

/* Said once a day, and in /metrics at any time. */
static void warn(struct trust *t)
{
    static struct cw_metric *soon, *over;
    int64_t now_ms = cw_now_ms();
    bool say = now_ms - t->warned_ms >= DAY_MS;
    int64_t n_soon = 0, n_over = 0;
    if (!soon) {
        soon = cw_gauge("causeway_cas_expiring", NULL, "verified CAs that end within 30 days");
        over = cw_gauge("causeway_cas_expired", NULL, "verified CAs that have ended");
    }
    for (size_t i = 0; i < t->cas.n; i++) {
        const struct ca *c = &t->cas.all[i];
        int64_t left_ms = c->expires_ms - now_ms;
        if (!c->verified || left_ms > EXPIRY_WARNING_MS)
            continue;
        n_over += left_ms <= 0;
        n_soon += left_ms > 0;
        if (say)
            cw_log(CW_WARN, "ca_expires",
                   "certificate=%s space=%s days=%lld todo=\"upload its successor\"",
                   c->row.certificate_id, c->row.app_id, (long long)(left_ms / DAY_MS));
    }
    if (say && n_soon + n_over)
        t->warned_ms = now_ms;
    cw_metric_set(soon, n_soon);
    cw_metric_set(over, n_over);
}

static void load(struct trust *t);

static void on_loaded(PGresult *res, void *arg)
{
    struct trust *t = arg;
    t->loading = NULL;
    if (cw_db_outcome(res) == CW_DB_OK) {
        forget(&t->cas);
        t->cas.all = cw_calloc((size_t)PQntuples(res) + 1, sizeof *t->cas.all);
        t->cas.everywhere = store_new();
        for (int row = 0; row < PQntuples(res); row++)
            take(&t->cas, res, row);
        ERR_clear_error(); /* a CA that two spaces have */
        warn(t);
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
    forget(&t->cas);
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

static char *name_text(const X509_NAME *name, char out[NAME_LEN])
{
    X509_NAME_oneline(name, out, NAME_LEN);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
            *p = '?';
    return out;
}

char *trust_fingerprint(char out[65], const ProtobufCBinaryData *der)
{
    uint8_t raw[CW_DIGEST_LEN];
    cw_sha256(raw, der->data, der->len);
    return cw_hex(out, raw, sizeof raw);
}

/* One question: a certificate, what was sent along, and for which space. */
struct question {
    const struct cas *cas;
    const char *app_id; /* NULL: any */
    X509 *leaf;
    STACK_OF(X509) * others;
    int64_t now_ms;
    int error, depth;
    X509 *at; /* that the error speaks of; owned */
    STACK_OF(X509) * chain;
};

static bool verify(struct question *q, X509_STORE *store)
{
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    X509_STORE_CTX_init(ctx, store, q->leaf, q->others);
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(ctx), (time_t)(q->now_ms / 1000));
    X509_VERIFY_PARAM_set_purpose(X509_STORE_CTX_get0_param(ctx), X509_PURPOSE_SSL_CLIENT);
    X509_STORE_CTX_set_depth(ctx, CHAIN_MAX);
    bool fine = X509_verify_cert(ctx) == 1;
    q->error = fine ? X509_V_OK : X509_STORE_CTX_get_error(ctx);
    q->depth = X509_STORE_CTX_get_error_depth(ctx);
    X509_free(q->at);
    q->at = X509_STORE_CTX_get_current_cert(ctx);
    if (q->at)
        X509_up_ref(q->at);
    sk_X509_pop_free(q->chain, X509_free);
    q->chain = X509_STORE_CTX_get1_chain(ctx);
    X509_STORE_CTX_free(ctx);
    ERR_clear_error();
    return fine;
}

static bool is_here(const struct question *q, const struct ca *c)
{
    return !q->app_id || strcmp(c->row.app_id, q->app_id) == 0;
}

/* The CA that the chain of the last verify() leads to: of those that fit the nearest, rather one
 * that provisions. */
static const struct ca *anchor(const struct question *q, bool verified)
{
    const struct ca *best = NULL;
    for (int i = 0; i < sk_X509_num(q->chain); i++)
        for (size_t k = 0; k < q->cas->n; k++) {
            const struct ca *c = &q->cas->all[k];
            if (c->verified == verified && (!verified || is_here(q, c)) &&
                X509_cmp(c->cert, sk_X509_value(q->chain, i)) == 0 &&
                (!best || (c->row.provisions && !best->row.provisions)))
                best = c;
        }
    return best;
}

/* What people forget, in words. ca: the error is about what issued the certificate. */
static const struct {
    int error;
    bool ca;
    const char *code, *reason, *next_step;
} mistakes[] = {
    { X509_V_ERR_CERT_HAS_EXPIRED, false, "certificate_expired",
      "The device's certificate has expired", "Give the device a certificate that is valid now." },
    { X509_V_ERR_CERT_NOT_YET_VALID, false, "certificate_not_yet_valid",
      "The device's certificate is not valid yet",
      "Wait for its first day, or compare the clock of the CA with the platform's." },
    { X509_V_ERR_CERT_HAS_EXPIRED, true, "ca_expired",
      "The CA of the device's certificate has expired",
      "Upload and verify its successor, and give the device a certificate of that." },
    { X509_V_ERR_CERT_NOT_YET_VALID, true, "ca_not_yet_valid",
      "The CA of the device's certificate is not valid yet",
      "Compare the clock of the CA with the platform's." },
    { X509_V_ERR_INVALID_PURPOSE, false, "certificate_purpose",
      "The device's certificate is not meant for TLS clients",
      "Issue it with extendedKeyUsage clientAuth and keyUsage digitalSignature, or without both." },
    { X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, false, "certificate_self_signed",
      "The device's certificate is signed by itself",
      "Let a CA issue it, and upload and verify that CA." },
    { X509_V_ERR_INVALID_CA, true, "certificate_chain_broken",
      "A certificate that the device sent along is no CA's",
      "Send those along that lead to the CA that was uploaded." },
    { X509_V_ERR_INVALID_PURPOSE, true, "certificate_chain_broken",
      "A certificate that the device sent along must not issue those of TLS clients",
      "Send those along that lead to the CA that was uploaded." },
    { X509_V_ERR_CERT_SIGNATURE_FAILURE, false, "certificate_bad_signature",
      "The device's certificate was changed, or signed with another key than its CA's",
      "Issue it again; after a CA got a new key, upload that one too." },
};

static bool explain_mistake(struct trust_verdict *out, const struct question *q)
{
    char name[NAME_LEN];
    for (size_t i = 0; i < CW_ARRAY_LEN(mistakes); i++)
        if (mistakes[i].error == q->error && mistakes[i].ca == (q->depth > 0)) {
            name_text(X509_get_subject_name(q->at ? q->at : q->leaf), name);
            refuse(out, mistakes[i].code, mistakes[i].next_step, "%s (%s).", mistakes[i].reason,
                   name);
            return true;
        }
    return false;
}

/* With those that nobody has verified, or that other spaces have, would it have been fine? */
static const struct ca *would_be(struct question *q, bool verified)
{
    X509_STORE *store = store_new();
    for (size_t i = 0; i < q->cas->n; i++) {
        const struct ca *c = &q->cas->all[i];
        if (verified ? c->verified : c->verified || is_here(q, c))
            X509_STORE_add_cert(store, c->cert);
    }
    const char *app_id = q->app_id;
    bool fine = verify(q, store);
    q->app_id = verified ? NULL : app_id;
    const struct ca *c = fine ? anchor(q, verified) : NULL;
    q->app_id = app_id;
    X509_STORE_free(store);
    return c;
}

static bool has_name(const struct question *q, const X509_NAME *issuer)
{
    for (size_t i = 0; i < q->cas->n; i++)
        if (is_here(q, &q->cas->all[i]) &&
            X509_NAME_cmp(X509_get_subject_name(q->cas->all[i].cert), issuer) == 0)
            return true;
    return false;
}

/* No CA of the space is at the end of the chain. */
static void explain_unknown(struct trust_verdict *out, struct question *q)
{
    char issuer[NAME_LEN], last[NAME_LEN];
    bool between = q->depth > 0 || sk_X509_num(q->others) > 0;
    const X509_NAME *from = X509_get_issuer_name(q->at ? q->at : q->leaf);
    name_text(from, issuer);
    name_text(X509_get_subject_name(q->at ? q->at : q->leaf), last);
    bool self_signed = q->error == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN;
    bool named = has_name(q, from);
    const struct ca *c;
    if ((c = would_be(q, false)))
        refuse(
            out, "ca_unverified", "Verify the CA: sign a certificate for its verify_code.",
            "The CA that issued it, %s, is uploaded (%s), but nobody has proven to have its key.",
            issuer, c->row.certificate_id);
    else if (q->app_id && (c = would_be(q, true)))
        refuse(out, "ca_of_another_space", "Upload and verify the CA in the device's space too.",
               "The CA that issued it, %s, is verified in space %s, not in the device's.", issuer,
               c->row.app_id);
    else if (named)
        refuse(out, "certificate_bad_signature",
               "Issue it again; after a CA got a new key, upload that one too.",
               "A CA of the name %s is there, but another key has signed %s.", issuer, last);
    else if (between && !self_signed)
        refuse(out, "certificate_chain_broken",
               "Let the device send each certificate between its own and the CA that was uploaded.",
               "The chain that the device sent ends at %s, whose issuer %s is missing.", last,
               issuer);
    else
        refuse(out, "certificate_unknown_ca",
               "Upload the CA that issued it to the device's resource space, and verify it.",
               "The certificate (SHA-256 %.16s...) was issued by %s, which is no CA of the space.",
               out->sha256, issuer);
}

static void explain(struct trust_verdict *out, struct question *q)
{
    char issuer[NAME_LEN];
    if (explain_mistake(out, q))
        return;
    switch (q->error) {
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        explain_unknown(out, q);
        break;
    default:
        name_text(X509_get_issuer_name(q->leaf), issuer);
        refuse(out, "certificate_untrusted", "Issue the certificate again.",
               "The certificate, issued by %s: %s.", issuer,
               X509_verify_cert_error_string(q->error));
    }
}

/* store NULL: the space has no verified CA. */
static void check_leaf(struct trust_verdict *out, struct question *q, X509_STORE *store,
                       const ProtobufCBinaryData *chain, size_t n)
{
    digest(q->leaf, EVP_sha256(), out->sha256);
    digest(q->leaf, EVP_sha1(), out->sha1);
    q->others = sk_X509_new_null();
    for (size_t i = 1; i < n && i < CHAIN_MAX; i++) {
        X509 *cert = read_der(&chain[i]);
        if (cert)
            sk_X509_push(q->others, cert);
    }
    const struct ca *unverified = store ? NULL : would_be(q, false);
    if (!store && !unverified)
        refuse(out, "no_ca", "Upload the CA that issued it, and verify it.",
               "The device's resource space has no verified CA.");
    else if (store && verify(q, store))
        out->fine = true;
    else if (store)
        explain(out, q);
    else
        explain_unknown(out, q);
    sk_X509_pop_free(q->others, X509_free);
}

static void check(const struct trust *t, struct trust_verdict *out, const char *app_id,
                  struct trust_ca *ca, const ProtobufCBinaryData *chain, size_t n, int64_t now_ms)
{
    struct space *space = NULL;
    struct question q = { .cas = &t->cas, .app_id = app_id, .now_ms = now_ms };
    *out = (struct trust_verdict){ 0 };
    q.leaf = n ? read_der(&chain[0]) : NULL;
    if (app_id)
        HASH_FIND_STR(t->cas.spaces, app_id, space);
    if (!n)
        refuse(out, "certificate_missing", "Give the device its certificate and private key.",
               "The device is registered with a certificate, and has shown none.");
    else if (!q.leaf)
        refuse(out, "certificate_unreadable", "Give the device an X.509 certificate.",
               "What the device has shown is no certificate.");
    else
        check_leaf(out, &q, app_id ? (space ? space->store : NULL) : t->cas.everywhere, chain, n);
    const struct ca *found = ca && out->fine ? anchor(&q, true) : NULL;
    if (found)
        *ca = found->row;
    sk_X509_pop_free(q.chain, X509_free);
    X509_free(q.at);
    X509_free(q.leaf);
}

void trust_check(const struct trust *t, struct trust_verdict *out, const char *app_id,
                 const ProtobufCBinaryData *chain, size_t n, int64_t now_ms)
{
    check(t, out, app_id, NULL, chain, n, now_ms);
}

void trust_find(const struct trust *t, struct trust_verdict *out, struct trust_ca *ca,
                const ProtobufCBinaryData *chain, size_t n, int64_t now_ms)
{
    *ca = (struct trust_ca){ 0 };
    check(t, out, NULL, ca, chain, n, now_ms);
}

bool trust_provisions(const struct trust *t) { return t->cas.provisions; }

/* ---- who has the key of a CA */

static bool has_common_name(X509 *cert, const char *common_name)
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
    else if (!has_common_name(proof, common_name))
        wrong = "the common name of the certificate is not the verify_code";
    else if (X509_cmp_time(X509_get0_notAfter(proof), &now) < 0)
        wrong = "the certificate has expired";
    X509_free(ca);
    X509_free(proof);
    ERR_clear_error();
    return wrong;
}

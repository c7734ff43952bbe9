#include "libcommon/facts.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "libcommon/app_internal.h"
#include "libcommon/clock.h"
#include "libcommon/crypto.h"
#include "libcommon/json.h"

#define SUBJECT "facts.ask"

struct cw_facts {
    struct cw_app *app;
    char *reply;
    json_t *answer, *settings, *listeners;
};

void cw_facts_set(struct cw_facts *f, const char *name, json_t *take)
{
    json_object_set_new(f->answer, name, take);
}

/* ---- settings and how much of them is used */

static json_t *find_setting(const struct cw_facts *f, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "CAUSEWAY_%s", name);
    json_t *s = cw_json_find(f->settings, "setting", full);
    if (!s)
        abort(); /* a mistake in a table */
    return s;
}

void cw_facts_used(struct cw_facts *f, const char *setting, int64_t used, const char *at_limit)
{
    json_t *s = find_setting(f, setting);
    json_object_set_new(s, "used", json_integer(used));
    json_object_set_new(s, "at_limit", json_string(at_limit));
}

static const char *unit(enum cw_option_type type)
{
    return type == CW_OPT_MS ? "ms" : type == CW_OPT_BYTES ? "bytes" : "count";
}

static void add_settings(struct cw_facts *f, const struct cw_option *o, const void *self)
{
    for (; o && o->name; o++)
        if (o->type == CW_OPT_INT || o->type == CW_OPT_MS || o->type == CW_OPT_BYTES) {
            const void *at = (const char *)self + o->offset;
            char *name = cw_sprintf("CAUSEWAY_%s", o->name);
            json_array_append_new(f->settings,
                                  json_pack("{s:s, s:I, s:s, s:s}", "setting", name, "value",
                                            (json_int_t) * (const int64_t *)at, "unit",
                                            unit(o->type), "meaning", o->help));
            free(name);
        }
}

/* ---- TLS */

static json_t *tls_versions(SSL_CTX *tls)
{
    static const struct {
        int version;
        const char *name;
    } known[] = { { TLS1_VERSION, "TLSv1" },
                  { TLS1_1_VERSION, "TLSv1.1" },
                  { TLS1_2_VERSION, "TLSv1.2" },
                  { TLS1_3_VERSION, "TLSv1.3" } };
    long least = SSL_CTX_get_min_proto_version(tls), most = SSL_CTX_get_max_proto_version(tls);
    json_t *list = json_array();
    for (size_t i = 0; i < CW_ARRAY_LEN(known); i++)
        if (known[i].version >= least && (!most || known[i].version <= most))
            json_array_append_new(list, json_string(known[i].name));
    return list;
}

/* A suite of TLS 1.2 and before needs a key of its kind, and one with DHE parameters that nobody
 * here sets. */
static bool can_serve(const SSL_CIPHER *c, int key)
{
    int auth = SSL_CIPHER_get_auth_nid(c);
    return auth == NID_auth_any ||
           (auth == NID_auth_rsa && key == EVP_PKEY_RSA &&
            SSL_CIPHER_get_kx_nid(c) != NID_kx_dhe) ||
           (auth == NID_auth_ecdsa && key == EVP_PKEY_EC);
}

static json_t *tls_suites(SSL_CTX *tls)
{
    json_t *list = json_array();
    SSL *ssl = SSL_new(tls);
    EVP_PKEY *key = SSL_CTX_get0_privatekey(tls);
    STACK_OF(SSL_CIPHER) *all = ssl ? SSL_get1_supported_ciphers(ssl) : NULL;
    for (int i = 0; key && i < sk_SSL_CIPHER_num(all); i++) {
        const SSL_CIPHER *c = sk_SSL_CIPHER_value(all, i);
        if (can_serve(c, EVP_PKEY_get_base_id(key)))
            json_array_append_new(list, json_string(SSL_CIPHER_get_name(c)));
    }
    sk_SSL_CIPHER_free(all);
    SSL_free(ssl);
    return list;
}

static void add_time(json_t *to, const char *name, const ASN1_TIME *t)
{
    struct tm tm;
    char text[32];
    if (ASN1_TIME_to_tm(t, &tm) == 1 && strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", &tm))
        json_object_set_new(to, name, json_string(text));
}

static void add_name(json_t *to, const char *name, const X509_NAME *n)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *text;
    if (!bio)
        abort(); /* out of memory */
    X509_NAME_print_ex(bio, n, 0, XN_FLAG_RFC2253);
    long len = BIO_get_mem_data(bio, &text);
    json_object_set_new(to, name, json_stringn(text, (size_t)len));
    BIO_free(bio);
}

static json_t *alt_names(const X509 *cert)
{
    json_t *list = json_array();
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
        if (n->type == GEN_DNS)
            json_array_append_new(list,
                                  json_stringn((const char *)ASN1_STRING_get0_data(n->d.dNSName),
                                               (size_t)ASN1_STRING_length(n->d.dNSName)));
        else if (n->type == GEN_IPADD) {
            int family = ASN1_STRING_length(n->d.iPAddress) == 4 ? AF_INET : AF_INET6;
            char ip[INET6_ADDRSTRLEN] = "";
            if (family == AF_INET || ASN1_STRING_length(n->d.iPAddress) == 16)
                inet_ntop(family, ASN1_STRING_get0_data(n->d.iPAddress), ip, sizeof ip);
            json_array_append_new(list, json_string(ip));
        }
    }
    GENERAL_NAMES_free(names);
    return list;
}

static json_t *certificate(const X509 *cert)
{
    json_t *o = json_object();
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    add_name(o, "subject", X509_get_subject_name(cert));
    add_name(o, "issuer", X509_get_issuer_name(cert));
    json_object_set_new(o, "names", alt_names(cert));
    add_time(o, "effective_date", X509_get0_notBefore(cert));
    add_time(o, "expiry_date", X509_get0_notAfter(cert));
    if (X509_digest(cert, EVP_sha256(), hash, &n) == 1) {
        char hex[2 * EVP_MAX_MD_SIZE + 1];
        cw_hex(hex, hash, n);
        json_object_set_new(o, "fingerprint", json_string(hex));
    }
    return o;
}

void cw_facts_listener(struct cw_facts *f, const char *protocol, const char *address, int64_t port,
                       struct ssl_ctx_st *tls)
{
    json_t *o = json_pack("{s:s, s:s, s:I}", "protocol", protocol, "address", address, "port",
                          (json_int_t)port);
    if (tls)
        json_object_set_new(o, "tls",
                            json_pack("{s:o, s:o, s:o}", "versions", tls_versions(tls), "suites",
                                      tls_suites(tls), "certificate",
                                      certificate(SSL_CTX_get0_certificate(tls))));
    json_array_append_new(f->listeners, o);
}

/* ---- question and answer */

static void facts_end(struct cw_facts *f)
{
    struct cw_app *app = f->app;
    struct cw_buf b = { 0 };
    cw_json_write(&b, f->answer);
    if (cw_bus_publish(app->bus, f->reply, NULL, b.data, b.len) < 0)
        cw_log(CW_DEBUG, "facts_unheard", "to=%s", f->reply); /* the asker's time runs out */
    cw_buf_free(&b);
    json_decref(f->answer);
    free(f->reply);
    free(f);
    cw_app_in_flight(app, -1);
}

static void on_used(PGresult *res, void *arg)
{
    struct cw_facts *f = arg;
    if (cw_db_outcome(res) == CW_DB_OK)
        for (const struct cw_facts_use *u = f->app->svc->uses; u->setting; u++) {
            const struct cw_error_row *e = cw_error_row(u->at_limit);
            char *text = u->then ? cw_strdup(u->then)
                                 : cw_sprintf("refused with %s, %d", e->code, e->status);
            char *used = PQgetvalue(res, 0, (int)(u - f->app->svc->uses));
            cw_facts_used(f, u->setting, strtoll(used, NULL, 10), text);
            free(text);
        }
    else
        cw_facts_set(f, "trouble", json_string("PostgreSQL does not say how much is used"));
    facts_end(f);
}

static void ask_uses(struct cw_facts *f)
{
    struct cw_buf sql = { 0 };
    for (const struct cw_facts_use *u = f->app->svc->uses; u->setting; u++)
        cw_buf_printf(&sql, "%s (%s)", sql.len ? "," : "SELECT", u->sql);
    if (!cw_db_query(f->app->db, sql.data, on_used, f))
        on_used(NULL, f);
    cw_buf_free(&sql);
}

static void on_ask(const struct cw_bus_msg *msg, void *arg)
{
    struct cw_app *app = arg;
    char started[CW_TIME_LEN];
    if (!msg->reply || app->draining || !app->started)
        return;
    struct cw_facts *f = cw_calloc(1, sizeof *f);
    f->app = app;
    f->reply = cw_strdup(msg->reply);
    f->settings = json_array();
    f->listeners = json_array();
    f->answer =
        json_pack("{s:s, s:s, s:s, s:b, s:o, s:o}", "daemon", app->svc->name, "instance", app->name,
                  "started", cw_time_basic(started, (int64_t)app->boot), "strict", app->set.strict,
                  "settings", f->settings, "listeners", f->listeners);
    cw_app_in_flight(app, 1);
    add_settings(f, app->svc->options, app->svc->self);
    if (app->svc->facts)
        app->svc->facts(f, app->svc->self);
    if (app->svc->uses)
        ask_uses(f);
    else
        facts_end(f);
}

void cw_facts_serve(struct cw_app *app) { cw_bus_subscribe(app->bus, SUBJECT, NULL, on_ask, app); }

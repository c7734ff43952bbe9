#include "services/mqtt-gateway/handshake.h"

#include <openssl/err.h>
#include <stdlib.h>

#include "libcommon/crypto.h"

#define SUBJECT       "api.registry.refused"
#define TOLD_A_SECOND 20
#define NAME_LEN      128

#define TRUST "Give the device the platform's CA (CAUSEWAY_CA_FILE), and let its clock be right."

static const struct {
    int reason;
    struct handshake_fault fault;
} faults[] = {
    { SSL_R_BAD_SIGNATURE,
      { "tls_key_mismatch",
        "The device's private key is not the one of the certificate that it shows.",
        "Give the device the key that belongs to its certificate." } },
    { SSL_R_NO_SHARED_CIPHER,
      { "tls_no_common_suite", "The device offers no cipher suite that the platform takes.",
        "Let the device offer ECDHE with AES-GCM; very old ones use CAUSEWAY_MQTTS11_PORT." } },
    { SSL_R_UNSUPPORTED_PROTOCOL,
      { "tls_version", "The device speaks a version of TLS that the platform does not take.",
        "Let it speak TLS 1.2 or 1.3; very old ones use CAUSEWAY_MQTTS11_PORT." } },
    { SSL_R_WRONG_VERSION_NUMBER,
      { "tls_not_tls", "What came on the TLS port was no TLS.",
        "Connect with TLS, or to the port without it." } },
    { SSL_R_HTTP_REQUEST,
      { "tls_not_tls", "What came on the TLS port was no TLS.",
        "Connect with TLS, or to the port without it." } },
};

/* Alerts: what the device says when it ends the handshake (RFC 8446, 6.2). */
static const struct {
    int alert;
    struct handshake_fault fault;
} alerts[] = {
    { SSL_AD_UNKNOWN_CA,
      { "tls_alert_unknown_ca", "The device does not know the CA of the platform's certificate.",
        TRUST } },
    { SSL_AD_CERTIFICATE_EXPIRED,
      { "tls_alert_certificate_expired", "To the device the platform's certificate has expired.",
        TRUST } },
    { SSL_AD_CERTIFICATE_UNKNOWN,
      { "tls_alert_certificate_unknown", "The device does not take the platform's certificate.",
        TRUST } },
    { SSL_AD_BAD_CERTIFICATE,
      { "tls_alert_bad_certificate",
        "The device does not take the platform's certificate: name or "
        "signature do not fit.",
        TRUST } },
    { SSL_AD_HANDSHAKE_FAILURE,
      { "tls_alert_handshake_failure",
        "The device could not agree with the platform on the TLS "
        "parameters.",
        "Look at the versions and suites that the device's TLS takes." } },
    { SSL_AD_PROTOCOL_VERSION,
      { "tls_alert_protocol_version",
        "The device does not speak the versions of TLS that the "
        "platform speaks.",
        "Let it speak TLS 1.2 or 1.3; very old ones use CAUSEWAY_MQTTS11_PORT." } },
};

struct handshake_fault handshake_fault(unsigned long error)
{
    int reason = ERR_GET_REASON(error);
    const char *text = ERR_reason_error_string(error);
    for (size_t i = 0; i < CW_ARRAY_LEN(faults); i++)
        if (faults[i].reason == reason)
            return faults[i].fault;
    for (size_t i = 0; i < CW_ARRAY_LEN(alerts); i++)
        if (alerts[i].alert + SSL_AD_REASON_OFFSET == reason)
            return alerts[i].fault;
    if (reason > SSL_AD_REASON_OFFSET)
        return (struct handshake_fault){ "tls_alert", text ? text : "The device ended it.",
                                         "Look at the log of the device's TLS." };
    return (struct handshake_fault){ "tls_failed", text ? text : "The handshake failed.",
                                     "Look at the log of the device's TLS." };
}

static bool may_tell(void)
{
    static int64_t second;
    static unsigned told;
    int64_t now = cw_mono_ms() / 1000;
    if (now != second) {
        second = now;
        told = 0;
    }
    return told++ < TOLD_A_SECOND;
}

static void describe(Causeway__RefusedConnection *m, X509 *cert, char name[NAME_LEN],
                     char fingerprint[2 * EVP_MAX_MD_SIZE + 1])
{
    uint8_t raw[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    int len =
        X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, NAME_LEN);
    X509_digest(cert, EVP_sha256(), raw, &n);
    m->fingerprint = cw_hex(fingerprint, raw, n);
    if (len > 0 && cw_utf8_valid(name, strlen(name)))
        m->common_name = name;
}

static void tell(struct conn *c, const struct handshake_fault *f)
{
    Causeway__RefusedConnection m = CAUSEWAY__REFUSED_CONNECTION__INIT;
    char peer[PEER_LEN], name[NAME_LEN], fingerprint[2 * EVP_MAX_MD_SIZE + 1];
    const char *server = SSL_get_servername(c->ssl, TLSEXT_NAMETYPE_host_name);
    X509 *cert = SSL_get0_peer_certificate(c->ssl);
    m.code = (char *)f->code;
    m.reason = (char *)f->reason;
    m.next_step = (char *)f->next_step;
    m.peer = conn_peer(c, peer);
    if (server && cw_utf8_valid(server, strlen(server)))
        m.server_name = (char *)server;
    if (cert)
        describe(&m, cert, name, fingerprint);
    uint8_t *packed = cw_malloc(causeway__refused_connection__get_packed_size(&m) + 1);
    cw_bus_publish(c->gw->bus, SUBJECT, NULL, packed,
                   causeway__refused_connection__pack(&m, packed));
    free(packed);
}

void handshake_failed(struct conn *c, int e)
{
    if (e != SSL_ERROR_SSL) /* it went away: nothing to be told */
        return;
    struct handshake_fault f = handshake_fault(ERR_peek_error());
    cw_metric_add(c->gw->m.handshakes_failed, 1);
    if (may_tell())
        tell(c, &f);
}

#include "libcommon/ca_pem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "libcommon/crypto.h"

static char *bio_text(BIO *bio)
{
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    return cw_strndup(data, (size_t)len);
}

static int64_t time_ms(const ASN1_TIME *t)
{
    struct tm tm = { 0 };
    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) * 1000 : -1;
}

/* The certificates in text; *key when there is a private key among them. */
static X509 *read_all(const char *text, size_t len, int *n, bool *key)
{
    BIO *bio = BIO_new_mem_buf(text, (int)len);
    X509 *first = NULL;
    char *name, *header;
    unsigned char *data;
    long size;
    while (PEM_read_bio(bio, &name, &header, &data, &size) == 1) {
        const unsigned char *p = data;
        *key |= strstr(name, "PRIVATE KEY") != NULL;
        if (strcmp(name, PEM_STRING_X509) == 0 || strcmp(name, PEM_STRING_X509_OLD) == 0) {
            X509 *cert = d2i_X509(NULL, &p, size);
            *n += 1;
            if (!first)
                first = cert;
            else
                X509_free(cert);
        }
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_clear_free(data, (size_t)size);
    }
    BIO_free(bio);
    ERR_clear_error();
    return first;
}

static const char *fault(X509 *cert, int n, bool key, int64_t now_ms)
{
    if (key)
        return "It holds a private key: keep that to yourself and send the certificate alone";
    if (n == 0)
        return "It holds no PEM certificate (-----BEGIN CERTIFICATE-----)";
    if (n > 1)
        return "It holds several certificates; send the CA's alone";
    if (!cert)
        return "The certificate between the PEM lines cannot be read; was it cut off?";
    if (X509_check_ca(cert) == 0)
        return "It is not the certificate of a CA (basicConstraints CA:TRUE); send the one that "
               "issued the server's certificate";
    if (time_ms(X509_get0_notAfter(cert)) <= now_ms)
        return "It has expired";
    return NULL;
}

static char *name_part(X509 *cert, int nid)
{
    X509_NAME *name = X509_get_subject_name(cert);
    unsigned char *utf8 = NULL;
    int at = X509_NAME_get_index_by_NID(name, nid, -1);
    int n = at < 0 ? -1
                   : ASN1_STRING_to_UTF8(&utf8,
                                         X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
    char *text = cw_strndup(n > 0 ? (const char *)utf8 : "", n > 0 ? (size_t)n : 0);
    OPENSSL_free(utf8);
    return text;
}

static void describe(struct ca_pem *out, X509 *cert)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    BIO *subject = BIO_new(BIO_s_mem()), *pem = BIO_new(BIO_s_mem());
    X509_NAME_print_ex(subject, X509_get_subject_name(cert), 0,
                       XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
    PEM_write_bio_X509(pem, cert);
    X509_digest(cert, EVP_sha256(), digest, &len);
    out->subject = bio_text(subject);
    out->content = bio_text(pem);
    out->common_name = name_part(cert, NID_commonName);
    out->organization = name_part(cert, NID_organizationName);
    out->begins_ms = time_ms(X509_get0_notBefore(cert));
    out->expires_ms = time_ms(X509_get0_notAfter(cert));
    cw_hex(out->fingerprint, digest, CW_DIGEST_LEN);
    BIO_free(subject);
    BIO_free(pem);
}

int ca_pem_read(struct ca_pem *out, const char *text, size_t len, int64_t now_ms, char *why,
                size_t size)
{
    int n = 0;
    bool key = false;
    X509 *cert = read_all(text, len, &n, &key);
    const char *wrong = fault(cert, n, key, now_ms);
    if (wrong)
        snprintf(why, size, "%s", wrong);
    else
        describe(out, cert);
    X509_free(cert);
    return wrong ? -EINVAL : 0;
}

void ca_pem_free(struct ca_pem *ca)
{
    free(ca->content);
    free(ca->subject);
    free(ca->common_name);
    free(ca->organization);
}

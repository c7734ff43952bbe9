#include "services/device-registry/subject.h"

#include <stdio.h>
#include <string.h>

#include <openssl/bn.h>

char *subject_text(char *out, size_t size, const X509 *cert, int nid)
{
    X509_NAME *name = X509_get_subject_name(cert);
    unsigned char *utf8 = NULL;
    int at = X509_NAME_get_index_by_NID(name, nid, -1);
    X509_NAME_ENTRY *entry = at < 0 ? NULL : X509_NAME_get_entry(name, at);
    int n = entry ? ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(entry)) : 0;
    /* what hides behind a NUL is no name */
    size_t len = utf8 && n > 0 ? strnlen((char *)utf8, (size_t)n) : 0;
    out[0] = '\0';
    if (utf8) {
        if (len >= size)
            for (len = size - 1; len && (utf8[len] & 0xc0) == 0x80;)
                len--;
        memcpy(out, utf8, len);
        out[len] = '\0';
    }
    OPENSSL_free(utf8);
    return out;
}

char *subject_serial(char *out, size_t size, const X509 *cert)
{
    BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
    char *hex = n ? BN_bn2hex(n) : NULL;
    snprintf(out, size, "%s", hex ? hex : "");
    for (char *p = out; *p; p++)
        if (*p >= 'A' && *p <= 'F')
            *p = (char)(*p + 32);
    OPENSSL_free(hex);
    BN_free(n);
    return out;
}

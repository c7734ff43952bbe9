/* subject.h - what the subject of a certificate says. No I/O. */
#pragma once

#include <stddef.h>

#include <openssl/x509.h>

/* A part of it (NID_commonName) as UTF-8, cut to size between characters; "" without. Returns out.
 */
char *subject_text(char *out, size_t size, const X509 *cert, int nid);
/* The certificate's own serial number in lower-case hex, cut to size. Returns out. */
char *subject_serial(char *out, size_t size, const X509 *cert);

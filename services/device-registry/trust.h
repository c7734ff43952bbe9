/* trust.h - the CAs that devices with a certificate are checked against, and that check
 * (docs/protocol/mqtt-login.md). The CAs of all spaces are kept in memory: there are at most 100.
 */
#pragma once

#include "services/device-registry/registry.h"

/* What a device's certificate is. */
struct trust_verdict {
    bool fine;
    const char *code, *next_step; /* when it is not */
    char reason[LOGIN_REASON_LEN];
    char sha256[65], sha1[41]; /* of the leaf, lower-case hex; "" unless it could be read */
};

/* A verified CA. */
struct trust_ca {
    char certificate_id[CW_RECORD_ID_LEN], app_id[40];
    bool provisions; /* registers devices that nobody has registered */
};

/* Loads them now, each minute, and when one is told to have changed. */
struct trust *trust_open(struct registry *r);
void trust_close(struct trust **t); /* NULL is fine */
/* After the commit: all instances load them again. */
void trust_changed(struct registry *r);

/* chain: the device's certificate first, then what it sent along, DER. app_id: the device's space,
 * whose CAs count. */
void trust_check(const struct trust *t, struct trust_verdict *out, const char *app_id,
                 const ProtobufCBinaryData *chain, size_t n, int64_t now_ms);
/* The same for a device that is not registered: the CAs of all spaces count. When it is fine, ca is
 * the one that it leads to, of several the one that provisions and is the nearest. */
void trust_find(const struct trust *t, struct trust_verdict *out, struct trust_ca *ca,
                const ProtobufCBinaryData *chain, size_t n, int64_t now_ms);
/* Is there any CA that registers devices? */
bool trust_provisions(const struct trust *t);
/* The SHA-256 of a DER certificate, lower-case hex. */
char *trust_fingerprint(char out[65], const ProtobufCBinaryData *der);
/* The certificate in a PEM text was issued by the CA (PEM) and has this common name. NULL, or what
 * is wrong, for a person. */
const char *trust_prove(const char *ca, const char *proof, const char *common_name, int64_t now_ms);

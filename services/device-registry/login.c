/* What a CONNECT is told, and why (docs/protocol/mqtt-login.md). No I/O. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "libcommon/crypto.h"
#include "services/device-registry/trust.h"

enum { CONNACK_CLIENT_ID = 2, CONNACK_UNAVAILABLE = 3, CONNACK_PASSWORD = 4, CONNACK_DENIED = 5 };

/* The hour that a device's clock may lie behind and before ours. Two ahead: a device SDK adds one
 * to the hour when its digest would contain a zero byte. */
#define HOURS_BEHIND 1
#define HOURS_AHEAD  2

static void CW_PRINTF(5, 6) refuse(struct login_refusal *out, unsigned connack, const char *code,
                                   const char *next_step, const char *fmt, ...)
{
    va_list ap;
    out->connack = connack;
    out->code = code;
    out->next_step = next_step;
    va_start(ap, fmt);
    vsnprintf(out->reason, sizeof out->reason, fmt, ap);
    va_end(ap);
}

static bool ten_digits(const char *s) { return strlen(s) == 10 && strspn(s, "0123456789") == 10; }

static int digits(const char *s, int n)
{
    int v = 0;
    while (n--)
        v = 10 * v + (*s++ - '0');
    return v;
}

/* Hours since 1970 of YYYYMMDDHH. Never refused as a date: hour 24 is the next day's 0, since some
 * devices count the number itself up. */
static int64_t hours_of(const char *timestamp)
{
    struct tm t = { .tm_year = digits(timestamp, 4) - 1900,
                    .tm_mon = digits(timestamp + 4, 2) - 1,
                    .tm_mday = digits(timestamp + 6, 2),
                    .tm_hour = digits(timestamp + 8, 2) };
    return timegm(&t) / 3600;
}

/* The lengths and the case of the letters are no secret; the rest is compared in constant time. */
static bool same_digest(const char *given, const char *right)
{
    char lower[CW_DIGEST_HEX_LEN];
    size_t n = strlen(given);
    if (n != CW_DIGEST_HEX_LEN - 1)
        return false;
    for (size_t i = 0; i <= n; i++)
        lower[i] = (char)(given[i] >= 'A' && given[i] <= 'F' ? given[i] + 32 : given[i]);
    return cw_equal(lower, n, right, n);
}

static bool opens(const char *secret, const Causeway__SessionOpen *open)
{
    char right[CW_DIGEST_HEX_LEN];
    return secret &&
           same_digest(open->password, cw_device_password(right, secret, open->timestamp));
}

/* The mistakes that people make, told apart; only after the password has been refused. */
static void wrong_password(struct login_refusal *out, const Causeway__SessionOpen *open,
                           const char *secret)
{
    static const char next[] = "Compute hex(HMAC-SHA256(key = the ten digits of the client id, "
                               "message = the device's secret).";
    uint8_t raw[CW_DIGEST_LEN];
    char hex[CW_DIGEST_HEX_LEN];
    if (secret && strcmp(open->password, secret) == 0)
        refuse(out, CONNACK_PASSWORD, "password_is_secret", next,
               "The device sent its secret itself instead of the digest.");
    else if (!*open->password)
        refuse(out, CONNACK_PASSWORD, "no_password", next, "The device sent no password.");
    else if (secret) {
        cw_hmac_sha256(raw, secret, strlen(secret), open->timestamp, strlen(open->timestamp));
        if (same_digest(open->password, cw_hex(hex, raw, sizeof raw)))
            refuse(out, CONNACK_PASSWORD, "password_swapped", next,
                   "Key and message of the HMAC are swapped.");
    }
    if (out->connack)
        return;
    if (strlen(open->password) != CW_DIGEST_HEX_LEN - 1)
        refuse(out, CONNACK_PASSWORD, "wrong_password", next,
               "The password has %zu characters; a digest in hex has 64.", strlen(open->password));
    else
        refuse(out, CONNACK_PASSWORD, "wrong_password",
               "Compare the device's secret with the one that the API shows, or reset it; the key "
               "of the HMAC is the timestamp of the client id.",
               "The password does not belong to the device's secret and timestamp %s.",
               open->timestamp);
}

static void check_clock(struct login_refusal *out, const Causeway__SessionOpen *open,
                        int64_t now_ms)
{
    int64_t off = hours_of(open->timestamp) - now_ms / 3600000;
    char now[CW_TIME_LEN];
    if (open->sign_type == 0 || (off >= -HOURS_BEHIND && off <= HOURS_AHEAD))
        return;
    refuse(
        out, CONNACK_PASSWORD, "stale_timestamp",
        "Set the device's clock to UTC, or use sign type 0, which is not compared with the clock.",
        "Timestamp %s is %" PRId64 " hours %s the platform's clock (%s); sign type 1 allows %d "
        "behind to %d ahead.",
        open->timestamp, off < 0 ? -off : off, off < 0 ? "behind" : "ahead of",
        cw_time_basic(now, now_ms), HOURS_BEHIND, HOURS_AHEAD);
}

static void check_state(struct login_refusal *out, const Causeway__SessionOpen *open,
                        const struct login_device *device)
{
    if (device->frozen)
        refuse(out, CONNACK_DENIED, "frozen", "Unfreeze the device.", "The device is frozen.");
    else if (device->child)
        refuse(out, CONNACK_DENIED, "not_direct",
               "Connect its gateway, or register it without one.",
               "The device is registered below a gateway.");
    else if (device->secure_access && !open->secure)
        refuse(out, CONNACK_DENIED, "needs_tls", "Connect over TLS, or set secure_access to false.",
               "The device has secure_access, the connection is not encrypted.");
}

static bool is_fingerprint(const char *known, const struct trust_verdict *v)
{
    return known && (strcasecmp(known, v->sha256) == 0 || strcasecmp(known, v->sha1) == 0);
}

/* Its password, if it sends one, is not looked at, nor the clock of its client id. */
static void check_certificate(struct login_refusal *out, const Causeway__SessionOpen *open,
                              const struct login_device *device)
{
    const struct trust_verdict *v = device->certificate;
    if (!open->secure)
        refuse(out, CONNACK_DENIED, "auth_type",
               "Connect over TLS with the certificate, or register the device with auth_type "
               "SECRET.",
               "The device is registered with a certificate, the connection is not encrypted.");
    else if (!v->fine)
        refuse(out, CONNACK_DENIED, v->code, v->next_step, "%s", v->reason);
    else if (device->fingerprint && !is_fingerprint(device->fingerprint, v) &&
             !is_fingerprint(device->secondary_fingerprint, v))
        refuse(out, CONNACK_DENIED, "fingerprint_mismatch",
               "Give the device the certificate that was bound to it, or reset the fingerprint.",
               "The certificate has fingerprint %.16s…, the device is bound to %.16s….", v->sha256,
               device->fingerprint);
}

void login_check(struct login_refusal *out, const Causeway__SessionOpen *open,
                 const struct login_device *device, const char *deleted, int64_t now_ms)
{
    *out = (struct login_refusal){ 0 };
    if (open->sign_type > 1)
        refuse(out, CONNACK_CLIENT_ID, "sign_type", "Use sign type 0 or 1 (HMAC-SHA256).",
               "Sign type %u is not served.", open->sign_type);
    else if (!ten_digits(open->timestamp))
        refuse(out, CONNACK_CLIENT_ID, "timestamp_form", "Write it as YYYYMMDDHH, UTC.",
               "The timestamp of the client id has not ten digits.");
    else if (!device && deleted)
        refuse(out, CONNACK_PASSWORD, "device_deleted", "Register the device again.",
               "The device was deleted at %s.", deleted);
    else if (!device)
        refuse(out, CONNACK_PASSWORD, "unknown_device",
               "Register the device, or correct the device id in user name and client id.",
               "No device of this id is registered.");
    else if (device->certificate)
        check_certificate(out, open, device);
    else if (strcmp(device->auth_type, "SECRET") != 0)
        refuse(out, CONNACK_DENIED, "auth_type",
               "Register the device with auth_type SECRET or CERTIFICATES.",
               "The device is registered with auth_type %s.", device->auth_type);
    else if (!device->secrets)
        refuse(out, CONNACK_UNAVAILABLE, "secret_not_opened",
               "The platform's master key is not the one that sealed it: restore it, or reset the "
               "secret.",
               "The stored secret of the device cannot be opened.");
    else if (!opens(device->secrets->primary, open) && !opens(device->secrets->secondary, open))
        wrong_password(out, open, device->secrets->primary);
    else
        check_clock(out, open, now_ms);
    if (!out->connack && device)
        check_state(out, open, device);
}

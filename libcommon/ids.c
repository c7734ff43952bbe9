#include "libcommon/ids.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "libcommon/clock.h"

void cw_random(void *out, size_t n)
{
    for (char *p = out; n > 0;) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno != EINTR)
            abort();
        if (got > 0) {
            p += got;
            n -= (size_t)got;
        }
    }
}

char *cw_random_hex(char *out, size_t digits)
{
    for (size_t i = 0; i < digits; i += 2) {
        unsigned char byte;
        cw_random(&byte, 1);
        snprintf(out + i, digits - i + 1, "%02x", byte);
    }
    out[digits] = '\0';
    return out;
}

char *cw_uuid(char out[CW_UUID_LEN])
{
    unsigned char b[16];
    cw_random(b, sizeof b);
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40); /* RFC 4122, 4.4: version 4, variant 10 */
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    char *p = out;
    for (int i = 0; i < 16; i++)
        p += sprintf(p, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
    return out;
}

char *cw_record_id(char out[CW_RECORD_ID_LEN])
{
    static int64_t last_s;
    static uint64_t counter;
    int64_t now_s = cw_now_ms() / 1000;
    if (now_s > last_s) { /* a clock that steps back must not make ids shrink */
        last_s = now_s;
        cw_random(&counter, sizeof counter);
        counter >>= 2; /* room to count within the second */
    }
    snprintf(out, CW_RECORD_ID_LEN, "%08" PRIx32 "%016" PRIx64, (uint32_t)last_s, ++counter);
    return out;
}

uint64_t cw_hash(const void *p, size_t n)
{
    const unsigned char *s = p;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ s[i]) * 1099511628211u;
    return h;
}

uint32_t cw_partition(const char *id, size_t len, uint32_t partitions)
{
    uint64_t h = cw_hash(id, len);
    return (uint32_t)(h ^ (h >> 32)) % partitions;
}

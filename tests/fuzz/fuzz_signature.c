/* A signed request: Authorization, path, query and two headers, each ended by a byte 0xff; the rest
 * is the body. links: services/rest-gateway/signature.c services/rest-gateway/route.c */
#include "services/rest-gateway/signature.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct signature s;
    char why[256] = "", digest[65], *part[5];
    for (size_t i = 0; i < 5; i++)
        part[i] = fuzz_part(&data, &size);
    const struct signed_header headers[] = { { "Host", part[3] }, { "X-Sdk-Date", part[4] } };
    const struct signed_request r = { .method = "POST",
                                      .path = part[1],
                                      .query = *part[2] ? part[2] : NULL,
                                      .headers = headers,
                                      .n_headers = 2,
                                      .body = data,
                                      .body_len = size };
    if (signature_parse(&s, part[0]) == 0) {
        signature_precheck(&s, &r, "region-1", 1795581718347, why, sizeof why);
        signature_digest(digest, &s, &r);
        fuzz_check(strlen(digest) == 64);
        signature_verify(&s, &r, "a secret");
    }
    signature_free(&s);
    for (size_t i = 0; i < 5; i++)
        free(part[i]);
    return 0;
}

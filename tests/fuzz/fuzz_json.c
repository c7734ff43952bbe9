/* JSON from the network: what is read can be written and read again, as the same value. */
#include "libcommon/json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cw_json_error err;
    struct cw_buf written = { 0 }, compact = { 0 };
    json_t *v = cw_json_parse(data, size, &err);
    if (!v) {
        fuzz_check(err.text[0] && cw_utf8_valid(err.text, strlen(err.text)));
        return 0;
    }
    cw_json_write(&written, v);
    cw_json_compact(&compact, (const char *)data, size);
    json_t *a = cw_json_parse(written.data, written.len, &err);
    json_t *b = cw_json_parse(compact.data, compact.len, &err);
    fuzz_check(a && json_equal(v, a));
    fuzz_check(b && json_equal(v, b));
    json_decref(a);
    json_decref(b);
    json_decref(v);
    cw_buf_free(&written);
    cw_buf_free(&compact);
    return 0;
}

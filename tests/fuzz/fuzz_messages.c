/* What travels on NATS: batches taken apart and put together, and each message that a daemon
 * unpacks. */
#include "libcommon/wire.h"
#include "proto/causeway.pb-c.h"
#include "tests/fuzz/fuzz.h"

static const ProtobufCMessageDescriptor *const kinds[] = {
    &causeway__uplink_batch__descriptor,   &causeway__event_batch__descriptor,
    &causeway__push_batch__descriptor,     &causeway__api_request__descriptor,
    &causeway__api_reply__descriptor,      &causeway__downlink__descriptor,
    &causeway__downlink_reply__descriptor,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const ProtobufCMessageDescriptor *kind = kinds[data[0] % CW_ARRAY_LEN(kinds)];
    ProtobufCMessage *m = protobuf_c_message_unpack(kind, NULL, size - 1, data + 1);
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
    struct cw_buf again = { 0 };
    for (size_t at = 1, n; at < size && (n = wire_next(data + at, size - at)); at += n) {
        fuzz_check(n <= size - at);
        cw_buf_add(&again, data + at, n);
    }
    fuzz_check(again.len < size);
    cw_buf_free(&again);
    return 0;
}

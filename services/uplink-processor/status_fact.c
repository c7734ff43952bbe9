#include <stdio.h>
#include <stdlib.h>

#include "libcommon/clock.h"
#include "libcommon/device_status.h"
#include "libcommon/ids.h"
#include "services/uplink-processor/uplink.h"

struct cw_buf status_fact(const PGresult *res, int row, int64_t now_ms)
{
    char basic[CW_TIME_LEN], extended[CW_TIME_LEN], id[CW_UUID_LEN], body[200];
    struct cw_buf b = { 0 };
    Causeway__Event e = CAUSEWAY__EVENT__INIT;
    int n = snprintf(
        body, sizeof body,
        "{\"status\":\"%s\",\"last_online_time\":\"%s\",\"status_update_time\":\"%s\"}",
        cw_db_str(res, row, "status"), cw_time_basic(basic, cw_db_i64(res, row, "last_ms", 0)),
        cw_time_extended(extended, now_ms));
    e.kind = CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS;
    e.status = cw_device_status_of(cw_db_str(res, row, "status"));
    e.request_id = cw_uuid(id);
    e.time_ms = now_ms;
    e.device_key = cw_db_i64(res, row, "device_key", 0);
    e.device_id = (char *)cw_db_str(res, row, "device_id");
    e.node_id = (char *)cw_db_str(res, row, "node_id");
    e.gateway_id = (char *)cw_db_str(res, row, "gateway_id");
    e.product_key = cw_db_i64(res, row, "product_key", 0);
    e.product_id = (char *)cw_db_str(res, row, "product_id");
    e.app_id = (char *)cw_db_str(res, row, "app_id");
    e.session_no = cw_db_i64(res, row, "session_no", 0);
    e.body = (ProtobufCBinaryData){ (size_t)n, (uint8_t *)body };
    b.len = b.cap = causeway__event__get_packed_size(&e);
    b.data = cw_malloc(b.len + 1);
    causeway__event__pack(&e, (uint8_t *)b.data);
    return b;
}

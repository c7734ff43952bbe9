#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/device_status.h"
#include "libcommon/util.h"

static void a_status_is_the_field_s_or_of_older_records_the_body_s(void **state)
{
    static const struct {
        Causeway__EventKind kind;
        int field;
        const char *body;
        Causeway__DeviceStatus is;
    } rows[] = {
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE, "",
          CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE },
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, CAUSEWAY__DEVICE_STATUS__STATUS_ABNORMAL,
          "{\"status\":\"ONLINE\"}", CAUSEWAY__DEVICE_STATUS__STATUS_ABNORMAL },
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, 0, "{\"status\":\"OFFLINE\"}",
          CAUSEWAY__DEVICE_STATUS__STATUS_OFFLINE },
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, 0, "{\"status\":\"ABNORMAL\"}",
          CAUSEWAY__DEVICE_STATUS__STATUS_ABNORMAL },
        /* of a release that knows more */
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, 9, "{\"status\":\"ONLINE\"}",
          CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE },
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, 9, "{\"status\":\"ASLEEP\"}", 0 },
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, 0, "{\"status\":7}", 0 },
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, 0, "{\"stat", 0 },
        { CAUSEWAY__EVENT_KIND__EVENT_DEVICE_STATUS, 0, "", 0 },
        { CAUSEWAY__EVENT_KIND__EVENT_PROPERTY_REPORT, CAUSEWAY__DEVICE_STATUS__STATUS_ONLINE,
          "{\"status\":\"ONLINE\"}", 0 },
    };
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        Causeway__Event e = CAUSEWAY__EVENT__INIT;
        e.kind = rows[i].kind;
        e.status = (Causeway__DeviceStatus)rows[i].field;
        e.body = (ProtobufCBinaryData){ strlen(rows[i].body), (uint8_t *)rows[i].body };
        if (cw_device_status(&e) != rows[i].is)
            fail_msg("row %zu: %d", i, (int)cw_device_status(&e));
    }
}

static void words_and_statuses_are_each_other_s(void **state)
{
    (void)state;
    for (int i = 1; i <= 3; i++)
        assert_int_equal(cw_device_status_of(cw_device_status_word((Causeway__DeviceStatus)i)), i);
    assert_null(cw_device_status_word(CAUSEWAY__DEVICE_STATUS__STATUS_NOT_TOLD));
    assert_null(cw_device_status_word((Causeway__DeviceStatus)4));
    assert_null(cw_device_status_word((Causeway__DeviceStatus)-1));
    assert_int_equal(cw_device_status_of(NULL), 0);
    assert_int_equal(cw_device_status_of("online"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_status_is_the_field_s_or_of_older_records_the_body_s),
        cmocka_unit_test(words_and_statuses_are_each_other_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

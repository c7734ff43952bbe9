/* links: services/command-dispatcher/message_status.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/command-dispatcher/dispatcher.h"

static void a_pending_message_takes_every_event(void **state)
{
    (void)state;
    static const enum message_status to[MSG_EVENTS] = { [ON_ACK] = MSG_DELIVERED,
                                                        [ON_NO_ACK] = MSG_FAILED,
                                                        [ON_OFFLINE] = MSG_FAILED,
                                                        [ON_NOT_SUBSCRIBED] = MSG_FAILED,
                                                        [ON_EXPIRE] = MSG_TIMEOUT };
    for (int ev = 0; ev < MSG_EVENTS; ev++)
        assert_int_equal(message_next(MSG_PENDING, ev), to[ev]);
}

static void a_final_status_refuses_every_event(void **state)
{
    (void)state;
    for (int s = MSG_DELIVERED; s < MSG_STATUSES; s++)
        for (int ev = 0; ev < MSG_EVENTS; ev++)
            assert_int_equal(message_next(s, ev), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pending_message_takes_every_event),
        cmocka_unit_test(a_final_status_refuses_every_event),
    };
    return cmocka_run_group_tests_name("message_status", tests, NULL, NULL);
}

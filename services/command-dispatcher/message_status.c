#include <errno.h>

#include "services/command-dispatcher/dispatcher.h"

#define TO(s) ((s) + 1) /* keeps 0, the empty cell, for "not allowed" */
static const uint8_t next_status[MSG_STATUSES][MSG_EVENTS] = {
    [MSG_PENDING] = { [ON_ACK] = TO(MSG_DELIVERED),
                      [ON_NO_ACK] = TO(MSG_FAILED),
                      [ON_OFFLINE] = TO(MSG_FAILED),
                      [ON_NOT_SUBSCRIBED] = TO(MSG_FAILED),
                      [ON_EXPIRE] = TO(MSG_TIMEOUT) },
    /* DELIVERED, FAILED and TIMEOUT are final */
};
static const char *const names[MSG_STATUSES] = { "PENDING", "DELIVERED", "FAILED", "TIMEOUT" };

int message_next(enum message_status from, enum message_event ev)
{
    int to = next_status[from][ev];
    return to ? to - 1 : -EPROTO;
}

const char *message_status_name(enum message_status s) { return names[s]; }

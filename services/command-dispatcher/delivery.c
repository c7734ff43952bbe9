#include "services/command-dispatcher/delivery.h"

#include <string.h>

#define P  DELIVERY_PENDING
#define S  DELIVERY_SENT
#define D  DELIVERY_DELIVERED
#define OK DELIVERY_SUCCESSFUL
#define F  DELIVERY_FAILED
#define T  DELIVERY_TIMEOUT
#define E  DELIVERY_EXPIRED
#define C  DELIVERY_CANCELED

/* status + 1: 0 is the empty cell, "not taken" */
struct cell {
    uint8_t to, action;
};
#define TO(s)                                                                                      \
    {                                                                                              \
        (s) + 1, ACT_NOTHING                                                                       \
    }
#define AGAIN(s)                                                                                   \
    {                                                                                              \
        (s) + 1, ACT_AGAIN                                                                         \
    }
#define RESEND(s)                                                                                  \
    {                                                                                              \
        (s) + 1, ACT_RESEND                                                                        \
    }
#define LAST(s)                                                                                    \
    {                                                                                              \
        (s) + 1, ACT_LAST                                                                          \
    }

static const struct cell table[DELIVERY_WAYS][DELIVERY_STATUSES][DELIVERY_EVENTS] = {
    [WAY_MESSAGE] = {
        [P] = { [ON_OFFLINE] = AGAIN(P), [ON_LOST] = AGAIN(P), [ON_NO_ROOM] = AGAIN(P),
                [ON_REFUSED] = TO(F), [ON_WRITTEN] = TO(D), [ON_CUT] = AGAIN(P),
                [ON_NO_ACK] = TO(F), [ON_PLAN_OVER] = TO(F), [ON_ACK] = TO(D),
                [ON_OVERDUE] = TO(T), [ON_REPLACED] = TO(F) },
    },
    [WAY_MESSAGE_NOW] = {
        [P] = { [ON_OFFLINE] = TO(F), [ON_LOST] = AGAIN(P), [ON_NO_ROOM] = TO(F),
                [ON_REFUSED] = TO(F), [ON_WRITTEN] = TO(D), [ON_CUT] = TO(F),
                [ON_NO_ACK] = TO(F), [ON_PLAN_OVER] = TO(F), [ON_ACK] = TO(D),
                [ON_OVERDUE] = TO(F), [ON_REPLACED] = TO(F) },
    },
    [WAY_COMMAND] = {
        [P] = { [ON_OFFLINE] = AGAIN(P), [ON_LOST] = AGAIN(P), [ON_NO_ROOM] = AGAIN(P),
                [ON_REFUSED] = TO(F), [ON_WRITTEN] = LAST(S), [ON_CUT] = AGAIN(S),
                [ON_NO_ACK] = RESEND(S), [ON_PLAN_OVER] = TO(T), [ON_ACK] = TO(D),
                [ON_DONE] = TO(OK), [ON_ERROR] = TO(F), [ON_OVERDUE] = TO(E),
                [ON_CANCEL] = TO(C) },
        [S] = { [ON_OFFLINE] = AGAIN(S), [ON_LOST] = AGAIN(S), [ON_NO_ROOM] = AGAIN(S),
                [ON_REFUSED] = TO(F), [ON_WRITTEN] = LAST(S), [ON_CUT] = AGAIN(S),
                [ON_NO_ACK] = RESEND(S), [ON_PLAN_OVER] = TO(T), [ON_ACK] = TO(D),
                [ON_DONE] = TO(OK), [ON_ERROR] = TO(F), [ON_OVERDUE] = TO(T) },
        [D] = { [ON_DONE] = TO(OK), [ON_ERROR] = TO(F) },
    },
    [WAY_COMMAND_NOW] = {
        [P] = { [ON_OFFLINE] = TO(F), [ON_LOST] = AGAIN(P), [ON_NO_ROOM] = TO(F),
                [ON_REFUSED] = TO(F), [ON_WRITTEN] = LAST(S), [ON_CUT] = TO(F),
                [ON_NO_ACK] = RESEND(S), [ON_PLAN_OVER] = TO(T), [ON_ACK] = TO(D),
                [ON_DONE] = TO(OK), [ON_ERROR] = TO(F), [ON_OVERDUE] = TO(E),
                [ON_CANCEL] = TO(C) },
        [S] = { [ON_OFFLINE] = TO(F), [ON_LOST] = AGAIN(S), [ON_NO_ROOM] = AGAIN(S),
                [ON_REFUSED] = TO(F), [ON_WRITTEN] = LAST(S), [ON_CUT] = TO(F),
                [ON_NO_ACK] = RESEND(S), [ON_PLAN_OVER] = TO(T), [ON_ACK] = TO(D),
                [ON_DONE] = TO(OK), [ON_ERROR] = TO(F), [ON_OVERDUE] = TO(T) },
        [D] = { [ON_DONE] = TO(OK), [ON_ERROR] = TO(F) },
    },
};

bool delivery_next(struct delivery_step *to, enum delivery_way way, enum delivery_status from,
                   enum delivery_event ev)
{
    const struct cell *c = &table[way][from][ev];
    if (!c->to)
        return false;
    *to = (struct delivery_step){ (enum delivery_status)(c->to - 1),
                                  (enum delivery_action)c->action };
    return true;
}

bool delivery_is_open(enum delivery_way way, enum delivery_status s)
{
    return table[way][s][ON_OVERDUE].to != 0;
}

bool delivery_is_final(enum delivery_way way, enum delivery_status s)
{
    for (int ev = 0; ev < DELIVERY_EVENTS; ev++)
        if (table[way][s][ev].to)
            return false;
    return true;
}

static const char *const names[DELIVERY_STATUSES] = {
    [P] = "PENDING", [S] = "SENT",    [D] = "DELIVERED", [OK] = "SUCCESSFUL",
    [F] = "FAILED",  [T] = "TIMEOUT", [E] = "EXPIRED",   [C] = "CANCELED",
};

const char *delivery_name(enum delivery_status s) { return names[s]; }

enum delivery_status delivery_status_of(const char *name)
{
    int s = 0;
    while (s < DELIVERY_STATUSES && strcmp(names[s], name) != 0)
        s++;
    return (enum delivery_status)s;
}

int64_t delivery_wait_ms(unsigned attempt)
{
    static const int64_t waits_ms[DELIVERY_ATTEMPTS] = { 12000, 25000, 50000, 130000 };
    return attempt < DELIVERY_ATTEMPTS ? waits_ms[attempt] : 0;
}

/* delivery.h - the life of what is queued for a device, a message or an asynchronous command, as
 * one table for every protocol (docs/protocol/way-down.md). Pure: no I/O, no clock of its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum delivery_status {
    DELIVERY_PENDING,    /* waits; no evidence that the device has seen it */
    DELIVERY_SENT,       /* its bytes went to the device's connection */
    DELIVERY_DELIVERED,  /* the device acknowledged it */
    DELIVERY_SUCCESSFUL, /* the device answered: done */
    DELIVERY_FAILED,
    DELIVERY_TIMEOUT,
    DELIVERY_EXPIRED, /* never sent in its time */
    DELIVERY_CANCELED,
    DELIVERY_STATUSES,
};

enum delivery_event {
    ON_OFFLINE,   /* no connection; nothing was written */
    ON_LOST,      /* the gateway is gone: nobody knows */
    ON_NO_ROOM,   /* too much is unacknowledged; nothing was written */
    ON_REFUSED,   /* the device has not subscribed its topic */
    ON_WRITTEN,   /* at QoS 0: there will be no acknowledgement */
    ON_CUT,       /* written; the connection ended before the acknowledgement */
    ON_NO_ACK,    /* written; not acknowledged in the time of this attempt */
    ON_PLAN_OVER, /* the same, and it was the last attempt */
    ON_ACK,       /* acknowledged by the device */
    ON_DONE,      /* the device's answer, with success */
    ON_ERROR,     /* the device's answer, without */
    ON_OVERDUE,   /* its time is over */
    ON_REPLACED,  /* newer ones took its place in the queue */
    ON_CANCEL,    /* by an application */
    DELIVERY_EVENTS,
};

/* How it is to be sent. */
enum delivery_way {
    WAY_MESSAGE,     /* kept while the device is away */
    WAY_MESSAGE_NOW, /* not kept (ttl 0) */
    WAY_COMMAND,     /* kept while the device is away (send_strategy delay) */
    WAY_COMMAND_NOW, /* not kept (immediately) */
    DELIVERY_WAYS,
};

/* What follows besides the new status. */
enum delivery_action {
    ACT_NOTHING, /* it has left the queue, or waits for the device's answer only */
    ACT_AGAIN,   /* is tried again soon, or when the device is back */
    ACT_RESEND,  /* the next attempt of the plan */
    ACT_LAST,    /* no further attempt: the answer alone is waited for, as long as after the last */
};

struct delivery_step {
    enum delivery_status status;
    enum delivery_action action;
};

/* False: this status does not take the event; *to is untouched. */
bool delivery_next(struct delivery_step *to, enum delivery_way way, enum delivery_status from,
                   enum delivery_event ev);
/* True while somebody may have to send it: PENDING, and SENT of a command. */
bool delivery_is_open(enum delivery_way way, enum delivery_status s);
/* Nothing leads on from it. */
bool delivery_is_final(enum delivery_way way, enum delivery_status s);

/* As the API and the tables spell it. */
const char *delivery_name(enum delivery_status s);
/* DELIVERY_STATUSES: no such word. */
enum delivery_status delivery_status_of(const char *name);

/* The resend plan of commands: milliseconds to wait for an acknowledgement after the n-th attempt,
 * n from 0; 0: the plan is over. */
int64_t delivery_wait_ms(unsigned attempt);
#define DELIVERY_ATTEMPTS 4

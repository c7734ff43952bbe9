/* async.h - what the files share that deal with asynchronous commands; queue.h sends them. */
#pragma once

#include "services/command-dispatcher/queue.h"

/* Columns of command.async_command (a) and registry.device_view (v) that queue_item_read() and
 * async_json() take. */
#define ASYNC_COLUMNS                                                                              \
    "a.command_id AS id, a.device_id, a.root_id, a.device_key, a.root_key, a.partition, a.topic,"  \
    " NULL AS title, a.status, a.attempts, a.wakes, a.send_strategy, a.send_strategy = 'delay'"    \
    " AS kept, (extract(epoch FROM a.created) * 1000)::bigint AS created_ms,"                      \
    " (extract(epoch FROM a.written) * 1000)::bigint AS written_ms, v.node_id, v.app_id,"          \
    " v.product_key, v.product_id"

/* async_list.c: asks for the command of a call: one row, in which id is NULL without one; none
 * without the device. */
int async_find(struct dispatcher *d, struct cw_api_call *call, cw_db_fn *cb, void *arg);
/* False: there is no such command or device, and the call has been failed. */
bool async_is_there(struct cw_api_call *call, const PGresult *res);

/* async_answers.c: a change that does not come from sending. */
struct async_change {
    struct queue_item item; /* as it was read */
    enum delivery_event event;
    const char *result;  /* the device's answer, JSON; NULL: none */
    int64_t answered_ms; /* 0: no answer */
    int64_t answer_no;   /* of command.async_answer, goes with it; 0: none */
};
/* rc 0: done; -EAGAIN: its status was another one meanwhile; -EIO: the database. */
typedef void async_change_fn(int rc, void *arg);
/* The event must fit the status. Runs cb once, later; -ENOTCONN: it will not. */
int async_change(struct dispatcher *d, struct async_change *c, async_change_fn *cb, void *arg);

/* Takes in answers of own partitions: each second, and when woken. */
struct async_answers *async_answers_open(struct dispatcher *d);
void async_answers_wake(struct async_answers *s);
void async_answers_close(struct async_answers **s);

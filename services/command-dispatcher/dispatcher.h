/* dispatcher.h - what the files of command-dispatcher share. */
#pragma once

#include "libcommon/api_rows.h"
#include "libcommon/api_space.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/db.h"
#include "libcommon/ids.h"
#include "libcommon/log_append.h"
#include "libcommon/log_read.h"
#include "libcommon/notice.h"
#include "libcommon/products.h"
#include "libcommon/service.h"

struct dispatcher {
    struct cw_app *app;
    struct cw_db *db;
    struct cw_products *products;
    struct cw_log_append *uplink;
    struct cw_notices *notices;
    struct cw_log_reader *events;
    struct cw_bus_sub *responses, *wakes;
    struct commands *commands;
    struct queue *messages, *asyncs;
    struct async_answers *answers;
    struct desired *desired;
    struct receipts *receipts;
    int64_t command_ms, message_ms, resend_ms, unknown_ms, async_queue_ms, keep_days, waiting_max;
};

/* ---- target.c: whom a call speaks to, and where that device is connected */

struct target {
    char *device_id, *root_id, *node_id, *app_id, *product_id, *status;
    char *gateway; /* NULL: no session */
    int64_t device_key, root_key, product_key, session_no;
    uint32_t partition;
};
/* found: 1 with *t to be taken over (target_free), 0 no such device, negative: database away. */
typedef void target_fn(int found, struct target *t, void *arg);
/* Runs cb once, later; returns 0, or -ENOTCONN and cb will not run. */
int target_find(struct dispatcher *d, const char *device_id, target_fn *cb, void *arg);
void target_free(struct target *t); /* clears it */
/* Answers 404, 403 or 503 and returns false unless the device can get it: it has a session, or it
 * is kept for later and the device is not frozen. `what` (command, message) could not be sent then,
 * which is noted for the device. */
bool target_takes(struct dispatcher *d, struct cw_api_call *call, int found, const struct target *t,
                  const char *what, bool kept);

/* ---- command.c: synchronous commands, property writes and reads (command_kind.h) */

/* The commands that this instance waits for; another one's are in the table only. Never NULL. */
struct commands *commands_open(struct dispatcher *d);
/* How many wait for their device's answer. */
unsigned commands_waiting(const struct commands *c);
/* At the end of the process: who waits is answered 503. */
void commands_close(struct commands **c);
/* CreateCommand. Answers with what the device answered, or after command_ms with SYNC_TIMEOUT and
 * 200 as IoTDA does. The receipt is stored before the device gets the command. */
void create_command(struct cw_api_call *call, void *self);
/* The same for properties, which are live: they are not those of the shadow, and do not change it.
 */
void update_properties(struct cw_api_call *call, void *self);
void list_properties(struct cw_api_call *call, void *self);
/* An answer of a device; from the gateway at once, or from the log. False: nobody waits here. */
bool command_answered(struct dispatcher *d, const char *command_id, const void *body, size_t len);

/* ---- events.c: the EVENT log */

extern const struct cw_log_reader_config events_reader; /* self is filled in */

/* ---- message.c: taking and showing messages; queue.h: sending them, as owner of a partition */

/* CreateMessage. 201 once it is stored as PENDING: also for a device that is away, unless ttl is 0.
 */
void create_message(struct cw_api_call *call, void *self);
/* ListDeviceMessages. The newest 1000. */
void list_messages(struct cw_api_call *call, void *self);
/* ShowDeviceMessage. An unknown message is an empty answer, as IoTDA does. */
void show_message(struct cw_api_call *call, void *self);

/* DeleteDeviceMessage. One that is on its way may still arrive. */
void delete_message(struct cw_api_call *call, void *self);

/* ---- broadcast.c */

/* BroadcastMessage. 201 once gateways were told. */
void broadcast_message(struct cw_api_call *call, void *self);

/* ---- async.c, async_list.c: asynchronous commands */

/* CreateAsyncCommand: 200 once it is stored as PENDING. */
void create_async_command(struct cw_api_call *call, void *self);
/* CancelAsyncCommand, ours: what is PENDING. */
void cancel_async_command(struct cw_api_call *call, void *self);
void show_async_command(struct cw_api_call *call, void *self);
/* Those that wait, or were delivered within async_queue_ms; the others. */
void list_async_commands(struct cw_api_call *call, void *self);
void list_async_history(struct cw_api_call *call, void *self);
void count_async_history(struct cw_api_call *call, void *self);

/* ---- main.c */

/* Something waits in q: its owner is told, this instance or another. A hint: it also looks each
 * second. */
void dispatcher_wake(struct dispatcher *d, uint32_t partition, struct queue *q);

/* ---- desired.c: telling devices their desired values */

/* Begins the request ids of these properties/set. */
#define DESIRED_ID "desired."
/* Looks each second, and when woken, for devices of own partitions that are to be told. */
struct desired *desired_open(struct dispatcher *d);
/* At the end of the process: who was being told is told again by the next owner. */
void desired_close(struct desired **s);
void desired_wake(struct desired *s);
/* Reasons that a transaction of events.c has found: a device came online, values were set. Zeroed
 * to start. */
struct desired_reasons {
    struct cw_db_array key, device_id, partition;
    size_t n;
};
void desired_note(struct desired_reasons *r, const Causeway__Event *e, uint32_t partition);
void desired_store(struct desired_reasons *r, struct cw_log_txn *txn);
void desired_reasons_free(struct desired_reasons *r);

/* ---- receipts.c: how commands ended, and how long receipts are kept */

struct receipt_end {
    const char *command_id, *status, *stage;
    const char *response;                                   /* NULL: none */
    int64_t written_ms, acked_ms, answered_ms, finished_ms; /* 0: never */
};
/* Never NULL. Each hour what is older than keep_days goes, 10,000 commands and as many messages at
 * a time. */
struct receipts *receipts_open(struct dispatcher *d);
/* After the drain, which waits for what is not written yet. */
void receipts_close(struct receipts **r);
/* Written within 20 ms, together with others; at once when the device has not answered. Copied. */
void receipt_ended(struct receipts *r, const struct receipt_end *e);

/* ---- downlink.c */

/* rc as in cw_bus_reply_fn, -EBADMSG for an answer that does not parse; reply is borrowed for the
 * call, NULL unless rc is 0. */
typedef void downlink_fn(int rc, const Causeway__DownlinkReply *reply, void *arg);
/* Asks the gateway that holds a session. Waits 500 ms past the request's deadline, which the
 * gateway keeps itself. 0, then cb runs once; or -ENOTCONN and it will not. */
int downlink_ask(struct dispatcher *d, const char *gateway, const Causeway__Downlink *request,
                 downlink_fn *cb, void *arg);

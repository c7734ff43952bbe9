/* command-dispatcher - hands commands and messages to gateways and follows them to the end. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "proto/subjects.h"
#include "services/command-dispatcher/async.h"

#define AT(f) offsetof(struct dispatcher, f)
static const struct cw_option options[] = {
    { "COMMAND_TIMEOUT", CW_OPT_MS, "20s", 100, 60000, AT(command_ms),
      "wait for a device's answer to a synchronous command" },
    { "MESSAGE_TIMEOUT", CW_OPT_MS, "8s", 100, 60000, AT(message_ms),
      "wait for a device's PUBACK of a message, resends included" },
    { "MESSAGE_RESEND", CW_OPT_MS, "2s", 50, 60000, AT(resend_ms), "pause before a resend" },
    { "MESSAGE_UNKNOWN", CW_OPT_MS, "60s", 1000, 3600000, AT(unknown_ms),
      "life of a message that is not kept for later (ttl 0)" },
    { "ASYNC_QUEUE", CW_OPT_MS, "24h", 1000, 2592000000, AT(async_queue_ms),
      "time after which a delivered asynchronous command without an answer is history" },
    { "COMMANDS_MAX", CW_OPT_INT, "10000", 1, 1000000, AT(waiting_max),
      "synchronous commands that may wait in this instance" },
    { "RECEIPT_DAYS", CW_OPT_INT, "30", 1, 3650, AT(keep_days),
      "days that commands and finished messages are kept" },
    { 0 },
};

static const struct cw_api_op ops[] = {
    { "CreateCommand", create_command },
    { "ListProperties", list_properties },
    { "UpdateProperties", update_properties },
    { "CreateMessage", create_message },
    { "ListDeviceMessages", list_messages },
    { "ShowDeviceMessage", show_message },
    { "DeleteDeviceMessage", delete_message },
    { "BroadcastMessage", broadcast_message },
    { "CreateAsyncCommand", create_async_command },
    { "ListAsyncCommands", list_async_commands },
    { "ShowAsyncDeviceCommand", show_async_command },
    { "CancelAsyncCommand", cancel_async_command },
    { "ListAsyncHistoryCommands", list_async_history },
    { "CountAsyncHistoryCommands", count_async_history },
    { 0 },
};

static const struct cw_space_rule spaces[] = {
    { "new",
      { "space_of_new", "SELECT app_id FROM registry.app_view"
                        " WHERE CASE WHEN $1::text IS NULL THEN default_app ELSE app_id = $1 END" },
      { "body:app_id" } },
    { "device",
      { "space_of_device", "SELECT app_id FROM registry.device_view WHERE device_id = $1" },
      { "path:device_id" } },
    { 0 },
};

/* response.<instance>.<command id>: a copy of the answer's UPLINK record, ahead of the log. */
static void on_response(const struct cw_bus_msg *msg, void *arg)
{
    const char *id = msg->subject ? strrchr(msg->subject, '.') : NULL;
    Causeway__Uplink *up = id ? causeway__uplink__unpack(NULL, msg->len, msg->data) : NULL;
    if (up)
        command_answered(arg, id + 1, up->body.data, up->body.len);
    causeway__uplink__free_unpacked(up, NULL);
}

static void on_wake(const struct cw_bus_msg *msg, void *arg)
{
    struct dispatcher *d = arg;
    const char *p = msg->subject ? strrchr(msg->subject, '.') : NULL;
    if (p && cw_log_reader_owns(d->events, (uint32_t)strtoul(p + 1, NULL, 10))) {
        queue_wake(d->messages);
        queue_wake(d->asyncs);
    }
}

void dispatcher_wake(struct dispatcher *d, uint32_t partition, struct queue *q)
{
    char subject[64];
    if (cw_log_reader_owns(d->events, partition)) {
        queue_wake(q);
        return;
    }
    snprintf(subject, sizeof subject, "wake.command-dispatcher.%" PRIu32, partition);
    cw_bus_publish(cw_app_bus(d->app), subject, NULL, "", 0);
}

static int start(struct cw_app *app, void *self)
{
    struct dispatcher *d = self;
    struct cw_log_reader_config reader = events_reader;
    char subject[128];
    d->app = app;
    d->db = cw_app_db(app);
    d->products = cw_products_open(app, d->db);
    d->uplink = cw_log_append_open(app, CW_LOG_UPLINK);
    d->notices = cw_notices_open(app, d->uplink);
    d->receipts = receipts_open(d);
    d->commands = commands_open(d);
    reader.self = d;
    d->events = cw_log_reader_open(app, &reader);
    d->messages = queue_open(d, &kind_message);
    d->asyncs = queue_open(d, &kind_async);
    d->answers = async_answers_open(d);
    d->desired = desired_open(d);
    snprintf(subject, sizeof subject, "response.%s.*", cw_app_instance(app));
    d->responses = cw_bus_subscribe(cw_app_bus(app), subject, NULL, on_response, d);
    d->wakes = cw_bus_subscribe(cw_app_bus(app), "wake.command-dispatcher.*", NULL, on_wake, d);
    cw_api_serve(app, "command", ops, d);
    cw_api_space_rules("command", spaces);
    return 0;
}

static void drain(struct cw_app *app, void *self)
{
    (void)app;
    cw_log_reader_drain(((struct dispatcher *)self)->events);
}

static void stop(void *self)
{
    struct dispatcher *d = self;
    desired_close(&d->desired);
    async_answers_close(&d->answers);
    queue_close(&d->asyncs);
    queue_close(&d->messages);
    commands_close(&d->commands);
    receipts_close(&d->receipts);
    cw_log_reader_close(&d->events);
    cw_bus_unsubscribe(&d->responses);
    cw_bus_unsubscribe(&d->wakes);
    cw_notices_close(&d->notices);
    cw_log_append_close(&d->uplink);
    cw_products_close(&d->products);
}

static void facts(struct cw_facts *f, void *self)
{
    const struct dispatcher *d = self;
    cw_facts_used(f, "COMMANDS_MAX", commands_waiting(d->commands),
                  "refused with IOTDA.021101, 403");
}

int main(int argc, char **argv)
{
    static struct dispatcher self;
    return cw_service_run(&(struct cw_service){ .name = "command-dispatcher",
                                                .summary = "hands commands and messages to devices "
                                                           "and follows them to the end",
                                                .options = options,
                                                .self = &self,
                                                .needs = CW_NEEDS_BUS | CW_NEEDS_DB,
                                                .schema_version = 26,
                                                .facts = facts,
                                                .start = start,
                                                .drain = drain,
                                                .stop = stop },
                          argc, argv);
}

/* Synchronous commands, and properties that are written or read: the instance that took the call
 * waits for the answer itself. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <event2/event.h>
#include <uthash.h>

#include "libcommon/json.h"
#include "libcommon/metrics.h"
#include "services/command-dispatcher/command_kind.h"
#include "services/command-dispatcher/dispatcher.h"

struct command {
    UT_hash_handle hh; /* by id, while somebody waits */
    STAILQ_ENTRY(command) unsaved;
    struct commands *all;
    const struct command_kind *kind;
    struct cw_api_call *call; /* NULL: answered */
    struct target to;
    char id[CW_UUID_LEN];
    struct event *timer;
    struct cw_buf payload;
    bool asked;    /* the gateway has not said yet what became of it */
    bool answered; /* the device has */
    int64_t created_ms, written_ms, acked_ms;
    Causeway__DownlinkOutcome outcome;
};

struct commands {
    struct dispatcher *d;
    struct command *waiting;
    STAILQ_HEAD(, command) unsaved, saving; /* unsaved: wait for the statement that runs */
    struct cw_db_query *insert;             /* of the receipts in `saving` */
    struct cw_metric *taken, *answered, *timed_out, *refused;
    struct cw_metric *duration;
};

/* One statement takes all commands that came while the last one ran. */
static const struct cw_stmt insert = {
    "commands_insert",
    "INSERT INTO command.command (command_id, device_key, device_id, root_id, instance, "
    "service_id, command_name, paras, gateway, session_no, created, kind) "
    "SELECT i, k, d, r, $1, s, n, p, g, no, to_timestamp(at / 1000.0), w FROM unnest($2::text[], "
    "$3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], "
    "$10::bigint[], $11::bigint[], $12::text[]) AS x(i, k, d, r, s, n, p, g, no, at, w)"
};
#define COLUMNS 11

struct commands *commands_open(struct dispatcher *d)
{
    struct commands *c = cw_calloc(1, sizeof *c);
    c->d = d;
    STAILQ_INIT(&c->unsaved);
    STAILQ_INIT(&c->saving);
    c->taken =
        cw_counter("causeway_commands_total", NULL, "Commands, property writes and reads taken");
    c->answered = cw_counter("causeway_commands_answered_total", NULL, "Answered by the device");
    c->timed_out = cw_counter("causeway_commands_timeout_total", NULL, "Not answered in time");
    c->refused = cw_counter("causeway_commands_refused_total", NULL, "Refused before sending");
    c->duration = cw_histogram_ms("causeway_command_ms", NULL, "From the call to the answer");
    return c;
}

/* The gateway's word and the device's come in any order: the last of them frees. */
static void free_if_over(struct command *cmd)
{
    if (cmd->call || cmd->asked)
        return;
    event_free(cmd->timer);
    target_free(&cmd->to);
    cw_buf_free(&cmd->payload);
    free(cmd);
}

static void leave(struct command *cmd)
{
    struct command *known;
    HASH_FIND_STR(cmd->all->waiting, cmd->id, known);
    if (known == cmd)
        HASH_DEL(cmd->all->waiting, cmd);
    evtimer_del(cmd->timer);
    cmd->call = NULL;
}

static void keep(struct command *cmd, const char *status, const char *stage, const char *response)
{
    int64_t now_ms = cw_now_ms();
    receipt_ended(cmd->all->d->receipts,
                  &(struct receipt_end){ .command_id = cmd->id,
                                         .status = status,
                                         .stage = stage,
                                         .response = response,
                                         .written_ms = cmd->written_ms,
                                         .acked_ms = cmd->acked_ms,
                                         .answered_ms = cmd->answered ? now_ms : 0,
                                         .finished_ms = now_ms });
    cw_log(CW_DEBUG, "command", "id=%s device=%s status=%s stage=\"%s\" after_ms=%" PRId64, cmd->id,
           cmd->to.device_id, status, stage, now_ms - cmd->created_ms);
}

static void notify(struct command *cmd, const char *code, const char *reason, const char *next_step)
{
    cw_notice(cmd->all->d->notices, &(struct cw_notice){ .layer = CW_LAYER_COMMAND,
                                                         .device_key = cmd->to.root_key,
                                                         .device_id = cmd->to.root_id,
                                                         .code = code,
                                                         .reason = reason,
                                                         .next_step = next_step,
                                                         .sample = cmd->id });
}

/* ---- the end without an answer */

static char *describe_stage(const struct command *cmd)
{
    char at[CW_TIME_LEN];
    if (cmd->acked_ms)
        return cw_sprintf("sent %s, PUBACK +%" PRId64 " ms, no response on "
                          "$oc/devices/%s/sys/%s/response/request_id=%s",
                          cw_time_extended(at, cmd->written_ms), cmd->acked_ms - cmd->written_ms,
                          cmd->to.root_id, cmd->kind->topic, cmd->id);
    switch (cmd->outcome) {
    case CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_CLOSED:
        return cw_sprintf("the connection ended before the device's PUBACK");
    case CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_WRITTEN:
        return cw_sprintf("sent %s at QoS 0, no response", cw_time_extended(at, cmd->written_ms));
    default:
        return cw_sprintf("handed to the gateway %s, no PUBACK of the device",
                          cw_time_extended(at, cmd->created_ms));
    }
}

/* IoTDA reports this with status 200; the id lets the caller find a late answer. */
static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
    struct command *cmd = arg;
    struct cw_buf body = { 0 };
    (void)fd, (void)what;
    if (!cmd->to.root_id) { /* not even looked up */
        cw_api_fail(cmd->call, CW_E_UNAVAILABLE, "PostgreSQL did not answer (device).");
        leave(cmd);
        free_if_over(cmd);
        return;
    }
    char *stage = describe_stage(cmd);
    cw_error_body(&body, CW_E_SYNC_TIMEOUT, "Command request timed out. Stage: %s.", stage);
    body.data[--body.len] = '\0'; /* the closing brace */
    cw_buf_printf(&body, ",\"%s\":\"%s\"}", cmd->kind->id_name, cmd->id);
    cw_api_reply(cmd->call, 200, body.data, body.len);
    keep(cmd, "TIMEOUT", stage, NULL);
    notify(cmd, "no_response", stage,
           cmd->acked_ms ? "Look whether the device answers on that topic with this request id."
                         : "Look whether the device is still reachable.");
    cw_metric_add(cmd->all->timed_out, 1);
    cw_buf_free(&body);
    free(stage);
    leave(cmd);
    free_if_over(cmd);
}

static void refuse(struct command *cmd, enum cw_error e, const char *stage)
{
    cw_api_fail(cmd->call, e, "Stage: %s.", stage);
    keep(cmd, "FAILED", stage, NULL);
    notify(cmd, "not_sent", stage, "Send it again when the device is online.");
    cw_metric_add(cmd->all->refused, 1);
    leave(cmd);
}

/* ---- the answer */

static void accept_answer(struct command *cmd, const json_t *answer, const struct cw_buf *text)
{
    struct cw_buf body = { 0 };
    const json_t *code = json_object_get(answer, "result_code");
    bool ok = !cmd->kind->result_code || !json_is_integer(code) || json_integer_value(code) == 0;
    cw_buf_printf(&body, "{\"%s\":\"%s\",\"response\":%s}", cmd->kind->id_name, cmd->id,
                  text->data);
    cw_api_reply(cmd->call, 200, body.data, body.len);
    keep(cmd, ok ? "SUCCESSFUL" : "FAILED", "answered", text->data);
    cw_metric_add(cmd->all->answered, 1);
    cw_metric_observe(cmd->all->duration, (double)(cw_now_ms() - cmd->created_ms));
    cw_buf_free(&body);
}

static void reject_answer(struct command *cmd, const char *why)
{
    struct cw_buf body = { 0 };
    char *stage = cw_sprintf("the device answered, but not with a JSON object: %s", why);
    cw_error_body(&body, CW_E_SYNC_TIMEOUT, "Stage: %s.", stage);
    body.data[--body.len] = '\0';
    cw_buf_printf(&body, ",\"%s\":\"%s\"}", cmd->kind->id_name, cmd->id);
    cw_api_reply(cmd->call, 200, body.data, body.len);
    keep(cmd, "FAILED", stage, NULL);
    notify(cmd, "answer_malformed", stage, "Let the device answer with a JSON object.");
    cw_buf_free(&body);
    free(stage);
}

bool command_answered(struct dispatcher *d, const char *command_id, const void *data, size_t len)
{
    struct command *cmd;
    struct cw_json_error where = { .text = "not an object" };
    struct cw_buf text = { 0 };
    HASH_FIND_STR(d->commands->waiting, command_id, cmd);
    if (!cmd)
        return false;
    json_t *answer = len ? cw_json_parse(data, len, &where) : NULL;
    cmd->answered = true;
    if (json_is_object(answer)) {
        answer = cmd->kind->response(answer);
        cw_json_write(&text, answer);
        accept_answer(cmd, answer, &text);
    } else {
        reject_answer(cmd, len ? where.text : "an empty payload");
    }
    json_decref(answer);
    cw_buf_free(&text);
    leave(cmd);
    free_if_over(cmd);
    return true;
}

/* ---- on its way down */

static void on_downlink(int rc, const Causeway__DownlinkReply *reply, void *arg)
{
    struct command *cmd = arg;
    cmd->asked = false;
    if (reply) {
        cmd->outcome = reply->outcome;
        cmd->written_ms = reply->written_ms;
        cmd->acked_ms = reply->acked_ms;
    }
    if (cmd->call && rc == -EHOSTUNREACH)
        refuse(cmd, CW_E_OFFLINE, "the gateway that held the device's connection is gone");
    else if (cmd->call && cmd->outcome == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_NO_SESSION)
        refuse(cmd, CW_E_OFFLINE, "the device has just disconnected");
    else if (cmd->call && cmd->outcome == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_BUSY)
        refuse(cmd, CW_E_RATE, "the device has too much unacknowledged");
    else if (cmd->call && cmd->outcome == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_REJECTED)
        refuse(cmd, CW_E_SYNC_TIMEOUT,
               "the device refused it (MQTT 5), or takes no packet of its "
               "size");
    free_if_over(cmd); /* else the answer or the timer ends it */
}

static void send_down(struct command *cmd)
{
    struct dispatcher *d = cmd->all->d;
    Causeway__Downlink down = CAUSEWAY__DOWNLINK__INIT;
    char topic[256], answer_to[160];
    snprintf(topic, sizeof topic, "$oc/devices/%s/sys/%s/request_id=%s", cmd->to.root_id,
             cmd->kind->topic, cmd->id);
    snprintf(answer_to, sizeof answer_to, "response.%s.%s", cw_app_instance(d->app), cmd->id);
    down.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_PUBLISH;
    down.deadline_ms = cmd->created_ms + d->command_ms;
    down.device_key = cmd->to.root_key;
    down.session_no = cmd->to.session_no;
    down.topic = topic;
    down.payload = (ProtobufCBinaryData){ cmd->payload.len, (uint8_t *)cmd->payload.data };
    down.qos = 1;
    down.request_id = cmd->id;
    down.answer_to = answer_to;
    cmd->asked = downlink_ask(d, cmd->to.gateway, &down, on_downlink, cmd) == 0;
    if (!cmd->asked) {
        refuse(cmd, CW_E_UNAVAILABLE, "not sent, NATS is not connected");
        free_if_over(cmd);
    }
}

static void save_receipts(struct commands *c);

static void on_inserted(PGresult *res, void *arg)
{
    struct commands *c = arg;
    struct command *cmd;
    c->insert = NULL;
    while ((cmd = STAILQ_FIRST(&c->saving))) {
        STAILQ_REMOVE_HEAD(&c->saving, unsaved);
        cmd->asked = false;
        if (cmd->call && !cw_api_db_failed(cmd->call, res, "command")) {
            send_down(cmd);
            continue;
        }
        if (cmd->call)
            leave(cmd);
        free_if_over(cmd);
    }
    if (!STAILQ_EMPTY(&c->unsaved))
        save_receipts(c);
}

static void add_receipt(struct cw_db_array a[COLUMNS], const struct command *cmd)
{
    struct command_words w;
    struct cw_buf paras = { 0 };
    cmd->kind->words(&w, cmd->call);
    if (w.paras)
        cw_json_write(&paras, w.paras);
    cw_db_array_str(&a[0], cmd->id);
    cw_db_array_int(&a[1], cmd->to.device_key);
    cw_db_array_str(&a[2], cmd->to.device_id);
    cw_db_array_str(&a[3], cmd->to.root_id);
    cw_db_array_str(&a[4], w.service_id);
    cw_db_array_str(&a[5], w.command_name);
    cw_db_array_str(&a[6], w.paras ? paras.data : "{}");
    cw_db_array_str(&a[7], cmd->to.gateway);
    cw_db_array_int(&a[8], cmd->to.session_no);
    cw_db_array_int(&a[9], cmd->created_ms);
    cw_db_array_str(&a[10], cmd->kind->name);
    cw_buf_free(&paras);
}

static void save_receipts(struct commands *c)
{
    static const bool is_int[COLUMNS] = { [1] = true, [8] = true, [9] = true };
    struct cw_db_array a[COLUMNS] = { 0 };
    struct cw_db_param par[COLUMNS + 1] = { CW_TEXT(cw_app_instance(c->d->app)) };
    struct command *cmd;
    for (int i = 0; i < COLUMNS; i++)
        cw_db_array_reset(&a[i], is_int[i] ? CW_ARRAY_INT8 : CW_ARRAY_TEXT);
    while ((cmd = STAILQ_FIRST(&c->unsaved))) {
        STAILQ_REMOVE_HEAD(&c->unsaved, unsaved);
        if (!cmd->call) { /* the time was over first */
            cmd->asked = false;
            free_if_over(cmd);
            continue;
        }
        add_receipt(a, cmd);
        STAILQ_INSERT_TAIL(&c->saving, cmd, unsaved);
    }
    for (int i = 0; i < COLUMNS; i++)
        par[i + 1] = cw_db_array_param(&a[i]);
    if (!STAILQ_EMPTY(&c->saving)) {
        c->insert = cw_db_exec(c->d->db, &insert, CW_ARRAY_LEN(par), par, on_inserted, c);
        if (!c->insert)
            on_inserted(NULL, c); /* nobody is connected */
    }
    for (int i = 0; i < COLUMNS; i++)
        cw_db_array_free(&a[i]);
}

/* The receipt is kept before the device gets the command, so that each answer finds it. */
static void keep_receipt(struct command *cmd)
{
    struct commands *c = cmd->all;
    cmd->asked = true;
    STAILQ_INSERT_TAIL(&c->unsaved, cmd, unsaved);
    if (STAILQ_EMPTY(&c->saving))
        save_receipts(c);
}

static bool fits_model(struct command *cmd)
{
    const struct cw_model *model = cw_products_find(cmd->all->d->products, cmd->to.product_key);
    return !model || cmd->kind->fits(cmd->call, model);
}

static void on_model(int rc, void *arg)
{
    struct command *cmd = arg;
    cmd->asked = false;
    if (!cmd->call) { /* the time was over first */
        free_if_over(cmd);
        return;
    }
    if (rc < 0)
        cw_api_fail(cmd->call, CW_E_UNAVAILABLE, "PostgreSQL did not answer (product).");
    if (rc < 0 || !fits_model(cmd)) {
        leave(cmd);
        free_if_over(cmd);
        return;
    }
    command_payload(&cmd->payload, cmd->kind, &cmd->to, cmd->call);
    keep_receipt(cmd);
}

static void on_target(int found, struct target *t, void *arg)
{
    struct command *cmd = arg;
    cmd->asked = false;
    if (!cmd->call) {
        free_if_over(cmd);
        return;
    }
    if (!target_takes(cmd->all->d, cmd->call, found, t, cmd->kind->what, false)) {
        leave(cmd);
        free_if_over(cmd);
        return;
    }
    cmd->to = *t;
    *t = (struct target){ 0 };
    cmd->asked = true;
    int rc = cw_products_load(cmd->all->d->products, &cmd->to.product_key, 1, on_model, cmd);
    if (rc != 0)
        on_model(rc < 0 ? rc : 0, cmd);
}

unsigned commands_waiting(const struct commands *c) { return HASH_COUNT(c->waiting); }

static void ask_device(struct cw_api_call *call, struct dispatcher *d,
                       const struct command_kind *kind)
{
    struct timeval limit = { d->command_ms / 1000, d->command_ms % 1000 * 1000 };
    if (commands_waiting(d->commands) >= (unsigned)d->waiting_max) {
        cw_api_fail(call, CW_E_RATE, "%" PRId64 " commands wait for their devices already.",
                    d->waiting_max);
        return;
    }
    struct command *cmd = cw_calloc(1, sizeof *cmd);
    cmd->all = d->commands;
    cmd->kind = kind;
    cmd->call = call;
    cmd->created_ms = cw_now_ms();
    cmd->timer = evtimer_new(cw_app_base(d->app), on_timeout, cmd);
    cw_uuid(cmd->id);
    HASH_ADD_STR(d->commands->waiting, id, cmd);
    cw_metric_add(d->commands->taken, 1);
    evtimer_add(cmd->timer, &limit);
    cmd->asked = true;
    if (target_find(d, cw_api_path(call, "device_id"), on_target, cmd) < 0) {
        cmd->asked = false;
        cw_api_no_db(call);
        leave(cmd);
        free_if_over(cmd);
    }
}

void create_command(struct cw_api_call *call, void *self) { ask_device(call, self, &kind_command); }
void update_properties(struct cw_api_call *call, void *self) { ask_device(call, self, &kind_set); }
void list_properties(struct cw_api_call *call, void *self) { ask_device(call, self, &kind_get); }

/* At the end of the process: nobody is left to hear an answer. */
void commands_close(struct commands **at)
{
    struct command *cmd, *next;
    if (!*at)
        return;
    HASH_ITER(hh, (*at)->waiting, cmd, next)
    {
        HASH_DEL((*at)->waiting, cmd); /* NOLINT(clang-analyzer-unix.Malloc) */
        cw_api_fail(cmd->call, CW_E_UNAVAILABLE, "Stage: the platform was stopped meanwhile.");
        cmd->call = NULL;
        free_if_over(cmd); /* or when bus and database close */
    }
    if ((*at)->insert)
        cw_db_cancel((*at)->insert);
    STAILQ_CONCAT(&(*at)->saving, &(*at)->unsaved);
    while ((cmd = STAILQ_FIRST(&(*at)->saving))) {
        STAILQ_REMOVE_HEAD(&(*at)->saving, unsaved);
        cmd->asked = false;
        free_if_over(cmd);
    }
    free(*at);
    *at = NULL;
}

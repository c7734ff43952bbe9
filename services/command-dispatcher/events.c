/* The EVENT log: answers of devices are kept in the receipt, and told to whoever still waits; a
 * device that comes online is told its desired values. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "proto/subjects.h"
#include "services/command-dispatcher/async.h"

struct answer {
    char *command_id, *root_id;
    void *body;
    size_t len;
    int64_t root_key, at_ms;
    char *instance; /* of the caller; NULL: no such command */
    bool waiting;   /* the receipt was still open */
    bool async;     /* it is an asynchronous command's: async_answers.c takes it in */
    int64_t late_ms;
};
struct answers {
    struct answer *items;
    size_t n;
    struct desired_reasons desired;
    struct queue_wakes wakes;
};

/* Rows in the order of their ids, as receipts.c. */
static const struct cw_stmt keep = {
    "answers_keep",
    "WITH x AS MATERIALIZED (SELECT u.* FROM command.command c JOIN (SELECT DISTINCT ON (id) * "
    "FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS a(id, root, at_ms, body)) u "
    "ON c.command_id = u.id ORDER BY c.command_id FOR UPDATE OF c) "
    "UPDATE command.command c SET "
    "answered = coalesce(c.answered, to_timestamp(x.at_ms / 1000.0)), "
    "response = coalesce(c.response, x.body) "
    "FROM x WHERE c.command_id = x.id AND c.root_id = x.root "
    "RETURNING c.command_id, c.instance, c.status = 'SENT' AS waiting, "
    "CASE WHEN c.status = 'TIMEOUT' "
    "THEN greatest(1, x.at_ms - (extract(epoch FROM c.finished) * 1000)::bigint) END AS late_ms"
};

static const struct cw_stmt keep_async = {
    "answers_async",
    "INSERT INTO command.async_answer (command_id, partition, at_ms, body) SELECT u.id, "
    "c.partition, "
    "u.at_ms, u.body FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) "
    "WITH ORDINALITY AS u(id, root, at_ms, body, n) JOIN command.async_command c "
    "ON c.command_id = u.id AND c.root_id = u.root ORDER BY u.n RETURNING command_id"
};

static void add(struct answers *a, const Causeway__Event *e)
{
    a->items = cw_realloc(a->items, (a->n + 1) * sizeof *a->items);
    a->items[a->n++] = (struct answer){ .command_id = cw_strdup(e->request_id),
                                        .root_id = cw_strdup(e->device_id),
                                        .body = cw_memdup(e->body.data, e->body.len),
                                        .len = e->body.len,
                                        .root_key = e->device_key,
                                        .at_ms = e->time_ms };
}

/* The answer to a properties/set of desired.c: only a refusal is worth a word. */
static void note_refusal(struct dispatcher *d, const Causeway__Event *e)
{
    struct cw_json_error err;
    json_t *body = cw_json_parse(e->body.data, e->body.len, &err);
    json_int_t code = json_integer_value(json_object_get(body, "result_code"));
    char reason[200];
    snprintf(reason, sizeof reason,
             "The device refused desired values with result_code %" JSON_INTEGER_FORMAT ".", code);
    if (code != 0)
        cw_notice(d->notices,
                  &(struct cw_notice){ .layer = CW_LAYER_COMMAND,
                                       .device_key = e->device_key,
                                       .device_id = e->device_id,
                                       .code = "desired_refused",
                                       .reason = reason,
                                       .next_step = "Look at result_desc in its history, "
                                                    "or set values that it takes.",
                                       .sample = e->request_id });
    json_decref(body);
}

static void take(struct dispatcher *d, struct answers *a, const Causeway__Event *e,
                 uint32_t partition)
{
    queue_note(&a->wakes, e);
    if (e->kind != CAUSEWAY__EVENT_KIND__EVENT_COMMAND_RESPONSE)
        desired_note(&a->desired, e, partition);
    else if (strncmp(e->request_id, DESIRED_ID, strlen(DESIRED_ID)) == 0)
        note_refusal(d, e);
    else
        add(a, e);
}

static void prepare(struct cw_log_txn *txn, const struct cw_record *records, size_t n, void *self)
{
    struct answers *a = cw_calloc(1, sizeof *a);
    for (size_t i = 0; i < n; i++) {
        Causeway__EventBatch *batch =
            causeway__event_batch__unpack(NULL, records[i].len, records[i].data);
        for (size_t k = 0; batch && k < batch->n_events; k++)
            take(self, a, batch->events[k], records[i].partition);
        causeway__event_batch__free_unpacked(batch, NULL);
    }
    cw_log_txn_set_data(txn, a);
    cw_log_txn_prepared(txn, 0);
}

static void on_kept(PGresult *res, void *arg)
{
    struct answers *a = arg;
    if (cw_db_outcome(res) != CW_DB_OK)
        return; /* the reader rolls back */
    for (int row = 0; row < PQntuples(res); row++)
        for (size_t i = 0; i < a->n; i++)
            if (strcmp(a->items[i].command_id, cw_db_str(res, row, "command_id")) == 0) {
                free(a->items[i].instance);
                a->items[i].instance = cw_strdup(cw_db_str(res, row, "instance"));
                a->items[i].waiting = *cw_db_str(res, row, "waiting") == 't';
                a->items[i].late_ms = cw_db_i64(res, row, "late_ms", 0);
            }
}

static void on_async(PGresult *res, void *arg)
{
    struct answers *a = arg;
    for (int row = 0; cw_db_outcome(res) == CW_DB_OK && row < PQntuples(res); row++)
        for (size_t i = 0; i < a->n; i++)
            a->items[i].async |=
                strcmp(a->items[i].command_id, cw_db_str(res, row, "command_id")) == 0;
}

static void effects(struct cw_log_txn *txn, void *self)
{
    struct answers *a = cw_log_txn_data(txn);
    struct cw_db_array id = { 0 }, root = { 0 }, at = { 0 }, body = { 0 };
    (void)self;
    desired_store(&a->desired, txn);
    queue_store_wakes(&a->wakes, txn);
    if (a->n == 0)
        return;
    cw_db_array_reset(&id, CW_ARRAY_TEXT);
    cw_db_array_reset(&root, CW_ARRAY_TEXT);
    cw_db_array_reset(&at, CW_ARRAY_INT8);
    cw_db_array_reset(&body, CW_ARRAY_TEXT);
    for (size_t i = 0; i < a->n; i++) {
        const struct answer *x = &a->items[i];
        cw_db_array_str(&id, x->command_id);
        cw_db_array_str(&root, x->root_id);
        cw_db_array_int(&at, x->at_ms);
        if (cw_utf8_valid(x->body, x->len))
            cw_db_array_bytes(&body, x->body, x->len);
        else
            cw_db_array_null(&body);
    }
    const struct cw_db_param par[] = { cw_db_array_param(&id), cw_db_array_param(&root),
                                       cw_db_array_param(&at), cw_db_array_param(&body) };
    cw_log_txn_exec(txn, &keep, 4, par, on_kept, a);
    cw_log_txn_exec(txn, &keep_async, 4, par, on_async, a);
    cw_db_array_free(&id);
    cw_db_array_free(&root);
    cw_db_array_free(&at);
    cw_db_array_free(&body);
}

static void notify(struct dispatcher *d, const struct answer *x, const char *code,
                   const char *reason, const char *next_step)
{
    cw_notice(d->notices, &(struct cw_notice){ .layer = CW_LAYER_COMMAND,
                                               .device_key = x->root_key,
                                               .device_id = x->root_id,
                                               .code = code,
                                               .reason = reason,
                                               .next_step = next_step,
                                               .sample = x->command_id });
}

/* As the gateway would have: the record of the answer. */
static void pass_on(struct dispatcher *d, const struct answer *x)
{
    Causeway__Uplink up = CAUSEWAY__UPLINK__INIT;
    char subject[200];
    snprintf(subject, sizeof subject, "response.%s.%s", x->instance, x->command_id);
    up.kind = CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH;
    up.body = (ProtobufCBinaryData){ x->len, x->body };
    uint8_t *packed = cw_malloc(causeway__uplink__get_packed_size(&up));
    size_t n = causeway__uplink__pack(&up, packed);
    cw_bus_publish(cw_app_bus(d->app), subject, NULL, packed, n);
    free(packed);
}

static void tell(struct dispatcher *d, const struct answer *x)
{
    char text[200];
    if (x->async) {
        async_answers_wake(d->answers);
    } else if (!x->instance) {
        snprintf(text, sizeof text, "Answer to unknown request \"%.100s\".", x->command_id);
        notify(d, x, "unknown_request", text,
               "Let the device repeat the request_id of the command's topic unchanged.");
    } else if (x->late_ms) {
        snprintf(text, sizeof text, "The device answered %" PRId64 " ms after the timeout.",
                 x->late_ms);
        notify(d, x, "late_answer", text, "The answer is kept with the command; answer sooner.");
    } else if (x->waiting && strcmp(x->instance, cw_app_instance(d->app)) == 0) {
        command_answered(d, x->command_id, x->body, x->len);
    } else if (x->waiting) { /* its fast way may have been lost with a gateway */
        pass_on(d, x);
    }
}

static void done(struct cw_log_txn *txn, bool committed, void *self)
{
    struct answers *a = cw_log_txn_data(txn);
    for (size_t i = 0; a && i < a->n; i++) {
        if (committed)
            tell(self, &a->items[i]);
        free(a->items[i].command_id);
        free(a->items[i].root_id);
        free(a->items[i].body);
        free(a->items[i].instance);
    }
    if (a && committed && a->desired.n)
        desired_wake(((struct dispatcher *)self)->desired);
    if (a && committed && a->wakes.n) {
        queue_wake(((struct dispatcher *)self)->messages);
        queue_wake(((struct dispatcher *)self)->asyncs);
    }
    if (a) {
        desired_reasons_free(&a->desired);
        queue_wakes_free(&a->wakes);
        free(a->items);
    }
    free(a);
    cw_log_txn_set_data(txn, NULL);
}

static void owned(uint32_t partition, bool mine, void *self)
{
    struct dispatcher *d = self;
    (void)partition;
    if (mine && d->asyncs) { /* else we are just starting */
        queue_wake(d->messages);
        queue_wake(d->asyncs);
    }
}

const struct cw_log_reader_config events_reader = {
    .log = CW_LOG_EVENT,
    .group = "command-dispatcher",
    .schema = "command",
    .output = CW_LOG_EVENT,
    .relays_outbox = true,
    .mandatory = true,
    .pace_ms = 50,
    .prepare = prepare,
    .effects = effects,
    .done = done,
    .owned = owned,
};

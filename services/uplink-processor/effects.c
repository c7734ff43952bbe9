/* The statements of a transaction: a few, with arrays, however many records it covers. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/ids.h"
#include "services/uplink-processor/batch.h"
#include "services/uplink-processor/history.h"

static const struct cw_stmt stmt_history = {
    "data_history",
    "INSERT INTO data.history (device_key, received_ms, ord, kind, topic, request_id, body,"
    " verdicts, properties) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], "
    "$4::text[],"
    " $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])"
};
static const struct cw_stmt stmt_shadows = {
    "data_shadows",
    "INSERT INTO data.shadow AS s (device_key, service_id, reported, reported_time, version)"
    " SELECT n.device_key, n.service_id, n.reported::jsonb, n.time, n.touches"
    " FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[])"
    " AS n(device_key, service_id, reported, time, touches)"
    " ON CONFLICT (device_key, service_id) DO UPDATE SET"
    " reported = s.reported || excluded.reported, reported_time = excluded.reported_time,"
    " version = s.version + excluded.version"
};
static const struct cw_stmt stmt_counts = {
    "data_counts",
    "INSERT INTO data.device_state AS s (device_key, reports, last_report_ms, messages,"
    " last_message_ms) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[],"
    " $5::bigint[]) ON CONFLICT (device_key) DO UPDATE SET reports = s.reports + excluded.reports,"
    " last_report_ms = coalesce(excluded.last_report_ms, s.last_report_ms),"
    " messages = s.messages + excluded.messages,"
    " last_message_ms = coalesce(excluded.last_message_ms, s.last_message_ms)"
};
static const struct cw_stmt stmt_status = {
    "data_status",
    "INSERT INTO data.device_state AS s (device_key, status, session_no, since_ms, connected_ms,"
    " gateway, peer, cause, via_key, via_session) SELECT * FROM unnest($1::bigint[], $2::text[],"
    " $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::bigint[],"
    " $10::bigint[])"
    " ON CONFLICT (device_key) DO UPDATE SET status = excluded.status,"
    " session_no = excluded.session_no, since_ms = excluded.since_ms,"
    " connected_ms = coalesce(excluded.connected_ms, s.connected_ms),"
    " gateway = coalesce(excluded.gateway, s.gateway), peer = coalesce(excluded.peer, s.peer),"
    " cause = coalesce(excluded.cause, s.cause), via_key = excluded.via_key,"
    " via_session = excluded.via_session"
    " WHERE s.session_no <= excluded.session_no"
};
/* Who has no children, and was nobody's way, is not noted. */
static const struct cw_stmt stmt_gone = {
    "data_gone",
    "INSERT INTO data.gateway_gone AS g (device_key, partition, session_no) SELECT n.device_key,"
    " n.partition, n.session_no FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])"
    " AS n(device_key, partition, session_no, device_id)"
    " WHERE EXISTS (SELECT 1 FROM registry.child_view c WHERE c.root_id = n.device_id)"
    "  OR EXISTS (SELECT 1 FROM data.device_state v WHERE v.via_key = n.device_key)"
    " ON CONFLICT (device_key) DO UPDATE SET partition = excluded.partition,"
    " session_no = greatest(g.session_no, excluded.session_no)"
};
static const struct cw_stmt stmt_failures = {
    "data_failures",
    "SELECT data.store_failures($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[],"
    " $6::text[], $7::bigint[], $8::bigint[], $9::bigint[])"
};
static const struct cw_stmt stmt_changes = {
    "data_changes",
    "INSERT INTO data.change (device_key, at_ms, what, code, text)"
    " SELECT k, at, what, code, text FROM unnest($1::bigint[], $2::bigint[], $3::text[],"
    " $4::text[], $5::text[]) WITH ORDINALITY AS n(k, at, what, code, text, no) ORDER BY no"
};
/* The text here, not a function of SQL: what that runs would be planned with each call. The release
 * before this one calls data.keep_64_changes(). */
const struct cw_stmt stmt_keep_changes = {
    "data_keep", "DELETE FROM data.change c USING (SELECT d.device_key,"
                 " (SELECT w.id FROM data.change w WHERE w.device_key = d.device_key"
                 "  ORDER BY w.id DESC OFFSET 64 LIMIT 1) AS id FROM unnest($1::bigint[])"
                 " AS d(device_key)) old WHERE c.device_key = old.device_key AND c.id <= old.id"
};

#define COLUMNS_MAX 16

/* Columns of a statement in the making. */
struct columns {
    struct cw_db_array arrays[COLUMNS_MAX];
    int n;
};

static void columns_start(struct columns *c, const char *types)
{
    *c = (struct columns){ .n = (int)strlen(types) };
    for (int i = 0; i < c->n; i++)
        cw_db_array_reset(&c->arrays[i], types[i] == 'i' ? CW_ARRAY_INT8 : CW_ARRAY_TEXT);
}

static void columns_run(struct columns *c, struct cw_log_txn *txn, const struct cw_stmt *stmt)
{
    struct cw_db_param params[COLUMNS_MAX];
    for (int i = 0; i < c->n; i++)
        params[i] = cw_db_array_param(&c->arrays[i]);
    if (c->arrays[0].n > 0)
        cw_log_txn_exec(txn, stmt, c->n, params, NULL, NULL);
    for (int i = 0; i < c->n; i++)
        cw_db_array_free(&c->arrays[i]);
}

static void add_int(struct columns *c, int at, int64_t v, bool is_null)
{
    if (is_null)
        cw_db_array_null(&c->arrays[at]);
    else
        cw_db_array_int(&c->arrays[at], v);
}

static void add_text(struct columns *c, int at, const char *text)
{
    cw_db_array_str(&c->arrays[at], text);
}

/* What a gateway put in is UTF-8 without NUL, or is left out. */
static const char *clean(const char *text)
{
    return text && *text && cw_utf8_valid(text, strlen(text)) ? text : NULL;
}

void batch_history(struct batch *b, const struct history_row *row)
{
    const Causeway__Uplink *up = row->uplink;
    cw_db_array_int(&b->history[H_KEY], row->device_key ? row->device_key : up->device_key);
    cw_db_array_int(&b->history[H_RECEIVED], history_clamp(b->u->history, up->received_ms));
    cw_db_array_int(&b->history[H_ORD], row->ord);
    cw_db_array_str(&b->history[H_KIND], row->kind);
    cw_db_array_str(&b->history[H_TOPIC], clean(row->topic));
    const char *id = clean(row->request_id);
    cw_db_array_str(&b->history[H_REQUEST], id ? id : "");
    cw_db_array_bytes(&b->history[H_BODY], row->body, row->len);
    if (row->verdicts->len)
        cw_db_array_bytes(&b->history[H_VERDICTS], row->verdicts->data, row->verdicts->len);
    else
        cw_db_array_null(&b->history[H_VERDICTS]);
    cw_db_array_str(&b->history[H_PROPERTIES], clean(up->properties));
}

static void history_params(struct batch *b, struct cw_db_param *params)
{
    for (int i = 0; i < H_COLUMNS; i++)
        params[i] = cw_db_array_param(&b->history[i]);
}

static void shadow_columns(struct batch *b, struct columns *c)
{
    struct cw_buf text = { 0 };
    columns_start(c, "ittti");
    for (struct shadow_entry *e = b->shadows; e; e = e->hh.next) {
        cw_buf_reset(&text);
        cw_json_write(&text, e->reported);
        add_int(c, 0, e->key.device_key, false);
        add_text(c, 1, e->key.service_id);
        cw_db_array_bytes(&c->arrays[2], text.data, text.len);
        add_text(c, 3, e->time);
        add_int(c, 4, e->touches, false);
    }
    cw_buf_free(&text);
}

static void store(struct batch *b, struct cw_log_txn *txn)
{
    struct cw_db_param params[H_COLUMNS];
    struct columns shadows;
    history_params(b, params);
    if (b->history[H_KEY].n > 0)
        cw_log_txn_exec(txn, &stmt_history, H_COLUMNS, params, NULL, NULL);
    shadow_columns(b, &shadows);
    columns_run(&shadows, txn, &stmt_shadows);
}

static void store_states(struct batch *b, struct cw_log_txn *txn)
{
    struct columns status, counts, gone;
    columns_start(&gone, "iiit");
    columns_start(&status, "itiiitttii");
    columns_start(&counts, "iiiii");
    for (struct state *s = b->states; s; s = s->hh.next) {
        if (s->changed) {
            add_int(&status, 0, s->device_key, false);
            add_text(&status, 1, s->online ? "ONLINE" : "OFFLINE");
            add_int(&status, 2, s->session_no, false);
            add_int(&status, 3, s->since_ms, false);
            add_int(&status, 4, s->connected_ms, s->connected_ms == 0);
            add_text(&status, 5, clean(s->gateway));
            add_text(&status, 6, clean(s->peer));
            add_text(&status, 7, clean(s->cause));
            add_int(&status, 8, s->via_key, s->via_key == 0);
            add_int(&status, 9, s->via_session, s->via_key == 0);
        }
        if (s->gone_session) {
            add_int(&gone, 0, s->device_key, false);
            add_int(&gone, 1, s->gone_partition, false);
            add_int(&gone, 2, s->gone_session, false);
            add_text(&gone, 3, clean(s->gone_id));
            b->gateways_gone = true;
        }
        if (s->reports || s->messages) {
            add_int(&counts, 0, s->device_key, false);
            add_int(&counts, 1, s->reports, false);
            add_int(&counts, 2, s->last_report_ms, s->reports == 0);
            add_int(&counts, 3, s->messages, false);
            add_int(&counts, 4, s->last_message_ms, s->messages == 0);
        }
    }
    columns_run(&status, txn, &stmt_status);
    columns_run(&counts, txn, &stmt_counts);
    columns_run(&gone, txn, &stmt_gone);
}

/* Looking for what is older than the newest 64 costs as much as a change itself, so it is done for
 * one change of sixteen, by lot: a device whose changes come in any rhythm is drawn, too. Readers
 * ask for 64. */
static bool drawn(void)
{
    static uint64_t x;
    if (!x)
        cw_random(&x, sizeof x);
    x = x * 6364136223846793005u + 1442695040888963407u; /* Knuth, MMIX; its upper bits are good */
    return x >> 60 == 0;
}

static void store_why(struct batch *b, struct cw_log_txn *txn)
{
    struct columns failures, changes, touched;
    columns_start(&changes, "iittt");
    columns_start(&failures, "itttttiii");
    columns_start(&touched, "i");
    for (size_t i = 0; i < b->why.n_changes; i++) {
        const struct why_change *ch = &b->why.changes[i];
        add_int(&changes, 0, ch->device_key, false);
        add_int(&changes, 1, ch->at_ms, false);
        add_text(&changes, 2, ch->what);
        add_text(&changes, 3, clean(ch->code));
        add_text(&changes, 4, ch->text);
        if (drawn())
            add_int(&touched, 0, ch->device_key, false);
    }
    for (struct why_failure *f = b->why.failures; f; f = f->hh.next) {
        add_int(&failures, 0, f->key.device_key, false);
        add_text(&failures, 1, f->key.layer);
        add_text(&failures, 2, f->code);
        add_text(&failures, 3, f->reason);
        add_text(&failures, 4, f->next_step);
        add_text(&failures, 5, f->sample);
        add_int(&failures, 6, f->first_ms, false);
        add_int(&failures, 7, f->last_ms, false);
        add_int(&failures, 8, f->count, false);
        if (drawn())
            add_int(&touched, 0, f->key.device_key, false);
    }
    columns_run(&changes, txn, &stmt_changes);
    columns_run(&failures, txn, &stmt_failures);
    columns_run(&touched, txn, &stmt_keep_changes);
}

void batch_send(struct batch *b, struct cw_log_txn *txn)
{
    store(b, txn);
    store_states(b, txn);
    store_why(b, txn);
}

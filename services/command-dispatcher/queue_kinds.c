/* The two kinds of what waits for devices: their statements, and how their status is told. */
#include <string.h>

#include "services/command-dispatcher/queue.h"

/* One row of each device that has some: a probe of the index each, however many wait behind. One
 * that is behind a parked one is not yet sent: the device has just come back, and what was parked
 * goes first. The rest: what is parked and overdue. */
#define OPEN(open) "q.status IN (" open ") AND q.partition = ANY($1::int[])"
/* clang-format off */
#define FIRST(table, open, more) \
    "(SELECT q.root_key FROM command." table " q WHERE " OPEN(open) " AND NOT q.parked" more \
    " ORDER BY q.root_key LIMIT 1)"
#define DEVICES(table, open) \
    FIRST(table, open, "") " UNION ALL SELECT " FIRST(table, open, " AND q.root_key > r.root_key") \
    " FROM r WHERE r.root_key IS NOT NULL"
#define HEAD(table, open) \
    "SELECT q.*, EXISTS (SELECT FROM command." table " b WHERE b.root_key = q.root_key" \
    "  AND b.status IN (" open ") AND b.parked AND b.no < q.no) AS behind" \
    " FROM command." table " q WHERE q.root_key = r.root_key AND " OPEN(open) " AND NOT q.parked" \
    " ORDER BY q.no LIMIT 1"
#define OVERDUE(table, open) \
    "SELECT q.*, false AS behind FROM command." table " q WHERE " OPEN(open) \
    " AND q.parked AND q.expires <= to_timestamp($3::bigint / 1000.0) LIMIT $2::bigint"
#define HEADS(table, id, open, more) \
    "WITH RECURSIVE r(root_key) AS (" DEVICES(table, open) ")," \
    " m AS ((SELECT h.* FROM r CROSS JOIN LATERAL (" HEAD(table, open) ") h LIMIT $2::bigint)" \
    "  UNION ALL (" OVERDUE(table, open) "))" \
    " SELECT m." id " AS id, m.device_key, m.root_key, m.root_id, m.device_id, m.partition," \
    " m.topic, m.payload, m.status, m.attempts, m.wakes, m.behind," \
    " (extract(epoch FROM m.created) * 1000)::bigint AS created_ms," \
    " (extract(epoch FROM m.written) * 1000)::bigint AS written_ms," \
    " m.expires <= to_timestamp($3::bigint / 1000.0) AS overdue," \
    " m.parked OR m.due <= to_timestamp($3::bigint / 1000.0) AS due, " more \
    ", v.node_id, v.app_id, v.product_key, v.product_id, s.gateway, s.session_no" \
    " FROM m JOIN registry.device_view v USING (device_key)" \
    " LEFT JOIN registry.session_view s ON s.device_key = m.root_key"
/* clang-format on */

/* Not if the device came back meanwhile. */
#define PARK(table, id, open)                                                                      \
    "UPDATE command." table " SET parked = true WHERE device_key = $1 AND " id " = $2"             \
    " AND status IN (" open ") AND wakes = $3::bigint AND NOT EXISTS (SELECT FROM"                 \
    " registry.session_view WHERE device_key = $4::bigint)"

#define MS(n) "to_timestamp(nullif($" n "::bigint, 0) / 1000.0)"
/* The status and the fact that it changed are one. */
#define STORE(table, id)                                                                           \
    "WITH m AS (UPDATE command." table " SET status = $4, error_code = $5, error_msg = $6,"        \
    " attempts = $7, written = coalesce(" MS("8") ", written), delivered = " MS(                   \
        "9") ", finished = " MS("10") ", due = " MS("11") " WHERE device_key = $1 AND " id " = $2" \
                                                          " AND status = $3 RETURNING partition)"  \
                                                          " INSERT INTO command.outbox "           \
                                                          "(partition, event) SELECT partition, "  \
                                                          "$12 FROM m"

/* ---- messages */

static void member(struct cw_buf *b, const char *before, const char *value)
{
    cw_buf_str(b, before);
    cw_buf_json_string(b, value, strlen(value));
}

static void message_body(struct cw_buf *b, const struct queue_item *it)
{
    char at[CW_TIME_LEN];
    member(b, "{\"message_id\":", it->id);
    if (it->title)
        member(b, ",\"name\":", it->title);
    member(b, ",\"topic\":", it->topic);
    cw_buf_printf(b, ",\"status\":\"%s\",\"timestamp\":\"%s\"", delivery_name(it->step.status),
                  cw_time_basic(at, it->finished_ms));
    if (it->error_code) {
        member(b, ",\"error_info\":{\"error_code\":", it->error_code);
        member(b, ",\"error_msg\":", it->text);
        cw_buf_str(b, "}");
    }
    cw_buf_str(b, "}");
}

const struct queue_kind kind_message = {
    .what = "message",
    .code = "message_failed",
    .metric = "causeway_messages_total",
    .metric_help = "Messages by status they came to",
    .heads = { "message_heads",
               HEADS("message", "message_id", "'PENDING'",
                     "m.name AS title, m.kept, m.replaced, m.properties, NOT m.system_topic AS "
                     "needs_subscription") },
    .park = { "message_park", PARK("message", "message_id", "'PENDING'") },
    .store = { "message_store", STORE("message", "message_id") },
    .event = CAUSEWAY__EVENT_KIND__EVENT_MESSAGE_STATUS,
    .body = message_body,
};

/* ---- asynchronous commands */

static void time_member(struct cw_buf *b, const char *name, int64_t ms)
{
    char at[CW_TIME_LEN];
    if (ms)
        cw_buf_printf(b, ",\"%s\":\"%s\"", name, cw_time_basic(at, ms));
}

static void async_body(struct cw_buf *b, const struct queue_item *it)
{
    member(b, "{\"command_id\":", it->id);
    time_member(b, "created_time", it->created_ms);
    time_member(b, "sent_time", it->written_ms);
    time_member(b, "delivered_time", it->acked_ms);
    time_member(b, "response_time", it->answered_ms);
    member(b, ",\"status\":", delivery_name(it->step.status));
    if (it->result) {
        cw_buf_str(b, ",\"result\":");
        cw_buf_str(b, it->result);
    } else if (it->error_code) {
        member(b, ",\"result\":{\"error_code\":", it->error_code);
        member(b, ",\"error_msg\":", it->text);
        cw_buf_str(b, "}");
    }
    cw_buf_str(b, "}");
}

const struct queue_kind kind_async = {
    .what = "command",
    .code = "command_failed",
    .metric = "causeway_async_commands_total",
    .metric_help = "Asynchronous commands by status they came to",
    .heads = { "async_heads",
               HEADS("async_command", "command_id", "'PENDING', 'SENT'",
                     "NULL AS title, NULL AS properties, m.send_strategy = 'delay' AS kept,"
                     " false AS replaced, false AS needs_subscription") },
    .park = { "async_park", PARK("async_command", "command_id", "'PENDING', 'SENT'") },
    .store = { "async_store", STORE("async_command", "command_id") },
    .event = CAUSEWAY__EVENT_KIND__EVENT_COMMAND_STATUS,
    .resend_plan = true,
    .body = async_body,
};

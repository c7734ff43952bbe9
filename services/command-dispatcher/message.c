/* Messages of applications to devices: taken, listed, shown, deleted. queue.c delivers them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/command-dispatcher/payload.h"
#include "services/command-dispatcher/queue.h"

#define PAYLOAD_MAX (256U << 10)
#define TTL_MIN     1440 /* minutes, unless the caller says otherwise */
#define WAITING_MAX "20" /* for a device that is away: newer ones take the place of the oldest */

struct creating {
    struct dispatcher *d;
    struct cw_api_call *call;
    struct target to;
    char id[104], topic[512];
    bool system_topic;
    struct cw_buf payload;
    int64_t created_ms, ttl_ms; /* ttl_ms 0: it is not kept for later */
};

static void creating_free(struct creating *c)
{
    target_free(&c->to);
    cw_buf_free(&c->payload);
    free(c);
}

/* ---- what the device gets, and where */

static void content(struct cw_buf *out, const json_t *message)
{
    if (json_is_string(message))
        cw_buf_add(out, json_string_value(message), json_string_length(message));
    else
        cw_json_write(out, message);
}

/* The platform's envelope: these keys and no others, content as text. */
static void envelope(struct creating *c, const json_t *body)
{
    struct cw_buf text = { 0 };
    json_t *out = json_object();
    content(&text, json_object_get(body, "message"));
    if (c->to.device_key != c->to.root_key)
        json_object_set_new(out, "object_device_id", json_string(c->to.device_id));
    if (cw_json_text(body, "name"))
        json_object_set_new(out, "name", json_string(cw_json_text(body, "name")));
    json_object_set_new(out, "id", json_string(c->id));
    json_object_set_new(out, "content", json_stringn(text.data, text.len));
    cw_json_write(&c->payload, out);
    json_decref(out);
    cw_buf_free(&text);
}

static bool is(const json_t *body, const char *key, const char *value)
{
    const char *v = cw_json_text(body, key);
    return v && strcmp(v, value) == 0;
}

/* NULL, or which field is wrong and how. */
static const char *read_payload(struct creating *c, const json_t *body)
{
    const json_t *message = json_object_get(body, "message");
    bool raw = is(body, "payload_format", "raw");
    if (is(body, "encoding", "base64")) {
        if (raw)
            return "payload_format: raw needs encoding none.";
        if (!json_is_string(message) ||
            payload_from_base64(&c->payload, json_string_value(message)) < 0)
            return "message: not base64.";
    } else if (raw || !c->system_topic) {
        content(&c->payload, message);
    } else {
        envelope(c, body);
    }
    return c->payload.len > PAYLOAD_MAX ? "message: more than 256 KB." : NULL;
}

static const char *read_topic(struct creating *c, const json_t *body)
{
    const char *suffix = cw_json_text(body, "topic"), *full = cw_json_text(body, "topic_full_name");
    if (suffix && full)
        return "topic, topic_full_name: only one of them.";
    const char *name = suffix ? suffix : full;
    if (name && strpbrk(name, "+#"))
        return suffix ? "topic: a wildcard." : "topic_full_name: a wildcard.";
    c->system_topic = !name;
    if (full)
        snprintf(c->topic, sizeof c->topic, "%s", full);
    else
        snprintf(c->topic, sizeof c->topic, "$oc/devices/%s/%s%s", c->to.root_id,
                 suffix ? "user/" : "sys/messages/down", suffix ? suffix : "");
    return NULL;
}

/* ---- create */

static const struct cw_stmt insert = {
    "message_insert",
    "WITH m AS (INSERT INTO command.message (device_key, message_id, device_id, root_key, root_id, "
    "partition, name, message, encoding, payload_format, topic, system_topic, properties, payload, "
    "created, kept, expires) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, "
    "to_timestamp($15::bigint / 1000.0), $16, to_timestamp($17::bigint / 1000.0)) "
    "ON CONFLICT DO NOTHING RETURNING 1), "
    "old AS (SELECT o.message_id FROM command.message o WHERE o.device_key = $1 "
    "AND o.status = 'PENDING' AND o.parked ORDER BY o.no DESC OFFSET " WAITING_MAX " - 1), "
    "e AS (UPDATE command.message x SET replaced = true, "
    "expires = to_timestamp($15::bigint / 1000.0) FROM old, m "
    "WHERE x.device_key = $1 AND x.message_id = old.message_id) SELECT * FROM m"
};

static void on_inserted(PGresult *res, void *arg)
{
    struct creating *c = arg;
    char at[CW_TIME_LEN];
    if (cw_api_db_failed(c->call, res, "message")) {
        creating_free(c);
        return;
    }
    if (PQntuples(res) == 0) {
        cw_api_fail(c->call, CW_E_MESSAGE_TAKEN, "message_id: \"%s\" is in use on device \"%s\".",
                    c->id, c->to.device_id);
        creating_free(c);
        return;
    }
    cw_api_reply_json(c->call, 201,
                      json_pack("{s:s, s:{s:s, s:s}}", "message_id", c->id, "result", "status",
                                delivery_name(DELIVERY_PENDING), "created_time",
                                cw_time_basic(at, c->created_ms)));
    dispatcher_wake(c->d, c->to.partition, c->d->messages);
    creating_free(c);
}

static char *written(const json_t *v)
{
    struct cw_buf b = { 0 };
    if (v)
        cw_json_write(&b, v);
    return b.data;
}

static void store(struct creating *c, json_t *body)
{
    char key[24], root[24], partition[24], created[24], expires[24];
    int64_t life_ms = c->ttl_ms ? c->ttl_ms : c->d->unknown_ms;
    char *message = written(json_object_get(body, "message"));
    char *properties = written(json_object_get(body, "properties"));
    const char *encoding = cw_json_text(body, "encoding");
    const char *format = cw_json_text(body, "payload_format");
    const struct cw_db_param par[] = { cw_db_int(c->to.device_key, key),
                                       CW_TEXT(c->id),
                                       CW_TEXT(c->to.device_id),
                                       cw_db_int(c->to.root_key, root),
                                       CW_TEXT(c->to.root_id),
                                       cw_db_int(c->to.partition, partition),
                                       CW_TEXT(cw_json_text(body, "name")),
                                       CW_TEXT(message),
                                       CW_TEXT(encoding ? encoding : "none"),
                                       CW_TEXT(format ? format : "standard"),
                                       CW_TEXT(c->topic),
                                       CW_TEXT(c->system_topic ? "t" : "f"),
                                       CW_TEXT(properties),
                                       CW_BIN(c->payload.data ? c->payload.data : "",
                                              c->payload.len),
                                       cw_db_int(c->created_ms, created),
                                       CW_TEXT(c->ttl_ms ? "t" : "f"),
                                       cw_db_int(c->created_ms + life_ms, expires) };
    if (!cw_db_exec(c->d->db, &insert, CW_ARRAY_LEN(par), par, on_inserted, c)) {
        cw_api_no_db(c->call);
        creating_free(c);
    }
    free(message);
    free(properties);
}

/* Custom topics are those of the product of the directly connected device, if it defines any. */
static const struct cw_stmt topics = {
    "message_topics",
    "SELECT count(*) AS defined, COALESCE(bool_or(t.topic = $2 AND t.rights <> 'PUBLISH'), false)"
    " AS fits FROM registry.device_view r JOIN registry.product_topic_view t USING (product_key)"
    " WHERE r.device_id = $1"
};

static void on_topics(PGresult *res, void *arg)
{
    struct creating *c = arg;
    const char *suffix = cw_json_text(cw_api_body(c->call), "topic");
    bool fine = !cw_api_db_failed(c->call, res, "topics of the product");
    int64_t defined = fine ? cw_db_i64(res, 0, "defined", 0) : 0;
    if (fine && (defined ? *cw_db_str(res, 0, "fits") == 't' : !cw_app_strict(c->d->app))) {
        store(c, cw_api_body(c->call));
        return;
    }
    if (fine)
        cw_api_fail(
            c->call, CW_E_TOPIC_UNDEFINED,
            "topic: \"%s\" is none of those that the product of \"%s\" lets devices receive.",
            suffix, c->to.root_id);
    creating_free(c);
}

static void check_topic(struct creating *c)
{
    const char *suffix = cw_json_text(cw_api_body(c->call), "topic");
    const struct cw_db_param p[] = { CW_TEXT(c->to.root_id), CW_TEXT(suffix) };
    if (!suffix)
        store(c, cw_api_body(c->call));
    else if (!cw_db_exec(c->d->db, &topics, CW_ARRAY_LEN(p), p, on_topics, c)) {
        cw_api_no_db(c->call);
        creating_free(c);
    }
}

static void on_target(int found, struct target *t, void *arg)
{
    struct creating *c = arg;
    json_t *body = cw_api_body(c->call);
    if (!target_takes(c->d, c->call, found, t, "message", c->ttl_ms != 0)) {
        creating_free(c);
        return;
    }
    c->to = *t;
    *t = (struct target){ 0 };
    const char *wrong = read_topic(c, body);
    if (!wrong)
        wrong = read_payload(c, body);
    if (wrong) {
        cw_api_fail(c->call, CW_E_INVALID, "%s", wrong);
        creating_free(c);
        return;
    }
    check_topic(c);
}

void create_message(struct cw_api_call *call, void *self)
{
    struct creating *c = cw_calloc(1, sizeof *c);
    const char *id = cw_json_text(cw_api_body(call), "message_id");
    const json_t *ttl = json_object_get(cw_api_body(call), "ttl");
    c->ttl_ms = (ttl ? json_integer_value(ttl) : TTL_MIN) * 60000;
    c->d = self;
    c->call = call;
    c->created_ms = cw_now_ms();
    if (id)
        snprintf(c->id, sizeof c->id, "%s", id);
    else
        cw_uuid(c->id);
    if (target_find(self, cw_api_path(call, "device_id"), on_target, c) < 0) {
        cw_api_no_db(call);
        creating_free(c);
    }
}

/* ---- list and show */

#define BASIC_TIME(c) "to_char(" c " AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"')"
#define COLUMNS                                                                                    \
    "d.device_id, m.message_id, m.name, m.message, m.encoding, m.payload_format, m.topic, "        \
    "m.properties, m.status, m.error_code, m.error_msg, " BASIC_TIME(                              \
        "m.created") " AS created, " BASIC_TIME("m.finished") " AS finished "

/* A row of NULLs: the device is there, the message is not. */
static const struct cw_stmt list = {
    "message_list", "SELECT " COLUMNS "FROM registry.device_view d "
                    "LEFT JOIN command.message m ON m.device_key = d.device_key "
                    "WHERE d.device_id = $1 ORDER BY m.created DESC, m.message_id LIMIT 1000"
};
static const struct cw_stmt show = {
    "message_show", "SELECT " COLUMNS "FROM registry.device_view d "
                    "LEFT JOIN command.message m "
                    "ON m.device_key = d.device_key AND m.message_id = $2 WHERE d.device_id = $1"
};

static json_t *message_json(const PGresult *res, int row)
{
    json_t *o = json_object();
    cw_row_text(o, "message_id", res, row, "message_id");
    cw_row_text(o, "name", res, row, "name");
    cw_row_json(o, "message", res, row, "message");
    cw_row_text(o, "encoding", res, row, "encoding");
    cw_row_text(o, "payload_format", res, row, "payload_format");
    cw_row_text(o, "topic", res, row, "topic");
    cw_row_json(o, "properties", res, row, "properties");
    cw_row_text(o, "status", res, row, "status");
    cw_row_text(o, "created_time", res, row, "created");
    cw_row_text(o, "finished_time", res, row, "finished");
    if (cw_db_str(res, row, "error_code")) {
        json_t *e = json_object();
        cw_row_text(e, "error_code", res, row, "error_code");
        cw_row_text(e, "error_msg", res, row, "error_msg");
        json_object_set_new(o, "error_info", e);
    }
    return o;
}

static bool device_is_there(struct cw_api_call *call, const PGresult *res)
{
    if (cw_api_db_failed(call, res, "messages"))
        return false;
    if (PQntuples(res) > 0)
        return true;
    cw_api_fail(call, CW_E_NO_DEVICE, "Device \"%s\".", cw_api_path(call, "device_id"));
    return false;
}

static void on_list(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    json_t *messages;
    if (!device_is_there(call, res))
        return;
    messages = json_array();
    for (int row = 0; row < PQntuples(res); row++)
        if (cw_db_str(res, row, "message_id"))
            json_array_append_new(messages, message_json(res, row));
    cw_api_reply_json(
        call, 200,
        json_pack("{s:s, s:o}", "device_id", cw_db_str(res, 0, "device_id"), "messages", messages));
}

/* As IoTDA does: a message that is not there is an empty answer, not a 404. */
static void on_show(PGresult *res, void *arg)
{
    if (device_is_there(arg, res))
        cw_api_reply_json(arg, 200, message_json(res, 0));
}

void list_messages(struct cw_api_call *call, void *self)
{
    struct dispatcher *d = self;
    if (!cw_db_exec(d->db, &list, 1, &CW_TEXT(cw_api_path(call, "device_id")), on_list, call))
        cw_api_no_db(call);
}

void show_message(struct cw_api_call *call, void *self)
{
    struct dispatcher *d = self;
    const struct cw_db_param par[] = { CW_TEXT(cw_api_path(call, "device_id")),
                                       CW_TEXT(cw_api_path(call, "message_id")) };
    if (!cw_db_exec(d->db, &show, 2, par, on_show, call))
        cw_api_no_db(call);
}

/* ---- delete */

/* A row of the device, in which n says whether there was such a message. */
static const struct cw_stmt remove_one = {
    "message_delete", "WITH m AS (DELETE FROM command.message m USING registry.device_view d "
                      "WHERE d.device_id = $1 AND m.device_key = d.device_key "
                      "AND m.message_id = $2 RETURNING 1) "
                      "SELECT (SELECT count(*) FROM m) AS n FROM registry.device_view d "
                      "WHERE d.device_id = $1"
};

static void on_removed(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (!device_is_there(call, res))
        return;
    if (cw_db_i64(res, 0, "n", 0) == 0)
        cw_api_fail(call, CW_E_NO_MESSAGE, "Message \"%s\".", cw_api_path(call, "message_id"));
    else
        cw_api_reply(call, 204, NULL, 0);
}

void delete_message(struct cw_api_call *call, void *self)
{
    struct dispatcher *d = self;
    const struct cw_db_param par[] = { CW_TEXT(cw_api_path(call, "device_id")),
                                       CW_TEXT(cw_api_path(call, "message_id")) };
    if (!cw_db_exec(d->db, &remove_one, 2, par, on_removed, call))
        cw_api_no_db(call);
}

#include "services/device-registry/product_topics.h"

#include <stdlib.h>
#include <string.h>

#include "services/device-registry/policies.h"
#include "services/device-registry/product.h"

#define PREFIX "$oc/devices/{device_id}/user/"

/* The product that product_find() would choose. */
#define GIVEN                                                                                      \
    "WITH k AS (SELECT $2::text IS NULL OR EXISTS (SELECT FROM registry.app WHERE app_id = $2)"    \
    "  AS known),"                                                                                 \
    " p AS (SELECT p.product_key FROM registry.product p JOIN registry.app a USING (app_id)"       \
    "  WHERE p.product_id = $1 AND ($2::text IS NULL OR p.app_id = $2)"                            \
    "  ORDER BY a.default_app DESC, p.product_key LIMIT 1)"
#define COLUMNS                                                                                    \
    "t.topic_id, t.topic, t.rights, t.description, " SQL_BASIC_TIME("t.created") " AS create_time"

static const struct cw_stmt stmt_list = {
    "topics_list", GIVEN " SELECT k.known, p.product_key, " COLUMNS
                         " FROM k LEFT JOIN p ON true LEFT JOIN registry.product_topic t"
                         " USING (product_key) ORDER BY t.topic"
};
/* A row that is there already comes back with its own id; one that the trigger leaves out is one
 * too many. */
static const struct cw_stmt stmt_create = {
    "topics_create", GIVEN ", t AS (INSERT INTO registry.product_topic AS o"
                           "  (topic_id, product_key, topic, rights, description)"
                           "  SELECT $3, product_key, $4, $5, $6 FROM p"
                           "  ON CONFLICT (product_key, topic) DO UPDATE SET topic = o.topic"
                           "  RETURNING *)"
                           " SELECT k.known, p.product_key, " COLUMNS
                           " FROM k LEFT JOIN p ON true LEFT JOIN t ON true"
};
static const struct cw_stmt stmt_delete = {
    "topics_delete",
    GIVEN ", t AS (DELETE FROM registry.product_topic o USING p"
          "  WHERE o.product_key = p.product_key AND o.topic_id = lower($3) RETURNING o.topic_id)"
          " SELECT k.known, p.product_key, t.topic_id FROM k LEFT JOIN p ON true"
          " LEFT JOIN t ON true"
};

/* ---- what gateways are told */

static void add_one(Causeway__ProductTopics *to, const char *text, size_t len)
{
    Causeway__ProductTopic *t = cw_malloc(sizeof *t);
    causeway__product_topic__init(t);
    t->publish = *text != 'S';
    t->subscribe = *text != 'P';
    t->topic = cw_strndup(text + 1, len - 1);
    to->topics = cw_realloc(to->topics, (to->n_topics + 1) * sizeof(void *));
    to->topics[to->n_topics++] = t;
}

void topics_add(struct topics_told *told, int64_t product_key, const char *topics)
{
    for (size_t i = 0; i < told->n; i++)
        if (told->list[i]->product_key == product_key)
            return;
    Causeway__ProductTopics *to = cw_malloc(sizeof *to);
    causeway__product_topics__init(to);
    to->product_key = product_key;
    for (size_t len; topics && *topics; topics += len + (topics[len] == ' ')) {
        len = strcspn(topics, " ");
        add_one(to, topics, len);
    }
    told->list = cw_realloc(told->list, (told->n + 1) * sizeof(void *));
    told->list[told->n++] = to;
}

void topics_free(struct topics_told *told)
{
    for (size_t i = 0; i < told->n; i++) {
        Causeway__ProductTopics *to = told->list[i];
        for (size_t k = 0; k < to->n_topics; k++) {
            free(to->topics[k]->topic);
            free(to->topics[k]);
        }
        free(to->topics);
        free(to);
    }
    free(told->list);
    *told = (struct topics_told){ 0 };
}

/* ---- operations */

/* One call under way. */
struct work {
    struct registry *r;
    struct cw_api_call *call;
    const char *app_id; /* of the query or the body, or NULL */
    char id[CW_RECORD_ID_LEN];
};

static json_t *topic_json(const PGresult *res, int row)
{
    static const char *const texts[] = { "topic_id", "topic", "rights", "description",
                                         "create_time" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, row, texts[i]);
    char full[sizeof PREFIX + 64];
    snprintf(full, sizeof full, PREFIX "%s", cw_db_str(res, row, "topic"));
    json_object_set_new(o, "topic_full_name", json_string(full));
    return o;
}

static bool product_is_there(const struct work *w, const PGresult *res, const char *what)
{
    if (cw_api_db_failed(w->call, res, what))
        return false;
    if (!cw_db_str(res, 0, "product_key")) {
        product_fail_none(w->call, res, w->app_id);
        return false;
    }
    return true;
}

static void on_list(PGresult *res, void *arg)
{
    struct work *w = arg;
    if (product_is_there(w, res, "list topics")) {
        json_t *list = json_array();
        for (int i = 0; i < PQntuples(res) && cw_db_str(res, i, "topic_id"); i++)
            json_array_append_new(list, topic_json(res, i));
        cw_api_reply_json(w->call, 200, json_pack("{s:o}", "topics", list));
    }
    free(w);
}

static void on_created(PGresult *res, void *arg)
{
    struct work *w = arg;
    if (product_is_there(w, res, "create a topic")) {
        const char *id = cw_db_str(res, 0, "topic_id");
        if (!id)
            cw_api_fail(w->call, CW_E_TOPIC_QUOTA, "The product has 50 custom topics.");
        else if (strcmp(id, w->id) != 0)
            cw_api_fail(w->call, CW_E_TOPIC_TAKEN, "Topic \"%s\" has the topic_id %s.",
                        cw_db_str(res, 0, "topic"), id);
        else {
            topics_changed(w->r, cw_db_i64(res, 0, "product_key", 0));
            cw_api_reply_json(w->call, 201, topic_json(res, 0));
        }
    }
    free(w);
}

static void on_deleted(PGresult *res, void *arg)
{
    struct work *w = arg;
    if (product_is_there(w, res, "delete a topic")) {
        if (!cw_db_str(res, 0, "topic_id"))
            cw_api_fail(w->call, CW_E_NO_TOPIC, "Topic \"%s\".", cw_api_path(w->call, "topic_id"));
        else {
            topics_changed(w->r, cw_db_i64(res, 0, "product_key", 0));
            cw_api_reply(w->call, 204, NULL, 0);
        }
    }
    free(w);
}

static void run(struct work *w, const struct cw_stmt *stmt, int n, const struct cw_db_param *p,
                cw_db_fn *cb)
{
    if (cw_db_exec(registry_db(w->r), stmt, n, p, cb, w))
        return;
    cw_api_no_db(w->call);
    free(w);
}

static struct work *work_new(struct cw_api_call *call, void *self, const char *app_id)
{
    struct work *w = cw_malloc(sizeof *w);
    *w = (struct work){ .r = self, .call = call, .app_id = app_id };
    return w;
}

void list_product_topics(struct cw_api_call *call, void *self)
{
    struct work *w = work_new(call, self, cw_api_query(call, "app_id"));
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "product_id")), CW_TEXT(w->app_id) };
    run(w, &stmt_list, CW_ARRAY_LEN(p), p, on_list);
}

void create_product_topic(struct cw_api_call *call, void *self)
{
    const json_t *body = cw_api_body(call);
    const char *topic = cw_body_text(body, "topic");
    if (*topic == '/' || strstr(topic, "//")) {
        cw_api_fail(call, CW_E_TOPIC_BAD, "topic: \"%s\".", topic);
        return;
    }
    struct work *w = work_new(call, self, cw_body_text(body, "app_id"));
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "product_id")),
                                     CW_TEXT(w->app_id),
                                     CW_TEXT(cw_record_id(w->id)),
                                     CW_TEXT(topic),
                                     CW_TEXT(cw_body_text(body, "rights")),
                                     CW_TEXT(cw_body_text(body, "description")) };
    run(w, &stmt_create, CW_ARRAY_LEN(p), p, on_created);
}

void delete_product_topic(struct cw_api_call *call, void *self)
{
    struct work *w = work_new(call, self, cw_api_query(call, "app_id"));
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "product_id")), CW_TEXT(w->app_id),
                                     CW_TEXT(cw_api_path(call, "topic_id")) };
    run(w, &stmt_delete, CW_ARRAY_LEN(p), p, on_deleted);
}

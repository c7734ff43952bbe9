#include "services/mqtt-gateway/product_topics.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the table */

struct product_topics *product_topics_of(struct product_topics **table, int64_t product_key)
{
    struct product_topics *t;
    HASH_FIND(hh, *table, &product_key, sizeof product_key, t);
    if (t)
        return t;
    t = cw_calloc(1, sizeof *t);
    t->product_key = product_key;
    HASH_ADD(hh, *table, product_key, sizeof product_key, t);
    return t;
}

static void clear(struct product_topics *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->topics[i].name);
    free(t->topics);
    t->topics = NULL;
    t->n = 0;
}

void product_topics_set(struct product_topics *t, const Causeway__ProductTopics *from)
{
    clear(t);
    if (!from || !from->n_topics)
        return;
    t->topics = cw_calloc(from->n_topics, sizeof *t->topics);
    for (size_t i = 0; i < from->n_topics; i++) {
        const Causeway__ProductTopic *one = from->topics[i];
        struct product_topic *to = &t->topics[t->n++];
        to->name = cw_strndup(one->topic, strnlen(one->topic, CUSTOM_NAME_MAX));
        to->rights =
            (one->publish ? POLICY_PUBLISH : 0U) | (one->subscribe ? POLICY_SUBSCRIBE : 0U);
    }
}

void product_topics_free(struct product_topics **table)
{
    struct product_topics *t = *table, *next;
    HASH_CLEAR(hh, *table);
    for (; t; t = next) {
        next = t->hh.next;
        clear(t);
        free(t);
    }
}

/* ---- what they say */

static bool fits(const struct product_topic *topic, const struct custom_question *q)
{
    return q->action == POLICY_SUBSCRIBE ? topic_matches(q->name, text_of(topic->name))
                                         : text_is(q->name, topic->name);
}

/* Of the topics that the product lets devices use so; NULL: there is none. */
static const char *nearest(const struct product_topics *t, const struct custom_question *q)
{
    const char *best = NULL;
    size_t best_d = SIZE_MAX;
    struct text name = { q->name.p, q->name.len < CUSTOM_NAME_MAX ? q->name.len : CUSTOM_NAME_MAX };
    for (size_t i = 0; i < t->n; i++) {
        if (!(t->topics[i].rights & q->action))
            continue;
        size_t d = topic_distance(name, t->topics[i].name);
        if (d < best_d) {
            best_d = d;
            best = t->topics[i].name;
        }
    }
    return best;
}

static void explain(const struct product_topics *t, const struct custom_question *q, bool known,
                    struct custom_refusal *why)
{
    bool publishes = q->action == POLICY_PUBLISH;
    const char *verb = publishes ? "Publish to" : "Subscribe", *near = nearest(t, q);
    why->code = known ? "topic_right" : "topic_not_defined";
    snprintf(why->reason, sizeof why->reason, "%s",
             known  ? publishes ? "The product lets devices receive this custom topic only."
                                : "The product lets devices publish to this custom topic only."
             : t->n ? "The product defines custom topics, and this is none of them."
                    : "The product defines no custom topics; with CAUSEWAY_STRICT=1 only defined "
                      "ones are there.");
    int n = near ? snprintf(why->next_step, sizeof why->next_step, "%s $oc/devices/%s/user/%s, or ",
                            verb, q->device_id, near)
                 : 0;
    snprintf(why->next_step + n, sizeof why->next_step - (size_t)n,
             "%s it with this right: POST /v5/iot/{project_id}/products/%s/topics.",
             near ? "define" : "Define", q->product_id);
}

bool product_topics_allow(const struct product_topics *t, const struct custom_question *q,
                          struct custom_refusal *why)
{
    bool known = false;
    if (!t->n && !q->strict)
        return true;
    for (size_t i = 0; i < t->n; i++)
        if (fits(&t->topics[i], q)) {
            if (t->topics[i].rights & q->action)
                return true;
            known = true;
        }
    if (why)
        explain(t, q, known, why);
    return false;
}

/* What a device subscribed, beside what it gets anyway. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "services/mqtt-gateway/route.h"
#include "services/mqtt-gateway/topic.h"

static struct subscription *find(const struct session *s, struct text filter)
{
    for (size_t i = 0; i < s->n_subscriptions; i++)
        if (strlen(s->subscriptions[i].filter) == filter.len &&
            memcmp(s->subscriptions[i].filter, filter.p, filter.len) == 0)
            return &s->subscriptions[i];
    return NULL;
}

int subscription_add(struct session *s, struct text filter, uint8_t qos)
{
    struct subscription *sub = find(s, filter);
    if (!sub) {
        if (s->n_subscriptions == SUBSCRIPTIONS_MAX)
            return -ENOSPC;
        s->subscriptions =
            cw_realloc(s->subscriptions, (s->n_subscriptions + 1U) * sizeof *s->subscriptions);
        sub = &s->subscriptions[s->n_subscriptions++];
        sub->filter = cw_strndup(filter.p, filter.len);
        route_subscribed(s, sub->filter);
    }
    sub->qos = qos;
    return 0;
}

void subscription_remove(struct session *s, struct text filter)
{
    struct subscription *sub = find(s, filter);
    if (!sub)
        return;
    route_unsubscribed(s, sub->filter);
    free(sub->filter);
    *sub = s->subscriptions[--s->n_subscriptions];
}

int subscription_match(const struct session *s, struct text topic)
{
    int qos = -ENOENT;
    for (size_t i = 0; i < s->n_subscriptions; i++) {
        const struct subscription *sub = &s->subscriptions[i];
        if ((int)sub->qos > qos &&
            topic_matches((struct text){ sub->filter, strlen(sub->filter) }, topic))
            qos = sub->qos;
    }
    return qos;
}

void subscriptions_free(struct session *s)
{
    for (size_t i = 0; i < s->n_subscriptions; i++) {
        route_unsubscribed(s, s->subscriptions[i].filter);
        free(s->subscriptions[i].filter);
    }
    free(s->subscriptions);
    s->subscriptions = NULL;
    s->n_subscriptions = 0;
}

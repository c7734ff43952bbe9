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

int subscription_add(struct session *s, const struct packet_filter *filter, uint8_t qos)
{
    struct subscription *sub = find(s, filter->filter);
    if (!sub) {
        if (s->n_subscriptions == SUBSCRIPTIONS_MAX)
            return -ENOSPC;
        s->subscriptions =
            cw_realloc(s->subscriptions, (s->n_subscriptions + 1U) * sizeof *s->subscriptions);
        sub = &s->subscriptions[s->n_subscriptions++];
        sub->filter = cw_strndup(filter->filter.p, filter->filter.len);
        route_subscribed(s, sub->filter);
    }
    sub->qos = qos;
    sub->no_local = filter->no_local;
    return 0;
}

bool subscription_has(const struct session *s, const char *filter)
{
    return find(s, text_of(filter)) != NULL;
}

bool subscription_remove(struct session *s, struct text filter)
{
    struct subscription *sub = find(s, filter);
    if (!sub)
        return false;
    route_unsubscribed(s, sub->filter);
    free(sub->filter);
    *sub = s->subscriptions[--s->n_subscriptions];
    return true;
}

int subscription_match(const struct session *s, struct text topic, bool own)
{
    int qos = -ENOENT;
    for (size_t i = 0; i < s->n_subscriptions; i++) {
        const struct subscription *sub = &s->subscriptions[i];
        if ((int)sub->qos > qos && !(own && sub->no_local) &&
            topic_matches(text_of(sub->filter), topic))
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

/* product_topics.h - the custom topics that products define (docs/protocol/custom-topics.md), of
 * each product that has had a device here. policies.c asks for them. */
#pragma once

#include <uthash.h>

#include "proto/causeway.pb-c.h"
#include "services/mqtt-gateway/policy.h"
#include "services/mqtt-gateway/topic.h"

struct product_topic {
    char *name;      /* behind user/ */
    unsigned rights; /* enum policy_action */
};

struct product_topics {
    UT_hash_handle hh;
    int64_t product_key;
    bool doubted, asked; /* are to be asked for; have been */
    size_t n;            /* 0: the product defines none */
    struct product_topic *topics;
};

/* That of the product; it is made when it is new, and stays. */
struct product_topics *product_topics_of(struct product_topics **table, int64_t product_key);
/* from NULL: none. */
void product_topics_set(struct product_topics *t, const Causeway__ProductTopics *from);
void product_topics_free(struct product_topics **table);

struct custom_question {
    enum policy_action action;
    struct text name; /* behind user/; a filter when it is to be subscribed */
    bool strict;      /* a product that defines none has none */
    const char *device_id, *product_id;
};
struct custom_refusal {
    const char *code;
    char reason[192], next_step[TOPIC_NEAREST_LEN + 160];
};
/* True: the device may. Else why says why not; NULL: nobody wants to know. */
bool product_topics_allow(const struct product_topics *t, const struct custom_question *q,
                          struct custom_refusal *why);

/* product_topics.h - custom topics that a product defines (docs/protocol/custom-topics.md). The
 * registry keeps them, gateways enforce them. */
#pragma once

#include "services/device-registry/registry.h"

/* Operations; self is the registry. */
void list_product_topics(struct cw_api_call *call, void *self);  /* all of them, by name */
void create_product_topic(struct cw_api_call *call, void *self); /* TOPIC_BAD, _TAKEN, _QUOTA */
void delete_product_topic(struct cw_api_call *call, void *self); /* NO_TOPIC */

/* What gateways are told of products, each once; {0} in the beginning. */
struct topics_told {
    Causeway__ProductTopics **list;
    size_t n;
};
/* topics: as registry.product has them: "Balarm Pup/x"; NULL: it defines none. */
void topics_add(struct topics_told *t, int64_t product_key, const char *topics);
void topics_free(struct topics_told *t);

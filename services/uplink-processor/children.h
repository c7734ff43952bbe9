/* children.h - payloads that speak of children of a gateway: parsed before the batch is
 * interpreted, so that the children can be looked up. */
#pragma once

#include <jansson.h>

#include "libcommon/db.h"
#include "proto/causeway.pb-c.h"

struct children;

/* Parses the payload if the topic is one of those; the ids in it are remembered. *c is made when it
 * is needed. */
void children_read(struct children **c, const Causeway__Uplink *up);
/* Asks for the keys of all ids. As devices_load(): 1 there is nothing to ask, 0 cb runs once. */
typedef void children_fn(int rc, void *arg);
int children_load(struct children *c, struct cw_db *db, children_fn *cb, void *arg);
/* Calls fn for each key that was found. NULL is fine. */
void children_each(const struct children *c, void (*fn)(int64_t key, void *arg), void *arg);

/* What was parsed of the payload, borrowed; NULL: not JSON, or not one that can name a child. */
json_t *children_payload(const struct children *c, const Causeway__Uplink *up);
/* The record that named it first; NULL: several gateways did, or none. */
const Causeway__Uplink *children_speaker(const struct children *c, const char *device_id);
/* 0: no device of this id. */
int64_t children_key(const struct children *c, const char *device_id);
void children_free(struct children **c);

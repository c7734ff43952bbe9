/* shadow.h - the shadow changes of one transaction: reports of a service merged, its version
 * counted up by each. No I/O. */
#pragma once

#include <uthash.h>

#include "libcommon/json.h"

struct shadow_key {
    int64_t device_key;
    char service_id[200];
};

struct shadow_entry {
    struct shadow_key key;
    json_t *reported; /* owned */
    char time[32];
    int64_t touches;
    UT_hash_handle hh;
};

/* Merges properties (borrowed, not changed) into the entry of device and service: values of
 * the same name are replaced, others stay. Service ids are those of a model, at most 64 characters.
 * *all is an uthash in the order of first touch; NULL to start. */
void shadow_merge(struct shadow_entry **all, int64_t device_key, const char *service_id,
                  json_t *properties, const char *time);
/* Sets *all to NULL. */
void shadow_free(struct shadow_entry **all);

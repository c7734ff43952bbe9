#include "services/uplink-processor/shadow.h"

#include <stdlib.h>
#include <string.h>

void shadow_merge(struct shadow_entry **all, int64_t device_key, const char *service_id,
                  json_t *properties, const char *time)
{
    struct shadow_entry *e;
    struct shadow_key key;
    memset(&key, 0, sizeof key); /* hashed as a whole */
    key.device_key = device_key;
    if (strlen(service_id) >= sizeof key.service_id)
        return; /* no model has such an id */
    strcpy(key.service_id, service_id);
    HASH_FIND(hh, *all, &key, sizeof key, e);
    if (!e) {
        e = cw_calloc(1, sizeof *e);
        e->key = key;
        e->reported = json_incref(properties);
        HASH_ADD(hh, *all, key, sizeof e->key, e);
    } else {
        /* the first report's object is shared until a second one comes */
        json_t *merged = json_copy(e->reported);
        json_object_update(merged, properties);
        json_decref(e->reported);
        e->reported = merged;
    }
    strncpy(e->time, time, sizeof e->time - 1);
    e->touches++;
}

void shadow_free(struct shadow_entry **all)
{
    struct shadow_entry *e = *all, *next;
    HASH_CLEAR(hh, *all);
    for (; e; e = next) {
        next = e->hh.next;
        json_decref(e->reported);
        free(e);
    }
}

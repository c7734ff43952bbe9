/* interpret.h - what the files share that say what a record means. */
#pragma once

#include "services/uplink-processor/batch.h"
#include "services/uplink-processor/topic.h"

#define SAMPLE_BYTES 257

/* One record on its way. */
struct item {
    struct batch *b;
    size_t index;      /* of the message in the transaction */
    uint32_t position; /* within the message */
    const struct cw_record *record;
    const char *gateway;
    const Causeway__Uplink *up;
    const struct device *device;   /* whom it is about: the speaker, or one of its children */
    int64_t session_no;            /* of events; of a child's status the child's own count */
    Causeway__DeviceStatus status; /* of an event that tells one */
    struct topic topic;
};

/* Each record is counted in one slot. */
void item_count(const struct item *it, enum ledger slot);
/* Position in the log, folded: keeps the order of records within a millisecond. */
int64_t item_order(const struct item *it);
/* The device's own, or the gateway's. */
const char *item_request_id(const struct item *it);
/* Onto EVENT with the transaction, as a fact about it->device; body is copied. */
void item_emit(struct item *it, Causeway__EventKind kind, const char *request_id,
               const struct cw_buf *body);
/* A reason for `why` of it->device, code and layer from our tables, texts copied; the second counts
 * the record as refused, too. */
void item_fail(struct item *it, const char *layer, const char *code, const char *reason,
               const char *next_step);
void item_refuse(struct item *it, const char *layer, const char *code, const char *reason,
                 const char *next_step);
/* b->report into history, shadow, state and EVENT; body is its text, topic NULL the system's. */
void item_store_report(struct item *it, const void *body, size_t len, const char *topic);

/* The device's status as an event; online_ms: when it was online last. */
void item_status(struct item *it, const struct state *s, int64_t online_ms);

/* interpret_children.c: what a gateway says of its children */
/* The device with this id for whom the speaker may speak: itself, a child of it, a child that a
 * device proxy lets it speak for; else NULL. */
const struct device *child_of(const struct item *it, const char *device_id);
/* The gateway through which the child was online (s) and that may still speak for it, if that is
 * another one than the speaker: its device id; else NULL. */
const char *held_by(const struct item *it, const struct device *child, const struct state *s);
/* Somebody else than the speaker has said what s is. */
bool is_of_other(const struct item *it, const struct device *child, const struct state *s);
/* Whom object_device_id means: NULL, "", "-1" and the speaker's own id the speaker; NULL: neither
 * it nor a child of it. */
const struct device *object_of(const struct item *it, const json_t *root);
/* `why` of the speaker says that it may not speak for this device; see item_fail(). */
void no_child(struct item *it, const char *device_id);
/* A batch report: one report of each child it names, or why not. */
void on_children(struct item *it);
/* interpret_events.c: what a device asks and tells, each from its topic; answers leave after the
 * commit. */
void on_shadow_get(struct item *it);
void on_events(struct item *it);
void on_bootstrap(struct item *it);
void on_old(struct item *it);

/* notice.h - tells a person, through `why`, what went wrong with a device. Any daemon may.
 *
 * Notices are coalesced to one per (device, layer, code) and second and appended to UPLINK as
 * records of kind UPLINK_NOTICE; uplink-processor keeps them. They are bounded: at most 4,096
 * different ones wait, beyond that the newest is dropped and counted in
 * causeway_notices_dropped_total. */
#pragma once

#include <stdint.h>

struct cw_app;
struct cw_log_append;
struct cw_notices;

enum cw_layer {
    CW_LAYER_CONNECT,
    CW_LAYER_AUTHENTICATE,
    CW_LAYER_TOPIC,
    CW_LAYER_DECODE,
    CW_LAYER_MODEL,
    CW_LAYER_RULE,
    CW_LAYER_PUSH,
    CW_LAYER_COMMAND,
    CW_LAYER_UPGRADE,
};
/* Its word in records and in why: "authenticate". */
const char *cw_layer_name(enum cw_layer layer);

/* All texts are copied; sample and next_step may be NULL. */
struct cw_notice {
    enum cw_layer layer;
    int64_t device_key;    /* 0: not known here; uplink-processor looks it up by device_id */
    const char *device_id; /* of the directly connected device: the partition key */
    const char *code;      /* stable word: wrong_password */
    const char *reason;    /* what happened, for a person */
    const char *next_step; /* what to do */
    const char *sample;    /* at most 256 bytes are kept */
};

/* uplink is borrowed, and closed after it. Never NULL. */
struct cw_notices *cw_notices_open(struct cw_app *app, struct cw_log_append *uplink);
/* The first of its kind is appended at once, what follows once a second with its count. Texts are
 * cut and made UTF-8, whatever a device sent. */
void cw_notice(struct cw_notices *n, const struct cw_notice *notice);
void cw_notices_close(struct cw_notices **n); /* sends what waits */

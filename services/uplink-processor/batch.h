/* batch.h - one transaction in the making: what was read, what is known about it, its rows. */
#pragma once

#include "proto/causeway.pb-c.h"
#include "services/uplink-processor/answers.h"
#include "services/uplink-processor/children.h"
#include "services/uplink-processor/devices.h"
#include "services/uplink-processor/proxies.h"
#include "services/uplink-processor/report.h"
#include "services/uplink-processor/shadow.h"
#include "services/uplink-processor/uplink.h"
#include "services/uplink-processor/why.h"

/* What a transaction knows and changes about a device's state. */
struct state {
    int64_t device_key; /* the key of the hash */
    /* as it was, then as it becomes; only looked up when a session begins or ends */
    bool online, changed, abnormal; /* abnormal: online by its session, but silent for hours */
    int64_t gone_session;           /* that ended: what hangs below the device goes too; 0: none */
    const char *gone_id;            /* of that device, borrowed from the record, */
    uint32_t gone_partition;        /* and its partition */
    int64_t session_no, since_ms, connected_ms, seen_ms;
    int64_t via_key, via_session; /* of a child: which gateway said so, in which session; 0: none */
    const char *gateway, *peer, *cause; /* borrowed from the records; NULL: not known here */
    /* added */
    int64_t reports, last_report_ms, messages, last_message_ms;
    UT_hash_handle hh;
};

struct message {
    const struct cw_record *record;
    Causeway__UplinkBatch *batch; /* NULL: a repeat, or not readable */
};

enum history_column {
    H_KEY,
    H_RECEIVED,
    H_ORD,
    H_KIND,
    H_TOPIC,
    H_REQUEST,
    H_BODY,
    H_VERDICTS,
    H_PROPERTIES,
    H_COLUMNS
};

struct batch {
    struct uplink *u;
    struct cw_log_txn *txn;
    struct message *messages;
    size_t n_messages;
    int step;
    struct state *states;
    struct shadow_entry *shadows;
    struct why why;
    struct cw_db_array history[H_COLUMNS];
    struct report report; /* of the record at hand */
    struct children *children;
    struct proxies *proxies; /* that matter to children of this batch */
    struct answers answers;
    bool gateways_gone;
    struct cw_buf text, packed;
    int64_t first_ms, last_ms; /* of receiving */
};

/* Turns the records into rows and events, in order; everything they need has been looked up.
 * interpret.c */
void batch_interpret(struct batch *b);
/* Made when it is missing; never NULL, and there until the end of the batch. */
struct state *batch_state(struct batch *b, int64_t device_key);

/* topic NULL: the system topic of its kind. */
struct history_row {
    const Causeway__Uplink *uplink;
    int64_t device_key; /* whose row; 0: the speaker's */
    int64_t ord;
    const char *kind, *topic, *request_id;
    const void *body;
    size_t len;
    const struct cw_buf *verdicts;
};
/* One row of the history; copied. Its time is moved into the days that exist. */
void batch_history(struct batch *b, const struct history_row *row);

/* effects.c */
void batch_send(struct batch *b, struct cw_log_txn *txn);

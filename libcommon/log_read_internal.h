/* log_read_internal.h - what the files of the log reader share; nobody else includes it.
 *
 * log_read.c      partitions: gained, loaded, running, released; what the next transaction takes
 * log_txn.c       a transaction: prepare, fence, output, effects, commit, and what a failure means
 * log_emit.c      items into messages with their marks
 * log_poison.c    finding the record that the database refuses; records one by one after a crash
 * log_outbox.c    rows of the outbox into EVENT
 * log_batches.c   repeats of gateway batches
 * log_trim.c      what all mandatory readers have behind them is removed */
#pragma once

#include <uthash.h>

#include "libcommon/js_stream.h"
#include "libcommon/log_out.h"
#include "libcommon/log_read.h"
#include "libcommon/log_trail.h"

#define TXN_MESSAGES  256 /* taken into one transaction at most */
#define TXN_BYTES     (4U << 20)
#define PART_MESSAGES 64 /* of one partition */
#define TOTALS        8
#define ROWS_LIMIT    500 /* of the outbox in one transaction */
#define REASON_BYTES  200

enum txn_outcome {
    TXN_OK,
    TXN_RETRY,   /* the same again, after a pause */
    TXN_REFUSED, /* data that the database will never take */
    TXN_BUG,     /* a statement is wrong: say so, try again slowly */
    TXN_STALE,   /* output refused or in doubt: read its tail again */
    TXN_FENCED,  /* a position has moved: somebody else owns the partition */
};

struct gateway_batch {
    UT_hash_handle hh;
    uint64_t n;       /* last batch taken, committed */
    uint64_t pending; /* and in the transaction at hand */
    char name[];
};

/* A message with an item that the database refuses. */
struct poison {
    uint64_t seq;
    size_t n_items;
    bool *bad;
    char **reasons;
    bool searching;     /* the next transaction is a trial of the items below `mid` */
    size_t lo, hi, mid; /* items below lo are taken, those below hi are not */
};

enum part_state { PART_OFF, PART_LOADING, PART_RUNNING, PART_FAULT };

struct rpart {
    struct cw_log_reader *r;
    uint32_t index;
    enum part_state state;
    bool held;      /* the owner says it is ours */
    bool told;      /* owned(true) was called */
    bool releasing; /* and wants it back */
    bool stop_due;  /* lost or given up while a transaction has its records */
    bool tail_due;  /* output in doubt */
    bool tail_reading;
    bool delete_due; /* rows that the newest output holds */
    bool deleting;
    bool fenced;  /* the position has moved */
    bool marking; /* the clean end is being written */
    bool load_failed;
    unsigned generation; /* counts part_stop() */
    unsigned loading;
    uint64_t seq;
    char created[64];
    struct log_trail trail;
    int64_t totals[TOTALS], delta[TOTALS];
    uint64_t proved;        /* a record that did no harm in a trial */
    uint64_t survived;      /* a record whose attempt failed while the process lived */
    uint64_t careful_until; /* records up to here are taken one by one */
    struct cw_log_fetch *fetch;
    struct log_out *out, *relay; /* relay is out when both go to EVENT */
    size_t in_txn;               /* messages of the queue in the transaction */
    uint64_t new_seq;            /* 0: not in the transaction; otherwise the new position + 1 */
    struct out_msg *msgs;        /* output of the transaction */
    size_t n_msgs;
    bool sending;
    struct gateway_batch *gateways;
    struct poison *poison;
    bool outbox_due, row_left;
    size_t n_rows; /* in the message of the outbox */
    struct cw_metric *m_position, *m_lag;
};

struct emitted {
    size_t index, at, len, order;
};

enum txn_kind { TXN_RECORDS, TXN_OUTBOX };

struct cw_log_txn {
    struct cw_log_reader *r;
    bool active, dead; /* dead: the connection was lost meanwhile */
    enum txn_kind kind;
    bool trial;    /* rolled back in any case */
    bool prepared; /* prepare() has run: done() is owed */
    bool begun, appended, ending;
    bool sending; /* effects are being sent: the end is looked at after them */
    int64_t begun_ms;
    unsigned n_fenced; /* positions that the fence must find */
    struct cw_record *records;
    size_t n, cap;
    struct cw_record first; /* as it came, for what has to be alone */
    size_t messages;        /* taken from the queues, empty and repeated ones too */
    struct cw_buf rebuilt;  /* body of the poisoned message without its bad items */
    struct emitted *items;
    size_t n_items, cap_items;
    struct cw_buf item_bytes;
    void *data;
    unsigned waiting; /* statements and sends not answered */
    enum txn_outcome outcome;
    char reason[REASON_BYTES];
    struct rpart *suspect; /* partition whose record is taken alone */
    bool given_up;         /* its record ended the process too often */
};

struct txn_call {
    struct cw_log_txn *txn;
    cw_db_fn *cb;
    void *arg;
};

enum { ST_FENCE, ST_BATCH, ST_QUARANTINE, ST_SUSPECT, ST_CLEARED, ST_ROWS, ST_DELETE, ST_COUNT };

struct cw_log_reader {
    struct cw_app *app;
    struct cw_log_reader_config cfg;
    struct cw_db *db;
    struct cw_log_owner *owner;
    struct rpart *parts;
    uint32_t n_parts, next_part; /* where the next transaction begins to take */
    struct cw_log_txn txn;
    struct cw_stmt stmts[ST_COUNT];
    size_t limit;               /* messages of the next transaction; shrinks while one is refused */
    int64_t pause_ms, began_ms; /* began_ms: of the last transaction of records */
    char last_refusal[REASON_BYTES];
    bool paused, closing, draining, outbox_last;
    struct event *turn, *pause, *pace, *sweep, *trim;
    struct cw_bus_sub *wake;
    struct trimmer *trimmer;
    struct cw_metric *m_txns, *m_messages, *m_repeated, *m_quarantined, *m_rolled_back, *m_commit;
};

/* log_read.c */
void reader_turn(struct cw_log_reader *r); /* soon, from the loop */
void part_stop(struct rpart *p);           /* forgets; only outside a transaction */
void part_give_up(struct rpart *p);        /* fenced: stop and let go */
bool part_may_work(const struct rpart *p);
void part_settle(struct cw_log_reader *r); /* after a transaction: what had to wait for its end */
void part_committed(struct rpart *p);      /* its part of the transaction stands */

/* log_txn.c */
void txn_start(struct cw_log_txn *t); /* records are there: prepare and so on */
void txn_begin(struct cw_log_txn *t); /* BEGIN and fence */
/* The first failure stays: the others follow from it. It ends when nothing is awaited any more. */
void txn_fail(struct cw_log_txn *t, enum txn_outcome outcome, const char *reason);
/* The same from a result; a fine one changes nothing. */
void txn_fail_db(struct cw_log_txn *t, const PGresult *res);
/* Over: done(), the partitions' new state or their old one, what a failure means for the next. */
void txn_end(struct cw_log_txn *t, bool committed);
/* p's messages into out; the end waits for it. What is in doubt fails as TXN_STALE, a full log as
 * TXN_RETRY. */
void txn_send(struct cw_log_txn *t, struct rpart *p, struct log_out *out);
/* A statement inside; the end waits for it. An error fails the transaction before cb (or NULL)
 * hears of it. False: not connected, failed, and cb will not run. */
bool txn_query(struct cw_log_txn *t, const struct cw_stmt *stmt, int n,
               const struct cw_db_param *params, cw_db_fn *cb, void *arg);

/* log_emit.c */
void emit_build(struct cw_log_txn *t);
/* The messages of all partitions, those of the outbox too. */
void emit_free(struct cw_log_txn *t);

/* log_poison.c */
size_t items_of(const char *log, const void *data, size_t len);
void poison_refused(struct cw_log_txn *t); /* decides what the next transaction takes */
void poison_trial_passed(struct rpart *p);
/* Ends the search, if there is one. */
void poison_free(struct rpart *p);
/* The record just taken, without the items that are bad or, in a trial, not asked about; taken away
 * again when nothing is left of it. */
void poison_take(struct cw_log_txn *t, struct rpart *p, const struct cw_record *rec);
void poison_quarantine(struct cw_log_txn *t); /* statements for what is left out */
void poison_tell(struct cw_log_txn *t);       /* after the commit */
void careful_start(struct cw_log_txn *t);     /* writes the suspect, then txn_start() */
void careful_passed(struct cw_log_txn *t);    /* its trial did no harm */
void careful_survived(struct cw_log_txn *t);  /* it failed, but the process lives */

/* log_outbox.c */
void outbox_start(struct cw_log_reader *r);
/* Which of the partitions have rows: mostly none has, and no transaction is begun. */
void outbox_ask(struct cw_log_txn *t);
void outbox_effects(struct cw_log_txn *t); /* after the fence */
void outbox_ended(struct cw_log_txn *t, bool committed);
/* Each second: a wake-up is only a hint. */
void outbox_sweep(struct cw_log_reader *r);

/* log_batches.c */
void batches_load(struct rpart *p, const PGresult *res);
/* Cw-Batch is <writer>.<p>.<n>: true if n is not above the writer's last; else n becomes it, for
 * the transaction at hand. A record without one is no repeat. */
bool batches_repeated(struct rpart *p, const struct cw_record *rec);
/* The writers' new numbers, stored with what they wrote. */
void batches_effects(struct cw_log_txn *t);
/* The numbers of the transaction at hand stand, or are forgotten. */
void batches_end(struct rpart *p, bool committed);
/* The partition goes; the next owner reads the numbers again. */
void batches_free(struct rpart *p);

/* log_trim.c */
/* Looks every 10 s at the partitions that r owns. */
void trim_open(struct cw_log_reader *r);
/* What is under way is dropped, its answer ignored: the next owner trims again. NULL is fine. */
void trim_close(struct cw_log_reader *r);

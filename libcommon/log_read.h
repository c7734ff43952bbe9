/* log_read.h - reading a log so that effects, position and output are one (docs/architecture.md,
 * logs).
 *
 * A reader group (the daemon's name) shares the partitions among its instances; each partition has
 * one owner. Records of all partitions that this instance owns are taken into one transaction:
 *
 *   BEGIN; UPDATE position … AND seq = old (one row, else given up); append the output; the
 * daemon's statements; wait for the appends; COMMIT
 *
 * The daemon supplies two steps. prepare() turns records into rows and output, in memory only, and
 * may look things up first; it may be called again for a part of the records (a database that
 * refuses a batch makes it be halved until the bad record is alone), so it must start from the
 * records each time. effects() sends the statements. Needs in the daemon's schema: tables position,
 * outbox, quarantine (deploy/sql/README.md). Loop thread only. */
#pragma once

#include "libcommon/db.h"
#include "libcommon/log_fetch.h"
#include "libcommon/util.h"

struct cw_app;
struct cw_log_reader;
struct cw_log_txn;

struct cw_log_reader_config {
    const char *log;    /* CW_LOG_UPLINK … */
    const char *group;  /* the daemon's name; also its subject token: event.<p>.<group> */
    const char *schema; /* of position, outbox, quarantine */
    const char *output; /* log that this group writes to, or NULL */
    bool relays_outbox; /* <schema>.outbox goes to EVENT as events of this group */
    bool mandatory;     /* trimming waits for it */
    bool trims;         /* first mandatory reader of its log: trims it */
    int64_t pace_ms;    /* between the beginnings of two transactions, unless half of one waits: a
                           transaction costs the same for one record and for a hundred. From 20 on
                           the records are fetched as seldom; below 1000 */
    void *self;

    /* Must end in one cw_log_txn_prepared(), now or later. Records are borrowed until done(). */
    void (*prepare)(struct cw_log_txn *txn, const struct cw_record *records, size_t n, void *self);
    /* Sends statements by cw_log_txn_exec(); after the position's UPDATE. */
    void (*effects)(struct cw_log_txn *txn, void *self);
    /* The transaction is over; committed or not, what prepare() made for it is freed here. */
    void (*done)(struct cw_log_txn *txn, bool committed, void *self);
    /* A record that the database refuses, now in quarantine; for notices. May be NULL. */
    void (*quarantined)(const struct cw_record *record, const char *reason, void *self);
    /* This instance became, or is no longer, owner of a partition. May be NULL. */
    void (*owned)(uint32_t partition, bool owned, void *self);
};

/* cfg is copied, its texts are borrowed. Opens a connection to PostgreSQL of its own. The steps
 * come from the loop, never from inside. Never NULL. */
struct cw_log_reader *cw_log_reader_open(struct cw_app *app,
                                         const struct cw_log_reader_config *cfg);
/* True while this instance works on the partition: who else looks at its rows leaves them alone. */
bool cw_log_reader_owns(const struct cw_log_reader *r, uint32_t partition);
/* All of them as int[], for = ANY($1); out is zeroed or was filled before, the caller frees it. */
void cw_log_reader_owned(const struct cw_log_reader *r, struct cw_db_array *out);
/* Finishes the transaction at hand, releases the partitions; holds the app's drain until then. */
void cw_log_reader_drain(struct cw_log_reader *r);
/* Undoes the transaction at hand, and the locks go with the connection; done() and owned() run
 * before it returns. Sets *r to NULL; NULL is fine. */
void cw_log_reader_close(struct cw_log_reader **r);
/* Makes the owner look into its outbox now; publish CW_SUBJECT_WAKE after an insert. */
void cw_log_reader_kick(struct cw_log_reader *r, uint32_t partition);

/* Free use by the daemon: what prepare() made for this transaction. */
void cw_log_txn_set_data(struct cw_log_txn *txn, void *data);
/* NULL before it is set and once the transaction is over. */
void *cw_log_txn_data(const struct cw_log_txn *txn);
/* rc 0; or negative: try again later with a pause (a lookup failed). */
void cw_log_txn_prepared(struct cw_log_txn *txn, int rc);
/* In prepare(): one packed item (Event for EVENT, Push for PUSH) caused by records[index]. Items go
 * to the same partition number of the output log, in the order of the records. Copied. */
void cw_log_txn_emit(struct cw_log_txn *txn, size_t index, const void *packed, size_t len);
/* In prepare(): adds to a total kept in the position row, slot 0…7 (the ledger). */
void cw_log_txn_count(struct cw_log_txn *txn, uint32_t partition, unsigned slot, int64_t n);
/* Always false: a repeat of a batch already taken is left out before prepare() is called. */
bool cw_log_txn_repeated(const struct cw_log_txn *txn, size_t index);
/* In effects(). cb may be NULL; errors are handled by the reader. */
void cw_log_txn_exec(struct cw_log_txn *txn, const struct cw_stmt *stmt, int n,
                     const struct cw_db_param *params, cw_db_fn *cb, void *arg);

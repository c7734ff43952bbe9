/* db.h - PostgreSQL without waiting: pipeline mode on the loop, prepared statements, reconnect.
 *
 * One cw_db is one connection. Statements are answered in the order of sending; each has a sync of
 * its own, so a bad one spoils no other, and BEGIN … COMMIT may be pipelined by one owner of the
 * connection. A lost connection gives every waiting callback NULL; the connection comes back by
 * itself and prepared statements are prepared again. Loop thread only. */
#pragma once

#include <libpq-fe.h>

#include "libcommon/util.h"

struct event_base;
struct cw_db;
struct cw_db_query;

/* res is borrowed; NULL: connection lost, effect unknown. */
typedef void cw_db_fn(PGresult *res, void *arg);

/* A parameter. Text form unless binary. Arrays are built with cw_db_array_*. */
struct cw_db_param {
    const void *data; /* NULL: SQL NULL */
    int len;          /* only looked at when binary */
    bool binary;
};
#define CW_TEXT(s)   ((struct cw_db_param){ .data = (s) })
#define CW_BIN(p, n) ((struct cw_db_param){ .data = (p), .len = (int)(n), .binary = true })
#define CW_NULL      ((struct cw_db_param){ 0 })
struct cw_db_param cw_db_int(int64_t v, char buf[24]); /* text of v in buf */

/* A statement: static in the caller, prepared on first use in each connection. */
struct cw_stmt {
    const char *name; /* unique in the daemon; NULL: a text made for this call alone, not kept,
                       * planned for its parameters */
    const char *sql;
};

/* Runs cb once, later, from the loop. NULL and cb will not run: not connected. Copies params. */
struct cw_db_query *cw_db_exec(struct cw_db *db, const struct cw_stmt *stmt, int n,
                               const struct cw_db_param *params, cw_db_fn *cb, void *arg);
/* One-off text (BEGIN, COMMIT, DDL); several statements without parameters are not possible. */
struct cw_db_query *cw_db_query(struct cw_db *db, const char *sql, cw_db_fn *cb, void *arg);
void cw_db_cancel(struct cw_db_query *q); /* cb will not run; the server still works */

/* True while statements are taken. */
bool cw_db_connected(const struct cw_db *db);
/* cb(true) after each connect (session is ready, nothing prepared yet), cb(false) after each loss.
 */
void cw_db_watch(struct cw_db *db, void (*cb)(bool connected, void *arg), void *arg);
/* Not from inside a watcher. */
void cw_db_unwatch(struct cw_db *db, void (*cb)(bool connected, void *arg), void *arg);
size_t cw_db_waiting(const struct cw_db *db);  /* statements sent and not answered */
int cw_db_backend_pid(const struct cw_db *db); /* 0 while not connected */
/* Drops the connection on purpose (a fence was lost); it comes back. */
void cw_db_reset(struct cw_db *db);

/* Begins to connect, for ever, with pauses of 2 s at most. Texts are copied. Never NULL. */
struct cw_db *cw_db_open(struct event_base *base, const char *conninfo, const char *app_name);
/* Ends the connection for good: what waits gets NULL before it returns, nothing is taken any more,
 * watchers are not called. NULL is fine. */
void cw_db_end(struct cw_db *db);
/* cw_db_end(), and frees. Sets *db to NULL; NULL is fine. */
void cw_db_close(struct cw_db **db);

/* What became of a result: the classes a caller acts on. */
enum cw_db_outcome {
    CW_DB_OK,
    CW_DB_RETRY,   /* connection, 08, 40, 53, 55, 57, 25P02: again, with a pause */
    CW_DB_REFUSED, /* 22, 23: this data will never be taken */
    CW_DB_BUG,     /* anything else: the statement is wrong */
};
/* NULL is CW_DB_RETRY: whether it took effect is not known. */
enum cw_db_outcome cw_db_outcome(const PGresult *res);
const char *cw_db_sqlstate(const PGresult *res); /* "" for none */
const char *cw_db_error(const PGresult *res);    /* primary message, one line */

/* Arrays in PostgreSQL's binary form, grown row by row, for = ANY($1) and unnest($1). One
 * dimension. */
enum cw_array_type { CW_ARRAY_INT4, CW_ARRAY_INT8, CW_ARRAY_TEXT, CW_ARRAY_BYTEA, CW_ARRAY_BOOL };
struct cw_db_array {
    struct cw_buf buf;
    enum cw_array_type type;
    uint32_t n;
    bool has_null;
};
void cw_db_array_reset(struct cw_db_array *a, enum cw_array_type type); /* zeroed memory is fine */
void cw_db_array_int(struct cw_db_array *a, int64_t v);                 /* INT4, INT8, BOOL */
void cw_db_array_bytes(struct cw_db_array *a, const void *p, size_t n); /* TEXT, BYTEA */
void cw_db_array_str(struct cw_db_array *a, const char *s);             /* NULL: SQL NULL */
void cw_db_array_null(struct cw_db_array *a);
struct cw_db_param cw_db_array_param(struct cw_db_array *a); /* valid until the next change */
void cw_db_array_free(struct cw_db_array *a);

/* Value of a column: NULL for SQL NULL; ints of text results. */
const char *cw_db_str(const PGresult *res, int row, const char *column);
/* A column that the result does not have counts as NULL. */
int64_t cw_db_i64(const PGresult *res, int row, const char *column, int64_t if_null);

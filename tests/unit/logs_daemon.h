/* logs_daemon.h - a reader group for tests: UPLINK into a table and onto EVENT, in order.
 *
 * The test program starts itself again as this daemon (TEST_DAEMON=1), several times, kills and
 * stops it. Table t.item has one row per record, EVENT one event per record. */
#pragma once

#include <libpq-fe.h>

#include "libcommon/log_read.h"
#include "libcommon/service.h"
#include "proto/causeway.pb-c.h"
#include "proto/subjects.h"
#include "tests/unit/servers.h"

struct sorter {
    struct cw_app *app;
    struct cw_log_reader *reader;
};

struct sorted {
    struct cw_db_array partition, number, sample;
};

static inline void sort_record(struct cw_log_txn *txn, struct sorted *s, const struct cw_record *r,
                               size_t index)
{
    Causeway__UplinkBatch *b = causeway__uplink_batch__unpack(NULL, r->len, r->data);
    for (size_t i = 0; i < b->n_records; i++) {
        Causeway__Event e = CAUSEWAY__EVENT__INIT;
        uint8_t packed[256];
        e.device_key = b->records[i]->session_no;
        e.device_id = "x";
        if (strcmp(b->records[i]->topic, "kill") == 0)
            raise(SIGKILL);
        cw_db_array_int(&s->partition, r->partition);
        cw_db_array_int(&s->number, b->records[i]->session_no);
        cw_db_array_str(&s->sample, b->records[i]->topic);
        cw_log_txn_emit(txn, index, packed, causeway__event__pack(&e, packed));
        cw_log_txn_count(txn, r->partition, 0, 1);
    }
    causeway__uplink_batch__free_unpacked(b, NULL);
}

static inline void sorter_prepare(struct cw_log_txn *txn, const struct cw_record *records, size_t n,
                                  void *self)
{
    struct sorted *s = cw_calloc(1, sizeof *s);
    (void)self;
    cw_db_array_reset(&s->partition, CW_ARRAY_INT4);
    cw_db_array_reset(&s->number, CW_ARRAY_INT8);
    cw_db_array_reset(&s->sample, CW_ARRAY_TEXT);
    cw_log_txn_set_data(txn, s);
    for (size_t i = 0; i < n; i++)
        sort_record(txn, s, &records[i], i);
    cw_log_txn_prepared(txn, 0);
}

static inline void sorter_effects(struct cw_log_txn *txn, void *self)
{
    static const struct cw_stmt insert = {
        "t_insert", "INSERT INTO t.item (partition, number, sample) SELECT * FROM "
                    "unnest($1::int[], $2::bigint[], $3::text[])"
    };
    struct sorted *s = cw_log_txn_data(txn);
    const struct cw_db_param params[] = { cw_db_array_param(&s->partition),
                                          cw_db_array_param(&s->number),
                                          cw_db_array_param(&s->sample) };
    (void)self;
    cw_log_txn_exec(txn, &insert, 3, params, NULL, NULL);
}

static inline void sorter_done(struct cw_log_txn *txn, bool committed, void *self)
{
    struct sorted *s = cw_log_txn_data(txn);
    (void)committed, (void)self;
    cw_db_array_free(&s->partition);
    cw_db_array_free(&s->number);
    cw_db_array_free(&s->sample);
    free(s);
}

static inline int sorter_start(struct cw_app *app, void *self)
{
    struct sorter *s = self;
    s->app = app;
    s->reader = cw_log_reader_open(app, &(struct cw_log_reader_config){ .log = CW_LOG_UPLINK,
                                                                        .group = "sorter",
                                                                        .schema = "t",
                                                                        .output = CW_LOG_EVENT,
                                                                        .relays_outbox = true,
                                                                        .mandatory = true,
                                                                        .trims = true,
                                                                        .self = s,
                                                                        .prepare = sorter_prepare,
                                                                        .effects = sorter_effects,
                                                                        .done = sorter_done });
    return 0;
}

static inline void sorter_drain(struct cw_app *app, void *self)
{
    (void)app;
    cw_log_reader_drain(((struct sorter *)self)->reader);
}

static inline void sorter_stop(void *self)
{
    cw_log_reader_close(&((struct sorter *)self)->reader);
}

static inline int sorter_main(int argc, char **argv)
{
    static struct sorter self;
    return cw_service_run(&(struct cw_service){ .name = "sorter",
                                                .summary = "a reader group for tests",
                                                .self = &self,
                                                .needs = CW_NEEDS_BUS | CW_NEEDS_DB,
                                                .start = sorter_start,
                                                .drain = sorter_drain,
                                                .stop = sorter_stop },
                          argc, argv);
}

/* ---- for the test that starts it */

static struct server pg;

static inline void pg_do(const char *sql)
{
    char conninfo[128];
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=postgres dbname=postgres",
             pg.port);
    PGconn *c = PQconnectdb(conninfo);
    PGresult *res = PQexec(c, sql);
    if (PQresultStatus(res) != PGRES_COMMAND_OK) {
        fprintf(stderr, "%s", PQerrorMessage(c));
        abort();
    }
    PQclear(res);
    PQfinish(c);
}

/* The number that a query gives; -1 when it cannot be asked. */
static inline long pg_ask(const char *sql)
{
    char conninfo[128];
    snprintf(conninfo, sizeof conninfo, "host=127.0.0.1 port=%d user=postgres dbname=postgres",
             pg.port);
    PGconn *c = PQconnectdb(conninfo);
    PGresult *res = PQexec(c, sql);
    long n = PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1
                 ? strtol(PQgetvalue(res, 0, 0), NULL, 10)
                 : -1;
    PQclear(res);
    PQfinish(c);
    return n;
}

#define SORTER_SCHEMA                                                                              \
    "CREATE TABLE public.schema_migration (version int);"                                          \
    "INSERT INTO public.schema_migration VALUES (1);"                                              \
    "CREATE SCHEMA t;"                                                                             \
    "CREATE TABLE t.item (id bigserial PRIMARY KEY, partition int, number bigint, sample text "    \
    "CHECK (sample <> 'bad'));"                                                                    \
    "CREATE TABLE t.position (log text, partition int, seq bigint NOT NULL DEFAULT 0, "            \
    "stream_created text, trim bigint NOT NULL DEFAULT 0, suspect bigint, "                        \
    "suspect_tries int NOT NULL DEFAULT 0, "                                                       \
    "totals bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0}', PRIMARY KEY (log, partition));"         \
    "CREATE TABLE t.outbox (id bigserial PRIMARY KEY, partition int NOT NULL, "                    \
    "event bytea NOT NULL);"                                                                       \
    "CREATE SEQUENCE t.fact; CREATE INDEX ON t.outbox (partition, id);"                            \
    "CREATE TABLE t.quarantine (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), " \
    "log text, partition int, seq bigint, reason text, data bytea);"                               \
    "CREATE TABLE t.gateway_batch (gateway text, partition int, n bigint NOT NULL, "               \
    "seen timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (gateway, partition));"                  \
    "CREATE VIEW public.log_position AS SELECT 't' AS schema, log, partition, seq, trim FROM "     \
    "t.position;"                                                                                  \
    "CREATE VIEW public.log_reader AS SELECT 'UPLINK' AS log, 't' AS schema;"

/* Starts one instance; crash_at NULL: none. */
static inline pid_t sorter_run(const char *program, int instance, int partitions,
                               const char *crash_at)
{
    char text[160];
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(text, sizeof text, "%d", instance);
    setenv("CAUSEWAY_INSTANCE", text, 1);
    snprintf(text, sizeof text, "%d", partitions);
    setenv("CAUSEWAY_PARTITIONS", text, 1);
    snprintf(text, sizeof text, "nats://127.0.0.1:%d", nats.port);
    setenv("CAUSEWAY_NATS_URL", text, 1);
    snprintf(text, sizeof text, "host=127.0.0.1 port=%d user=postgres dbname=postgres", pg.port);
    setenv("CAUSEWAY_DB", text, 1);
    snprintf(text, sizeof text, "%s/sorter.%d.sock", nats.dir, instance);
    setenv("CAUSEWAY_ADMIN_SOCKET", text, 1);
    if (getenv("TEST_SHOW_LOG"))
        setenv("CAUSEWAY_LOG_LEVEL", "debug", 1);
    setenv("CAUSEWAY_LOG_BYTES", "64M", 1);
    setenv("TEST_DAEMON", "1", 1);
    if (crash_at)
        setenv("CAUSEWAY_CRASH_AT", crash_at, 1);
    if (!getenv("TEST_SHOW_LOG") && (!freopen("/dev/null", "w", stderr)))
        _exit(126);
    execl(program, program, NULL);
    _exit(127);
}

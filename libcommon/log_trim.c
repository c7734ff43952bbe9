#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/log.h"
#include "libcommon/log_read_internal.h"
#include "libcommon/metrics.h"
#include "libcommon/service.h"
#include "proto/subjects.h"

/* A partition keeps what some mandatory reader has not passed by the margin of log_trail.h. */

#define TRIM_MS      2000
#define SUBJECTS_MAX 16

struct trimmer {
    struct cw_log_reader *r;
    struct event *timer;
    uint32_t index; /* partition at hand */
    bool busy;
    uint64_t seq;
    struct js_call *call;
    struct cw_db_query *query;
    struct log_out *outs[SUBJECTS_MAX]; /* one per subject of the partition */
    size_t n_outs, waiting;
    struct out_msg marks[SUBJECTS_MAX];
    bool failed;
    uint64_t done[]; /* per partition: trimmed up to */
};

static void close_outs(struct trimmer *t)
{
    for (size_t i = 0; i < t->n_outs; i++) {
        out_close(&t->outs[i]);
        free(t->marks[i].outbox);
        t->marks[i] = (struct out_msg){ 0 }; /* the next partition may need no mark here */
    }
    t->n_outs = t->waiting = 0;
}

static void on_purged(int rc, void *arg)
{
    struct trimmer *t = arg;
    t->call = NULL;
    if (rc == 0) {
        t->done[t->index] = t->seq;
        cw_log(CW_INFO, "log_trimmed", "log=%s partition=%u seq=%" PRIu64, t->r->cfg.log, t->index,
               t->seq);
    }
    t->busy = false;
}

static void purge(struct trimmer *t)
{
    if (t->failed) { /* a writer was faster: next time */
        close_outs(t);
        t->busy = false;
        return;
    }
    close_outs(t);
    t->call = js_stream_purge(t->r->app, t->r->cfg.log, t->index, t->seq, on_purged, t);
}

static void on_mark(int rc, void *arg)
{
    struct trimmer *t = arg;
    t->failed |= rc < 0;
    if (--t->waiting == 0)
        purge(t);
}

/* All tails are known: those below the trim point are carried over it. */
static void on_tail(int rc, void *arg)
{
    struct trimmer *t = arg;
    (void)rc;
    if (--t->waiting)
        return;
    t->waiting = 1;
    for (size_t i = 0; i < t->n_outs; i++) {
        struct log_out *o = t->outs[i];
        const char *outbox = out_tail_outbox(o);
        if (out_tail_seq(o) == 0 || out_tail_seq(o) >= t->seq)
            continue;
        t->marks[i] = (struct out_msg){ .mark = out_tail_mark(o),
                                        .outbox = outbox ? cw_strdup(outbox) : NULL };
        t->waiting++;
        out_send(o, &t->marks[i], 1, on_mark, t);
    }
    on_mark(0, t);
}

static void on_subjects(int rc, const char *const *subjects, size_t n, void *arg)
{
    struct trimmer *t = arg;
    t->call = NULL;
    t->failed = rc != 0 || n > SUBJECTS_MAX;
    for (size_t i = 0; !t->failed && i < n; i++) {
        const char *writer = strchr(subjects[i], '.');
        writer = writer ? strchr(writer + 1, '.') : NULL;
        if (writer)
            t->outs[t->n_outs++] = out_open(t->r->app, t->r->cfg.log, t->index, writer + 1);
    }
    if (t->n_outs == 0) {
        purge(t);
        return;
    }
    t->waiting = t->n_outs;
    for (size_t i = 0; i < t->n_outs; i++)
        out_read_tail(t->outs[i], on_tail, t);
}

static void on_point(PGresult *res, void *arg)
{
    struct trimmer *t = arg;
    bool known = cw_db_outcome(res) == CW_DB_OK && PQntuples(res) == 1;
    t->query = NULL;
    t->seq = known ? (uint64_t)cw_db_i64(res, 0, "trim", 0) : 0;
    if (t->seq <= t->done[t->index]) {
        t->busy = false;
    } else if (strcmp(t->r->cfg.log, CW_LOG_UPLINK) == 0) { /* its writers keep no marks in it */
        t->failed = false;
        purge(t);
    } else
        t->call = js_stream_subjects(t->r->app, t->r->cfg.log, t->index, on_subjects, t);
}

/* The lowest trim of all mandatory readers; no row while one of them has never run. */
static void look(struct trimmer *t)
{
    char *sql = cw_sprintf("SELECT min(trim) AS trim FROM public.log_position WHERE log = '%s' AND "
                           "partition = %u HAVING count(*) >= (SELECT count(*) FROM "
                           "public.log_reader WHERE log = '%s')",
                           t->r->cfg.log, t->index, t->r->cfg.log);
    t->query = cw_db_query(cw_app_db(t->r->app), sql, on_point, t);
    free(sql);
    t->busy = t->query != NULL;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct trimmer *t = arg;
    (void)fd, (void)what;
    if (t->busy || !cw_app_db(t->r->app))
        return;
    t->index = (t->index + 1) % t->r->n_parts;
    if (cw_log_reader_owns(t->r, t->index))
        look(t);
}

void trim_open(struct cw_log_reader *r)
{
    int64_t each_ms = TRIM_MS / r->n_parts;
    struct timeval every = { each_ms / 1000, each_ms % 1000 * 1000 };
    struct trimmer *t = cw_calloc(1, sizeof *t + r->n_parts * sizeof t->done[0]);
    t->r = r;
    t->timer = event_new(cw_app_base(r->app), -1, EV_PERSIST, on_timer, t);
    evtimer_add(t->timer, &every);
    r->trimmer = t;
}

void trim_close(struct cw_log_reader *r)
{
    struct trimmer *t = r->trimmer;
    if (!t)
        return;
    r->trimmer = NULL;
    if (t->query)
        cw_db_cancel(t->query);
    js_cancel(&t->call);
    close_outs(t);
    event_free(t->timer);
    free(t);
}

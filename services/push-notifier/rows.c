#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "services/push-notifier/notifier.h"

#define LOAD_ROWS  16 /* of a lane at once, and not much more than … */
#define LOAD_BYTES "262144"
#define SWEEP_ROWS "200"

static const struct cw_stmt stmt_load = {
    "rows_load", "SELECT seq, idx, push, attempts, spent_ms, counted_ms FROM (SELECT a.*,"
                 " sum(bytes) OVER (ORDER BY seq, idx) - bytes AS before FROM (SELECT seq, idx,"
                 " push, bytes, attempts, spent_ms, counted_ms FROM push.backlog"
                 " WHERE partition = $1 AND action_id = $2 AND device_key = $3"
                 " AND (seq, idx) >= ($4::bigint, $5::int) ORDER BY seq, idx LIMIT $6::bigint) a) b"
                 " WHERE before < " LOAD_BYTES " ORDER BY seq, idx"
};
/* The oldest that are too old, or of a rule that has too much. */
static const struct cw_stmt stmt_old = {
    "rows_old", "SELECT b.partition, b.seq, b.idx, b.push FROM push.backlog b"
                " LEFT JOIN unnest($3::text[], $4::bigint[]) AS q (rule_id, parked_ms)"
                " USING (rule_id) WHERE b.partition = ANY ($1::int[])"
                " AND (b.parked_ms < $2::bigint OR b.parked_ms <= q.parked_ms)"
                " ORDER BY b.parked_ms, b.seq, b.idx LIMIT " SWEEP_ROWS
};
/* Rules whose rows hold more than $1 bytes: up to which time theirs have to go. */
static const struct cw_stmt stmt_quota = {
    "rows_quota", "SELECT rule_id, max(parked_ms) AS until_ms FROM (SELECT rule_id, parked_ms,"
                  " sum(bytes) OVER (PARTITION BY rule_id ORDER BY parked_ms DESC, partition,"
                  " seq DESC, idx DESC ROWS UNBOUNDED PRECEDING) AS run FROM push.backlog"
                  " WHERE rule_id IN (SELECT rule_id FROM push.backlog GROUP BY rule_id"
                  " HAVING sum(bytes) > $1::bigint)) a WHERE run > $1::bigint GROUP BY rule_id"
};

struct load {
    struct notifier *n;
    struct lane *lane;
    struct cw_db_query *query; /* NULL: could not be asked */
    LIST_ENTRY(load) link;
};
static LIST_HEAD(, load) waiting = LIST_HEAD_INITIALIZER(waiting);
static struct cw_db_array quota_rules, quota_until;
static struct cw_db_query *quota_query, *old_query;

static Causeway__Push *read_push(const PGresult *res, int row)
{
    size_t len;
    unsigned char *data = PQunescapeBytea((const unsigned char *)cw_db_str(res, row, "push"), &len);
    Causeway__Push *push = data ? causeway__push__unpack(NULL, len, data) : NULL;
    PQfreemem(data);
    if (!push)
        abort(); /* we have packed it ourselves */
    return push;
}

static void end_load(struct load *load, const struct loaded_row *rows, size_t n, bool ok)
{
    struct lane *lane = load->lane;
    LIST_REMOVE(load, link);
    free(load);
    window_loaded(lane, rows, n, ok, cw_now_ms());
}

static void on_load(PGresult *res, void *arg)
{
    static struct cw_log_gate gate;
    struct load *load = arg;
    struct loaded_row rows[LOAD_ROWS];
    if (cw_db_outcome(res) != CW_DB_OK) {
        cw_log_limited(&gate, CW_WARN, "rows_not_loaded", "reason=\"%s\"", cw_db_error(res));
        end_load(load, NULL, 0, false);
        return;
    }
    int n = PQntuples(res);
    for (int i = 0; i < n; i++)
        rows[i] = (struct loaded_row){ .seq = (uint64_t)cw_db_i64(res, i, "seq", 0),
                                       .idx = (uint32_t)cw_db_i64(res, i, "idx", 0),
                                       .push = read_push(res, i),
                                       .attempts = (unsigned)cw_db_i64(res, i, "attempts", 0),
                                       .spent_ms = cw_db_i64(res, i, "spent_ms", 0),
                                       .counted_ms = cw_db_i64(res, i, "counted_ms", 0) };
    end_load(load, rows, (size_t)n, true);
}

void rows_load(struct lane *lane, void *self)
{
    struct load *load = cw_calloc(1, sizeof *load);
    char number[24], key[24], seq[24], idx[24], limit[24];
    *load = (struct load){ .n = self, .lane = lane };
    const struct cw_db_param p[] = {
        cw_db_int(lane->partition->number, number),
        CW_TEXT(lane->action->id),
        cw_db_int(strtoll(strrchr(lane->key, ' '), NULL, 10), key),
        cw_db_int((int64_t)lane->from_seq, seq),
        cw_db_int(lane->from_idx, idx),
        cw_db_int(lane->stored < LOAD_ROWS ? (int64_t)lane->stored : LOAD_ROWS, limit)
    };
    lane->load = load;
    load->query = cw_db_exec(load->n->db, &stmt_load, CW_ARRAY_LEN(p), p, on_load, load);
    LIST_INSERT_HEAD(&waiting, load, link);
}

void rows_cancel(struct lane *lane, void *self)
{
    struct load *load = lane->load;
    (void)self;
    if (load->query)
        cw_db_cancel(load->query);
    LIST_REMOVE(load, link);
    free(load);
    lane->load = NULL;
}

void rows_tick(struct notifier *n, int64_t now_ms)
{
    struct load *load, *next;
    (void)n, (void)now_ms;
    for (load = LIST_FIRST(&waiting); load; load = next) {
        next = LIST_NEXT(load, link);
        if (!load->query)
            end_load(load, NULL, 0, false);
    }
}

/* ---- what is too old, or too much */

static void on_old(PGresult *res, void *arg)
{
    struct notifier *n = arg;
    old_query = NULL;
    if (cw_db_outcome(res) != CW_DB_OK)
        return;
    for (int i = 0; i < PQntuples(res); i++) {
        struct partition *p =
            window_partition(n->window, (uint32_t)cw_db_i64(res, i, "partition", 0));
        struct loaded_row row = { .seq = (uint64_t)cw_db_i64(res, i, "seq", 0),
                                  .idx = (uint32_t)cw_db_i64(res, i, "idx", 0),
                                  .push = read_push(res, i) };
        if (p && !p->closing)
            window_expire(p, &row);
        else
            causeway__push__free_unpacked(row.push, NULL);
    }
}

static void ask_old(struct notifier *n)
{
    struct cw_db_array numbers = { 0 };
    struct partition *p, *tmp;
    char before[24];
    if (old_query || !n->window->partitions)
        return;
    cw_db_array_reset(&numbers, CW_ARRAY_INT4);
    HASH_ITER(hh, n->window->partitions, p, tmp)
    cw_db_array_int(&numbers, p->number);
    const struct cw_db_param par[] = { cw_db_array_param(&numbers),
                                       cw_db_int(cw_now_ms() - n->expire_ms, before),
                                       cw_db_array_param(&quota_rules),
                                       cw_db_array_param(&quota_until) };
    old_query = cw_db_exec(n->db, &stmt_old, CW_ARRAY_LEN(par), par, on_old, n);
    cw_db_array_free(&numbers);
}

static void on_quota(PGresult *res, void *arg)
{
    quota_query = NULL;
    if (cw_db_outcome(res) != CW_DB_OK)
        return;
    cw_db_array_reset(&quota_rules, CW_ARRAY_TEXT);
    cw_db_array_reset(&quota_until, CW_ARRAY_INT8);
    for (int i = 0; i < PQntuples(res); i++) {
        cw_db_array_str(&quota_rules, cw_db_str(res, i, "rule_id"));
        cw_db_array_int(&quota_until, cw_db_i64(res, i, "until_ms", 0));
    }
    ask_old(arg);
}

void rows_sweep(struct notifier *n)
{
    char limit[24];
    const struct cw_db_param p[] = { cw_db_int(n->backlog_bytes, limit) };
    if (!quota_query)
        quota_query = cw_db_exec(n->db, &stmt_quota, 1, p, on_quota, n);
}

void rows_stop(void)
{
    if (quota_query)
        cw_db_cancel(quota_query);
    if (old_query)
        cw_db_cancel(old_query);
    cw_db_array_free(&quota_rules);
    cw_db_array_free(&quota_until);
}

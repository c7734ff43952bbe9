#include "services/uplink-processor/batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/log.h"
#include "services/uplink-processor/history.h"

/* What must be known before a batch can be interpreted, in this order. */
enum step {
    STEP_NAMES,
    STEP_CHILDREN,
    STEP_DEVICES,
    STEP_PRODUCTS,
    STEP_STATES,
    STEP_PROXIES,
    STEP_INTERPRET
};

struct keys {
    int64_t *keys;
    size_t n, cap;
};

static void add_key(struct keys *k, int64_t key)
{
    if (k->n > 0 && k->keys[k->n - 1] == key)
        return;
    if (k->n == k->cap) {
        k->cap = k->cap ? 2 * k->cap : 64;
        k->keys = cw_realloc(k->keys, k->cap * sizeof *k->keys);
    }
    k->keys[k->n++] = key;
}

#define EACH_UPLINK(b, up)                                                                         \
    for (size_t m_ = 0; m_ < (b)->n_messages; m_++)                                                \
        for (size_t i_ = 0; (b)->messages[m_].batch && i_ < (b)->messages[m_].batch->n_records;    \
             i_++)                                                                                 \
            for (Causeway__Uplink *up = (b)->messages[m_].batch->records[i_]; up; up = NULL)

static void advance(struct batch *b);

static void batch_free(struct batch *b)
{
    for (size_t i = 0; i < b->n_messages; i++)
        if (b->messages[i].batch)
            causeway__uplink_batch__free_unpacked(b->messages[i].batch, NULL);
    free(b->messages);
    struct state *s = b->states, *next;
    HASH_CLEAR(hh, b->states);
    for (; s; s = next) {
        next = s->hh.next;
        free(s);
    }
    shadow_free(&b->shadows);
    why_free(&b->why);
    children_free(&b->children);
    proxies_free(&b->proxies);
    answers_drop(&b->answers);
    for (int i = 0; i < H_COLUMNS; i++)
        cw_db_array_free(&b->history[i]);
    report_free(&b->report);
    cw_buf_free(&b->text);
    cw_buf_free(&b->packed);
    free(b);
}

/* A look-up failed: the same records come again later. */
static void give_up(struct batch *b)
{
    struct cw_log_txn *txn = b->txn;
    cw_log_txn_set_data(txn, NULL);
    batch_free(b);
    cw_log_txn_prepared(txn, -EAGAIN);
}

static void on_step_done(int rc, void *arg)
{
    struct batch *b = arg;
    if (rc < 0) {
        give_up(b);
        return;
    }
    b->step++;
    advance(b);
}

/* ---- notices that know the name of their device only */

static const struct cw_stmt stmt_names = {
    "batch_names",
    "SELECT device_id, device_key FROM registry.device_view WHERE device_id = ANY($1)"
};

static void on_names(PGresult *res, void *arg)
{
    struct batch *b = arg;
    bool ok = cw_db_outcome(res) == CW_DB_OK;
    for (int i = 0; ok && i < PQntuples(res); i++)
        EACH_UPLINK(b, up)
    if (up->device_key == 0 && strcmp(up->device_id, cw_db_str(res, i, "device_id")) == 0)
        up->device_key = cw_db_i64(res, i, "device_key", 0);
    on_step_done(ok ? 0 : -EIO, b);
}

static int find_names(struct batch *b)
{
    struct cw_db_array names = { 0 };
    cw_db_array_reset(&names, CW_ARRAY_TEXT);
    EACH_UPLINK(b, up)
    if (up->device_key == 0 && cw_utf8_valid(up->device_id, strlen(up->device_id)))
        cw_db_array_str(&names, up->device_id);
    int rc = 1;
    if (names.n > 0) {
        struct cw_db_param par = cw_db_array_param(&names);
        rc = cw_db_exec(b->u->db, &stmt_names, 1, &par, on_names, b) ? 0 : -ENOTCONN;
    }
    cw_db_array_free(&names);
    return rc;
}

/* ---- children that gateways speak of */

static int find_children(struct batch *b)
{
    EACH_UPLINK(b, up)
    if (up->kind == CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH)
        children_read(&b->children, up);
    return children_load(b->children, b->u->db, on_step_done, b);
}

static void add_child(int64_t key, void *arg) { add_key(arg, key); }

/* ---- devices and products */

static int find_devices(struct batch *b)
{
    struct keys k = { 0 };
    EACH_UPLINK(b, up)
    if (up->device_key)
        add_key(&k, up->device_key);
    children_each(b->children, add_child, &k);
    int rc = devices_load(b->u->devices, k.keys, k.n, on_step_done, b);
    free(k.keys);
    return rc;
}

struct adding {
    struct batch *b;
    struct keys *keys;
};

static void add_product(int64_t key, void *arg)
{
    struct adding *a = arg;
    const struct device *d = devices_find(a->b->u->devices, key);
    if (d)
        add_key(a->keys, d->product_key);
}

static int find_products(struct batch *b)
{
    struct keys k = { 0 };
    EACH_UPLINK(b, up)
    {
        const struct device *d = devices_find(b->u->devices, up->device_key);
        if (d && up->kind == CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH)
            add_key(&k, d->product_key);
    }
    children_each(b->children, add_product, &(struct adding){ b, &k });
    int rc = cw_products_load(b->u->products, k.keys, k.n, on_step_done, b);
    free(k.keys);
    return rc;
}

/* ---- sessions: what is known about the devices whose status may change */

static const struct cw_stmt stmt_states = {
    "batch_states",
    "SELECT device_key, (status <> 'OFFLINE')::int AS online,"
    " (status = 'ABNORMAL')::int AS abnormal, session_no, since_ms, connected_ms,"
    " via_key, via_session, greatest(connected_ms, last_report_ms, last_message_ms) AS seen_ms"
    " FROM data.device_state WHERE device_key = ANY($1)"
};

struct state *batch_state(struct batch *b, int64_t device_key)
{
    struct state *s;
    HASH_FIND(hh, b->states, &device_key, sizeof device_key, s);
    if (!s) {
        s = cw_calloc(1, sizeof *s);
        s->device_key = device_key;
        HASH_ADD(hh, b->states, device_key, sizeof s->device_key, s);
    }
    return s;
}

static void on_states(PGresult *res, void *arg)
{
    struct batch *b = arg;
    bool ok = cw_db_outcome(res) == CW_DB_OK;
    for (int i = 0; ok && i < PQntuples(res); i++) {
        struct state *s = batch_state(b, cw_db_i64(res, i, "device_key", 0));
        s->online = cw_db_i64(res, i, "online", 0);
        s->abnormal = cw_db_i64(res, i, "abnormal", 0);
        s->session_no = cw_db_i64(res, i, "session_no", 0);
        s->since_ms = cw_db_i64(res, i, "since_ms", 0);
        s->connected_ms = cw_db_i64(res, i, "connected_ms", 0);
        s->via_key = cw_db_i64(res, i, "via_key", 0);
        s->via_session = cw_db_i64(res, i, "via_session", 0);
        s->seen_ms = cw_db_i64(res, i, "seen_ms", 0);
    }
    on_step_done(ok ? 0 : -EIO, b);
}

static void add_state(int64_t key, void *arg) { cw_db_array_int(arg, key); }

static int find_states(struct batch *b)
{
    struct cw_db_array keys = { 0 };
    cw_db_array_reset(&keys, CW_ARRAY_INT8);
    EACH_UPLINK(b, up)
    if (up->kind == CAUSEWAY__UPLINK_KIND__UPLINK_CONNECT ||
        up->kind == CAUSEWAY__UPLINK_KIND__UPLINK_DISCONNECT)
        cw_db_array_int(&keys, up->device_key);
    children_each(b->children, add_state, &keys);
    int rc = 1;
    if (keys.n > 0) {
        struct cw_db_param par = cw_db_array_param(&keys);
        rc = cw_db_exec(b->u->db, &stmt_states, 1, &par, on_states, b) ? 0 : -ENOTCONN;
    }
    cw_db_array_free(&keys);
    return rc;
}

/* ---- proxies: of children whom another gateway than their own speaks of, or has spoken of */

struct foreign {
    struct batch *b;
    struct cw_db_array gateways; /* their own ones */
};

static void add_foreign(int64_t key, void *arg)
{
    struct foreign *f = arg;
    struct state *s;
    const struct device *d = devices_find(f->b->u->devices, key);
    const Causeway__Uplink *up = d ? children_speaker(f->b->children, d->device_id) : NULL;
    HASH_FIND(hh, f->b->states, &key, sizeof key, s);
    bool elsewhere = up && s && s->online && s->via_key && s->via_key != up->device_key;
    if (d && (!up || elsewhere || strcmp(up->device_id, d->gateway_id) != 0))
        cw_db_array_str(&f->gateways, d->gateway_id);
}

static int find_proxies(struct batch *b)
{
    struct foreign f = { .b = b };
    int rc = 1;
    if (!b->children)
        return rc;
    cw_db_array_reset(&f.gateways, CW_ARRAY_TEXT);
    children_each(b->children, add_foreign, &f);
    if (f.gateways.n > 0)
        rc = proxies_load(&b->proxies, b->u->db, &f.gateways, on_step_done, b);
    cw_db_array_free(&f.gateways);
    return rc;
}

static void advance(struct batch *b)
{
    static int (*const finds[])(struct batch *) = {
        [STEP_NAMES] = find_names,     [STEP_CHILDREN] = find_children,
        [STEP_DEVICES] = find_devices, [STEP_PRODUCTS] = find_products,
        [STEP_STATES] = find_states,   [STEP_PROXIES] = find_proxies,
    };
    for (; b->step < STEP_INTERPRET; b->step++) {
        int rc = finds[b->step](b);
        if (rc < 0)
            give_up(b);
        if (rc <= 0)
            return;
    }
    batch_interpret(b);
    cw_log_txn_prepared(b->txn, 0);
}

static void unpack(struct batch *b, const struct cw_record *records, size_t n)
{
    b->messages = cw_calloc(n ? n : 1, sizeof *b->messages);
    b->n_messages = n;
    for (size_t i = 0; i < n; i++) {
        b->messages[i].record = &records[i];
        if (records[i].len == 0 || cw_log_txn_repeated(b->txn, i))
            continue;
        b->messages[i].batch =
            causeway__uplink_batch__unpack(NULL, records[i].len, records[i].data);
        if (!b->messages[i].batch)
            cw_log(CW_ERROR, "uplink_unreadable", "partition=%u seq=%llu bytes=%zu",
                   records[i].partition, (unsigned long long)records[i].seq, records[i].len);
    }
}

void batch_prepare(struct cw_log_txn *txn, const struct cw_record *records, size_t n, void *self)
{
    static const enum cw_array_type types[] = {
        [H_KEY] = CW_ARRAY_INT8,  [H_RECEIVED] = CW_ARRAY_INT8, [H_ORD] = CW_ARRAY_INT8,
        [H_KIND] = CW_ARRAY_TEXT, [H_TOPIC] = CW_ARRAY_TEXT,    [H_REQUEST] = CW_ARRAY_TEXT,
        [H_BODY] = CW_ARRAY_TEXT, [H_VERDICTS] = CW_ARRAY_TEXT, [H_PROPERTIES] = CW_ARRAY_TEXT,
    };
    struct uplink *u = self;
    struct batch *b = cw_calloc(1, sizeof *b);
    b->u = u;
    b->txn = txn;
    for (int i = 0; i < H_COLUMNS; i++)
        cw_db_array_reset(&b->history[i], types[i]);
    unpack(b, records, n);
    cw_log_txn_set_data(txn, b);
    devices_trim(u->devices);
    advance(b);
}

void batch_effects(struct cw_log_txn *txn, void *self)
{
    (void)self;
    batch_send(cw_log_txn_data(txn), txn);
}

void batch_done(struct cw_log_txn *txn, bool committed, void *self)
{
    struct batch *b = cw_log_txn_data(txn);
    if (!b)
        return;
    cw_log_txn_set_data(txn, NULL);
    if (committed)
        answers_send(&b->answers, self);
    if (committed && b->gateways_gone)
        orphans_wake(b->u->orphans);
    batch_free(b);
}

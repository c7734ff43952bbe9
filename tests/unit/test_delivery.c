/* The life of what is queued for devices: the table, cell by cell; then queue.c itself, with a
 * database, gateways, devices and a clock of this file, at random: nothing is forgotten, no status
 * is without evidence, each timer fires or is cancelled. SEED and STEPS in the environment.
 * links: services/command-dispatcher/delivery.c services/command-dispatcher/queue.c
 * services/command-dispatcher/queue_kinds.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <event2/event.h>

#include "services/command-dispatcher/queue.h"

/* ---- the table */

static void what_is_over_takes_nothing(void **state)
{
    (void)state;
    for (int way = 0; way < DELIVERY_WAYS; way++)
        for (int s = 0; s < DELIVERY_STATUSES; s++) {
            bool over = s >= DELIVERY_SUCCESSFUL || (way < WAY_COMMAND && s != DELIVERY_PENDING);
            assert_int_equal(delivery_is_final(way, s), over);
        }
}

/* Evidence: which events can lead to a status at all. */
static bool may_lead(enum delivery_event ev, enum delivery_status to, enum delivery_way way)
{
    bool message = way < WAY_COMMAND;
    switch (to) {
    case DELIVERY_PENDING:
        return ev == ON_OFFLINE || ev == ON_LOST || ev == ON_NO_ROOM || (message && ev == ON_CUT);
    case DELIVERY_SENT: /* something was written, or it was SENT before */
        return !message && ev <= ON_NO_ACK && ev != ON_REFUSED;
    case DELIVERY_DELIVERED: /* a message that was asked for at QoS 0 is as delivered as it gets */
        return ev == ON_ACK || (message && ev == ON_WRITTEN);
    case DELIVERY_SUCCESSFUL:
        return ev == ON_DONE;
    case DELIVERY_TIMEOUT:
        return ev == ON_PLAN_OVER || ev == ON_OVERDUE;
    case DELIVERY_EXPIRED:
        return ev == ON_OVERDUE;
    case DELIVERY_CANCELED:
        return ev == ON_CANCEL;
    default:
        return ev != ON_ACK && ev != ON_DONE;
    }
}

static void each_cell_has_evidence(void **state)
{
    struct delivery_step to;
    (void)state;
    for (int way = 0; way < DELIVERY_WAYS; way++)
        for (int s = 0; s < DELIVERY_STATUSES; s++)
            for (int ev = 0; ev < DELIVERY_EVENTS; ev++)
                if (delivery_next(&to, way, s, ev)) {
                    assert_true(may_lead(ev, to.status, way));
                    assert_true(to.status >= (enum delivery_status)s ||
                                to.status == DELIVERY_PENDING);
                    if (to.action != ACT_NOTHING)
                        assert_true(delivery_is_open(way, to.status));
                    if (ev < ON_WRITTEN && to.action != ACT_NOTHING)
                        assert_int_equal(to.status, s); /* nothing was written */
                }
}

static void what_is_open_takes_all_that_can_come(void **state)
{
    struct delivery_step to;
    (void)state;
    for (int way = 0; way < DELIVERY_WAYS; way++)
        for (int s = 0; s < DELIVERY_STATUSES; s++)
            for (int ev = 0; ev < DELIVERY_EVENTS && delivery_is_open(way, s); ev++) {
                bool command = way >= WAY_COMMAND;
                bool comes = ev <= ON_ACK || ev == ON_OVERDUE ||
                             (command && (ev == ON_DONE || ev == ON_ERROR)) ||
                             (!command && ev == ON_REPLACED) ||
                             (command && s == DELIVERY_PENDING && ev == ON_CANCEL);
                assert_int_equal(delivery_next(&to, way, s, ev), comes);
            }
}

static void the_words_are_those_of_the_api(void **state)
{
    (void)state;
    for (int s = 0; s < DELIVERY_STATUSES; s++)
        assert_int_equal(delivery_status_of(delivery_name(s)), s);
    assert_int_equal(delivery_status_of("pending"), DELIVERY_STATUSES);
}

/* ---- a world for queue.c */

#define DEVICES 12
#define ROWS    96
#define WAITS   256 /* what is under way */

static uint64_t random_state;
static uint32_t dice(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return n ? (uint32_t)(random_state >> 33) % n : 0;
}

static int64_t now_ms = INT64_C(1790000000000);
static int64_t world_ms(void) { return now_ms; }
static const struct cw_clock world_clock = { world_ms, world_ms };

struct device {
    bool online, acks, room, qos0;
    int64_t session_no;
};
struct row {
    int64_t no, root, wakes, created_ms, expires_ms, due_ms;
    int64_t open_ms; /* since when it is open without anybody having looked at it */
    unsigned attempts;
    enum delivery_status status;
    bool used, parked, kept, is_async;
    bool written, acked; /* the evidence: what the world did */
};
static struct device devices[DEVICES];
static struct row rows[ROWS];
static int64_t last_no;

/* What was asked of the database or a gateway, and is answered later. */
struct wait {
    Causeway__DownlinkReply reply;
    int64_t at_ms;
    cw_db_fn *db;
    downlink_fn *down;
    void *arg;
    PGresult *res;
    int rc;
    bool used;
};
static struct wait waits[WAITS];
static bool database_away, drained;
static struct queue *queues[2];
static struct timer {
    event_callback_fn cb;
    void *arg;
    bool on;
} timers[2];
static size_t n_timers;

static struct wait *later(int64_t in_ms)
{
    for (size_t i = 0; i < WAITS; i++)
        if (!waits[i].used) {
            waits[i] = (struct wait){ .used = true, .at_ms = now_ms + in_ms };
            return &waits[i];
        }
    fail_msg("more is under way than there are devices");
    return NULL;
}

struct event *event_new(struct event_base *b, evutil_socket_t fd, short what, event_callback_fn cb,
                        void *arg)
{
    (void)b, (void)fd, (void)what;
    timers[n_timers % 2] = (struct timer){ cb, arg, true };
    return (struct event *)&timers[n_timers++ % 2];
}
int event_add(struct event *ev, const struct timeval *tv)
{
    (void)ev, (void)tv;
    return 0;
}
void event_free(struct event *ev) { ((struct timer *)(void *)ev)->on = false; }

struct event_base *cw_app_base(struct cw_app *app)
{
    (void)app;
    return NULL;
}
bool cw_app_draining(const struct cw_app *app)
{
    (void)app;
    return drained;
}
void cw_log_reader_owned(const struct cw_log_reader *r, struct cw_db_array *out)
{
    (void)r;
    cw_db_array_reset(out, CW_ARRAY_INT4);
    cw_db_array_int(out, 1);
}
void cw_log_reader_kick(struct cw_log_reader *r, uint32_t partition) { (void)r, (void)partition; }
void cw_notice(struct cw_notices *n, const struct cw_notice *notice) { (void)n, (void)notice; }
void cw_log_txn_exec(struct cw_log_txn *txn, const struct cw_stmt *stmt, int n,
                     const struct cw_db_param *params, cw_db_fn *cb, void *arg)
{
    (void)txn, (void)stmt, (void)n, (void)params, (void)cb, (void)arg;
}

static const char *text_of(const struct cw_db_param *p) { return p->data; }
static int64_t number_of(const struct cw_db_param *p) { return strtoll(p->data, NULL, 10); }

/* NULL: it has been swept away. */
static struct row *row_of(int64_t no)
{
    for (struct row *r = rows; r < rows + ROWS; r++)
        if (r->used && r->no == no)
            return r;
    return NULL;
}

static bool is_open(const struct row *r)
{
    return r->used &&
           (r->status == DELIVERY_PENDING || (r->is_async && r->status == DELIVERY_SENT));
}

/* ---- the statements */

static const char *const columns[] = {
    "id",         "device_key", "root_key",   "root_id",    "device_id",
    "partition",  "topic",      "payload",    "status",     "attempts",
    "wakes",      "created_ms", "overdue",    "due",        "title",
    "kept",       "replaced",   "node_id",    "app_id",     "product_key",
    "product_id", "gateway",    "session_no", "written_ms", "needs_subscription"
};

static void set(PGresult *res, int row, const char *column, const char *text)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(columns); i++)
        if (strcmp(columns[i], column) == 0)
            assert_true(PQsetvalue(res, row, (int)i, (char *)text, text ? (int)strlen(text) : -1));
}

static void set_number(PGresult *res, int row, const char *column, int64_t n)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)n);
    set(res, row, column, text);
}

static void put_row(PGresult *res, struct row *r)
{
    int at = PQntuples(res);
    const struct device *d = &devices[r->root];
    set_number(res, at, "id", r->no);
    set_number(res, at, "device_key", r->root);
    set_number(res, at, "root_key", r->root);
    set(res, at, "root_id", "d");
    set(res, at, "device_id", "d");
    set(res, at, "partition", "1");
    set(res, at, "topic", "t");
    set(res, at, "payload", "x");
    set(res, at, "status", delivery_name(r->status));
    set_number(res, at, "attempts", r->attempts);
    set_number(res, at, "wakes", r->wakes);
    set_number(res, at, "created_ms", r->created_ms);
    set(res, at, "overdue", r->expires_ms <= now_ms ? "t" : "f");
    set(res, at, "due", r->parked || r->due_ms <= now_ms ? "t" : "f");
    set(res, at, "title", NULL);
    set(res, at, "kept", r->kept ? "t" : "f");
    set(res, at, "replaced", "f");
    set(res, at, "node_id", "n");
    set(res, at, "app_id", "a");
    set(res, at, "product_key", "1");
    set(res, at, "product_id", "p");
    set(res, at, "gateway", d->online ? "g" : NULL);
    set_number(res, at, "session_no", d->session_no);
    set(res, at, "written_ms", NULL);
    set(res, at, "needs_subscription", "f");
    r->open_ms = now_ms;
}

static PGresult *heads(bool async)
{
    PGresAttDesc d[CW_ARRAY_LEN(columns)] = { 0 };
    PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    for (size_t i = 0; i < CW_ARRAY_LEN(columns); i++)
        d[i].name = (char *)columns[i];
    PQsetResultAttrs(res, CW_ARRAY_LEN(columns), d);
    for (int64_t root = 0; root < DEVICES; root++) {
        struct row *first = NULL;
        for (struct row *r = rows; r < rows + ROWS; r++)
            if (is_open(r) && r->is_async == async && r->root == root && !r->parked &&
                (!first || r->no < first->no))
                first = r;
        if (first)
            put_row(res, first);
    }
    for (struct row *r = rows; r < rows + ROWS; r++)
        if (is_open(r) && r->is_async == async && r->parked && r->expires_ms <= now_ms)
            put_row(res, r);
    return res;
}

static void park_row(const struct cw_db_param *p)
{
    struct row *r = row_of(number_of(&p[1]));
    if (r && is_open(r) && r->wakes == number_of(&p[2]) && !devices[r->root].online)
        r->parked = true;
}

/* No status without evidence: what the statement claims, the world has done. */
static void check_evidence(const struct row *r, enum delivery_status to)
{
    if (to == DELIVERY_SENT)
        assert_true(r->written);
    if (to == DELIVERY_DELIVERED)
        assert_true(r->is_async ? r->acked : r->written);
    if (to == DELIVERY_EXPIRED)
        assert_true(now_ms >= r->expires_ms);
    if (to == DELIVERY_TIMEOUT && !r->is_async)
        assert_true(now_ms >= r->expires_ms);
    if (to == DELIVERY_TIMEOUT && r->is_async)
        assert_true(r->written || now_ms >= r->expires_ms);
}

static void store_row(const struct cw_db_param *p)
{
    struct row *r = row_of(number_of(&p[1]));
    enum delivery_status from = delivery_status_of(text_of(&p[2]));
    enum delivery_status to = delivery_status_of(text_of(&p[3]));
    if (!r || r->status != from)
        return; /* an answer, or the application, came first */
    check_evidence(r, to);
    r->status = to;
    r->attempts = (unsigned)number_of(&p[6]);
    r->due_ms = number_of(&p[10]);
}

struct cw_db_query *cw_db_exec(struct cw_db *db, const struct cw_stmt *stmt, int n,
                               const struct cw_db_param *params, cw_db_fn *cb, void *arg)
{
    (void)db, (void)n;
    if (database_away)
        return NULL;
    bool fails = dice(50) == 0, done = !fails || dice(2);
    PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_COMMAND_OK);
    if (!fails && strstr(stmt->name, "_heads")) {
        PQclear(res);
        res = heads(strncmp(stmt->name, "async", 5) == 0);
    } else if (done && strstr(stmt->name, "_park"))
        park_row(params);
    else if (done && strstr(stmt->name, "_store"))
        store_row(params);
    struct wait *w = later(dice(5));
    w->db = cb;
    w->arg = arg;
    w->res = fails ? NULL : res; /* the connection went: CW_DB_RETRY, done or not */
    if (fails)
        PQclear(res);
    return (struct cw_db_query *)w;
}

void cw_db_cancel(struct cw_db_query *q)
{
    struct wait *w = (struct wait *)(void *)q;
    PQclear(w->res);
    *w = (struct wait){ 0 };
}

#define OUTCOME(o) CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_##o

int downlink_ask(struct dispatcher *d, const char *gateway, const Causeway__Downlink *request,
                 downlink_fn *cb, void *arg)
{
    struct row swept = { 0 }, *known = row_of(strtol(request->request_id, NULL, 10));
    struct row *r = known ? known : &swept;
    const struct device *to = &devices[request->device_key];
    int64_t limit_ms = request->deadline_ms - now_ms;
    (void)d, (void)gateway;
    if (dice(100) == 0)
        return -1; /* NATS is away */
    assert_true(limit_ms > 0);
    struct wait *w = later(dice(20));
    w->down = cb;
    w->arg = arg;
    causeway__downlink_reply__init(&w->reply);
    w->reply.outcome = OUTCOME(NO_SESSION);
    if (dice(40) == 0) {
        w->rc = -1; /* the gateway is gone; it may have written */
        r->written |= dice(2);
        return 0;
    }
    if (!to->online || request->session_no != to->session_no)
        return 0;
    if (!to->room) {
        w->reply.outcome = OUTCOME(BUSY);
        return 0;
    }
    r->written = true;
    w->reply.written_ms = now_ms;
    w->reply.attempts = 1;
    if (to->qos0)
        w->reply.outcome = OUTCOME(WRITTEN);
    else if (to->acks) {
        r->acked = true;
        w->reply.outcome = OUTCOME(ACKED);
        w->reply.acked_ms = now_ms;
    } else if (dice(2)) {
        w->reply.outcome = OUTCOME(CLOSED);
    } else {
        w->reply.outcome = OUTCOME(ACK_TIMEOUT);
        w->at_ms = now_ms + limit_ms;
    }
    return 0;
}

/* ---- what happens */

static void come_back(struct device *d)
{
    d->online = true;
    d->session_no++;
    for (struct row *r = rows; r < rows + ROWS; r++) /* stmt_wake */
        if (is_open(r) && &devices[r->root] == d) {
            r->parked = false;
            r->wakes++;
        }
    for (int i = 0; i < 2; i++)
        if (queues[i])
            queue_wake(queues[i]);
}

static void change_device(void)
{
    struct device *d = &devices[dice(DEVICES)];
    switch (dice(5)) {
    case 0:
        d->acks = !d->acks;
        break;
    case 1:
        d->room = dice(4) != 0;
        break;
    case 2:
        d->qos0 = dice(6) == 0;
        break;
    default:
        if (d->online)
            d->online = false;
        else
            come_back(d);
    }
}

static void add_row(void)
{
    for (struct row *r = rows; r < rows + ROWS; r++)
        if (!r->used) {
            *r = (struct row){ .used = true, .no = ++last_no, .root = dice(DEVICES) };
            r->is_async = dice(2);
            r->kept = dice(4) != 0;
            r->created_ms = r->due_ms = r->open_ms = now_ms;
            r->expires_ms = now_ms + (r->kept ? 1000 + dice(7200000) : 300000);
            return;
        }
}

/* The device's answer, or the application's change of mind. */
static void change_row(void)
{
    struct row *r = &rows[dice(ROWS)];
    struct delivery_step to;
    enum delivery_way way = r->kept ? WAY_COMMAND : WAY_COMMAND_NOW;
    if (!r->used || !r->is_async)
        return;
    enum delivery_event ev = r->written ? dice(2) ? ON_DONE : ON_ERROR : ON_CANCEL;
    if (delivery_next(&to, way, r->status, ev))
        r->status = to.status;
}

static void answer_due(void)
{
    for (size_t i = 0; i < WAITS; i++) {
        struct wait w = waits[i];
        if (!w.used || w.at_ms > now_ms)
            continue;
        waits[i].used = false;
        if (w.down)
            w.down(w.rc, w.rc ? NULL : &w.reply, w.arg);
        else if (w.db)
            w.db(w.res, w.arg);
        PQclear(w.res);
    }
}

static struct dispatcher dispatcher = { .message_ms = 8000, .resend_ms = 2000 };

static void start_queues(void)
{
    n_timers = 0;
    queues[0] = queue_open(&dispatcher, &kind_message);
    queues[1] = queue_open(&dispatcher, &kind_async);
}

/* The process ends, orderly: what is under way is answered to nobody, the next owner begins anew.
 */
static void restart(void)
{
    queue_close(&queues[0]);
    queue_close(&queues[1]);
    assert_false(timers[0].on || timers[1].on);
    for (int i = 0; i < 200000 && dice(3); i++)
        now_ms++;
    for (size_t i = 0; i < WAITS; i++)
        waits[i].at_ms = now_ms;
    answer_due();
    start_queues();
}

/* Whatever is open is looked at: each second if its device is there, else when its time is over. An
 * attempt under way takes 130 s at most, and one that waits behind others takes their time too. */
#define FORGOTTEN_MS INT64_C(3600000)
static void check_forgotten(void)
{
    for (struct row *r = rows; r < rows + ROWS; r++) {
        if (!r->used)
            continue;
        if (!is_open(r)) {
            r->used = dice(4) != 0; /* makes room */
            continue;
        }
        assert_true(now_ms < r->expires_ms + FORGOTTEN_MS || now_ms < r->open_ms + FORGOTTEN_MS);
        assert_false(r->parked && devices[r->root].online);
    }
}

static void turn(void)
{
    now_ms += dice(100) == 0 ? 1000 + dice(20000) : dice(40);
    answer_due();
    if (dice(10) == 0)
        for (int i = 0; i < 2; i++)
            timers[i].cb(-1, EV_TIMEOUT, timers[i].arg);
    switch (dice(12)) {
    case 0:
    case 1:
        add_row();
        break;
    case 2:
        change_device();
        break;
    case 3:
        change_row();
        break;
    case 4:
        database_away = dice(40) == 0;
        break;
    case 5:
        if (dice(500) == 0)
            restart();
        break;
    default:
        check_forgotten();
    }
}

/* All devices come online and behave: everything that is open comes to an end. */
static void assert_all_end(void)
{
    database_away = false;
    for (struct device *d = devices; d < devices + DEVICES; d++) {
        *d = (struct device){ .acks = true, .room = true, .session_no = d->session_no };
        come_back(d);
    }
    for (int s = 0; s < 20000; s++) {
        now_ms += 1000;
        answer_due();
        for (int i = 0; i < 2; i++)
            timers[i].cb(-1, EV_TIMEOUT, timers[i].arg);
    }
    for (const struct row *r = rows; r < rows + ROWS; r++)
        assert_false(is_open(r));
}

static void at_random_nothing_is_forgotten(void **state)
{
    const char *seed = getenv("SEED"), *steps = getenv("STEPS");
    long n = steps ? strtol(steps, NULL, 10) : 1000000;
    random_state = seed ? strtoull(seed, NULL, 10) : 20261125;
    (void)state;
    cw_clock = &world_clock;
    cw_log_setup("test_delivery", CW_ERROR);
    start_queues();
    for (struct device *d = devices; d < devices + DEVICES; d++)
        *d = (struct device){ .acks = true, .room = true };
    for (long i = 0; i < n; i++)
        turn();
    assert_all_end();
    print_message("%ld steps, %lld queued, %lld h of the virtual clock\n", n, (long long)last_no,
                  (long long)((now_ms - INT64_C(1790000000000)) / 3600000));
    queue_close(&queues[0]);
    queue_close(&queues[1]);
    answer_due();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_over_takes_nothing),
        cmocka_unit_test(each_cell_has_evidence),
        cmocka_unit_test(what_is_open_takes_all_that_can_come),
        cmocka_unit_test(the_words_are_those_of_the_api),
        cmocka_unit_test(at_random_nothing_is_forgotten),
    };
    return cmocka_run_group_tests_name("delivery", tests, NULL, NULL);
}

/* The window's decisions, with time and answers given by hand. links:
 * services/push-notifier/window.c services/push-notifier/lanes.c services/push-notifier/sending.c
 * services/push-notifier/saving.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/push-notifier/window.h"

#define BEGIN_MS INT64_C(1000000)
#define DEVICES  100

static struct window *w;
static struct partition *p;
static struct action *action;
static struct item *sent[4096]; /* in flight, oldest first */
static size_t n_sent;
static uint64_t seq;

static void on_send(struct item *item, void *self)
{
    (void)self;
    sent[n_sent++] = item;
}
static void on_look_up(struct action *a, void *self)
{
    (void)self;
    action = a;
}
static void no_item(struct item *item, void *self) { (void)item, (void)self; }
static void no_lane(struct lane *lane, void *self) { (void)lane, (void)self; }
static void no_action(struct action *a, void *self) { (void)a, (void)self; }
static void no_finish(const struct item *item, enum outcome how, void *self)
{
    (void)item, (void)how, (void)self;
}
static void no_wait(const struct item *item, const struct target *t, void *self)
{
    (void)item, (void)t, (void)self;
}
static void no_block(const struct target *t, bool blocked, void *self)
{
    (void)t, (void)blocked, (void)self;
}

static int open_window(void **state)
{
    static const int64_t delays_ms[] = { 1000, 0 };
    static const struct window_ops ops = { on_send,   no_item,   no_lane, no_lane, on_look_up,
                                           no_action, no_finish, no_wait, no_block };
    (void)state;
    n_sent = seq = 0;
    w = window_new(&(struct window_limits){ .items = 4096,
                                            .bytes = 8 << 20,
                                            .slots = 64,
                                            .park_ms = 1000,
                                            .retry_ms = 600000,
                                            .probe_ms = 180000,
                                            .block_after = 10,
                                            .delays_ms = delays_ms },
                   &ops, NULL);
    p = window_open(w, 0, 0);
    return 0;
}

static int close_window(void **state)
{
    (void)state;
    window_free(&w);
    return 0;
}

/* n items of as many records, one device after the other. */
static void take(size_t n, int64_t now_ms)
{
    for (size_t i = 0; i < n; i++) {
        Causeway__PushBatch *batch = cw_malloc(sizeof *batch);
        Causeway__Push *push = cw_malloc(sizeof *push);
        causeway__push_batch__init(batch);
        causeway__push__init(push);
        push->action_id = cw_strdup("action");
        push->device_key = (int64_t)(seq % DEVICES);
        batch->pushes = cw_malloc(sizeof *batch->pushes);
        batch->pushes[0] = push;
        batch->n_pushes = 1;
        window_take(p, ++seq, batch, 100, now_ms);
    }
    if (!action->target)
        window_action(w, action, "127.0.0.1:80", now_ms);
}

static void answer(size_t n, int64_t now_ms)
{
    while (n-- > 0) {
        struct item *first = sent[0];
        assert_true(n_sent > 0);
        memmove(sent, sent + 1, --n_sent * sizeof *sent);
        window_answered(first, true, now_ms);
    }
}

/* How many rows the next save would write. */
static size_t parks(int64_t now_ms)
{
    struct save *s = window_save(p, now_ms);
    size_t n = s ? s->n_inserts : 0;
    if (s)
        window_saved(p, now_ms);
    return n;
}

static void what_no_answer_comes_for_is_parked_after_a_second(void **state)
{
    (void)state;
    take(500, BEGIN_MS);
    assert_int_equal(parks(BEGIN_MS + 900), 0);
    assert_int_equal(parks(BEGIN_MS + 1000), 500);
}

static void a_slow_application_is_parked(void **state)
{
    (void)state;
    take(500, BEGIN_MS);
    answer(50, BEGIN_MS + 500); /* the others would take nine seconds more */
    assert_int_equal(parks(BEGIN_MS + 1000), 450);
}

static void what_keeps_pace_is_not_parked(void **state)
{
    (void)state;
    take(3000, BEGIN_MS);
    for (int64_t at = BEGIN_MS; at < BEGIN_MS + 3000; at += 100) {
        answer(100, at);
        assert_int_equal(parks(at + 99), 0);
    }
    assert_int_equal(p->n_open, 0);
    assert_int_equal(p->seq, 3000);
}

static void after_ten_seconds_it_is_parked_all_the_same(void **state)
{
    (void)state;
    take(100, BEGIN_MS);
    int64_t at = BEGIN_MS;
    for (; at < BEGIN_MS + 9900; at += 100) { /* the first device's item is never answered */
        take(10, at);
        struct item *first = sent[0];
        memmove(sent, sent + 1, --n_sent * sizeof *sent);
        answer(n_sent < 10 ? n_sent : 10, at);
        memmove(sent + 1, sent, n_sent++ * sizeof *sent);
        sent[0] = first;
        assert_int_equal(parks(at), 0);
    }
    assert_true(parks(BEGIN_MS + 10000) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, open_window, close_window)
        T(what_no_answer_comes_for_is_parked_after_a_second),
        T(a_slow_application_is_parked),
        T(what_keeps_pace_is_not_parked),
        T(after_ten_seconds_it_is_parked_all_the_same),
    };
    return cmocka_run_group_tests_name("push_window", tests, NULL, NULL);
}

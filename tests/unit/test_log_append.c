/* Appending to UPLINK and the notices that go there, against a real nats-server. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "libcommon/ids.h"
#include "libcommon/js_stream.h"
#include "libcommon/log_append.h"
#include "libcommon/log_fetch.h"
#include "libcommon/metrics.h"
#include "libcommon/notice.h"
#include "proto/causeway.pb-c.h"
#include "proto/subjects.h"
#include "tests/unit/logs_fixture.h"

#define PARTITIONS 2

static struct cw_log_append *l;
static int stored, canceled;
static long order_broken, last_arg;

static void on_stored(int rc, void *arg)
{
    stored += rc == 0;
    canceled += rc == -ECANCELED;
    order_broken += (long)arg <= last_arg;
    last_arg = (long)arg;
}

static void append(uint32_t partition, long number, size_t body)
{
    Causeway__Uplink up = CAUSEWAY__UPLINK__INIT;
    uint8_t *bytes = cw_calloc(1, body);
    up.kind = CAUSEWAY__UPLINK_KIND__UPLINK_PUBLISH;
    up.device_id = "lamp-1";
    up.session_no = number;
    up.body = (ProtobufCBinaryData){ body, bytes };
    size_t len = causeway__uplink__get_packed_size(&up);
    uint8_t *packed = cw_malloc(len);
    causeway__uplink__pack(&up, packed);
    cw_log_append(l, partition, packed, len, on_stored, (void *)number);
    free(packed);
    free(bytes);
}

/* ---- what the log holds, read as its reader does: a repeat is dropped by Cw-Batch */

struct content {
    struct cw_log_fetch *f;
    long records, wrong, largest;
    uint64_t n;
    size_t messages, max_len, turns; /* turns: how often something came */
};
static struct content seen;
static const char *notice_code;
static uint32_t notice_count;

static void take(const struct cw_record *r)
{
    const char *dot = strrchr(r->batch, '.');
    uint64_t n = strtoull(dot + 1, NULL, 10);
    if (n <= seen.n)
        return;
    Causeway__UplinkBatch *b = causeway__uplink_batch__unpack(NULL, r->len, r->data);
    assert_non_null(b);
    assert_string_equal(b->gateway, "gate-1-7");
    seen.n = n;
    seen.messages++;
    seen.max_len = r->len > seen.max_len ? r->len : seen.max_len;
    for (size_t i = 0; i < b->n_records; i++) {
        if (b->records[i]->kind == CAUSEWAY__UPLINK_KIND__UPLINK_NOTICE) {
            notice_code = strcmp(b->records[i]->notice->code, "wrong_password") ? "?" : "ok";
            notice_count += b->records[i]->notice->count;
            continue;
        }
        seen.wrong += b->records[i]->session_no <= seen.largest;
        seen.largest = b->records[i]->session_no;
        seen.records++;
    }
    causeway__uplink_batch__free_unpacked(b, NULL);
}

static void on_arrived(void *self)
{
    (void)self;
    seen.turns++;
    for (; cw_log_fetch_count(seen.f); cw_log_fetch_drop(seen.f, 1))
        take(cw_log_fetch_at(seen.f, 0));
}

static void on_failed(enum cw_fetch_failure why, const char *text, void *self)
{
    (void)self;
    fail_msg("fetch failed: %d %s", why, text);
}

static void look_each(uint32_t partition, int64_t gather_ms)
{
    seen = (struct content){ 0 };
    seen.f = cw_log_fetch_open(&app, &(struct cw_log_fetch_config){ .log = CW_LOG_UPLINK,
                                                                    .partition = partition,
                                                                    .gather_ms = gather_ms,
                                                                    .arrived = on_arrived,
                                                                    .failed = on_failed });
}

static void look(uint32_t partition) { look_each(partition, 0); }

static int start(void **state)
{
    (void)state;
    nats_start(&nats);
    app_up(PARTITIONS);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    app_down();
    server_end(&nats);
    return 0;
}

static int open_log(void **state)
{
    (void)state;
    stored = canceled = 0;
    last_arg = order_broken = 0;
    l = cw_log_append_open(&app, CW_LOG_UPLINK);
    return 0;
}

static int close_log(void **state)
{
    (void)state;
    cw_log_fetch_close(&seen.f);
    cw_log_append_close(&l);
    /* each test starts with empty streams */
    server_end(&nats);
    app_down();
    return start(state);
}

static void records_are_stored_in_order_in_few_messages(void **state)
{
    (void)state;
    for (long i = 1; i <= 5000; i++)
        append(0, i, 100);
    UNTIL(stored == 5000);
    assert_int_equal(order_broken, 0);
    assert_int_equal(cw_log_append_waiting(l, 0), 0);
    look(0);
    UNTIL(seen.records == 5000);
    assert_int_equal(seen.wrong, 0);
    assert_in_range(seen.messages, 2, 50);
    assert_in_range(seen.max_len, 100, CW_BATCH_MAX_BYTES + 100);
}

static void a_large_record_goes_alone(void **state)
{
    (void)state;
    append(0, 1, 10);
    append(0, 2, 700000);
    append(0, 3, 10);
    UNTIL(stored == 3);
    look(0);
    UNTIL(seen.records == 3);
    assert_int_equal(seen.messages, 3);
    assert_int_equal(seen.wrong, 0);
}

static void a_killed_server_loses_and_doubles_nothing(void **state)
{
    (void)state;
    long sent = 0;
    for (int kills = 0; kills < 4; kills++) {
        for (int i = 0; i < 300; i++) {
            append(0, ++sent, 200);
            turn();
        }
        server_kill(&nats);
        for (int i = 0; i < 50; i++)
            append(0, ++sent, 200);
        nats_run(&nats);
    }
    UNTIL(stored == sent);
    assert_int_equal(order_broken, 0);
    look(0);
    UNTIL(seen.records >= sent);
    assert_int_equal(seen.records, sent);
    assert_int_equal(seen.wrong, 0);
}

static void who_gathers_gets_many_at_once(void **state)
{
    (void)state;
    long sent = 0;
    look_each(0, 200);
    append(0, ++sent, 10);
    UNTIL(seen.records == sent); /* the first one comes by itself */
    for (; sent < 100; turn()) {
        append(0, ++sent, 10);
        UNTIL(stored == sent); /* each in a message of its own */
    }
    UNTIL(seen.records == sent);
    assert_int_equal(seen.messages, sent);
    assert_in_range(seen.turns, 2, 20);
    server_kill(&nats);
    nats_run(&nats);
    for (int i = 0; i < 300; i++) { /* more than is asked for at once */
        append(0, ++sent, 200000);
        UNTIL(stored == sent);
    }
    UNTIL(seen.records == sent);
    assert_int_equal(seen.wrong, 0);
    append(0, ++sent, 10);
    UNTIL(seen.records == sent);
}

static void on_names(int rc, const struct cw_bus_msg *msg, void *arg)
{
    if (rc == 0)
        snprintf(arg, 4096, "%.*s", (int)msg->len, (const char *)msg->data);
}

static void who_gathers_notices_silence(void **state)
{
    (void)state;
    look_each(0, 100);
    append(0, 1, 10);
    UNTIL(seen.records == 1);
    const char *names = NULL; /* its consumer goes: no word of it comes */
    char list[4096] = "";
    cw_bus_request(app.bus, "$JS.API.CONSUMER.NAMES.UPLINK_0", "", 0, 2000, on_names, list);
    UNTIL((names = strstr(list, "\"f")));
    char *del = cw_sprintf("$JS.API.CONSUMER.DELETE.UPLINK_0.%.17s", names + 1);
    assert_int_equal(cw_bus_publish(app.bus, del, NULL, "", 0), 0);
    free(del);
    append(0, 2, 10);
    UNTIL(seen.records == 2);
}

static bool told[PARTITIONS];

static void on_blocked(uint32_t partition, bool blocked, void *arg)
{
    (void)arg;
    told[partition] = blocked;
}

static void a_full_partition_blocks_alone_and_goes_on_after_a_purge(void **state)
{
    (void)state;
    int done = 0;
    cw_log_append_close(&l);
    const char *create = "{\"name\":\"UPLINK_1\",\"subjects\":[\"uplink.1\"],\"discard\":\"new\","
                         "\"max_bytes\":100000,\"storage\":\"file\",\"allow_direct\":true}";
    assert_int_equal(
        cw_bus_publish(app.bus, "$JS.API.STREAM.CREATE.UPLINK_1", NULL, create, strlen(create)), 0);
    l = cw_log_append_open(&app, CW_LOG_UPLINK);
    cw_log_append_watch(l, on_blocked, NULL);
    append(1, 1, 60000);
    UNTIL(stored == 1);
    append(1, 2, 60000);
    UNTIL(told[1]);
    assert_true(cw_log_append_blocked(l, 1));
    append(0, 3, 10);
    UNTIL(stored == 2); /* the other partition takes it */
    assert_false(told[0]);
    (void)done;
    assert_int_equal(cw_bus_publish(app.bus, "$JS.API.STREAM.PURGE.UPLINK_1", NULL, "", 0), 0);
    UNTIL(stored == 3);
    UNTIL(!told[1]);
    assert_int_equal(canceled, 0);
}

static int64_t jump_ms;
static const struct cw_clock *real;
static int64_t jumped(void) { return real->mono_ms() + jump_ms; }

static void in_doubt_for_a_minute_everything_of_the_partition_is_given_up(void **state)
{
    (void)state;
    append(0, 1, 10);
    UNTIL(stored == 1);
    child_freeze(nats.pid); /* it takes the bytes and answers nothing */
    append(0, 2, 10);
    append(0, 3, 10);
    turn(); /* the pause after the last append is over: it is on its way */
    real = cw_clock;
    static struct cw_clock fast;
    fast = (struct cw_clock){ .wall_ms = real->wall_ms, .mono_ms = jumped };
    jump_ms = 61000;
    cw_clock = &fast;
    UNTIL(canceled == 2);
    cw_clock = real;
    kill(nats.pid, SIGCONT);
    assert_int_equal(cw_log_append_waiting(l, 0), 0);
    append(0, 4, 10);
    UNTIL(stored == 2);
}

static void closing_cancels_what_is_not_confirmed(void **state)
{
    (void)state;
    append(0, 1, 10);
    append(1, 2, 10);
    cw_log_append_close(&l);
    assert_int_equal(canceled, 2);
}

static void notices_of_a_second_are_one_record(void **state)
{
    (void)state;
    notice_code = NULL;
    notice_count = 0;
    struct cw_notices *n = cw_notices_open(&app, l);
    const struct cw_notice what = { .layer = CW_LAYER_AUTHENTICATE,
                                    .device_id = "lamp-2",
                                    .code = "wrong_password",
                                    .reason = "The password is wrong.",
                                    .sample = "\xff\xfe" };
    for (int i = 0; i < 1000; i++)
        cw_notice(n, &what);
    look(cw_partition("lamp-2", 6, PARTITIONS));
    UNTIL(notice_count == 1000);
    assert_string_equal(notice_code, "ok");
    assert_int_equal(seen.messages, 2); /* the first at once, the others together */
    cw_notice(n, &what);
    cw_notices_close(&n);
    assert_null(n);
    UNTIL(notice_count == 1001);
}

static void notices_are_bounded(void **state)
{
    (void)state;
    char id[16];
    struct cw_notices *n = cw_notices_open(&app, l);
    struct cw_metric *dropped = cw_counter("causeway_notices_dropped_total", NULL, "");
    int64_t before = cw_metric_value(dropped);
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof id, "d%d", i);
        cw_notice(n, &(struct cw_notice){ .device_id = id, .code = "c", .reason = "r" });
    }
    assert_int_equal(cw_metric_value(dropped) - before, 5000 - 4096);
    cw_notices_close(&n);
}

static void on_purged(int rc, void *arg) { *(int *)arg = rc; }

static void on_info(int rc, const struct js_info *info, void *arg)
{
    assert_int_equal(rc, 0);
    *(struct js_info *)arg = *info;
}

/* nats-server 2.9 empties a stream that is asked to forget what lies below 1 */
static void a_purge_takes_only_what_lies_below(void **state)
{
    (void)state;
    struct js_info info = { 0 };
    for (uint64_t below = 0; below <= 3; below++) {
        int rc = 1;
        while (below == 0 && stored < 20) {
            append(0, stored + 1, 10);
            int before = stored;
            UNTIL(stored > before);
        }
        js_stream_purge(&app, CW_LOG_UPLINK, 0, below, on_purged, &rc);
        UNTIL(rc == 0);
        info.last_seq = 0;
        js_stream_info(&app, CW_LOG_UPLINK, 0, on_info, &info);
        UNTIL(info.last_seq == 20);
        assert_int_equal(info.first_seq, below > 1 ? below : 1);
    }
}

static void on_updated(int rc, const struct cw_bus_msg *msg, void *arg)
{
    int *updated = arg;
    *updated = rc == 0 && memmem(msg->data, msg->len, "\"error\"", 7) ? -EPROTO : rc;
}

/* What a position was taken in is known again after the limits were changed by hand:
 * nats-server 2.9 writes the time of its own start for the stream's then. */
static void a_stream_stays_itself_when_its_limits_change(void **state)
{
    (void)state;
    struct js_info first = { 0 }, now = { 0 };
    append(0, 1, 10);
    UNTIL(stored == 1);
    js_stream_info(&app, CW_LOG_UPLINK, 0, on_info, &first);
    UNTIL(first.last_seq == 1);
    server_kill(&nats);
    nats_run(&nats);
    append(0, 2, 10);
    UNTIL(stored == 2);
    char *update = cw_sprintf("{\"name\":\"UPLINK_0\",\"description\":\"%s\",\"subjects\":"
                              "[\"uplink.0\"],\"discard\":\"new\",\"max_bytes\":100000,"
                              "\"storage\":\"file\",\"allow_direct\":true}",
                              first.created);
    int updated = 1;
    cw_bus_request(app.bus, "$JS.API.STREAM.UPDATE.UPLINK_0", update, strlen(update), 2000,
                   on_updated, &updated);
    UNTIL(updated <= 0);
    assert_int_equal(updated, 0);
    free(update);
    server_kill(&nats);
    nats_run(&nats);
    append(0, 3, 10);
    UNTIL(stored == 3);
    js_stream_info(&app, CW_LOG_UPLINK, 0, on_info, &now);
    UNTIL(now.last_seq == 3);
    assert_string_equal(now.created, first.created);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, open_log, close_log)
        T(records_are_stored_in_order_in_few_messages),
        T(a_large_record_goes_alone),
        T(a_killed_server_loses_and_doubles_nothing),
        T(who_gathers_gets_many_at_once),
        T(who_gathers_notices_silence),
        T(a_full_partition_blocks_alone_and_goes_on_after_a_purge),
        T(in_doubt_for_a_minute_everything_of_the_partition_is_given_up),
        T(closing_cancels_what_is_not_confirmed),
        T(a_purge_takes_only_what_lies_below),
        T(a_stream_stays_itself_when_its_limits_change),
        T(notices_of_a_second_are_one_record),
        T(notices_are_bounded),
    };
    return cmocka_run_group_tests_name("log_append", tests, start, stop);
}

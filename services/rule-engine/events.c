/* EVENT in, PUSH out: each event that an active rule concerns becomes one item per action. */
#include <inttypes.h>
#include <stdlib.h>

#include "proto/causeway.pb-c.h"
#include "proto/subjects.h"
#include "services/rule-engine/engine.h"

struct batch {
    struct engine *e;
    struct cw_log_txn *txn;
    const struct cw_record *records;
    size_t n;
    /* of the event at hand */
    size_t index;
    const Causeway__Event *event;
    struct cw_buf document;
    bool written;
    int document_rc;
};

static void owe(const struct rule *rule, void *arg)
{
    static struct cw_log_gate gate;
    struct batch *b = arg;
    const Causeway__Event *ev = b->event;
    uint32_t p = b->records[b->index].partition;
    if (!b->written) {
        b->written = true;
        cw_buf_reset(&b->document);
        b->document_rc = notification_write(&b->document, ev);
    }
    cw_log_txn_count(b->txn, p, LEDGER_MATCHED, 1);
    if (b->document_rc < 0) {
        cw_log_txn_count(b->txn, p, LEDGER_REFUSED, 1);
        cw_log_limited(&gate, CW_ERROR, "event_without_body", "device=%s request_id=%s kind=%d",
                       ev->device_id, ev->request_id, (int)ev->kind);
        return;
    }
    Causeway__Push push = CAUSEWAY__PUSH__INIT;
    push.rule_id = rule->rule_id;
    push.action_id = rule->action_id;
    push.device_key = ev->device_key;
    push.device_id = ev->device_id;
    push.request_id = ev->request_id;
    push.event_ms = ev->time_ms;
    push.body = (ProtobufCBinaryData){ b->document.len, (uint8_t *)b->document.data };
    size_t len = causeway__push__get_packed_size(&push);
    uint8_t *packed = cw_malloc(len);
    causeway__push__pack(&push, packed);
    cw_log_txn_emit(b->txn, b->index, packed, len);
    free(packed);
    cw_log_txn_count(b->txn, p, LEDGER_OWED, 1);
}

static void match_record(struct batch *b, const struct rule_set *set)
{
    static struct cw_log_gate gate;
    const struct cw_record *r = &b->records[b->index];
    Causeway__EventBatch *events = causeway__event_batch__unpack(NULL, r->len, r->data);
    if (!events) {
        cw_log_limited(&gate, CW_ERROR, "event_unreadable", "partition=%u seq=%" PRIu64,
                       r->partition, r->seq);
        return;
    }
    cw_log_txn_count(b->txn, r->partition, LEDGER_EVENTS, (int64_t)events->n_events);
    for (size_t i = 0; i < events->n_events; i++) {
        b->event = events->events[i];
        b->written = false;
        rule_set_match(set, b->event, owe, b);
    }
    causeway__event_batch__free_unpacked(events, NULL);
}

static void match_batch(const struct rule_set *set, void *arg)
{
    struct batch *b = arg;
    struct cw_log_txn *txn = b->txn;
    for (b->index = 0; b->index < b->n; b->index++)
        match_record(b, set);
    cw_buf_free(&b->document);
    free(b);
    cw_log_txn_prepared(txn, 0);
}

static void prepare(struct cw_log_txn *txn, const struct cw_record *records, size_t n, void *self)
{
    struct engine *e = self;
    struct batch *b = cw_calloc(1, sizeof *b);
    *b = (struct batch){ .e = e, .txn = txn, .records = records, .n = n };
    rule_table_with(e->table, match_batch, b);
}

/* Nothing of our own is stored: the position and the output are all. */
static void effects(struct cw_log_txn *txn, void *self) { (void)txn, (void)self; }
static void done(struct cw_log_txn *txn, bool committed, void *self)
{
    (void)txn, (void)committed, (void)self;
}

void events_start(struct engine *e)
{
    e->reader = cw_log_reader_open(e->app, &(struct cw_log_reader_config){ .log = CW_LOG_EVENT,
                                                                           .group = "rule-engine",
                                                                           .schema = "rule",
                                                                           .output = CW_LOG_PUSH,
                                                                           .mandatory = true,
                                                                           .trims = true,
                                                                           .pace_ms = 2,
                                                                           .self = e,
                                                                           .prepare = prepare,
                                                                           .effects = effects,
                                                                           .done = done });
}

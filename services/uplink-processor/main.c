/* uplink-processor - gives meaning to what devices said: shadow, history, status, why, and the
 * events that everybody else reads. README.md has the overview. */
#include <inttypes.h>
#include <stdlib.h>

#include <event2/event.h>

#include "libcommon/log_append.h"
#include "libcommon/notice.h"
#include "proto/causeway.pb-c.h"
#include "proto/subjects.h"
#include "services/uplink-processor/devices.h"
#include "services/uplink-processor/history.h"
#include "services/uplink-processor/report.h"
#include "services/uplink-processor/uplink.h"

#define SCHEMA_VERSION 30

#define AT(field) offsetof(struct uplink, field)
static const struct cw_option options[] = {
    { "HISTORY_DAYS", CW_OPT_INT, "30", 1, 3650, AT(history_days),
      "days that history and quarantine are kept" },
    { "DEVICE_CACHE", CW_OPT_INT, "100000", 1000, 10000000, AT(device_cache),
      "devices whose facts are kept in memory" },
    { "BOOTSTRAP_ADDRESS", CW_OPT_STRING, "", 0, 300, AT(bootstrap_address),
      "host:port of MQTT over TLS, told to devices that ask by bootstrap/up; empty: none" },
    { "ABNORMAL_AFTER", CW_OPT_MS, "25h", 1000, 31536000000, AT(abnormal_ms),
      "silence after which a device that sleeps (NB-IoT) is ABNORMAL" },
    { "OFFLINE_AFTER", CW_OPT_MS, "49h", 1000, 31536000000, AT(offline_ms),
      "silence after which it is OFFLINE" },
    { "SLEEP_SWEEP", CW_OPT_MS, "30s", 100, 3600000, AT(sleep_sweep_ms),
      "how often that is looked at" },
    { 0 },
};

static void on_owned(uint32_t partition, bool owned, void *self)
{
    struct uplink *u = self;
    (void)partition;
    if (owned)
        devices_stale(u->devices);
}

/* The record, or the one of its items that the database refused, has been set aside. */
static void on_quarantined(const struct cw_record *record, const char *reason, void *self)
{
    struct uplink *u = self;
    Causeway__UplinkBatch *batch = causeway__uplink_batch__unpack(NULL, record->len, record->data);
    cw_log(CW_ERROR, "quarantined", "partition=%u seq=%" PRIu64 " reason=\"%s\"", record->partition,
           record->seq, reason);
    for (size_t i = 0; batch && i < batch->n_records; i++) {
        const Causeway__Uplink *up = batch->records[i];
        char sample[200];
        char *text = cw_sprintf("The database refused a record and it was set aside: %s", reason);
        text_cut(sample, sizeof sample, (const char *)up->body.data, up->body.len);
        cw_notice(u->notices, &(struct cw_notice){ .layer = CW_LAYER_DECODE,
                                                   .device_key = up->device_key,
                                                   .device_id = up->device_id,
                                                   .code = "quarantined",
                                                   .reason = text,
                                                   .next_step = "Tell the operator: it is kept in "
                                                                "data.quarantine.",
                                                   .sample = sample });
        free(text);
    }
    causeway__uplink_batch__free_unpacked(batch, NULL);
}

/* Records are read once they can be looked up. All look-ups are by arrays of keys, and planning one
 * takes four times as long as it does. */
static void on_lookups(bool connected, void *arg)
{
    struct uplink *u = arg;
    if (connected)
        cw_db_query(u->db, "SET plan_cache_mode = force_generic_plan", NULL, NULL);
    if (!connected || u->reader || cw_app_draining(u->app))
        return;
    u->reader =
        cw_log_reader_open(u->app, &(struct cw_log_reader_config){ .log = CW_LOG_UPLINK,
                                                                   .group = "uplink-processor",
                                                                   .schema = "data",
                                                                   .output = CW_LOG_EVENT,
                                                                   .relays_outbox = true,
                                                                   .mandatory = true,
                                                                   .trims = true,
                                                                   .pace_ms = 6,
                                                                   .self = u,
                                                                   .prepare = batch_prepare,
                                                                   .effects = batch_effects,
                                                                   .done = batch_done,
                                                                   .quarantined = on_quarantined,
                                                                   .owned = on_owned });
    cw_app_release(u->app, "lookups");
}

static int uplink_start(struct cw_app *app, void *self)
{
    struct uplink *u = self;
    u->app = app;
    u->db = cw_db_open(cw_app_base(app), cw_app_db_conninfo(app), cw_app_name(app));
    u->products = cw_products_open(app, u->db);
    u->devices = devices_open(app, u->db, u->device_cache);
    u->history = history_open(app, u->history_days);
    u->notices_to = cw_log_append_open(app, CW_LOG_UPLINK);
    u->notices = cw_notices_open(app, u->notices_to);
    cw_app_hold(app, "lookups");
    cw_db_watch(u->db, on_lookups, u);
    serve_start(u);
    sleepers_start(u);
    u->orphans = orphans_open(u);
    return ledger_start(u);
}

static void uplink_drain(struct cw_app *app, void *self)
{
    struct uplink *u = self;
    if (u->reader)
        cw_log_reader_drain(u->reader);
    else
        cw_app_release(app, "lookups");
}

static void uplink_stop(void *self)
{
    struct uplink *u = self;
    cw_db_close(&u->db); /* its callers give up, while all they know still stands */
    if (u->reader)
        cw_log_reader_close(&u->reader);
    if (u->notices)
        cw_notices_close(&u->notices);
    if (u->notices_to)
        cw_log_append_close(&u->notices_to);
    sleepers_stop(u);
    orphans_close(&u->orphans);
    if (u->ledger_timer)
        event_free(u->ledger_timer);
    history_close(&u->history);
    devices_close(&u->devices);
    cw_products_close(&u->products);
}

static void facts(struct cw_facts *f, void *self)
{
    const struct uplink *u = self;
    cw_facts_set(f, "bootstrap_address", json_string(u->bootstrap_address));
}

int main(int argc, char **argv)
{
    static struct uplink self;
    return cw_service_run(&(struct cw_service){ .name = "uplink-processor",
                                                .summary = "gives meaning to what devices said",
                                                .options = options,
                                                .self = &self,
                                                .needs = CW_NEEDS_BUS | CW_NEEDS_DB,
                                                .schema_version = SCHEMA_VERSION,
                                                .facts = facts,
                                                .start = uplink_start,
                                                .drain = uplink_drain,
                                                .stop = uplink_stop },
                          argc, argv);
}

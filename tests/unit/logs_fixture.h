/* logs_fixture.h - an app inside the test's own process, against a real nats-server. */
#pragma once

#include <event2/event.h>
#include <event2/thread.h>

#include "libcommon/app_internal.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/service.h"
#include "tests/unit/servers.h"

static struct server nats;
static struct cw_app app;

static inline void app_up(uint32_t partitions)
{
    char url[64];
    struct event_config *cfg = event_config_new();
    cw_log_setup("test", CW_WARN);
    evthread_use_pthreads();
    event_config_set_flag(cfg, EVENT_BASE_FLAG_PRECISE_TIMER);
    app = (struct cw_app){ .base = event_base_new_with_config(cfg), .boot = 7 };
    event_config_free(cfg);
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", nats.port);
    snprintf(app.name, sizeof app.name, "gate.1");
    snprintf(app.instance, sizeof app.instance, "gate-1-7");
    app.set.partitions = partitions;
    app.set.log_bytes = 64 << 20;
    app.bus = cw_bus_open(app.base, &(struct cw_bus_config){ .url = url, .name = "gate.1" });
    if (!app.bus)
        abort();
}

static inline void app_down(void)
{
    cw_bus_close(&app.bus);
    event_base_free(app.base);
}

/* One turn of the loop, at most 10 ms long. */
static inline void turn(void)
{
    struct timeval tick = { 0, 10000 };
    event_base_loopexit(app.base, &tick);
    event_base_dispatch(app.base);
}

/* Runs the loop until the condition holds; 30 s, then the test fails. */
#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        int64_t until_limit_ms = cw_mono_ms() + 30000;                                             \
        while (!(condition)) {                                                                     \
            assert_true(cw_mono_ms() < until_limit_ms);                                            \
            turn();                                                                                \
        }                                                                                          \
    } while (0)

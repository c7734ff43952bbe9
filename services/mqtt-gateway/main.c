/* mqtt-gateway - devices over MQTT 3.1.1: lets them in, stores what they say, tells them what the
 * platform says. Acknowledges nothing that is not stored. */
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "proto/subjects.h"
#include "services/mqtt-gateway/auth.h"
#include "services/mqtt-gateway/bridge.h"
#include "services/mqtt-gateway/downlink.h"
#include "services/mqtt-gateway/listener.h"
#include "services/mqtt-gateway/peers.h"
#include "services/mqtt-gateway/policies.h"
#include "services/mqtt-gateway/session.h"
#include "services/mqtt-gateway/takeover.h"

#define DRAIN_LOOK_MS 10
#define HOLD          "sessions"
#define AT(f)         offsetof(struct gateway, set.f)

static const struct cw_option options[] = {
    { "MQTT_PORT", CW_OPT_INT, "1883", 0, 65535, AT(mqtt_port), "port of plain MQTT; 0: none" },
    { "MQTTS_PORT", CW_OPT_INT, "8883", 0, 65535, AT(mqtts_port),
      "port of MQTT over TLS; 0: none" },
    { "MQTT_WS_PORT", CW_OPT_INT, "0", 0, 65535, AT(ws_port),
      "port of MQTT over WebSocket, path /mqtt; 0: none" },
    { "MQTT_WSS_PORT", CW_OPT_INT, "0", 0, 65535, AT(wss_port),
      "port of MQTT over WebSocket over TLS; 0: none" },
    { "MQTTS11_PORT", CW_OPT_INT, "0", 0, 65535, AT(mqtts11_port),
      "port of MQTT over TLS for devices that know TLS 1.1 only, which is weak; 0: none" },
    { "BIND", CW_OPT_STRING, "127.0.0.1", 2, 45, AT(bind),
      "numeric address of the ports; 0.0.0.0 lets other machines in" },
    { "PROXY_FROM", CW_OPT_STRING, "", 0, 1000, AT(proxy_from),
      "networks of entries that send the PROXY protocol (HAProxy); others may not" },
    { "TLS_CERT", CW_OPT_STRING, "", 0, 4000, AT(tls_cert),
      "file of the certificate and its chain (PEM); empty: no TLS port" },
    { "TLS_KEY", CW_OPT_STRING, "", 0, 4000, AT(tls_key), "file of its private key (PEM)" },
    { "SERVER_NAMES", CW_OPT_STRING, "", 0, 4000, AT(server_names),
      "names, separated by spaces, one of which a device that registers itself by certificate must "
      "call the platform by (SNI); empty: those of the certificate; *: any, or none" },
    { "MAX_CONNECTIONS", CW_OPT_INT, "200000", 1, 4000000, AT(max_connections),
      "connections of this process; more are closed at once" },
    { "MQTT_RATE", CW_OPT_INT, "1000", 1, 1000000, AT(rate),
      "messages a second of one connection; excess waits" },
    { "MQTT_BANDWIDTH", CW_OPT_BYTES, "1M", 1024, 1 << 30, AT(bandwidth_bytes),
      "bytes a second of one connection; excess waits" },
    { "BRIDGE_DEVICES", CW_OPT_INT, "2000", 1, 1000000, AT(bridge_devices),
      "devices over one bridge at a time; each takes two descriptors" },
    { "CONNECT_LIMIT", CW_OPT_MS, "10s", 10, 600000, AT(connect_ms),
      "time from the connection to the end of its CONNECT" },
    { "PACKET_LIMIT", CW_OPT_MS, "5m", 10, 3600000, AT(packet_ms),
      "time for one packet to arrive" },
    { "WRITE_LIMIT", CW_OPT_MS, "30s", 10, 600000, AT(write_ms),
      "time in which a peer must read something of what waits for it" },
    { "KEEP_ALIVE_MIN", CW_OPT_MS, "30s", 0, 65535000, AT(keep_alive_min_ms),
      "shortest keep-alive that is let in" },
    { "KEEP_ALIVE_MAX", CW_OPT_MS, "1200s", 1000, 65535000, AT(keep_alive_max_ms),
      "longest keep-alive that is let in" },
    { "AUTH_LIMIT", CW_OPT_MS, "5s", 10, 60000, AT(auth_ms),
      "time for the registry's answer to CONNECT" },
    { "TAKEOVER_LIMIT", CW_OPT_MS, "2s", 10, 60000, AT(takeover_ms),
      "time for another gateway to let go of a device" },
    { "LEAVE_LIMIT", CW_OPT_MS, "5s", 10, 60000, AT(leave_ms),
      "time for a closing connection's frames to be stored and acknowledged" },
    { "LOST_LIMIT", CW_OPT_MS, "5s", 100, 60000, AT(lost_ms),
      "silence after which a gateway counts as dead; the same in all daemons" },
    { 0 },
};

static struct gateway self;

void gateway_awake(struct gateway *gw)
{
    int64_t now_ms = cw_mono_ms(), slept_ms = now_ms - gw->awake_ms;
    gw->awake_ms = now_ms;
    if (slept_ms <= gw->set.lost_ms)
        return;
    cw_log(CW_ERROR, "slept", "ms=%lld connections=%u", (long long)slept_ms, gw->n_conns);
    _exit(CW_EXIT_FAILURE); /* in order, the log would still be written to */
}

/* Runs before anything else does after a stop, so before a late confirmation could send a batch.
 * Only what a signal handler may do. */
static void on_continue(int sig)
{
    static const char text[] =
        "mqtt-gateway: stopped for too long: ends, others have its devices\n";
    struct timespec t;
    (void)sig;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now_ms = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    if (!self.awake_ms || now_ms - self.awake_ms <= self.set.lost_ms)
        return;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(CW_EXIT_FAILURE);
    _exit(CW_EXIT_FAILURE);
}

void gateway_notice(struct gateway *gw, const struct cw_notice *notice)
{
    if (gw->notices && notice->device_id && *notice->device_id)
        cw_notice(gw->notices, notice);
}

static void make_throttle_metrics(struct gateway_metrics *m)
{
    static const char *const reasons[THROTTLES] = { [THROTTLE_RATE] = "reason=\"rate\"",
                                                    [THROTTLE_BACKLOG] = "reason=\"backlog\"",
                                                    [THROTTLE_OUTPUT] = "reason=\"output\"" };
    for (int i = 0; i < THROTTLES; i++) {
        m->paused[i] = cw_gauge("causeway_gateway_throttled", reasons[i],
                                "connections that are not read now, though they may send");
        m->pauses[i] = cw_counter("causeway_gateway_throttled_total", reasons[i],
                                  "times that a connection was not read for a while");
    }
}

static void make_metrics(struct gateway_metrics *m)
{
    m->connections = cw_gauge("causeway_gateway_connections", NULL, "open connections");
    m->sessions = cw_gauge("causeway_gateway_sessions", NULL, "devices that are let in");
    m->accepted = cw_counter("causeway_gateway_accepted_total", NULL, "connections accepted");
    m->turned_away = cw_counter("causeway_gateway_turned_away_total", NULL,
                                "connections closed at once: too many");
    m->logins = cw_counter("causeway_gateway_logins_total", NULL, "CONNECTs let in");
    m->refused_logins =
        cw_counter("causeway_gateway_logins_refused_total", NULL, "CONNECTs refused");
    m->received = cw_counter("causeway_gateway_received_total", NULL,
                             "publishes: appended + refused + in flight + in doubt");
    m->appended = cw_counter("causeway_gateway_appended_total", NULL, "publishes stored in UPLINK");
    m->refused = cw_counter("causeway_gateway_refused_total", NULL, "publishes refused");
    m->in_flight = cw_gauge("causeway_gateway_in_flight", NULL, "publishes not yet stored");
    m->in_doubt = cw_counter("causeway_gateway_in_doubt_total", NULL,
                             "publishes given up unconfirmed; never acknowledged");
    m->logins_waiting = cw_gauge("causeway_gateway_logins_waiting", NULL,
                                 "CONNECTs without an answer of the registry");
    m->logins_late = cw_counter("causeway_gateway_logins_late_total", NULL,
                                "CONNECTs turned away unasked: too many were before them");
    m->handshakes_put_off = cw_counter("causeway_gateway_handshakes_put_off_total", NULL,
                                       "TLS handshakes left to the next turn of the loop");
    m->handshakes_failed = cw_counter("causeway_gateway_handshakes_failed_total", NULL,
                                      "TLS handshakes that an error ended; ask for "
                                      "refused-connections");
    make_throttle_metrics(m);
}

static void on_later(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    conns_later(arg);
}

static bool all_stored(const struct gateway *gw)
{
    for (uint32_t p = 0; p < cw_app_partitions(gw->app); p++)
        if (cw_log_append_waiting(gw->uplink, p))
            return false;
    return true;
}

static void look_again(struct gateway *gw)
{
    static const struct timeval pause = { 0, DRAIN_LOOK_MS * 1000L };
    evtimer_add(gw->drain_check, &pause);
}

static void on_drain_check(evutil_socket_t fd, short what, void *arg)
{
    struct gateway *gw = arg;
    (void)fd, (void)what;
    gateway_awake(gw);
    bool quiet = !gw->n_conns && !gw->n_sessions && !auth_waiting(gw);
    if (quiet)
        cw_notices_close(&gw->notices); /* the last ones go to the log */
    if (quiet && all_stored(gw))
        cw_app_release(gw->app, HOLD);
    else
        look_again(gw);
}

static void gateway_drain(struct cw_app *app, void *self)
{
    struct gateway *gw = self;
    gw->draining = true;
    cw_app_hold(app, HOLD);
    listeners_close(&gw->listeners);
    conns_drain(gw);
    look_again(gw);
}

static int gateway_start(struct cw_app *app, void *self)
{
    struct gateway *gw = self;
    gw->app = app;
    gw->base = cw_app_base(app);
    gw->bus = cw_app_bus(app);
    gw->awake_ms = cw_mono_ms();
    gw->scratch = cw_malloc(SCRATCH_BYTES);
    gw->later = event_new(gw->base, -1, 0, on_later, gw);
    gw->drain_check = evtimer_new(gw->base, on_drain_check, gw);
    signal(SIGCONT, on_continue);
    make_metrics(&gw->m);
    gw->uplink = cw_log_append_open(app, CW_LOG_UPLINK);
    gw->notices = cw_notices_open(app, gw->uplink);
    sessions_open(gw);
    auth_open(gw);
    peers_open(gw);
    policies_open(gw);
    bridges_open(gw);
    downlinks_open(gw);
    return listeners_open(gw);
}

static void gateway_stop(void *self)
{
    struct gateway *gw = self;
    gw->stopping = true;
    listeners_close(&gw->listeners);
    cw_notices_close(&gw->notices);
    if (!gw->app)
        return;
    conns_free(gw);
    bridges_close(gw);
    cw_log_append_close(&gw->uplink);
    sessions_close(gw);
    takeovers_close(gw);
    auth_close(gw);
    peers_close(gw);
    policies_close(gw);
    cw_bus_unsubscribe(&gw->downlinks);
    event_free(gw->later);
    event_free(gw->drain_check);
    free(gw->scratch);
}

static void gateway_facts(struct cw_facts *f, void *self)
{
    const struct gateway *gw = self;
    listeners_tell(gw->listeners, f);
    cw_facts_used(f, "MAX_CONNECTIONS", gw->n_conns, "a further connection is closed at once");
}

int main(int argc, char **argv)
{
    return cw_service_run(
        &(struct cw_service){ .name = "mqtt-gateway",
                              .summary = "devices over MQTT 3.1.1 and 5: TCP, TLS, WebSocket",
                              .options = options,
                              .self = &self,
                              .needs = CW_NEEDS_BUS,
                              .facts = gateway_facts,
                              .start = gateway_start,
                              .drain = gateway_drain,
                              .stop = gateway_stop },
        argc, argv);
}

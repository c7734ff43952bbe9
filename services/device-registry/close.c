/* Cutting a session: a request to the gateway that holds it, answered when the session is closed
 * and what it had said is in UPLINK. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <event2/event.h>

#include "services/device-registry/registry.h"

#define TRY_MS   2000
#define PAUSE_MS 100

struct closing {
    struct registry *r;
    char *gateway, *cause;
    int64_t device_key, session_no, until_ms;
    close_fn *cb;
    void *arg;
};

static void ask(struct closing *c);

static void finish(struct closing *c, bool confirmed)
{
    cw_log(confirmed ? CW_INFO : CW_WARN, "session_close",
           "device_key=%" PRId64 " session=%" PRId64 " gateway=%s cause=%s confirmed=%d",
           c->device_key, c->session_no, c->gateway, c->cause, confirmed);
    c->cb(confirmed, c->arg);
    cw_app_in_flight(c->r->app, -1);
    free(c->gateway);
    free(c->cause);
    free(c);
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    ask(arg);
}

static void again(struct closing *c)
{
    static const struct timeval pause = { 0, PAUSE_MS * 1000L };
    event_base_once(cw_app_base(c->r->app), -1, EV_TIMEOUT, on_pause_over, c, &pause);
}

static void on_reply(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct closing *c = arg;
    Causeway__DownlinkReply *reply =
        rc == 0 ? causeway__downlink_reply__unpack(NULL, msg->len, msg->data) : NULL;
    bool closed = reply && (reply->outcome == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_CLOSED ||
                            reply->outcome == CAUSEWAY__DOWNLINK_OUTCOME__DOWNLINK_NO_SESSION);
    if (reply)
        causeway__downlink_reply__free_unpacked(reply, NULL);
    if (closed || rc == -EHOSTUNREACH) /* no such gateway any more: neither is the session */
        finish(c, true);
    else
        again(c);
}

static void ask(struct closing *c)
{
    char subject[96];
    int64_t now_ms = cw_now_ms(), left_ms = c->until_ms - now_ms;
    Causeway__Downlink d = CAUSEWAY__DOWNLINK__INIT;
    uint8_t packed[128];
    if (left_ms <= 0) {
        finish(c, false);
        return;
    }
    if (left_ms > TRY_MS)
        left_ms = TRY_MS;
    d.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_CLOSE;
    d.deadline_ms = now_ms + left_ms;
    d.device_key = c->device_key;
    d.session_no = c->session_no;
    d.cause = c->cause;
    snprintf(subject, sizeof subject, "downlink.%s", c->gateway);
    if (!cw_bus_request(cw_app_bus(c->r->app), subject, packed,
                        causeway__downlink__pack(&d, packed), left_ms, on_reply, c))
        again(c);
}

void close_session(struct registry *r, const char *gateway, int64_t device_key, int64_t session_no,
                   const char *cause, close_fn *cb, void *arg)
{
    struct closing *c = cw_calloc(1, sizeof *c);
    *c = (struct closing){ .r = r,
                           .gateway = cw_strdup(gateway),
                           .cause = cw_strdup(cause),
                           .device_key = device_key,
                           .session_no = session_no,
                           .until_ms = cw_now_ms() + r->close_ms,
                           .cb = cb,
                           .arg = arg };
    cw_app_in_flight(r->app, 1);
    ask(c);
}

#include "services/mqtt-gateway/takeover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "services/mqtt-gateway/peers.h"
#include "services/mqtt-gateway/session.h"

#define LOOK_MS 100 /* how often a gateway that nobody serves is looked at again */

struct takeover {
    LIST_ENTRY(takeover) link;
    struct session *session; /* NULL: gone */
    struct gateway *gw;
    struct cw_bus_request *request; /* NULL: answered, or never sent */
    struct event *timer;
    int64_t until_ms;
    char old_gateway[80];
};

static void finish(struct takeover *t, const char *how)
{
    struct session *s = t->session;
    cw_bus_request_cancel(&t->request);
    event_free(t->timer);
    LIST_REMOVE(t, link);
    if (s) {
        cw_log(CW_DEBUG, "takeover", "device=%s from=%s how=%s", s->device_id, t->old_gateway, how);
        s->takeover = NULL;
    }
    free(t);
    if (s)
        session_flow(s);
}

static void look_later(struct takeover *t)
{
    static const struct timeval pause = { 0, LOOK_MS * 1000L };
    evtimer_add(t->timer, &pause);
}

static void on_look(evutil_socket_t fd, short what, void *arg)
{
    struct takeover *t = arg;
    (void)fd, (void)what;
    gateway_awake(t->gw);
    if (peers_dead(t->gw, t->old_gateway))
        finish(t, "dead");
    else if (cw_mono_ms() >= t->until_ms)
        finish(t, "silent");
    else
        look_later(t);
}

/* Without an answer (nobody there, connection gone) the clock and the heartbeats decide. */
static void on_answer(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct takeover *t = arg;
    (void)msg;
    gateway_awake(t->gw);
    t->request = NULL;
    if (rc == 0)
        finish(t, "closed");
}

struct close_request {
    char subject[96];
    uint8_t packed[128];
    size_t len;
};

static void pack_close(struct close_request *out, const struct gateway *gw, int64_t device_key,
                       const char *old_gateway, int64_t old_session_no)
{
    Causeway__Downlink msg = CAUSEWAY__DOWNLINK__INIT;
    msg.kind = CAUSEWAY__DOWNLINK_KIND__DOWNLINK_CLOSE;
    msg.deadline_ms = cw_now_ms() + gw->set.takeover_ms;
    msg.device_key = device_key;
    msg.session_no = old_session_no;
    msg.cause = (char *)"takeover";
    snprintf(out->subject, sizeof out->subject, "downlink.%s", old_gateway);
    out->len = causeway__downlink__pack(&msg, out->packed);
}

void takeover_tell(struct gateway *gw, int64_t device_key, const char *old_gateway,
                   int64_t old_session_no)
{
    struct close_request r;
    pack_close(&r, gw, device_key, old_gateway, old_session_no);
    cw_bus_publish(gw->bus, r.subject, NULL, r.packed, r.len);
}

void takeover_begin(struct session *s, const char *old_gateway, int64_t old_session_no)
{
    struct takeover *t = cw_calloc(1, sizeof *t);
    struct close_request r;
    t->session = s;
    t->gw = s->gw;
    LIST_INSERT_HEAD(&s->gw->takeovers, t, link);
    t->until_ms = cw_mono_ms() + s->gw->set.takeover_ms;
    t->timer = evtimer_new(s->gw->base, on_look, t);
    snprintf(t->old_gateway, sizeof t->old_gateway, "%s", old_gateway);
    s->takeover = t;
    pack_close(&r, s->gw, s->device_key, old_gateway, old_session_no);
    t->request = cw_bus_request(s->gw->bus, r.subject, r.packed, r.len, s->gw->set.takeover_ms,
                                on_answer, t);
    look_later(t);
}

void takeover_forget(struct session *s)
{
    struct takeover *t = s->takeover;
    s->takeover = NULL;
    if (t)
        t->session = NULL;
}

void takeovers_close(struct gateway *gw)
{
    for (struct takeover *t; (t = LIST_FIRST(&gw->takeovers));)
        finish(t, "end"); /* NOLINT: the analyzer does not see that it leaves the list */
}

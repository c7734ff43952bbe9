#include <errno.h>
#include <stdlib.h>

#include "services/command-dispatcher/dispatcher.h"

struct asked {
    downlink_fn *cb;
    void *arg;
};

static void on_downlink(int rc, const struct cw_bus_msg *msg, void *arg)
{
    struct asked a = *(struct asked *)arg;
    Causeway__DownlinkReply *reply = NULL;
    free(arg);
    if (rc == 0 && !(reply = causeway__downlink_reply__unpack(NULL, msg->len, msg->data)))
        rc = -EBADMSG;
    a.cb(rc, reply, a.arg);
    causeway__downlink_reply__free_unpacked(reply, NULL);
}

int downlink_ask(struct dispatcher *d, const char *gateway, const Causeway__Downlink *request,
                 downlink_fn *cb, void *arg)
{
    char subject[128];
    struct asked *a = cw_malloc(sizeof *a);
    *a = (struct asked){ cb, arg };
    snprintf(subject, sizeof subject, "downlink.%s", gateway);
    uint8_t *packed = cw_malloc(causeway__downlink__get_packed_size(request));
    size_t n = causeway__downlink__pack(request, packed);
    /* the gateway speaks last: give it a moment past the deadline that it keeps itself */
    bool sent = cw_bus_request(cw_app_bus(d->app), subject, packed, n,
                               request->deadline_ms - cw_now_ms() + 500, on_downlink, a) != NULL;
    free(packed);
    if (!sent)
        free(a);
    return sent ? 0 : -ENOTCONN;
}

/* js_stream.h - the calls that the log modules make to JetStream, without waiting.
 *
 * One stream per partition: UPLINK_3, EVENT_3, PUSH_3. JetStream answers in JSON on the request's
 * inbox; nothing is tried again here: the caller owns time. Used by libcommon's log_*.c, and by
 * push-notifier, whose window is no reader of log_read.h. */
#pragma once

#include "libcommon/util.h"

struct cw_app;
struct js_call;

/* Codes of JetStream's error object that the logs act upon. */
enum {
    JS_NO_STREAM = 10059,
    JS_NAME_IN_USE = 10058,
    JS_WRONG_LAST = 10071,
    JS_FULL_BYTES = 10077,
    JS_NO_RESOURCES = 10023,
    JS_NO_STORAGE = 10047,
};

struct js_info {
    char created[64]; /* tells one stream of a name from the next: a random description that it
                         gets when it is made; without one, the server's time of its creation,
                         which nats-server 2.9 alters when a stream's limits are changed */
    uint64_t first_seq, last_seq;
};

/* Newest message of a subject; texts are borrowed for the call, NULL when the header is absent. */
struct js_last {
    uint64_t seq;
    const char *from, *outbox; /* Cw-From, Cw-Outbox */
};

/* rc: 0; negative errno: no usable answer, try again; positive: err_code of the server. */
typedef void js_info_fn(int rc, const struct js_info *info, void *arg);
typedef void js_last_fn(int rc, const struct js_last *last, void *arg); /* -ENOENT: none yet */
typedef void js_list_fn(int rc, const char *const *subjects, size_t n, void *arg);
typedef void js_done_fn(int rc, void *arg);

/* Never NULL; the callback runs once, later, and ends the call. Strings are copied. */
struct js_call *js_stream_ensure(struct cw_app *app, const char *log, uint32_t partition,
                                 js_info_fn *cb, void *arg); /* creates it if it is missing */
struct js_call *js_stream_info(struct cw_app *app, const char *log, uint32_t partition,
                               js_info_fn *cb, void *arg);
/* The newest message of one subject. */
struct js_call *js_stream_last(struct cw_app *app, const char *log, uint32_t partition,
                               const char *subject, js_last_fn *cb, void *arg);
/* The subjects that have a message in the stream now. */
struct js_call *js_stream_subjects(struct cw_app *app, const char *log, uint32_t partition,
                                   js_list_fn *cb, void *arg);
/* Removes what lies below seq; 0 and 1 ask for nothing. */
struct js_call *js_stream_purge(struct cw_app *app, const char *log, uint32_t partition,
                                uint64_t seq, js_done_fn *cb, void *arg);
void js_cancel(struct js_call **call); /* no callback; sets *call to NULL; NULL is fine */

/* Reads the answer to an append. 0 and *seq; or err_code; or -EBADMSG. */
int js_ack(const void *data, size_t len, uint64_t *seq);
/* True for the answers that say: no room, nothing stored. Then nothing is in doubt. */
bool js_is_full(int rc);

/* "uplink.3", or "event.3.<writer>" when there is one. */
char *js_subject(char *out, size_t size, const char *log, uint32_t partition, const char *writer);

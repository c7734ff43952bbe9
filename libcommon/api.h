/* api.h - serving api.<service>.<operation>: requests from rest-gateway (and gateways) to the
 * owner.
 *
 * One queue-group subscription per service. A call past its deadline is dropped with a count; an
 * unknown operation is answered 501; each handler answers exactly once, now or later. Calls count
 * as in flight for the drain. */
#pragma once

#include <jansson.h>

#include "libcommon/error.h"
#include "proto/causeway.pb-c.h"

struct cw_app;
struct cw_api_call;
struct cw_bus_msg;

/* Owns call until cw_api_reply*() or cw_api_fail(). */
typedef void cw_api_fn(struct cw_api_call *call, void *self);
struct cw_api_op {
    const char *operation; /* operationId of openapi.json */
    cw_api_fn *fn;
};

/* The table ends with a zero row; it and self outlive the process. On drain new calls go to other
 * instances. */
void cw_api_serve(struct cw_app *app, const char *service, const struct cw_api_op *ops, void *self);

/* An operation whose request and answer are messages of their own (causeway.proto), not an
 * ApiRequest: fn gets what arrived, and publishes its answer to msg->reply. Call it right after
 * cw_api_serve() of the same service; fn and arg outlive the process. */
void cw_api_serve_raw(const char *service, const char *operation,
                      void (*fn)(const struct cw_bus_msg *msg, void *arg), void *arg);

/* As it arrived. Borrowed until the call ends, as are path and query. */
const Causeway__ApiRequest *cw_api_request(const struct cw_api_call *call);
const char *cw_api_path(const struct cw_api_call *call, const char *name);  /* "" if absent */
const char *cw_api_query(const struct cw_api_call *call, const char *name); /* NULL if absent */
int64_t cw_api_query_int(const struct cw_api_call *call, const char *name, int64_t if_absent);
/* The body, parsed once; an empty object when there is none. Borrowed. */
json_t *cw_api_body(struct cw_api_call *call);
int64_t cw_api_remaining_ms(const struct cw_api_call *call); /* may be <= 0 */

/* Copied, for the reply that comes after it. At most four. */
void cw_api_reply_header(struct cw_api_call *call, const char *name, const char *value);
/* Ends the call, as do the two below. A reply that cannot be sent is dropped: the asker's own limit
 * ends its wait. body is copied. */
void cw_api_reply(struct cw_api_call *call, int status, const char *body, size_t len);
/* Takes the reference; an object or an array. */
void cw_api_reply_json(struct cw_api_call *call, int status, json_t *take);
/* Status and body from the table of error.h; the text names the field or the stage. */
void cw_api_fail(struct cw_api_call *call, enum cw_error e, const char *fmt, ...) CW_PRINTF(3, 4);

/* rc as in cw_bus_reply_fn, -EBADMSG for an answer that does not parse. reply is borrowed for the
 * call, NULL unless rc is 0. */
typedef void cw_api_answer_fn(int rc, const Causeway__ApiReply *reply, void *arg);
/* The asking side (rest-gateway, gateways): packs and sends; cb runs once, later, at the latest at
 * the request's deadline. Returns 0, or -ENOTCONN and cb will not run. */
int cw_api_ask(struct cw_app *app, const char *service, const Causeway__ApiRequest *request,
               cw_api_answer_fn *cb, void *arg);

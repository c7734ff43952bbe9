/* error.h - one table: code on the wire, HTTP status, what to do. docs/errors.md is made from it.
 */
#pragma once

#include "libcommon/util.h"

/* X(name, number, status, "what it means", "what to do") */
#define CW_ERRORS(X)                                                                               \
    X(INTERNAL, "000001", 500, "Internal error.", "Look for the request id in the logs.")          \
    X(UNAUTHORIZED, "000002", 401, "Authentication failed.", "Check token, AK/SK and clock.")      \
    X(INVALID, "000006", 400, "Invalid input.", "Correct the field that is named.")                \
    X(FORMAT, "000008", 400, "Invalid input.", "Send well-formed JSON in UTF-8.")                  \
    X(TIME_FORMAT, "000009", 400, "Invalid input.", "Write times as yyyyMMdd'T'HHmmss'Z', UTC.")   \
    X(TIME_ORDER, "000010", 400, "Invalid input.", "Let start_time lie before end_time.")          \
    X(LIMIT, "000017", 400, "Invalid input.", "Ask for 1 to 50 records.")                          \
    X(MARKER, "000018", 400, "Invalid input.", "Use the marker of the last answer.")               \
    X(PROJECT, "000021", 403, "Operation not allowed.", "Use the project of the credentials.")     \
    X(PERMISSION, "000022", 403, "Operation not allowed.", "Ask an administrator for the right.")  \
    X(NO_URL, "000900", 404, "There is no such URL.", "Compare it with /openapi.json.")            \
    X(METHOD, "000901", 405, "Method not allowed.", "Compare it with /openapi.json.")              \
    X(TOO_LARGE, "000902", 413, "The request is too large.", "Send less in one request.")          \
    X(UNAVAILABLE, "000903", 503, "A part of the platform is away.", "Try again in a moment.")     \
    X(NOT_BUILT, "000904", 501, "Operation not implemented.", "See the text for what is there.")   \
    X(NO_APP, "001000", 403, "The resource space does not exist.", "List the spaces.")             \
    X(APP_NAME_TAKEN, "001900", 400, "Invalid input.", "Choose another name.")                     \
    X(APP_QUOTA, "001902", 403, "Operation not allowed.", "Use fewer resource spaces.")            \
    X(NO_RULE, "010002", 404, "The rule does not exist.", "List the rules.")                       \
    X(RULE_EMPTY, "010900", 403, "Operation not allowed.", "Create an action for the rule first.") \
    X(RULE_QUOTA, "010901", 403, "Operation not allowed.", "Delete rules or actions.")             \
    X(NO_ACTION, "010902", 404, "The action does not exist.", "List the actions.")                 \
    X(RULE_SQL, "010903", 400, "Invalid input.", "Leave select and where empty.")                  \
    X(NOT_WRITABLE, "013002", 400, "Invalid input.", "Write only what the model marks W.")         \
    X(NO_PRODUCT, "013900", 404, "The product does not exist.", "List the products.")              \
    X(PRODUCT_TAKEN, "013901", 400, "Invalid input.", "Choose another product_id.")                \
    X(PRODUCT_IN_USE, "013902", 403, "Operation not allowed.", "Delete its devices first.")        \
    X(PRODUCT_QUOTA, "013903", 403, "Operation not allowed.", "Delete products.")                  \
    X(MODEL, "013904", 400, "Invalid input.", "Correct the model at the path that is named.")      \
    X(NO_DEVICE, "014000", 404, "The device does not exist.", "List the devices.")                 \
    X(OFFLINE, "014016", 403, "Operation not allowed.", "Wait until the device is online.")        \
    X(DEVICE_TAKEN, "014031", 400, "Invalid input.", "Choose another device_id.")                  \
    X(SYNC_TIMEOUT, "014111", 200, "The device did not answer in time.", "Ask why of the device.") \
    X(NOT_SUBSCRIBED, "014112", 403, "The device has not subscribed.", "Subscribe the topic.")     \
    X(NOT_FOR_PROTOCOL, "014114", 403, "Not for this protocol.", "Use a synchronous command.")     \
    X(HAS_CHILDREN, "014900", 403, "Operation not allowed.", "Delete its child devices first.")    \
    X(DEPTH, "014901", 403, "Operation not allowed.", "Attach it to a gateway higher up.")         \
    X(NO_GATEWAY, "014902", 400, "Invalid input.", "Name a gateway that exists.")                  \
    X(MESSAGE_TAKEN, "014905", 400, "Invalid input.", "Choose another message_id.")                \
    X(NOT_IN_MODEL, "014906", 400, "Invalid input.", "Use a service and command of the model.")    \
    X(DEVICE_QUOTA, "014908", 403, "Operation not allowed.", "Delete devices.")                    \
    X(NO_COMMAND, "014909", 404, "The command does not exist.", "Use the id of the answer.")       \
    X(CERT_BAD, "014390", 400, "Invalid input.", "Send one PEM certificate of a CA.")              \
    X(NO_CERT, "014391", 404, "The certificate does not exist.", "List the certificates.")         \
    X(CERT_IN_USE, "014392", 403, "Operation not allowed.", "Change the actions that use it.")     \
    X(CERT_QUOTA, "014393", 403, "Operation not allowed.", "Delete certificates.")                 \
    X(RATE, "021101", 403, "Too many requests.", "Wait as Retry-After says.")

#define CW_ERROR_ENUM(name, number, status, what, todo) CW_E_##name,
enum cw_error { CW_ERRORS(CW_ERROR_ENUM) CW_E_COUNT };
#undef CW_ERROR_ENUM

struct cw_error_row {
    const char *code; /* IOTDA.000006 */
    int status;
    const char *what, *todo;
};
/* Lasts as long as the process. */
const struct cw_error_row *cw_error_row(enum cw_error e);

/* Writes {"error_code":…,"error_msg":"<what> <detail> <todo>"}; detail names the field or stage. */
void cw_error_body(struct cw_buf *out, enum cw_error e, const char *fmt, ...) CW_PRINTF(3, 4);
/* The same. detail may quote a client: what is not UTF-8 in it becomes '?'. */
void cw_error_vbody(struct cw_buf *out, enum cw_error e, const char *fmt, va_list ap);

/* error.h - one table: code on the wire, HTTP status, what to do. docs/errors.md is made from it
 * (`make docs`). */
#pragma once

#include "libcommon/util.h"

/* X(name, number, status, "what it means", "what causes it", "what to do") */
#define CW_ERRORS(X)                                                                               \
    X(INTERNAL, "000001", 500, "Internal error.",                                                  \
      "A mistake of the platform, or a database that answers nonsense.",                           \
      "Look for the request id in the logs.")                                                      \
    X(UNAUTHORIZED, "000002", 401, "Authentication failed.",                                       \
      "Token or signature is missing, wrong, expired or withdrawn; the user is disabled.",         \
      "Check token, AK/SK and clock.")                                                             \
    X(INVALID, "000006", 400, "Invalid input.",                                                    \
      "A field or parameter is missing, of another type, too long, out of range or not one of "    \
      "the values that the contract lists.",                                                       \
      "Correct the field that is named.")                                                          \
    X(FORMAT, "000008", 400, "Invalid input.",                                                     \
      "The body is no well-formed JSON in UTF-8, or its media type is another one.",               \
      "Send well-formed JSON in UTF-8.")                                                           \
    X(TIME_FORMAT, "000009", 400, "Invalid input.", "A time is not in the basic form.",            \
      "Write times as yyyyMMdd'T'HHmmss'Z', UTC.")                                                 \
    X(TIME_ORDER, "000010", 400, "Invalid input.", "start_time does not lie before end_time.",     \
      "Let start_time lie before end_time.")                                                       \
    X(LIMIT, "000017", 400, "Invalid input.", "The page size is out of range.",                    \
      "Ask for 1 to 50 records.")                                                                  \
    X(MARKER, "000018", 400, "Invalid input.", "The marker is not 24 hex digits.",                 \
      "Use the marker of the last answer.")                                                        \
    X(PROJECT, "000021", 403, "Operation not allowed.",                                            \
      "Token, signature or X-Project-Id belong to another project than the path.",                 \
      "Use the project of the credentials.")                                                       \
    X(PERMISSION, "000022", 403, "Operation not allowed.",                                         \
      "No policy of the user's groups allows the action, or one denies it.",                       \
      "Ask an administrator for the right.")                                                       \
    X(NO_URL, "000900", 404, "There is no such URL.", "The path is none of the contract.",         \
      "Compare it with /openapi.json.")                                                            \
    X(METHOD, "000901", 405, "Method not allowed.",                                                \
      "The path has other methods only; Allow lists them.", "Compare it with /openapi.json.")      \
    X(TOO_LARGE, "000902", 413, "The request is too large.",                                       \
      "The body or the header is longer than the server takes.", "Send less in one request.")      \
    X(UNAVAILABLE, "000903", 503, "A part of the platform is away.",                               \
      "A daemon, NATS or PostgreSQL does not answer; the text names it. Nothing is half done.",    \
      "Try again in a moment.")                                                                    \
    X(NOT_BUILT, "000904", 501, "Operation not implemented.",                                      \
      "The operation or the channel is known, but not built yet.",                                 \
      "See the text for what is there.")                                                           \
    X(NO_APP, "001000", 403, "The resource space does not exist.", "No space has this app_id.",    \
      "List the spaces.")                                                                          \
    X(SPACE_DENIED, "001002", 403, "Operation not allowed.",                                       \
      "The user's policies allow the action in other resource spaces only.",                       \
      "Ask an administrator for the right in this space.")                                         \
    X(APP_NAME_TAKEN, "001900", 400, "Invalid input.", "Another space has this name.",             \
      "Choose another name.")                                                                      \
    X(APP_DEFAULT, "001901", 403, "Operation not allowed.",                                        \
      "The default space holds what names no space; it stays.", "Delete another space.")           \
    X(APP_QUOTA, "001902", 403, "Operation not allowed.", "CAUSEWAY_APPS_MAX is reached.",         \
      "Use fewer resource spaces.")                                                                \
    X(APP_NOT_EMPTY, "001903", 403, "Operation not allowed.",                                      \
      "Products or devices lie in the space; the text counts them.",                               \
      "Delete its devices and products first.")                                                    \
    X(NO_RULE, "010002", 404, "The rule does not exist.", "No rule has this rule_id.",             \
      "List the rules.")                                                                           \
    X(RULE_EMPTY, "010900", 403, "Operation not allowed.",                                         \
      "A rule without an action was to be activated.", "Create an action for the rule first.")     \
    X(RULE_QUOTA, "010901", 403, "Operation not allowed.",                                         \
      "The number of rules or of actions is reached.", "Delete rules or actions.")                 \
    X(NO_ACTION, "010902", 404, "The action does not exist.", "No action has this action_id.",     \
      "List the actions.")                                                                         \
    X(RULE_SQL, "010903", 400, "Invalid input.", "select and where are not evaluated yet.",        \
      "Leave select and where empty.")                                                             \
    X(NOT_WRITABLE, "013002", 400, "Invalid input.",                                               \
      "A wish names a property that the model does not have, or whose method has no W, or a "      \
      "value of another type.",                                                                    \
      "Write only what the model marks W.")                                                        \
    X(NO_SAMPLES, "013910", 400, "No model can be drafted.",                                       \
      "The samples have no properties, or the device has sent nothing.",                           \
      "Give reports, or let the device send some.")                                                \
    X(NO_PRODUCT, "013900", 404, "The product does not exist.",                                    \
      "No product has this id in the space that is meant.", "List the products.")                  \
    X(PRODUCT_TAKEN, "013901", 400, "Invalid input.",                                              \
      "A product of the space has this product_id; the text names it.",                            \
      "Choose another product_id.")                                                                \
    X(PRODUCT_IN_USE, "013902", 403, "Operation not allowed.",                                     \
      "Devices belong to the product; the text counts them.", "Delete its devices first.")         \
    X(PRODUCT_QUOTA, "013903", 403, "Operation not allowed.", "CAUSEWAY_PRODUCTS_MAX is reached.", \
      "Delete products.")                                                                          \
    X(MODEL, "013904", 400, "Invalid input.",                                                      \
      "The product model contradicts itself or a rule of docs/protocol/product-model.md.",         \
      "Correct the model at the path that is named.")                                              \
    X(PACKAGE, "013905", 400, "Invalid input.",                                                    \
      "The ZIP form of a model breaks a rule; each violation is listed with file, line and path.", \
      "Correct what is listed and send the package again.")                                        \
    X(MODEL_TAKEN, "013906", 400, "Invalid input.",                                                \
      "A product of the space came from a package of this manufacturer and model; the text names " \
      "it.",                                                                                       \
      "Update that product, or change manufacturerId or model in the package.")                    \
    X(NO_TOPIC, "013911", 404, "The topic does not exist.",                                        \
      "The product defines no custom topic with this topic_id.",                                   \
      "List the topics of the product.")                                                           \
    X(TOPIC_BAD, "013912", 400, "Invalid input.",                                                  \
      "A custom topic has 1 to 64 letters, digits, _ and /, does not begin with / and has no two " \
      "of them in a row.",                                                                         \
      "Give what stands behind $oc/devices/{device_id}/user/.")                                    \
    X(TOPIC_TAKEN, "013913", 400, "Invalid input.",                                                \
      "The product defines this topic; the text has its topic_id.",                                \
      "Delete it first to change its rights.")                                                     \
    X(TOPIC_QUOTA, "013914", 403, "Operation not allowed.",                                        \
      "A product defines 50 topics at most.", "Delete topics that no device uses.")                \
    X(TOPIC_UNDEFINED, "014916", 400, "Invalid input.",                                            \
      "The product of the device defines custom topics, and not this one for devices to receive.", \
      "Define the topic for the product, or send to one that is defined.")                         \
    X(PRODUCT_FIXED, "013907", 403, "Operation not allowed.",                                      \
      "Devices speak the product's protocol and format: they stay while it has devices.",          \
      "Create another product, or delete its devices first.")                                      \
    X(NO_DEVICE, "014000", 404, "The device does not exist.", "No device has this device_id.",     \
      "List the devices.")                                                                         \
    X(OFFLINE, "014016", 403, "Operation not allowed.", "The device is not online, or frozen.",    \
      "Wait until the device is online.")                                                          \
    X(DEVICE_TAKEN, "014031", 400, "Invalid input.",                                               \
      "A device has this device_id (or, with CoAP, this node_id); the text says where if the "     \
      "caller may know.",                                                                          \
      "Choose another device_id.")                                                                 \
    X(NOT_DIRECT, "014038", 403, "Operation not allowed.",                                         \
      "Only directly connected devices can be frozen and unfrozen.",                               \
      "Freeze the gateway above it.")                                                              \
    X(FROZEN, "014039", 403, "Operation not allowed.", "The device is frozen already.",            \
      "Unfreeze it first.")                                                                        \
    X(NOT_FROZEN, "014040", 403, "Operation not allowed.", "The device is not frozen.",            \
      "Nothing needs to be done.")                                                                 \
    X(SYNC_TIMEOUT, "014111", 200, "The device did not answer in time.",                           \
      "The command went down, or the device read nothing; the text names the stage.",              \
      "Ask why of the device.")                                                                    \
    X(NOT_SUBSCRIBED, "014112", 403, "The device has not subscribed.",                             \
      "A message went to a topic that the device has not subscribed.", "Subscribe the topic.")     \
    X(NO_ASYNC, "014114", 403, "Operation not allowed.",                                           \
      "Asynchronous commands are for NB-IoT and LwM2M devices; CAUSEWAY_STRICT=1 keeps to that.",  \
      "Send a synchronous command, or run without CAUSEWAY_STRICT.")                               \
    X(HAS_CHILDREN, "014900", 403, "Operation not allowed.",                                       \
      "Devices are registered below this one.", "Delete its child devices first.")                 \
    X(DEPTH, "014901", 403, "Operation not allowed.",                                              \
      "Children may lie two levels below a directly connected device.",                            \
      "Attach it to a gateway higher up.")                                                         \
    X(NO_GATEWAY, "014902", 400, "Invalid input.", "gateway_id names no device of the space.",     \
      "Name a gateway that exists.")                                                               \
    X(SHADOW_CONFLICT, "014903", 409, "The shadow has changed.",                                   \
      "The version that was sent is not the service's version; the text tells both.",              \
      "Read the shadow again and decide anew.")                                                    \
    X(SHADOW_KEY, "014904", 400, "Invalid input.",                                                 \
      "A property name contains a point, a dollar sign or NUL.", "Use other names.")               \
    X(MESSAGE_TAKEN, "014905", 400, "Invalid input.",                                              \
      "The device has a message of this message_id.", "Choose another message_id.")                \
    X(NOT_IN_MODEL, "014906", 400, "Invalid input.",                                               \
      "Service, command or a para is not in the model, or a value does not fit.",                  \
      "Use a service and command of the model.")                                                   \
    X(DEVICE_QUOTA, "014908", 403, "Operation not allowed.",                                       \
      "CAUSEWAY_DEVICES_MAX, or CAUSEWAY_CHILDREN_MAX of a gateway, is reached.",                  \
      "Delete devices.")                                                                           \
    X(NOT_A_CHILD, "014910", 403, "Operation not allowed.",                                        \
      "The device is directly connected: it has no gateway to change.", "Name a child device.")    \
    X(NO_MESSAGE, "014912", 404, "The message does not exist.",                                    \
      "The device has no message of this message_id.", "List the messages of the device.")         \
    X(NO_COMMAND, "014913", 404, "The command does not exist.",                                    \
      "The device has no asynchronous command of this command_id.", "List its commands.")          \
    X(QUEUE_FULL, "014914", 403, "Operation not allowed.",                                         \
      "20 asynchronous commands of the device are PENDING already.",                               \
      "Wait until they are sent, or cancel some.")                                                 \
    X(NOT_PENDING, "014915", 409, "The command is no longer PENDING.",                             \
      "The device may have got it; the text names its status.", "Wait for its end.")               \
    X(CA_PROOF, "014307", 400, "Invalid input.",                                                   \
      "The certificate for the verification does not prove the CA; the text says why.",            \
      "Sign a certificate with the CA whose common name is the verify_code.")                      \
    X(CERT_BAD, "014390", 400, "Invalid input.", "The text is no PEM certificate of a CA.",        \
      "Send one PEM certificate of a CA.")                                                         \
    X(NO_CERT, "014391", 404, "The certificate does not exist.",                                   \
      "No certificate has this cert_id.", "List the certificates.")                                \
    X(CERT_IN_USE, "014392", 403, "Operation not allowed.", "Actions use the certificate.",        \
      "Change the actions that use it.")                                                           \
    X(CA_TAKEN, "014394", 400, "Invalid input.", "The space has this certificate already.",        \
      "List the certificates of the space.")                                                       \
    X(CERT_QUOTA, "014393", 403, "Operation not allowed.",                                         \
      "The number of certificates is reached.", "Delete certificates.")                            \
    X(CA_PROVISIONS, "014395", 403, "Operation not allowed.",                                      \
      "Another space registers devices by this CA already.",                                       \
      "Set provision_enable to false there first.")                                                \
    X(NO_OCSP, "014396", 400, "Invalid input.", "OCSP is not offered.",                            \
      "Leave the OCSP fields out; revoke a device's certificate by status INACTIVE.")              \
    X(NO_TEMPLATE, "036900", 404, "The template does not exist.",                                  \
      "No template has this template_id.", "List the provisioning templates.")                     \
    X(TEMPLATE_BAD, "036901", 400, "Invalid input.",                                               \
      "The template body contradicts itself; the text names the field.", "Correct that field.")    \
    X(TEMPLATE_QUOTA, "036902", 403, "Operation not allowed.",                                     \
      "CAUSEWAY_TEMPLATES_MAX is reached.", "Delete templates, or raise the limit.")               \
    X(TEMPLATE_TAKEN, "036903", 400, "Invalid input.", "Another template has this template_name.", \
      "Choose another name.")                                                                      \
    X(TEMPLATE_IN_USE, "036904", 403, "Operation not allowed.", "A CA is bound to the template.",  \
      "Unbind it: update the CA with template_id null.")                                           \
    X(NO_SCOPE, "036910", 404, "The registration group does not exist.",                           \
      "No registration group has this scope_id.", "List the registration groups.")                 \
    X(SCOPE_QUOTA, "036911", 403, "Operation not allowed.",                                        \
      "CAUSEWAY_REGISTRATION_GROUPS_MAX is reached.", "Delete groups, or raise the limit.")        \
    X(NO_STRATEGY, "036920", 404, "The bootstrap strategy does not exist.",                        \
      "No bootstrap strategy has this strategy_id.", "List the bootstrap strategies.")             \
    X(STRATEGY_TAKEN, "036921", 400, "Invalid input.",                                             \
      "The space has a bootstrap strategy for this keyword.", "Change that one.")                  \
    X(STRATEGY_QUOTA, "036922", 403, "Operation not allowed.",                                     \
      "CAUSEWAY_STRATEGIES_MAX is reached.", "Delete strategies, or raise the limit.")             \
    X(NO_POLICY, "035900", 404, "The policy does not exist.", "No policy has this policy_id.",     \
      "List the policies.")                                                                        \
    X(POLICY_BAD, "035901", 400, "Invalid input.",                                                 \
      "A resource of a statement is no topic: pattern, names a topic below $oc or a variable "     \
      "that "                                                                                      \
      "does not exist; or the statements have more than 10 KB.",                                   \
      "Correct the resource that is named.")                                                       \
    X(POLICY_QUOTA, "035902", 403, "Operation not allowed.", "CAUSEWAY_POLICIES_MAX is reached.",  \
      "Delete policies, or raise the limit.")                                                      \
    X(TARGET_QUOTA, "035903", 403, "The target has five policies, or the policy 10,000 products.", \
      "A policy is bound to one target too many.", "Unbind policies that it does not need.")       \
    X(NOT_BOUND, "035904", 404, "The policy is not bound to this target.",                         \
      "It was never bound, or is no longer.", "List the targets of the policy.")                   \
    X(NO_TAG, "004003", 400, "The device has no such tag.", "A tag key to unbind is not bound.",   \
      "Look at the tags of the device; nothing was unbound.")                                      \
    X(TAG_TWICE, "004004", 400, "Invalid input.", "A tag key comes twice in the request.",         \
      "Give each key once.")                                                                       \
    X(TAG_QUOTA, "004900", 403, "Operation not allowed.", "CAUSEWAY_TAGS_MAX is reached.",         \
      "Unbind tags, or raise the limit.")                                                          \
    X(NO_GROUP, "031900", 404, "The group does not exist.", "No group has this group_id.",         \
      "List the groups.")                                                                          \
    X(GROUP_TAKEN, "031901", 400, "Invalid input.", "The space has a group of this name.",         \
      "Choose another name.")                                                                      \
    X(GROUP_QUOTA, "031902", 403, "Operation not allowed.",                                        \
      "CAUSEWAY_DEVICE_GROUPS_MAX is reached.", "Delete groups, or raise the limit.")              \
    X(GROUP_PARENT, "031903", 400, "Invalid input.",                                               \
      "The parent is missing, in another space, dynamic, or on the fifth level.",                  \
      "Choose another parent, or none.")                                                           \
    X(GROUP_RULE, "031904", 400, "Invalid input.",                                                 \
      "The rule of a dynamic group is missing, or cannot be read.",                                \
      "Correct it as docs/protocol/device-search.md says.")                                        \
    X(GROUP_NOT_EMPTY, "031905", 403, "Operation not allowed.",                                    \
      "The group has groups below it, or devices.", "Remove them first.")                          \
    X(GROUP_IS_DYNAMIC, "031906", 403, "Operation not allowed.",                                   \
      "The members of a dynamic group are chosen by its rule.",                                    \
      "Change the devices so that the rule says otherwise.")                                       \
    X(GROUP_FULL, "031907", 403, "Operation not allowed.",                                         \
      "CAUSEWAY_GROUP_DEVICES_MAX or CAUSEWAY_GROUPS_PER_DEVICE_MAX is reached.",                  \
      "Use another group, or raise the limit.")                                                    \
    X(NOT_IN_GROUP, "031908", 400, "The device is not in the group.",                              \
      "It was never added, or is no longer in it.", "List the devices of the group.")              \
    X(SEARCH_WRONG, "038900", 400, "The search cannot be read.",                                   \
      "The text is not a statement of docs/protocol/device-search.md.",                            \
      "Correct it where the message points.")                                                      \
    X(SEARCH_WIDE, "038901", 403, "The search took too long and was ended.",                       \
      "No index narrows the devices down: status, node_type and != alone do not.",                 \
      "Add a condition on product_id, gateway_id, node_id, device_name, a tag or a group; count "  \
      "in parts; or raise CAUSEWAY_SEARCH_TIMEOUT.")                                               \
    X(SEARCH_BUSY, "038902", 503, "Too many searches at once.",                                    \
      "Others run that take long, and more wait; the text says how long or how many.",             \
      "Try again in a moment; narrow the searches that take long.")                                \
    X(NO_BRIDGE, "037900", 404, "The bridge does not exist.", "No bridge has this bridge_id.",     \
      "List the bridges.")                                                                         \
    X(BRIDGE_QUOTA, "037901", 403, "Operation not allowed.", "CAUSEWAY_BRIDGES_MAX is reached.",   \
      "Delete bridges, or raise the limit.")                                                       \
    X(BRIDGE_TAKEN, "037902", 400, "Invalid input.", "Another bridge has this bridge_id.",         \
      "Choose another one, or leave it out.")                                                      \
    X(NO_PROXY, "037903", 404, "The device proxy does not exist.", "No proxy has this proxy_id.",  \
      "List the device proxies.")                                                                  \
    X(PROXY_QUOTA, "037904", 403, "Operation not allowed.", "CAUSEWAY_PROXIES_MAX is reached.",    \
      "Delete device proxies, or raise the limit.")                                                \
    X(PROXY_BAD, "037905", 400, "Invalid input.",                                                  \
      "A listed device is not there, in another space, a child, or listed twice.",                 \
      "List two to ten directly connected devices of the proxy's space.")                          \
    X(RATE, "021101", 403, "Too many requests.",                                                   \
      "The caller made more requests in a second than CAUSEWAY_REST_RATE.",                        \
      "Wait as Retry-After says.")

#define CW_ERROR_ENUM(name, number, status, what, cause, todo) CW_E_##name,
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

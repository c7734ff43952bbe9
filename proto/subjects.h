/* subjects.h - every subject and stream on NATS: who sends, who receives, what is promised. */
#pragma once

/* Who may publish and subscribe what, and nobody else anything: nats-server's rights are made of
 * this list (scripts/suite/rights.py). <daemon> is the name of who publishes or subscribes; other
 * words in <> stand for one level of any text. Everybody hears what comes below _INBOX.<daemon>;
 * there the receivers of a request answer its senders.
 *
 * kind: log = appended before its cause is acknowledged; request = answered or timed out; plain = a
 * hint. */
#define CW_SUBJECTS(X)                                                                             \
    /* name, pattern, kind, senders, receivers */                                                  \
    X(IDENTITY, "api.identity.<operation>", "request", "rest-gateway", "identity")                 \
    X(REGISTRY, "api.registry.<operation>", "request", "rest-gateway device-registry",             \
      "device-registry")                                                                           \
    X(DATA, "api.data.<operation>", "request", "rest-gateway", "uplink-processor")                 \
    X(COMMAND, "api.command.<operation>", "request", "rest-gateway", "command-dispatcher")         \
    X(RULE, "api.rule.<operation>", "request", "rest-gateway", "rule-engine")                      \
    X(LOGIN, "api.registry.open_sessions", "request", "mqtt-gateway", "device-registry")           \
    X(KEEP, "api.registry.keep_session", "request", "mqtt-gateway", "device-registry")             \
    X(POLICIES, "api.registry.policies", "request", "mqtt-gateway", "device-registry")             \
    X(PROVISION, "api.registry.provision", "request", "mqtt-gateway", "device-registry")           \
    X(REFUSED, "api.registry.refused", "plain", "mqtt-gateway", "device-registry")                 \
    X(AUDIT, "api.identity.WriteAudit", "request", "device-registry", "identity")                  \
    X(BRIDGE, "api.registry.open_bridge", "request", "mqtt-gateway", "device-registry")            \
    X(BRIDGE_END, "api.registry.close_bridge", "request", "mqtt-gateway", "device-registry")       \
    X(BRIDGE_SECRET, "api.registry.bridge_secret", "request", "mqtt-gateway", "device-registry")   \
    X(FACTS, "facts.ask", "request", "identity",                                                   \
      "identity rest-gateway device-registry mqtt-gateway uplink-processor command-dispatcher "    \
      "rule-engine push-notifier")                                                                 \
    X(DOWNLINK, "downlink.<gateway>", "request",                                                   \
      "command-dispatcher device-registry uplink-processor mqtt-gateway", "mqtt-gateway")          \
    X(RESPONSE, "response.<dispatcher>.<request>", "plain", "mqtt-gateway command-dispatcher",     \
      "command-dispatcher")                                                                        \
    X(HEARTBEAT, "heartbeat.<gateway>", "plain", "mqtt-gateway", "device-registry mqtt-gateway")   \
    X(ROUTE, "route.<key>", "plain", "mqtt-gateway command-dispatcher", "mqtt-gateway")            \
    X(WAKE, "wake.<daemon>.<p>", "plain",                                                          \
      "command-dispatcher device-registry uplink-processor rule-engine push-notifier",             \
      "command-dispatcher device-registry uplink-processor rule-engine push-notifier")             \
    X(DEVICE, "invalidate.device", "plain", "device-registry", "device-registry uplink-processor") \
    X(PRODUCT, "invalidate.product", "plain", "device-registry",                                   \
      "command-dispatcher uplink-processor")                                                       \
    X(CA, "invalidate.ca", "plain", "device-registry", "device-registry")                          \
    X(POLICY, "invalidate.policy", "plain", "device-registry", "mqtt-gateway")                     \
    X(ACCOUNT, "invalidate.identity", "plain", "identity", "rest-gateway")                         \
    X(RULES, "invalidate.rule", "plain", "rule-engine", "rule-engine push-notifier")               \
    X(ACTIONS, "invalidate.action", "plain", "rule-engine", "rule-engine push-notifier")

/* The logs: a partition is the stream <log>_<p>. A log has its senders and its readers; who trims
 * it carries the marks of all senders over. */
#define CW_LOGS(X)                                                                                 \
    /* name, pattern, senders, readers, who trims */                                               \
    X(UPLINK, "uplink.<p>",                                                                        \
      "mqtt-gateway device-registry uplink-processor command-dispatcher push-notifier",            \
      "uplink-processor", "uplink-processor")                                                      \
    X(EVENT, "event.<p>.<daemon>", "uplink-processor device-registry command-dispatcher",          \
      "rule-engine device-registry command-dispatcher", "rule-engine")                             \
    X(PUSH, "push.<p>.<daemon>", "rule-engine", "push-notifier", "push-notifier")

#define CW_LOG_UPLINK "UPLINK"
#define CW_LOG_EVENT  "EVENT"
#define CW_LOG_PUSH   "PUSH"

#define CW_BATCH_MAX_BYTES   (256U << 10) /* a batch closes here; one larger frame goes alone */
#define CW_PAYLOAD_MAX_BYTES (7U << 20)   /* bus refuses above */

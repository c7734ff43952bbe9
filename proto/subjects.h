/* subjects.h - every subject and stream on NATS: who sends, who receives, what is promised. */
#pragma once

/* kind: log = appended before its cause is acknowledged; request = answered or timed out; plain = a
 * hint. */
#define CW_SUBJECTS(X)                                                                             \
    /* name        pattern                  kind     senders                        receivers */   \
    X(API, "api.<service>.<operation>", "request", "rest-gateway, gateways", "owner of the data")  \
    X(DOWNLINK, "downlink.<gateway>", "request", "owners of intents", "one gateway instance")      \
    X(UPLINK, "uplink.<p>", "log", "gateways; notices: all", "uplink-processor")                   \
    X(EVENT, "event.<p>.<daemon>", "log", "owner of p in <daemon>", "all mandatory readers")       \
    X(PUSH, "push.<p>.<daemon>", "log", "rule-engine", "push-notifier")                            \
    X(RESPONSE, "response.<dispatcher>.<request>", "plain", "gateways", "command-dispatcher")      \
    X(HEARTBEAT, "heartbeat.<gateway>", "plain", "gateways", "device-registry, gateways")          \
    X(ROUTE, "route.<key>", "plain", "mqtt-gateways, command-dispatcher", "mqtt-gateways")         \
    X(WAKE, "wake.<service>.<p>", "plain", "any instance of it", "owner of p")                     \
    X(INVALIDATE, "invalidate.<kind>", "plain", "owner of the data", "caches")

#define CW_SUBJECT_ENUM(name, pattern, kind, from, to) CW_SUBJECT_##name,
enum cw_subject { CW_SUBJECTS(CW_SUBJECT_ENUM) CW_SUBJECT_COUNT };
#undef CW_SUBJECT_ENUM

/* The three logs; a partition is the stream <log>_<p>. */
#define CW_LOG_UPLINK "UPLINK"
#define CW_LOG_EVENT  "EVENT"
#define CW_LOG_PUSH   "PUSH"

#define CW_BATCH_MAX_BYTES   (256U << 10) /* a batch closes here; one larger frame goes alone */
#define CW_PAYLOAD_MAX_BYTES (7U << 20)   /* bus refuses above */

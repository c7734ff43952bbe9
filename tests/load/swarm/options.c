/* options.c - what the swarm can be told. */
#include "swarm.h"

#include <string.h>

static const struct option_row rows[] = {
#define AT(f) offsetof(struct options, f)
    { "host", OPT_TEXT, AT(host), "127.0.0.1", 0, 0, "IPv4 address of the MQTT server" },
    { "port", OPT_NUMBER, AT(port), "1883", 1, 65535, "its port" },
    { "devices", OPT_TEXT, AT(devices), NULL, 0, 0, "file of `device_id secret` lines (needed)" },
    { "count", OPT_NUMBER, AT(count), "0", 0, 10000000, "use the first N devices only; 0: all" },
    { "connect-rate", OPT_NUMBER, AT(connect_rate), "1000", 1, 1000000,
      "new connections a second" },
    { "connecting", OPT_NUMBER, AT(connecting), "500", 1, 100000,
      "connections without CONNACK at most" },
    { "rate", OPT_NUMBER, AT(rate), "0", 0, 10000000,
      "reports/s of all devices; 0: as acknowledged" },
    { "window", OPT_NUMBER, AT(window), "8", 1, 16384,
      "unacknowledged reports of a device at most" },
    { "qos", OPT_NUMBER, AT(qos), "1", 0, 1, "quality of service of the reports" },
    { "payload", OPT_NUMBER, AT(payload), "0", 0, 1048000,
      "bytes of a report, filled up by \"pad\"; 0: small" },
    { "service", OPT_TEXT, AT(service), "Load", 0, 0, "service_id of the reports" },
    { "stamp", OPT_TEXT, AT(stamp), "", 0, 0,
      "property that carries the sending time, us since 1970" },
    { "kind", OPT_TEXT, AT(kind), "properties", 0, 0, "properties (report) or messages (up)" },
    { "duration", OPT_NUMBER, AT(duration_s), "10", 0, 1000000,
      "seconds of publishing; 0: no limit" },
    { "messages", OPT_NUMBER, AT(messages), "0", 0, 1000000000,
      "reports of each device; 0: no limit" },
    { "first-seq", OPT_NUMBER, AT(first_seq), "1", 0, 1000000000, "first sequence number" },
    { "sign-type", OPT_NUMBER, AT(sign_type), "0", 0, 1, "sign type of the password" },
    { "keep-alive", OPT_NUMBER, AT(keep_alive_s), "120", 10, 65535, "seconds" },
    { "timeout", OPT_NUMBER, AT(timeout_s), "15", 1, 3600, "seconds to wait for the last PUBACKs" },
    { "acked", OPT_TEXT, AT(acked), "", 0, 0,
      "file that gets a `device_id seq` line for each PUBACK" },
    { "sources", OPT_NUMBER, AT(sources), "1", 1, 200,
      "addresses of loopback that connections start from" },
    { "tls", OPT_FLAG, AT(tls), NULL, 0, 0, "speak TLS" },
    { "ws", OPT_FLAG, AT(ws), NULL, 0, 0, "over WebSocket" },
    { "mqtt5", OPT_FLAG, AT(mqtt5), NULL, 0, 0, "speak MQTT 5" },
    { "ca", OPT_TEXT, AT(ca), "", 0, 0, "file of the certificate authority; empty: trust anybody" },
    { "resume", OPT_FLAG, AT(resume), NULL, 0, 0, "keep TLS tickets for the next connection" },
    { "churn", OPT_NUMBER, AT(churn), "0", 0, 100000,
      "connections a second that are cut and come back" },
    { "reconnect", OPT_FLAG, AT(reconnect), NULL, 0, 0,
      "connect again when lost; never sends a report twice" },
    { "hold", OPT_FLAG, AT(hold), NULL, 0, 0, "connect and stay, publish nothing" },
    { "answer", OPT_FLAG, AT(answer), NULL, 0, 0, "answer commands with result_code 0" },
    { "json", OPT_FLAG, AT(json), NULL, 0, 0, "print the result as one JSON line" },
    { "quiet", OPT_FLAG, AT(quiet), NULL, 0, 0, "no live line" },
};
#undef AT

void swarm_options(struct options *o, int argc, char **argv)
{
    memset(o, 0, sizeof *o);
    options_read(o, rows, sizeof rows / sizeof *rows,
                 "swarm: plays many MQTT devices, publishes reports, counts every PUBACK",
                 "Ends with 0: all acknowledged, 1: a PUBACK is missing, 2: wrong usage, 3: a "
                 "connection was refused or lost.",
                 argc, argv);
    if (!o->devices)
        options_wrong("--devices", "is needed");
    if (strcmp(o->kind, "properties") && strcmp(o->kind, "messages"))
        options_wrong("--kind", "is properties or messages");
    if (!o->qos && !o->rate && !o->hold)
        options_wrong("--qos 0", "needs a --rate: nothing is acknowledged");
    o->reconnect |= o->churn > 0;
}

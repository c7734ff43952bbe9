/* options.c - the command line is a table; --help is printed from it. */
#include "swarm.h"

#include <stdlib.h>
#include <string.h>

enum type { TEXT, NUMBER, FLAG };

static const struct row {
    const char *name;
    enum type type;
    size_t into;
    const char *fallback;
    long min, max;
    const char *help;
} rows[] = {
#define AT(f) offsetof(struct options, f)
    { "host", TEXT, AT(host), "127.0.0.1", 0, 0, "IPv4 address of the MQTT server" },
    { "port", NUMBER, AT(port), "1883", 1, 65535, "its port" },
    { "devices", TEXT, AT(devices), NULL, 0, 0, "file of `device_id secret` lines (needed)" },
    { "count", NUMBER, AT(count), "0", 0, 10000000, "use the first N devices only; 0: all" },
    { "connect-rate", NUMBER, AT(connect_rate), "1000", 1, 1000000, "new connections a second" },
    { "connecting", NUMBER, AT(connecting), "500", 1, 100000,
      "connections without CONNACK at most" },
    { "rate", NUMBER, AT(rate), "0", 0, 10000000, "reports/s of all devices; 0: as acknowledged" },
    { "window", NUMBER, AT(window), "8", 1, 16384, "unacknowledged reports of a device at most" },
    { "qos", NUMBER, AT(qos), "1", 0, 1, "quality of service of the reports" },
    { "payload", NUMBER, AT(payload), "0", 0, 1048000,
      "bytes of a report, filled up by \"pad\"; 0: small" },
    { "service", TEXT, AT(service), "Load", 0, 0, "service_id of the reports" },
    { "stamp", TEXT, AT(stamp), "", 0, 0, "property that carries the sending time, us since 1970" },
    { "kind", TEXT, AT(kind), "properties", 0, 0, "properties (report) or messages (up)" },
    { "duration", NUMBER, AT(duration_s), "10", 0, 1000000, "seconds of publishing; 0: no limit" },
    { "messages", NUMBER, AT(messages), "0", 0, 1000000000, "reports of each device; 0: no limit" },
    { "first-seq", NUMBER, AT(first_seq), "1", 0, 1000000000, "first sequence number" },
    { "sign-type", NUMBER, AT(sign_type), "0", 0, 1, "sign type of the password" },
    { "keep-alive", NUMBER, AT(keep_alive_s), "120", 10, 65535, "seconds" },
    { "timeout", NUMBER, AT(timeout_s), "15", 1, 3600, "seconds to wait for the last PUBACKs" },
    { "acked", TEXT, AT(acked), "", 0, 0, "file that gets a `device_id seq` line for each PUBACK" },
    { "reconnect", FLAG, AT(reconnect), NULL, 0, 0,
      "connect again when lost; never sends a report twice" },
    { "hold", FLAG, AT(hold), NULL, 0, 0, "connect and stay, publish nothing" },
    { "answer", FLAG, AT(answer), NULL, 0, 0, "answer commands with result_code 0" },
    { "json", FLAG, AT(json), NULL, 0, 0, "print the result as one JSON line" },
    { "quiet", FLAG, AT(quiet), NULL, 0, 0, "no live line" },
};
#define ROWS (sizeof rows / sizeof *rows)

static void help(void)
{
    puts("swarm: plays many MQTT devices, publishes reports, counts every PUBACK\n");
    for (size_t i = 0; i < ROWS; i++) {
        char left[40];
        snprintf(left, sizeof left, "--%s%s", rows[i].name, rows[i].type == FLAG ? "" : " X");
        printf("  %-18s %s", left, rows[i].help);
        if (rows[i].fallback && *rows[i].fallback)
            printf(" [%s]", rows[i].fallback);
        putchar('\n');
    }
    puts("\nEnds with 0: all acknowledged, 1: a PUBACK is missing, 2: wrong usage, 3: a connection "
         "was refused or lost.");
}

static _Noreturn void wrong(const char *what, const char *detail)
{
    fprintf(stderr, "swarm: %s: %s (see --help)\n", what, detail);
    exit(SWARM_USAGE);
}

static void set(struct options *o, const struct row *r, char *value)
{
    void *at = (char *)o + r->into;
    char *end;
    if (r->type == FLAG) {
        *(bool *)at = true;
    } else if (r->type == TEXT) {
        *(char **)at = value;
    } else {
        long n = strtol(value, &end, 10);
        if (!*value || *end || n < r->min || n > r->max)
            wrong(r->name, "not a number in its range");
        *(long *)at = n;
    }
}

void options_read(struct options *o, int argc, char **argv)
{
    memset(o, 0, sizeof *o);
    for (size_t i = 0; i < ROWS; i++)
        if (rows[i].fallback)
            set(o, &rows[i], (char *)rows[i].fallback);
    for (int a = 1; a < argc; a++) {
        size_t i = 0;
        if (!strcmp(argv[a], "--help")) {
            help();
            exit(SWARM_OK);
        }
        while (i < ROWS && (strncmp(argv[a], "--", 2) || strcmp(argv[a] + 2, rows[i].name)))
            i++;
        if (i == ROWS)
            wrong("unknown option", argv[a]);
        if (rows[i].type != FLAG && ++a == argc)
            wrong(rows[i].name, "needs a value");
        set(o, &rows[i], rows[i].type == FLAG ? NULL : argv[a]);
    }
    if (!o->devices)
        wrong("--devices", "is needed");
    if (strcmp(o->kind, "properties") && strcmp(o->kind, "messages"))
        wrong("--kind", "is properties or messages");
    if (!o->qos && !o->rate && !o->hold)
        wrong("--qos 0", "needs a --rate: nothing is acknowledged");
}

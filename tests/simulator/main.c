/* main.c - simulator: options, the seconds, a clean end. */
#include "simulator.h"

#include <getopt.h>
#include <mosquitto.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ONCE_LIMIT_S 30

static volatile sig_atomic_t stop;

static void on_signal(int sig) { stop = sig; }

static const struct row {
    const char *name, *value, *help;
} rows[] = {
    { "host", "H", "the platform's MQTT host [127.0.0.1]" },
    { "port", "P", "its port [1883; 8883 with --cafile]" },
    { "cafile", "F", "CA of the platform: connects with TLS" },
    { "devices", "F", "file of `device_id secret streetlight|watermeter` lines (needed)" },
    { "once", NULL, "each reports once, then the end" },
    { "help", NULL, "this text" },
};
#define ROWS (sizeof rows / sizeof *rows)

static void help(void)
{
    puts("simulator: street lights and water meters that report once a second and obey commands\n");
    for (size_t i = 0; i < ROWS; i++)
        printf("  --%-8s %-2s %s\n", rows[i].name, rows[i].value ? rows[i].value : "",
               rows[i].help);
    puts("\nCommands: StreetLight SET_BRIGHTNESS {\"brightness\": 0..100}, "
         "WaterMeter VALVE {\"state\": \"OPEN\"|\"CLOSE\"}");
}

static int options_read(struct options *o, int argc, char **argv)
{
    struct option table[ROWS + 1] = { 0 };
    int c;
    *o = (struct options){ .host = "127.0.0.1" };
    for (size_t i = 0; i < ROWS; i++)
        table[i] = (struct option){ rows[i].name, rows[i].value ? 1 : 0, NULL, (int)i };
    while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
        switch (c) {
        case 0:
            o->host = optarg;
            break;
        case 1:
            o->port = atoi(optarg);
            break;
        case 2:
            o->cafile = optarg;
            break;
        case 3:
            o->devices = optarg;
            break;
        case 4:
            o->once = true;
            break;
        case 5:
            help();
            exit(0);
        default:
            return -1;
        }
    }
    o->port = o->port ? o->port : o->cafile ? 8883 : 1883;
    if (o->devices && o->port > 0 && o->port < 65536 && optind == argc)
        return 0;
    fputs("simulator: needs --devices FILE (see --help)\n", stderr);
    return -1;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Returns the exit code. */
static int run(struct device *list, const struct options *o)
{
    int64_t start = now_ms(), next = start;
    while (!stop) {
        int64_t now = now_ms();
        if (now >= next) {
            devices_second(list, time(NULL));
            next = now - next > 1000 ? now + 1000 : next + 1000;
        }
        if (o->once && devices_done(list))
            return 0;
        if (o->once && now - start > ONCE_LIMIT_S * 1000)
            return 1;
        devices_serve(list, next > now ? next - now : 0);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct sigaction on = { .sa_handler = on_signal };
    struct device *list = NULL;
    struct options o;
    int rc = 2;
    if (options_read(&o, argc, argv) < 0)
        return 2;
    sigaction(SIGTERM, &on, NULL);
    sigaction(SIGINT, &on, NULL);
    signal(SIGPIPE, SIG_IGN);
    mosquitto_lib_init();
    if (devices_load(&list, &o) > 0)
        rc = run(list, &o);
    devices_close(&list);
    mosquitto_lib_cleanup();
    return rc;
}

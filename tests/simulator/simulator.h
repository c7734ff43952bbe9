/* simulator.h - street lights and water meters for people, on libmosquitto. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- things: what they measure and obey */
struct thing {
    const struct kind *kind;
    long brightness;     /* street light: percent */
    bool on, valve_open; /* street light; water meter */
    double volume_m3, flow_m3h;
    long battery; /* percent */
    unsigned age_s;
};

struct kind {
    const char *name, *label, *service;
    void (*start)(struct thing *t, unsigned seed);
    /* A second passes. */
    void (*step)(struct thing *t);
    /* Properties as a new object; the caller owns it. Writes a line for people to `text`. */
    json_t *(*report)(const struct thing *t, char *text, size_t size);
    /* Obeys a command. Returns 0 or a result code; *paras gets a new object for the answer. */
    int (*obey)(struct thing *t, const char *command, json_t *in, json_t **paras);
};

/* The kind of that name ("streetlight", "watermeter"), or NULL. */
const struct kind *kind_find(const char *name);

/* ---- devices: their connection */
struct options {
    const char *host, *cafile, *devices;
    int port;
    bool once;
};

struct device;

/* Reads "device_id secret kind" lines into a list. Returns how many; on a mistake it has said which
 * line is wrong and returns -1. */
int devices_load(struct device **list, const struct options *o);
/* Serves all connections for at most wait_ms. */
void devices_serve(struct device *list, int wait_ms);
/* Reports of all connected devices; those that are not connected try again. now_s: any clock. */
void devices_second(struct device *list, int64_t now_s);
/* All have reported at least once and nothing waits for a PUBACK. */
bool devices_done(const struct device *list);
/* Says goodbye to the server, frees the list and sets it to NULL. */
void devices_close(struct device **list);

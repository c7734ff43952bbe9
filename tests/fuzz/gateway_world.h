/* gateway_world.h - what stands around mqtt-gateway in a harness: a loop with time of its own in
 * the place of libevent's, and bus, log and service that do what the harness says, when it says it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "libcommon/bus.h"
#include "libcommon/log_append.h"
#include "proto/causeway.pb-c.h"

#define WORLD_PARTITIONS 2
#define WORLD_INSTANCE   "mqtt-gateway-1-7"

/* A record on its way into UPLINK. */
struct world_record {
    struct world_record *next;
    Causeway__Uplink *up;
    cw_append_fn *cb;
    void *arg;
};
/* Oldest first, of each partition. */
extern struct world_record *world_log[WORLD_PARTITIONS];

/* Runs before anything else sees the record: the order of records is checked there. */
extern void (*world_on_append)(const Causeway__Uplink *up);
/* Takes the oldest record of the partition off and says what became of it. false: there is none. */
bool world_settle(uint32_t partition, int rc);
void world_block(uint32_t partition, bool blocked);

/* What the gateway asked others, oldest first. */
struct cw_bus_request {
    struct cw_bus_request *next;
    cw_bus_reply_fn *cb;
    void *arg, *timer;
    char subject[96];
    uint8_t *data;
    size_t len;
};
extern struct cw_bus_request *world_requests;
/* Takes r off and gives it the answer; rc < 0: no answer. */
void world_answer(struct cw_bus_request *r, int rc, const void *data, size_t len);
/* A message for the subscription whose subject begins so. */
void world_deliver(const char *subject, const char *reply, const void *data, size_t len);
/* What devices said to each other arrives. */
void world_route(void);
void world_connect(bool connected);

/* Everything that can happen now happens. Ends the process when that never ends. */
void world_spin(void);
/* Time passes; timers run in their order. */
void world_advance(int64_t ms);
/* Fresh: nothing waits, time goes on, the bus is connected. */
void world_open(void);
void world_close(void);

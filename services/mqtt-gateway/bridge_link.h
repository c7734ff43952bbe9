/* bridge_link.h - the devices behind a bridge, as bridge.c sees them. */
#pragma once

#include <uthash.h>

#include "services/mqtt-gateway/bridge.h"

#define BRIDGE_UNSENT_MAX (256U << 10) /* beyond it devices wait for the bridge to read */
#define BRIDGE_QUEUED_MAX (1U << 20)   /* beyond it the bridge waits for its devices' limits */
#define BRIDGE_UNACKED    10000

struct link;
struct down;

struct bridge {
    UT_hash_handle hh;
    struct gateway *gw;
    struct conn *conn;
    struct cw_bus_request *request; /* the login's */
    struct link *links;             /* uthash, by device id */
    struct down *downs;             /* uthash, by packet id: sent to the bridge, not acknowledged */
    LIST_HEAD(, renewal) renewals;
    struct event *alive, *again;
    int64_t session_no; /* 0: not let in */
    size_t queued;      /* bytes that wait to be written to devices' connections */
    uint16_t next_id;
    bool held; /* devices are not read */
    char id[BRIDGE_ID_MAX + 1];
};

/* A login of a device: {"sign_type", "timestamp", "password"}; replaces one that is there. */
void link_login(struct bridge *b, struct text device, struct text rid,
                const struct packet_publish *p);
/* Without a connection of this device: NULL. */
struct link *link_find(const struct bridge *b, struct text device);
bool link_is_open(const struct link *l);
const char *link_device(const struct link *l);
void link_logout(struct link *l, struct text rid);
/* What the device says, by a topic below sys/ or of its gateway's children. */
void link_publish(struct link *l, struct text rest, const struct packet_publish *p);
/* The bridge acknowledges what it was sent. */
void link_acked(struct bridge *b, uint16_t packet_id, uint8_t reason);
/* Devices are kept alive, and read again if the bridge reads. */
void links_ping(struct bridge *b);
void links_go_on(struct bridge *b);
void links_free(struct bridge *b);

/* $oc/bridges/<id>/devices/<device>/sys/<what>[/response/request_id=<rid>] with QoS 1. */
void bridge_say(struct bridge *b, struct text device, const char *what, struct text rid,
                const char *payload);

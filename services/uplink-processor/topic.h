/* topic.h - what a device's topic means to the platform. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum topic_kind {
    TOPIC_UNKNOWN, /* a system topic that nobody here understands */
    TOPIC_REPORT,
    TOPIC_MESSAGE, /* messages/up, user topics, $oc/m2m, and whatever does not begin with $oc */
    TOPIC_COMMAND_RESPONSE, /* also of properties/set and properties/get */
    TOPIC_CHILDREN,         /* a gateway reports for its children */
    TOPIC_SHADOW_GET,
    TOPIC_EVENTS,    /* also events/down, on which the Go SDK reports results */
    TOPIC_BOOTSTRAP, /* where is my platform? */
    TOPIC_OLD,       /* of older SDKs: kept, nothing follows */
};

struct topic {
    enum topic_kind kind;
    char request_id[257]; /* given by the device in ?request_id= or request_id=; "" if none */
    bool system;          /* the plain system topic of its kind, without a suffix */
    bool standard;        /* that topic, whatever its suffix */
};

/* device_id: of the directly connected device, whose own $oc/devices/ topics these are. */
void topic_read(struct topic *t, const char *text, const char *device_id);

/* policy.h - one device policy: its statements, and what they say of a topic
 * (docs/protocol/device-policies.md). Pure functions. */
#pragma once

#include "services/mqtt-gateway/packet.h"

enum policy_action { POLICY_PUBLISH = 1, POLICY_SUBSCRIBE = 2 };

struct policy;

/* statement: JSON as CreateDevicePolicy takes it. NULL: it is something else. */
struct policy *policy_read(const char *name, const char *statement);
void policy_free(struct policy *p); /* NULL is fine */
const char *policy_name(const struct policy *p);
bool policy_denies(const struct policy *p);  /* something */
bool policy_is_open(const struct policy *p); /* allows everything, to publish and to subscribe */

#define POLICY_PATTERN_MAX 400

/* A question, and what the policies that were asked have said so far. Zeroed but for the first
 * four. */
struct policy_question {
    enum policy_action action;
    struct text topic; /* or a filter, whose wildcards mean themselves */
    const char *device_id, *product_id;
    const struct policy *denied_by;
    bool allowed;
    bool limited; /* some statement allows something: what none allows is refused */
    char denied[POLICY_PATTERN_MAX];  /* the pattern that denies; "": none */
    char nearest[POLICY_PATTERN_MAX]; /* of those that allow, what begins most like the topic */
    size_t common;                    /* so many characters alike */
};
void policy_ask(const struct policy *p, struct policy_question *q);
/* Denied, or not among what is allowed. */
bool policy_refuses(const struct policy_question *q);

/* * stands for any characters, ? for one; all others for themselves. */
bool policy_matches(const char *pattern, struct text topic);
/* With ${devices.deviceId} and ${devices.productId} filled in. False: it does not fit. */
bool policy_expand(char *out, size_t size, const char *pattern, const struct policy_question *q);

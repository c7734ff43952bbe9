/* policies.h - the device policies of all spaces, as device-registry has them, and what of them
 * holds for a session. Kept in memory: a publish asks nobody. Asked anew when they change, within
 * a second for connections that are open. */
#pragma once

#include "services/mqtt-gateway/policy.h"
#include "services/mqtt-gateway/session.h"

/* Asks for them, until they are there. */
void policies_open(struct gateway *gw);
void policies_close(struct gateway *gw); /* before the bus */
/* False: nobody is to be let in yet. */
bool policies_known(const struct gateway *gw);

/* True: s may do this with a topic outside $oc. q->action and q->topic are given; else q says why
 * not. */
bool policies_allow(const struct session *s, struct policy_question *q);
/* The same for what comes to a subscription of s. */
bool policies_let_through(const struct session *s, struct text filter, struct text topic);
/* For a person: why q was refused, borrowed until the next call; and what would be right. */
const char *policies_reason(const struct policy_question *q);
#define POLICY_NEXT_STEP_LEN (POLICY_PATTERN_MAX + 128)
const char *policies_next_step(char out[POLICY_NEXT_STEP_LEN], const struct policy_question *q);

/* The session begins; policies: of its device, as SessionOpened has them. */
void policies_session(struct session *s, const char *policies);

/* policies.h - the device policies of all spaces and the custom topics of products, as
 * device-registry has them, and what of them holds for a session. Kept in memory: a publish asks
 * nobody. Asked anew when they change, within a second for connections that are open. */
#pragma once

#include "services/mqtt-gateway/policy.h"
#include "services/mqtt-gateway/product_topics.h"
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
/* True: s may do this with a custom topic of its own: what stands behind user/. why: see
 * product_topics_allow(). */
bool policies_allow_custom(const struct session *s, enum policy_action action, struct text name,
                           struct custom_refusal *why);
/* For a person: why q was refused, borrowed until the next call; and what would be right. */
const char *policies_reason(const struct policy_question *q);
#define POLICY_NEXT_STEP_LEN (POLICY_PATTERN_MAX + 128)
const char *policies_next_step(char out[POLICY_NEXT_STEP_LEN], const struct policy_question *q);

/* Before the sessions of a reply begin: the custom topics of their products. */
void policies_topics(struct gateway *gw, const Causeway__SessionOpenReply *reply);
/* The session begins; policies: of its device, as SessionOpened has them. */
void policies_session(struct session *s, const char *policies);

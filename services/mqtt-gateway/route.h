/* route.h - what devices say to each other: topics outside $oc, $oc/m2m, and $oc/broadcast, which
 * applications publish. Subject route.<key>, the first level of the topic; only instances with a
 * subscriber listen. Online subscribers of the same resource space get it, each once, with the
 * higher of the QoS of the filters that match, but not more than the sender's; the sender too. */
#pragma once

#include "services/mqtt-gateway/session.h"

#define ROUTED_MAX 1000 /* subscribers in this instance that get one message */

/* A topic that devices share. */
bool route_takes(struct text topic);
/* After the append of the sender's record. False: the bus is away. */
bool route_publish(struct session *s, const struct outgoing *o);

/* subscriptions.c: what s has subscribed, or no longer has. Others than of shared topics are let
 * pass. */
void route_subscribed(struct session *s, const char *filter);
void route_unsubscribed(struct session *s, const char *filter);

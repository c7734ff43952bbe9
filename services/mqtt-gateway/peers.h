/* peers.h - heartbeats: ours each second, and which other gateways are known dead. */
#pragma once

#include "services/mqtt-gateway/gateway.h"

/* After lost_ms without NATS the others have given our sessions away: they end when it is back. */
void peers_open(struct gateway *gw);
/* At the end of the process: peers_dead() is not asked any more. */
void peers_close(struct gateway *gw);
/* True when the instance has been silent for lost_ms while we could hear, or its name has booted
 * again since. */
bool peers_dead(const struct gateway *gw, const char *instance);

/* listener.h - the ports. Several processes may listen on the same ones (SO_REUSEPORT). */
#pragma once

#include "services/mqtt-gateway/gateway.h"

/* 0, or negative errno after saying which port or file is wrong. */
int listeners_open(struct gateway *gw);
/* Accepts nothing more. Sets *l to NULL. */
void listeners_close(struct listeners **l);

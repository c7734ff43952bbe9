/* auth.h - asks the registry in batches whether devices may come in. */
#pragma once

#include "services/mqtt-gateway/gateway.h"
#include "services/mqtt-gateway/packet.h"
#include "services/mqtt-gateway/topic.h"

/* A CONNECT is asked about at once; one within 2 ms after it waits for others, up to 256. Four such
 * batches are on their way at most: in a storm of logins the others wait here, in order. Whoever
 * has waited for half of AUTH_LIMIT is told at once that the platform is unavailable (CONNACK 3).
 */
void auth_open(struct gateway *gw);
/* The policies of devices are known now: whoever waited for them is asked about. */
void auth_go_on(struct gateway *gw);
/* At the end of the process: what is not asked yet is turned away. */
void auth_close(struct gateway *gw);
/* The answer ends in session_open() or conn_refuse(). */
void auth_ask(struct conn *c, const struct client_id *id, const struct packet_connect *connect);
/* The connection goes before the answer. */
void auth_forget(struct conn *c);
/* CONNECTs without an answer; a drain ends at 0. */
unsigned auth_waiting(const struct gateway *gw);

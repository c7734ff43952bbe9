/* bridge.h - a bridge: one connection over which many devices log in (docs/protocol/bridges.md).
 *
 * Each of its devices gets a connection of its own inside the gateway, a pair of sockets, over
 * which the bridge speaks MQTT 3.1.1 for it. So a device behind a bridge is what any other device
 * is: login, limits, order, takeover, acknowledgements. The bridge rewrites topics and packet ids.
 */
#pragma once

#include "services/mqtt-gateway/conn.h"
#include "services/mqtt-gateway/topic.h"

/* A CONNECT with a client id of type 3: asks the registry; conn_accept() or conn_refuse() follows.
 */
void bridge_ask(struct conn *c, const struct client_id *id, const struct packet_connect *connect);
/* A packet of its open connection. */
void bridge_handle(struct conn *c, struct packet *p);
/* The connection of a bridge has ended, so those of its devices end. Frees c->bridge. */
void bridge_gone(struct conn *c);
/* Somebody wants this session of a bridge closed. False: it is not here. */
bool bridge_close(struct gateway *gw, int64_t session_no, const char *cause);
/* Before the first connection. */
void bridges_open(struct gateway *gw);
/* At the end of the process, after the connections: what the registry was not told it finds out. */
void bridges_close(struct gateway *gw);

/* proxy.h - the PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): an entry in front
 * of several gateways says, before the first byte of a connection, whom it comes from. Taken only
 * from addresses that a setting names; whoever else sends it sends nonsense. */
#pragma once

#include <sys/types.h>

#include "libcommon/util.h"

struct event_base;
struct sockaddr;

#define CW_PROXY_PEER_LEN 64

/* Reads the header at data. The bytes that it takes, and in peer whom it names ("1.2.3.4:5",
 * IPv6 in brackets; "" when it names nobody, as health checks of the entry do); 0: more bytes are
 * needed; -EPROTO: no such header. */
ssize_t cw_proxy_read(char peer[CW_PROXY_PEER_LEN], const void *data, size_t len);
/* The same on a connection, taking no byte behind the header: 1: done; 0: again when it is
 * readable; -EPROTO; -ECONNRESET: it ended. */
int cw_proxy_take(int fd, char peer[CW_PROXY_PEER_LEN]);

/* Connections that were accepted and whose header is awaited. */
struct cw_proxy;
/* The header has come: fd is the caller's. with: as given to cw_proxy_await(). */
typedef void cw_proxy_fn(int fd, const char *peer, void *with);
/* from: networks of entries (cidr.h). Who has sent no header, or nonsense, within limit_ms is
 * closed. -EINVAL: err says which word is no network. */
int cw_proxy_open(struct cw_proxy **out, struct event_base *base, const char *from,
                  int64_t limit_ms, cw_proxy_fn *cb, char *err, size_t size);
/* True for an entry: it must send the header, and nobody else may. p NULL: there is none. */
bool cw_proxy_speaks(const struct cw_proxy *p, const struct sockaddr *address);
/* Takes fd, which does not block. cb may run before it returns. */
void cw_proxy_await(struct cw_proxy *p, int fd, void *with);
unsigned cw_proxy_waiting(const struct cw_proxy *p); /* p NULL: 0 */
/* Closes those that wait. Sets *p to NULL; NULL is fine. */
void cw_proxy_close(struct cw_proxy **p);

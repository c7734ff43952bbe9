/* ws.h - MQTT over WebSocket (RFC 6455; MQTT 5, section 6): the handshake, frames in both
 * directions. No I/O: bytes in, bytes out. */
#pragma once

#include <sys/types.h>

#include "libcommon/util.h"

#define WS_HEAD_MAX_BYTES 8192 /* of the request */

enum ws_code { /* RFC 6455, 7.4.1 */
               WS_NORMAL = 1000,
               WS_PROTOCOL = 1002,
               WS_UNSUPPORTED = 1003,
};

struct ws;
struct ws *ws_new(void);
void ws_free(struct ws **w); /* NULL is fine */

/* Reads the request that begins at in. The bytes that it took, and 101 waits to be written; 0 when
 * more are needed; -EPROTO: a refusal waits to be written, then the connection ends. */
ssize_t ws_upgrade(struct ws *w, const char *in, size_t len);

struct ws_piece {
    char *p;
    size_t len; /* 0: nothing for MQTT in what was taken */
};
/* Takes from data, which it unmasks in place: at most up to the end of a frame. The bytes that it
 * took; -EPROTO: not WebSocket, or no binary data; -ESHUTDOWN: the peer has closed. With either
 * error its Close frame waits to be written. */
ssize_t ws_decode(struct ws *w, char *data, size_t len, struct ws_piece *piece);

/* Makes one frame of *out, which it empties; then a Close, once, if `last`. */
void ws_wrap(struct ws *w, struct cw_buf *out, bool last);
/* What waits to be written. */
struct cw_buf *ws_wire(struct ws *w);

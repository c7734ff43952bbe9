#include "services/mqtt-gateway/ws.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/http_parse.h"

#define GUID        "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455, 1.3 */
#define KEY_CHARS   24                                     /* base64 of 16 bytes */
#define CONTROL_MAX 125

enum opcode { OP_CONTINUATION, OP_TEXT, OP_BINARY, OP_CLOSE = 8, OP_PING, OP_PONG };

struct ws {
    struct cw_buf wire;
    uint64_t left; /* of the frame at hand */
    uint8_t head[14], n_head;
    uint8_t mask[4], mask_at;
    uint8_t opcode;
    uint8_t n_control, control[CONTROL_MAX];
    bool open;       /* the handshake is done */
    bool in_frame;   /* the head has been read */
    bool final;      /* no fragment follows the frame at hand */
    bool in_message; /* a fragment must follow */
    bool closed;     /* our Close is in wire */
};

struct ws *ws_new(void) { return cw_calloc(1, sizeof(struct ws)); }

void ws_free(struct ws **w)
{
    if (*w)
        cw_buf_free(&(*w)->wire);
    free(*w);
    *w = NULL;
}

struct cw_buf *ws_wire(struct ws *w) { return &w->wire; }

/* ---- the handshake */

/* A comma-separated list has this word, in any case. */
static bool lists(const char *list, const char *word)
{
    size_t n = strlen(word);
    while (list && *list) {
        list += strspn(list, ", \t");
        size_t len = strcspn(list, ", \t");
        if (len == n && strncasecmp(list, word, n) == 0)
            return true;
        list += len;
    }
    return false;
}

struct refusal {
    const char *status, *more, *text;
};

static struct refusal wrong_in(const struct cw_http_head *h)
{
    static const char upgrade[] = "Upgrade: websocket\r\n";
    static const char version[] = "Sec-WebSocket-Version: 13\r\n";
    const char *key = cw_http_field(h, "Sec-WebSocket-Key");
    const char *protocols = cw_http_field(h, "Sec-WebSocket-Protocol");
    const char *v = cw_http_field(h, "Sec-WebSocket-Version");
    if (strcmp(h->path, "/mqtt") != 0 && strcmp(h->path, "/") != 0)
        return (struct refusal){ "404 Not Found", "", "MQTT is at /mqtt." };
    if (strcmp(h->method, "GET") != 0 || h->body_bytes || h->chunked || h->http_1_0)
        return (struct refusal){ "400 Bad Request", "",
                                 "Ask with GET and HTTP/1.1, without body." };
    if (!lists(cw_http_field(h, "Upgrade"), "websocket") ||
        !lists(cw_http_field(h, "Connection"), "Upgrade"))
        return (struct refusal){ "426 Upgrade Required", upgrade,
                                 "This port speaks MQTT over WebSocket only." };
    if (!v || strcmp(v, "13") != 0)
        return (struct refusal){ "426 Upgrade Required", version, "Only version 13 is spoken." };
    if (!key || strlen(key) != KEY_CHARS)
        return (struct refusal){ "400 Bad Request", "", "Sec-WebSocket-Key: 24 characters." };
    if (!lists(protocols, "mqtt") && !lists(protocols, "mqttv3.1"))
        return (struct refusal){ "400 Bad Request", "",
                                 "Sec-WebSocket-Protocol: mqtt is missing." };
    return (struct refusal){ 0 };
}

static ssize_t refuse(struct ws *w, const struct refusal *r)
{
    cw_buf_printf(&w->wire,
                  "HTTP/1.1 %s\r\n%sContent-Type: text/plain\r\nContent-Length: %zu\r\n"
                  "Connection: close\r\n\r\n%s\n",
                  r->status, r->more, strlen(r->text) + 1, r->text);
    return -EPROTO;
}

static void accept_key(char out[32], const char *key)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    char text[KEY_CHARS + sizeof GUID];
    int len = snprintf(text, sizeof text, "%.*s%s", KEY_CHARS, key, GUID);
    EVP_Digest(text, (size_t)len, digest, &n, EVP_sha1(), NULL);
    EVP_EncodeBlock((unsigned char *)out, digest, (int)n);
}

static void accept(struct ws *w, const struct cw_http_head *h)
{
    char key[32];
    accept_key(key, cw_http_field(h, "Sec-WebSocket-Key"));
    cw_buf_printf(
        &w->wire,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
        key, lists(cw_http_field(h, "Sec-WebSocket-Protocol"), "mqtt") ? "mqtt" : "mqttv3.1");
    w->open = true;
}

ssize_t ws_upgrade(struct ws *w, const char *in, size_t len)
{
    struct cw_http_head head = { 0 };
    const char *why = "", *end = memmem(in, len, "\r\n\r\n", 4);
    if (!end && len < WS_HEAD_MAX_BYTES)
        return 0;
    size_t size = end ? (size_t)(end - in) + 4 : 0;
    if (size == 0 || size > WS_HEAD_MAX_BYTES)
        return refuse(w, &(struct refusal){ "431 Request Header Fields Too Large", "",
                                            "The head has more than 8192 bytes." });
    struct refusal no = { "400 Bad Request", "", NULL };
    if (cw_http_parse_head(&head, in, size, &why) != 0)
        no.text = why;
    else
        no = wrong_in(&head);
    if (!no.text)
        accept(w, &head);
    ssize_t rc = no.text ? refuse(w, &no) : (ssize_t)size;
    cw_http_head_free(&head);
    return rc;
}

/* ---- frames to the peer: never masked */

static void put_head(struct cw_buf *to, enum opcode op, uint64_t len)
{
    uint8_t b[10] = { (uint8_t)(0x80 | op) };
    size_t n = 2;
    if (len < 126)
        b[1] = (uint8_t)len;
    else {
        int bytes = len < 65536 ? 2 : 8;
        b[1] = bytes == 2 ? 126 : 127;
        for (int i = bytes - 1; i >= 0; i--)
            b[n++] = (uint8_t)(len >> (8 * i));
    }
    cw_buf_add(to, b, n);
}

static void put_close(struct ws *w, unsigned code)
{
    if (w->closed)
        return;
    w->closed = true;
    put_head(&w->wire, OP_CLOSE, 2);
    cw_buf_add(&w->wire, (uint8_t[]){ (uint8_t)(code >> 8), (uint8_t)code }, 2);
}

void ws_wrap(struct ws *w, struct cw_buf *out, bool last)
{
    if (out->len && w->open && !w->closed) {
        put_head(&w->wire, OP_BINARY, out->len);
        cw_buf_add(&w->wire, out->data, out->len);
    }
    cw_buf_reset(out);
    if (last && w->open)
        put_close(w, WS_NORMAL);
}

/* ---- frames of the peer */

static ssize_t end(struct ws *w, unsigned code, int rc)
{
    put_close(w, code);
    return rc;
}

static bool is_control(uint8_t opcode) { return opcode & 8; }

/* The first two bytes (5.2); 0 or the code to close with. */
static unsigned check_start(const struct ws *w)
{
    uint8_t op = w->head[0] & 15, len = w->head[1] & 127;
    bool final = w->head[0] & 0x80;
    if ((w->head[0] & 0x70) || !(w->head[1] & 0x80))
        return WS_PROTOCOL; /* no extension was agreed on; a client masks */
    if (op == OP_TEXT)
        return WS_UNSUPPORTED; /* MQTT 5, 6: binary only */
    if (op > OP_PONG || (op > OP_BINARY && op < OP_CLOSE))
        return WS_PROTOCOL;
    if (is_control(op))
        return final && len <= CONTROL_MAX ? 0 : WS_PROTOCOL;
    return (op == OP_CONTINUATION) == w->in_message ? 0 : WS_PROTOCOL;
}

static size_t head_size(const struct ws *w)
{
    uint8_t len = w->n_head < 2 ? 0 : w->head[1] & 127;
    return w->n_head < 2 ? 2 : 2 + (len == 126 ? 2 : len == 127 ? 8 : 0) + 4;
}

/* The head is whole. Lengths are in their shortest form. */
static unsigned begin(struct ws *w)
{
    uint8_t len = w->head[1] & 127, bytes = len == 126 ? 2 : len == 127 ? 8 : 0;
    w->left = bytes ? 0 : len;
    for (size_t i = 0; i < bytes; i++)
        w->left = w->left << 8 | w->head[2 + i];
    memcpy(w->mask, w->head + 2 + bytes, 4);
    w->mask_at = w->n_control = 0;
    w->opcode = w->head[0] & 15;
    w->final = w->head[0] & 0x80;
    w->in_frame = true;
    w->n_head = 0;
    if ((bytes == 2 && w->left < 126) || (bytes == 8 && (w->left < 65536 || w->left >> 63)))
        return WS_PROTOCOL;
    return 0;
}

/* Bytes taken into the head; a code to close with in *code. */
static size_t take_head(struct ws *w, const char *data, size_t len, unsigned *code)
{
    size_t used = 0;
    while (used < len && !*code && !w->in_frame) {
        w->head[w->n_head++] = (uint8_t)data[used++];
        if (w->n_head == 2)
            *code = check_start(w);
        if (!*code && w->n_head == head_size(w))
            *code = begin(w);
    }
    return used;
}

static void unmask(struct ws *w, char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(p[i] ^ (char)w->mask[w->mask_at++ & 3]);
}

/* 0, or how it ends. */
static ssize_t frame_over(struct ws *w)
{
    w->in_frame = false;
    if (!is_control(w->opcode))
        w->in_message = !w->final;
    if (w->opcode == OP_PING && !w->closed) {
        put_head(&w->wire, OP_PONG, w->n_control);
        cw_buf_add(&w->wire, w->control, w->n_control);
    }
    if (w->opcode == OP_CLOSE)
        return w->n_control == 1 ? end(w, WS_PROTOCOL, -EPROTO) : end(w, WS_NORMAL, -ESHUTDOWN);
    return 0;
}

ssize_t ws_decode(struct ws *w, char *data, size_t len, struct ws_piece *piece)
{
    unsigned code = 0;
    *piece = (struct ws_piece){ 0 };
    size_t used = take_head(w, data, len, &code);
    if (code)
        return end(w, code, -EPROTO);
    size_t n = len - used < w->left ? len - used : (size_t)w->left;
    if (!w->in_frame)
        return (ssize_t)used;
    unmask(w, data + used, n);
    if (is_control(w->opcode)) {
        memcpy(w->control + w->n_control, data + used, n);
        w->n_control = (uint8_t)(w->n_control + n);
    } else
        *piece = (struct ws_piece){ data + used, n };
    w->left -= n;
    ssize_t rc = w->left ? 0 : frame_over(w);
    return rc < 0 ? rc : (ssize_t)(used + n);
}

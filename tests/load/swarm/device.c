/* device.c - one connection: opening, reading, writing, its end. */
#include "swarm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES 16384
#define PER_SOURCE 20000 /* connections of one source address: below the ephemeral ports */

static void watch(struct swarm *w, struct device *d, bool write)
{
    struct epoll_event ev = { .events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = d };
    if (write != d->want_write)
        epoll_ctl(w->epoll, EPOLL_CTL_MOD, d->fd, &ev);
    d->want_write = write;
}

static void forget_window(struct swarm *w, struct device *d)
{
    for (uint64_t i = 0; i <= w->slot_mask && d->slots; i++)
        d->slots[i].packet_id = 0;
    w->outstanding -= d->outstanding;
    d->outstanding = 0;
}

void device_ended(struct swarm *w, struct device *d)
{
    enum state was = d->state;
    tls_end(w, d);
    close(d->fd);
    d->fd = -1;
    d->in_len = d->out_len = 0;
    d->want_write = false;
    if (was == DEV_TCP || was == DEV_TLS || was == DEV_CONNACK)
        w->connecting--;
    if (was == DEV_UP)
        w->up--;
    if (w->o.reconnect && !w->stopping) {
        w->stats.abandoned += d->outstanding;
        forget_window(w, d);
        d->state = DEV_IDLE;
        d->retry_us = now_us() + (d->tries < 5 ? 50000LL << d->tries : 1000000LL);
        d->tries++;
        return;
    }
    d->state = DEV_ENDED;
    w->ended++;
}

static void lost(struct swarm *w, struct device *d)
{
    if (d->state == DEV_UP)
        w->stats.lost++;
    else
        w->stats.failed++;
    device_ended(w, d);
}

static void bind_source(const struct swarm *w, int fd, const struct device *d)
{
    size_t index = d - w->devices;
    struct sockaddr_in from = { .sin_family = AF_INET };
    size_t source = w->o.sources > 1 ? index % w->o.sources : index / PER_SOURCE;
    if (strncmp(w->o.host, "127.", 4) || !source)
        return;
    from.sin_addr.s_addr = htonl(0x7f000001 + source);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){ 1 }, sizeof(int));
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0)
        perror("swarm: bind to another address of loopback");
}

void device_connect(struct swarm *w, struct device *d)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(w->o.port) };
    struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT, .data.ptr = d };
    inet_pton(AF_INET, w->o.host, &to.sin_addr);
    d->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (d->fd < 0) {
        perror("swarm: socket");
        exit(SWARM_REFUSED);
    }
    setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    bind_source(w, d->fd, d);
    d->state = DEV_TCP;
    d->want_write = true;
    d->connect_us = now_us();
    w->connecting++;
    if (connect(d->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        lost(w, d);
        return;
    }
    epoll_ctl(w->epoll, EPOLL_CTL_ADD, d->fd, &ev);
}

void device_flush(struct swarm *w, struct device *d)
{
    size_t done = 0;
    while (done < d->out_len) {
        ssize_t n = io_send(d, d->out + done, d->out_len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            lost(w, d);
            return;
        }
        if (n < 0)
            break;
        done += n;
    }
    memmove(d->out, d->out + done, d->out_len - done);
    d->out_len -= done;
    w->stats.bytes_out += done;
    d->out_us = done ? now_us() : d->out_us;
    watch(w, d, d->out_len > 0);
}

/* Takes every whole packet off d->in; false: the connection ended meanwhile. */
static bool take_packets(struct swarm *w, struct device *d)
{
    size_t at = 0;
    while (d->fd >= 0 && at < d->in_len) {
        struct packet p;
        long used = mqtt_next(d, d->in + at, d->in_len - at, &p);
        if (used < 0)
            lost(w, d);
        if (used <= 0)
            break;
        device_packet(w, d, &p);
        at += used;
    }
    if (d->fd < 0)
        return false;
    memmove(d->in, d->in + at, d->in_len - at);
    d->in_len -= at;
    return true;
}

static void on_readable(struct swarm *w, struct device *d)
{
    ssize_t n;
    do {
        if (d->in_size - d->in_len < READ_BYTES)
            d->in = realloc(d->in, d->in_size += READ_BYTES);
        if (!d->in)
            abort();
        n = io_recv(d, d->in + d->in_len, d->in_size - d->in_len);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            lost(w, d);
            return;
        }
        d->in_len += n > 0 ? n : 0;
        if (!take_packets(w, d))
            return;
    } while (n > 0 && d->ssl && SSL_has_pending(d->ssl));
    if (!w->o.rate)
        device_fill(w, d);
    device_flush(w, d);
}

static void say_connect(struct swarm *w, struct device *d)
{
    d->state = DEV_CONNACK;
    d->mqtt5 = w->o.mqtt5;
    d->ws = w->o.ws;
    if (d->ws)
        mqtt_upgrade(d, &w->o);
    mqtt_connect(d, &w->o);
    device_flush(w, d);
}

static void on_opened(struct swarm *w, struct device *d)
{
    int error = 0;
    getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){ sizeof error });
    if (error) {
        lost(w, d);
    } else if (w->o.tls) {
        d->state = DEV_TLS;
        tls_begin(w, d);
    } else {
        say_connect(w, d);
    }
}

static void on_handshake(struct swarm *w, struct device *d)
{
    bool write = false;
    int done = tls_handshake(w, d, &write);
    if (done < 0)
        lost(w, d);
    else if (done)
        say_connect(w, d);
    else
        watch(w, d, write);
}

void device_event(struct swarm *w, struct device *d, uint32_t events)
{
    if (d->fd >= 0 && d->state == DEV_TCP && events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        on_opened(w, d);
    if (d->fd >= 0 && d->state == DEV_TLS)
        on_handshake(w, d);
    if (d->fd < 0 || d->state == DEV_TCP || d->state == DEV_TLS)
        return;
    if (events & EPOLLOUT)
        device_flush(w, d);
    if (d->fd >= 0 && events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        on_readable(w, d);
}

void device_churn(struct swarm *w, struct device *d)
{
    if (d->state != DEV_UP)
        return;
    w->stats.churned++;
    device_ended(w, d);
}

void device_disconnect(struct swarm *w, struct device *d)
{
    if (d->state == DEV_UP) {
        mqtt_plain(d, 0xe0);
        device_flush(w, d);
    }
    tls_end(w, d);
    if (d->fd >= 0)
        close(d->fd);
    d->fd = -1;
}

void device_keep_alive(struct swarm *w, struct device *d, int64_t now)
{
    if (d->state != DEV_UP || now - d->out_us < w->o.keep_alive_s * 500000LL)
        return;
    mqtt_plain(d, 0xc0);
    device_flush(w, d);
}

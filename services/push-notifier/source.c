#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/util.h>

#include "services/push-notifier/notifier.h"

/* Connecting a datagram socket sends nothing: it asks the routes. */
static void add(json_t *list, const char *far)
{
    struct sockaddr_storage at = { 0 };
    int len = sizeof at;
    char text[INET6_ADDRSTRLEN];
    if (evutil_parse_sockaddr_port(far, (struct sockaddr *)&at, &len) < 0)
        return;
    int fd = socket(at.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t n = sizeof at;
    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, (socklen_t)len) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &n) == 0) {
        const void *p = at.ss_family == AF_INET
                            ? (const void *)&((struct sockaddr_in *)&at)->sin_addr
                            : (const void *)&((struct sockaddr_in6 *)&at)->sin6_addr;
        if (inet_ntop(at.ss_family, p, text, sizeof text))
            json_array_append_new(list, json_string(text));
    }
    if (fd >= 0)
        close(fd);
}

void sources_of_routes(json_t *list)
{
    add(list, "192.0.2.1:9"); /* RFC 5737 and 3849: addresses that nobody has */
    add(list, "[2001:db8::1]:9");
}

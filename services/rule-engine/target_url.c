#include "services/rule-engine/target_url.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct parts {
    const char *scheme; /* "http" or "https" */
    char host[256];     /* with the brackets of an IPv6 address */
    char port[8];       /* "" without */
    const char *path;   /* "" without */
};

static bool port_ok(const char *p)
{
    size_t len = strlen(p);
    return len >= 1 && len <= 5 && strspn(p, "0123456789") == len && atoi(p) >= 1 &&
           atoi(p) <= 65535;
}

static bool host_ok(const char *host)
{
    char inner[256];
    struct in6_addr v6;
    size_t len = strlen(host);
    if (host[0] == '[') {
        if (len < 4 || host[len - 1] != ']')
            return false;
        snprintf(inner, sizeof inner, "%.*s", (int)len - 2, host + 1);
        return inet_pton(AF_INET6, inner, &v6) == 1;
    }
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr(".-_", host[i]))
            return false;
    return len > 0 && len <= 253 && host[0] != '.' && host[0] != '-';
}

/* Takes "host" or "host:port" of n bytes apart. */
static bool split_authority(struct parts *out, const char *at, size_t n)
{
    const char *close = at[0] == '[' ? memchr(at, ']', n) : NULL;
    const char *from = close ? close : at;
    const char *colon = memchr(from, ':', n - (size_t)(from - at));
    size_t host_len = colon ? (size_t)(colon - at) : n;
    size_t port_len = colon ? n - host_len - 1 : 0;
    if (host_len >= sizeof out->host || port_len >= sizeof out->port)
        return false;
    snprintf(out->host, sizeof out->host, "%.*s", (int)host_len, at);
    snprintf(out->port, sizeof out->port, "%.*s", (int)port_len, colon ? colon + 1 : "");
    return !colon || port_len > 0;
}

static bool denied(const char *host, const struct cw_cidr_list *deny)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
    char inner[256];
    if (!deny)
        return false;
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1)
        return cw_cidr_has(deny, (const struct sockaddr *)&v4);
    snprintf(inner, sizeof inner, "%.*s", host[0] == '[' ? (int)strlen(host) - 2 : 0, host + 1);
    return inet_pton(AF_INET6, inner, &v6.sin6_addr) == 1 &&
           cw_cidr_has(deny, (const struct sockaddr *)&v6);
}

static const char *scheme_of(const char *url, const char **rest)
{
    if (strncasecmp(url, "https://", 8) == 0) {
        *rest = url + 8;
        return "https";
    }
    if (strncasecmp(url, "http://", 7) == 0) {
        *rest = url + 7;
        return "http";
    }
    return NULL;
}

static const char *wrong_part(const struct parts *p)
{
    if (!*p->port)
        return "The port is missing";
    if (!port_ok(p->port))
        return "The port is not a number from 1 to 65535";
    return *p->path == '/' ? NULL : "The path is missing";
}

int target_url_check(const char *url, const struct cw_cidr_list *deny, char *why, size_t size)
{
    struct parts p = { 0 };
    const char *rest = NULL;
    for (const char *c = url; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f || *c == '\\') {
            snprintf(why, size, "Character %d is not allowed in a URL; write it as %%XX",
                     (int)(c - url) + 1);
            return -EINVAL;
        }
    if (!(p.scheme = scheme_of(url, &rest))) {
        snprintf(why, size, "The scheme is not http or https (https://app.example:9443/in)");
        return -EINVAL;
    }
    size_t n = strcspn(rest, "/?#");
    p.path = rest + n;
    if (memchr(rest, '@', n)) {
        snprintf(why, size, "A user name in the URL is not possible; use the token");
        return -EINVAL;
    }
    bool split = n > 0 && split_authority(&p, rest, n);
    if (!*p.host || !host_ok(p.host)) {
        snprintf(why, size, "The host is not a name, an IPv4 address or [IPv6 address]");
        return -EINVAL;
    }
    if (strchr(p.path, '#')) {
        snprintf(why, size, "A fragment (#) is never sent; leave it out");
        return -EINVAL;
    }
    const char *wrong = split ? wrong_part(&p) : "The port is missing";
    if (wrong) {
        snprintf(why, size, "%s: write for example %s://%s:%s%s%s", wrong, p.scheme, p.host,
                 port_ok(p.port)                  ? p.port
                 : strcmp(p.scheme, "https") == 0 ? "443"
                                                  : "80",
                 *p.path == '/' ? "" : "/", p.path);
        return -EINVAL;
    }
    if (denied(p.host, deny)) {
        snprintf(why, size, "The address %s is not allowed as a target", p.host);
        return -EINVAL;
    }
    return 0;
}

int target_name_check(const char *name, char *why, size_t size)
{
    struct parts p = { 0 };
    if (*name && split_authority(&p, name, strlen(name)) && host_ok(p.host) &&
        (!*p.port || port_ok(p.port)))
        return 0;
    snprintf(why, size, "It is not host:port (app.example:9443)");
    return -EINVAL;
}

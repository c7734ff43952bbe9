#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/cidr.h"

/* IPv4 is kept as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2): one way of comparing, no way around. */
struct cidr {
    uint8_t address[16];
    unsigned bits;
};
struct cw_cidr_list {
    struct cidr *rows;
    size_t n;
};

static void map_v4(uint8_t out[16], const void *v4)
{
    memset(out, 0, 10);
    out[10] = out[11] = 0xff;
    memcpy(out + 12, v4, 4);
}

static int parse_one(struct cidr *c, const char *text)
{
    char address[INET6_ADDRSTRLEN + 1];
    struct in_addr v4;
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    char *end = NULL;
    if (len == 0 || len >= sizeof address)
        return -EINVAL;
    memcpy(address, text, len);
    address[len] = '\0';
    unsigned width = 128, offset = 0;
    if (inet_pton(AF_INET, address, &v4) == 1) {
        map_v4(c->address, &v4);
        width = 32, offset = 96;
    } else if (inet_pton(AF_INET6, address, c->address) != 1) {
        return -EINVAL;
    }
    unsigned long bits = slash ? strtoul(slash + 1, &end, 10) : width;
    if (slash && (end == slash + 1 || *end || slash[1] < '0' || slash[1] > '9' || bits > width))
        return -EINVAL;
    c->bits = (unsigned)bits + offset;
    return 0;
}

int cw_cidr_parse(struct cw_cidr_list **out, const char *text, char *err, size_t size)
{
    struct cw_cidr_list *list = cw_calloc(1, sizeof *list);
    char *copy = cw_strdup(text ? text : ""), *save = NULL;
    int rc = 0;
    for (char *p = strtok_r(copy, ", \t", &save); p && rc == 0; p = strtok_r(NULL, ", \t", &save)) {
        list->rows = cw_realloc(list->rows, (list->n + 1) * sizeof *list->rows);
        rc = parse_one(&list->rows[list->n++], p);
        if (rc < 0)
            snprintf(err, size, "\"%s\" is not a network (10.0.0.0/8, fd00::/8)", p);
    }
    free(copy);
    if (rc < 0)
        cw_cidr_free(&list);
    *out = list;
    return rc;
}

static bool within(const struct cidr *c, const uint8_t address[16])
{
    unsigned whole = c->bits / 8, rest = c->bits % 8;
    uint8_t mask = (uint8_t)(0xff00U >> rest);
    return memcmp(c->address, address, whole) == 0 &&
           (rest == 0 || ((c->address[whole] ^ address[whole]) & mask) == 0);
}

bool cw_cidr_has(const struct cw_cidr_list *list, const struct sockaddr *address)
{
    uint8_t bytes[16];
    if (address->sa_family == AF_INET)
        map_v4(bytes, &((const struct sockaddr_in *)(const void *)address)->sin_addr);
    else if (address->sa_family == AF_INET6)
        memcpy(bytes, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
    else
        return true; /* no family that we know */
    for (size_t i = 0; i < list->n; i++)
        if (within(&list->rows[i], bytes))
            return true;
    return false;
}

void cw_cidr_free(struct cw_cidr_list **list)
{
    if (!*list)
        return;
    free((*list)->rows);
    free(*list);
    *list = NULL;
}

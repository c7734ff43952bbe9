/* known.h - what identity has told about users and access keys, kept for seconds. Loop thread only.
 *
 * A principal is kept 5 s, the secret of an access key 60 s, an unknown one 5 s; all of it goes
 * when identity says that rights have changed, and when NATS reconnects. Questions for the same
 * thing are asked once. */
#pragma once

#include <sys/queue.h>

#include "libcommon/util.h"

struct cw_app;
struct known_cache;

enum known_kind { KNOWN_USER, KNOWN_ACCESS_KEY };

struct known_waiter;
struct known {
    LIST_ENTRY(known) link;
    STAILQ_HEAD(, known_waiter) waiters;
    struct known_cache *cache;
    enum known_kind kind;
    char *id;
    bool loading, found;
    int64_t until_ms;
    /* of an access key; the last three of a temporary one: expires_ms 0, token_hash "" and NULL */
    char *user_id, *secret;
    int64_t expires_ms;
    char *token_hash;
    struct json_t *policy;
    /* of a user */
    char *user_name, *domain_id, *domain_name;
    int64_t generation;
    bool enabled;
    struct json_t *grants; /* [{project_id, policy}] */
    char **projects;
    size_t n_projects;
};

/* k is borrowed for the call. rc 0; -ENOENT: no such user or key; -EAGAIN: too many entries;
 * others: identity is away. */
typedef void known_fn(int rc, const struct known *k, void *arg);
/* id: of a user, or an access key. cb runs once, perhaps before this returns, after 5 s at the
 * latest. */
void known_get(struct known_cache *cache, enum known_kind kind, const char *id, known_fn *cb,
               void *arg);
/* True if the project is one of the user's account. */
bool known_has_project(const struct known *user, const char *project_id);

/* For 20,000 users and keys; what is unknown makes room for others first. Never NULL. */
struct known_cache *known_open(struct cw_app *app);
void known_close(struct known_cache **cache); /* who waits gets -ENOTCONN */

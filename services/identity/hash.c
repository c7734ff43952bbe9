#include "services/identity/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <event2/event.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "libcommon/crypto.h"
#include "libcommon/ids.h"
#include "libcommon/log.h"

#define LOG2_N     14
#define SALT_LEN   16
#define KEY_LEN    32
#define MEMORY     (64ULL << 20)
#define HELPER_FD  3
#define RESTART_MS 200

extern char **environ;

struct question {
    char password[PASSWORD_MAX + 1];
    char hash[HASH_LEN]; /* empty: make one */
};
struct answer {
    bool ok;
    char hash[HASH_LEN];
};

/* ---- the helper's side */

static bool derive(uint8_t out[KEY_LEN], const char *password, const uint8_t *salt, int log2_n)
{
    return EVP_PBE_scrypt(password, strlen(password), salt, SALT_LEN, 1ULL << log2_n, 8, 1, MEMORY,
                          out, KEY_LEN) == 1;
}

void hash_password(char out[HASH_LEN], const char *password)
{
    uint8_t salt[SALT_LEN], key[KEY_LEN];
    char salt_hex[2 * SALT_LEN + 1], key_hex[2 * KEY_LEN + 1];
    cw_random(salt, sizeof salt);
    if (!derive(key, password, salt, LOG2_N))
        abort();
    snprintf(out, HASH_LEN, "scrypt.%d.%s.%s", LOG2_N, cw_hex(salt_hex, salt, sizeof salt),
             cw_hex(key_hex, key, sizeof key));
}

bool hash_matches(const char *hash, const char *password)
{
    uint8_t salt[SALT_LEN], want[KEY_LEN], got[KEY_LEN];
    char salt_hex[2 * SALT_LEN + 1], key_hex[2 * KEY_LEN + 1];
    int log2_n;
    return sscanf(hash, "scrypt.%d.%32[0-9a-f].%64[0-9a-f]", &log2_n, salt_hex, key_hex) == 3 &&
           log2_n > 0 && log2_n <= 15 &&
           cw_unhex(salt, sizeof salt, salt_hex, strlen(salt_hex)) == 0 &&
           cw_unhex(want, sizeof want, key_hex, strlen(key_hex)) == 0 &&
           derive(got, password, salt, log2_n) && cw_equal(got, sizeof got, want, sizeof want);
}

int hash_helper(void)
{
    struct question q;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); /* Ctrl-C goes to the whole group: the parent decides */
    signal(SIGTERM, SIG_IGN);
    while (recv(HELPER_FD, &q, sizeof q, 0) == (ssize_t)sizeof q) {
        struct answer a = { 0 };
        if (*q.hash)
            a.ok = hash_matches(q.hash, q.password);
        else {
            hash_password(a.hash, q.password);
            a.ok = true;
        }
        OPENSSL_cleanse(&q, sizeof q);
        if (send(HELPER_FD, &a, sizeof a, MSG_NOSIGNAL) < 0)
            break;
    }
    return 0;
}

/* ---- the daemon's side */

struct waiting {
    STAILQ_ENTRY(waiting) link;
    struct question q;
    hash_fn *cb;
    void *arg;
};

struct hasher {
    struct event_base *base;
    struct event *read, *restart;
    int fd;
    pid_t pid;
    bool asked; /* the first of the queue is with the helper */
    STAILQ_HEAD(, waiting) queue;
    unsigned n;
};

static void waiting_free(struct waiting *w)
{
    OPENSSL_cleanse(&w->q, sizeof w->q);
    free(w);
}

static void helper_end(struct hasher *h)
{
    if (h->read)
        event_free(h->read);
    h->read = NULL;
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
    h->asked = false;
    if (h->pid > 0) {
        kill(h->pid, SIGKILL);
        waitpid(h->pid, NULL, 0);
    }
    h->pid = 0;
}

static void restart_later(struct hasher *h)
{
    static const struct timeval soon = { 0, RESTART_MS * 1000L };
    helper_end(h);
    evtimer_add(h->restart, &soon);
}

static void ask_next(struct hasher *h)
{
    struct waiting *w = STAILQ_FIRST(&h->queue);
    if (!w || h->asked || h->fd < 0)
        return;
    if (send(h->fd, &w->q, sizeof w->q, MSG_NOSIGNAL) != (ssize_t)sizeof w->q) {
        restart_later(h);
        return;
    }
    h->asked = true;
}

static void on_helper(evutil_socket_t fd, short what, void *arg)
{
    struct hasher *h = arg;
    struct answer a;
    (void)what;
    ssize_t n = recv(fd, &a, sizeof a, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != (ssize_t)sizeof a || !h->asked) {
        cw_log(CW_ERROR, "hash_helper_lost", "waiting=%u", h->n);
        restart_later(h);
        return;
    }
    struct waiting *w = STAILQ_FIRST(&h->queue);
    STAILQ_REMOVE_HEAD(&h->queue, link);
    h->n--;
    h->asked = false;
    ask_next(h);
    w->cb(a.ok, a.hash, w->arg);
    waiting_free(w);
}

static int spawn(struct hasher *h, int child_fd)
{
    posix_spawn_file_actions_t actions;
    char *argv[] = { "identity", "--hash-helper", NULL };
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, child_fd, HELPER_FD);
    int rc = posix_spawn(&h->pid, "/proc/self/exe", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return -rc;
}

static void helper_start(struct hasher *h)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        restart_later(h);
        return;
    }
    /* dup2 onto itself would leave close-on-exec set */
    int child = fcntl(pair[1], F_DUPFD_CLOEXEC, HELPER_FD + 1);
    close(pair[1]);
    int rc = child < 0 ? -errno : spawn(h, child);
    if (child >= 0)
        close(child);
    h->fd = pair[0];
    if (rc < 0) {
        cw_log(CW_ERROR, "hash_helper_failed", "reason=\"%s\"", strerror(-rc));
        h->pid = 0;
        restart_later(h);
        return;
    }
    h->read = event_new(h->base, h->fd, EV_READ | EV_PERSIST, on_helper, h);
    event_add(h->read, NULL);
    ask_next(h);
}

static void on_restart(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    helper_start(arg);
}

int hasher_ask(struct hasher *h, const char *password, const char *hash, hash_fn *cb, void *arg)
{
    if (strlen(password) > PASSWORD_MAX || (hash && strlen(hash) >= HASH_LEN))
        return -EINVAL;
    if (h->n == HASH_QUEUE)
        return -EAGAIN;
    struct waiting *w = cw_calloc(1, sizeof *w);
    strcpy(w->q.password, password);
    strcpy(w->q.hash, hash ? hash : "");
    w->cb = cb;
    w->arg = arg;
    STAILQ_INSERT_TAIL(&h->queue, w, link);
    h->n++;
    ask_next(h);
    return 0;
}

struct hasher *hasher_open(struct event_base *base)
{
    struct hasher *h = cw_calloc(1, sizeof *h);
    h->base = base;
    h->fd = -1;
    h->restart = evtimer_new(base, on_restart, h);
    STAILQ_INIT(&h->queue);
    helper_start(h);
    return h;
}

void hasher_close(struct hasher **out)
{
    struct hasher *h = *out;
    struct waiting *w;
    if (!h)
        return;
    helper_end(h);
    event_free(h->restart);
    while ((w = STAILQ_FIRST(&h->queue))) {
        STAILQ_REMOVE_HEAD(&h->queue, link);
        waiting_free(w);
    }
    free(h);
    *out = NULL;
}

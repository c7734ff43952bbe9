/* servers.h - real servers for a unit test: private folder, free port on loopback, gone at the end.
 */
#pragma once

#include <arpa/inet.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERVER_PATH_LEN 96

struct server {
    pid_t pid;
    int port;
    const struct passwd *user; /* NULL: ours */
    char dir[SERVER_PATH_LEN];
};

static inline int free_port(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, len) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) < 0)
        abort();
    close(fd);
    return ntohs(at.sin_port);
}

/* SIGSTOP, over when all its threads stand still: what is sent from now on it has not seen. */
static inline void child_freeze(pid_t pid)
{
    int status;
    kill(pid, SIGSTOP);
    if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status))
        abort();
}

/* Waits until something accepts on the port; false when the process dies or after 20 s. */
static inline bool wait_for_port(const struct server *s)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)s->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    for (int i = 0; i < 2000; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0),
            rc = connect(fd, (struct sockaddr *)&at, sizeof at);
        close(fd);
        if (rc == 0)
            return true;
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid)
            break;
        usleep(10000);
    }
    return false;
}

static inline void server_spawn(struct server *s, const char *const *argv)
{
    s->pid = fork();
    if (s->pid < 0)
        abort();
    if (s->pid == 0) {
        if (s->user && (setgid(s->user->pw_gid) < 0 || setuid(s->user->pw_uid) < 0))
            _exit(125);
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that crashes leaves nothing behind */
        if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
            _exit(126);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
}

static inline void server_exec(struct server *s, const char *const *argv)
{
    /* a killed postmaster's children hold its shared memory for a moment: then it is tried again */
    for (int i = 0; i < 20; i++) {
        server_spawn(s, argv);
        if (wait_for_port(s))
            return;
        usleep(100000);
    }
    fprintf(stderr, "%s does not come up on port %d\n", argv[0], s->port);
    abort();
}

static inline void nats_run(struct server *s)
{
    char port[8], config[SERVER_PATH_LEN + 16];
    snprintf(port, sizeof port, "%d", s->port);
    snprintf(config, sizeof config, "%s/nats.conf", s->dir);
    FILE *f = fopen(config, "w"); /* there is no flag for it */
    if (!f || fputs("max_payload: 8MB\n", f) < 0 || fclose(f) != 0)
        abort();
    server_exec(s, (const char *const[]){ "nats-server", "-c", config, "-a", "127.0.0.1", "-p",
                                          port, "-js", "-sd", s->dir, NULL });
}

static inline void nats_start(struct server *s)
{
    strcpy(s->dir, "/tmp/cw-nats-XXXXXX");
    if (!mkdtemp(s->dir))
        abort();
    s->port = free_port();
    nats_run(s);
}

#define PG_BIN "/usr/lib/postgresql/15/bin/"

static inline void pg_run(struct server *s)
{
    char port[8];
    snprintf(port, sizeof port, "%d", s->port);
    server_exec(s, (const char *const[]){ PG_BIN "postgres", "-D", s->dir, "-p", port, "-h",
                                          "127.0.0.1", "-k", "", NULL });
    char ask[128]; /* it listens before it has recovered */
    snprintf(ask, sizeof ask, "until %spg_isready -qh 127.0.0.1 -p %d; do sleep 0.02; done", PG_BIN,
             s->port);
    if (system(ask) != 0)
        abort();
}

/* PostgreSQL refuses to run as root: then as user postgres. Superuser postgres, trusted. */
static inline void pg_start(struct server *s)
{
    int status;
    strcpy(s->dir, "/tmp/cw-pg-XXXXXX");
    if (!mkdtemp(s->dir))
        abort();
    if (geteuid() == 0) {
        s->user = getpwnam("postgres");
        if (!s->user || chown(s->dir, s->user->pw_uid, s->user->pw_gid) < 0)
            abort();
    }
    server_spawn(s, (const char *const[]){ PG_BIN "initdb", "-D", s->dir, "-U", "postgres", "-A",
                                           "trust", "-N", "--no-locale", "-E", "UTF8", NULL });
    if (waitpid(s->pid, &status, 0) < 0 || status != 0)
        abort();
    s->port = free_port();
    pg_run(s);
}

static inline void server_kill(struct server *s)
{
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
}

static inline void server_end(struct server *s)
{
    char command[SERVER_PATH_LEN + 16];
    server_kill(s);
    snprintf(command, sizeof command, "rm -rf '%s'", s->dir);
    if (system(command) != 0)
        abort();
}

/* The admin socket: /healthz and /metrics of one instance. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/listener.h>

#include "libcommon/app_internal.h"
#include "libcommon/metrics.h"

#define CHECK_S 3 /* for the answer of --healthcheck */

static void answer(struct evhttp_request *req, int status, const char *type, const char *text)
{
    evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", type);
    evbuffer_add(evhttp_request_get_output_buffer(req), text, strlen(text));
    evhttp_send_reply(req, status, NULL, NULL);
}

static bool list_reasons(const struct cw_app *app, struct cw_buf *out)
{
    const struct reason *r;
    if (!app->started)
        cw_buf_str(out, "starting\n");
    if (app->draining)
        cw_buf_str(out, "draining\n");
    if (app->bus && !cw_bus_connected(app->bus))
        cw_buf_str(out, "nats: not connected\n");
    if (app->db && !cw_db_connected(app->db))
        cw_buf_str(out, "postgresql: not connected\n");
    LIST_FOREACH(r, &app->holds, link)
    cw_buf_printf(out, "waiting: %s\n", r->name);
    LIST_FOREACH(r, &app->faults, link)
    cw_buf_printf(out, "fault: %s: %s\n", r->name, r->text);
    return out->len > 0;
}

static void on_healthz(struct evhttp_request *req, void *arg)
{
    struct cw_buf out = { 0 };
    bool ill = list_reasons(arg, &out);
    answer(req, ill ? 503 : 200, "text/plain", ill ? out.data : "ok\n");
    cw_buf_free(&out);
}

static void on_metrics(struct evhttp_request *req, void *arg)
{
    struct cw_buf out = { 0 };
    (void)arg;
    cw_metrics_write(&out);
    answer(req, 200, "text/plain; version=0.0.4", out.data ? out.data : "");
    cw_buf_free(&out);
}

/* A socket that nobody listens on is left from a process that was killed. */
static bool is_stale(const struct sockaddr_un *at)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    int rc = connect(fd, (const struct sockaddr *)at, sizeof *at);
    int error = errno;
    close(fd);
    return rc < 0 && error == ECONNREFUSED;
}

static int bind_socket(struct cw_app *app)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    if (strlen(app->admin_path) >= sizeof at.sun_path)
        return -ENAMETOOLONG;
    strcpy(at.sun_path, app->admin_path);
    if (is_stale(&at))
        unlink(at.sun_path);
    struct evconnlistener *l = evconnlistener_new_bind(
        app->base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 16,
        (struct sockaddr *)&at, sizeof at);
    if (!l)
        return errno ? -errno : -EIO;
    chmod(at.sun_path, 0600);
    return evhttp_bind_listener(app->admin, l) ? 0 : -ENOMEM;
}

static char *socket_path(const struct cw_app *app)
{
    return *app->set.admin_socket ? cw_strdup(app->set.admin_socket)
                                  : cw_sprintf("%s/run/%s.sock", app->set.var, app->name);
}

/* The whole answer; false: nobody answers. */
static bool ask_health(const char *path, char *answer, size_t size)
{
    static const char request[] = "GET /healthz HTTP/1.0\r\n\r\n";
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    const struct timeval limit = { CHECK_S, 0 };
    size_t n = 0;
    ssize_t got = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    bool asked = fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
                 write(fd, request, sizeof request - 1) == (ssize_t)sizeof request - 1;
    while (asked && n + 1 < size && (got = read(fd, answer + n, size - 1 - n)) > 0)
        n += (size_t)got;
    answer[n] = '\0';
    if (fd >= 0)
        close(fd);
    return asked && got == 0 && n > 0;
}

int admin_healthcheck(const struct cw_app *app)
{
    char answer[8192], *path = socket_path(app);
    bool heard = ask_health(path, answer, sizeof answer);
    const char *text = heard ? strstr(answer, "\r\n\r\n") : NULL;
    bool ready = heard && strncmp(answer, "HTTP/1.", 7) == 0 && strncmp(answer + 8, " 200", 4) == 0;
    if (text)
        printf("%s\n", text + 4);
    else
        printf("nobody answers on %s\n", path);
    free(path);
    return ready ? 0 : 1;
}

int admin_start(struct cw_app *app)
{
    app->admin_path = socket_path(app);
    app->admin = evhttp_new(app->base);
    evhttp_set_allowed_methods(app->admin, EVHTTP_REQ_GET);
    evhttp_set_max_headers_size(app->admin, 8192);
    evhttp_set_timeout(app->admin, 10);
    evhttp_set_cb(app->admin, "/healthz", on_healthz, app);
    evhttp_set_cb(app->admin, "/metrics", on_metrics, app);
    int rc = bind_socket(app);
    if (rc < 0) {
        cw_log(CW_ERROR, "admin_socket_failed", "path=%s reason=\"%s\"", app->admin_path,
               strerror(-rc));
        return rc;
    }
    if (app->set.admin_port &&
        evhttp_bind_socket(app->admin, app->set.admin_bind, (uint16_t)app->set.admin_port) < 0)
        return -EADDRINUSE;
    return 0;
}

void admin_stop(struct cw_app *app)
{
    if (app->admin) {
        evhttp_free(app->admin);
        unlink(app->admin_path);
    }
    app->admin = NULL;
    free(app->admin_path);
    app->admin_path = NULL;
}

/* The admin socket: /healthz and /metrics of one instance. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/listener.h>

#include "libcommon/app_internal.h"
#include "libcommon/metrics.h"

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

int admin_start(struct cw_app *app)
{
    app->admin_path = *app->set.admin_socket
                          ? cw_strdup(app->set.admin_socket)
                          : cw_sprintf("%s/run/%s.sock", app->set.var, app->name);
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
        evhttp_bind_socket(app->admin, "127.0.0.1", (uint16_t)app->set.admin_port) < 0)
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

/* Resource spaces. One is the default; it is made at the first start. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <event2/event.h>

#include "services/device-registry/registry.h"

static const struct cw_stmt stmt_list = {
    "apps_list", "SELECT " APP_COLUMNS " FROM registry.app"
                 " WHERE ($1::boolean IS NULL OR default_app = $1)"
                 " AND ($2::text[] IS NULL OR app_id = ANY($2)) AND app_id <> ALL($3::text[])"
                 " ORDER BY created, app_id"
};
static const struct cw_stmt stmt_show = { "apps_show", "SELECT " APP_COLUMNS
                                                       " FROM registry.app WHERE app_id = $1" };
/* Several instances may start at once: one of them makes it, all of them find it. */
static const struct cw_stmt stmt_make_default = {
    "apps_make_default", "INSERT INTO registry.app (app_id, app_name, default_app)"
                         " SELECT $1, $2, true WHERE NOT EXISTS"
                         " (SELECT FROM registry.app WHERE default_app) ON CONFLICT DO NOTHING"
};
static const struct cw_stmt stmt_find_default = { "apps_find_default",
                                                  "SELECT " APP_COLUMNS
                                                  " FROM registry.app WHERE default_app" };

json_t *app_json(const PGresult *res, int row)
{
    json_t *o = json_object();
    cw_row_text(o, "app_id", res, row, "app_id");
    cw_row_text(o, "app_name", res, row, "app_name");
    cw_row_text(o, "create_time", res, row, "create_time");
    json_object_set_new(o, "default_app",
                        json_boolean(strcmp(cw_db_str(res, row, "default_app"), "t") == 0));
    return o;
}

static void on_list(PGresult *res, void *arg)
{
    if (cw_api_db_failed(arg, res, "list spaces"))
        return;
    json_t *list = json_array();
    for (int i = 0; i < PQntuples(res); i++)
        json_array_append_new(list, app_json(res, i));
    cw_api_reply_json(arg, 200, json_pack("{s:o}", "applications", list));
}

void show_applications(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    struct cw_db_array allowed = { 0 }, denied = { 0 };
    cw_api_spaces(call, &allowed, &denied);
    const struct cw_db_param p[] = { CW_TEXT(cw_api_query(call, "default_app")),
                                     cw_api_spaces_param(&allowed), cw_db_array_param(&denied) };
    if (!cw_db_exec(registry_db(r), &stmt_list, 3, p, on_list, call))
        cw_api_no_db(call);
    cw_db_array_free(&allowed);
    cw_db_array_free(&denied);
}

static void on_show(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "show a space"))
        return;
    if (PQntuples(res) == 0)
        cw_api_fail(call, CW_E_NO_APP, "Space \"%s\".", cw_api_path(call, "app_id"));
    else
        cw_api_reply_json(call, 200, app_json(res, 0));
}

void show_application(struct cw_api_call *call, void *self)
{
    struct registry *r = self;
    const struct cw_db_param p[] = { CW_TEXT(cw_api_path(call, "app_id")) };
    if (!cw_db_exec(registry_db(r), &stmt_show, 1, p, on_show, call))
        cw_api_no_db(call);
}

/* ---- the default space */

/* A file that is either the old or the new one, whoever reads it when: `make up` collects it. */
static int write_access(const struct registry *r, const char *app_id)
{
    char dir[160], path[224], tmp[256];
    int rc = 0;
    snprintf(dir, sizeof dir, "%s/access.d", cw_app_var(r->app));
    snprintf(path, sizeof path, "%s/device-registry.env", dir);
    snprintf(tmp, sizeof tmp, "%s.%d", path, (int)getpid());
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return -errno;
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (dprintf(fd, "CAUSEWAY_APP_ID=%s\n", app_id) < 0 || fsync(fd) < 0)
        rc = -errno;
    close(fd);
    if (rc == 0 && rename(tmp, path) < 0)
        rc = -errno;
    if (rc < 0)
        unlink(tmp);
    return rc;
}

static void again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    apps_start(arg);
}

static void start_later(struct registry *r)
{
    static const struct timeval pause = { 0, 500000 };
    event_base_once(cw_app_base(r->app), -1, EV_TIMEOUT, again, r, &pause);
}

static void on_default(PGresult *res, void *arg)
{
    struct registry *r = arg;
    if (cw_db_outcome(res) != CW_DB_OK || PQntuples(res) == 0) {
        cw_log(CW_WARN, "no_default_space", "reason=\"%s\"", cw_db_error(res));
        start_later(r);
        return;
    }
    int rc = write_access(r, cw_db_str(res, 0, "app_id"));
    if (rc < 0) {
        cw_app_fault(r->app, "access", "could not write access.d/device-registry.env: %s",
                     strerror(-rc));
        start_later(r);
        return;
    }
    free(r->default_app);
    r->default_app = cw_strdup(cw_db_str(res, 0, "app_id"));
    cw_app_fault_clear(r->app, "access");
    cw_app_release(r->app, "default space");
}

void apps_start(struct registry *r)
{
    char id[33], tail[5], name[24];
    snprintf(name, sizeof name, "DefaultApp_%s", cw_random_hex(tail, 4));
    const struct cw_db_param p[] = { CW_TEXT(cw_random_hex(id, 32)), CW_TEXT(name) };
    struct cw_db *db = registry_db(r); /* one after the other */
    if (!cw_db_exec(db, &stmt_make_default, 2, p, NULL, NULL) ||
        !cw_db_exec(db, &stmt_find_default, 0, NULL, on_default, r))
        start_later(r);
}

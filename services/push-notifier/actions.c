#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "services/push-notifier/notifier.h"

#define EXPIRE_MS 60000 /* a hint may have been lost */

static const struct cw_stmt stmt_action = {
    "action", "SELECT url, cn_name, sni_enable, signature_enable, token, ca_pem,"
              " coalesce(check_common_name, true) AS check_name"
              " FROM rule.action_view WHERE action_id = $1"
};

static void where_clear(struct where *w)
{
    free(w->url);
    free(w->ca_pem);
    free(w->cert_name);
    free(w->sni);
    if (w->token)
        memset(w->token, 0, strlen(w->token));
    free(w->token);
    w->url = w->ca_pem = w->cert_name = w->sni = w->token = NULL;
}

static char *copy(const PGresult *res, const char *column)
{
    const char *s = cw_db_str(res, 0, column);
    return s ? cw_strdup(s) : NULL;
}

static bool is_true(const PGresult *res, const char *column)
{
    const char *s = cw_db_str(res, 0, column);
    return s && s[0] == 't';
}

/* "host" of "host:port"; an IPv6 address loses its brackets. */
static char *host_part(const char *name)
{
    const char *end = name[0] == '[' ? strchr(name, ']') : strchr(name, ':');
    const char *from = name[0] == '[' ? name + 1 : name;
    return cw_strndup(from, end ? (size_t)(end - from) : strlen(from));
}

/* host:port of a URL, in lower case: what is blocked together. The caller frees. */
static char *target_of(const char *url)
{
    const char *from = strstr(url, "://");
    from = from ? from + 3 : url;
    char *name = cw_strndup(from, strcspn(from, "/?#"));
    for (char *p = name; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return name;
}

static void read_token(struct where *w, const PGresult *res)
{
    const char *sealed = cw_db_str(res, 0, "token");
    char context[80];
    if (!sealed || !is_true(res, "signature_enable"))
        return;
    snprintf(context, sizeof context, "action.%s.token", w->action->id);
    if (cw_unseal(&w->token, NULL, w->n->seal_key, context, sealed) < 0)
        cw_log(CW_ERROR, "token_not_readable", "action=%s reason=\"sealed with another key\"",
               w->action->id);
}

static void read_action(struct where *w, const PGresult *res)
{
    const char *cn = cw_db_str(res, 0, "cn_name");
    w->url = copy(res, "url");
    w->ca_pem = copy(res, "ca_pem");
    w->any_name = !is_true(res, "check_name");
    w->cert_name = cn ? host_part(cn) : NULL;
    w->sni = cn && is_true(res, "sni_enable") ? host_part(cn) : NULL;
    read_token(w, res);
}

static void on_action(PGresult *res, void *arg)
{
    static struct cw_log_gate gate;
    struct where *w = arg;
    char *target = NULL;
    w->query = NULL;
    if (cw_db_outcome(res) != CW_DB_OK) {
        cw_log_limited(&gate, CW_WARN, "action_not_loaded", "action=%s reason=\"%s\"",
                       w->action->id, cw_db_error(res));
        w->retry = true;
        return;
    }
    where_clear(w);
    if (PQntuples(res) > 0) {
        read_action(w, res);
        target = target_of(w->url);
    }
    w->loaded_ms = cw_mono_ms();
    window_action(w->n->window, w->action, target, cw_now_ms());
    free(target);
}

static void ask(struct where *w)
{
    const struct cw_db_param p[] = { CW_TEXT(w->action->id) };
    if (w->query)
        return;
    w->query = cw_db_exec(w->n->db, &stmt_action, 1, p, on_action, w);
    w->retry = !w->query; /* the next tick tries again */
}

void actions_look_up(struct action *action, void *self)
{
    struct where *w = cw_calloc(1, sizeof *w);
    *w = (struct where){ .n = self, .action = action };
    action->detail = w;
    ask(w);
}

void actions_forget(struct action *action, void *self)
{
    struct where *w = action->detail;
    (void)self;
    if (w->query)
        cw_db_cancel(w->query);
    where_clear(w);
    free(w);
}

void actions_tick(struct notifier *n, int64_t now_ms)
{
    struct action *a, *tmp;
    int64_t mono_ms = cw_mono_ms();
    (void)now_ms;
    HASH_ITER(hh, n->window->actions, a, tmp)
    {
        struct where *w = a->detail;
        bool old = w->loaded_ms && mono_ms - w->loaded_ms > EXPIRE_MS;
        if (w->retry || (old && !LIST_EMPTY(&a->lanes)))
            ask(w);
    }
}

static void reload(struct where *w)
{
    if (w->query) { /* its answer may be from before the change */
        cw_db_cancel(w->query);
        w->query = NULL;
    }
    ask(w);
}

static void reload_all(struct notifier *n)
{
    struct action *a, *tmp;
    HASH_ITER(hh, n->window->actions, a, tmp)
    reload(a->detail);
}

static void on_hint(const struct cw_bus_msg *msg, void *arg)
{
    struct notifier *n = arg;
    char *id = cw_strndup(msg->data, msg->len);
    struct action *a = window_find_action(n->window, id);
    if (strcmp(msg->subject, "invalidate.rule") == 0)
        reload_all(n); /* a deleted rule takes its actions with it */
    else if (a)
        reload(a->detail);
    free(id);
}

static void on_bus(bool connected, void *arg)
{
    if (connected)
        reload_all(arg);
}

void actions_start(struct notifier *n)
{
    n->subs[0] = cw_bus_subscribe(cw_app_bus(n->app), "invalidate.action", NULL, on_hint, n);
    n->subs[1] = cw_bus_subscribe(cw_app_bus(n->app), "invalidate.rule", NULL, on_hint, n);
    cw_bus_watch(cw_app_bus(n->app), on_bus, n);
}

#include "services/identity/facts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "libcommon/api_rows.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"

#define SUBJECT     "facts.ask"
#define GATHER_MS   1000
#define QUIET_MS    100 /* for further instances, once each daemon has answered */
#define ANSWERS_MAX 1000
#define CA_MAX      (64U << 10)

/* ---- one caller */

struct caller {
    struct cw_api_call *call;
    json_t *common;
    bool ca;
};

static const struct cw_stmt stmt_caller = {
    "facts_caller",
    "SELECT p.project_id, p.name AS project_name, a.domain_id, a.name AS domain_name, u.user_id,"
    " u.name AS user_name, (SELECT coalesce(json_agg(k.access ORDER BY k.created), '[]')::text"
    " FROM access_key k WHERE k.user_id = u.user_id AND k.expires IS NULL) AS access_keys"
    " FROM principal u JOIN account a USING (domain_id) JOIN project p USING (domain_id)"
    " WHERE u.user_id = $1 AND p.project_id = $2"
};

static json_t *identifiers(const PGresult *res)
{
    static const char *const texts[] = { "project_id",  "project_name", "domain_id",
                                         "domain_name", "user_id",      "user_name" };
    json_t *o = json_object();
    for (size_t i = 0; i < CW_ARRAY_LEN(texts); i++)
        cw_row_text(o, texts[i], res, 0, texts[i]);
    cw_row_json(o, "access_keys", res, 0, "access_keys");
    return o;
}

static void on_caller(PGresult *res, void *arg)
{
    struct caller c = *(struct caller *)arg;
    free(arg);
    if (cw_api_db_failed(c.call, res, "find the caller"))
        goto end;
    if (PQntuples(res) == 0) {
        cw_api_fail(c.call, CW_E_PROJECT, "It is not one of the caller's.");
        goto end;
    }
    json_t *answer = identifiers(res), *addresses = json_object_get(c.common, "addresses");
    const struct facts_caller who = { cw_db_str(res, 0, "project_id"),
                                      cw_db_str(res, 0, "project_name"),
                                      cw_db_str(res, 0, "domain_name"),
                                      cw_db_str(res, 0, "user_name") };
    json_object_update(answer, c.common);
    json_object_set_new(answer, "client_lines", facts_lines(&who, addresses, c.ca));
    cw_api_reply_json(c.call, 200, answer);
end:
    json_decref(c.common);
}

static void answer(const struct facts *f, struct cw_api_call *call, json_t *common)
{
    const Causeway__ApiRequest *q = cw_api_request(call);
    const struct cw_db_param p[] = { CW_TEXT(q->user_id), CW_TEXT(q->project_id) };
    struct caller *c = cw_malloc(sizeof *c);
    *c = (struct caller){ call, json_incref(common), f->ca != NULL };
    if (!cw_db_exec(cw_app_db(f->i->app), &stmt_caller, CW_ARRAY_LEN(p), p, on_caller, c))
        on_caller(NULL, c);
}

/* ---- gathering */

static void gather_end(struct facts *f)
{
    cw_bus_unsubscribe(&f->sub);
    event_del(f->end);
    event_del(f->quiet);
    json_t *common = facts_merge(f, f->answers);
    json_array_clear(f->answers);
    for (size_t i = 0; i < f->n_calls; i++)
        answer(f, f->calls[i], common);
    f->n_calls = 0;
    json_decref(common);
}

static void on_end(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    gather_end(arg);
}

static bool all_have_answered(const struct facts *f)
{
    json_t *missing = facts_missing(f->answers);
    bool all = json_array_size(missing) == 0;
    json_decref(missing);
    return all;
}

/* By instance, so that two answers are alike. */
static void keep(struct facts *f, json_t *take)
{
    const char *name = cw_json_text(take, "instance");
    size_t at = 0;
    while (at < json_array_size(f->answers) &&
           strcmp(cw_json_text(json_array_get(f->answers, at), "instance"), name) < 0)
        at++;
    json_array_insert_new(f->answers, at, take);
}

static void on_answer(const struct cw_bus_msg *msg, void *arg)
{
    static const struct timeval quiet = { 0, QUIET_MS * 1000L };
    struct facts *f = arg;
    struct cw_json_error e;
    json_t *a = msg->no_responders ? NULL : cw_json_parse(msg->data, msg->len, &e);
    if (!a || !cw_json_text(a, "daemon") || !cw_json_text(a, "instance") ||
        json_array_size(f->answers) >= ANSWERS_MAX) {
        json_decref(a);
        return;
    }
    keep(f, a);
    if (all_have_answered(f))
        evtimer_add(f->quiet, &quiet);
}

static bool gather_begin(struct facts *f)
{
    static const struct timeval limit = { GATHER_MS / 1000, GATHER_MS % 1000 * 1000L };
    struct cw_bus *bus = cw_app_bus(f->i->app);
    char inbox[160];
    f->sub =
        cw_bus_subscribe(bus, cw_bus_inbox(bus, inbox, sizeof inbox, "facts"), NULL, on_answer, f);
    if (cw_bus_publish(bus, SUBJECT, inbox, "", 0) < 0) {
        cw_bus_unsubscribe(&f->sub);
        return false;
    }
    evtimer_add(f->end, &limit);
    return true;
}

void on_show_facts(struct cw_api_call *call, void *self)
{
    struct facts *f = ((struct identity *)self)->facts;
    if (f->n_calls == CW_ARRAY_LEN(f->calls))
        cw_api_fail(call, CW_E_UNAVAILABLE, "identity: %zu callers wait for the facts already.",
                    f->n_calls);
    else if (!f->sub && !gather_begin(f))
        cw_api_fail(call, CW_E_UNAVAILABLE, "NATS does not answer.");
    else
        f->calls[f->n_calls++] = call;
}

/* ---- life */

static char *read_ca(const char *path, char *err, size_t size)
{
    char *text = NULL;
    FILE *file = fopen(path, "re");
    if (file) {
        text = cw_calloc(1, CA_MAX + 1);
        if (fread(text, 1, CA_MAX, file) == CA_MAX || !strstr(text, "-----BEGIN CERTIFICATE-----"))
            errno = EINVAL, *text = '\0';
        fclose(file);
    }
    if (text && *text)
        return text;
    snprintf(err, size, "CAUSEWAY_CA_FILE=\"%.200s\": %s", path,
             file ? "no PEM certificate" : strerror(errno));
    free(text);
    return NULL;
}

struct facts *facts_open(struct identity *i)
{
    char err[400];
    struct facts *f = cw_calloc(1, sizeof *f);
    f->i = i;
    f->answers = json_array();
    f->end = evtimer_new(cw_app_base(i->app), on_end, f);
    f->quiet = evtimer_new(cw_app_base(i->app), on_end, f);
    f->ports = facts_ports_read(i->public_ports, err, sizeof err);
    if (f->ports && *i->ca_file)
        f->ca = read_ca(i->ca_file, err, sizeof err);
    if (f->ports && (f->ca || !*i->ca_file))
        return f;
    cw_log(CW_ERROR, "could_not_start", "reason=\"%s\"", err);
    facts_close(&f);
    return NULL;
}

void facts_close(struct facts **at)
{
    struct facts *f = *at;
    if (!f)
        return;
    *at = NULL;
    for (size_t i = 0; i < f->n_calls; i++)
        cw_api_fail(f->calls[i], CW_E_UNAVAILABLE, "identity ends.");
    if (f->sub)
        cw_bus_unsubscribe(&f->sub);
    event_free(f->end);
    event_free(f->quiet);
    json_decref(f->answers);
    free(f->ports);
    free(f->ca);
    free(f);
}

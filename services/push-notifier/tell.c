/* What people get to know: why, log lines, metrics. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/push-notifier/notifier.h"

/* Stable word of an outcome, and what to do about it. */
static const struct {
    const char *code, *next_step;
} advice[] = {
    { "dns", "Check the host name in the url of the action." },
    { "url", "Correct the url of the action." },
    { "denied", "Choose a target that is not link-local nor named by CAUSEWAY_PUSH_DENY." },
    { "refused", "Check that the application listens there and that no firewall is between." },
    { "reset", "Look into the application's log: it closed the connection without an answer." },
    { "timeout", "Let the application answer 200 within 15 seconds, and work afterwards." },
    { "too_long", "Answer 200 with a short body." },
    { "tls_ca", "Upload the CA that issued the server's certificate and name it as cert_id." },
    { "tls_expired", "Renew the certificate of the server; check both clocks." },
    { "tls_not_yet_valid", "Check the clocks of both sides." },
    { "tls_name", "Use a certificate for this host, set cn_name, or upload the CA with "
                  "check_common_name false." },
    { "tls", "Check that the port speaks TLS 1.2 or later." },
    { "not_200", "Answer 200; every other status is a failure." },
};

static const char *next_step(const char *code)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(advice); i++)
        if (strcmp(advice[i].code, code) == 0)
            return advice[i].next_step;
    return "Look at the reason.";
}

static void note(struct notifier *n, const struct item *it, const char *code, const char *reason,
                 const char *what_to_do)
{
    char sample[256];
    snprintf(sample, sizeof sample, "request_id=%s rule=%s action=%s attempt=%u",
             it->push->request_id, it->push->rule_id, it->push->action_id, it->attempts + 1);
    cw_notice(n->notices, &(struct cw_notice){ .layer = CW_LAYER_PUSH,
                                               .device_key = it->push->device_key,
                                               .device_id = it->push->device_id,
                                               .code = code,
                                               .reason = reason,
                                               .next_step = what_to_do,
                                               .sample = sample });
}

static void count(const char *name, const char *label, const char *value, const char *help)
{
    char labels[64];
    snprintf(labels, sizeof labels, "%s=\"%s\"", label, value);
    cw_metric_add(cw_counter(name, labels, help), 1);
}

void tell_attempt(struct notifier *n, const struct item *it, const struct cw_http_outcome *o)
{
    static struct cw_log_gate gate;
    struct where *w = it->lane->action->detail;
    bool answered = o->stage == CW_HTTP_STATUS;
    const char *code = answered ? "not_200" : o->code;
    if (o->status == 200 && (answered || strcmp(o->code, "too_long") == 0)) {
        count("causeway_push_attempts_total", "result", "ok", "Attempts by result.");
        cw_metric_observe(cw_histogram_ms("causeway_push_answer_ms", NULL,
                                          "From the request to the target's 200."),
                          (double)o->took_ms);
        return;
    }
    count("causeway_push_attempts_total", "result", code, "Attempts by result.");
    snprintf(w->last, sizeof w->last, "stage %s: %s", cw_http_stage_name(o->stage), o->reason);
    char *reason = cw_sprintf("%s at stage %s: %s", w->url ? w->url : "?",
                              cw_http_stage_name(o->stage), o->reason);
    note(n, it, code, reason, next_step(code));
    cw_log_limited(&gate, CW_WARN, "push_failed",
                   "action=%s device=%s attempt=%u stage=%s code=%s status=%d after_ms=%" PRId64,
                   it->push->action_id, it->push->device_id, it->attempts + 1,
                   cw_http_stage_name(o->stage), code, o->status, o->took_ms);
    free(reason);
}

void tell_finished(const struct item *it, enum outcome how, void *self)
{
    struct notifier *n = self;
    const struct where *w = it->lane->action->detail;
    char reason[400];
    count("causeway_pushes_finished_total", "outcome", outcome_names[how],
          "Pushes finished in this process.");
    if (how == OUT_DELIVERED && it->attempts == 0) {
        cw_metric_observe(cw_histogram_ms("causeway_push_delay_ms", NULL,
                                          "From the event to the target's 200, first attempts."),
                          (double)(cw_now_ms() - it->push->event_ms));
        return;
    }
    switch (how) {
    case OUT_DELIVERED:
        snprintf(reason, sizeof reason, "Delivered at attempt %u; before that: %s",
                 it->attempts + 1, w->last);
        note(n, it, "recovered", reason, "Nothing.");
        break;
    case OUT_FAILED:
        snprintf(reason, sizeof reason, "Given up after %u attempts in %" PRId64 " s; last: %s",
                 it->attempts, it->spent_ms / 1000, w->last);
        note(n, it, outcome_names[how], reason, "Mend the target; later reports are sent.");
        break;
    case OUT_EXPIRED:
        note(n, it, outcome_names[how],
             "Given up: its target was away too long, or too much waited for it",
             "Mend the target; what still waits is sent then.");
        break;
    default:
        note(n, it, outcome_names[how], "The action it was for does not exist any more",
             "Nothing, or create the action again.");
        break;
    }
    if (how != OUT_DELIVERED)
        cw_log(CW_WARN, "push_given_up", "reason=%s action=%s device=%s request_id=%s attempts=%u",
               outcome_names[how], it->push->action_id, it->push->device_id, it->push->request_id,
               it->attempts);
}

void tell_waits(const struct item *it, const struct target *t, void *self)
{
    struct notifier *n = self;
    const struct where *w = it->lane->action->detail;
    char reason[512];
    snprintf(reason, sizeof reason,
             "Waits: %s failed %u times in a row and is tried again every %" PRId64 " s; last: %s",
             t->name, t->failures, n->probe_ms / 1000, w->last);
    note(n, it, "target_blocked", reason, "Mend the target; what waits is sent then.");
}

void tell_blocked(const struct target *t, bool blocked, void *self)
{
    (void)self;
    struct cw_metric *m = cw_gauge("causeway_push_targets_blocked", NULL, "Targets on the list.");
    cw_metric_add(m, blocked ? 1 : -1);
    if (blocked)
        cw_log(CW_WARN, "target_blocked", "target=%s failures=%u", t->name, t->failures);
    else
        cw_log(CW_INFO, "target_back", "target=%s", t->name);
}

/* ---- ledger: durable things, whoever owns the partitions */

static const struct cw_stmt stmt_ledger = {
    "ledger", "SELECT coalesce(sum(totals[1]), 0), coalesce(sum(totals[2]), 0),"
              " coalesce(sum(totals[3]), 0), coalesce(sum(totals[4]), 0),"
              " coalesce(sum(totals[5]), 0), (SELECT count(*) FROM push.backlog b"
              " JOIN push.position q ON q.log = 'PUSH' AND q.partition = b.partition"
              " AND b.seq <= q.seq) FROM push.position WHERE log = 'PUSH'"
};

static void on_ledger(PGresult *res, void *arg)
{
    static const char *const words[] = { "owed",         "delivered",      "push_failed",
                                         "push_expired", "action_deleted", "parked" };
    struct notifier *n = arg;
    n->ledger_asked = false;
    if (cw_db_outcome(res) != CW_DB_OK)
        return;
    for (int i = 0; i < (int)CW_ARRAY_LEN(words); i++) {
        char label[40];
        snprintf(label, sizeof label, "what=\"%s\"", words[i]);
        cw_metric_set(cw_gauge("causeway_push_ledger", label,
                               "Of all partitions: owed = the sum of the others."),
                      atoll(PQgetvalue(res, 0, i)));
    }
}

void tell_ledger(struct notifier *n)
{
    struct partition *p, *tmp;
    int64_t in_flight = 0;
    HASH_ITER(hh, n->window->partitions, p, tmp)
    in_flight += (int64_t)p->n_window;
    cw_metric_set(cw_gauge("causeway_push_in_flight", NULL,
                           "Items read that the position has not passed, in this process."),
                  in_flight);
    if (!n->ledger_asked)
        n->ledger_asked = cw_db_exec(n->db, &stmt_ledger, 0, NULL, on_ledger, n) != NULL;
}

/* engine.h - what the files of rule-engine share. */
#pragma once

#include "libcommon/api_rows.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/db.h"
#include "libcommon/http_client.h"
#include "libcommon/ids.h"
#include "libcommon/log_read.h"
#include "libcommon/metrics.h"
#include "libcommon/service.h"

#include "services/rule-engine/match.h"

/* Totals of a partition of EVENT, kept in its position row: matched = owed + refused. */
#define LEDGER(X)               X(EVENTS, "events") X(MATCHED, "matched") X(OWED, "owed") X(REFUSED, "refused")
#define LEDGER_ENUM(name, word) LEDGER_##name,
enum ledger { LEDGER(LEDGER_ENUM) LEDGER_COUNT };
#undef LEDGER_ENUM

struct engine {
    struct cw_app *app;
    struct cw_db *db; /* calls and the table of rules; transactions have connections of their own */
    struct cw_log_reader *reader;
    struct rule_table *table; /* what is active */
    bool loaded;
    struct cw_cidr_list *deny;
    uint8_t seal_key[32];
    char *push_deny;
    int64_t rules_max, actions_max, certificates_max;
};

/* ---- table.c: active rules in memory */

/* Loads, and loads again whenever rules may have changed; ready() runs after the first load. */
struct rule_table *rule_table_open(struct engine *e, void (*ready)(struct engine *e));
/* Runs cb with the rules as of now: at once, or when a load that is due is done. */
typedef void rule_table_fn(const struct rule_set *set, void *arg);
void rule_table_with(struct rule_table *t, rule_table_fn *cb, void *arg);
void rule_table_close(struct rule_table **t);
/* After a commit: every instance loads again, push-notifier forgets the action. */
void rules_changed(struct engine *e, const char *kind, const char *id);

/* ---- events.c: EVENT in, PUSH out */

void events_start(struct engine *e);

/* ---- ledger.c: gauges from rule.position */

void ledger_start(struct engine *e);
void ledger_stop(void);

/* ---- answer.c */

const char *text_of(bool v); /* "t", "f" */
/* {"<key>":[…],"count":…,"marker":…} from rows that PAGE selected. */
typedef json_t *row_fn(const PGresult *res, int row);
void answer_page(struct cw_api_call *call, const PGresult *res, const char *key, row_fn *row);
/* The three parameters of paging, into p[0…2]: marker, limit, offset. */
struct page_text {
    char limit[24], offset[24];
};
void page_params(struct cw_api_call *call, struct cw_db_param *p, struct page_text *t);

/* Rows of the list m, a page of them, newest first, each with the count of all; one row of NULLs
 * when there is none. */
#define PAGE(id, marker, limit, offset)                                                            \
    ", page AS (SELECT * FROM m WHERE " id " < lower(" marker ") ORDER BY " id                     \
    " DESC LIMIT " limit "::bigint OFFSET " offset                                                 \
    "::bigint) SELECT (SELECT count(*) FROM m) AS count, page.*"                                   \
    " FROM (SELECT) one LEFT JOIN page ON true ORDER BY page." id " DESC"

/* ---- operations */

void create_rule(struct cw_api_call *call, void *self);
void list_rules(struct cw_api_call *call, void *self);
void show_rule(struct cw_api_call *call, void *self);
void update_rule(struct cw_api_call *call, void *self);
void delete_rule(struct cw_api_call *call, void *self);

void create_action(struct cw_api_call *call, void *self);
void list_actions(struct cw_api_call *call, void *self);
void show_action(struct cw_api_call *call, void *self);
void update_action(struct cw_api_call *call, void *self);
void delete_action(struct cw_api_call *call, void *self);

void create_certificate(struct cw_api_call *call, void *self);
void list_certificates(struct cw_api_call *call, void *self);
void show_certificate(struct cw_api_call *call, void *self);
void delete_certificate(struct cw_api_call *call, void *self);

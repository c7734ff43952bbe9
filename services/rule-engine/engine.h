/* engine.h - what the files of rule-engine share. */
#pragma once

#include "libcommon/api_rows.h"
#include "libcommon/api_space.h"
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
typedef void rule_table_fn(const struct rule_set *set, void *arg); /* set: for the call */
/* Runs cb with the rules as of now: at once, or when a load that is due is done. One caller at a
 * time: the reader has one transaction. */
void rule_table_with(struct rule_table *t, rule_table_fn *cb, void *arg);
/* Drops a load under way and who waits for it. Sets *t to NULL; NULL is fine. */
void rule_table_close(struct rule_table **t);
/* After a commit: every instance loads again, push-notifier forgets the action. */
void rules_changed(struct engine *e, const char *kind, const char *id);

/* ---- events.c: EVENT in, PUSH out */

/* Opens e->reader. Needs e->table: what is read is matched against the rules as of then. */
void events_start(struct engine *e);

/* ---- ledger.c: gauges from rule.position */

/* Every 2 s, totals of all partitions, whoever owns them. */
void ledger_start(struct engine *e);
/* Also if it was never started. */
void ledger_stop(void);

/* ---- answer.c */

const char *text_of(bool v);                          /* "t", "f" */
typedef json_t *row_fn(const PGresult *res, int row); /* a new reference */
/* Answers 200 {"<key>":[…],"count":…,"marker":…} from rows that PAGE selected. */
void answer_page(struct cw_api_call *call, const PGresult *res, const char *key, row_fn *row);
struct page_text {
    char limit[24], offset[24];
    struct cw_db_array allowed, denied;
};
/* Parameters of a list, into p[0…2]: marker, limit (10), offset (0). They point into *t and the
 * call. */
void page_params(struct cw_api_call *call, struct cw_db_param *p, struct page_text *t);

/* The spaces whose rows the caller may see, into p[0…1], as MAY_SEE takes them; the caller frees
 * both arrays of *t. A row of no space is for who may see all. */
void space_params(struct cw_api_call *call, struct cw_db_param *p, struct page_text *t);
void page_text_free(struct page_text *t);
#define MAY_SEE(app, allowed, denied)                                                              \
    "((" allowed "::text[] IS NULL AND cardinality(" denied "::text[]) = 0) OR (" app              \
    " IS NOT NULL AND (" allowed " IS NULL OR " app " = ANY(" allowed ")) AND " app                \
    " <> ALL(" denied ")))"

/* Rows of the list m, a page of them, newest first, each with the count of all; one row of NULLs
 * when there is none. */
#define PAGE(id, marker, limit, offset)                                                            \
    ", page AS (SELECT * FROM m WHERE " id " < lower(" marker ") ORDER BY " id                     \
    " DESC LIMIT " limit "::bigint OFFSET " offset                                                 \
    "::bigint) SELECT (SELECT count(*) FROM m) AS count, page.*"                                   \
    " FROM (SELECT) one LEFT JOIN page ON true ORDER BY page." id " DESC"

/* ---- operations, as openapi.json has them; self is the engine. What changes a rule or an action
 * says so to every instance after the commit, by rules_changed(). */

/* 201, inactive. NOT_BUILT: a subject that IoTDA has and we do not. */
void create_rule(struct cw_api_call *call, void *self);
void list_rules(struct cw_api_call *call, void *self); /* a page, newest first */
void show_rule(struct cw_api_call *call, void *self);  /* 200, NO_RULE */
/* What is left out stays. RULE_EMPTY: it cannot become active without an action. */
void update_rule(struct cw_api_call *call, void *self);
void delete_rule(struct cw_api_call *call, void *self); /* with its actions */

/* 201, the token sealed; NO_RULE, NO_CERT, RULE_QUOTA. */
void create_action(struct cw_api_call *call, void *self);
void list_actions(struct cw_api_call *call, void *self); /* a page, newest first */
void show_action(struct cw_api_call *call, void *self);  /* without the token */
/* All of it is replaced, but a token that is left out stays while signature_enable does. */
void update_action(struct cw_api_call *call, void *self);
void delete_action(struct cw_api_call *call, void *self); /* 204, NO_ACTION */

/* 201; CERT_BAD says what it holds instead of a CA's certificate. */
void create_certificate(struct cw_api_call *call, void *self);
void list_certificates(struct cw_api_call *call, void *self);  /* a page, newest first */
void show_certificate(struct cw_api_call *call, void *self);   /* without the PEM */
void delete_certificate(struct cw_api_call *call, void *self); /* CERT_IN_USE by actions */

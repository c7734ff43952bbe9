/* api_rows.h - answers of api.<service>.<operation> that are made from rows of the database: what a
 * failed statement means for the caller, and columns as members of a JSON object. */
#pragma once

#include "libcommon/api.h"
#include "libcommon/db.h"

/* NULL from cw_db_exec(): ends the call with 503. */
void cw_api_no_db(struct cw_api_call *call);
/* False: the statement did its work. True: the call has been ended, with 503 (connection lost),
 * 400 (data that PostgreSQL refuses) or 500 and a log line (a wrong statement). what: the thing
 * that was read or written, for a person. */
bool cw_api_db_failed(struct cw_api_call *call, const PGresult *res, const char *what);
/* True if res broke this named constraint. */
bool cw_db_broke(const PGresult *res, const char *constraint);

/* Set key to the column as text, boolean, or the JSON in it; left out when the column is NULL. */
void cw_row_text(json_t *o, const char *key, const PGresult *res, int row, const char *column);
void cw_row_bool(json_t *o, const char *key, const PGresult *res, int row, const char *column);
void cw_row_json(json_t *o, const char *key, const PGresult *res, int row, const char *column);

/* A text of the body, also an empty one; NULL when absent, null or of another type. Borrowed. */
const char *cw_body_text(const json_t *body, const char *key);

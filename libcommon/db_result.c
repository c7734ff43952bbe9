#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/db.h"

/* SQLSTATE classes (PostgreSQL, appendix A) by what a caller can do about them. */
static const struct {
    const char *prefix;
    enum cw_db_outcome outcome;
} classes[] = {
    { "25P02", CW_DB_RETRY }, /* an earlier statement of the transaction failed */
    { "08", CW_DB_RETRY },    { "40", CW_DB_RETRY }, { "53", CW_DB_RETRY },
    { "55", CW_DB_RETRY },    { "57", CW_DB_RETRY }, { "22", CW_DB_REFUSED },
    { "23", CW_DB_REFUSED },
};

const char *cw_db_sqlstate(const PGresult *res)
{
    const char *state = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
    return state ? state : "";
}

const char *cw_db_error(const PGresult *res)
{
    const char *text = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    return text ? text : res ? "no reason given" : "connection to PostgreSQL lost";
}

enum cw_db_outcome cw_db_outcome(const PGresult *res)
{
    if (!res)
        return CW_DB_RETRY;
    ExecStatusType s = PQresultStatus(res);
    if (s == PGRES_COMMAND_OK || s == PGRES_TUPLES_OK)
        return CW_DB_OK;
    const char *state = cw_db_sqlstate(res);
    for (size_t i = 0; i < CW_ARRAY_LEN(classes); i++)
        if (strncmp(state, classes[i].prefix, strlen(classes[i].prefix)) == 0)
            return classes[i].outcome;
    return s == PGRES_PIPELINE_ABORTED ? CW_DB_RETRY : CW_DB_BUG;
}

struct cw_db_param cw_db_int(int64_t v, char buf[24])
{
    snprintf(buf, 24, "%" PRId64, v);
    return CW_TEXT(buf);
}

const char *cw_db_str(const PGresult *res, int row, const char *column)
{
    int c = PQfnumber(res, column);
    return c < 0 || PQgetisnull(res, row, c) ? NULL : PQgetvalue(res, row, c);
}

int64_t cw_db_i64(const PGresult *res, int row, const char *column, int64_t if_null)
{
    const char *text = cw_db_str(res, row, column);
    return text ? strtoll(text, NULL, 10) : if_null;
}

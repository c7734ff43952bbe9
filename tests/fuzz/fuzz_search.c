/* The search language for devices: a statement, then the rule of a group.
 * links: services/device-registry/search_read.c services/device-registry/search_sql.c */
#include "services/device-registry/search.h"
#include "tests/fuzz/fuzz.h"

/* A query has no text of the statement in it, and its parameters are those of its conditions. */
static void compile(const struct search *s, struct cw_buf sql)
{
    struct cw_db_array a[SEARCH_CONDITIONS] = { 0 };
    fuzz_check(s->n <= SEARCH_CONDITIONS && s->n_values <= SEARCH_VALUES);
    fuzz_check(s->limit <= SEARCH_ROWS_MAX && s->offset <= SEARCH_OFFSET_MAX);
    fuzz_check(sql.len > 0 && sql.len < 16384);
    search_params(s, a);
    for (size_t i = 0; i < s->n; i++) {
        fuzz_check(a[i].n >= s->conditions[i].n && a[i].n > 0);
        cw_db_array_free(&a[i]);
    }
    cw_buf_free(&sql);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct search s;
    char fault[SEARCH_FAULT_LEN], *text = fuzz_part(&data, &size);
    if (search_read(&s, text, fault))
        compile(&s, search_sql(&s));
    else
        fuzz_check(strlen(fault) > 0);
    if (search_read_rule(&s, text, fault))
        compile(&s, search_rule_sql(&s));
    free(text);
    return 0;
}

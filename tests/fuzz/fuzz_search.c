/* The search language for devices: a statement, then the rule of a group.
 * links: services/device-registry/search_read.c services/device-registry/search_sql.c */
#include "services/device-registry/search.h"
#include "tests/fuzz/fuzz.h"

/* A query has no text of the statement in it, and its parameters are those of its conditions. */
static void compile(struct search *s, struct cw_buf sql)
{
    struct cw_db_array a[SEARCH_CONDITIONS] = { 0 }, ids = { 0 };
    fuzz_check(s->n <= SEARCH_CONDITIONS && s->n_values <= SEARCH_VALUES);
    fuzz_check(s->limit <= SEARCH_ROWS_MAX && s->offset <= SEARCH_OFFSET_MAX);
    fuzz_check(sql.len > 0 && sql.len < 16384);
    search_params(s, a);
    for (size_t i = 0; i < s->n; i++)
        fuzz_check(a[i].n >= s->conditions[i].n && a[i].n > 0);
    bool named = search_product_ids(s, &ids);
    search_by_keys(s, a);
    for (size_t i = 0; i < s->n; i++) {
        fuzz_check(!s->conditions[i].keyed || (named && a[i].n == 0));
        search_product_key(s, a, s->values[s->conditions[i].first], 1);
        fuzz_check(!s->conditions[i].keyed || a[i].n > 0);
    }
    for (size_t i = 0; i < s->n; i++)
        cw_db_array_free(&a[i]);
    cw_db_array_free(&ids);
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

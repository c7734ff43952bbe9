/* Who may speak for whose children. links: services/uplink-processor/proxies.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "services/uplink-processor/proxies.h"

/* A proxy that lists g<from> to g<to>. */
static void add(struct proxies **p, const char *name, int64_t begins_ms, int64_t ends_ms, int from,
                int to)
{
    for (int i = from; i <= to; i++) {
        char id[] = { 'g', (char)('0' + i), '\0' };
        proxies_add(p, &(struct proxy_row){ .proxy_id = name,
                                            .name = name,
                                            .device_id = id,
                                            .begins_ms = begins_ms,
                                            .ends_ms = ends_ms,
                                            .device_key = i });
    }
}

static void assert_found(const struct proxies *p, int64_t at_ms, const char *name, bool in_force)
{
    const struct proxy *found = proxies_find(p, "g1", "g2", at_ms);
    assert_non_null(found);
    assert_string_equal(found->name, name);
    assert_int_equal(proxy_in_force(found, at_ms), in_force);
}

static void only_a_proxy_that_lists_both(void **state)
{
    struct proxies *p = NULL;
    (void)state;
    assert_null(proxies_find(p, "g1", "g2", 5));
    assert_null(proxies_gateway(p, 1));
    add(&p, "a", 0, 10, 1, 1);
    add(&p, "b", 0, 10, 2, 4);
    assert_null(proxies_find(p, "g1", "g2", 5));
    assert_null(proxies_find(p, "g1", "g3", 5));
    assert_string_equal(proxies_find(p, "g4", "g2", 5)->name, "b");
    assert_string_equal(proxies_gateway(p, 3), "g3");
    assert_null(proxies_gateway(p, 5));
    proxies_free(&p);
    assert_null(p);
    proxies_free(&p);
}

static void from_its_beginning_until_before_its_end(void **state)
{
    struct proxies *p = NULL;
    (void)state;
    add(&p, "a", 10, 20, 1, 2);
    assert_found(p, 9, "a", false);
    assert_found(p, 10, "a", true);
    assert_found(p, 19, "a", true);
    assert_found(p, 20, "a", false);
    proxies_free(&p);
}

static void the_one_that_says_most(void **state)
{
    struct proxies *p = NULL;
    (void)state;
    add(&p, "old", 0, 5, 1, 2);
    add(&p, "over", 0, 10, 1, 3);
    add(&p, "far", 80, 90, 1, 2);
    add(&p, "next", 60, 70, 0, 2);
    add(&p, "now", 20, 30, 1, 2);
    assert_found(p, 25, "now", true);
    assert_found(p, 15, "now", false);
    assert_found(p, 40, "next", false);
    assert_found(p, 75, "far", false);
    assert_found(p, 95, "far", false);
    proxies_free(&p);
    add(&p, "old", 0, 5, 1, 2);
    add(&p, "over", 0, 10, 1, 3);
    assert_found(p, 40, "over", false);
    proxies_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_a_proxy_that_lists_both),
        cmocka_unit_test(from_its_beginning_until_before_its_end),
        cmocka_unit_test(the_one_that_says_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

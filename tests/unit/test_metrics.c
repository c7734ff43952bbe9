#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/metrics.h"

static void assert_written(const char *text)
{
    struct cw_buf out = { 0 };
    cw_metrics_write(&out);
    assert_non_null(strstr(out.data, text));
    cw_buf_free(&out);
}

static void a_family_stands_together_below_one_head(void **state)
{
    (void)state;
    cw_metric_add(cw_counter("causeway_b_total", "p=\"0\"", "things"), 2);
    cw_metric_set(cw_gauge("causeway_a", NULL, "level"), -7);
    cw_metric_add(cw_counter("causeway_b_total", "p=\"1\"", "things"), 3);
    cw_metric_add(cw_counter("causeway_b_total", "p=\"0\"", "things"), 1);
    assert_written("# HELP causeway_a level\n# TYPE causeway_a gauge\ncauseway_a -7\n"
                   "# HELP causeway_b_total things\n# TYPE causeway_b_total counter\n"
                   "causeway_b_total{p=\"0\"} 3\ncauseway_b_total{p=\"1\"} 3\n");
}

static void the_same_name_and_labels_are_one_series(void **state)
{
    (void)state;
    assert_ptr_equal(cw_gauge("causeway_g", "x=\"1\"", "h"),
                     cw_gauge("causeway_g", "x=\"1\"", "h"));
    assert_ptr_not_equal(cw_gauge("causeway_g", "x=\"1\"", "h"), cw_gauge("causeway_g", NULL, "h"));
}

static void a_histogram_counts_up_to_each_bound(void **state)
{
    (void)state;
    struct cw_metric *m = cw_histogram_ms("causeway_wait_ms", "q=\"1\"", "waits");
    cw_metric_observe(m, 1);
    cw_metric_observe(m, 1.5);
    cw_metric_observe(m, 1e9);
    assert_int_equal(cw_metric_value(m), 3);
    assert_written("causeway_wait_ms_bucket{q=\"1\",le=\"0.5\"} 0\n"
                   "causeway_wait_ms_bucket{q=\"1\",le=\"1\"} 1\n"
                   "causeway_wait_ms_bucket{q=\"1\",le=\"2\"} 2\n");
    assert_written("causeway_wait_ms_bucket{q=\"1\",le=\"20000\"} 2\n"
                   "causeway_wait_ms_bucket{q=\"1\",le=\"+Inf\"} 3\n"
                   "causeway_wait_ms_sum{q=\"1\"} 1000000002.500\n"
                   "causeway_wait_ms_count{q=\"1\"} 3\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_family_stands_together_below_one_head),
        cmocka_unit_test(the_same_name_and_labels_are_one_series),
        cmocka_unit_test(a_histogram_counts_up_to_each_bound),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}

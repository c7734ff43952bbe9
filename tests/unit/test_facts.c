/* What the answers of all processes become.
 * links: services/identity/facts_answer.c services/identity/facts_lines.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/json.h"
#include "services/identity/facts.h"

static void ports_that_entries_publish(void **state)
{
    static const char *const bad[] = { "mqtt",       "mqtt=",   "mqtt=0",     "mqtt=65536",
                                       "mqtt=1883x", "smtp=25", "mqtt =1883", "mqtt=1883,ws=1" };
    char err[400];
    (void)state;
    for (size_t i = 0; i < CW_ARRAY_LEN(bad); i++) {
        assert_null(facts_ports_read(bad[i], err, sizeof err));
        assert_non_null(strstr(err, "CAUSEWAY_PUBLIC_PORTS: \""));
    }
    static const char *const good[] = { "", "  ", "mqtt=1883", " https=443  wss=65535 " };
    for (size_t i = 0; i < CW_ARRAY_LEN(good); i++) {
        struct facts_ports *p = facts_ports_read(good[i], err, sizeof err);
        assert_non_null(p);
        free(p);
    }
}

static void who_has_not_answered(void **state)
{
    (void)state;
    json_t *answers = json_pack("[{s:s}, {s:s}]", "daemon", "rule-engine", "daemon", "identity");
    json_t *missing = facts_missing(answers);
    assert_int_equal(json_array_size(missing), 6);
    assert_string_equal(json_string_value(json_array_get(missing, 0)), "rest-gateway");
    json_decref(missing);
    json_decref(answers);
}

static const char *text_of_line(const json_t *lines, const char *title)
{
    const json_t *line = cw_json_find(lines, "title", title);
    return line ? cw_json_text(line, "text") : NULL;
}

static void lines_for_what_is_there(void **state)
{
    const struct facts_caller who = { "p1", "region-1", "water", "admin" };
    (void)state;
    json_t *at =
        json_pack("[{s:s, s:s, s:i}, {s:s, s:s, s:i}]", "protocol", "http", "host", "2001:db8::7",
                  "port", 8080, "protocol", "mqtts", "host", "iot.example", "port", 8883);
    json_t *own = facts_lines(&who, at, true), *known = facts_lines(&who, at, false);
    assert_non_null(
        strstr(text_of_line(own, "the devices"), "http://[2001:db8::7]:8080/v5/iot/p1/devices"));
    assert_null(text_of_line(own, "a message of the device"));
    assert_non_null(strstr(text_of_line(own, "a message of the device, over TLS"),
                           "--cafile causeway-ca.crt -h iot.example -p 8883 "));
    assert_non_null(strstr(text_of_line(known, "a message of the device, over TLS"),
                           "--cafile /etc/ssl/certs/ca-certificates.crt "));
    assert_null(text_of_line(known, "the certificate of the CA, for the lines with TLS"));
    assert_int_equal(json_array_size(known) + 1, json_array_size(own));
    json_decref(own);
    json_decref(known);
    json_decref(at);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(ports_that_entries_publish),
                                        cmocka_unit_test(who_has_not_answered),
                                        cmocka_unit_test(lines_for_what_is_there) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* things.c - a street light and a water meter: values that one could believe. */
#include "simulator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WATTS_FULL 96.0

static double jitter(double width) { return width * (rand() / (double)RAND_MAX - 0.5); }

static json_t *decimal(double v, double step) { return json_real(round(v / step) * step); }

static int refuse(json_t **paras, const char *reason)
{
    *paras = json_pack("{s:s}", "reason", reason);
    return 1;
}

/* ---- street light */

static void light_start(struct thing *t, unsigned seed)
{
    t->on = true;
    t->brightness = 40 + seed * 17 % 50;
}

static void light_step(struct thing *t) { t->age_s++; }

static json_t *light_report(const struct thing *t, char *text, size_t size)
{
    double watts = t->on ? WATTS_FULL * t->brightness / 100 + jitter(1.5) : 0.4;
    watts = watts < 0 ? 0 : watts;
    snprintf(text, size, "%s, brightness %ld %%, %.1f W", t->on ? "on" : "off", t->brightness,
             watts);
    return json_pack("{s:I, s:s, s:o}", "brightness", (json_int_t)t->brightness, "switch",
                     t->on ? "ON" : "OFF", "power", decimal(watts, 0.1));
}

static int light_obey(struct thing *t, const char *command, json_t *in, json_t **paras)
{
    json_t *value = json_object_get(in, "brightness");
    if (strcmp(command, "SET_BRIGHTNESS"))
        return refuse(paras, "a street light knows SET_BRIGHTNESS only");
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > 100)
        return refuse(paras, "brightness is a whole number from 0 to 100");
    t->brightness = json_integer_value(value);
    t->on = t->brightness > 0;
    *paras = json_pack("{s:I}", "brightness", (json_int_t)t->brightness);
    return 0;
}

/* ---- water meter */

static void meter_start(struct thing *t, unsigned seed)
{
    t->valve_open = true;
    t->volume_m3 = 100 + seed * 37 % 400;
    t->battery = 80 + seed * 7 % 20;
}

static void meter_step(struct thing *t)
{
    double wanted = 1.2 + 0.9 * sin(t->age_s++ / 20.0) + jitter(0.3);
    t->flow_m3h = t->valve_open && wanted > 0 ? wanted : 0;
    t->volume_m3 += t->flow_m3h / 3600;
    if (t->age_s % 3600 == 0 && t->battery > 0)
        t->battery--;
}

static json_t *meter_report(const struct thing *t, char *text, size_t size)
{
    snprintf(text, size, "valve %s, %.2f m3/h, %.3f m3, battery %ld %%",
             t->valve_open ? "open" : "closed", t->flow_m3h, t->volume_m3, t->battery);
    return json_pack("{s:o, s:o, s:I}", "flow", decimal(t->flow_m3h, 0.01), "volume",
                     decimal(t->volume_m3, 0.001), "battery", (json_int_t)t->battery);
}

static int meter_obey(struct thing *t, const char *command, json_t *in, json_t **paras)
{
    const char *state = json_string_value(json_object_get(in, "state"));
    if (strcmp(command, "VALVE"))
        return refuse(paras, "a water meter knows VALVE only");
    if (!state || (strcmp(state, "OPEN") && strcmp(state, "CLOSE")))
        return refuse(paras, "state is OPEN or CLOSE");
    t->valve_open = !strcmp(state, "OPEN");
    *paras = json_pack("{s:s}", "state", state);
    return 0;
}

static const struct kind kinds[] = {
    { "streetlight", "street light", "StreetLight", light_start, light_step, light_report,
      light_obey },
    { "watermeter", "water meter", "WaterMeter", meter_start, meter_step, meter_report,
      meter_obey },
};

const struct kind *kind_find(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, name))
            return &kinds[i];
    return NULL;
}

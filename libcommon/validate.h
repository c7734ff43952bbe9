/* validate.h - checks parameters and bodies by the tables of openapi.json: what comes over REST,
 * and what is made of other forms before it is stored.
 *
 * Each refusal names the field by its path, such as service_capabilities[0].service_id, and says
 * what is expected. Lengths count code points. */
#pragma once

#include <jansson.h>

#include "proto/route_table.h"

struct cw_refusal {
    enum cw_error error;
    char text[512]; /* for cw_error_body() */
};

/* One value of a path or query parameter. 0 or -EINVAL and *r. */
int cw_validate_param(struct cw_refusal *r, const struct cw_param *param, const char *value);

/* Checks a body. Members that are null without a meaning are removed: to the SDKs null and absent
 * are the same; *changed says so. 0 or -EINVAL and *r. */
int cw_validate_body(struct cw_refusal *r, bool *changed, const struct cw_schema *schema,
                     json_t *body);

/* start_time before end_time where both were given (basic form, already checked). */
int cw_validate_order(struct cw_refusal *r, const char *start_time, const char *end_time);

/* draft.h - a product model inferred from samples of what devices report. No I/O.
 *
 * A sample is a report ({"services": [{"service_id", "properties"}]}), one of a gateway
 * ({"devices":
 * [{"services": …}]}), or any other object: then its members are properties of one service. For
 * each property the model has the narrowest type of docs/protocol/product-model.md that takes the
 * values of all samples; where no type takes all, the one that takes most of them, and the others
 * are named as conflicts. */
#pragma once

#include <jansson.h>

#include "libcommon/util.h"

#define DRAFT_SAMPLES_MAX  100
#define DRAFT_SERVICES_MAX 50
#define DRAFT_PROPERTIES   500 /* of a service */
#define DRAFT_CONFLICTS    10  /* that are named, of a property */
#define DRAFT_LEFT_OUT     50  /* names and parts that are told of */

struct draft;

/* service_id: of samples that do not name one; copied. */
struct draft *draft_new(const char *service_id);
/* The next sample; borrowed. False: it is no object, and adds nothing but its number. */
bool draft_add(struct draft *d, const json_t *sample);
/* {service_capabilities, evidence, left_out, samples}; the caller owns it. Evidence has for each
 * property how often it came, the sample that decides its type (the first one has number 1), and
 * conflicts. */
json_t *draft_model(const struct draft *d);
void draft_free(struct draft **d); /* sets *d to NULL; NULL is fine */

/* model.h - product models: reading a product's service_capabilities, checking what devices report
 * and what applications send against them, and explaining each mismatch.
 *
 * A model is compiled once and never changes. Checks walk the JSON that the caller has parsed;
 * nothing is parsed or copied but the texts of mismatches. The rules of a model: docs/protocol/
 * product-model.md. */
#pragma once

#include <jansson.h>

#include "libcommon/util.h"

struct cw_model;

/* Where a model breaks which rule. */
struct cw_model_error {
    char path[256]; /* service_capabilities[0].properties[2].max */
    char text[256]; /* for a person: what is wrong, what is allowed */
};

/* Compiles a service_capabilities array (an object that holds one under that name is fine too).
 * -EINVAL: *err says where and why. Borrows capabilities for the call. Free with cw_model_free. */
int cw_model_compile(struct cw_model **out, const json_t *capabilities, struct cw_model_error *err);
/* The same from JSON text. -EBADMSG: not JSON. */
int cw_model_parse(struct cw_model **out, const char *text, size_t len, struct cw_model_error *err);
void cw_model_free(struct cw_model **m); /* sets *m to NULL; *m may be NULL */

enum cw_verdict_code {
    CW_VERDICT_OK,
    CW_VERDICT_UNKNOWN_SERVICE,
    CW_VERDICT_UNKNOWN_PROPERTY,
    CW_VERDICT_UNKNOWN_COMMAND,
    CW_VERDICT_UNKNOWN_PARA,
    CW_VERDICT_MISSING,      /* a required para is not there */
    CW_VERDICT_WRONG_TYPE,   /* also: properties or paras that are no object */
    CW_VERDICT_OUT_OF_RANGE, /* min, max, step */
    CW_VERDICT_NOT_IN_ENUM,
    CW_VERDICT_TOO_LONG,
    CW_VERDICT_NOT_WRITABLE, /* the method of the property has no W */
};
/* Stable word for notices and stored verdicts: unknown_property. */
const char *cw_verdict_name(enum cw_verdict_code code);
/* True if the shadow takes an item of a report with this verdict: a value of the right type that
 * lies outside min, max or step is noted and kept; everything else that does not fit is left out.
 */
bool cw_verdict_kept(enum cw_verdict_code code);

/* One item: a property, a para, or (name "") a whole service or command. */
struct cw_verdict {
    enum cw_verdict_code code;
    const char *service_id; /* borrowed from the call */
    const char *name;       /* borrowed from the JSON checked or from the model */
    char *text;             /* NULL for OK; else what was expected, what was found, what is near */
};

/* A growing list; zero it to start. The texts belong to it. */
struct cw_verdicts {
    struct cw_verdict *items;
    size_t n, cap;
    size_t bad;    /* how many are not OK */
    size_t nearby; /* names looked up by likeness: bounded, since that is dear */
};
void cw_verdicts_reset(struct cw_verdicts *v); /* keeps the memory of the list */
void cw_verdicts_free(struct cw_verdicts *v);

/* A report's properties of one service: adds one verdict per property, or a single one when the
 * service is unknown or properties is no object. Returns true if all are OK. */
bool cw_model_check_report(const struct cw_model *m, const char *service_id,
                           const json_t *properties, struct cw_verdicts *out);
/* The same for values that an application wants set (desired, properties/set): also writable; JSON
 * null is OK (removes the value). */
bool cw_model_check_set(const struct cw_model *m, const char *service_id, const json_t *properties,
                        struct cw_verdicts *out);
/* A command's paras (NULL or JSON null: none): adds one verdict per para sent, and one per required
 * para that is missing; or a single one when service or command is unknown. True if all are OK. */
bool cw_model_check_command(const struct cw_model *m, const char *service_id,
                            const char *command_name, const json_t *paras, struct cw_verdicts *out);

/* serve.h - what the files that answer api.data.* share. */
#pragma once

#include "libcommon/api_rows.h"
#include "libcommon/api_space.h"
#include "services/uplink-processor/uplink.h"

/* Runs a statement for a call; 503 when the database is away. */
void serve_query(struct cw_api_call *call, struct uplink *u, const struct cw_stmt *stmt, int n,
                 const struct cw_db_param *params, cw_db_fn *cb);
/* True if res has a row for the device of the path; else the call has been answered. */
bool serve_has_rows(struct cw_api_call *call, PGresult *res);

/* serve_draft.c: CreateProductDraft; NO_SAMPLES when nothing can be learned. */
void create_product_draft(struct cw_api_call *call, void *self);

/* serve_shadow.c; self is the uplink */
void show_shadow(struct cw_api_call *call, void *self);
/* Desired values of services, all or none: SHADOW_CONFLICT, NOT_WRITABLE, SHADOW_KEY. Answers with
 * the shadow; the device is told by command-dispatcher, when it is online. */
void update_shadow(struct cw_api_call *call, void *self);
void delete_shadow(struct cw_api_call *call, void *self); /* 204; versions begin anew */

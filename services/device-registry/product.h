/* product.h - what the files about products share. */
#pragma once

#include "services/device-registry/registry.h"

/* The product as it is answered; whole: with its model. */
json_t *product_json(const PGresult *res, int row, bool whole);

/* Copies the members that an application may give, as far as they are there. */
void product_copy_given(json_t *to, json_t *from);

/* Looks for the product of the path; app_id NULL: in the default space, else the oldest of that id.
 * Always one row; product_key is NULL when there is none. False: cb will not run. */
bool product_find(struct registry *r, struct cw_api_call *call, const char *app_id, cw_db_fn *cb,
                  void *arg);
/* Ends the call when product_find() has found none: NO_APP or NO_PRODUCT. */
void product_fail_none(struct cw_api_call *call, const PGresult *res, const char *app_id);

/* A model must be sound, and its defaults must fit. False: the call has been failed. */
bool product_check_model(struct cw_api_call *call, const json_t *services);
/* Members that an application may leave out get the value that they then have. */
void product_fill_model(json_t *services);

/* Stores a new product in space app_id (NULL: the default one) and ends the call, with 201 and the
 * product or with what is wrong. Takes product: members of AddProduct, its model checked and
 * filled. manufacturer_id and model: of the ZIP form, or NULL; borrowed. */
void product_create(struct registry *r, struct cw_api_call *call, const char *app_id,
                    json_t *product, const char *manufacturer_id, const char *model);

/* Products: the ZIP form of a model comes in and goes out. */
#include <stdlib.h>
#include <string.h>

#include "services/device-registry/package.h"
#include "services/device-registry/product.h"

void import_product(struct cw_api_call *call, void *self)
{
    const Causeway__ApiRequest *q = cw_api_request(call);
    const char *name = cw_api_query(call, "product_name"), *id = cw_api_query(call, "product_id");
    struct package p = { 0 };
    if (package_read(&p, q->body.data, q->body.len, cw_api_query(call, "file_name")) < 0)
        cw_api_fail(call, CW_E_PACKAGE, "%zu violations: %s.", p.n_faults, p.faults.data);
    else {
        if (name)
            json_object_set_new(p.product, "name", json_string(name));
        if (id)
            json_object_set_new(p.product, "product_id", json_string(id));
        product_fill_model(json_object_get(p.product, "service_capabilities"));
        product_create(self, call, cw_api_query(call, "app_id"), json_incref(p.product),
                       p.manufacturer_id, p.model);
    }
    package_free(&p);
}

static void answer(struct cw_api_call *call, const PGresult *res)
{
    json_t *product = product_json(res, 0, true);
    struct cw_buf zip =
        package_write(product, cw_db_str(res, 0, "manufacturer_id"), cw_db_str(res, 0, "model"));
    json_decref(product);
    if (!zip.len) {
        cw_api_fail(call, CW_E_INTERNAL, "The package could not be made.");
        return;
    }
    char *name = cw_sprintf("attachment; filename=\"%s.zip\"", cw_db_str(res, 0, "product_id"));
    cw_api_reply_header(call, "Content-Type", "application/zip");
    cw_api_reply_header(call, "Content-Disposition", name);
    cw_api_reply(call, 200, zip.data, zip.len);
    cw_buf_free(&zip);
    free(name);
}

static void on_found(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    if (cw_api_db_failed(call, res, "export a product"))
        return;
    if (!cw_db_str(res, 0, "product_key"))
        product_fail_none(call, res, cw_api_query(call, "app_id"));
    else
        answer(call, res);
}

void export_product(struct cw_api_call *call, void *self)
{
    if (!product_find(self, call, cw_api_query(call, "app_id"), on_found, call))
        cw_api_no_db(call);
}

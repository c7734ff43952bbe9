/* The ZIP form of a model. A first byte 'Z': the rest is a ZIP as it came. Else two JSON files,
 * parted by a byte 0xff, are put into one, so that what is in them is reached; a package that is
 * taken is written and read again. A policy document for what policies say, behind a further 0xff.
 * links: services/device-registry/package_read.c services/device-registry/package_write.c
 * services/device-registry/package_json.c services/rest-gateway/policy.c */
#include <zip.h>

#include "libcommon/json.h"
#include "services/device-registry/package.h"
#include "services/rest-gateway/policy.h"
#include "tests/fuzz/fuzz.h"

static void read_again(const struct package *p)
{
    struct package again = { 0 };
    json_t *product = json_deep_copy(p->product);
    json_object_set_new(product, "product_id", json_string("p"));
    struct cw_buf zip = package_write(product, p->manufacturer_id, p->model);
    fuzz_check(zip.len > 0);
    if (package_read(&again, zip.data, zip.len, NULL) == 0)
        fuzz_check(strcmp(again.model, p->model) == 0 &&
                   json_array_size(json_object_get(again.product, "service_capabilities")) ==
                       json_array_size(json_object_get(p->product, "service_capabilities")));
    package_free(&again);
    cw_buf_free(&zip);
    json_decref(product);
}

static void read_package(const void *data, size_t len)
{
    struct package p = { 0 };
    if (package_read(&p, data, len, "Pump_Maker_M.zip") == 0)
        read_again(&p);
    else
        fuzz_check(p.n_faults > 0 && p.faults.len > 0);
    package_free(&p);
}

static FUZZ_UNSEEN void add(zip_t *zip, const char *name, const char *text)
{
    zip_source_t *s = zip_source_buffer(zip, text, strlen(text), 0);
    fuzz_check(s && zip_file_add(zip, name, s, ZIP_FL_OVERWRITE) >= 0);
}

static FUZZ_UNSEEN struct cw_buf pack(const char *device, const char *service)
{
    struct cw_buf out = { 0 };
    char chunk[4096];
    zip_int64_t n;
    zip_source_t *source = zip_source_buffer_create(NULL, 0, 0, NULL);
    zip_source_keep(source);
    zip_t *zip = zip_open_from_source(source, ZIP_TRUNCATE, NULL);
    add(zip, "profile/devicetype-capability.json", device);
    add(zip, "service/Pump/profile/servicetype-capability.json", service);
    fuzz_check(zip_close(zip) == 0 && zip_source_open(source) == 0);
    while ((n = zip_source_read(source, chunk, sizeof chunk)) > 0)
        cw_buf_add(&out, chunk, (size_t)n);
    zip_source_close(source);
    zip_source_free(source);
    return out;
}

static void read_policy(const char *text)
{
    struct cw_json_error err;
    struct access a;
    json_t *grants = cw_json_parse(text, strlen(text), &err);
    access_of_grants(&a, grants, "p", "iotda:devices:query");
    fuzz_check(a.n_allowed <= ACCESS_SPACES && a.n_denied <= ACCESS_SPACES);
    fuzz_check(!access_everywhere(&a) || access_any(&a));
    bool before = access_any(&a);
    access_limit(&a, json_object_get(json_array_get(grants, 0), "policy"), "iotda:devices:query");
    fuzz_check(before || !access_any(&a)); /* a limit gives nothing */
    json_decref(grants);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size && *data == 'Z') {
        read_package(data + 1, size - 1);
        return 0;
    }
    char *device = fuzz_part(&data, &size), *service = fuzz_part(&data, &size),
         *policy = fuzz_part(&data, &size);
    struct cw_buf zip = pack(device, service);
    read_package(zip.data, zip.len);
    read_policy(policy);
    cw_buf_free(&zip);
    free(device);
    free(service);
    free(policy);
    return 0;
}

#include "services/device-registry/template_body.h"

#include <stdio.h>
#include <string.h>

#include <openssl/obj_mac.h>

#include "services/device-registry/subject.h"

#define PREFIX         "iotda::certificate::"
#define PARAMETERS_MAX 16
#define VALUE_LEN      257

static const struct {
    const char *name;
    int nid;
} known[] = {
    { PREFIX "country", NID_countryName },
    { PREFIX "organization", NID_organizationName },
    { PREFIX "organizational_unit", NID_organizationalUnitName },
    { PREFIX "distinguished_name_qualifier", NID_dnQualifier },
    { PREFIX "state_name", NID_stateOrProvinceName },
    { PREFIX "common_name", NID_commonName },
    { PREFIX "serial_number", NID_serialNumber },
};

static int nid_of(const char *parameter)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(known); i++)
        if (strcmp(known[i].name, parameter) == 0)
            return known[i].nid;
    return NID_undef;
}

/* ---- what a template may say */

struct reading {
    const json_t *parameters;
    char *buf;
    size_t size;
};

static bool CW_PRINTF(2, 3) wrong(const struct reading *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->buf, r->size, fmt, ap);
    va_end(ap);
    return false;
}

static bool parameters_fit(const struct reading *r)
{
    const char *name, *type;
    json_t *value;
    if (json_object_size(r->parameters) > PARAMETERS_MAX)
        return wrong(r, "template_body.parameters: more than %d", PARAMETERS_MAX);
    json_object_foreach((json_t *)r->parameters, name, value)
    {
        type = cw_body_text(value, "type");
        if (nid_of(name) == NID_undef)
            return wrong(r,
                         "template_body.parameters: \"%.64s\" is not known; there are " PREFIX
                         "country, organization, organizational_unit, "
                         "distinguished_name_qualifier, state_name, common_name, serial_number",
                         name);
        if (!type || strcmp(type, "String") != 0)
            return wrong(r, "template_body.parameters.%.64s: must be {\"type\": \"String\"}", name);
    }
    return true;
}

/* {"ref": parameter} or, if text is allowed, a text that is not empty. */
static bool value_fits(const struct reading *r, const json_t *value, const char *path, bool text)
{
    const char *ref = cw_body_text(value, "ref");
    if (json_is_string(value) && text)
        return *json_string_value(value) && strlen(json_string_value(value)) < VALUE_LEN
                   ? true
                   : wrong(r, "template_body.%s: 1 to 256 characters", path);
    if (!ref)
        return wrong(r, "template_body.%s: must be %s{\"ref\": parameter}", path,
                     text ? "a text or " : "");
    if (!json_object_get(r->parameters, ref))
        return wrong(r, "template_body.%s.ref: \"%.64s\" is not among template_body.parameters",
                     path, ref);
    return true;
}

static const json_t *device_of(const json_t *body)
{
    return json_object_get(json_object_get(body, "resources"), "device");
}

static bool tags_fit(const struct reading *r, const json_t *tags)
{
    size_t i, k;
    const json_t *tag;
    json_array_foreach(tags, i, tag)
    {
        for (k = 0; k < i; k++)
            if (json_equal(json_object_get(json_array_get(tags, k), "tag_key"),
                           json_object_get(tag, "tag_key")))
                return wrong(r, "template_body.resources.device.tags[%zu].tag_key: comes twice", i);
    }
    return true;
}

const char *template_fault(const json_t *body, char *buf, size_t size)
{
    static const struct {
        const char *name, *path;
        bool text, required;
    } fields[] = {
        { "node_id", "resources.device.node_id", false, true },
        { "product_id", "resources.device.product_id", true, true },
        { "device_id", "resources.device.device_id", false, false },
        { "device_name", "resources.device.device_name", false, false },
    };
    struct reading r = { json_object_get(body, "parameters"), buf, size };
    const json_t *device = device_of(body);
    if (!parameters_fit(&r))
        return buf;
    for (size_t i = 0; i < CW_ARRAY_LEN(fields); i++) {
        const json_t *value = json_object_get(device, fields[i].name);
        if ((value || fields[i].required) && !value_fits(&r, value, fields[i].path, fields[i].text))
            return buf;
    }
    return tags_fit(&r, json_object_get(device, "tags")) ? NULL : buf;
}

/* ---- the device */

/* False: *why says what is missing. */
static bool fill(char out[VALUE_LEN], const json_t *value, const X509 *cert, const char *field,
                 struct login_refusal *why)
{
    const char *ref = cw_body_text(value, "ref");
    int nid = ref ? nid_of(ref) : NID_undef;
    if (!ref) {
        snprintf(out, VALUE_LEN, "%s", json_string_value(value));
        return true;
    }
    subject_text(out, VALUE_LEN, cert, nid);
    if (!*out && nid == NID_serialNumber)
        subject_serial(out, VALUE_LEN, cert);
    if (*out)
        return true;
    *why = (struct login_refusal){ .connack = 5,
                                   .code = "provision_value_missing",
                                   .next_step = "Issue the certificate with this part, or change "
                                                "the template." };
    snprintf(why->reason, sizeof why->reason,
             "The template takes %s from %.64s, and the certificate's subject has none.", field,
             ref);
    return false;
}

json_t *template_device(const json_t *body, const X509 *cert, struct login_refusal *why)
{
    static const char *const fields[] = { "node_id", "product_id", "device_id", "device_name" };
    const json_t *device = device_of(body);
    json_t *out = json_object();
    char text[VALUE_LEN];
    for (size_t i = 0; i < CW_ARRAY_LEN(fields); i++) {
        const json_t *value = json_object_get(device, fields[i]);
        if (!value)
            continue;
        if (!fill(text, value, cert, fields[i], why)) {
            json_decref(out);
            return NULL;
        }
        json_object_set_new(out, fields[i], json_string(text));
    }
    return out;
}

const json_t *template_tags(const json_t *body) { return json_object_get(device_of(body), "tags"); }

const json_t *template_policies(const json_t *body)
{
    return json_object_get(json_object_get(json_object_get(body, "resources"), "policy"),
                           "policy_ids");
}

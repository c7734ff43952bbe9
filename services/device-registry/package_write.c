#include "services/device-registry/package.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zip.h>

#include "libcommon/json.h"

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void copy(json_t *to, const char *as, const json_t *from, const char *key, json_t *if_absent)
{
    json_t *v = json_object_get(from, key);
    if (v && !json_is_null(v))
        json_object_set(to, as, v);
    else
        json_object_set(to, as, if_absent);
    json_decref(if_absent);
}

/* What properties and paras have alike; what is missing gets the value that the form wants. */
static json_t *value_json(const json_t *v, const char *name_as, const char *name)
{
    json_t *o = json_object();
    const char *type = text(v, "data_type");
    json_object_set_new(o, name_as, json_string(text(v, name)));
    json_object_set_new(o, "dataType",
                        json_string(strcmp(type, "DateTime") == 0 ? "dateTime" : type));
    copy(o, "required", v, "required", json_false());
    copy(o, "min", v, "min", json_null());
    copy(o, "max", v, "max", json_null());
    copy(o, "step", v, "step", json_integer(0));
    copy(o, "maxLength", v, "max_length", json_integer(0));
    copy(o, "unit", v, "unit", json_string(""));
    copy(o, "enumList", v, "enum_list", json_null());
    return o;
}

static json_t *paras_json(const json_t *list)
{
    size_t i;
    json_t *v, *out = json_array();
    json_array_foreach(list, i, v)
        json_array_append_new(out, value_json(v, "paraName", "para_name"));
    return out;
}

static json_t *property_json(const json_t *p)
{
    json_t *o = value_json(p, "propertyName", "property_name");
    copy(o, "method", p, "method", json_string("R"));
    copy(o, "description", p, "description", json_string(""));
    return o;
}

static json_t *command_json(const json_t *c)
{
    size_t i;
    json_t *r, *responses = json_array();
    json_array_foreach(json_object_get(c, "responses"), i, r) json_array_append_new(
        responses, json_pack("{s:s, s:o}", "responseName", text(r, "response_name"), "paras",
                             paras_json(json_object_get(r, "paras"))));
    return json_pack("{s:s, s:o, s:o}", "commandName", text(c, "command_name"), "paras",
                     paras_json(json_object_get(c, "paras")), "responses", responses);
}

static json_t *service_json(const json_t *s)
{
    size_t i;
    json_t *v, *properties = json_array(), *commands = json_array(), *events = json_array();
    json_array_foreach(json_object_get(s, "properties"), i, v)
        json_array_append_new(properties, property_json(v));
    json_array_foreach(json_object_get(s, "commands"), i, v)
        json_array_append_new(commands, command_json(v));
    json_array_foreach(json_object_get(s, "events"), i, v)
        json_array_append_new(events, json_pack("{s:s, s:o}", "eventType", text(v, "event_type"),
                                                "paras", paras_json(json_object_get(v, "paras"))));
    json_t *service = json_pack("{s:s, s:s, s:o, s:o, s:o}", "serviceType", text(s, "service_type"),
                                "description", text(s, "description"), "properties", properties,
                                "commands", commands, "events", events);
    return json_pack("{s:[o]}", "services", service);
}

static json_t *device_json(const json_t *product, const char *manufacturer_id, const char *model)
{
    size_t i;
    json_t *s, *services = json_array();
    json_array_foreach(json_object_get(product, "service_capabilities"), i, s)
        json_array_append_new(services,
                              json_pack("{s:s, s:s, s:s}", "serviceId", text(s, "service_id"),
                                        "serviceType", text(s, "service_type"), "option",
                                        text(s, "option")));
    const char *maker = text(product, "manufacturer_name");
    json_t *device = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "manufacturerId", manufacturer_id,
                               "manufacturerName", *maker ? maker : manufacturer_id, "model", model,
                               "protocolType", text(product, "protocol_type"), "deviceType",
                               text(product, "device_type"), "serviceTypeCapabilities", services);
    return json_pack("{s:[o]}", "devices", device);
}

/* Takes json. The text belongs to the archive from here on. */
static bool add_file(zip_t *zip, const char *name, json_t *json)
{
    char *body = json_dumps(json, JSON_INDENT(2));
    json_decref(json);
    zip_source_t *source = body ? zip_source_buffer(zip, body, strlen(body), 1) : NULL;
    if (source && zip_file_add(zip, name, source, ZIP_FL_ENC_UTF_8 | ZIP_FL_OVERWRITE) >= 0)
        return true;
    if (source)
        zip_source_free(source);
    else
        free(body);
    return false;
}

static bool add_files(zip_t *zip, const json_t *product, const char *manufacturer_id,
                      const char *model)
{
    size_t i;
    json_t *s;
    bool fine = add_file(zip, "profile/devicetype-capability.json",
                         device_json(product, manufacturer_id, model));
    json_array_foreach(json_object_get(product, "service_capabilities"), i, s)
    {
        char *name =
            cw_sprintf("service/%s/profile/servicetype-capability.json", text(s, "service_type"));
        fine = fine && add_file(zip, name, service_json(s));
        free(name);
    }
    return fine;
}

static struct cw_buf read_all(zip_source_t *source)
{
    struct cw_buf b = { 0 };
    char chunk[16384];
    zip_int64_t n;
    if (zip_source_open(source) < 0)
        return b;
    while ((n = zip_source_read(source, chunk, sizeof chunk)) > 0)
        cw_buf_add(&b, chunk, (size_t)n);
    zip_source_close(source);
    return b;
}

/* Letters, digits, dot, minus: what every system takes in a name. */
static char *plain(const char *name)
{
    char *out = cw_strdup(name);
    for (char *s = out; *s; s++)
        if (!strchr("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-", *s))
            *s = '-';
    return out;
}

struct cw_buf package_write(const json_t *product, const char *manufacturer_id, const char *model)
{
    struct cw_buf out = { 0 };
    const char *maker = text(product, "manufacturer_name");
    char *id = manufacturer_id ? cw_strdup(manufacturer_id)
                               : plain(*maker ? maker : text(product, "product_id"));
    zip_source_t *source = zip_source_buffer_create(NULL, 0, 0, NULL);
    if (source) {
        zip_source_keep(source); /* the archive gives back one of the two */
        zip_t *zip = zip_open_from_source(source, ZIP_TRUNCATE, NULL);
        bool fine = zip && add_files(zip, product, id, model ? model : text(product, "product_id"));
        if (!zip)
            zip_source_free(source);
        else if (fine && zip_close(zip) == 0)
            out = read_all(source);
        else
            zip_discard(zip);
        zip_source_free(source);
    }
    free(id);
    return out;
}

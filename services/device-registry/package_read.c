#include "services/device-registry/package.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zip.h>

#include "libcommon/json.h"
#include "libcommon/model.h"
#include "libcommon/validate.h"
#include "proto/routes.h"

#define FILES_MAX    1000
#define EXPANDED_MAX (20U << 20)
#define FILE_MAX     (1U << 20)
#define FAULTS_MAX   20
#define DEVICE_FILE  "profile/devicetype-capability.json"
#define SERVICE_TAIL "/profile/servicetype-capability.json"

/* A JSON file of the package. */
struct part {
    char *name;
    char *text;
    size_t len;
    json_t *root;
};

struct reading {
    struct package *out;
    zip_t *zip;
    char top[128]; /* a folder that all lies in, with its slash; or empty */
    uint64_t expanded;
    struct part parts[512];
    size_t n_parts;
};

/* ---- faults */

static void CW_PRINTF(5, 6)
    fault(struct reading *r, const char *file, int line, const char *path, const char *fmt, ...)
{
    struct cw_buf *b = &r->out->faults;
    char what[300];
    va_list ap;
    if (r->out->n_faults++ >= FAULTS_MAX)
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    cw_buf_printf(b, "%s%.200s", b->len ? "; " : "", file);
    if (line)
        cw_buf_printf(b, ":%d", line);
    cw_buf_printf(b, "%s%s: %s", *path ? " " : "", path, what);
}

/* A fault at a path of a file that parses. */
static void CW_PRINTF(4, 5)
    fault_at(struct reading *r, const struct part *p, const char *path, const char *fmt, ...)
{
    char what[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    fault(r, p->name, json_line_of(p->text, p->len, path), path, "%s", what);
}

/* ---- the files */

/* Made by file managers: they mean nothing. */
static bool is_hidden(const char *name)
{
    if (strncmp(name, "__MACOSX/", 9) == 0)
        return true;
    for (const char *s = name; s; s = strchr(s, '/'), s = s ? s + 1 : NULL)
        if (*s == '.' || strcasecmp(s, "Thumbs.db") == 0 || strcasecmp(s, "desktop.ini") == 0)
            return true;
    return false;
}

static bool ends(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcasecmp(s + n - k, tail) == 0;
}

static bool is_codec(const char *name)
{
    return strncmp(name, "codec/", 6) == 0 || ends(name, ".jar") || ends(name, "package.zip");
}

static bool is_service(const char *name)
{
    size_t n = strlen(name), k = strlen(SERVICE_TAIL);
    return strncmp(name, "service/", 8) == 0 && n > 8 + k &&
           strcmp(name + n - k, SERVICE_TAIL) == 0 && !memchr(name + 8, '/', n - k - 8);
}

static bool is_unsafe(const char *name)
{
    return *name == '/' || strchr(name, '\\') || strncmp(name, "../", 3) == 0 ||
           strstr(name, "/../") || ends(name, "/..");
}

/* The whole of an entry; NULL after a fault. */
static char *unpack(struct reading *r, zip_uint64_t index, const char *name, size_t *len)
{
    struct cw_buf b = { 0 };
    char chunk[16384];
    zip_int64_t n;
    zip_file_t *f = zip_fopen_index(r->zip, index, 0);
    while (f && (n = zip_fread(f, chunk, sizeof chunk)) > 0 && b.len <= FILE_MAX) {
        cw_buf_add(&b, chunk, (size_t)n);
        r->expanded += (uint64_t)n;
    }
    if (!f || n < 0)
        fault(r, name, 0, "", "cannot be unpacked");
    else if (b.len > FILE_MAX || r->expanded > EXPANDED_MAX)
        fault(r, name, 0, "", "is too large: 1 MiB a file, 20 MiB together");
    else if (b.len == 0)
        fault(r, name, 0, "", "is empty");
    else {
        zip_fclose(f);
        *len = b.len;
        return b.data;
    }
    if (f)
        zip_fclose(f);
    cw_buf_free(&b);
    return NULL;
}

static void take_json(struct reading *r, zip_uint64_t index, const char *name)
{
    struct cw_json_error err;
    struct part *p = &r->parts[r->n_parts];
    if (r->n_parts == CW_ARRAY_LEN(r->parts)) {
        fault(r, name, 0, "", "is one of too many services");
        return;
    }
    p->text = unpack(r, index, name, &p->len);
    if (!p->text)
        return;
    p->root = cw_json_parse(p->text, p->len, &err);
    p->name = cw_strdup(name);
    r->n_parts++;
    if (!p->root)
        fault(r, name, err.line, "", "%s", err.text);
}

static void take_entry(struct reading *r, zip_uint64_t index)
{
    zip_stat_t st;
    const char *name = zip_get_name(r->zip, index, 0);
    size_t top = strlen(r->top);
    if (!name || zip_stat_index(r->zip, index, 0, &st) < 0) {
        fault(r, "(ZIP)", 0, "", "entry %llu cannot be read", (unsigned long long)index);
        return;
    }
    if (is_unsafe(name))
        fault(r, name, 0, "", "is no plain relative path");
    else if (st.valid & ZIP_STAT_ENCRYPTION_METHOD && st.encryption_method != ZIP_EM_NONE)
        fault(r, name, 0, "", "is encrypted");
    else if (is_hidden(name) || ends(name, "/"))
        return;
    else if (strncmp(name, r->top, top) != 0)
        fault(r, name, 0, "", "does not lie in the folder %s as the others do", r->top);
    else if (strcmp(name + top, DEVICE_FILE) == 0 || is_service(name + top))
        take_json(r, index, name + top);
    else if (is_codec(name + top))
        fault(r, name, 0, "", "is a codec: models with codecs are not accepted yet");
    else
        fault(r, name, 0, "",
              "does not belong here: expected are " DEVICE_FILE
              " and service/<serviceType>" SERVICE_TAIL);
}

/* One folder around everything is what some programs make. */
static void find_top(struct reading *r, zip_int64_t n)
{
    for (zip_int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(r->zip, (zip_uint64_t)i, 0),
                   *slash = name ? strchr(name, '/') : NULL;
        if (slash && strcmp(slash + 1, DEVICE_FILE) == 0 && !is_hidden(name) &&
            (size_t)(slash - name) < sizeof r->top - 2)
            snprintf(r->top, sizeof r->top, "%.*s/", (int)(slash - name), name);
    }
}

static const struct part *part_of(const struct reading *r, const char *name)
{
    for (size_t i = 0; i < r->n_parts; i++)
        if (strcmp(r->parts[i].name, name) == 0)
            return &r->parts[i];
    return NULL;
}

/* ---- conversion: camelCase to snake_case, numbers in text, null arrays */

static const char *const names[][2] = {
    { "serviceId", "service_id" },       { "serviceType", "service_type" },
    { "propertyName", "property_name" }, { "dataType", "data_type" },
    { "enumList", "enum_list" },         { "maxLength", "max_length" },
    { "paraName", "para_name" },         { "commandName", "command_name" },
    { "responseName", "response_name" }, { "eventType", "event_type" },
};
static const char *const kept[] = { "required", "min",          "max",         "step",
                                    "unit",     "method",       "description", "properties",
                                    "commands", "events",       "paras",       "responses",
                                    "option",   "default_value" };

static const char *snake(const char *name)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(names); i++)
        if (strcmp(names[i][0], name) == 0)
            return names[i][1];
    for (size_t i = 0; i < CW_ARRAY_LEN(kept); i++)
        if (strcmp(kept[i], name) == 0)
            return name;
    return NULL;
}

static const char *camel(const char *name, size_t n)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(names); i++)
        if (strlen(names[i][1]) == n && strncmp(names[i][1], name, n) == 0)
            return names[i][0];
    return NULL;
}

static json_t *converted(const char *key, json_t *v);

static json_t *convert(const json_t *from)
{
    json_t *out = json_object(), *v;
    const char *key;
    json_object_foreach((json_t *)from, key, v)
    {
        const char *name = snake(key);
        if (name && !json_is_null(v))
            json_object_set_new(out, name, converted(name, v));
    }
    return out;
}

static json_t *number_text(const json_t *v)
{
    struct cw_buf b = { 0 };
    cw_json_write(&b, v);
    json_t *text = json_string(b.data);
    cw_buf_free(&b);
    return text;
}

static json_t *converted(const char *key, json_t *v)
{
    size_t i;
    json_t *item, *out;
    if ((strcmp(key, "min") == 0 || strcmp(key, "max") == 0) && json_is_number(v))
        return number_text(v);
    if (strcmp(key, "data_type") == 0 && json_is_string(v) &&
        strcmp(json_string_value(v), "dateTime") == 0)
        return json_string("DateTime");
    if (json_is_array(v) && json_array_size(v) && json_is_object(json_array_get(v, 0))) {
        out = json_array();
        json_array_foreach(v, i, item)
            json_array_append_new(out, json_is_object(item) ? convert(item) : json_incref(item));
        return out;
    }
    return json_incref(v);
}

/* A path of the V5 form as the file writes it. */
static void file_path(char out[256], const char *prefix, const char *v5)
{
    size_t used = (size_t)snprintf(out, 256, "%s", prefix);
    while (*v5 && used < 255) {
        size_t n = strcspn(v5, ".[]0123456789");
        const char *name = n ? camel(v5, n) : NULL;
        if (n == 0)
            n = 1;
        used += (size_t)snprintf(out + used, 256 - used, "%.*s", name ? (int)strlen(name) : (int)n,
                                 name ? name : v5);
        v5 += n;
    }
}

/* ---- checks, with the schemas of the contract */

static const struct cw_schema *schema_of(const struct cw_schema *s, const char *field)
{
    for (size_t i = 0; s && i < s->n_fields; i++)
        if (strcmp(s->fields[i].name, field) == 0)
            return s->fields[i].schema;
    return NULL;
}

static const struct cw_schema *product_schema(void) { return cw_route_of("CreateProduct")->body; }

/* Field "a.b": must …. -> path and what. False: it fits. */
static bool breaks(json_t *v, const struct cw_schema *s, char path[200], char what[300])
{
    struct cw_refusal no;
    bool changed;
    if (cw_validate_body(&no, &changed, s, v) == 0)
        return false;
    const char *from = strchr(no.text, '"'), *to = from ? strstr(from + 1, "\": ") : NULL;
    if (!to) {
        path[0] = '\0';
        snprintf(what, 300, "%.299s", no.text);
    } else {
        snprintf(path, 200, "%.*s", (int)(to - from - 1), from + 1);
        snprintf(what, 300, "%.299s", to + 3);
    }
    return true;
}

static void check_items(struct reading *r, const struct part *p, const json_t *service,
                        const char *field)
{
    const struct cw_schema *services = schema_of(product_schema(), "service_capabilities"),
                           *list = schema_of(services->items, field);
    char path[200], what[300], prefix[64], at[256];
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(service, field), i,
                       item) if (breaks(item, list->items, path, what))
    {
        snprintf(prefix, sizeof prefix, "services[0].%s[%zu]%s", field, i, *path ? "." : "");
        file_path(at, prefix, path);
        fault_at(r, p, at, "%s", what);
    }
}

/* Arrays must be arrays before anything is looked at in them. */
static bool arrays_fit(struct reading *r, const struct part *p, const json_t *service)
{
    static const char *const lists[] = { "properties", "commands", "events" };
    bool fine = true;
    for (size_t i = 0; i < CW_ARRAY_LEN(lists); i++) {
        const json_t *v = json_object_get(service, lists[i]);
        char at[64];
        snprintf(at, sizeof at, "services[0].%s", lists[i]);
        if (v && !json_is_null(v) && !json_is_array(v)) {
            fault_at(r, p, at, "expected an array");
            fine = false;
        }
    }
    return fine;
}

static void check_model(struct reading *r, const struct part *p, json_t *service)
{
    static const char *const lists[] = { "properties", "commands", "events" };
    struct cw_model *m = NULL;
    struct cw_model_error err;
    char at[256];
    size_t before = r->out->n_faults;
    for (size_t i = 0; i < CW_ARRAY_LEN(lists); i++)
        check_items(r, p, service, lists[i]);
    if (r->out->n_faults > before)
        return;
    json_t *alone = json_pack("[O]", service);
    if (cw_model_compile(&m, alone, &err) < 0) {
        const char *rest = strchr(err.path, '.');
        file_path(at, "services[0].", rest ? rest + 1 : "");
        fault_at(r, p, at, "%s", err.text);
    }
    cw_model_free(&m);
    json_decref(alone);
}

/* ---- the device file */

static const json_t *first(const json_t *root, const char *list)
{
    const json_t *a = json_object_get(root, list);
    return json_is_array(a) ? json_array_get(a, 0) : NULL;
}

static const char *needed(struct reading *r, const struct part *p, const json_t *device,
                          const char *key)
{
    char at[64];
    const char *v = cw_json_text(device, key);
    snprintf(at, sizeof at, "devices[0].%s", key);
    if (!v)
        fault_at(r, p, at, "a text is required");
    return v ? v : "";
}

static void compare_name(struct reading *r, const char *file_name, const char *type,
                         const char *manufacturer, const char *model)
{
    char *whole = cw_sprintf("%s_%s_%s.zip", type, manufacturer, model),
         *shorter = cw_sprintf("%s_%s", type, manufacturer);
    const char *base =
        file_name && strrchr(file_name, '/') ? strrchr(file_name, '/') + 1 : file_name;
    if (base && strcasecmp(base, whole) != 0 && strncmp(base, shorter, strlen(shorter)) != 0)
        fault(r, base, 0, "", "the name of the package must be %s", whole);
    free(whole);
    free(shorter);
}

static bool is(const char *a, const char *b) { return strcasecmp(a, b) == 0; }

static void set_text(json_t *o, const char *key, const char *text)
{
    if (text && *text)
        json_object_set_new(o, key, json_string(text));
}

static json_t *product_of(struct reading *r, const struct part *p, const json_t *device)
{
    const char *type = needed(r, p, device, "deviceType"),
               *manufacturer = needed(r, p, device, "manufacturerId"),
               *model = needed(r, p, device, "model"),
               *protocol = needed(r, p, device, "protocolType");
    bool coap = is(protocol, "CoAP") || is(protocol, "LWM2M");
    char *name = cw_sprintf("%s_%s", type, model);
    json_t *o = json_object();
    set_text(o, "name", name);
    set_text(o, "device_type", type);
    set_text(o, "protocol_type", coap ? "CoAP" : protocol);
    set_text(o, "data_format", coap ? "binary" : "json");
    set_text(o, "manufacturer_name",
             cw_json_text(device, "manufacturerName") ? cw_json_text(device, "manufacturerName")
                                                      : manufacturer);
    json_object_set_new(o, "service_capabilities", json_array());
    r->out->manufacturer_id = cw_strdup(manufacturer);
    r->out->model = cw_strdup(model);
    free(name);
    return o;
}

/* Which member of the file a member of the product came from. */
static void check_product(struct reading *r, const struct part *p, json_t *product)
{
    static const char *const from[][2] = { { "name", "model" },
                                           { "device_type", "deviceType" },
                                           { "protocol_type", "protocolType" },
                                           { "manufacturer_name", "manufacturerName" } };
    char path[200], what[300], at[64];
    if (r->out->n_faults || !breaks(product, product_schema(), path, what))
        return;
    for (size_t i = 0; i < CW_ARRAY_LEN(from); i++)
        if (strcmp(path, from[i][0]) == 0) {
            snprintf(at, sizeof at, "devices[0].%s", from[i][1]);
            fault_at(r, p, at, "%s", what);
            return;
        }
    fault_at(r, p, "devices[0]", "%s: %s", path, what);
}

/* ---- the services that the device names */

static void add_service(struct reading *r, const struct part *device, json_t *list, size_t at,
                        const json_t *named)
{
    char path[80], file[400];
    const char *id = cw_json_text(named, "serviceId"), *type = cw_json_text(named, "serviceType");
    snprintf(path, sizeof path, "devices[0].serviceTypeCapabilities[%zu]", at);
    if (!id) {
        fault_at(r, device, path, "serviceId: a text is required");
        return;
    }
    snprintf(file, sizeof file, "service/%.300s" SERVICE_TAIL, type ? type : id);
    const struct part *p = part_of(r, file);
    const json_t *service = p && p->root ? first(p->root, "services") : NULL;
    if (!p) {
        fault_at(r, device, path, "service \"%.100s\" has no file %s", id, file);
        return;
    }
    if (!json_is_object(service)) {
        if (p->root)
            fault_at(r, p, "services", "expected an array that holds the service");
        return;
    }
    if (!arrays_fit(r, p, service))
        return;
    json_t *out = convert(service);
    json_object_set_new(out, "service_id", json_string(id));
    set_text(out, "service_type", type ? type : id);
    const char *option = cw_json_text(named, "option");
    json_object_set_new(out, "option", json_string(option ? option : "Optional"));
    check_model(r, p, out);
    json_array_append_new(list, out);
}

static void read_device(struct reading *r, const char *file_name)
{
    size_t i;
    json_t *named;
    const struct part *p = part_of(r, DEVICE_FILE);
    const json_t *device = p && p->root ? first(p->root, "devices") : NULL;
    if (!p)
        fault(r, DEVICE_FILE, 0, "", "is missing");
    else if (p->root && !json_is_object(device))
        fault_at(r, p, "devices", "expected an array that holds the device");
    if (!json_is_object(device))
        return;
    json_t *product = product_of(r, p, device);
    const json_t *services = json_object_get(device, "serviceTypeCapabilities");
    if (services && !json_is_array(services))
        fault_at(r, p, "devices[0].serviceTypeCapabilities", "expected an array");
    json_array_foreach(services, i, named)
        add_service(r, p, json_object_get(product, "service_capabilities"), i, named);
    compare_name(r, file_name,
                 cw_json_text(product, "device_type") ? cw_json_text(product, "device_type") : "",
                 r->out->manufacturer_id, r->out->model);
    check_product(r, p, product);
    r->out->product = product;
}

static void read_entries(struct reading *r, const char *file_name)
{
    zip_int64_t n = zip_get_num_entries(r->zip, 0);
    if (n > FILES_MAX) {
        fault(r, "(ZIP)", 0, "", "holds %lld files; %d are allowed", (long long)n, FILES_MAX);
        return;
    }
    find_top(r, n);
    for (zip_int64_t i = 0; i < n; i++)
        take_entry(r, (zip_uint64_t)i);
    read_device(r, file_name);
}

int package_read(struct package *p, const void *data, size_t len, const char *file_name)
{
    struct reading *r = cw_calloc(1, sizeof *r);
    zip_error_t err;
    zip_error_init(&err);
    r->out = p;
    zip_source_t *source = zip_source_buffer_create(data, len, 0, &err);
    r->zip = source ? zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &err) : NULL;
    if (r->zip) {
        read_entries(r, file_name);
        zip_discard(r->zip);
    } else {
        fault(r, "(ZIP)", 0, "", "is no ZIP file: %s", zip_error_strerror(&err));
        if (source)
            zip_source_free(source);
    }
    zip_error_fini(&err);
    for (size_t i = 0; i < r->n_parts; i++) {
        free(r->parts[i].name);
        free(r->parts[i].text);
        json_decref(r->parts[i].root);
    }
    free(r);
    if (p->n_faults > FAULTS_MAX)
        cw_buf_printf(&p->faults, "; and %zu more", p->n_faults - FAULTS_MAX);
    return p->n_faults ? -EINVAL : 0;
}

void package_free(struct package *p)
{
    json_decref(p->product);
    free(p->manufacturer_id);
    free(p->model);
    cw_buf_free(&p->faults);
    *p = (struct package){ 0 };
}

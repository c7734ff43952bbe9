/* package.h - the ZIP form of a product model (docs/protocol/model-package.md), read and written.
 * No I/O but memory. */
#pragma once

#include <jansson.h>

#include "libcommon/util.h"

#define PACKAGE_MAX_BYTES (4U << 20)

/* What was read of a package; zero it to start. Every fault is a line of its own: file, line, path,
 * what was expected. */
struct package {
    json_t
        *product; /* members of AddProduct but product_id and app_id; NULL when there are faults */
    char *manufacturer_id, *model;
    struct cw_buf faults;
    size_t n_faults;
};

/* file_name: that of the ZIP, compared with what is in it; NULL: not known. 0, or -EINVAL with
 * faults. package_free() either way. */
int package_read(struct package *p, const void *data, size_t len, const char *file_name);
void package_free(struct package *p);

/* A product (as ShowProduct answers it) as a ZIP. The caller frees data. Names come from
 * manufacturer_id and model, or are made of the product's. Empty: out of memory. */
struct cw_buf package_write(const json_t *product, const char *manufacturer_id, const char *model);

/* ---- package_json.c */

/* The line, from 1, on which the value of a path such as services[0].properties[2].max begins in a
 * JSON text that parses; of the deepest part of the path that there is. */
int json_line_of(const char *text, size_t len, const char *path);

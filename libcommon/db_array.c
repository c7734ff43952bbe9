#include "libcommon/db.h"

#include <arpa/inet.h>
#include <endian.h>
#include <string.h>

/* Binary form of a one-dimensional array, as array_send() writes it: dimensions, null flag, element
 * type, length, lower bound; then length and bytes of each element. All big-endian. */
#define HEADER_BYTES 20

static const struct {
    uint32_t oid;
    int width; /* 0: as long as the value */
} types[] = {
    [CW_ARRAY_INT4] = { 23, 4 },  [CW_ARRAY_INT8] = { 20, 8 }, [CW_ARRAY_TEXT] = { 25, 0 },
    [CW_ARRAY_BYTEA] = { 17, 0 }, [CW_ARRAY_BOOL] = { 16, 1 },
};

static void put32(char *at, uint32_t v)
{
    v = htonl(v);
    memcpy(at, &v, sizeof v);
}

void cw_db_array_reset(struct cw_db_array *a, enum cw_array_type type)
{
    static const char header[HEADER_BYTES];
    cw_buf_reset(&a->buf);
    cw_buf_add(&a->buf, header, sizeof header);
    a->type = type;
    a->n = 0;
    a->has_null = false;
}

void cw_db_array_bytes(struct cw_db_array *a, const void *p, size_t n)
{
    char len[4];
    put32(len, (uint32_t)n);
    cw_buf_add(&a->buf, len, sizeof len);
    cw_buf_add(&a->buf, p, n);
    a->n++;
}

void cw_db_array_int(struct cw_db_array *a, int64_t v)
{
    uint64_t big = htobe64((uint64_t)v);
    size_t width = (size_t)types[a->type].width;
    cw_db_array_bytes(a, (const char *)&big + sizeof big - width, width);
}

void cw_db_array_null(struct cw_db_array *a)
{
    char len[4];
    put32(len, UINT32_MAX); /* -1 */
    cw_buf_add(&a->buf, len, sizeof len);
    a->n++;
    a->has_null = true;
}

void cw_db_array_str(struct cw_db_array *a, const char *s)
{
    if (s)
        cw_db_array_bytes(a, s, strlen(s));
    else
        cw_db_array_null(a);
}

struct cw_db_param cw_db_array_param(struct cw_db_array *a)
{
    const uint32_t fields[] = { a->n ? 1 : 0, a->has_null, types[a->type].oid, a->n, 1 };
    for (size_t i = 0; i < CW_ARRAY_LEN(fields); i++)
        put32(a->buf.data + 4 * i, fields[i]);
    /* an empty array has no dimensions, so its length and lower bound are left out */
    return CW_BIN(a->buf.data, a->n ? a->buf.len : 12);
}

void cw_db_array_free(struct cw_db_array *a) { cw_buf_free(&a->buf); }

#include "libcommon/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_ROW(name, number, status, what, cause, todo) { "IOTDA." number, status, what, todo },
static const struct cw_error_row rows[] = { CW_ERRORS(ERROR_ROW) };

const struct cw_error_row *cw_error_row(enum cw_error e) { return &rows[e]; }

void cw_error_vbody(struct cw_buf *out, enum cw_error e, const char *fmt, va_list ap)
{
    char *detail;
    if (vasprintf(&detail, fmt, ap) < 0)
        abort();
    char *text = cw_sprintf("%s %s%s%s", rows[e].what, detail, *detail ? " " : "", rows[e].todo);
    /* the detail may quote what a client sent: only then is it not ours to trust */
    size_t len = strlen(text);
    for (char *p = text; !cw_utf8_valid(text, len) && *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    cw_buf_printf(out, "{\"error_code\":\"%s\",\"error_msg\":", rows[e].code);
    cw_buf_json_string(out, text, len);
    cw_buf_str(out, "}");
    free(text);
    free(detail);
}

void cw_error_body(struct cw_buf *out, enum cw_error e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    cw_error_vbody(out, e, fmt, ap);
    va_end(ap);
}

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/crypto.h"
#include "libcommon/ids.h"
#include "services/push-notifier/notifier.h"

#define NONCE_DIGITS 32

struct attempt {
    struct notifier *n;
    struct item *item;
    struct cw_http_call *http;
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* SHA-256 over token, timestamp and nonce in the order of their text: the receiver, who has the
 * token, can tell that it was us. */
static void sign(const char *token, char out[3][96])
{
    char timestamp[24], nonce[NONCE_DIGITS + 1], hex[CW_DIGEST_HEX_LEN];
    uint8_t digest[CW_DIGEST_LEN];
    snprintf(timestamp, sizeof timestamp, "%" PRId64, cw_now_ms());
    const char *parts[] = { token, timestamp, cw_random_hex(nonce, NONCE_DIGITS) };
    qsort(parts, CW_ARRAY_LEN(parts), sizeof parts[0], by_text);
    char *all = cw_sprintf("%s%s%s", parts[0], parts[1], parts[2]);
    cw_sha256(digest, all, strlen(all));
    free(all);
    snprintf(out[0], 96, "timestamp: %s", timestamp);
    snprintf(out[1], 96, "nonce: %s", nonce);
    snprintf(out[2], 96, "signature: %s", cw_hex(hex, digest, sizeof digest));
}

static void on_outcome(const struct cw_http_outcome *o, void *arg)
{
    struct attempt a = *(struct attempt *)arg;
    bool delivered =
        o->status == 200 && (o->stage == CW_HTTP_STATUS || strcmp(o->code, "too_long") == 0);
    free(arg);
    tell_attempt(a.n, a.item, o);
    window_answered(a.item, delivered, cw_now_ms());
}

/* What a header may hold of a text that a device chose. */
static void header_text(char *out, size_t size, const char *text)
{
    size_t i = 0;
    for (; text[i] && i + 1 < size; i++)
        out[i] = (char)(text[i] > ' ' && text[i] <= '~' ? text[i] : '_');
    out[i] = '\0';
}

void send_item(struct item *item, void *self)
{
    struct notifier *n = self;
    const struct where *w = item->lane->action->detail;
    struct attempt *a = cw_calloc(1, sizeof *a);
    char id[64], request[300], text[256], count[48], signature[3][96];
    const char *headers[10] = { "Content-Type: application/json; charset=UTF-8",
                                "User-Agent: causeway",
                                id,
                                request,
                                count,
                                "X-Causeway-Part: 1/1" };
    snprintf(id, sizeof id, "X-Causeway-Push-Id: %u-%" PRIu64 "-%u", item->lane->partition->number,
             item->seq, item->idx);
    header_text(text, sizeof text, item->push->request_id);
    snprintf(request, sizeof request, "X-Causeway-Request-Id: %s", text);
    snprintf(count, sizeof count, "X-Causeway-Attempt: %u", item->attempts + 1);
    if (w->token) {
        sign(w->token, signature);
        for (int i = 0; i < 3; i++)
            headers[6 + i] = signature[i];
    }
    *a = (struct attempt){ .n = n, .item = item };
    item->call = a;
    a->http = cw_http_send(n->http,
                           &(struct cw_http_request){ .method = "POST",
                                                      .url = w->url,
                                                      .headers = headers,
                                                      .body = item->push->body.data,
                                                      .len = item->push->body.len,
                                                      .timeout_ms = n->timeout_ms,
                                                      .ca_pem = w->ca_pem,
                                                      .cert_name = w->cert_name,
                                                      .sni = w->sni,
                                                      .any_name = w->any_name },
                           on_outcome, a);
}

void send_cancel(struct item *item, void *self)
{
    struct attempt *a = item->call;
    (void)self;
    cw_http_cancel(&a->http);
    free(a);
    item->call = NULL;
}

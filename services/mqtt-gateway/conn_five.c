/* What MQTT 5 adds to a connection: what both sides said they take, aliases, and words at the end.
 */
#include <stdlib.h>
#include <string.h>

#include "services/mqtt-gateway/session.h"

#define RECEIVE_MAX UINT16_MAX /* of who does not say (3.1.2.11.3) */

void conn_speak(struct conn *c, const struct packet_connect *connect)
{
    c->level = connect->level;
    if (c->level < LEVEL_5)
        return;
    c->five = cw_calloc(1, sizeof *c->five);
    c->five->receive_max = connect->props.receive_max ? connect->props.receive_max : RECEIVE_MAX;
    c->five->max_packet = connect->props.max_packet;
}

void conn_five_free(struct conn *c)
{
    for (size_t i = 0; c->five && i < c->five->n_aliases; i++)
        free(c->five->aliases[i].topic);
    if (c->five)
        free(c->five->aliases);
    free(c->five);
    c->five = NULL;
}

/* ---- refusals and ends */

enum reason conn_refusal(uint8_t code)
{
    static const uint8_t reasons[] = {
        REASON_SUCCESS,     REASON_VERSION,     REASON_CLIENT_ID,
        REASON_UNAVAILABLE, REASON_CREDENTIALS, REASON_NOT_AUTHORIZED
    };
    return code < CW_ARRAY_LEN(reasons) ? reasons[code] : REASON_UNSPECIFIED;
}

enum reason conn_reason(const char *cause)
{
    static const struct {
        const char *cause;
        enum reason reason;
    } reasons[] = {
        { "takeover", REASON_TAKEN_OVER },
        { "keep_alive", REASON_KEEP_ALIVE },
        { "drain", REASON_SHUTTING_DOWN },
        { "gateway_cut_off", REASON_SHUTTING_DOWN },
        { "kicked", REASON_ADMINISTRATIVE },
        { "deleted", REASON_NOT_AUTHORIZED },
        { "frozen", REASON_NOT_AUTHORIZED },
        { "secret_reset", REASON_NOT_AUTHORIZED },
        { "fingerprint_reset", REASON_NOT_AUTHORIZED },
        { "certificate_inactive", REASON_NOT_AUTHORIZED },
        { "log_in_doubt", REASON_IMPLEMENTATION },
    };
    for (size_t i = 0; i < CW_ARRAY_LEN(reasons); i++)
        if (strcmp(reasons[i].cause, cause) == 0)
            return reasons[i].reason;
    return REASON_UNSPECIFIED;
}

void conn_dismiss(struct conn *c, const char *cause, enum reason reason, const char *text)
{
    if (c->state != CONN_OPEN || (!c->five && !c->ws)) {
        conn_end(c, cause);
        return;
    }
    if (c->five)
        packet_put_disconnect(conn_out(c), (uint8_t)reason, text);
    conn_part(c, cause);
}

/* ---- topic aliases (3.3.2.3.4) */

static struct alias *find(const struct conn5 *five, uint16_t alias)
{
    for (size_t i = 0; i < five->n_aliases; i++)
        if (five->aliases[i].alias == alias)
            return &five->aliases[i];
    return NULL;
}

const char *conn_alias(struct conn *c, struct packet_publish *pub, enum reason *reason)
{
    struct conn5 *five = c->five;
    if (!five || !pub->props.topic_alias)
        return NULL;
    struct alias *a = find(five, pub->props.topic_alias);
    *reason = REASON_PROTOCOL;
    if (!pub->topic.len && !a)
        return "a topic alias that stands for nothing";
    if (!pub->topic.len) {
        pub->topic = text_of(a->topic);
        return NULL;
    }
    *reason = REASON_QUOTA;
    if (!a && five->n_aliases == ALIASES_MAX)
        return "more than 100 topic aliases";
    if (!a) {
        five->aliases = cw_realloc(five->aliases, (five->n_aliases + 1U) * sizeof *five->aliases);
        a = &five->aliases[five->n_aliases++];
        *a = (struct alias){ .alias = pub->props.topic_alias };
    }
    free(a->topic);
    a->topic = cw_strndup(pub->topic.p, pub->topic.len);
    return NULL;
}

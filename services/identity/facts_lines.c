/* Lines to paste. What they need is in variables of the shell; the certificate of the CA in a file
 * that the second line makes. test_facts.py runs each of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/identity/facts.h"

#define CA_MADE   "causeway-ca.crt"
#define CA_SYSTEM "/etc/ssl/certs/ca-certificates.crt"

/* A report over paho; what stands behind its name differs by protocol. */
#define PAHO(more)                                                                                 \
    "import hashlib, hmac, os, time\n"                                                             \
    "from paho.mqtt import publish\n"                                                              \
    "device, hour = os.environ['DEVICE_ID'], time.strftime('%Y%m%d%H', time.gmtime())\n"           \
    "password = hmac.new(hour.encode(), os.environ['SECRET'].encode(), 'sha256').hexdigest()\n"    \
    "publish.single(f'$oc/devices/{device}/sys/messages/up', '{\"content\": \"hello\"}', qos=1,\n" \
    "               hostname='{host}', port={port}, client_id=f'{device}_0_0_{hour}',\n"           \
    "               auth={'username': device, 'password': password}" more ")\n"
#define MOSQUITTO                                                                                  \
    " -h {host} -p {port} -i \"${DEVICE_ID}_0_0_$HOUR\" -u \"$DEVICE_ID\" -P \"$DEVICE_PASSWORD\"" \
    " -q 1"
#define UP   " -t \"\\$oc/devices/$DEVICE_ID/sys/messages/up\" -m '{\"content\": \"hello\"}'"
#define DOWN " -t \"\\$oc/devices/$DEVICE_ID/sys/messages/down\" -C 1"
#define SEE  "openssl s_client -connect {at} -CAfile {ca} -verify_return_error -brief < /dev/null"

/* protocol: of the address that it is for; NULL: none. needs: variables, with spaces. */
static const struct row {
    const char *title, *protocol, *needs, *language, *text;
} rows[] = {
    { "a token, for the calls below", "http", "PASSWORD", "sh",
      "TOKEN=$(curl -sS -o /dev/null -D - -H 'Content-Type: application/json' -d '{\"auth\": "
      "{\"identity\": {\"methods\": [\"password\"], \"password\": {\"user\": {\"name\": "
      "\"{user}\", \"password\": \"'\"$PASSWORD\"'\", \"domain\": {\"name\": \"{domain}\"}}}}, "
      "\"scope\": {\"project\": {\"name\": \"{project_name}\"}}}}' http://{at}/v3/auth/tokens | "
      "tr -d '\\r' | sed -n 's/^X-Subject-Token: //Ip')" },
    { "the certificate of the CA, for the lines with TLS", "http", "TOKEN", "sh",
      "curl -sS -H \"X-Auth-Token: $TOKEN\" http://{at}/v5/iot/{project}/facts | "
      "jq -j .ca_certificate > " CA_MADE },
    { "the devices", "http", "TOKEN", "sh",
      "curl -sS -H \"X-Auth-Token: $TOKEN\" http://{at}/v5/iot/{project}/devices" },
    { "the devices, over TLS", "https", "TOKEN", "sh",
      "curl -sS --cacert {ca} -H \"X-Auth-Token: $TOKEN\" https://{at}/v5/iot/{project}/devices" },
    { "the devices, with the core of the official Node.js SDK", "http", "AK SK", "javascript",
      "const core = require('@huaweicloud/huaweicloud-sdk-core');\n"
      "const { ClientBuilder } = require('@huaweicloud/huaweicloud-sdk-core/ClientBuilder');\n"
      "const { Region } = require('@huaweicloud/huaweicloud-sdk-core/region/region');\n"
      "const credentials = new core.BasicCredentials().withAk(process.env.AK)\n"
      "    .withSk(process.env.SK).withProjectId('{project}');\n"
      "const client = new ClientBuilder((c) => c, 'BasicCredentials')\n"
      "    .withCredential(credentials)\n"
      "    .withRegion(new Region('{project_name}', 'http://{at}')).build();\n"
      "client.sendRequest({ method: 'GET', url: '/v5/iot/{project_id}/devices', queryParams: {},\n"
      "    pathParams: {}, headers: {}, contentType: 'application/json' })\n"
      "    .then((answer) => console.log(JSON.stringify(answer)));\n" },
    { "the password of a device for this hour", NULL, "SECRET", "sh",
      "HOUR=$(date -u +%Y%m%d%H); DEVICE_PASSWORD=$(printf %s \"$SECRET\" | openssl dgst -sha256 "
      "-hmac \"$HOUR\" | sed 's/.* //')" },
    { "a message of the device", "mqtt", "DEVICE_ID HOUR DEVICE_PASSWORD", "sh",
      "mosquitto_pub" MOSQUITTO UP },
    { "a message of the device, over TLS", "mqtts", "DEVICE_ID HOUR DEVICE_PASSWORD", "sh",
      "mosquitto_pub --cafile {ca}" MOSQUITTO UP },
    { "waits for a message to the device", "mqtt", "DEVICE_ID HOUR DEVICE_PASSWORD", "sh",
      "mosquitto_sub" MOSQUITTO DOWN },
    { "waits for a message to the device, over TLS", "mqtts", "DEVICE_ID HOUR DEVICE_PASSWORD",
      "sh", "mosquitto_sub --cafile {ca}" MOSQUITTO DOWN },
    { "a message of the device, with paho", "mqtt", "DEVICE_ID SECRET", "python", PAHO("") },
    { "a message of the device, with paho over TLS", "mqtts", "DEVICE_ID SECRET", "python",
      PAHO(", tls={'ca_certs': '{ca}'}") },
    { "a message of the device, with paho over WebSocket", "ws", "DEVICE_ID SECRET", "python",
      PAHO(", transport='websockets'") },
    { "a message of the device, with paho over WebSocket and TLS", "wss", "DEVICE_ID SECRET",
      "python", PAHO(", transport='websockets', tls={'ca_certs': '{ca}'}") },
    { "the certificate and what TLS agrees on, for devices", "mqtts", "", "sh", SEE },
    { "the certificate and what TLS agrees on, for applications", "https", "", "sh", SEE },
};

struct filling {
    const char *name, *value;
};

static char *fill(const char *text, const struct filling *f, size_t n)
{
    struct cw_buf b = { 0 };
    while (*text) {
        size_t i;
        for (i = 0; i < n; i++)
            if (strncmp(text, f[i].name, strlen(f[i].name)) == 0)
                break;
        if (i < n) {
            cw_buf_str(&b, f[i].value);
            text += strlen(f[i].name);
        } else
            cw_buf_add(&b, text++, 1);
    }
    cw_buf_add(&b, "", 1);
    return b.data;
}

/* host:port, as URLs have it (RFC 3986, 3.2.2). */
static char *at_of(const json_t *address)
{
    const char *host = address ? cw_json_text(address, "host") : "";
    return cw_sprintf(strchr(host, ':') ? "[%s]:%d" : "%s:%d", host,
                      (int)json_integer_value(json_object_get(address, "port")));
}

static json_t *words(const char *text)
{
    json_t *list = json_array();
    for (size_t n; *text; text += n + (text[n] == ' ')) {
        n = strcspn(text, " ");
        json_array_append_new(list, json_stringn(text, n));
    }
    return list;
}

static json_t *line(const struct facts_caller *c, const struct row *r, const json_t *address,
                    bool ca)
{
    char port[16], *at = at_of(address);
    snprintf(port, sizeof port, "%d", (int)json_integer_value(json_object_get(address, "port")));
    const struct filling values[] = { { "{host}", address ? cw_json_text(address, "host") : "" },
                                      { "{port}", port },
                                      { "{at}", at },
                                      { "{ca}", ca ? CA_MADE : CA_SYSTEM },
                                      { "{project}", c->project_id },
                                      { "{project_name}", c->project_name },
                                      { "{domain}", c->domain_name },
                                      { "{user}", c->user_name } };
    char *text = fill(r->text, values, CW_ARRAY_LEN(values));
    json_t *o = json_pack("{s:s, s:o, s:s, s:s}", "title", r->title, "needs", words(r->needs),
                          "language", r->language, "text", text);
    free(text);
    free(at);
    return o;
}

json_t *facts_lines(const struct facts_caller *c, const json_t *addresses, bool ca)
{
    json_t *list = json_array();
    for (size_t i = 0; i < CW_ARRAY_LEN(rows); i++) {
        const json_t *address =
            rows[i].protocol ? cw_json_find(addresses, "protocol", rows[i].protocol) : NULL;
        if (!ca && strstr(rows[i].text, "ca_certificate"))
            continue; /* clients know it */
        if (address || !rows[i].protocol)
            json_array_append_new(list, line(c, &rows[i], address, ca));
    }
    return list;
}

json_t *facts_sdks(const json_t *addresses)
{
    const json_t *a = cw_json_find(addresses, "protocol", "mqtts");
    json_t *list = json_array();
    if (!a)
        return list;
    char *at = at_of(a), *java = cw_sprintf("ssl://%s", at), *go = cw_sprintf("mqtts://%s", at);
    json_t *host = json_object_get(a, "host"), *port = json_object_get(a, "port");
    json_array_append_new(list, json_pack("{s:s, s:s}", "sdk", "Java", "serverUri", java));
    json_array_append_new(list, json_pack("{s:s, s:s}", "sdk", "Go", "Servers", go));
    json_array_append_new(list,
                          json_pack("{s:s, s:O, s:O, s:s}", "sdk", "Python", "server_uri", host,
                                    "port", port, "note", "takes ports 1883 and 8883 only"));
    json_array_append_new(list, json_pack("{s:s, s:O, s:O, s:s}", "sdk", "C", "address", host,
                                          "port", port, "note",
                                          "TLS when the port's digits contain 8883, plain when "
                                          "they contain 1883"));
    free(at);
    free(java);
    free(go);
    return list;
}

"""An application: speaks the public REST API, with a token or with signatures."""
import itertools
import json
import os
from urllib.parse import urlencode, urlsplit

import requests

import signing

_numbers = itertools.count(1)


def unique(prefix):
    """A name that nobody else has."""
    return f"{prefix}{os.getpid()}x{next(_numbers)}"


PUMP_MODEL = [
    {"service_id": "Pump", "service_type": "Pump", "properties": [
        {"property_name": "flow", "data_type": "decimal", "method": "R", "min": "0", "max": "100"},
        {"property_name": "on", "data_type": "int", "method": "RW", "min": "0", "max": "1"},
        {"property_name": "mode", "data_type": "enum", "method": "RW", "enum_list": ["AUTO", "HAND"]},
        {"property_name": "label", "data_type": "string", "method": "RW", "max_length": 16},
        {"property_name": "luminance", "data_type": "int", "method": "R", "min": "0", "max": "1000"},
    ], "commands": [{"command_name": "drain", "paras": [
        {"para_name": "seconds", "data_type": "int", "min": "0", "max": "60"}],
        "responses": [{"response_name": "drained", "paras": [
            {"para_name": "litres", "data_type": "int"}]}]}]},
    {"service_id": "Load", "service_type": "Load", "properties": [
        {"property_name": "seq", "data_type": "long", "method": "R", "min": "0",
         "max": "2147483647"},
        {"property_name": "at", "data_type": "long", "method": "R"},
        {"property_name": "pad", "data_type": "string", "method": "R", "max_length": 60000},
    ], "commands": []},
]


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.text = response.status_code, response.headers, response.text
        try:
            self.body = response.json() if response.content else None
        except ValueError:
            self.body = None

    @property
    def code(self):
        return self.body.get("error_code") if isinstance(self.body, dict) else None

    @property
    def message(self):
        return self.body.get("error_msg", "") if isinstance(self.body, dict) else ""

    def __repr__(self):
        return f"<{self.status} {self.text[:400]}>"


class Unexpected(AssertionError):
    def __init__(self, what, answer):
        super().__init__(f"{what}: {answer!r}")
        self.answer = answer


class Api:
    """env: the lines of access.env. auth: "token", "sdk" (plain signature), "v11" (derived key)."""

    def __init__(self, env, auth="token", base=None, verify=None):
        self.env, self.auth = env, auth
        self.base = base or env["CAUSEWAY_REST_URL"]
        self.project = env["CAUSEWAY_PROJECT_ID"]
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = verify if verify is not None else env.get("CAUSEWAY_CA_FILE")
        self.token = None

    # ---- authentication

    def login_body(self, **changed):
        user = {"name": self.env["CAUSEWAY_USER"], "password": self.env["CAUSEWAY_PASSWORD"],
                "domain": {"name": self.env["CAUSEWAY_DOMAIN"]}}
        user.update(changed)
        return {"auth": {"identity": {"methods": ["password"], "password": {"user": user}},
                         "scope": {"project": {"name": self.env["CAUSEWAY_REGION"]}}}}

    def login(self):
        got = self.raw("POST", "/v3/auth/tokens", json.dumps(self.login_body()),
                       {"Content-Type": "application/json;charset=utf8"})
        if got.status != 201:
            raise Unexpected("login", got)
        self.token = got.headers["X-Subject-Token"]
        return got

    def raw(self, method, path, data=None, headers=None, timeout=40):
        return Answer(self.session.request(method, self.base + path, data=data, headers=headers,
                                           timeout=timeout, allow_redirects=False))

    def signed_headers(self, method, path, data, scheme, offset_s=0, **more):
        path, _, query = path.partition("?")
        headers = {"host": urlsplit(self.base).netloc, "x-sdk-date": signing.sdk_date(offset_s),
                   "x-project-id": self.project, "content-type": "application/json", **more}
        headers["Authorization"] = signing.sign(
            self.env["CAUSEWAY_AK"], self.env["CAUSEWAY_SK"], method, path, query, headers,
            data, scheme, self.env["CAUSEWAY_REGION"])
        return headers

    # ---- calls below /v5/iot/{project_id}

    def call(self, method, path, body=None, query=None, headers=None, data=None):
        """path: below /v5/iot/{project_id}. body: JSON; data: bytes as they are."""
        path = f"/v5/iot/{self.project}{path}"
        if query:
            path += "?" + urlencode({k: str(v).lower() if isinstance(v, bool) else v
                                     for k, v in query.items()})
        if body is not None:
            data = json.dumps(body).encode()
        if self.auth == "token":
            if not self.token:
                self.login()
            own = {"X-Auth-Token": self.token, "Content-Type": "application/json"}
        else:
            scheme = {"sdk": "SDK-HMAC-SHA256", "v11": "V11-HMAC-SHA256"}[self.auth]
            own = self.signed_headers(method, path, data, scheme)
        own.update(headers or {})
        return self.raw(method, path, data, own)

    def expect(self, status, method, path, body=None, query=None, **more):
        got = self.call(method, path, body, query, **more)
        if got.status != status:
            raise Unexpected(f"{method} {path} should answer {status}", got)
        return got.body

    def get(self, path, **query):
        return self.expect(200, "GET", path, query=query)

    def post(self, path, body=None, status=201, **query):
        return self.expect(status, "POST", path, body, query)

    def put(self, path, body=None, status=200):
        return self.expect(status, "PUT", path, body)

    def delete(self, path, status=204, **query):
        return self.expect(status, "DELETE", path, query=query)

    def refused(self, status, code, method, path, body=None, query=None, data=None):
        """The call is refused with exactly that status and code; returns the message."""
        got = self.call(method, path, body, query, data=data)
        if got.status != status or got.code != code:
            raise Unexpected(f"{method} {path} should be refused with {status} {code}", got)
        assert got.message, "a refusal says why"
        return got.message

    # ---- what most tests need

    def new_product(self, model=None, **changed):
        body = {"name": unique("pump"), "device_type": "Pump", "protocol_type": "MQTT",
                "data_format": "json", "manufacturer_name": "Waterworks",
                "service_capabilities": PUMP_MODEL if model is None else model}
        body.update(changed)
        return self.post("/products", body)

    def new_device(self, product_id, **changed):
        return self.post("/devices", {"node_id": unique("node"), "product_id": product_id, **changed})

    def device(self, device_id):
        return self.get(f"/devices/{device_id}")

    def shadow(self, device_id):
        """{service_id: entry}"""
        return {s["service_id"]: s for s in self.get(f"/devices/{device_id}/shadow")["shadow"]}

    def history(self, device_id, limit=50, pages=10 ** 6, **query):
        """All reports, oldest first."""
        rows, marker = [], None
        for _ in range(pages):
            if marker:
                query["marker"] = marker
            got = self.get(f"/devices/{device_id}/history", limit=limit, **query)
            rows += got["reports"]
            marker = got["page"].get("marker")
            if not got["reports"] or not marker or len(got["reports"]) < limit:
                break
        return rows[::-1]

    def why(self, device_id):
        return self.get(f"/devices/{device_id}/why")

    def new_rule(self, url, resource, event, cert_id=None, activate=True, **changed):
        """A rule with one HTTP action. Returns (rule_id, action_id)."""
        rule = self.post("/routing-rule/rules", {
            "rule_name": unique("rule"), "subject": {"resource": resource, "event": event}, **changed})
        detail = {"url": url}
        if cert_id:
            detail["cert_id"] = cert_id
        action = self.post("/routing-rule/actions", {
            "rule_id": rule["rule_id"], "channel": "HTTP_FORWARDING",
            "channel_detail": {"http_forwarding": detail}})
        if activate:
            self.put(f"/routing-rule/rules/{rule['rule_id']}", {"active": True})
        return rule["rule_id"], action["action_id"]


def body_of(report):
    """The payload of a history row, whatever way it is written there."""
    return json.loads(report["body"]) if isinstance(report["body"], str) else report["body"]


def sequence(reports):
    """The sequence numbers of `Load` reports in a list of history rows."""
    return [s["properties"]["seq"] for r in reports for s in body_of(r)["services"]
            if "seq" in s["properties"]]

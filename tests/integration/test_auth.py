"""Who may call: tokens, both signatures, and everything that must not pass."""
import json
import re

import pytest

import signing
from rest import Api

SCHEMES = ["SDK-HMAC-SHA256", "V11-HMAC-SHA256"]


@pytest.fixture
def path(api):
    return f"/v5/iot/{api.project}/apps"


def get(api, path, headers):
    return api.raw("GET", path, None, headers)


def test_a_login_gives_a_token_for_a_day(platform):
    api = Api(platform.access)
    token = api.login().body["token"]
    assert token["project"] == {"id": api.project, "name": "region-1",
                                "domain": token["project"]["domain"]}
    assert token["user"]["name"] == platform.access["CAUSEWAY_USER"]
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    assert re.fullmatch(form, token["issued_at"]) and re.fullmatch(form, token["expires_at"])
    day = int(token["expires_at"][8:10]) - int(token["issued_at"][8:10])
    assert day != 0 and token["expires_at"][11:16] == token["issued_at"][11:16], "24 h"


def test_a_second_token_leaves_the_first_alive(platform, path):
    api = Api(platform.access)
    api.login()
    first = api.token
    api.login()
    assert first != api.token
    assert get(api, path, {"X-Auth-Token": first}).status == 200
    assert get(api, path, {"X-Auth-Token": api.token}).status == 200


@pytest.mark.parametrize("wrong", [{"password": "not it"}, {"name": "nobody"},
                                   {"domain": {"name": "elsewhere"}}])
def test_a_wrong_login_is_401_and_tells_not_what_was_wrong(api, wrong):
    got = api.raw("POST", "/v3/auth/tokens", json.dumps(api.login_body(**wrong)),
                  {"Content-Type": "application/json"})
    assert got.status == 401 and got.body["error"]["code"] == 401
    assert "X-Subject-Token" not in got.headers
    other = api.raw("POST", "/v3/auth/tokens", json.dumps(api.login_body(password="neither")),
                    {"Content-Type": "application/json"})
    assert other.body["error"]["message"] == got.body["error"]["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", '"x"', "{}", '{"auth":{}}', '{"auth":{"identity":7}}',
                                  '{"auth":{"identity":{"methods":["password"],"password":{}}}}'])
def test_a_malformed_login_is_400(api, body):
    got = api.raw("POST", "/v3/auth/tokens", body, {"Content-Type": "application/json"})
    assert got.status == 400 and got.body["error"]["code"] == 400


@pytest.mark.parametrize("damage", [lambda t: "", lambda t: "x", lambda t: t[:-3],
                                    lambda t: t[:20] + ("A" if t[20] != "A" else "B") + t[21:],
                                    lambda t: t + "A", lambda t: "x" * 20000])
def test_a_damaged_token_is_401(platform, api, path, damage):
    api.get("/apps")
    got = get(api, path, {"X-Auth-Token": damage(api.token)})
    assert (got.status, got.code) == (401, "IOTDA.000002")


def test_without_credentials_401(api, path):
    got = get(api, path, {})
    assert (got.status, got.code) == (401, "IOTDA.000002") and got.message


@pytest.mark.parametrize("auth", ["sdk", "v11"])
def test_signed_calls_are_served(platform, auth):
    api = Api(platform.access, auth)
    made = api.new_product(name=f"signed_{auth}")
    assert api.get(f"/products/{made['product_id']}")["name"] == f"signed_{auth}"
    found = api.get("/products", product_name=f"signed_{auth}", limit=50, offset=0)["products"]
    assert [p["product_id"] for p in found] == [made["product_id"]]
    api.put(f"/products/{made['product_id']}", {"description": "水 and more"})
    api.delete(f"/products/{made['product_id']}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_project_is_found_with_a_signature(api, scheme):
    path = "/v3/projects?name=region-1"
    got = get(api, path, api.signed_headers("GET", path, None, scheme))
    assert got.status == 200 and [p["id"] for p in got.body["projects"]] == [api.project]
    body = b"{}"  # the JavaScript SDK sends a body with this GET
    got = api.raw("GET", path, body, api.signed_headers("GET", path, body, scheme))
    assert got.status == 200, got


def test_an_unknown_project_name_lists_none(api):
    path = "/v3/projects?name=region-2"
    got = get(api, path, api.signed_headers("GET", path, None, SCHEMES[0]))
    assert got.status == 200 and got.body["projects"] == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("skew_min, status", [(-14, 200), (14, 200), (-16, 401), (16, 401)])
def test_the_clock_may_be_off_by_15_minutes(api, path, scheme, skew_min, status):
    got = get(api, path, api.signed_headers("GET", path, None, scheme, offset_s=skew_min * 60))
    assert got.status == status
    if status == 401:
        assert got.code == "IOTDA.000002"
        now = signing.sdk_date()
        assert now[:8] in got.message or "time" in got.message.lower(), "the text tells the times"


def _other_body(headers, call):
    call["data"] = b'{"app_name":"other"}'


def _other_path(headers, call):
    call["path"] = call["path"].replace("/apps", "/products")


def _other_query(headers, call):
    call["path"] += "?limit=1"


def _other_method(headers, call):
    call["method"] = "GET"


def _other_header(headers, call):
    headers["x-project-id"] = headers["x-project-id"][::-1]


def _other_date(headers, call):
    headers["x-sdk-date"] = signing.sdk_date(-5)


def _other_signature(headers, call):
    last = headers["Authorization"][-1]
    headers["Authorization"] = headers["Authorization"][:-1] + ("0" if last != "0" else "1")


def _other_key(headers, call):
    headers["Authorization"] = headers["Authorization"].replace("=", "=X", 1)


def _missing_header(headers, call):
    del headers["x-project-id"]


def _hash_of_another_body(headers, call):
    """An unsigned header must not vouch for a body."""
    headers["X-Sdk-Content-Sha256"] = "UNSIGNED-PAYLOAD"
    call["data"] = b'{"app_name":"other"}'


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("tamper", [_other_body, _other_path, _other_query, _other_method,
                                    _other_header, _other_date, _other_signature, _other_key,
                                    _missing_header, _hash_of_another_body])
def test_a_tampered_request_is_401(api, path, scheme, tamper):
    call = {"method": "POST", "path": path, "data": b'{"app_name":"mine"}'}
    headers = api.signed_headers(**call, scheme=scheme)
    tamper(headers, call)
    got = api.raw(call["method"], call["path"], call["data"], headers)
    assert (got.status, got.code) == (401, "IOTDA.000002"), got


def test_a_signed_unsigned_payload_is_not_taken_outside_uploads(api, path):
    data = b'{"app_name":"mine"}'
    headers = api.signed_headers("POST", path, data, SCHEMES[0],
                                 **{"x-sdk-content-sha256": "UNSIGNED-PAYLOAD"})
    assert api.raw("POST", path, data, headers).status == 401


@pytest.mark.parametrize("names", [["x-sdk-date"], ["host"]])
def test_host_and_date_must_be_signed(api, path, names):
    headers = api.signed_headers("GET", path, None, SCHEMES[0])
    signed = {n: headers[n] for n in names}
    signed.setdefault("x-sdk-date", headers["x-sdk-date"])
    parts = {n: signed[n] for n in names}
    request, listed = signing.canonical_request("GET", path, "", parts, b"")
    digest = signing.hashlib.sha256(request.encode()).hexdigest()
    mac = signing._mac(api.env["CAUSEWAY_SK"].encode(),
                       "\n".join([SCHEMES[0], headers["x-sdk-date"], digest])).hexdigest()
    headers["Authorization"] = \
        f"{SCHEMES[0]} Access={api.env['CAUSEWAY_AK']}, SignedHeaders={listed}, Signature={mac}"
    assert get(api, path, headers).status == 401


@pytest.mark.parametrize("value", [
    "SDK-HMAC-SHA256", "SDK-HMAC-SHA256 ", "SDK-HMAC-SHA256 Access=", "SDK-HMAC-SM3 Access=a, "
    "SignedHeaders=host, Signature=00", "Bearer x", "SDK-HMAC-SHA256 Access=a, SignedHeaders=;;;, "
    "Signature=zz", "V11-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-sdk-date, Signature=00",
    "V11-HMAC-SHA256 Credential=////, SignedHeaders=host, Signature=", "x" * 8000])
def test_a_broken_authorization_header_is_401(api, path, value):
    got = get(api, path, {"Authorization": value, "X-Sdk-Date": signing.sdk_date()})
    assert (got.status, got.code) == (401, "IOTDA.000002")


def test_another_service_or_day_in_the_scope_is_401(api, path):
    headers = api.signed_headers("GET", path, None, SCHEMES[1])
    signed = {k: v for k, v in headers.items() if k != "Authorization"}
    keys = api.env["CAUSEWAY_AK"], api.env["CAUSEWAY_SK"]
    headers["Authorization"] = signing.sign(*keys, "GET", path, "", signed, b"", SCHEMES[1],
                                            service="ecs")
    assert get(api, path, headers).status == 401


def test_another_project_in_the_path_is_403(api):
    api.get("/apps")
    other = "0" * 32 if api.project != "0" * 32 else "1" * 32
    got = get(api, f"/v5/iot/{other}/apps", {"X-Auth-Token": api.token})
    assert (got.status, got.code) == (403, "IOTDA.000021")
    got = get(api, "/v5/iot/%7Bproject_id%7D/apps", {"X-Auth-Token": api.token})
    assert got.status in (403, 404) and got.code


def test_every_answer_has_a_request_id(api, path):
    seen = {get(api, path, h).headers["X-Request-Id"] for h in ({}, {"X-Auth-Token": "x"})}
    seen.add(api.call("GET", "/apps").headers["X-Request-Id"])
    assert len(seen) == 3 and all(re.fullmatch(r"[0-9a-f-]{32,36}", s) for s in seen)

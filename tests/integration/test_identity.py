"""Users, groups, policies, access keys, lockout and the audit log, over the API as administrators use it."""
import json
import re

import pytest

from identity_world import FULL, READ_ONLY, Iam
from rest import unique
from waiting import wait_until


@pytest.fixture(scope="session")
def iam(platform):
    return Iam(platform.api)


def refused_soon(api, status, code, method="GET", path="/apps", body=None):
    """Rights that are taken end within seconds on every rest-gateway."""
    wait_until(lambda: (got := api.call(method, path, body)).status == status and got.code == code, 5, 0.02,
               f"{method} {path} is refused with {status} {code}")


# ---- users

def test_a_user_lives(iam):
    name = unique("anna")
    made = iam.expect(201, "POST", "/v3/users", {"user": {
        "name": name, "password": "long_enough_1", "description": "reads"}})["user"]
    assert re.fullmatch("[0-9a-f]{32}", made["id"]) and made["enabled"] is True
    assert iam.expect(200, "GET", f"/v3/users/{made['id']}")["user"] == made
    assert [u["id"] for u in iam.expect(200, "GET", f"/v3/users?name={name}")["users"]] == [made["id"]]
    changed = iam.expect(200, "PATCH", f"/v3/users/{made['id']}", {"user": {"description": "writes"}})["user"]
    assert changed["description"] == "writes" and changed["name"] == name
    assert iam.call("POST", "/v3/users", {"user": {"name": name, "password": "long_enough_1"}}).status == 409
    iam.expect(204, "DELETE", f"/v3/users/{made['id']}")
    for method, body in (("GET", None), ("PATCH", {"user": {}}), ("DELETE", None)):
        assert iam.call(method, f"/v3/users/{made['id']}", body).status == 404


@pytest.mark.parametrize("user, field", [
    ({}, "user.name"), ({"name": "x"}, "user.password"), ({"name": "x", "password": "short"}, "user.password"),
    ({"name": "x", "password": "p" * 129}, "user.password"), ({"name": "x", "password": "aaaaaaaaaa"}, "user.password"),
    ({"name": "a;b", "password": "long_enough_1"}, "user.name"), ({"name": 1, "password": "long_enough_1"}, "user.name")])
def test_a_bad_user_is_refused_by_the_name_of_the_field(iam, user, field):
    got = iam.call("POST", "/v3/users", {"user": user})
    assert got.status == 400 and field in got.body["error"]["message"], got


def test_a_new_password_and_disabling_end_tokens(iam):
    group = iam.group(iam.role(FULL))
    user = iam.user(group)
    api = iam.as_user(user)
    api.get("/apps")
    iam.expect(200, "PATCH", f"/v3/users/{user['id']}", {"user": {"password": "another_long_1"}})
    refused_soon(api, 401, "IOTDA.000002")
    api = iam.as_user(user, password="another_long_1")
    api.get("/apps")
    iam.expect(200, "PATCH", f"/v3/users/{user['id']}", {"user": {"enabled": False}})
    refused_soon(api, 401, "IOTDA.000002")
    got = api.raw("POST", "/v3/auth/tokens", json.dumps(api.login_body()), {"Content-Type": "application/json"})
    assert got.status == 401


def test_a_user_changes_the_own_password_only(iam):
    one, two = iam.user(), iam.user()
    api = iam.as_user(one)
    body = {"user": {"password": "third_long_1", "original_password": "long_enough_1"}}
    wrong = {"user": {"password": "third_long_1", "original_password": "not_this_one"}}
    assert iam.call("POST", f"/v3/users/{two['id']}/password", body, api).status == 403
    assert iam.call("POST", f"/v3/users/{one['id']}/password", wrong, api).status == 403
    iam.expect(204, "POST", f"/v3/users/{one['id']}/password", body, api)
    assert iam.as_user(one, password="third_long_1").login().status == 201


def test_the_first_administrator_stays(iam, platform):
    name = platform.access["CAUSEWAY_USER"]
    me = iam.expect(200, "GET", f"/v3/users?name={name}")["users"][0]["id"]
    assert iam.call("DELETE", f"/v3/users/{me}").status == 404, "nobody deletes himself"
    second = iam.someone(iam.role("Administrator"))
    assert iam.call("DELETE", f"/v3/users/{me}", api=second).status == 403


# ---- groups and policies

def test_groups_give_and_take_rights(iam):
    group, reader = iam.group(), iam.role(READ_ONLY)
    user = iam.user(group)
    api = iam.as_user(user)
    api.refused(403, "IOTDA.000022", "GET", "/apps")
    iam.expect(204, "PUT", f"/v3/projects/{iam.api.project}/groups/{group}/roles/{reader}")
    wait_until(lambda: api.call("GET", "/apps").status == 200, 5, 0.02, "the right has come")
    api.refused(403, "IOTDA.000022", "POST", "/apps", {"app_name": "x"})
    listed = iam.expect(200, "GET", f"/v3/projects/{iam.api.project}/groups/{group}/roles")["roles"]
    assert [r["display_name"] for r in listed] == [READ_ONLY]
    assert [u["id"] for u in iam.expect(200, "GET", f"/v3/groups/{group}/users")["users"]] == [user["id"]]
    assert [g["id"] for g in iam.expect(200, "GET", f"/v3/users/{user['id']}/groups")["groups"]] == [group]
    iam.expect(204, "DELETE", f"/v3/projects/{iam.api.project}/groups/{group}/roles/{reader}")
    refused_soon(api, 403, "IOTDA.000022")
    iam.expect(204, "DELETE", f"/v3/groups/{group}/users/{user['id']}")
    assert iam.call("DELETE", f"/v3/groups/{group}/users/{user['id']}").status == 404
    iam.expect(204, "DELETE", f"/v3/groups/{group}")
    assert iam.call("GET", f"/v3/groups/{group}").status == 404


def test_the_refusal_says_who_needs_what_for_what(iam):
    user = iam.user()
    said = iam.as_user(user).refused(403, "IOTDA.000022", "DELETE", "/devices/some_device")
    for part in (user["name"], "iotda:devices:delete", "DeleteDevice", "/devices/some_device", "administrator"):
        assert part in said, part


def test_a_policy_lives(iam):
    role = iam.policy(("Allow", ["iotda:devices:*"], None))
    shown = iam.expect(200, "GET", f"/v3.0/OS-ROLE/roles/{role}")["role"]
    assert shown["policy"]["Statement"] == [{"Effect": "Allow", "Action": ["iotda:devices:*"]}]
    assert role in [r["id"] for r in iam.expect(200, "GET", "/v3.0/OS-ROLE/roles")["roles"]]
    changed = iam.expect(200, "PATCH", f"/v3.0/OS-ROLE/roles/{role}", {"role": {"description": "more"}})["role"]
    assert changed["description"] == "more" and changed["policy"] == shown["policy"]
    group = iam.group(role)
    assert iam.call("DELETE", f"/v3.0/OS-ROLE/roles/{role}").status == 409
    iam.expect(204, "DELETE", f"/v3/groups/{group}")
    iam.expect(204, "DELETE", f"/v3.0/OS-ROLE/roles/{role}")
    assert iam.call("PATCH", f"/v3.0/OS-ROLE/roles/{iam.role(READ_ONLY)}",
                    {"role": {"description": "mine"}}).status == 404, "built-in ones stay as they are"


@pytest.mark.parametrize("statement, names", [
    ({"Effect": "Maybe", "Action": ["iotda:*:*"]}, "Effect"), ({"Effect": "Allow", "Action": []}, "Action"),
    ({"Effect": "Allow", "Action": ["iotda:devices"]}, "Action[0]"), ({"Effect": "Allow", "Action": ["io*ta:x:y"]}, "Action[0]"),
    ({"Effect": "Allow", "Action": ["iotda::query"]}, "Action[0]"), ({"Effect": "Allow", "Action": ["a:b:c:d"]}, "Action[0]"),
    ({"Effect": "Allow", "Action": ["iotda:*:*"], "Resource": ["iotda:*:*:device:x"]}, "Resource[0]"),
    ({"Effect": "Allow", "Action": ["iotda:*:*"], "Condition": {}}, "Condition"),
    ({"Effect": "Allow", "NotAction": ["iotda:*:*"], "Action": ["iotda:*:*"]}, "NotAction")])
def test_a_bad_policy_is_refused_by_its_place(iam, statement, names):
    got = iam.call("POST", "/v3.0/OS-ROLE/roles", {"role": {
        "display_name": unique("bad"), "policy": {"Version": "1.1", "Statement": [statement]}}})
    assert got.status == 400 and names in got.body["error"]["message"], got


def test_deny_wins(iam, product):
    api = iam.someone(iam.policy(("Allow", ["iotda:*:*"], None), ("Deny", ["iotda:devices:delete"], None)))
    made = api.new_device(product["product_id"])["device_id"]
    api.refused(403, "IOTDA.000022", "DELETE", f"/devices/{made}")
    api.device(made)


# ---- resource spaces

@pytest.fixture(scope="module")
def spaces(platform):
    """Two spaces, each with a product and a device."""
    out = []
    for _ in range(2):
        app = platform.api.post("/apps", {"app_name": unique("space")})["app_id"]
        product = platform.api.new_product(app_id=app)["product_id"]
        device = platform.api.new_device(product, app_id=app)["device_id"]
        out.append({"app_id": app, "product_id": product, "device_id": device})
    return out


def test_who_may_one_space_sees_one_space(iam, spaces):
    mine, other = spaces
    api = iam.someone(iam.policy(("Allow", ["iotda:*:*"], [mine["app_id"]])))
    assert [a["app_id"] for a in api.get("/apps")["applications"]] == [mine["app_id"]]
    assert [d["device_id"] for d in api.get("/devices")["devices"]] == [mine["device_id"]]
    assert api.get("/devices")["page"]["count"] == 1
    assert [p["product_id"] for p in api.get("/products")["products"]] == [mine["product_id"]]
    said = api.refused(403, "IOTDA.001002", "GET", f"/devices/{other['device_id']}")
    assert other["app_id"] in said and "iotda:devices:query" in said
    api.refused(403, "IOTDA.001002", "GET", "/devices", query={"app_id": other["app_id"]})
    api.refused(403, "IOTDA.001002", "POST", "/devices", {"node_id": "n", "product_id": "p"})  # the default space
    api.refused(403, "IOTDA.001002", "POST", "/apps", {"app_name": unique("mine")})
    api.new_device(mine["product_id"], app_id=mine["app_id"])


def test_who_may_all_spaces_but_one(iam, spaces):
    mine, other = spaces
    api = iam.someone(iam.policy(("Allow", ["iotda:*:*"], None), ("Deny", ["iotda:*:*"], [other["app_id"]])))
    listed = [a["app_id"] for a in api.get("/apps")["applications"]]
    assert mine["app_id"] in listed and other["app_id"] not in listed
    assert other["device_id"] not in [d["device_id"] for d in api.get("/devices", limit=50)["devices"]]
    api.refused(403, "IOTDA.001002", "GET", f"/devices/{other['device_id']}/shadow")
    api.device(mine["device_id"])


def test_who_has_an_id_is_told_only_to_whom_may_know(iam, spaces):
    mine, other = spaces
    api = iam.someone(iam.policy(("Allow", ["iotda:*:*"], [mine["app_id"]])))
    body = {"device_id": other["device_id"], "node_id": "n", "product_id": mine["product_id"], "app_id": mine["app_id"]}
    said = api.refused(400, "IOTDA.014031", "POST", "/devices", body)
    assert "space" not in said and "product" not in said.replace("product_id", "")


# ---- access keys

def test_keys_rotate_with_overlap(iam):
    user = iam.user(iam.group(iam.role(FULL)))
    make = lambda: iam.expect(201, "POST", "/v3.0/OS-CREDENTIAL/credentials",  # noqa: E731
                              {"credential": {"user_id": user["id"]}})["credential"]
    old, new = make(), make()
    for key in (old, new):
        for scheme in ("sdk", "v11"):
            iam.as_key(key, scheme).get("/apps")
    path = f"/v3.0/OS-CREDENTIAL/credentials/{old['access']}"
    assert iam.expect(200, "PUT", path, {"credential": {"status": "inactive"}})["credential"]["status"] == "inactive"
    refused_soon(iam.as_key(old), 401, "IOTDA.000002")
    iam.as_key(new).get("/apps")
    iam.expect(200, "PUT", path, {"credential": {"status": "active"}})
    wait_until(lambda: iam.as_key(old).call("GET", "/apps").status == 200, 10, 0.2, "the key is on again")
    listed = iam.expect(200, "GET", f"/v3.0/OS-CREDENTIAL/credentials?user_id={user['id']}")["credentials"]
    assert {k["access"] for k in listed} == {old["access"], new["access"]} and "secret" not in listed[0]
    iam.expect(204, "DELETE", path)
    refused_soon(iam.as_key(old), 401, "IOTDA.000002")
    assert iam.call("GET", path).status == 404


def test_a_user_makes_the_own_keys_but_not_those_of_others(iam):
    user, other = iam.user(), iam.user()
    api = iam.as_user(user)
    key = iam.expect(201, "POST", "/v3.0/OS-CREDENTIAL/credentials", {"credential": {"user_id": user["id"]}}, api)
    assert len(key["credential"]["secret"]) == 40
    got = iam.call("POST", "/v3.0/OS-CREDENTIAL/credentials", {"credential": {"user_id": other["id"]}}, api)
    assert got.status == 403 and "iam:credentials:create" in got.body["error"]["message"], got
    for _ in range(9):
        iam.expect(201, "POST", "/v3.0/OS-CREDENTIAL/credentials", {"credential": {"user_id": user["id"]}}, api)
    assert iam.call("POST", "/v3.0/OS-CREDENTIAL/credentials", {"credential": {"user_id": user["id"]}}).status == 403


def test_a_temporary_key_comes_with_its_token_and_with_fewer_rights(iam, product):
    user = iam.user(iam.group(iam.role(FULL)))
    api = iam.as_user(user)
    policy = {"Version": "1.1", "Statement": [{"Effect": "Allow", "Action": ["iotda:devices:query*"]}]}
    key = iam.expect(201, "POST", "/v3.0/OS-CREDENTIAL/securitytokens", {"auth": {
        "identity": {"methods": ["token"], "token": {"duration_seconds": 900}, "policy": policy}}}, api)["credential"]
    path = f"/v5/iot/{api.project}/devices"
    mine = iam.as_key(key)

    def call(method, url, **headers):
        return mine.raw(method, url, None, mine.signed_headers(method, url, None, "SDK-HMAC-SHA256", **headers))
    assert call("GET", path, **{"x-security-token": key["securitytoken"]}).status == 200
    assert call("GET", path).status == 401, "without its token"
    assert call("GET", path, **{"x-security-token": "0" * 64}).status == 401
    unsigned = mine.signed_headers("GET", path, None, "SDK-HMAC-SHA256")
    assert mine.raw("GET", path, None, {**unsigned, "X-Security-Token": key["securitytoken"]}).status == 401
    token = {"x-security-token": key["securitytoken"]}
    assert call("GET", f"/v5/iot/{api.project}/products", **token).code == "IOTDA.000022", "the document says devices"
    assert call("DELETE", f"{path}/x", **token).code == "IOTDA.000022"
    for body in ("/v3.0/OS-CREDENTIAL/credentials", "/v3.0/OS-CREDENTIAL/securitytokens"):
        assert call("POST", body, **token).status in (400, 403), "it makes no other key"


# ---- lockout

@pytest.mark.long
def test_wrong_passwords_lock_a_user_for_a_while(own_platform):
    platform = own_platform(etc={"identity": "LOGIN_FAILURES=3\nLOCKOUT=2s"})
    iam = Iam(platform.api)
    user = iam.user()

    def login(password):
        api = iam.as_user(user, password=password)
        return api.raw("POST", "/v3/auth/tokens", json.dumps(api.login_body()), {"Content-Type": "application/json"})
    assert login("long_enough_1").status == 201
    said = {login("wrong_password").text for _ in range(3)}
    wait_until(lambda: "locked_until" in iam.expect(200, "GET", f"/v3/users/{user['id']}")["user"], 5, 0.05, "locked")
    said.add(login("long_enough_1").text)
    assert len(said) == 1, "a stranger learns nothing"
    wait_until(lambda: login("long_enough_1").status == 201, 10, 0.3, "the lock ends")


# ---- audit

def test_each_change_is_written_down(iam, platform, product):
    api = iam.someone(iam.role(FULL))
    name = api.env["CAUSEWAY_USER"]
    made = api.call("POST", "/devices", {"node_id": unique("audit"), "product_id": product["product_id"]})
    device = made.body["device_id"]
    api.call("POST", f"/devices/{device}/freeze")
    refused = api.call("POST", f"/devices/{device}/freeze")
    api.call("GET", f"/devices/{device}")

    def records(**query):
        return platform.api.get("/audit-records", **query)["records"]
    rows = wait_until(lambda: len(got := records(user_name=name)) == 3 and all("status" in r for r in got) and got,
                      10, 0.1, "three changes with their ends")
    assert [(r["operation"], r["status"], r["resource_id"]) for r in rows] == [
        ("FreezeDevice", 403, device), ("FreezeDevice", 204, device), ("AddDevice", 201, device)]
    assert rows[0]["error_code"] == "IOTDA.014039" and rows[0]["request_id"] == refused.headers["X-Request-Id"]
    assert rows[2]["resource"] == "/devices" and rows[2]["method"] == "POST" and rows[2]["peer"]
    assert "secret" not in json.dumps(rows)
    assert [r["operation"] for r in records(request_id=made.headers["X-Request-Id"])] == ["AddDevice"]
    assert len(records(resource_id=device)) == 3
    assert [r["operation"] for r in records(user_name=name, operation="AddDevice")] == ["AddDevice"]
    assert records(user_name=name, limit=1)[0] == rows[0]
    assert records(user_name=name, marker=rows[0]["record_id"]) == rows[1:]
    assert records(user_name=name, start_time="20990101T000000Z") == []
    api.refused(403, "IOTDA.000022", "GET", "/audit-records")


@pytest.mark.long
def test_without_the_audit_log_nothing_is_changed(own_platform):
    platform = own_platform()
    api = platform.api
    api.new_product()
    platform.sql("ALTER TABLE identity.audit RENAME TO away")
    got = api.call("POST", "/apps", {"app_name": "never"})
    assert got.status == 503 and "audit log" in got.message and "nothing was changed" in got.message
    platform.sql("ALTER TABLE identity.away RENAME TO audit")
    assert "never" not in [a["app_name"] for a in api.get("/apps")["applications"]]

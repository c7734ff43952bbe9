"""The contract, walked: each operation called as it should be and in each way that it should not."""
import pytest

import contract
from contract import OPERATIONS, check, check_error
from rest import unique
from walk_world import World

WITH_BODY = [op for op in OPERATIONS if op.content]
WITH_PATH = [op for op in OPERATIONS if set(op.path_names) - {"project_id"}]
WITH_QUERY = [op for op in OPERATIONS if op.query]
KNOWN = [op for op in OPERATIONS if op.permission]
OF_PROJECT = [op for op in OPERATIONS if "project_id" in op.path_names]
OF_SPACE = [op for op in OPERATIONS if op.space]
CHANGES = [op for op in KNOWN if op.changes and not op.permission.startswith("iam:self")]


def each(operations):
    return pytest.mark.parametrize("op", operations, ids=lambda op: op.id)


@pytest.fixture(scope="module")
def world(platform, authority):
    made = World(platform, authority)
    yield made
    made.close()


@pytest.fixture(scope="module")
def nobody(world):
    """A user of the account without any right."""
    return world.iam.someone()


@pytest.fixture(scope="module")
def reader(world):
    return world.iam.someone(world.iam.role("IoTDA ReadOnlyAccess"))


@pytest.fixture(scope="module")
def stranger(world):
    """May everything, in another space."""
    other = world.api.post("/apps", {"app_name": unique("other")})["app_id"]
    return world.iam.someone(world.iam.policy(("Allow", ["iotda:*:*"], [other])))


# ---- as it should be

@each(OPERATIONS)
@pytest.mark.parametrize("scheme", ["token", "sdk", "v11"])
def test_a_valid_call(world, op, scheme):
    if scheme != "token" and (op.id == "KeystoneUpdateUserPassword" or not op.permission):
        pytest.skip("its caller has no access key")
    values = world.path_values(op)
    got = world.send(op, world.caller(op), values, world.body(op), scheme=scheme)
    assert got.status == op.success, got
    assert got.headers["X-Request-Id"]
    if op.answer:
        check(got.body, op.answer)
    elif op.success == 204:
        assert got.text == ""


# ---- bodies

@each(WITH_BODY)
def test_each_field_of_the_body_in_each_wrong_way(world, op):
    values, body = world.path_values(op), world.body(op)
    caller, tried = world.caller(op), 0
    for path, what, broken in contract.broken_bodies(op, body):
        got = world.send(op, caller, values, broken)
        assert got.status == 400, (contract.named(path), what, got)
        check_error(op, got)
        said = got.body["error"]["message"] if op.iam else got.message
        assert contract.named(path) in said, (contract.named(path), what, got)
        tried += 1
    assert tried >= 3
    if op.id != "KeystoneUpdateUserPassword":
        assert world.send(op, caller, values, body).status == op.success, "nothing was half done"


@each(WITH_BODY)
def test_what_is_no_json_object(world, op):
    values, caller = world.path_values(op), world.caller(op)
    for data in (b"{", b"[]", b'"x"', b"null", b"\xff", b'{"a":"\xff"}', b"{} {}", b"[" * 100):
        got = world.send(op, caller, values, data=data)
        assert got.status == 400, (data, got)
        check_error(op, got)
    if op.spec["requestBody"]["required"]:
        got = world.send(op, caller, values)
        assert got.status == 400, got
        check_error(op, got)
    got = world.send(op, caller, values, data=b"{}", headers={"Content-Type": "text/xml"})
    assert got.status == 400, got


# ---- parameters

@each(WITH_QUERY)
def test_each_parameter_of_the_query_in_each_wrong_way(world, op):
    values, body, caller = world.path_values(op), world.body(op), world.caller(op)
    for p in op.query:
        query = world.query(op)
        if p.get("required"):
            got = world.send(op, caller, values, body, {k: v for k, v in query.items() if k != p["name"]})
            assert got.status == 400 and p["name"] in got.text, got
            check_error(op, got)
        for what, value in contract.wrong_texts(contract.resolve(p["schema"])):
            got = world.send(op, caller, values, body, {**query, p["name"]: value})
            assert got.status == 400 and p["name"] in got.text, (p["name"], what, got)
            check_error(op, got)
            if not op.iam:
                assert got.code == p.get("x-error", "IOTDA.000006"), got


@each(WITH_PATH)
def test_unknown_ids_of_the_path(world, op):
    unknown = {"cert_id": "0" * 24, "certificate_id": "0" * 24, "policy_id": "0" * 24, "proxy_id": "0" * 24, "topic_id": "0" * 24, "access_key": "0" * 20}
    for name in set(op.path_names) - {"project_id"}:
        values = world.path_values(op)
        values[name] = unknown.get(name, "0" * 32)
        got = world.send(op, world.caller(op), values, world.body(op))
        if op.id == "ShowDeviceMessage" and name == "message_id":
            assert got.status == 200 and "message_id" not in got.body, "as IoTDA answers"
            continue
        assert got.status in (403, 404), (name, got)
        check_error(op, got)
        if not op.iam:
            assert got.code in op.spec["x-error-codes"], got
        values[name] = "a b" if name not in ("cert_id", "certificate_id", "policy_id", "proxy_id", "topic_id") else "xyz"
        got = world.send(op, world.caller(op), {k: v.replace(" ", "%20") for k, v in values.items()}, world.body(op))
        assert got.status == 400 and name in got.text, (name, got)
        check_error(op, got)


# ---- rights

@each(KNOWN)
def test_without_credentials(world, op):
    values = {n: world.api.project if n == "project_id" else "0" * 24 for n in op.path_names}
    got = world.api.raw(op.method, world.url(op, values), headers={"Content-Type": "application/json"})
    assert got.status == 401, got
    check_error(op, got)
    got = world.send(op, world.api, values, headers={"X-Auth-Token": "v1.00.00"})
    assert got.status == 401, got


@each(KNOWN)
def test_without_rights(world, nobody, op):
    if op.permission.startswith("iam:self"):
        pytest.skip("for whoever is known")
    values = world.path_values(op)
    got = world.send(op, nobody, values, world.body(op))
    if op.id == "ListPermanentAccessKeys":
        assert got.status == 200 and got.body["credentials"] == [], "the own ones"
        return
    assert got.status == 403, got
    check_error(op, got)
    said = got.body["error"]["message"] if op.iam else got.message
    if op.id != "KeystoneUpdateUserPassword":
        assert op.permission in said and nobody.env["CAUSEWAY_USER"] in said, got


@each(CHANGES)
def test_a_reader_changes_nothing(world, reader, op):
    got = world.send(op, reader, world.path_values(op), world.body(op))
    assert got.status == 403, got
    check_error(op, got)


@each(OF_SPACE)
def test_nobody_reaches_into_another_space(world, stranger, op):
    query = {**world.query(op), **({"app_id": world.space} if any(p["name"] == "app_id" for p in op.query) else {})}
    got = world.send(op, stranger, world.path_values(op), world.body(op), query)
    if op.space == "list" and "app_id" not in query:
        assert got.status == 200 and world.space not in got.text, "it lists what he may see"
        return
    assert (got.status, got.code) == (403, "IOTDA.001002"), got
    check_error(op, got)


@pytest.fixture(scope="module")
def foreign_project(platform):
    """A project of another account."""
    platform.sql("INSERT INTO identity.account (domain_id, name) VALUES ('foreign', 'foreign')")
    platform.sql(f"INSERT INTO identity.project (project_id, domain_id, name) VALUES ('{'7' * 32}', 'foreign', 'x')")
    return "7" * 32


@each(OF_PROJECT)
@pytest.mark.parametrize("scheme", ["token", "sdk", "v11"])
def test_nobody_reaches_into_another_project(world, foreign_project, op, scheme):
    values, body = {**world.path_values(op), "project_id": foreign_project}, world.body(op)
    caller = world.iam.as_user({"name": world.api.env["CAUSEWAY_USER"]}, password=world.api.env["CAUSEWAY_PASSWORD"])
    caller.project = foreign_project  # what a signature names in X-Project-Id
    got = world.send(op, caller, values, body, scheme=scheme)
    assert got.status == 403, got
    assert op.iam or got.code == "IOTDA.000021", got
    check_error(op, got)

"""Bodies that nobody would write, on every operation that takes one; strings that mean something to SQL; many clients
that make and delete the same things."""
import json
import threading

import pytest

import contract
from contract import check_error
from rest import Api, unique
from test_walk import WITH_BODY, each
from walk_world import World

MIB = 1 << 20
METACHARACTERS = ["'; DROP TABLE registry.device; --", "x' OR '1'='1", "$1", "%", "_", "\\", "\\'", "\"", "NULL",
                  "{}", "{1,2}", "E'\\x00'", "/*", "pg_sleep(9)", "\u2028", "\U0001f4a7", "a\tb\nc"]


@pytest.fixture(scope="module")
def world(platform, authority):
    made = World(platform, authority)
    yield made
    made.close()


def texts(body):
    """(what, raw text) of a body that goes wrong as text; {} stands where a further member is put."""
    plain = json.dumps(body)
    more = lambda raw: '{"torture":' + raw + "," + plain[1:] if body else '{"torture":' + raw + "}"  # noqa: E731
    yield "deep arrays", more("[" * 100 + "]" * 100)
    yield "very deep objects", more('{"a":' * 100000 + "1" + "}" * 100000)
    yield "a number beyond doubles", more("1e400")
    yield "an integer without end", more("9" * 400)
    yield "a lone surrogate", more('"\\ud800"')
    yield "surrogates the wrong way round", more('"\\udc00\\ud800"')
    yield "an escaped NUL", more('"\\u0000"')
    yield "a NUL", more('"a\0b"')
    yield "a control character", more('"a\nb"')
    yield "UTF-8 cut off", (more('"x') .encode() + b"\xe4\xb8").decode("latin-1")
    yield "a comment", more("1 /* no */")
    yield "a trailing comma", plain[:-1] + ",}"
    yield "NaN", more("NaN")
    yield "two values", plain + plain


@each(WITH_BODY)
def test_json_that_nobody_would_write(world, op):
    values, body, caller = world.path_values(op), world.body(op), world.caller(op)
    for what, text in texts(body):
        data = text.encode("latin-1") if what == "UTF-8 cut off" else text.encode()
        got = world.send(op, caller, values, data=data)
        assert got.status == 400, (what, got)
        check_error(op, got)
    got = world.send(op, caller, values, data=b'{"x":"' + b"y" * MIB + b'"}')
    assert got.status == 413 and got.code == "IOTDA.000902", got


@each(WITH_BODY)
def test_the_last_of_two_equal_keys_counts(world, op):
    values, body = world.path_values(op), world.body(op)
    first = next(iter(body))
    twice = '{"' + first + '":{"wrong":[]},' + json.dumps(body)[1:]
    got = world.send(op, world.caller(op), values, data=twice.encode())
    assert got.status == op.success, got


def strings(schema, body):
    return [path for path, s, _ in contract.places(schema, body) if s.get("type") == "string" or not s.get("type")]


@each(WITH_BODY)
def test_strings_that_are_long_or_mean_something_to_sql(world, op):
    values, body, caller = world.path_values(op), world.body(op), world.caller(op)
    for path in strings(op.schema, body):
        for text in METACHARACTERS + ["z" * (MIB - 4096 - len(json.dumps(body)))]:
            try:
                broken = contract.put(body, path, text)
            except (KeyError, TypeError, IndexError):
                continue
            got = world.send(op, caller, values, broken)
            assert got.status < 500 or got.status == 501, (path, text[:40], got)
            if got.status >= 400:
                check_error(op, got)
            if op.id == "KeystoneUpdateUserPassword" and got.status == 204:
                return  # the password is another one now
    assert world.platform.sql("SELECT count(*) > 0 FROM registry.device") == "t"


@pytest.mark.parametrize("where", ["app_id", "product_id", "device_name", "node_id", "gateway_id", "marker"])
def test_parameters_that_mean_something_to_sql(api, where):
    for text in METACHARACTERS:
        got = api.call("GET", "/devices", query={where: text})
        assert got.status < 500, (text, got)


CLIENTS, ROUNDS = 32, 12


def together(platform, work):
    """work(api, n) in as many threads as clients; what they were answered."""
    answers, threads, begin = [], [], threading.Barrier(CLIENTS)
    token = platform.api.token or (platform.api.login(), platform.api.token)[1]

    def run(n):
        api = Api(platform.access)
        api.token = token
        begin.wait()
        for _ in range(ROUNDS):
            answers.extend(work(api, n))
    for n in range(CLIENTS):
        threads.append(threading.Thread(target=run, args=(n,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return answers


def assert_orderly(answers, allowed):
    wrong = [a for a in answers if a.status not in allowed]
    assert not wrong, wrong[:3]


def test_many_make_and_delete_the_same_device(platform, product):
    device_id = unique("same_")

    def work(api, n):
        yield api.call("POST", "/devices", {"device_id": device_id, "node_id": f"n{n}", "product_id": product["product_id"]})
        yield api.call("PUT", f"/devices/{device_id}", {"device_name": f"d{n}"})
        yield api.call("POST", f"/devices/{device_id}/freeze")
        yield api.call("PUT", f"/devices/{device_id}/shadow", {"shadow": [{"service_id": "Pump", "desired": {"on": 1}}]})
        yield api.call("GET", f"/devices/{device_id}")
        yield api.call("DELETE", f"/devices/{device_id}")
    answers = together(platform, work)
    assert_orderly(answers, {200, 201, 204, 400, 403, 404, 503})
    made = sum(a.status == 201 for a in answers)
    assert platform.sql(f"SELECT count(*) FROM registry.device_tombstone WHERE device_id = '{device_id}'") == str(
        made - int(platform.sql(f"SELECT count(*) FROM registry.device WHERE device_id = '{device_id}'")))


def test_many_make_and_delete_the_same_product(platform):
    product_id = unique("same_")
    body = {"product_id": product_id, "name": "same", "device_type": "x", "protocol_type": "MQTT", "data_format": "json",
            "service_capabilities": []}

    def work(api, n):
        yield api.call("POST", "/products", body)
        yield api.call("POST", "/devices", {"node_id": f"n{n}", "product_id": product_id})
        yield api.call("PUT", f"/products/{product_id}", {"name": f"p{n}"})
        yield api.call("DELETE", f"/devices/{product_id}_n{n}")
        yield api.call("DELETE", f"/products/{product_id}")
    assert_orderly(together(platform, work), {200, 201, 204, 400, 403, 404, 503})


def test_many_make_and_delete_the_same_space(platform):
    name = unique("same")

    def work(api, n):
        made = api.call("POST", "/apps", {"app_name": name})
        yield made
        if made.status == 201:
            yield api.call("DELETE", f"/apps/{made.body['app_id']}")
    assert_orderly(together(platform, work), {201, 204, 400, 403})


def test_many_move_children_to_and_fro(platform, product):
    api = platform.api
    make = lambda **more: api.new_device(product["product_id"], **more)["device_id"]  # noqa: E731
    gateways, child = [make(), make(), make()], None
    child = make(gateway_id=gateways[0])

    def work(api, n):
        yield api.call("POST", f"/devices/{child}/change-gateway", {"gateway_id": gateways[n % 3]})
        yield api.call("POST", "/devices", {"node_id": unique("below"), "product_id": product["product_id"], "gateway_id": child})
        for row in api.get("/devices", gateway_id=child, limit=2)["devices"]:
            yield api.call("DELETE", f"/devices/{row['device_id']}")
    assert_orderly(together(platform, work), {200, 201, 204, 400, 403, 404, 503})
    # whatever came first: what hangs below the child hangs below its gateway
    assert platform.sql("""SELECT count(*) FROM registry.device c JOIN registry.device p ON p.device_key = c.parent_key
        WHERE c.root_id <> p.root_id OR c.depth <> p.depth + 1 OR c.partition <> p.partition""") == "0"
    assert platform.sql("""SELECT count(*) FROM (SELECT parent_key, sum(n) AS n FROM registry.child_count GROUP BY 1
        HAVING sum(n) <> 0 EXCEPT SELECT parent_key, count(*) FROM registry.device WHERE parent_key IS NOT NULL
        GROUP BY 1) x""") == "0"

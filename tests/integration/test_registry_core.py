"""The registry's whole work: spaces, gateways and children, freezing, secrets and fingerprints, lists and their
counts, the first desired values."""
import re

import pytest

import rawmqtt
from rest import unique
from waiting import wait_until


@pytest.fixture
def space(api):
    made = api.post("/apps", {"app_name": unique("space")})
    yield made
    for _ in range(100):
        rows = api.get("/devices", app_id=made["app_id"], limit=50)["devices"]
        if not rows:
            break
        for row in rows:
            api.call("DELETE", f"/devices/{row['device_id']}")
    for row in api.get("/products", app_id=made["app_id"], limit=50)["products"]:
        api.call("DELETE", f"/products/{row['product_id']}", query={"app_id": made["app_id"]})
    api.call("DELETE", f"/apps/{made['app_id']}")


# ---- resource spaces

def test_a_space_is_renamed_and_deleted(api):
    made = api.post("/apps", {"app_name": unique("old")})
    path, name = f"/apps/{made['app_id']}", unique("new")
    assert api.put(path, {"app_name": name})["app_name"] == name
    assert api.get(path)["app_name"] == name
    other = api.post("/apps", {"app_name": unique("other")})
    assert name in api.refused(400, "IOTDA.001900", "PUT", f"/apps/{other['app_id']}", {"app_name": name})
    api.delete(f"/apps/{other['app_id']}")
    api.delete(path)
    for method, body in (("GET", None), ("PUT", {"app_name": "x"}), ("DELETE", None)):
        api.refused(403, "IOTDA.001000", method, path, body)


def test_a_space_says_what_is_in_it(platform, api, space):
    product = api.new_product(app_id=space["app_id"])
    api.new_device(product["product_id"], app_id=space["app_id"])
    api.new_device(product["product_id"], app_id=space["app_id"])
    said = api.refused(403, "IOTDA.001903", "DELETE", f"/apps/{space['app_id']}")
    assert "1 products, 2 devices, 0 rules and 0 CAs" in said
    api.refused(403, "IOTDA.001901", "DELETE", f"/apps/{platform.access['CAUSEWAY_APP_ID']}")


def test_the_secret_of_a_space_is_made_anew(api, space):
    path = f"/apps/{space['app_id']}/action"
    got = api.post(path, status=200, action_id="resetSecret")
    assert got["app_id"] == space["app_id"] and re.fullmatch("[0-9a-f]{32}", got["app_secret"])
    assert got["app_secret"] != space["app_secret"]
    api.refused(400, "IOTDA.000006", "POST", path)
    api.refused(403, "IOTDA.001000", "POST", "/apps/" + "0" * 32 + "/action", query={"action_id": "resetSecret"})


# ---- names that are in use

def test_whoever_may_know_is_told_who_has_the_id(api, product):
    made = api.new_device(product["product_id"])
    said = api.refused(400, "IOTDA.014031", "POST", "/devices",
                       {"device_id": made["device_id"], "node_id": "n", "product_id": product["product_id"]})
    assert product["name"] in said and "space" in said
    chosen = unique("chosen")
    first = api.new_product(product_id=chosen)
    body = {k: first[k] for k in ("product_id", "name", "device_type", "protocol_type", "data_format")}
    said = api.refused(400, "IOTDA.013901", "POST", "/products", {**body, "service_capabilities": []})
    assert first["name"] in said


# ---- products with devices

def test_a_product_with_devices_keeps_protocol_and_format(api):
    product = api.new_product()["product_id"]
    api.put(f"/products/{product}", {"data_format": "binary"})
    device = api.new_device(product)["device_id"]
    for body in ({"data_format": "json"}, {"protocol_type": "HTTP"}):
        assert "1 devices" in api.refused(403, "IOTDA.013907", "PUT", f"/products/{product}", body)
    assert api.put(f"/products/{product}", {"data_format": "binary", "name": "same"})["name"] == "same"
    assert "1 devices" in api.refused(403, "IOTDA.013902", "DELETE", f"/products/{product}")
    api.delete(f"/devices/{device}")
    api.delete(f"/products/{product}")


# ---- first desired values

DEFAULTS = [{"service_id": "Valve", "properties": [
    {"property_name": "open", "data_type": "boolean", "method": "RW", "default_value": False},
    {"property_name": "limit", "data_type": "int", "method": "RW", "min": "0", "max": "9", "default_value": 5},
    {"property_name": "seen", "data_type": "int", "method": "R", "default_value": 1}]}]


def test_defaults_of_the_model_are_the_first_desired_values(api):
    product = api.new_product(DEFAULTS)["product_id"]
    plain = api.shadow(api.new_device(product)["device_id"])["Valve"]
    assert plain["desired"]["properties"] == {"open": False, "limit": 5} and plain["version"] == 0
    wished = api.new_device(product, shadow=[{"service_id": "Valve", "desired": {"limit": 7}}])
    assert api.shadow(wished["device_id"])["Valve"]["desired"]["properties"] == {"open": False, "limit": 7}


def test_a_default_that_does_not_fit_is_refused(api):
    model = [{"service_id": "Valve", "properties": [
        {"property_name": "limit", "data_type": "int", "method": "RW", "max": "9", "default_value": 10}]}]
    said = api.refused(400, "IOTDA.013904", "POST", "/products", {
        "name": "x", "device_type": "x", "protocol_type": "MQTT", "data_format": "json",
        "service_capabilities": model})
    assert "default_value" in said and "limit" in said


# ---- freezing

def test_a_frozen_device_is_cut_off_and_let_in_no_more(platform, api, device, connected):
    path = f"/devices/{device['device_id']}"
    api.refused(403, "IOTDA.014040", "POST", f"{path}/unfreeze")
    api.post(f"{path}/freeze", status=204)
    connected.wait_closed()
    assert api.device(device["device_id"])["status"] == "FROZEN"
    api.refused(403, "IOTDA.014039", "POST", f"{path}/freeze")
    with pytest.raises(rawmqtt.Refused) as refusal:
        platform.connect(device)
    assert refusal.value.code == 5
    api.post(f"{path}/unfreeze", status=204)
    wait_until(lambda: api.device(device["device_id"])["status"] == "OFFLINE", 10, 0.05, "what its connection says")
    platform.connect(device).disconnect()


def test_children_are_not_frozen(api, product, device):
    child = api.new_device(product["product_id"], gateway_id=device["device_id"])["device_id"]
    for verb in ("freeze", "unfreeze"):
        assert device["device_id"] in api.refused(403, "IOTDA.014038", "POST", f"/devices/{child}/{verb}")


def test_what_is_not_there_is_not_frozen(api):
    for verb in ("freeze", "unfreeze"):
        api.refused(404, "IOTDA.014000", "POST", f"/devices/nobody_at_all/{verb}")


# ---- fingerprints

def test_a_fingerprint_is_replaced_and_cleared(api, product):
    made = api.new_device(product["product_id"], auth_info={"auth_type": "CERTIFICATES", "fingerprint": "a1" * 20})
    path = f"/devices/{made['device_id']}/reset-fingerprint"
    got = api.post(path, {"fingerprint": "b2" * 32}, status=200)
    assert got == {"device_id": made["device_id"], "fingerprint": "b2" * 32, "fingerprint_type": "PRIMARY"}
    api.post(path, {"fingerprint": "c3" * 20, "fingerprint_type": "SECONDARY"}, status=200)
    auth = api.device(made["device_id"])["auth_info"]
    assert (auth["fingerprint"], auth["secondary_fingerprint"]) == ("b2" * 32, "c3" * 20)
    api.post(path, {}, status=200)
    assert "fingerprint" not in api.device(made["device_id"])["auth_info"]
    assert "fingerprint" in api.refused(400, "IOTDA.000006", "POST", path, {"fingerprint": "d4" * 25})
    assert "auth_type" in api.refused(400, "IOTDA.000006", "POST",
                                      f"/devices/{api.new_device(product['product_id'])['device_id']}/reset-fingerprint", {})


# ---- gateways and children

@pytest.fixture
def family(api, product):
    """Two gateways; below the first a child with a child."""
    make = lambda **more: api.new_device(product["product_id"], **more)["device_id"]  # noqa: E731
    one, two = make(), make()
    child = make(gateway_id=one)
    grandchild = make(gateway_id=child)
    return one, two, child, grandchild


def test_a_child_changes_its_gateway(api, product, family):
    one, two, child, grandchild = family
    move = lambda device, to: api.call("POST", f"/devices/{device}/change-gateway", {"gateway_id": to})  # noqa: E731
    assert move(child, two).code == "IOTDA.014900", "it has a child"
    assert move(one, two).code == "IOTDA.014910", "it is no child"
    assert move(grandchild, child).code == "IOTDA.000006", "it is there already"
    assert move(grandchild, grandchild).code == "IOTDA.000006"
    assert move(grandchild, "nobody_at_all").code == "IOTDA.014902"
    got = move(grandchild, two)
    assert got.status == 200 and got.text == "", got
    shown = api.device(grandchild)
    assert (shown["gateway_id"], shown["node_type"]) == (two, "ENDPOINT")
    below = [d["device_id"] for d in api.get("/devices", gateway_id=two)["devices"]]
    assert below == [grandchild]
    assert move(child, two).status == 200, "now it has none"
    deep = api.new_device(product["product_id"], gateway_id=child)["device_id"]
    assert move(grandchild, deep).code == "IOTDA.014901", "three levels"
    assert api.call("POST", "/devices/nobody_at_all/change-gateway", {"gateway_id": two}).code == "IOTDA.014000"


def test_lists_below_a_gateway(api, product, family):
    one, two, child, grandchild = family
    ids = lambda **query: {d["device_id"] for d in api.get("/devices", **query)["devices"]}  # noqa: E731
    assert ids(gateway_id=one) == {child}
    assert ids(gateway_id=one, is_cascade_query=True) == {child, grandchild}
    assert ids(gateway_id=child, is_cascade_query=True) == {grandchild} == ids(gateway_id=child)
    assert ids(gateway_id=two) == set() == ids(gateway_id="nobody_at_all")
    assert ids(gateway_id=one, is_cascade_query=True, product_id=product["product_id"]) == {child, grandchild}
    assert ids(gateway_id=one, product_id="another") == set()


def test_a_device_with_children_stays(api, family):
    one, _, child, grandchild = family
    for device in (one, child):
        api.refused(403, "IOTDA.014900", "DELETE", f"/devices/{device}")
    for device in (grandchild, child, one):
        api.delete(f"/devices/{device}")


# ---- lists

def test_every_combination_of_filters(api, space):
    other = api.new_product(app_id=space["app_id"])["product_id"]
    product = api.new_product(app_id=space["app_id"])["product_id"]
    make = lambda p, **more: api.new_device(p, app_id=space["app_id"], **more)  # noqa: E731
    gateway = make(product, device_name="alike")
    wanted = make(product, device_name="alike", gateway_id=gateway["device_id"])
    make(product, device_name="other", gateway_id=gateway["device_id"])
    make(other, device_name="alike")
    created = api.device(wanted["device_id"])["create_time"]
    filters = {"app_id": space["app_id"], "product_id": product, "gateway_id": gateway["device_id"],
               "node_id": wanted["node_id"], "device_name": "alike", "start_time": "20200101T000000Z",
               "end_time": "20990101T000000Z"}
    names = list(filters)
    for bits in range(1 << len(names)):
        query = {n: filters[n] for i, n in enumerate(names) if bits >> i & 1}
        for cascade in ({}, {"is_cascade_query": True}):
            got = api.get("/devices", **query, **cascade, limit=50)
            listed = [d["device_id"] for d in got["devices"]]
            if {"app_id", "product_id", "gateway_id", "node_id"} & query.keys():
                assert wanted["device_id"] in listed, query
                assert got["page"]["count"] == len(listed), query
            if "node_id" in query or {"gateway_id", "device_name"} <= query.keys():
                assert listed == [wanted["device_id"]], query
    api.refused(400, "IOTDA.000010", "GET", "/devices", query={"start_time": created, "end_time": "20200101T000000Z"})
    second = {**filters, "start_time": created, "end_time": created[:-3] + "59Z"}
    if created < second["end_time"]:
        assert [d["device_id"] for d in api.get("/devices", **second)["devices"]] == [wanted["device_id"]]


def test_counts_follow_every_change(platform, api, space):
    product = api.new_product(app_id=space["app_id"])["product_id"]
    count = lambda **q: api.get("/devices", **q)["page"]["count"]  # noqa: E731
    assert count(product_id=product) == 0
    made = [api.new_device(product, app_id=space["app_id"]) for _ in range(3)]
    assert count(product_id=product) == count(app_id=space["app_id"]) == 3
    with platform.connect(made[0]):
        wait_until(lambda: api.device(made[0]["device_id"])["status"] == "ONLINE")
        assert count(product_id=product) == 3
        statuses = platform.sql("SELECT status || ':' || sum(n) FROM registry.device_count c JOIN registry.product p"
                                f" USING (product_key) WHERE p.product_id = '{product}' GROUP BY status"
                                " HAVING sum(n) <> 0 ORDER BY 1")
        assert statuses.split() == ["INACTIVE:2", "ONLINE:1"]
    api.post(f"/devices/{made[1]['device_id']}/freeze", status=204)
    api.delete(f"/devices/{made[2]['device_id']}")
    assert count(product_id=product) == 2
    # what is counted is what is there
    assert platform.sql("""SELECT count(*) FROM (SELECT app_id, product_key, status, sum(n) AS n
        FROM registry.device_count GROUP BY 1, 2, 3 HAVING sum(n) <> 0 EXCEPT
        SELECT app_id, product_key, registry.shown_status(frozen, status), count(*) FROM registry.device
        GROUP BY 1, 2, 3) x""") == "0"


# ---- deletion leaves its reason

def test_a_deleted_device_tells_why_it_is_gone(platform, api, product):
    made = api.new_device(product["product_id"])
    api.delete(f"/devices/{made['device_id']}")
    row = platform.sql("SELECT reason, deleted_by, request_id <> '' FROM registry.device_tombstone"
                       f" WHERE device_id = '{made['device_id']}'")
    assert row == f"deleted|{platform.access['CAUSEWAY_USER']}|t"


def test_the_model_has_all_types(api):
    kinds = {"int": 1, "long": 2 ** 40, "decimal": 1.5, "string": "text", "DateTime": "20260102T030405Z",
             "jsonObject": {"a": [1]}, "enum": "ONE", "boolean": True, "string list": ["a", "b"]}
    model = [{"service_id": "All", "properties": [
        {"property_name": f"p{i}", "data_type": kind, "method": "RW",
         **({"enum_list": ["ONE", "TWO"]} if kind == "enum" else {})} for i, kind in enumerate(kinds)],
        "events": [{"event_type": "alarm", "paras": [{"para_name": "level", "data_type": "int"}]}],
        "commands": [{"command_name": "GO", "paras": [{"para_name": f"a{i}", "data_type": kind}
                                                      for i, kind in enumerate(kinds)],
                      "responses": [{"response_name": "went", "paras": [{"para_name": "x", "data_type": "int"}]}]}]}]
    product = api.new_product(model)
    assert product["service_capabilities"][0]["events"] == model[0]["events"]
    device = api.new_device(product["product_id"])["device_id"]
    good = {f"p{i}": v for i, v in enumerate(kinds.values())}
    got = api.put(f"/devices/{device}/shadow", {"shadow": [{"service_id": "All", "desired": good}]})
    assert got["shadow"][0]["desired"]["properties"] == good
    for i, kind in enumerate(kinds):
        bad = {"boolean": "yes", "string": 1, "DateTime": 2, "enum": "THREE", "jsonObject": 3,
               "string list": [1]}.get(kind, "text")
        said = api.refused(400, "IOTDA.013002", "PUT", f"/devices/{device}/shadow",
                           {"shadow": [{"service_id": "All", "desired": {f"p{i}": bad}}]})
        assert f"p{i}" in said, kind




# ---- quotas

@pytest.mark.long
def test_each_quota_is_named_when_it_is_reached(own_platform):
    api = own_platform(etc={"device-registry": "APPS_MAX=2\nPRODUCTS_MAX=2\nDEVICES_MAX=3\nCHILDREN_MAX=1"}).api
    api.post("/apps", {"app_name": "second"})
    assert "CAUSEWAY_APPS_MAX" in api.refused(403, "IOTDA.001902", "POST", "/apps", {"app_name": "third"})
    product = api.new_product()["product_id"]
    api.new_product()
    body = {"name": "x", "device_type": "x", "protocol_type": "MQTT", "data_format": "json", "service_capabilities": []}
    assert "CAUSEWAY_PRODUCTS_MAX" in api.refused(403, "IOTDA.013903", "POST", "/products", body)
    gateway = api.new_device(product)["device_id"]
    child = api.new_device(product, gateway_id=gateway)["device_id"]
    body = {"node_id": "n", "product_id": product}
    assert "CAUSEWAY_CHILDREN_MAX" in api.refused(403, "IOTDA.014908", "POST", "/devices", {**body, "gateway_id": gateway})
    api.new_device(product)
    assert "CAUSEWAY_DEVICES_MAX" in api.refused(403, "IOTDA.014908", "POST", "/devices", body)
    api.delete(f"/devices/{child}")
    api.new_device(product, gateway_id=gateway)

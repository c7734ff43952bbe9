"""Resource spaces, products and devices: create, list, show, update, delete, and each refusal."""
import copy
import re

import pytest

import rawmqtt
from rest import PUMP_MODEL, unique
from waiting import wait_until

BASIC_TIME = r"\d{8}T\d{6}Z"
NOBODY = "nobody_" + "0" * 8


# ---- resource spaces

def test_exactly_one_space_is_the_default_one(platform, api):
    apps = api.get("/apps", default_app=True)["applications"]
    assert [a["app_id"] for a in apps] == [platform.access["CAUSEWAY_APP_ID"]]
    assert apps[0]["default_app"] is True and re.fullmatch(BASIC_TIME, apps[0]["create_time"])


@pytest.fixture(scope="session")
def space(platform):
    made = platform.api.post("/apps", {"app_name": unique("space")})
    assert re.fullmatch("[0-9a-f]{32}", made.pop("app_secret")), "shown here only"
    return made


def test_a_space_is_created_shown_and_listed(api, space):
    assert re.fullmatch("[0-9a-f]{32}", space["app_id"]) and space["default_app"] is False
    assert api.get(f"/apps/{space['app_id']}") == space
    assert space["app_id"] in [a["app_id"] for a in api.get("/apps")["applications"]]
    assert space["app_id"] not in [a["app_id"] for a in
                                   api.get("/apps", default_app=True)["applications"]]


def test_space_refusals(api, space):
    api.refused(403, "IOTDA.001000", "GET", "/apps/" + "0" * 32)
    api.refused(400, "IOTDA.001900", "POST", "/apps", {"app_name": space["app_name"]})
    for name in ("", "a" * 65, "semi;colon", 7, None, ["x"]):
        assert "app_name" in api.refused(400, "IOTDA.000006", "POST", "/apps", {"app_name": name})
    assert "app_name" in api.refused(400, "IOTDA.000006", "POST", "/apps", {})


# ---- products

def test_a_product_lives(platform, api):
    made = api.new_product()
    assert re.fullmatch("[0-9a-f]{24}", made["product_id"])
    assert re.fullmatch(BASIC_TIME, made["create_time"])
    assert made["app_id"] == platform.access["CAUSEWAY_APP_ID"]
    shown = api.get(f"/products/{made['product_id']}")
    assert shown == made
    names = [p["property_name"] for p in shown["service_capabilities"][0]["properties"]]
    assert names == [p["property_name"] for p in PUMP_MODEL[0]["properties"]], "order is kept"
    changed = api.put(f"/products/{made['product_id']}", {"name": "renamed", "industry": "Water"})
    assert changed["name"] == "renamed" and changed["industry"] == "Water"
    assert changed["service_capabilities"] == made["service_capabilities"], "absent: unchanged"
    changed = api.put(f"/products/{made['product_id']}", {"service_capabilities": []})
    assert changed["service_capabilities"] == []
    api.delete(f"/products/{made['product_id']}")
    api.refused(404, "IOTDA.013900", "GET", f"/products/{made['product_id']}")
    api.refused(404, "IOTDA.013900", "DELETE", f"/products/{made['product_id']}")
    api.refused(404, "IOTDA.013900", "PUT", f"/products/{made['product_id']}", {"name": "x"})


def test_a_product_may_bring_its_id_which_is_unique_within_its_space(api, space):
    product_id = unique("chosen_")
    assert api.new_product(product_id=product_id)["product_id"] == product_id
    body = {"name": "x", "device_type": "x", "protocol_type": "MQTT", "data_format": "json",
            "service_capabilities": [], "product_id": product_id}
    api.refused(400, "IOTDA.013901", "POST", "/products", body)
    api.post("/products", {**body, "app_id": space["app_id"]})
    assert api.get(f"/products/{product_id}")["app_id"] != space["app_id"], "default space first"
    assert api.get(f"/products/{product_id}", app_id=space["app_id"])["app_id"] == space["app_id"]


def test_products_are_listed_newest_first_in_pages(api, space):
    made = [api.new_product(app_id=space["app_id"], name=unique("paged"))["product_id"]
            for _ in range(5)][::-1]
    query = {"app_id": space["app_id"], "limit": 2}
    first = api.get("/products", **query)
    assert [p["product_id"] for p in first["products"]] == made[:2]
    assert first["page"]["count"] >= 5 and "service_capabilities" not in first["products"][0]
    assert re.fullmatch("[0-9a-f]{24}", first["page"]["marker"])
    second = api.get("/products", marker=first["page"]["marker"], **query)
    assert [p["product_id"] for p in second["products"]] == made[2:4]
    skipped = api.get("/products", offset=1, **query)
    assert [p["product_id"] for p in skipped["products"]] == made[1:3]
    name = api.get(f"/products/{made[0]}", app_id=space["app_id"])["name"]
    only = api.get("/products", product_name=name)
    assert [p["product_id"] for p in only["products"]] == made[:1] and only["page"]["count"] == 1
    assert api.get("/products", product_name="nothing-is-called-so")["products"] == []


@pytest.mark.parametrize("field, value", [
    ("name", ""), ("name", "n" * 65), ("name", "a;b"), ("name", 3), ("name", None),
    ("device_type", "d" * 33), ("device_type", None), ("protocol_type", "SMTP"),
    ("protocol_type", None), ("data_format", "xml"), ("service_capabilities", None),
    ("service_capabilities", {}), ("service_capabilities", "x"), ("product_id", "a b"),
    ("product_id", "p" * 37), ("description", "d" * 129), ("manufacturer_name", "m" * 33)])
def test_a_bad_product_is_refused_by_the_name_of_the_field(api, field, value):
    body = {"name": "x", "device_type": "x", "protocol_type": "MQTT", "data_format": "json",
            "service_capabilities": [], field: value}
    if value is None:
        del body[field]
    assert field in api.refused(400, "IOTDA.000006", "POST", "/products", body)


def _model(change):
    model = copy.deepcopy(PUMP_MODEL)
    change(model)
    return model


@pytest.mark.parametrize("change", [
    lambda m: m.append(m[0]), lambda m: m[0]["properties"].append(m[0]["properties"][0]),
    lambda m: m[0]["commands"].append(m[0]["commands"][0]),
    lambda m: m[0]["properties"][0].update(min="9", max="1"),
], ids=["service twice", "property twice", "command twice", "range upside down"])
def test_a_contradicting_model_is_refused(api, change):
    body = {"name": "x", "device_type": "x", "protocol_type": "MQTT", "data_format": "json",
            "service_capabilities": _model(change)}
    api.refused(400, "IOTDA.013904", "POST", "/products", body)


@pytest.mark.parametrize("change, named", [
    (lambda m: m[0].pop("service_id"), "service_id"),
    (lambda m: m[0]["properties"][0].update(data_type="float"), "data_type"),
    (lambda m: m[0]["properties"][0].update(method="X"), "method"),
    (lambda m: m[0]["properties"][0].update(property_name="a.b"), "property_name"),
    (lambda m: m[0]["properties"][0].pop("property_name"), "property_name"),
    (lambda m: m[0]["commands"][0].pop("command_name"), "command_name"),
])
def test_a_malformed_model_is_refused_by_the_name_of_the_field(api, change, named):
    body = {"name": "x", "device_type": "x", "protocol_type": "MQTT", "data_format": "json",
            "service_capabilities": _model(change)}
    got = api.call("POST", "/products", body)
    assert got.status == 400 and got.code in ("IOTDA.000006", "IOTDA.013904"), got
    assert named in got.message


def test_a_product_with_devices_stays(api, product, device):
    api.refused(403, "IOTDA.013902", "DELETE", f"/products/{product['product_id']}")


def test_an_unknown_space_is_403(api):
    api.refused(403, "IOTDA.001000", "POST", "/products", {
        "name": "x", "device_type": "x", "protocol_type": "MQTT", "data_format": "json",
        "service_capabilities": [], "app_id": "f" * 32})
    api.refused(403, "IOTDA.001000", "GET", "/devices", query={"app_id": "f" * 32})


# ---- devices

def test_a_device_lives(platform, api, product):
    made = api.new_device(product["product_id"], device_name="Pump_7", description="in the cellar",
                          extension_info={"floor": -1})
    device_id = made["device_id"]
    assert device_id == f"{product['product_id']}_{made['node_id']}"
    assert re.fullmatch("[0-9a-f]{32}", made["auth_info"]["secret"])
    assert made["auth_info"]["auth_type"] == "SECRET"
    assert (made["status"], made["node_type"], made["gateway_id"]) == \
        ("INACTIVE", "GATEWAY", device_id)
    assert made["product_name"] == product["name"] and made["extension_info"] == {"floor": -1}
    assert re.fullmatch(BASIC_TIME, made["create_time"])
    shown = api.device(device_id)
    assert shown["auth_info"]["secret"] == made["auth_info"]["secret"]
    assert shown["app_id"] == platform.access["CAUSEWAY_APP_ID"]
    changed = api.put(f"/devices/{device_id}", {"device_name": "Pump_8", "extension_info": {}})
    assert changed["device_name"] == "Pump_8" and changed["description"] == "in the cellar"
    api.delete(f"/devices/{device_id}")
    for method, path, body in (("GET", "", None), ("DELETE", "", None), ("PUT", "", {}),
                               ("GET", "/shadow", None), ("GET", "/history", None),
                               ("GET", "/messages", None),
                               ("POST", "/messages", {"message": "x"}),
                               ("POST", "/commands", {"paras": {}})):
        api.refused(404, "IOTDA.014000", method, f"/devices/{device_id}{path}", body)


def test_a_device_may_bring_id_and_secret(platform, api, product):
    device_id = unique("own_")
    made = api.new_device(product["product_id"], device_id=device_id,
                          auth_info={"secret": "my_own-Secret1"})
    assert made["auth_info"]["secret"] == "my_own-Secret1"
    with platform.connect(made):
        wait_until(lambda: api.device(device_id)["status"] == "ONLINE")
    api.refused(400, "IOTDA.014031", "POST", "/devices", {
        "device_id": device_id, "node_id": "x", "product_id": product["product_id"]})


def test_devices_are_listed_in_pages_and_filtered(api, space):
    product = api.new_product(app_id=space["app_id"])["product_id"]
    made = [api.new_device(product, app_id=space["app_id"], device_name=unique("name"))
            for _ in range(5)][::-1]
    ids = [d["device_id"] for d in made]
    first = api.get("/devices", product_id=product, limit=3)
    assert [d["device_id"] for d in first["devices"]] == ids[:3] and first["page"]["count"] == 5
    assert not {"auth_info", "create_time"} & first["devices"][0].keys()
    second = api.get("/devices", product_id=product, limit=3, marker=first["page"]["marker"])
    assert [d["device_id"] for d in second["devices"]] == ids[3:]
    for query in ({"device_name": made[1]["device_name"]}, {"node_id": made[1]["node_id"]},
                  {"node_id": made[1]["node_id"], "app_id": space["app_id"]}):
        assert [d["device_id"] for d in api.get("/devices", **query)["devices"]] == [ids[1]]
    now = api.device(ids[0])["create_time"]
    got = api.get("/devices", product_id=product, start_time="20200101T000000Z", end_time=now)
    assert {d["device_id"] for d in got["devices"]} <= set(ids) and got["page"]["count"] >= 1
    assert api.get("/devices", product_id=product,
                   start_time="20990101T000000Z")["devices"] == []


@pytest.mark.parametrize("query, code", [
    ({"limit": 0}, "IOTDA.000017"), ({"limit": 51}, "IOTDA.000017"), ({"limit": "x"}, "IOTDA.000017"),
    ({"marker": "xyz"}, "IOTDA.000018"), ({"marker": "f" * 25}, "IOTDA.000018"),
    ({"offset": 501}, "IOTDA.000006"), ({"offset": -1}, "IOTDA.000006"),
    ({"start_time": "yesterday"}, "IOTDA.000009"),
    ({"start_time": "20260102T000000Z", "end_time": "20260101T000000Z"}, "IOTDA.000010")])
def test_bad_paging_is_refused(api, query, code):
    api.refused(400, code, "GET", "/devices", query=query)


@pytest.mark.parametrize("field, value", [
    ("node_id", None), ("node_id", "a b"), ("node_id", "n" * 65), ("node_id", 5), ("node_id", ""),
    ("product_id", None), ("product_id", "p" * 37), ("device_id", "d" * 129), ("device_id", "a/b"),
    ("device_name", "n" * 257), ("description", "d" * 2049), ("secret", "short"),
    ("secret", "s" * 33), ("secret", "with space"), ("timeout", -1), ("timeout", "1"),
    ("extension_info", {"x": "y" * 1100})])
def test_a_bad_device_is_refused_by_the_name_of_the_field(api, product, field, value):
    body = {"node_id": unique("bad"), "product_id": product["product_id"]}
    inside = body.setdefault("auth_info", {}) if field in ("secret", "timeout") else body
    inside[field] = value
    if value is None:
        del inside[field]
    assert field in api.refused(400, "IOTDA.000006", "POST", "/devices", body)


def test_a_device_of_an_unknown_product_is_refused(api):
    api.refused(404, "IOTDA.013900", "POST", "/devices", {"node_id": "x", "product_id": "nothing"})


def test_reset_secret_replaces_the_password(platform, api, device):
    device_id, old = device["device_id"], device["auth_info"]["secret"]
    got = api.post(f"/devices/{device_id}/action", {"secret": "another_secret"}, status=200,
                   action_id="resetSecret")
    assert got == {"device_id": device_id, "secret": "another_secret", "secret_type": "PRIMARY"}
    with pytest.raises(rawmqtt.Refused) as refusal:
        platform.connect(device, secret=old)
    assert refusal.value.code == 4
    platform.connect(device, secret="another_secret").disconnect()
    made = api.post(f"/devices/{device_id}/action", {}, status=200, action_id="resetSecret")
    assert re.fullmatch("[0-9a-f]{32}", made["secret"])
    assert api.device(device_id)["auth_info"]["secret"] == made["secret"]


def test_reset_secret_may_cut_the_connection(platform, api, device, connected):
    api.post(f"/devices/{device['device_id']}/action", {"force_disconnect": False}, status=200,
             action_id="resetSecret")
    connected.ping()
    api.post(f"/devices/{device['device_id']}/action", {"force_disconnect": True}, status=200,
             action_id="resetSecret")
    connected.wait_closed()


def test_a_secondary_secret_is_valid_beside_the_first(platform, api, device):
    api.post(f"/devices/{device['device_id']}/action",
             {"secret": "second_secret", "secret_type": "SECONDARY"}, status=200,
             action_id="resetSecret")
    platform.connect(device, secret="second_secret").disconnect()
    platform.connect(device).disconnect()
    assert api.device(device["device_id"])["auth_info"]["secondary_secret"] == "second_secret"


@pytest.mark.parametrize("query, body", [({}, {}), ({"action_id": "other"}, {}),
                                         ({"action_id": "resetSecret"}, {"secret": "x"}),
                                         ({"action_id": "resetSecret"}, {"secret_type": "THIRD"})])
def test_a_bad_action_is_refused(api, device, query, body):
    api.refused(400, "IOTDA.000006", "POST", f"/devices/{device['device_id']}/action", body, query)


def test_deleting_a_device_closes_its_connection(api, device, connected):
    api.delete(f"/devices/{device['device_id']}")
    connected.wait_closed()


def test_a_device_made_again_never_sees_what_its_predecessor_left(platform, api, product):
    made = api.new_device(product["product_id"])
    device_id, node_id = made["device_id"], made["node_id"]
    with platform.connect(made) as peer:
        peer.report("Pump", {"flow": 1})
    wait_until(lambda: api.shadow(device_id))
    api.delete(f"/devices/{device_id}")
    again = api.post("/devices", {"node_id": node_id, "product_id": product["product_id"]})
    assert again["device_id"] == device_id
    assert again["auth_info"]["secret"] != made["auth_info"]["secret"]
    assert api.shadow(device_id) == {} and api.history(device_id) == []
    assert api.device(device_id)["status"] == "INACTIVE"
    with pytest.raises(rawmqtt.Refused):
        platform.connect(made)

"""Devices that were deleted and come back: GET /deleted-devices, POST /deleted-devices/{id}/undelete."""
import pytest

from rawmqtt import Refused
from rest import unique
from waiting import wait_until


@pytest.fixture
def space(platform):
    return platform.api.post("/apps", {"app_name": unique("undelete")})["app_id"]


def device(api, space, product=None, **more):
    product = product or api.new_product(app_id=space)["product_id"]
    return api.post("/devices", {"node_id": unique("back"), "product_id": product, "app_id": space, **more})


def listed(api, **query):
    return api.get("/deleted-devices", **query)["devices"]


def undelete(api, device_id, status=200):
    return api.post(f"/deleted-devices/{device_id}/undelete", status=status)


def test_a_device_comes_back_whole(platform, space):
    api = platform.api
    made = device(api, space, device_name="old_name", extension_info={"a": 1},
                  shadow=[{"service_id": "Pump", "desired": {"on": 1}}])
    name = made["device_id"]
    api.post("/tags/bind-resource", {"resource_type": "device", "resource_id": name, "tags": [{"tag_key": "k", "tag_value": "v"}]},
             status=200)
    group = api.post("/device-group", {"name": unique("g"), "app_id": space})["group_id"]
    api.post(f"/device-group/{group}/action", status=200, action_id="addDevice", device_id=name)
    policy = api.post("/device-policies", {"policy_name": "p", "app_id": space, "statement": [
        {"effect": "DENY", "actions": ["iotda:devices:publish"], "resources": ["topic:never/*"]}]})["policy_id"]
    api.post(f"/device-policies/{policy}/bind", {"target_type": "device", "target_ids": [name]}, status=200)
    with platform.connect(made) as peer:
        peer.report("Pump", {"flow": 7})
        wait_until(lambda: len(api.history(name)) == 1, 10, 0.05, "stored")
    wait_until(lambda: api.device(name)["status"] == "OFFLINE", 10, 0.05, "it has gone")
    before, shadow = api.device(name), api.shadow(name)
    api.delete(f"/devices/{name}")
    [row] = listed(api, app_id=space)
    assert (row["device_id"], row["reason"], row["device_name"]) == (name, "deleted", "old_name")
    assert row["deleted_by"] == api.env["CAUSEWAY_USER"] and row["restorable_until"] > row["deleted_time"]
    why = api.expect(404, "GET", f"/devices/{name}/why")["error_msg"]
    assert "was deleted" in why and api.env["CAUSEWAY_USER"] in why and "brought back" in why, why
    with pytest.raises(Refused):
        platform.connect(made)
    back = undelete(api, name)
    assert back == {**before, "auth_info": before["auth_info"]}
    assert back["tags"] == [{"tag_key": "k", "tag_value": "v"}] and listed(api, app_id=space) == []
    assert [d["device_id"] for d in api.get(f"/device-group/{group}/devices")["devices"]] == [name]
    assert api.post(f"/device-policies/{policy}/list-targets", {}, status=200)["targets"][0]["target_id"] == name
    assert api.shadow(name) == shadow and len(api.history(name)) == 1
    with platform.connect(made) as peer:
        peer.report("Pump", {"flow": 8})
        wait_until(lambda: len(api.history(name)) == 2, 10, 0.05, "stored")

    undelete(api, name, status=404)


def test_what_stands_in_the_way(platform, space):
    api = platform.api
    product = api.new_product(app_id=space)["product_id"]
    gateway = device(api, space, product)["device_id"]
    child = device(api, space, product, gateway_id=gateway)["device_id"]
    for name in (child, gateway):
        api.delete(f"/devices/{name}")
    assert "bring that back first" in undelete(api, child, status=400)["error_msg"]
    undelete(api, gateway)
    assert undelete(api, child)["gateway_id"] == gateway
    api.delete(f"/devices/{child}")
    again = api.post("/devices", {"node_id": "other", "device_id": child, "product_id": product, "app_id": space})
    assert api.history(child) == [], "nothing of the one before it"
    assert undelete(api, child, status=400)["error_code"] == "IOTDA.014031"
    api.delete(f"/devices/{again['device_id']}")
    assert len(listed(api, device_id=child)) == 2
    assert undelete(api, child)["node_id"] == "other", "the newest of that id"
    for name in (child, gateway):
        api.delete(f"/devices/{name}")
    api.delete(f"/products/{product}", app_id=space)
    assert undelete(api, gateway, status=404)["error_code"] == "IOTDA.013900"
    assert undelete(api, "nobody", status=404)["error_code"] == "IOTDA.014000"


def test_by_timeout_and_by_its_gateway(own_platform):
    platform = own_platform(etc={"device-registry": "UNDELETE_DAYS=1"})
    api = platform.api
    product = api.new_product()["product_id"]
    name = api.post("/devices", {"node_id": unique("t"), "product_id": product, "auth_info": {"timeout": 1}})["device_id"]
    wait_until(lambda: api.call("GET", f"/devices/{name}").status == 404, 40, 0.2, "its timeout is over")
    [row] = listed(api, device_id=name)
    assert row["reason"] == "timeout"
    assert "never came online" in api.expect(404, "GET", f"/devices/{name}/why")["error_msg"]
    assert undelete(api, name)["auth_info"]["timeout"] == 0
    api.delete(f"/devices/{name}")
    platform.sql("UPDATE registry.deleted_device SET deleted = now() - interval '2 days'")
    assert listed(api, device_id=name) == []
    undelete(api, name, status=404)
    wait_until(lambda: platform.sql("SELECT count(*) FROM registry.deleted_device") == "0", 20, 0.2, "it is swept")


KNOWN = ("shadow", "device_state", "change", "failure")


def known(platform, key):
    """Tables of uplink-processor that know the device."""
    return [t for t in KNOWN if platform.sql(f"SELECT count(*) FROM data.{t} WHERE device_key = {key}") != "0"]


def test_what_was_known_of_it_goes_with_its_last_day(own_platform):
    platform = own_platform(etc={"device-registry": "UNDELETE_DAYS=1"})
    api = platform.api
    product = api.new_product()["product_id"]
    gone, kept = (api.post("/devices", {"node_id": unique("e"), "product_id": product}) for _ in range(2))
    for made in (gone, kept):
        with platform.connect(made) as peer:
            peer.report("Pump", {"flow": 7})
            peer.report("Nonsense", {"flow": 7})  # a failure
            wait_until(lambda made=made: len(api.history(made["device_id"])) == 2, 10, 0.05, "stored")
    keys = {made["device_id"]: platform.sql(f"SELECT device_key FROM registry.device WHERE device_id = '{made['device_id']}'")
            for made in (gone, kept)}  # fmt: skip
    for name, key in keys.items():
        wait_until(lambda key=key: known(platform, key) == list(KNOWN), 10, 0.05, "all is written")
        wait_until(lambda name=name: api.device(name)["status"] == "OFFLINE", 10, 0.05, "it has gone")
        api.delete(f"/devices/{name}")
        assert known(platform, key) == list(KNOWN), "it may come back"
    undelete(api, kept["device_id"])
    platform.sql("UPDATE registry.deleted_device SET deleted = now() - interval '2 days'")
    wait_until(lambda: known(platform, keys[gone["device_id"]]) == [], 30, 0.2, "it is erased")
    assert known(platform, keys[kept["device_id"]]) == list(KNOWN)
    assert api.shadow(kept["device_id"])["Pump"]["reported"]["properties"] == {"flow": 7}

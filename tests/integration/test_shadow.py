"""Desired values: set with and without a version, cleared, told to the device when it is online."""
import pytest

from rest import unique
from waiting import wait_until


@pytest.fixture
def put(api, device):
    """put({property: value}, version=…) on service Pump; the entry afterwards."""
    def send(desired, service="Pump", status=200, **more):
        body = {"shadow": [{"service_id": service, "desired": desired, **more}]}
        got = api.expect(status, "PUT", f"/devices/{device['device_id']}/shadow", body)
        return {s["service_id"]: s for s in got["shadow"]}.get(service) if status == 200 else got
    return send


def test_desired_values_are_merged(put):
    assert put({"on": 1, "label": "a"})["desired"]["properties"] == {"on": 1, "label": "a"}
    entry = put({"label": None})
    assert entry["desired"]["properties"] == {"on": 1} and entry["reported"]["properties"] == {}
    assert put({"mode": "AUTO"})["desired"]["properties"] == {"on": 1, "mode": "AUTO"}
    assert put({})["desired"]["properties"] == {}


def test_the_version_decides(api, device, put):
    assert put({"on": 1})["version"] == 1
    assert put({"on": 0}, version=1)["version"] == 2
    got = put({"on": 1}, version=1, status=409)
    assert got["error_code"] == "IOTDA.014903" and "version 2, not 1" in got["error_msg"]
    assert api.shadow(device["device_id"])["Pump"]["desired"]["properties"] == {"on": 0}


def test_services_change_together_or_not_at_all(api):
    model = [{"service_id": s, "properties": [{"property_name": "x", "data_type": "int", "method": "RW"}]}
             for s in ("A", "B")]
    device = api.new_device(api.new_product(model)["product_id"])["device_id"]
    body = {"shadow": [{"service_id": "B", "desired": {"x": 1}}, {"service_id": "A", "desired": {"x": 1}, "version": 9}]}
    api.refused(409, "IOTDA.014903", "PUT", f"/devices/{device}/shadow", body)
    assert api.get(f"/devices/{device}/shadow")["shadow"] == []
    twice = {"shadow": [{"service_id": "A", "desired": {"x": 1}}] * 2}
    assert "twice" in api.refused(400, "IOTDA.000006", "PUT", f"/devices/{device}/shadow", twice)


@pytest.mark.parametrize("desired, service, code", [
    ({"a.b": 1}, "Pump", "IOTDA.014904"), ({"$x": 1}, "Pump", "IOTDA.014904"),
    ({"flow": 1}, "Pump", "IOTDA.013002"), ({"nothing": 1}, "Pump", "IOTDA.013002"),
    ({"on": "one"}, "Pump", "IOTDA.013002"), ({"on": 2}, "Pump", "IOTDA.013002"),
    ({"on": 1}, "Nothing", "IOTDA.013002")])
def test_a_wish_that_does_not_fit_is_refused(put, desired, service, code):
    assert put(desired, service, status=400)["error_code"] == code


def test_a_shadow_is_cleared(api, device, put, connected):
    put({"on": 1})
    connected.report("Pump", {"flow": 2})
    wait_until(lambda: api.shadow(device["device_id"])["Pump"]["reported"]["properties"] == {"flow": 2})
    path = f"/devices/{device['device_id']}/shadow"
    api.delete(path)
    assert api.get(path)["shadow"] == []
    api.refused(404, "IOTDA.014000", "DELETE", "/devices/nobody_at_all/shadow")
    api.refused(404, "IOTDA.014000", "PUT", "/devices/nobody_at_all/shadow",
                {"shadow": [{"service_id": "Pump", "desired": {}}]})


# ---- the way down

SET = "/sys/properties/set/request_id="


def told(peer, nth=1):
    """The n-th properties/set of a connection; answered with success."""
    message = peer.wait_for(SET, nth)[nth - 1]
    peer.publish(message.topic.replace("/set/", "/set/response/"), {"result_code": 0, "result_desc": "success"})
    return message.json


def test_a_connected_device_is_told_at_once(put, connected):
    put({"on": 1, "label": "x"})
    assert told(connected) == {"services": [{"service_id": "Pump", "properties": {"on": 1, "label": "x"}}]}


def test_only_what_differs_goes_down(api, device, put, connected):
    connected.report("Pump", {"on": 1})
    wait_until(lambda: api.shadow(device["device_id"]).get("Pump"))
    put({"on": 1, "mode": "HAND"})
    assert told(connected) == {"services": [{"service_id": "Pump", "properties": {"mode": "HAND"}}]}
    connected.report("Pump", {"mode": "HAND"})
    wait_until(lambda: api.shadow(device["device_id"])["Pump"]["reported"]["properties"].get("mode") == "HAND")
    put({"mode": "HAND"})
    put({"label": "new"})
    assert told(connected, 2)["services"] == [{"service_id": "Pump", "properties": {"label": "new"}}]
    assert len(connected.on(SET)) == 2, "nothing for what is as it should be"


def test_a_device_that_was_away_is_told_when_it_comes(platform, device, put):
    put({"on": 1})
    with platform.connect(device) as peer:
        assert told(peer)["services"][0]["properties"] == {"on": 1}
    with platform.connect(device) as peer:
        assert told(peer)["services"][0]["properties"] == {"on": 1}, "until it reports it"
        peer.report("Pump", {"on": 1})
        wait_until(lambda: platform.api.shadow(device["device_id"])["Pump"]["reported"]["properties"] == {"on": 1})
    with platform.connect(device) as peer:
        wait_until(lambda: platform.api.device(device["device_id"])["status"] == "ONLINE")
        put({"label": "now"})
        assert told(peer)["services"] == [{"service_id": "Pump", "properties": {"label": "now"}}], "on is reported"


def test_a_child_is_told_through_its_gateway(platform, api, product, device):
    child = api.new_device(product["product_id"], gateway_id=device["device_id"])["device_id"]
    api.put(f"/devices/{child}/shadow", {"shadow": [{"service_id": "Pump", "desired": {"on": 1}}]})
    with platform.connect(device) as peer:
        assert told(peer) == {"object_device_id": child,
                              "services": [{"service_id": "Pump", "properties": {"on": 1}}]}


def test_a_refusal_is_in_why(api, device, put, connected):
    put({"on": 1})
    topic = connected.wait_for(SET)[0].topic
    connected.publish(topic.replace("/set/", "/set/response/"), {"result_code": 7, "result_desc": "no"})
    found = wait_until(lambda: api.why(device["device_id"])["failures"].get("command"), 10, 0.1)
    assert found["code"] == "desired_refused" and "7" in found["reason"]


def test_first_wishes_go_down_at_the_first_connection(platform, api, product):
    made = api.new_device(product["product_id"], node_id=unique("wish"),
                          shadow=[{"service_id": "Pump", "desired": {"label": "first"}}])
    with platform.connect(made) as peer:
        assert told(peer)["services"] == [{"service_id": "Pump", "properties": {"label": "first"}}]

"""Bridges (docs/protocol/bridges.md): many devices over one connection, each as if it had its own."""
import json

import pytest

from mqtt5 import Peer
from rawmqtt import Device, Refused, password, timestamp
from rest import unique
from waiting import wait_until


class Bridge(Device):
    def __init__(self, platform, made, **more):
        stamp = timestamp()
        self.bridge_id = made["bridge_id"]
        super().__init__("127.0.0.1", platform.mqtt_port, self.bridge_id, made["auth_info"]["secret"], stamp=stamp,
                         client_id=f"{self.bridge_id}_3_0_{stamp}", **more)

    def base(self, device_id):
        return f"$oc/bridges/{self.bridge_id}/devices/{device_id}/sys/"

    def ask(self, device_id, what, body=None, rid=None):
        """The answer to a login, logout, reset_secret."""
        rid = rid or unique("r")
        self.publish_acked(f"{self.base(device_id)}{what}/request_id={rid}", b"" if body is None else body)
        return self.wait_for(f"{self.base(device_id)}{what}/response/request_id={rid}")[0].json

    def login(self, device, secret=None, stamp=None, sign_type=1):
        stamp = stamp or timestamp()
        return self.ask(device["device_id"], "login", {
            "sign_type": sign_type, "timestamp": stamp, "password": password(secret or device["auth_info"]["secret"], stamp)})


@pytest.fixture
def made(api):
    return api.post("/bridges", {"bridge_name": unique("bridge")})


@pytest.fixture
def bridge(platform, made):
    with Bridge(platform, made) as b:
        yield b


@pytest.fixture
def behind(api, product, bridge):
    """A device that has logged in over the bridge."""
    device = api.new_device(product["product_id"])
    assert bridge.login(device) == {"result_code": 0}
    return device["device_id"]


def status(api, device_id):
    return api.device(device_id)["status"]


def reported(api, device_id):
    return api.shadow(device_id).get("Pump", {}).get("reported", {}).get("properties")


def listed(api, bridge_id):
    return {b["bridge_id"]: b for b in api.get("/bridges", limit=50)["bridges"]}[bridge_id]


def test_a_bridge_is_made_listed_and_deleted(platform, api):
    chosen = unique("br")[:36]
    made = api.post("/bridges", {"bridge_name": "hall", "bridge_id": chosen})
    assert made["bridge_id"] == chosen and made["auth_info"]["auth_type"] == "SECRET" and made["create_time"]
    assert listed(api, chosen) == {"bridge_id": chosen, "bridge_name": "hall", "status": "OFFLINE"}
    api.refused(400, "IOTDA.037902", "POST", "/bridges", {"bridge_name": "other", "bridge_id": chosen})
    with Bridge(platform, made) as b:
        wait_until(lambda: listed(api, chosen)["status"] == "ONLINE", 5, 0.05, "online")
        api.delete(f"/bridges/{chosen}")
        b.wait_closed()
    api.refused(404, "IOTDA.037900", "DELETE", f"/bridges/{chosen}")
    with pytest.raises(Refused) as refused:
        Bridge(platform, made)
    assert refused.value.code == 4


def test_its_status_follows_its_connection(platform, api, made):
    with Bridge(platform, made):
        wait_until(lambda: listed(api, made["bridge_id"])["status"] == "ONLINE", 5, 0.05, "online")
    wait_until(lambda: listed(api, made["bridge_id"])["status"] == "OFFLINE", 5, 0.05, "offline")


def test_logins_of_bridges_that_are_refused(platform, api, made):
    wrong = {**made, "auth_info": {"secret": "0" * 32}}
    for what in wrong, {"bridge_id": "nobody", "auth_info": {"secret": "0" * 32}}:
        with pytest.raises(Refused) as refused:
            Bridge(platform, what)
        assert refused.value.code == 4
    fresh = api.post(f"/bridges/{made['bridge_id']}/reset-secret", {}, status=200)
    with pytest.raises(Refused):
        Bridge(platform, made)
    with Bridge(platform, {**made, "auth_info": {"secret": fresh["secret"]}}) as b:
        api.post(f"/bridges/{made['bridge_id']}/reset-secret", {"force_disconnect": True}, status=200)
        b.wait_closed()


def test_a_second_connection_ends_the_first(platform, made, bridge):
    with Bridge(platform, made):
        bridge.wait_closed()


def test_a_device_logs_in_reports_and_logs_out(api, bridge, behind):
    wait_until(lambda: status(api, behind) == "ONLINE", 5, 0.05, "online through the bridge")
    bridge.publish_acked(bridge.base(behind) + "properties/report",
                         {"services": [{"service_id": "Pump", "properties": {"flow": 7}}]})
    wait_until(lambda: reported(api, behind) == {"flow": 7}, 5, 0.05, "stored")
    bridge.publish_acked(bridge.base(behind) + "messages/up", b"\x00raw")
    got = wait_until(lambda: len(api.history(behind)) == 2 and api.history(behind))
    assert got[1]["topic"] == f"$oc/devices/{behind}/sys/messages/up"
    assert api.why(behind)["state"]["peer"] not in ("gone", ""), "the bridge's address"
    assert bridge.ask(behind, "logout") == {"result_code": 0}
    wait_until(lambda: status(api, behind) == "OFFLINE", 5, 0.05, "offline")
    assert bridge.on("/sys/disconnect") == []
    assert bridge.ask(behind, "logout") == {"result_code": 1}, "it is not logged in"


def test_commands_and_messages_to_it(api, bridge, behind):
    bridge.answer_commands(None)

    def answer(message):
        rid = message.topic.split("request_id=", 1)[1]
        bridge.publish(f"{bridge.base(behind)}commands/response/request_id={rid}",
                       {"result_code": 0, "response_name": "drained", "paras": {"litres": 1}})
    original = bridge._on_publish

    def hear(message):
        original(message)
        if message.topic.startswith(bridge.base(behind) + "commands/request_id="):
            answer(message)
    bridge._on_publish = hear
    got = api.post(f"/devices/{behind}/commands", {"service_id": "Pump", "command_name": "drain", "paras": {"seconds": 3}}, status=200)
    assert got["response"]["paras"] == {"litres": 1}
    sent = api.post(f"/devices/{behind}/messages", {"message": "hello"})["message_id"]
    assert bridge.wait_for(bridge.base(behind) + "messages/down")[0].qos == 1
    wait_until(lambda: api.get(f"/devices/{behind}/messages/{sent}")["status"] == "DELIVERED", 5, 0.05, "by its PUBACK")


def test_none_is_delivered_without_the_puback_of_the_bridge(platform, api, product, made):
    device = api.new_device(product["product_id"])
    with Bridge(platform, made, ack=False) as bridge:
        assert bridge.login(device) == {"result_code": 0}
        sent = api.post(f"/devices/{device['device_id']}/messages", {"message": "hello"})["message_id"]
        first = bridge.wait_for("/sys/messages/down", 2, timeout=20)
        assert {m.packet_id for m in first} == {first[0].packet_id} and first[1].dup, "sent again with its id"
        assert api.get(f"/devices/{device['device_id']}/messages/{sent}")["status"] == "PENDING"
        bridge.puback(first[0].packet_id)
        wait_until(lambda: api.get(f"/devices/{device['device_id']}/messages/{sent}")["status"] == "DELIVERED", 5, 0.05)


def test_events_of_it(bridge, behind):
    bridge.publish_acked(bridge.base(behind) + "events/up", {"services": [
        {"service_id": "$time_sync", "event_type": "time_sync_request", "paras": {"device_send_time": 1}}]})
    answer = bridge.wait_for(bridge.base(behind) + "events/down")[0].json
    assert answer["services"][0]["event_type"] == "time_sync_response"


def test_children_of_it_report_without_sys(api, product, bridge, behind):
    child = api.new_device(product["product_id"], gateway_id=behind)["device_id"]
    topic = f"$oc/bridges/{bridge.bridge_id}/devices/{behind}/gateway/sub_devices/properties/report"
    bridge.publish_acked(topic, {"devices": [{"device_id": child, "services": [
        {"service_id": "Pump", "properties": {"flow": 3}}]}]})
    wait_until(lambda: reported(api, child) == {"flow": 3}, 5, 0.05, "stored")


def test_logins_that_are_refused_are_explained(api, product, bridge):
    device = api.new_device(product["product_id"])
    did = device["device_id"]
    assert bridge.login(device, secret="wrong_secret") == {"result_code": 1}
    wait_until(lambda: api.why(did)["failures"].get("authenticate", {}).get("code") == "wrong_password", 5, 0.05, "why")
    assert bridge.login(device, stamp="2020010100") == {"result_code": 1}
    wait_until(lambda: api.why(did)["failures"]["authenticate"]["code"] == "stale_timestamp", 5, 0.05, "why")
    for body in b"", b"no json", {}, {"sign_type": 0}, {"sign_type": 0, "timestamp": 5, "password": "x"}, b"[]", \
            {"sign_type": 77, "timestamp": "2026010203", "password": "x"}:
        assert bridge.ask(did, "login", body) == {"result_code": 1}
    assert bridge.login(device) == {"result_code": 0} == bridge.login(device), "a second time without a logout"
    wait_until(lambda: status(api, did) == "ONLINE", 5, 0.05, "online")
    bridge.publish_acked(bridge.base(did) + "messages/up", b"x")
    assert bridge.on("/sys/disconnect") == []


def test_what_is_said_for_a_device_that_is_not_there(api, product, bridge):
    did = api.new_device(product["product_id"])["device_id"]
    bridge.publish_acked(bridge.base(did) + "messages/up", b"x")
    wait_until(lambda: api.why(did)["failures"].get("connect", {}).get("code") == "bridge_not_logged_in", 5, 0.05, "why")
    for topic in ("$oc/bridges/other/devices/x/sys/messages/up", "$oc/devices/x/sys/messages/up", "a/b",
                  f"$oc/bridges/{bridge.bridge_id}/devices/", f"$oc/bridges/{bridge.bridge_id}/devices//sys/messages/up",
                  f"$oc/bridges/{bridge.bridge_id}/devices/x/", f"$oc/bridges/{bridge.bridge_id}/devices/{'x' * 200}/sys/a"):
        bridge.publish_acked(topic, b"x")
    assert bridge.connected and api.history(did) == []


def test_a_wrong_topic_of_a_device_is_told(api, bridge, behind):
    bridge.publish_acked(bridge.base(behind) + "propertis/report", b"{}")
    assert wait_until(lambda: api.why(behind)["failures"].get("topic"))["code"] == "topic_unknown"


def test_it_changes_its_secret(platform, api, bridge, behind):
    old = api.device(behind)["auth_info"]["secret"]
    body = {"old_secret": "not_the_old", "new_secret": "brand_new_1"}
    assert bridge.ask(behind, "reset_secret", body) == {"result_code": 1}
    assert bridge.ask(behind, "reset_secret", {"old_secret": old, "new_secret": "x"}) == {"result_code": 1}
    assert bridge.ask(behind, "reset_secret", b"{") == {"result_code": 1}
    body["old_secret"] = old
    assert bridge.ask(behind, "reset_secret", body) == {
        "result_code": 0, "new_secret": "brand_new_1", "paras": {"new_secret": "brand_new_1"}}
    assert api.device(behind)["auth_info"]["secret"] == "brand_new_1"
    bridge.publish_acked(bridge.base(behind) + "messages/up", b"x")  # goes on
    device = {"device_id": behind, "auth_info": {"secret": "brand_new_1"}}
    assert bridge.login(device) == {"result_code": 0}
    assert bridge.login(device, secret=old) == {"result_code": 1}


def test_the_platform_drops_one_device(platform, api, product, bridge, behind):
    other = api.new_device(product["product_id"])
    assert bridge.login(other) == {"result_code": 0}
    api.post(f"/devices/{behind}/freeze", status=204)
    assert bridge.wait_for(bridge.base(behind) + "disconnect")[0].json == {}
    with platform.connect(other):
        bridge.wait_for(bridge.base(other["device_id"]) + "disconnect")
    assert bridge.connected


def test_devices_go_with_their_bridge(platform, api, product, made):
    devices = [api.new_device(product["product_id"]) for _ in range(20)]
    bridge = Bridge(platform, made)
    for d in devices:
        assert bridge.login(d) == {"result_code": 0}
    wait_until(lambda: all(status(api, d["device_id"]) == "ONLINE" for d in devices), 10, 0.1, "online")
    bridge.drop()
    wait_until(lambda: all(status(api, d["device_id"]) == "OFFLINE" for d in devices), 10, 0.1, "offline")


def test_order_and_acknowledgements_of_many(platform, api, product, bridge):
    devices = [api.new_device(product["product_id"]) for _ in range(10)]
    for d in devices:
        assert bridge.login(d) == {"result_code": 0}
    ids = [bridge.publish(bridge.base(d["device_id"]) + "messages/up", str(n)) for n in range(50) for d in devices]
    for i in ids:
        bridge.wait_acked(i)
    for d in devices:
        wait_until(lambda: len(api.history(d["device_id"])) == 50, 10, 0.1, "all are stored")
        rows = api.history(d["device_id"])
        assert [r["raw"] if "raw" in r else r["body"] for r in rows] == sorted(
            (r["raw"] if "raw" in r else r["body"] for r in rows), key=lambda v: _number(v)), "in order"


def _number(value):
    import base64
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        return int(text)
    except ValueError:
        return int(base64.b64decode(text))


def test_a_bridge_of_mqtt_5(platform, api, product, made):
    device = api.new_device(product["product_id"])
    did, stamp = device["device_id"], timestamp()
    peer = Peer(platform, {"device_id": made["bridge_id"], "auth_info": made["auth_info"]},
                client_id=f"{made['bridge_id']}_3_0_{stamp}")
    base = f"$oc/bridges/{made['bridge_id']}/devices/{did}/sys/"
    assert peer.subscribe("$oc/bridges/#")[-1] == 1
    body = {"sign_type": 0, "timestamp": stamp, "password": password(device["auth_info"]["secret"], stamp)}
    peer.publish(base + "login/request_id=1", json.dumps(body).encode())
    topic, qos, packet_id, _, payload = peer.message()
    assert topic == base + "login/response/request_id=1" and qos == 1 and json.loads(payload) == {"result_code": 0}
    peer.puback(packet_id)
    peer.take(4)
    peer.publish(base + "messages/up", b"x", packet_id=9)
    assert peer.take(4)[2][:2] == b"\0\x09"
    peer.publish(base.replace(did, "nobody") + "messages/up", b"x", packet_id=10)
    assert peer.take(4)[2] == b"\0\x0a\x87"
    peer.ping()
    peer.close()


@pytest.mark.long
def test_a_bridge_whose_gateway_is_killed(own_platform):
    platform = own_platform(instances="mqtt-gateway=2")
    api, product = platform.api, platform.api.new_product()["product_id"]
    made = api.post("/bridges", {"bridge_name": "b"})
    device = api.new_device(product)
    for _ in range(4):
        bridge = wait_until(lambda: _connected(platform, made), 20, 0.1, "connected")
        assert wait_until(lambda: bridge.login(device)["result_code"] == 0, 20, 0.1, "logged in")
        bridge.publish_acked(bridge.base(device["device_id"]) + "messages/up", b"x")
        for _ in range(2):  # the older one, each time
            platform.kill("mqtt-gateway")
        bridge.wait_closed()
        wait_until(lambda: listed(api, made["bridge_id"])["status"] == "OFFLINE", 15, 0.1, "offline")


def _connected(platform, made):
    try:
        return Bridge(platform, made)
    except (Refused, OSError):
        return None

"""Gateways and their children, as the SDKs speak: batch reports, $sub_device_manager, status."""
import pytest

from rest import body_of, sequence, unique
from waiting import wait_until

DOWN = "/sys/events/down"
MANAGER = "$sub_device_manager"


@pytest.fixture
def child(api, product, device):
    """child() makes one below the gateway."""
    def make(**more):
        return api.new_device(product["product_id"], gateway_id=device["device_id"], **more)
    return make


def say(peer, event_type, paras, event_id="e-1", service=MANAGER):
    peer.publish_acked(peer.topic("events/up"), {"object_device_id": peer.id, "services": [
        {"service_id": service, "event_type": event_type, "event_time": None, "event_id": event_id, "paras": paras}]})


def told(peer, event_type, count=1):
    """The services[0] of the events/down of one type, at least `count` of them."""
    def found():
        all_of = [m.json["services"][0] for m in peer.on(DOWN)]
        return [s for s in all_of if s["event_type"] == event_type]
    return wait_until(lambda: len(got := found()) >= count and got, 10, 0.02, f"{count} {event_type}")


# ---- reports

def test_a_gateway_reports_for_its_children(api, device, connected, child, product):
    one, two = child()["device_id"], child()["device_id"]
    foreign = api.new_device(product["product_id"])["device_id"]
    connected.publish_acked(connected.topic("gateway/sub_devices/properties/report"), {"devices": [
        {"device_id": one, "services": [{"service_id": "Pump", "properties": {"flow": 3}, "event_time": None}]},
        {"device_id": "nobody", "services": [{"service_id": "Pump", "properties": {"flow": 9}}]},
        {"device_id": foreign, "services": [{"service_id": "Pump", "properties": {"flow": 9}}]},
        {"device_id": two, "services": [{"service_id": "Pump", "properties": {"flow": 4}, "event_time": "20260102T030405Z"}]},
        {"device_id": one, "services": [{"service_id": "Load", "properties": {"seq": 5}}]}]})
    wait_until(lambda: api.shadow(two).get("Pump"))
    assert api.shadow(two)["Pump"]["reported"] == {"properties": {"flow": 4}, "event_time": "20260102T030405Z"}
    assert api.shadow(one)["Pump"]["reported"]["properties"] == {"flow": 3}
    assert sequence(api.history(one)) == [5], "rows of one device are one report"
    assert api.get(f"/devices/{foreign}/shadow")["shadow"] == [] and api.history(device["device_id"]) == []
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("topic"))
    assert failure["code"] == "no_child" and failure["count"] == 2
    assert connected.connected


def test_reports_of_children_are_events(subscribe, connected, child):
    subscription = subscribe("device.property", "report")
    made = child()
    connected.publish_acked(connected.topic("gateway/sub_devices/properties/report"), {"devices": [
        {"device_id": made["device_id"], "services": [{"service_id": "Pump", "properties": {"flow": 3}}]}]})
    data = subscription.wait_for(made["device_id"])[0]["notify_data"]
    assert data["header"]["gateway_id"] == connected.id and data["header"]["node_id"] == made["node_id"]
    assert data["body"]["services"][0]["properties"] == {"flow": 3}


@pytest.mark.parametrize("payload, code", [
    ("{", "not_json"), ("[]", "no_devices"), ('{"devices":{}}', "no_devices"), ("{}", "no_devices"),
    ({"devices": [{"device_id": f"d{i}", "services": []} for i in range(101)]}, "no_devices")])
def test_a_batch_report_that_is_none_is_refused(api, device, connected, payload, code):
    connected.publish_acked(connected.topic("gateway/sub_devices/properties/report"), payload)
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("decode"))
    assert failure["code"] == code and connected.connected


# ---- children are added and removed, by the gateway and over REST

def test_a_gateway_adds_children(api, product, connected):
    node = unique("sub")
    say(connected, "add_sub_device_request", {"devices": [
        {"node_id": node, "product_id": product["product_id"], "name": "first", "description": "",
         "parent_device_id": None, "extension_info": ""},
        {"node_id": "x y", "product_id": product["product_id"]},
        {"node_id": node + "b", "product_id": "no_such_product"}]}, event_id="7d0c9f6e")
    answer = told(connected, "add_sub_device_response")[0]
    made = f"{product['product_id']}_{node}"
    assert answer["event_id"] == "7d0c9f6e" and answer["service_id"] == MANAGER
    good, bad = answer["paras"]["successful_devices"], answer["paras"]["failed_devices"]
    assert [(d["device_id"], d["parent_device_id"], d["name"], d["status"]) for d in good] == [
        (made, connected.id, "first", "INACTIVE")]
    assert [(d["node_id"], d["product_id"]) for d in bad] == [
        ("x y", product["product_id"]), (node + "b", "no_such_product")]
    assert all(d["error_code"].startswith("IOTDA.") and d["error_msg"] for d in bad)
    assert api.device(made)["gateway_id"] == connected.id
    notice = told(connected, "add_sub_device_notify")[0]["paras"]
    assert notice["version"] == 1 and [d["device_id"] for d in notice["devices"]] == [made]
    assert notice["devices"][0]["product_id"] == product["product_id"]


def test_a_gateway_removes_children(api, device, connected, child, product):
    mine, foreign = child()["device_id"], api.new_device(product["product_id"])["device_id"]
    say(connected, "delete_sub_device_request", {"devices": [mine, foreign, "nobody", 7]}, event_id="e8")
    answer = told(connected, "delete_sub_device_response")[0]
    assert answer["event_id"] == "e8" and answer["paras"]["successful_devices"] == [mine]
    assert [d["device_id"] for d in answer["paras"]["failed_devices"]] == [foreign, "nobody", ""]
    api.refused(404, "IOTDA.014000", "GET", f"/devices/{mine}")
    assert api.device(foreign)["device_id"] == foreign
    notice = told(connected, "delete_sub_device_notify")[0]["paras"]
    assert notice["devices"] == [{"parent_device_id": device["device_id"], "device_id": mine,
                                  "node_id": notice["devices"][0]["node_id"]}]
    assert notice["version"] == 2


def test_what_happens_over_rest_is_told(api, connected, child):
    made = child()
    assert told(connected, "add_sub_device_notify")[0]["paras"]["devices"][0]["node_id"] == made["node_id"]
    api.delete(f"/devices/{made['device_id']}")
    assert told(connected, "delete_sub_device_notify")[0]["paras"]["version"] == 2


def test_what_happened_meanwhile_is_told_at_the_next_connection(platform, device, child):
    nodes = [child()["node_id"] for _ in range(12)]
    with platform.connect(device) as peer:
        notices = [n["paras"] for n in told(peer, "add_sub_device_notify", 2)]
        assert [n["version"] for n in notices] == [10, 12], "ten devices at most in one: the C SDK ignores more"
        assert [d["node_id"] for n in notices for d in n["devices"]] == nodes
    with platform.connect(device) as peer:
        child()
        assert told(peer, "add_sub_device_notify")[0]["paras"]["version"] == 13, "what was told is not told again"


@pytest.mark.parametrize("service", ["$sub_device_manager", "sub_device_manager"])
def test_a_gateway_asks_for_its_list(connected, child, service):
    nodes = [child()["node_id"] for _ in range(2)]
    told(connected, "add_sub_device_notify", 1)
    wait_until(lambda: told(connected, "add_sub_device_notify")[-1]["paras"]["version"] == 2)
    before = len(told(connected, "add_sub_device_notify"))
    say(connected, "sub_device_sync_request", {"version": 2}, service=service)
    say(connected, "sub_device_sync_request", {"version": 1}, service=service)
    notice = told(connected, "add_sub_device_notify", before + 1)[-1]["paras"]
    assert notice["version"] == 2 and [d["node_id"] for d in notice["devices"]] == nodes[1:]
    say(connected, "sub_device_sync_request", None, service=service)  # Go: without paras
    notice = told(connected, "add_sub_device_notify", before + 2)[-1]["paras"]
    assert [d["node_id"] for d in notice["devices"]] == nodes


# ---- status

def test_a_gateway_says_which_children_are_there(api, subscribe, connected, child):
    subscription = subscribe("device.status", "update")
    made = child()["device_id"]
    say(connected, "sub_device_update_status", {"device_statuses": [
        {"device_id": made, "status": "ONLINE"}, {"device_id": "nobody", "status": "ONLINE"},
        {"device_id": made, "status": "ASLEEP"}]}, event_id="e9")
    answer = told(connected, "sub_device_update_status_response")[0]
    assert answer["event_id"] == "e9"
    assert answer["paras"]["successful_devices"] == [{"device_id": made, "status": "ONLINE"}]
    assert [d["device_id"] for d in answer["paras"]["failed_devices"]] == ["nobody", made]
    wait_until(lambda: api.device(made)["status"] == "ONLINE")
    assert subscription.wait_for(made)[0]["notify_data"]["body"]["status"] == "ONLINE"
    say(connected, "sub_device_update_status", {"device_statuses": [{"device_id": made, "status": "OFFLINE"}]})
    wait_until(lambda: api.device(made)["status"] == "OFFLINE")


def test_children_go_offline_with_their_gateway(platform, api, device, child):
    there, never = child()["device_id"], child()["device_id"]
    with platform.connect(device) as peer:
        say(peer, "sub_device_update_status", {"device_statuses": [{"device_id": there, "status": "ONLINE"}]})
        wait_until(lambda: api.device(there)["status"] == "ONLINE")
    wait_until(lambda: api.device(there)["status"] == "OFFLINE")
    change = wait_until(lambda: [c for c in api.why(there)["changes"] if c.get("code") == "gateway_offline"])[0]
    assert change["text"] == "Its gateway went offline."
    assert api.device(never)["status"] == "INACTIVE"
    with platform.connect(device) as peer:
        say(peer, "sub_device_update_status", {"device_statuses": [{"device_id": there, "status": "ONLINE"}]})
        wait_until(lambda: api.device(there)["status"] == "ONLINE")
    wait_until(lambda: api.device(there)["status"] == "OFFLINE")


def test_data_of_a_child_is_not_its_status(api, connected, child):
    made = child()["device_id"]
    connected.publish_acked(connected.topic("gateway/sub_devices/properties/report"), {"devices": [
        {"device_id": made, "services": [{"service_id": "Pump", "properties": {"flow": 3}}]}]})
    wait_until(lambda: api.shadow(made).get("Pump"))
    assert api.device(made)["status"] == "INACTIVE"


def test_a_child_is_one_of_this_gateway(api, product, connected):
    other = api.new_device(product["product_id"])
    theirs = api.new_device(product["product_id"], gateway_id=other["device_id"])["device_id"]
    connected.publish_acked(connected.topic("events/up"), {"object_device_id": theirs, "services": [
        {"service_id": "$time_sync", "event_type": "time_sync_request", "paras": {"device_send_time": 1}}]})
    failure = wait_until(lambda: api.why(connected.id)["failures"].get("topic"))
    assert failure["code"] == "no_child" and connected.on(DOWN) == []


def test_messages_of_children(api, subscribe, connected, child):
    subscription = subscribe("device.message", "report")
    made = child()
    connected.publish_acked(connected.topic("messages/up"), {
        "object_device_id": made["device_id"], "name": "flow", "id": "m-17", "content": "42 l"})
    note = subscription.wait_for(made["device_id"])[0]["notify_data"]
    assert note["header"]["gateway_id"] == connected.id and note["body"]["content"]["content"] == "42 l"
    rows = wait_until(lambda: api.history(made["device_id"]))
    assert body_of(rows[0])["content"] == "42 l"

"""What a device says: shadow, history and push; what does not fit the model is explained."""
import json
import re

import pytest

from rest import body_of
from waiting import wait_until


def test_a_report_reaches_shadow_history_and_application(api, device, connected, subscribe, product):
    device_id = device["device_id"]
    pushed = subscribe("device.property", "report")
    sent = {"services": [{"service_id": "Pump", "properties": {"flow": 12.5, "on": 1},
                          "event_time": "20260102T030405Z"}]}
    connected.publish_acked(connected.topic("properties/report?request_id=my-own-id"), sent)
    note = pushed.wait_for(device_id)[0]
    assert (note["resource"], note["event"], note["request_id"]) == \
        ("device.property", "report", "my-own-id")
    assert re.fullmatch(r"\d{8}T\d{6}Z", note["event_time"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", note["event_time_ms"])
    assert note["notify_data"]["body"] == sent
    header = note["notify_data"]["header"]
    assert header == {"app_id": device["app_id"], "device_id": device_id, "tags": [],
                      "node_id": device["node_id"], "product_id": product["product_id"],
                      "gateway_id": device_id}
    shadow = api.shadow(device_id)["Pump"]
    assert shadow["reported"] == {"properties": {"flow": 12.5, "on": 1},
                                  "event_time": "20260102T030405Z"}
    assert shadow["version"] == 1
    row = api.history(device_id)[0]
    assert row["request_id"] == "my-own-id" and body_of(row) == sent
    assert row["topic"].startswith(f"$oc/devices/{device_id}/sys/properties/report")
    assert set(row) >= {"id", "received_time", "kind", "topic", "request_id", "body", "verdicts"}


def test_the_shadow_merges_and_counts(api, device, connected):
    connected.report("Pump", {"flow": 1, "on": 1})
    connected.report("Pump", {"flow": 2})
    connected.report("Load", {"seq": 5})
    shadow = wait_until(lambda: (s := api.shadow(device["device_id"])).get("Load") and s)
    assert shadow["Pump"]["reported"]["properties"] == {"flow": 2, "on": 1}
    assert (shadow["Pump"]["version"], shadow["Load"]["version"]) == (2, 1)


def test_a_report_with_several_services_is_one_push(api, device, connected, subscribe):
    pushed = subscribe("device.property", "report")
    connected.publish_acked(connected.topic("properties/report"), {"services": [
        {"service_id": "Pump", "properties": {"flow": 1}},
        {"service_id": "Load", "properties": {"seq": 1}}]})
    connected.report("Pump", {"on": 0})
    notes = pushed.wait_for(device["device_id"], 2)
    assert [[s["service_id"] for s in n["notify_data"]["body"]["services"]] for n in notes] == \
        [["Pump", "Load"], ["Pump"]]
    moments = [n["notify_data"]["body"]["services"][0]["event_time"] for n in notes]
    assert all(re.fullmatch(r"\d{8}T\d{6}Z", m) for m in moments), "the platform's where none was given"


@pytest.mark.parametrize("properties, kept, reason", [
    ({"luminace": 5, "flow": 1}, {"flow": 1}, "luminance"),
    ({"flow": "high", "on": 1}, {"on": 1}, "flow"),
    ({"flow": 101, "on": 1}, {"flow": 101, "on": 1}, "100"),  # noted and kept
    ({"on": 1.5, "flow": 2}, {"flow": 2}, "on"),
    ({"mode": "FAST", "flow": 3}, {"flow": 3}, "AUTO"),
    ({"label": "x" * 17, "flow": 4}, {"flow": 4}, "16"),
    ({"flow": None, "on": 0}, {"on": 0}, "flow"),
])
def test_what_does_not_fit_the_model_is_kept_out_of_the_shadow_and_explained(
        api, device, connected, properties, kept, reason):
    connected.report("Pump", properties)
    rows = wait_until(lambda: api.history(device["device_id"]))
    assert body_of(rows[0])["services"][0]["properties"] == properties, "history has it as received"
    assert reason in json.dumps(rows[0]["verdicts"])
    assert api.shadow(device["device_id"])["Pump"]["reported"]["properties"] == kept
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("model"))
    assert reason in failure["reason"] + failure["next_step"]


def test_an_unknown_service_is_explained_and_the_others_are_kept(api, device, connected):
    connected.publish_acked(connected.topic("properties/report"), {"services": [
        {"service_id": "Pomp", "properties": {"flow": 1}},
        {"service_id": "Load", "properties": {"seq": 3}}]})
    wait_until(lambda: api.history(device["device_id"]))
    assert set(api.shadow(device["device_id"])) == {"Load"}
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("model"))
    assert "Pump" in failure["reason"] + failure["next_step"]


@pytest.mark.parametrize("event_time, kept", [
    ("20260102T030405Z", "20260102T030405Z"), ("2026-01-02T03:04:05.678Z", "20260102T030405Z"),
    ("2026-01-02T03:04:05Z", "20260102T030405Z"), ("2026-01-02 03:04:05", "20260102T030405Z"),
    ("yesterday", None), ("20260631T000000Z", None), ("", None), (None, None)])
def test_the_four_ways_to_write_a_time(api, device, connected, event_time, kept):
    connected.report("Pump", {"flow": 1}, event_time=event_time)
    shadow = wait_until(lambda: api.shadow(device["device_id"]).get("Pump"))
    got = shadow["reported"]["event_time"]
    assert re.fullmatch(r"\d{8}T\d{6}Z", got)
    assert got == kept if kept else got > "20260102T030405Z"


def test_white_space_order_and_unknown_fields_do_not_matter(api, device, connected):
    connected.publish_acked(connected.topic("properties/report"),
                            '\t{ "extra" : [1],\n "object_device_id":null, "services"\t: [ {"properties" '
                            ': {"flow":1e1}, "mid": 4,"service_id":"Pump"} ] }\n')
    assert wait_until(lambda: api.shadow(device["device_id"]))["Pump"]["reported"]["properties"] == \
        {"flow": 10}


def test_qos_0_reports_arrive_too(api, device, connected):
    connected.publish(connected.topic("properties/report"), {"services": [
        {"service_id": "Pump", "properties": {"flow": 4}}]}, qos=0)
    wait_until(lambda: api.shadow(device["device_id"]))
    assert connected.acked == []


def test_messages_up_are_pushed_and_kept(api, device, connected, subscribe):
    pushed = subscribe("device.message", "report")
    contents = [{"content": "42 l", "name": "flow"}, [1, 2], "not json {", "plain", "水", 7]
    for content in contents:
        connected.publish_acked(connected.topic("messages/up"),
                                content if isinstance(content, str) else json.dumps(content))
    notes = pushed.wait_for(device["device_id"], len(contents))
    assert [n["notify_data"]["body"]["content"] for n in notes] == contents
    assert notes[0]["notify_data"]["body"]["topic"].endswith("/sys/messages/up")
    rows = api.history(device["device_id"])
    kinds = {r["kind"] for r in rows}
    connected.report("Pump", {"flow": 1})
    report = wait_until(lambda: next((r for r in api.history(device["device_id"])
                                      if r["kind"] not in kinds), None))
    assert len(rows) == len(contents) and "properties" in report["topic"]


def test_bytes_that_are_no_text_arrive_as_base64(device, connected, subscribe):
    pushed = subscribe("device.message", "report")
    connected.publish_acked(connected.topic("messages/up"), b"\xff\xfe\x00\x01")
    assert pushed.wait_for(device["device_id"])[0]["notify_data"]["body"]["content"] == "//4AAQ=="


def test_history_pages_and_filters(api, device, connected):
    device_id = device["device_id"]
    for n in range(25):
        connected.report("Load" if n % 5 else "Pump", {"seq": n} if n % 5 else {"flow": n})
    wait_until(lambda: len(api.history(device_id)) == 25)
    path = f"/devices/{device_id}/history"
    newest = api.get(path, limit=10)["reports"]
    assert body_of(newest[0])["services"][0]["properties"] == {"seq": 24}
    paged = api.history(device_id, limit=7)
    assert [r["id"] for r in paged] == [r["id"] for r in api.history(device_id)]
    assert len({r["id"] for r in paged}) == 25
    assert len(api.get(path, service_id="Pump", limit=50)["reports"]) == 5
    assert api.get(path, start_time="20990101T000000Z")["reports"] == []
    assert len(api.get(path, start_time="20200101T000000Z", end_time="20990101T000000Z",
                       limit=50)["reports"]) == 25
    for query, code in (({"limit": 0}, "IOTDA.000017"), ({"limit": "x"}, "IOTDA.000017"),
                        ({"marker": "?"}, "IOTDA.000018"), ({"start_time": "x"}, "IOTDA.000009")):
        api.refused(400, code, "GET", path, query=query)


def test_the_model_may_change_while_devices_report(platform, api):
    model = [{"service_id": "S", "service_type": "S", "commands": [], "properties": [
        {"property_name": "a", "data_type": "int", "method": "R", "min": "0", "max": "9"}]}]
    product = api.new_product(model)
    device = api.new_device(product["product_id"])
    with platform.connect(device) as peer:
        peer.report("S", {"a": 1, "b": 2})
        assert wait_until(lambda: api.shadow(device["device_id"]))["S"]["reported"]["properties"] == \
            {"a": 1}
        model[0]["properties"].append({"property_name": "b", "data_type": "int", "method": "R",
                                       "min": "0", "max": "9"})
        api.put(f"/products/{product['product_id']}", {"service_capabilities": model})

        def known():
            peer.report("S", {"b": 3})
            return "b" in api.shadow(device["device_id"])["S"]["reported"]["properties"]
        wait_until(known, 10, 0.2)

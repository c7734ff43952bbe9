"""What a device asks and is answered: its shadow, the time; what it says of itself; compressed payloads."""
import gzip
import json

import pytest

from waiting import wait_until

DOWN = "/sys/events/down"


def event(peer, service, event_type, paras, **more):
    peer.publish_acked(peer.topic("events/up"), {"services": [
        {"service_id": service, "event_type": event_type, "paras": paras, **more}]})


# ---- shadow/get

def test_a_device_asks_for_its_shadow(api, device, connected):
    topic = connected.topic("shadow/get/request_id=requestId")
    connected.publish_acked(topic, {})
    answer = connected.wait_for("/shadow/get/response/request_id=requestId")[0].json
    assert answer == {"object_device_id": device["device_id"], "shadow": []}
    connected.report("Pump", {"flow": 2}, event_time="20260102T030405Z")
    connected.report("Load", {"seq": 1})
    api.put(f"/devices/{device['device_id']}/shadow", {"shadow": [{"service_id": "Pump", "desired": {"on": 1}}]})
    connected.publish_acked(topic, {"object_device_id": None, "service_id": ""})
    answer = connected.wait_for("/shadow/get/response/request_id=requestId", 2)[1].json
    assert [s["service_id"] for s in answer["shadow"]] == ["Load", "Pump"]
    load, pump = answer["shadow"]
    assert pump["reported"] == {"properties": {"flow": 2}, "event_time": "20260102T030405Z"}
    assert pump["desired"]["properties"] == {"on": 1} and len(pump["desired"]["event_time"]) == 16
    assert pump["version"] == 2
    assert load["desired"]["properties"] == {} and len(load["desired"]["event_time"]) == 16
    connected.publish_acked(topic.replace("requestId", "two"), {"service_id": "Pump"})
    assert [s["service_id"] for s in connected.wait_for("request_id=two")[0].json["shadow"]] == ["Pump"]


def test_a_gateway_asks_for_a_childs_shadow(api, product, connected):
    child = api.new_device(product["product_id"], gateway_id=connected.id,
                           shadow=[{"service_id": "Pump", "desired": {"label": "a"}}])["device_id"]
    connected.publish_acked(connected.topic("shadow/get/request_id=r1"), {"object_device_id": child})
    answer = connected.wait_for("/shadow/get/response/request_id=r1")[0].json
    assert answer["object_device_id"] == child
    assert answer["shadow"][0]["desired"]["properties"] == {"label": "a"}


def test_a_shadow_of_somebody_else_is_not_told(api, product, connected):
    other = api.new_device(product["product_id"])["device_id"]
    connected.publish_acked(connected.topic("shadow/get/request_id=r1"), {"object_device_id": other})
    failure = wait_until(lambda: api.why(connected.id)["failures"].get("topic"))
    assert failure["code"] == "no_child" and connected.on("/shadow/get/response/") == []


# ---- $time_sync

@pytest.mark.parametrize("sent", [1767323045000, "1767323045000", 1767323045])
def test_time_is_told(connected, sent):
    event(connected, "$time_sync", "time_sync_request", {"device_send_time": sent}, event_id="e1",
          event_time="2026-01-02T03:04:05Z")
    message = connected.wait_for(DOWN)[0].json
    assert message["object_device_id"] == connected.id and len(message["services"]) == 1
    answer = message["services"][0]
    assert answer["service_id"] == "$time_sync" and answer["event_type"] == "time_sync_response"
    assert answer["event_id"] == "e1" and answer["paras"]["device_send_time"] == sent
    assert 1.7e12 < answer["paras"]["server_recv_time"] <= answer["paras"]["server_send_time"] < 4e12


@pytest.mark.parametrize("event_id", [None, ""])
def test_an_event_without_an_id_gets_one(connected, event_id):
    event(connected, "$time_sync", "time_sync_request", {"device_send_time": 1}, event_id=event_id)
    assert len(connected.wait_for(DOWN)[0].json["services"][0]["event_id"]) == 36


def test_services_of_one_event_are_handled_in_order(connected):
    connected.publish_acked(connected.topic("events/up"), {"services": [
        {"service_id": "$time_sync", "event_type": "time_sync_request", "event_id": f"e{i}",
         "paras": {"device_send_time": i}} for i in range(5)]})
    assert [m.json["services"][0]["event_id"] for m in connected.wait_for(DOWN, 5)] == [f"e{i}" for i in range(5)]


# ---- $sdk_info, $log, and what nobody knows

def test_versions_are_kept(api, device, connected):
    event(connected, "$sdk_info", "sdk_info_report",
          {"device_sdk_version": "C_v1.2.1", "sw_version": "v1.0", "fw_version": "v1.1"})
    wait_until(lambda: api.device(connected.id).get("device_sdk_version") == "C_v1.2.1")
    event(connected, "$sdk_info", "sdk_info_report",
          {"device_sdk_version": "JAVA_v1.2.0", "sw_version": None, "fw_version": ""}, event_id=None)
    wait_until(lambda: api.device(connected.id)["device_sdk_version"] == "JAVA_v1.2.0")
    shown = api.device(connected.id)
    assert (shown["sw_version"], shown["fw_version"]) == ("v1.0", "v1.1"), "what is not said stays"


@pytest.mark.parametrize("service, event_type, paras", [
    ("$log", "log_report", {"timestamp": "2026010203", "type": "DEVICE_STATUS", "content": "connected"}),
    ("$log", "log_report", {"timestamp": "", "type": "DEVICE_STATUS", "content": "connected"}),
    ("$nobody_knows", "what", {"a": 1}), ("Pump", "alarm", {"level": 3})])
def test_other_events_are_kept_and_not_answered(api, device, connected, service, event_type, paras):
    event(connected, service, event_type, paras, event_id="")
    rows = wait_until(lambda: api.history(device["device_id"]))
    assert rows[0]["body"] and "services" in json.dumps(rows[0]["body"])
    event(connected, "$time_sync", "time_sync_request", {"device_send_time": 1})
    assert [m.json["services"][0]["service_id"] for m in connected.wait_for(DOWN)] == ["$time_sync"]
    assert api.why(device["device_id"])["failures"] == {}


@pytest.mark.parametrize("service, asked, paras, answered, told", [
    ("$device_rule", "device_rule_config_request", {"ruleIds": ["r1"], "delIds": []}, "device_rule_config_response",
     {"rulesInfos": []}),
    ("$oh_soft_bus", "soft_bus_config_request", {"bus_id": "b1"}, "soft_bus_config_response", {"bus_infos": []})])
def test_lists_that_are_empty(connected, service, asked, paras, answered, told):
    event(connected, service, asked, paras, event_id="e1")
    got = connected.wait_for(DOWN)[0].json["services"][0]
    assert got.pop("event_time") and got == {"service_id": service, "event_type": answered, "event_id": "e1",
                                             "paras": told}


@pytest.mark.parametrize("asked", ["get_upload_url", "get_download_url"])
def test_files_are_not_kept_and_that_is_told(api, connected, asked):
    event(connected, "$file_manager", asked, {"file_name": "pump.log"})
    failure = wait_until(lambda: api.why(connected.id)["failures"].get("decode"))
    assert failure["code"] == "no_file_store" and api.history(connected.id)


@pytest.mark.parametrize("payload", ["{", "[]", "{}", '{"services":{}}', "\x00", '"text"'])
def test_an_event_that_is_none_is_refused(api, connected, payload):
    connected.publish_acked(connected.topic("events/up"), payload)
    assert wait_until(lambda: api.why(connected.id)["failures"].get("decode"))["code"] == "no_services"
    assert connected.connected


def test_a_log_may_be_long(api, device, connected):
    event(connected, "$log", "log_report", {"timestamp": "", "type": "DEVICE_STATUS", "content": "x" * 900000})
    row = wait_until(lambda: api.history(device["device_id"]))[0]
    assert len(row["body"] if isinstance(row["body"], str) else json.dumps(row["body"])) > 900000
    assert api.why(device["device_id"])["failures"] == {}


def test_results_on_the_topic_of_the_go_sdk(api, device, connected):
    """Go publishes them on events/down; they are events, and do not come back."""
    connected.publish_acked(connected.topic("events/down"), {"services": [
        {"service_id": "$file_manager", "event_type": "upload_result_report",
         "paras": {"object_name": "pump.log", "result_code": 0}}]})
    assert wait_until(lambda: api.history(device["device_id"]))[0]["topic"].endswith("events/down")
    connected.ping()
    assert connected.received == []


def test_an_older_topic_is_accepted(api, device, connected):
    connected.publish_acked(connected.topic("sub_device_manage/messages/up"), {"message_name": "scan_result"})
    wait_until(lambda: api.history(device["device_id"]))
    assert api.why(device["device_id"])["failures"] == {}


# ---- bootstrap: the SDKs subscribe the answer, publish, and go where they are told

@pytest.mark.parametrize("payload", ["", {"baseStrategyKeyword": "plant-3"}])
def test_bootstrap_names_this_platform(platform, connected, payload):
    connected.subscribe(connected.topic("bootstrap/down"), 0)
    connected.publish_acked(connected.topic("bootstrap/up"), payload)
    assert connected.wait_for("/sys/bootstrap/down")[0].json == {"address": f"127.0.0.1:{platform.mqtts_port}"}


# ---- compressed payloads

def test_compressed_reports(api, device, connected):
    body = {"services": [{"service_id": "Pump", "properties": {"flow": 7}}]}
    connected.publish_acked(connected.topic("properties/report?encoding=gzip"), gzip.compress(json.dumps(body).encode()))
    wait_until(lambda: api.shadow(device["device_id"]).get("Pump"))
    row = api.history(device["device_id"])[0]
    assert json.loads(row["body"]) == body if isinstance(row["body"], str) else row["body"] == body


def test_compressed_messages_and_batch_reports(api, subscribe, product, connected):
    subscription = subscribe("device.message", "report")
    connected.publish_acked(connected.topic("messages/up?encoding=gzip"), gzip.compress(b"long " * 1000))
    assert subscription.wait_for(connected.id)[0]["notify_data"]["body"]["content"] == "long " * 1000
    child = api.new_device(product["product_id"], gateway_id=connected.id)["device_id"]
    connected.publish_acked(
        connected.topic("gateway/sub_devices/properties/report?request_id=r-1&encoding=gzip"),
        gzip.compress(json.dumps({"devices": [{"device_id": child, "services": [
            {"service_id": "Pump", "properties": {"flow": 1}}]}]}).encode()))
    wait_until(lambda: api.shadow(child).get("Pump"))
    assert api.history(child)[0]["request_id"] == "r-1"


GOOD = gzip.compress(b"{}")


@pytest.mark.parametrize("payload, what", [
    (b"{}", "not one gzip member"), (b"", "not one gzip member"), (GOOD[:-1], "not one gzip member"),
    (GOOD + b"x", "not one gzip member"), (GOOD + GOOD, "not one gzip member"),
    (gzip.compress(b" " * ((1 << 20) + 1)), "more than 1 MB")])
def test_what_does_not_inflate_is_refused(api, connected, payload, what):
    connected.publish_acked(connected.topic("messages/up?encoding=gzip"), payload)
    failure = wait_until(lambda: api.why(connected.id)["failures"].get("decode"))
    assert failure["code"] == "gzip" and what in failure["reason"] and connected.connected


def test_limits_count_what_was_inflated(api, connected):
    connected.publish_acked(connected.topic("properties/report?encoding=gzip"), gzip.compress(b" " * 70000))
    assert wait_until(lambda: api.why(connected.id)["failures"].get("decode"))["code"] == "oversize"

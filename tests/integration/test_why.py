""""Why can't I see my data?" is answered by one GET: what happened, and what to do about it."""
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

import rawmqtt
from rawmqtt import timestamp
from waiting import wait_until


def failure_of(api, device, layer):
    got = wait_until(lambda: api.why(device["device_id"])["failures"].get(layer), 10, 0.1,
                     f"why names a failure of layer {layer}")
    assert set(got) >= {"first", "last", "count", "code", "reason", "next_step"}, got
    assert got["count"] >= 1 and got["reason"] and got["next_step"] and " " not in got["code"]
    return got


def text_of(failure):
    return f"{failure['reason']} {failure['next_step']} {failure.get('sample')}".lower()


def refused(platform, device, **login):
    with pytest.raises(rawmqtt.Refused):
        platform.connect(device, **login)


def test_a_device_that_never_came_says_so(api, device):
    why = api.why(device["device_id"])
    assert why["failures"] == {} and isinstance(why["changes"], list)
    assert "never" in json.dumps(why["state"]).lower() or "INACTIVE" in json.dumps(why["state"])


def test_what_went_well_is_there_too(api, device, connected):
    connected.report("Pump", {"flow": 1})
    wait_until(lambda: api.history(device["device_id"]))
    why = wait_until(lambda: (w := api.why(device["device_id"]))["changes"] and w)
    assert why["failures"] == {}
    assert "ONLINE" in json.dumps(why)
    assert len(why["changes"]) <= 64


def test_a_misspelt_property(api, device, connected):
    connected.report("Pump", {"luminace": 7})
    got = failure_of(api, device, "model")
    assert "luminace" in text_of(got) and "luminance" in text_of(got), "the nearest name"


def test_a_misspelt_service(api, device, connected):
    connected.report("Pmup", {"flow": 7})
    got = failure_of(api, device, "model")
    assert "pmup" in text_of(got) and "pump" in text_of(got)


def test_a_value_out_of_range_names_the_range(api, device, connected):
    connected.report("Pump", {"flow": 1000})
    got = failure_of(api, device, "model")
    assert "flow" in text_of(got) and "100" in text_of(got)


def test_broken_json_names_the_position(api, device, connected):
    connected.publish_acked(connected.topic("properties/report"), '{"services": [}')
    got = failure_of(api, device, "decode")
    assert "json" in text_of(got) and any(n in text_of(got) for n in ("14", "15", "16")), got


@pytest.mark.parametrize("body", ['{"services": 7}', '{"serwices": []}', "[]", "7", '"text"',
                                  '{"services":[{"properties":{}}]}', '{"services":[7]}',
                                  '{"services":[{"service_id":"Pump","properties":[]}]}'])
def test_a_body_of_another_shape(api, device, connected, body):
    connected.publish_acked(connected.topic("properties/report"), body)

    def told():
        failures = api.why(device["device_id"])["failures"]
        return failures.get("decode") or failures.get("model")
    got = wait_until(told)
    assert any(word in text_of(got) for word in ("services", "service_id", "properties", "object"))


def test_a_wrong_secret(platform, api, device):
    refused(platform, device, secret="another_secret")
    got = failure_of(api, device, "authenticate")
    assert "secret" in text_of(got) or "password" in text_of(got)


def test_a_wrong_secret_again_and_again_is_counted(platform, api, device):
    for _ in range(5):
        refused(platform, device, secret="another_secret")
    got = wait_until(lambda: (f := api.why(device["device_id"])["failures"].get("authenticate"))
                     and f["count"] >= 1 and f["last"] >= f["first"] and f)
    assert "another_secret" not in json.dumps(got), "never a secret"


def test_a_stale_timestamp_says_by_how_much(platform, api, device):
    refused(platform, device, sign_type=1, stamp=timestamp(-6))
    got = failure_of(api, device, "authenticate")
    assert "6" in got["reason"] + str(got.get("sample")) and \
        any(word in text_of(got) for word in ("clock", "hour", "time"))


@pytest.mark.parametrize("login, words", [
    ({"sign_type": 2}, ("sign type", "sm3")), ({"keep_alive": 10}, ("keep", "30")),
    ({"stamp": "20261123"}, ("client id", "timestamp"))])
def test_a_login_with_a_wrong_form(platform, api, device, login, words):
    refused(platform, device, **login)

    def told():
        failures = api.why(device["device_id"])["failures"]
        return failures.get("connect") or failures.get("authenticate")
    got = wait_until(told)
    assert any(word in text_of(got) for word in words), got


def test_a_wrong_topic_names_the_nearest_one(api, device, connected):
    connected.publish_acked(f"$oc/devices/{device['device_id']}/sys/property/report", "{}")
    got = failure_of(api, device, "topic")
    assert "properties/report" in text_of(got) and "property/report" in text_of(got)


def test_the_topic_of_another_device(api, device, connected):
    connected.publish_acked("$oc/devices/somebody_else/sys/properties/report", "{}")
    assert "somebody_else" in text_of(failure_of(api, device, "topic"))


def test_a_refused_subscription(api, device, connected):
    assert connected.subscribe("$oc/devices/somebody_else/sys/#") == 128
    assert "somebody_else" in text_of(failure_of(api, device, "topic"))


def test_a_report_over_64_kb(api, device, connected):
    connected.publish_acked(connected.topic("properties/report"), {"services": [
        {"service_id": "Load", "properties": {"pad": "x" * 66000}}]})

    def told():
        return any("64" in text_of(f) or "65536" in text_of(f) for f in
                   api.why(device["device_id"])["failures"].values())
    wait_until(told, what="the size and the limit")
    connected.report("Pump", {"flow": 1})
    wait_until(lambda: len(api.history(device["device_id"])) == 1)


def test_a_frame_over_1_mb_closes_with_a_reason(api, device, connected):
    try:
        connected.publish(connected.topic("messages/up"), b"x" * (1024 * 1024 + 1))
    except OSError:
        pass
    connected.wait_closed()
    wait_until(lambda: "1 MB" in (text := json.dumps(api.why(device["device_id"]))) or
               "1048576" in text, what="the limit is named")


def test_why_a_connection_ended(platform, api, device):
    with platform.connect(device) as peer:
        peer.publish(peer.topic("properties/report"), {}, qos=2)
        peer.wait_closed()
    wait_until(lambda: "qos" in json.dumps(api.why(device["device_id"])).lower())


def test_a_takeover_is_a_change(platform, api, device):
    first = platform.connect(device)
    with platform.connect(device):
        first.wait_closed()
        wait_until(lambda: "takeover" in json.dumps(api.why(device["device_id"])).lower() or
                   "another connection" in json.dumps(api.why(device["device_id"])).lower())


def test_only_the_last_64_changes_are_kept(platform, api, device):
    for _ in range(40):
        platform.connect(device).disconnect()
    wait_until(lambda: len(api.why(device["device_id"])["changes"]) == 64, 20)


def test_a_command_to_a_device_that_is_away(api, device):
    api.refused(403, "IOTDA.014016", "POST", f"/devices/{device['device_id']}/commands",
                {"paras": {}})
    assert any(w in text_of(failure_of(api, device, "command")) for w in ("offline", "not online",
                                                                         "no connection", "never"))


@pytest.mark.long
def test_a_command_without_an_answer(api, device, connected):
    with ThreadPoolExecutor(1) as pool:
        api.get("/apps")
        future = pool.submit(api.post, f"/devices/{device['device_id']}/commands",
                             {"service_id": "Pump", "command_name": "drain",
                              "paras": {"seconds": 1}}, 200)
        assert future.result(timeout=40)["error_code"] == "IOTDA.014111"
    got = failure_of(api, device, "command")
    assert "response" in text_of(got) or "answer" in text_of(got)


def test_of_an_unknown_device(api):
    api.refused(404, "IOTDA.014000", "GET", "/devices/nobody_here/why")


def test_an_unknown_device_at_the_door_leaves_no_trace_of_its_password(platform):
    ghost = {"device_id": "ghost_2", "auth_info": {"secret": "ghostly_secret"}}
    refused(platform, ghost)
    assert "ghostly_secret" not in platform.logs()

"""Messages to devices: DELIVERED only on the device's own PUBACK."""
import time

import pytest

from waiting import stays, wait_until


def messages(device):
    return f"/devices/{device['device_id']}/messages"


def status_of(api, device, message_id):
    return api.get(f"{messages(device)}/{message_id}")["status"]


def test_a_message_is_delivered_when_the_device_acknowledged_it(api, device, connected):
    made = api.post(messages(device), {"message": "hello", "name": "greet", "message_id": "m-1"})
    assert made["message_id"] == "m-1" and made["result"]["created_time"]
    wait_until(lambda: status_of(api, device, "m-1") == "DELIVERED")
    message = connected.wait_for("messages/down")[0]
    assert message.json == {"name": "greet", "id": "m-1", "content": "hello"}
    shown = api.get(f"{messages(device)}/m-1")
    assert shown["message"] == "hello" and shown["name"] == "greet" and shown["finished_time"]
    assert shown["topic"] == f"$oc/devices/{device['device_id']}/sys/messages/down"
    listed = api.get(messages(device))
    assert listed["device_id"] == device["device_id"]
    assert [m["message_id"] for m in listed["messages"]] == ["m-1"]


def test_an_object_is_sent_as_its_text_and_raw_as_it_is(api, device, connected):
    api.post(messages(device), {"message": {"a": [1, "水"]}})
    first = connected.wait_for("messages/down")[0].json
    assert isinstance(first["content"], str) and '"a"' in first["content"]
    api.post(messages(device), {"message": "only this", "payload_format": "raw"})
    assert connected.wait_for("messages/down", 2)[1].payload == b"only this"


def test_without_a_puback_it_is_sent_again_and_fails_after_8_s(platform, api, device):
    with platform.connect(device, ack=False) as deaf:
        begun = time.monotonic()
        made = api.post(messages(device), {"message": "anyone?"})
        deaf.wait_for("messages/down")
        stays(lambda: status_of(api, device, made["message_id"]) not in ("DELIVERED", "FAILED"), 6.5,
              0.5, "undecided while it is being repeated")
        wait_until(lambda: status_of(api, device, made["message_id"]) == "FAILED", 6)
        assert 7 < time.monotonic() - begun < 12
        tries = deaf.on("messages/down")
        assert len(tries) == 4, "once, and again every 2 s, 3 times"
        assert [t.dup for t in tries] == [False, True, True, True]
        assert len({t.packet_id for t in tries}) == 1
        gaps = [b.at - a.at for a, b in zip(tries, tries[1:])]
        assert all(1.5 < gap < 3 for gap in gaps), gaps
        assert api.get(f"{messages(device)}/{made['message_id']}")["error_info"]["error_code"]


def test_a_late_puback_still_delivers(platform, api, device):
    with platform.connect(device, ack=False) as peer:
        made = api.post(messages(device), {"message": "slowly"})
        second = peer.wait_for("messages/down", 2)[1]
        peer.puback(second.packet_id)
        wait_until(lambda: status_of(api, device, made["message_id"]) == "DELIVERED")
        assert len(peer.on("messages/down")) == 2


def test_messages_arrive_in_the_order_of_their_creation(api, device, connected):
    for n in range(20):
        api.post(messages(device), {"message": str(n)})
    got = connected.wait_for("messages/down", 20)
    assert [m.json["content"] for m in got] == [str(n) for n in range(20)]


def test_offline_is_refused_for_now(api, device):
    message = api.refused(403, "IOTDA.014016", "POST", messages(device), {"message": "x"})
    assert "online" in message.lower() or "offline" in message.lower()


def test_an_id_is_used_once_for_a_device(api, device, connected):
    api.post(messages(device), {"message": "x", "message_id": "same"})
    api.refused(400, "IOTDA.014905", "POST", messages(device), {"message": "y", "message_id": "same"})


def test_an_unknown_message_is_200_without_an_id(api, device):
    assert not api.get(f"{messages(device)}/never-was").get("message_id")


@pytest.mark.parametrize("field, value", [
    ("message", None), ("message", 7), ("message", ["x"]), ("message_id", "a b"),
    ("message_id", "m" * 101), ("name", "n" * 129), ("encoding", "gzip"),
    ("payload_format", "xml"), ("ttl", 3), ("ttl", -5), ("ttl", 1445), ("ttl", "5")])
def test_a_bad_message_is_refused_by_the_name_of_the_field(api, device, connected, field, value):
    body = {"message": "x", field: value}
    if value is None:
        del body[field]
    assert field in api.refused(400, "IOTDA.000006", "POST", messages(device), body)


def test_a_message_over_256_kb_is_refused(api, device, connected):
    got = api.call("POST", messages(device), {"message": "x" * (256 * 1024 + 1)})
    assert got.status == 400 and got.code == "IOTDA.000006" and "message" in got.message

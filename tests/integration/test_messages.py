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


def test_what_is_not_kept_needs_a_connection(api, device):
    message = api.refused(403, "IOTDA.014016", "POST", messages(device), {"message": "x", "ttl": 0})
    assert "online" in message.lower()


def test_a_message_waits_for_the_device(platform, api, device):
    made = [api.post(messages(device), {"message": str(n)}) for n in range(3)]
    assert [m["result"]["status"] for m in made] == ["PENDING"] * 3
    time.sleep(1.5)  # more than a sweep: they are parked
    assert status_of(api, device, made[0]["message_id"]) == "PENDING"
    with platform.connect(device) as peer:
        got = peer.wait_for("messages/down", 3)
        assert [m.json["id"] for m in got] == [m["message_id"] for m in made], "in their order"
        wait_until(lambda: status_of(api, device, made[2]["message_id"]) == "DELIVERED")
        api.post(messages(device), {"message": "later"})
        assert peer.wait_for("messages/down", 4)[3].json["content"] == "later"
        assert len(peer.on("messages/down")) == 4, "each once"


def test_without_a_puback_before_the_end_it_comes_again(platform, api, device):
    with platform.connect(device, ack=False) as deaf:
        made = api.post(messages(device), {"message": "twice"})["message_id"]
        deaf.wait_for("messages/down")
    assert status_of(api, device, made) == "PENDING"
    with platform.connect(device) as peer:
        assert peer.wait_for("messages/down")[0].json["id"] == made
        wait_until(lambda: status_of(api, device, made) == "DELIVERED")


def test_twenty_wait_and_newer_ones_take_the_place_of_the_oldest(platform, api, device, subscribe):
    subscription = subscribe("device.message.status", "update")
    made = [api.post(messages(device), {"message": str(n)})["message_id"] for n in range(20)]

    def parked():
        return platform.sql("SELECT count(*) FROM command.message WHERE parked AND status = 'PENDING'"
                            f" AND device_id = '{device['device_id']}'")
    wait_until(lambda: parked() == "20", 30)
    made += [api.post(messages(device), {"message": "20"})["message_id"]]
    wait_until(lambda: status_of(api, device, made[0]) == "FAILED")
    assert "20" in api.get(f"{messages(device)}/{made[0]}")["error_info"]["error_msg"]
    body = subscription.wait_for(device["device_id"])[0]["notify_data"]["body"]
    assert body["message_id"] == made[0] and body["status"] == "FAILED" and body["error_info"]["error_code"]
    with platform.connect(device) as peer:
        assert [m.json["content"] for m in peer.wait_for("messages/down", 20)] == [str(n) for n in range(1, 21)]


def test_a_message_is_deleted(platform, api, device):
    made = api.post(messages(device), {"message": "never"})["message_id"]
    api.delete(f"{messages(device)}/{made}")
    api.refused(404, "IOTDA.014912", "DELETE", f"{messages(device)}/{made}")
    assert not api.get(f"{messages(device)}/{made}").get("message_id")
    with platform.connect(device) as peer:
        api.post(messages(device), {"message": "this"})
        assert [m.json["content"] for m in peer.wait_for("messages/down")] == ["this"]


def test_a_frozen_device_gets_none(api, device):
    api.post(f"/devices/{device['device_id']}/freeze", status=204)
    assert "frozen" in api.refused(403, "IOTDA.014016", "POST", messages(device), {"message": "x"})


def test_status_changes_are_events(api, device, connected, subscribe):
    subscription = subscribe("device.message.status", "update")
    made = api.post(messages(device), {"message": "x", "name": "greet"})["message_id"]
    note = subscription.wait_for(device["device_id"])[0]["notify_data"]
    assert note["header"]["device_id"] == device["device_id"]
    body = note["body"]
    assert (body["message_id"], body["name"], body["status"]) == (made, "greet", "DELIVERED")
    assert body["topic"].endswith("/sys/messages/down") and len(body["timestamp"]) == 16


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

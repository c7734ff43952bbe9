"""A device's connection: who gets in, with which code who does not, sessions, status, topics."""
import json
import socket
import ssl
import warnings

import pytest

import rawmqtt
from rawmqtt import timestamp
from waiting import stays, wait_until


def code_of(platform, device, **login):
    try:
        platform.connect(device, **login).disconnect()
        return 0
    except rawmqtt.Refused as refusal:
        return refusal.code


# ---- the login

@pytest.mark.parametrize("sign_type, hours", [(0, 0), (0, -5000), (1, 0), (1, -1), (1, 1)])
def test_a_login_within_its_clock_is_accepted(platform, device, sign_type, hours):
    assert code_of(platform, device, sign_type=sign_type, stamp=timestamp(hours)) == 0


@pytest.mark.parametrize("stamp", ["2026112324", "0000000000", "9999999999"])
def test_with_sign_type_0_the_timestamp_is_only_a_key(platform, device, stamp):
    assert code_of(platform, device, stamp=stamp) == 0


def test_the_password_is_compared_without_case(platform, device):
    pw = rawmqtt.password(device["auth_info"]["secret"], timestamp())
    assert code_of(platform, device, pw=pw.upper(), stamp=timestamp()) == 0


@pytest.mark.parametrize("code, login", [
    (4, {"secret": "not_the_secret"}),
    (4, {"pw": ""}),
    (4, {"pw": "0" * 64}),
    (4, {"sign_type": 1, "stamp": timestamp(-5)}),
    (4, {"sign_type": 1, "stamp": timestamp(5)}),
    (2, {"sign_type": 2}),
    (2, {"sign_type": 7}),
    (2, {"keep_alive": 0}),
    (2, {"keep_alive": 29}),
    (2, {"keep_alive": 1201}),
    (2, {"user": "someone_else"}),
    (2, {"client_id": "x"}),
    (2, {"client_id": ""}),
    (2, {"stamp": "20261123"}),
    (2, {"stamp": "202611230x"}),
])
def test_a_refused_login_gets_its_code_and_is_closed(platform, device, code, login):
    assert code_of(platform, device, **login) == code


def test_an_unknown_device_is_refused_like_a_wrong_password(platform):
    ghost = {"device_id": "ghost_1", "auth_info": {"secret": "whatever1"}}
    assert code_of(platform, ghost) == 4


@pytest.mark.parametrize("level, name, code", [(4, "MQTT", 0), (3, "MQIsdp", 0), (6, "MQTT", 1),
                                               (3, "MQTT", 1)])
def test_protocol_versions(platform, device, level, name, code):
    wire, seen = platform.wire(), []
    wire.on_packet = lambda first, body: seen.append((first, body))
    stamp = timestamp()
    wire.send(rawmqtt.connect_packet(
        f"{device['device_id']}_0_0_{stamp}", device["device_id"],
        rawmqtt.password(device["auth_info"]["secret"], stamp), level=level, name=name))
    wait_until(lambda: seen)
    assert seen[0] == (0x20, bytes([0, code]))
    if code:
        wait_until(wire.closed.is_set)
    wire.close()


def handshake(platform, port, version):
    """What a client gets that knows this version of TLS only."""
    context = ssl.create_default_context(cafile=platform.access["CAUSEWAY_CA_FILE"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname="127.0.0.1")


def test_a_port_for_devices_that_know_tls_1_1_only(own_platform):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    platform = own_platform(CAUSEWAY_MQTTS11_PORT=str(port))
    for version, name in ((ssl.TLSVersion.TLSv1_1, "TLSv1.1"), (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
                          (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        with handshake(platform, port, version) as old:
            assert old.version() == name
            old.sendall(rawmqtt.connect_packet("nobody_0_0_2026010203", "nobody", "0" * 64))
            assert old.recv(4) == b"\x20\x02\x00\x04", "CONNACK: no such device"
    for refusing, version in ((platform.mqtts_port, ssl.TLSVersion.TLSv1_1), (port, ssl.TLSVersion.TLSv1)):
        with pytest.raises(ssl.SSLError):
            handshake(platform, refusing, version)


def test_tls_with_the_platforms_ca(platform, api, device):
    with rawmqtt.Device("127.0.0.1", platform.mqtts_port, device["device_id"],
                        device["auth_info"]["secret"],
                        tls_ca=platform.access["CAUSEWAY_CA_FILE"]) as peer:
        peer.report("Pump", {"flow": 7})
    assert wait_until(lambda: api.shadow(device["device_id"]))["Pump"]["version"] == 1


# ---- status

def test_status_follows_the_connection_and_is_pushed(platform, api, device, subscribe):
    device_id = device["device_id"]
    pushed = subscribe("device.status", "update")
    assert api.device(device_id)["status"] == "INACTIVE"
    with platform.connect(device):
        online = wait_until(lambda: (d := api.device(device_id))["status"] == "ONLINE" and d)
        assert online["active_time"] and online["connection_status_update_time"]
    wait_until(lambda: api.device(device_id)["status"] == "OFFLINE")
    notes = pushed.wait_for(device_id, 2)
    assert [n["notify_data"]["body"]["status"] for n in notes] == ["ONLINE", "OFFLINE"]
    assert notes[0]["notify_data"]["header"]["gateway_id"] == device_id
    assert set(notes[0]["notify_data"]["body"]) >= {"status", "last_online_time",
                                                    "status_update_time"}


def test_a_connection_that_breaks_is_offline_too(platform, api, device):
    peer = platform.connect(device)
    wait_until(lambda: api.device(device["device_id"])["status"] == "ONLINE")
    peer.drop()
    wait_until(lambda: api.device(device["device_id"])["status"] == "OFFLINE")


@pytest.mark.long
def test_silence_beyond_the_keep_alive_closes_the_connection(platform, api, device):
    with platform.connect(device, keep_alive=30) as peer:
        stays(lambda: peer.connected, 30, 1, "within 1.5 times 30 s")
        peer.wait_closed(20)
    wait_until(lambda: api.device(device["device_id"])["status"] == "OFFLINE")
    assert "keep" in json.dumps(api.why(device["device_id"])).lower()


# ---- one session for a device

def test_a_second_connection_takes_over(platform, api, device):
    first = platform.connect(device)
    # another hour: another client id, the same device
    with platform.connect(device, stamp=timestamp(-3)) as second:
        first.wait_closed()
        second.ping()
        wait_until(lambda: api.device(device["device_id"])["status"] == "ONLINE")
        second.report("Pump", {"flow": 2})
        stays(lambda: api.device(device["device_id"])["status"] == "ONLINE", 1.5, 0.2,
              "the end of the old session is not the end of the new one")


def test_what_was_acknowledged_before_a_takeover_comes_first(platform, api, device):
    for turn in range(6):
        peer = platform.connect(device, stamp=timestamp(-turn))
        for n in range(10):
            peer.report("Load", {"seq": turn * 10 + n})
    peer.disconnect()
    rows = wait_until(lambda: len(r := api.history(device["device_id"])) >= 60 and r)
    assert [json.loads(r["body"])["services"][0]["properties"]["seq"] for r in rows] == \
        list(range(60))


# ---- topics and delivery

def test_system_topics_are_delivered_without_a_subscription(api, device, connected):
    api.post(f"/devices/{device['device_id']}/messages", {"message": "unasked"})
    message = connected.wait_for("messages/down")[0]
    assert message.json["content"] == "unasked" and message.qos == 1 and not message.retain


def test_an_explicit_subscription_does_not_deliver_twice(api, device, connected):
    assert connected.subscribe(f"$oc/devices/{device['device_id']}/sys/messages/down", 1) == 1
    assert connected.subscribe(f"$oc/devices/{device['device_id']}/sys/#", 1) == 1
    for text in ("one", "two"):
        api.post(f"/devices/{device['device_id']}/messages", {"message": text})
    got = connected.wait_for("messages/down", 2)
    connected.ping()
    assert [m.json["content"] for m in connected.on("messages/down")] == ["one", "two"], got


def test_granted_qos(device, connected):
    mine = f"$oc/devices/{device['device_id']}/sys/commands/#"
    assert [connected.subscribe(mine, qos) for qos in (0, 1, 2)] == [0, 1, 1]


def test_a_subscription_to_another_device_is_refused(connected):
    assert connected.subscribe("$oc/devices/somebody_else/sys/messages/down") == 128
    connected.ping()


def test_ones_own_publish_is_never_echoed(device, connected):
    assert connected.subscribe(f"$oc/devices/{device['device_id']}/sys/#") == 1
    connected.publish_acked(connected.topic("commands/response/request_id=1"), {"result_code": 0})
    connected.report("Pump", {"flow": 1})
    connected.ping()
    assert connected.received == []


@pytest.mark.parametrize("topic", [
    "$oc/devices/somebody_else/sys/properties/report", "$oc/devices/{id}/sys/properties/reprot",
    "$oc/devices/{id}/sys/messages/down", "$oc/broadcast/x", "$SYS/x", "$oc/devices/{id}/sys/"])
def test_a_refused_publish_keeps_the_connection_and_is_acknowledged(api, device, connected, topic):
    connected.publish_acked(topic.format(id=device["device_id"]), {"services": []})
    connected.ping()
    assert api.history(device["device_id"]) == []


def test_qos_2_closes_the_connection(device, connected):
    connected.publish(connected.topic("properties/report"), {"services": []}, qos=2)
    connected.wait_closed()


def test_acknowledgements_come_in_the_order_of_the_publishes(connected):
    sent = [connected.publish(connected.topic("properties/report"), {"services": [
        {"service_id": "Load", "properties": {"seq": n}}]}) for n in range(300)]
    wait_until(lambda: len(connected.acked) >= 300)
    assert connected.acked == sent


def test_several_frames_in_one_write_and_one_frame_in_many(api, device, connected):
    body = json.dumps({"services": [{"service_id": "Pump", "properties": {"flow": 9}}]}).encode()
    one = rawmqtt.publish_packet(connected.topic("properties/report"), body, 1, 100)
    connected.wire.send(one + one.replace(b"\x00\x64", b"\x00\x65", 1) + b"\xc0\x00")
    for packet_id in (100, 101):
        connected.wait_acked(packet_id)
    for byte in rawmqtt.publish_packet(connected.topic("properties/report"), body, 1, 102):
        connected.wire.send(bytes([byte]))
    connected.wait_acked(102)
    wait_until(lambda: len(api.history(device["device_id"])) == 3)

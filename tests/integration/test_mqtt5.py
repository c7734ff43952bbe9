"""MQTT 5 against the standard, statement by statement, and as the platform uses it; real clients speak it at the end."""
import json
import subprocess

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import mqtt5
from mqtt5 import Peer, props
from rawmqtt import password, text, timestamp
from rest import unique
from waiting import stays, wait_until


@pytest.fixture
def peer(platform, device):
    made = Peer(platform, device)
    assert made.connack[2][:2] == b"\0\0"
    yield made
    made.close()


# ---- CONNECT

def test_what_connack_says(platform, device):
    made = Peer(platform, device)
    got, rest = mqtt5.read_props(made.connack[2][2:])
    assert made.connack[2][:2] == b"\0\0" and not rest
    assert got[0x24] == 1 and got[0x25] == 0 and got[0x22] == 65535 and got[0x29] == 0 and got[0x2a] == 0
    assert got[0x27] > 1 << 20 and 0x11 not in got and 0x12 not in got
    made.close()


REFUSED = [  # statement, CONNECT, reason of the CONNACK
    ("3.1.3.1: an empty client id", {"client_id": ""}, 0x85),
    ("4.12: an authentication method", {"properties": props((0x15, "SCRAM"))}, 0x8c),
    ("3.1.2.11: a property twice", {"properties": props((0x11, 1), (0x11, 1))}, 0x82),
    ("3.1.2.11: a property of another packet", {"properties": props((0x23, 1))}, 0x81),
    ("3.1.2.11.3: receive maximum 0", {"properties": props((0x21, 0))}, 0x82),
    ("3.2.2.3.4: a will of QoS 2", {"flags": 0xd6, "will": b"\0" + text("t") + text("w")}, 0x9b),
    ("3.2.2.3.5: a will to be retained", {"flags": 0xe6, "will": b"\0" + text("t") + text("w")}, 0x9a),
    ("3.1.2.3: the reserved flag", {"flags": 0xc3}, 0x81),
    ("keep-alive 0 (mqtt-login.md)", {"keep_alive": 0}, 0x85),
    ("a wrong password", {"pw": "0" * 64}, 0x86),
    ("no password", {"flags": 0x82}, 0x86)]


@pytest.mark.parametrize("statement, connect, reason", REFUSED, ids=[r[0] for r in REFUSED])
def test_a_connect_that_is_refused(platform, device, statement, connect, reason):
    made = Peer(platform, device, **connect)
    assert made.connack[2][0] == 0 and made.connack[2][1] == reason and made.connack[2][2:] == b"\0", made.connack
    wait_until(made.wire.closed.is_set)


def test_an_unknown_version_is_refused(platform, device):
    made = Peer(platform)
    made.send_connect(device, level=6)
    wait_until(made.wire.closed.is_set)


def test_a_will_is_accepted_and_ignored(platform, device):
    made = Peer(platform, device, flags=0xc6, will=props((0x18, 1)) + text("t") + text("w"))
    assert made.connack[2][1] == 0
    made.close()


@pytest.mark.parametrize("size", [1, 7])
def test_packets_in_pieces(platform, device, size):
    made = Peer(platform)
    sent = bytearray()
    made.wire.send = sent.extend
    made.send_connect(device, properties=props((0x11, 0), (0x26, ("k", "v"))))
    made.publish(f"$oc/devices/{device['device_id']}/sys/messages/up", b"x", properties=props((0x01, 1)))
    del made.wire.send
    for at in range(0, len(sent), size):
        made.wire.send(bytes(sent[at:at + size]))
    assert made.take(2)[2][1] == 0 and made.take(4)[2] == b"\0\1"
    made.close()


# ---- what ends a connection, and how the device is told

def bad(first, body):
    return mqtt5.packet(first, body)


TOPIC = b"\0\1a"
ENDS = [  # statement, bytes, reason of the DISCONNECT
    ("2.1.3: reserved flags of SUBSCRIBE", bad(0x80, b"\0\1\0" + TOPIC + b"\1"), 0x81),
    ("2.2.1: packet id 0", bad(0x32, TOPIC + b"\0\0\0"), 0x81),
    ("2.2.2.2: a property that a PUBLISH cannot have", bad(0x30, TOPIC + props((0x11, 1))), 0x81),
    ("3.1: a second CONNECT", bad(0x10, text("MQTT") + b"\5\2\0\x3c\0" + text("x")), 0x82),
    ("3.3.1.2: QoS 3", bad(0x36, TOPIC + b"\0\1\0"), 0x81),
    ("3.2.2.3.4: QoS 2 is not offered", bad(0x34, TOPIC + b"\0\1\0"), 0x9b),
    ("3.3.2.1: a topic with a wildcard", bad(0x30, b"\0\1#\0"), 0x81),
    ("3.3.2.1: no topic and no alias", bad(0x30, b"\0\0\0"), 0x82),
    ("3.3.2.3.4: alias 0", bad(0x30, TOPIC + props((0x23, 0))), 0x94),
    ("3.3.2.3.4: an alias that stands for nothing", bad(0x30, b"\0\0" + props((0x23, 7))), 0x82),
    ("3.3.2.3.5: a response topic with a wildcard", bad(0x30, TOPIC + props((0x08, "a/+"))), 0x82),
    ("3.3.2.3.8: a subscription identifier", bad(0x30, TOPIC + props((0x0b, 1))), 0x81),
    ("3.2.2.3.12: subscription identifiers are not offered", bad(0x82, b"\0\1" + props((0x0b, 1)) + TOPIC + b"\1"), 0xa1),
    ("3.8.3: a SUBSCRIBE of nothing", bad(0x82, b"\0\1\0"), 0x81),
    ("3.8.3.1: reserved bits", bad(0x82, b"\0\1\0" + TOPIC + b"\xc1"), 0x81),
    ("3.8.3.1: retain handling 3", bad(0x82, b"\0\1\0" + TOPIC + b"\x31"), 0x81),
    ("3.15: AUTH", bad(0xf0, b""), 0x82),
    ("1.5.4: a topic that is no UTF-8", bad(0x30, b"\0\1\xff\0"), 0x81),
    ("1.5.4: NUL in a topic", bad(0x30, b"\0\1\0\0"), 0x81),
    ("1.5.5: a length of five bytes", b"\x30\xff\xff\xff\xff\x01", 0x81),
    ("4.13: a packet that only a server sends", bad(0x20, b"\0\0\0"), 0x81),
    ("3.2.2.3.6: a packet that is too large", b"\x30" + mqtt5.variable((1 << 21)), 0x95)]


@pytest.mark.parametrize("statement, data, reason", ENDS, ids=[e[0] for e in ENDS])
def test_what_ends_a_connection(peer, statement, data, reason):
    peer.wire.send(data)
    assert peer.disconnected() == reason


def test_the_device_is_told_why_in_words(peer):
    peer.wire.send(bad(0x30, b"\0\0\0"))
    _, _, body = peer.take(14)
    assert b"without a topic or an alias" in mqtt5.read_props(body[1:])[0][0x1f]


def test_a_takeover_is_told(platform, device, peer):
    other = Peer(platform, device)
    assert other.connack[2][1] == 0
    assert peer.disconnected() == 0x8e
    other.close()


def test_administrative_ends_are_told(api, device, peer):
    api.post(f"/devices/{device['device_id']}/freeze", status=204)
    assert peer.disconnected() == 0x87


def test_a_normal_disconnect(api, peer):
    wait_until(lambda: api.device(peer.id)["status"] == "ONLINE")
    peer.wire.send(b"\xe0\0")
    wait_until(lambda: api.device(peer.id)["status"] == "OFFLINE")
    assert [p for p in peer.packets if p[0] == 14] == []


# ---- PUBLISH up

def test_a_report_with_properties(api, device, peer, subscribe):
    subscription = subscribe("device.property", "report")
    peer.publish(peer.topic("properties/report"), json.dumps({"services": [
        {"service_id": "Pump", "properties": {"flow": 3}}]}).encode(), packet_id=9,
        properties=props((0x01, 1), (0x03, "json"), (0x26, ("a", "b")), (0x26, ("a", "c"))))
    assert peer.take(4)[2] == b"\0\x09"
    given = {"content_type": "json", "user_properties": [{"prop_key": "a", "prop_value": "b"},
                                                          {"prop_key": "a", "prop_value": "c"}]}
    assert wait_until(lambda: api.history(peer.id))[0]["properties"] == given
    body = subscription.wait_for(peer.id)[0]["notify_data"]["body"]
    assert body["properties"] == given and body["services"][0]["properties"] == {"flow": 3}


@pytest.mark.parametrize("correlation, told", [(b"c-7", "c-7"), (b"\xff\x00\x01", "/wAB"), (b"a\x00b", "YQBi"), (b"", "")])
def test_a_message_with_properties(api, peer, subscribe, correlation, told):
    subscription = subscribe("device.message", "report")
    peer.publish(peer.topic("messages/up"), b'{"level":1}', packet_id=9,
                 properties=props((0x08, "answers/here"), (0x09, correlation), (0x26, ("k\"", "\u00e4"))))
    given = {"response_topic": "answers/here", "correlation_data": told,
             "user_properties": [{"prop_key": "k\"", "prop_value": "\u00e4"}]}
    assert wait_until(lambda: api.history(peer.id))[0]["properties"] == given
    body = subscription.wait_for(peer.id)[0]["notify_data"]["body"]
    assert body == {"topic": peer.topic("messages/up"), "content": {"level": 1}, "properties": given}


def test_without_properties_none_are_shown(api, peer):
    peer.publish(peer.topic("messages/up"), b"x", packet_id=9, properties=props((0x01, 1), (0x02, 60)))
    assert "properties" not in wait_until(lambda: api.history(peer.id))[0]


def test_a_refused_publish_says_so(api, peer):
    """3.4.2.1, and mqtt 1.11 of the platform: PUBACK 0x87, the connection stays."""
    peer.publish("$oc/devices/another/sys/messages/up", b"x", packet_id=3)
    assert peer.take(4)[2] == b"\0\3\x87"
    peer.publish(peer.topic("properties/report"), b"x" * 70000, packet_id=4)
    assert peer.take(4)[2] == b"\0\4\x97"
    peer.publish(peer.topic("messages/up?encoding=gzip"), b"no gzip", packet_id=5)
    assert peer.take(4)[2] == b"\0\5\x99"
    peer.ping()


@pytest.mark.parametrize("alias", [1, 65535])
def test_topic_aliases(api, device, peer, alias):
    topic = peer.topic("messages/up")
    peer.publish(topic, b"one", packet_id=1, properties=props((0x23, alias)))
    peer.publish("", b"two", packet_id=2, properties=props((0x23, alias)))
    assert peer.take(4)[2] == b"\0\1" and peer.take(4)[2] == b"\0\2"
    rows = wait_until(lambda: len(r := api.history(device["device_id"])) == 2 and r)
    assert [r["body"] for r in rows] == ["one", "two"] and len({r["topic"] for r in rows}) == 1


def test_an_alias_gets_another_topic(api, device, peer):
    peer.publish(peer.topic("messages/up"), b"one", properties=props((0x23, 2)))
    peer.publish(f"$oc/devices/{peer.id}/user/alarm", b"two", packet_id=2, properties=props((0x23, 2)))
    peer.publish("", b"three", packet_id=3, properties=props((0x23, 2)))
    rows = wait_until(lambda: len(r := api.history(device["device_id"])) == 3 and r)
    assert rows[2]["topic"].endswith("/user/alarm")


def test_a_hundred_aliases_are_enough(peer):
    for alias in range(1, 102):
        peer.publish(peer.topic("messages/up"), b"x", qos=0, properties=props((0x23, alias)))
    assert peer.disconnected() == 0x97


# ---- SUBSCRIBE

@pytest.mark.parametrize("topic, options, code", [
    ("plant/x", 0, 0), ("plant/x", 1, 1), ("plant/x", 2, 1), ("plant/x", 0x2d, 1), ("$share/g/plant/x", 1, 0x9e),
    ("$oc/devices/another/sys/commands/#", 1, 0x87), ("plant/x#", 1, 0x8f), ("a+/b", 1, 0x8f), ("$SYS/#", 1, 0x87)])
def test_codes_of_suback(peer, topic, options, code):
    assert peer.subscribe(topic, options) == b"\0\5\0" + bytes([code])


def test_too_many_subscriptions(peer):
    for n in range(100):
        assert peer.subscribe(f"t/{n}")[3] == 1
    assert peer.subscribe("t/100")[3] == 0x97


def test_codes_of_unsuback(peer):
    peer.subscribe("a/b")
    peer.wire.send(mqtt5.packet(0xa2, b"\0\7\0" + text("a/b") + text("a/c")))
    assert peer.take(11)[2] == b"\0\7\0\0\x11"


# ---- PUBLISH down

def test_a_command_and_its_answer(api, device, peer):
    made = api.post(f"/devices/{device['device_id']}/async-commands", {
        "service_id": "Pump", "command_name": "drain", "paras": {"seconds": 1}, "send_strategy": "delay"}, status=200)
    topic, qos, packet_id, properties, payload = peer.message()
    assert qos == 1 and properties == {} and json.loads(payload)["paras"] == {"seconds": 1}
    peer.puback(packet_id)
    peer.publish(topic.replace("/commands/", "/commands/response/"), b'{"result_code":0}')
    path = f"/devices/{device['device_id']}/async-commands/{made['command_id']}"
    wait_until(lambda: api.get(path)["status"] == "SUCCESSFUL")


def test_a_message_brings_its_properties(api, device, peer):
    api.post(f"/devices/{device['device_id']}/messages", {"message": "x", "payload_format": "raw", "properties": {
        "correlation_data": "c-1", "response_topic": "answers/1",
        "user_properties": [{"prop_key": "a", "prop_value": "1"}, {"prop_key": "b", "prop_value": "2"}]}})
    _, _, packet_id, properties, payload = peer.message()
    assert payload == b"x" and properties == {0x08: b"answers/1", 0x09: b"c-1", 0x26: [("a", "1"), ("b", "2")]}
    peer.puback(packet_id)


def test_a_message_that_the_device_refuses(api, device, peer):
    made = api.post(f"/devices/{device['device_id']}/messages", {"message": "x"})["message_id"]
    peer.puback(peer.message()[2], 0x97)
    path = f"/devices/{device['device_id']}/messages/{made}"
    shown = wait_until(lambda: (m := api.get(path))["status"] == "FAILED" and m)
    assert "refused" in shown["error_info"]["error_msg"]


def test_nothing_is_sent_twice_in_a_connection(api, device, peer):
    """4.4: unlike 3.1.1, where the platform repeats every 2 s."""
    api.post(f"/devices/{device['device_id']}/messages", {"message": "x"})
    peer.message()
    stays(lambda: [p for p in peer.packets if p[0] == 3] == [], 3, 0.1, "not again")


def test_the_receive_maximum_counts(platform, api, device):
    """3.1.2.11.3: as many QoS 1 messages are on their way as the client said."""
    made = Peer(platform, device, properties=props((0x21, 1)))
    made.subscribe("plant/#")
    topic = f"plant/{unique('rm')}"
    for n in range(3):
        made.publish(topic, str(n).encode(), packet_id=n + 1)
        made.take(4)
    first = made.message()
    stays(lambda: [p for p in made.packets if p[0] == 3] == [], 1, 0.05, "one at a time")
    made.puback(first[2])
    made.close()


def test_the_maximum_packet_size_counts(platform, api, device):
    """3.1.2.11.4: larger packets are not sent."""
    made = Peer(platform, device, properties=props((0x27, 200)))
    sent = api.post(f"/devices/{device['device_id']}/messages", {"message": "x" * 300})["message_id"]
    shown = wait_until(lambda: (m := api.get(f"/devices/{device['device_id']}/messages/{sent}"))["status"] == "FAILED" and m)
    assert "size" in shown["error_info"]["error_msg"]
    stays(lambda: [p for p in made.packets if p[0] == 3] == [], 0.5, 0.05, "nothing")
    made.close()


# ---- between devices

@pytest.fixture
def pair(platform, api, product):
    peers = [Peer(platform, api.new_device(product["product_id"])) for _ in range(2)]
    yield peers
    for p in peers:
        p.close()


def test_properties_are_forwarded(pair):
    """3.3.2.3: unaltered, in their order; aliases are not."""
    one, two = pair
    topic = f"{unique('plant')}/x"
    two.subscribe(topic)
    one.publish(topic, b"p", properties=props((0x23, 5), (0x01, 1), (0x26, ("b", "1")), (0x08, "r"), (0x09, b"\0\xff"),
                                              (0x26, ("a", "2")), (0x03, "text/plain")))
    got = two.message()
    assert got[0] == topic and got[4] == b"p"
    assert got[3] == {0x01: 1, 0x26: [("b", "1"), ("a", "2")], 0x08: b"r", 0x09: b"\0\xff", 0x03: b"text/plain"}


def test_no_local(pair):
    """3.8.3.1: not what the subscriber itself has published."""
    one, two = pair
    topic = f"{unique('plant')}/x"
    one.subscribe(topic, 1 | 4)
    two.subscribe(topic)
    one.publish(topic, b"p")
    two.message()
    assert [p for p in one.packets if p[0] == 3] == []
    two.publish(topic, b"q")
    assert one.message()[4] == b"q"


def test_old_and_new_speak_to_each_other(platform, api, product, pair):
    topic = f"{unique('plant')}/x"
    with platform.connect(api.new_device(product["product_id"])) as old:
        old.subscribe(topic)
        pair[0].subscribe(topic)
        pair[0].publish(topic, b"five", properties=props((0x26, ("k", "v"))))
        assert old.wait_for(topic)[0].payload == b"five"
        pair[0].message()
        old.publish_acked(topic, b"four")
        assert pair[0].message()[4] == b"four"


# ---- real clients

def test_paho(platform, api, device):
    stamp, seen = timestamp(), []
    client = paho.Client(f"{device['device_id']}_0_0_{stamp}", protocol=paho.MQTTv5)
    client.username_pw_set(device["device_id"], password(device["auth_info"]["secret"], stamp))
    client.on_message = lambda c, u, m: seen.append(m)
    client.connect("127.0.0.1", platform.mqtt_port, 60)
    client.loop_start()
    try:
        wait_until(client.is_connected)
        topic = f"{unique('plant')}/x"
        client.subscribe(topic, 1)
        extra = Properties(PacketTypes.PUBLISH)
        extra.UserProperty = [("k", "v")]
        extra.TopicAlias = 3
        client.publish(topic, b"p", 1, properties=extra).wait_for_publish(10)
        wait_until(lambda: seen)
        assert seen[0].payload == b"p" and seen[0].properties.UserProperty == [("k", "v")]
    finally:
        client.loop_stop()
        client.disconnect()


def test_mosquitto(platform, api, device):
    stamp = timestamp()
    done = subprocess.run(
        ["mosquitto_pub", "-V", "5", "-h", "127.0.0.1", "-p", str(platform.mqtt_port), "-q", "1", "-i",
         f"{device['device_id']}_0_0_{stamp}", "-u", device["device_id"], "-P",
         password(device["auth_info"]["secret"], stamp), "-D", "publish", "user-property", "a", "b", "-t",
         f"$oc/devices/{device['device_id']}/sys/messages/up", "-m", "hello"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert wait_until(lambda: api.history(device["device_id"]))[0]["body"] == "hello"



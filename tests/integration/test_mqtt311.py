"""MQTT 3.1.1 against the standard: a row for each normative statement that a server of this kind can violate, and the
deliberate deviations (docs/protocol/mqtt-versions.md), each with what is done instead."""
import struct

import pytest

from rawmqtt import Wire, connect_packet, packet, password, publish_packet, text, timestamp
from rest import unique
from waiting import stays, wait_until


class Peer:
    def __init__(self, platform):
        self.wire, self.packets = Wire("127.0.0.1", platform.mqtt_port), []
        self.wire.on_packet = lambda first, body: self.packets.append((first, body))
        self.wire.start()

    def take(self, first):
        def found():
            for i, p in enumerate(self.packets):
                if p[0] == first:
                    return self.packets.pop(i)
        return wait_until(found, 10, 0.002, f"a packet {first:#x}; there are {self.packets}")[1]

    def closed(self):
        wait_until(self.wire.closed.is_set, 10, 0.01, "the server closes the connection")


def login(device, **more):
    stamp = timestamp()
    return connect_packet(f"{device['device_id']}_0_0_{stamp}", device["device_id"],
                          password(device["auth_info"]["secret"], stamp), **more)


@pytest.fixture
def peer(platform, device):
    made = Peer(platform)
    made.wire.send(login(device))
    assert made.take(0x20) == b"\0\0"
    made.id = device["device_id"]
    yield made
    made.wire.close()


def up(peer, name="messages/up"):
    return f"$oc/devices/{peer.id}/sys/{name}"


# ---- what closes a connection before it is one

def raw_connect(flags=0xc2, name="MQTT", level=4, rest=b"", cut=None):
    data = packet(0x10, text(name) + bytes([level, flags]) + b"\0\x3c" + text("c") + rest)
    return data[:cut]


REFUSED = [
    ("MQTT-3.1.0-1: the first packet is a CONNECT", b"\xc0\0", None),
    ("MQTT-3.1.2-1: another protocol name", raw_connect(name="mqtt"), None),
    ("MQTT-3.1.2-2: a level that is not known: CONNACK 1, then the end", raw_connect(level=6), 1),
    ("MQTT-3.1.2-3: the reserved flag", raw_connect(flags=0xc3, rest=text("u") + text("p")), None),
    ("MQTT-3.1.2-14: will QoS 3", raw_connect(flags=0x1e, rest=text("t") + text("w")), None),
    ("MQTT-3.1.2-11: will QoS without a will", raw_connect(flags=0x0a), None),
    ("MQTT-3.1.2-15: will retain without a will", raw_connect(flags=0x22), None),
    ("MQTT-3.1.2-22: a password without a user name", raw_connect(flags=0x42, rest=text("p")), None),
    ("MQTT-3.1.2-19: a user name flag without a user name", raw_connect(flags=0x82), None),
    ("MQTT-3.1.3-4: a client id that is no UTF-8", packet(0x10, text("MQTT") + b"\4\2\0\x3c\0\1\xff"), None),
    ("MQTT-3.1.3-11: a user name that is no UTF-8", raw_connect(flags=0x82, rest=b"\0\1\xff"), None),
    ("MQTT-1.5.3-2: NUL in a text", packet(0x10, text("MQTT") + b"\4\2\0\x3c\0\1\0"), None),
    ("2.2.3: a remaining length of five bytes", b"\x10\xff\xff\xff\xff\x01", None),
    ("MQTT-2.2.2-1: reserved bits of the first byte", b"\x11" + raw_connect()[1:], None)]


@pytest.mark.parametrize("statement, data, code", REFUSED, ids=[r[0] for r in REFUSED])
def test_before_a_connection(platform, statement, data, code):
    made = Peer(platform)
    made.wire.send(data)
    made.closed()
    assert made.packets == ([(0x20, bytes([0, code]))] if code else []), made.packets


# ---- what closes an open one

ENDS = [
    ("MQTT-3.1.0-2: a second CONNECT", raw_connect()),
    ("MQTT-2.2.2-2: reserved bits of SUBSCRIBE", packet(0x80, b"\0\1" + text("a") + b"\0")),
    ("MQTT-2.2.2-2: of UNSUBSCRIBE", packet(0xa0, b"\0\1" + text("a"))),
    ("MQTT-2.2.2-2: of PINGREQ", b"\xc1\0"), ("MQTT-3.14.1-1: of DISCONNECT", b"\xe1\0"),
    ("MQTT-2.3.1-1: packet id 0 of a PUBLISH", publish_packet("a", b"", 1, 0)),
    ("MQTT-2.3.1-1: of a SUBSCRIBE", packet(0x82, b"\0\0" + text("a") + b"\0")),
    ("MQTT-3.3.1-4: QoS 3", packet(0x36, text("a") + b"\0\1")),
    ("MQTT-3.3.1-2: DUP with QoS 0", packet(0x38, text("a"))),
    ("MQTT-3.3.2-2: a wildcard in a topic", publish_packet("a/#", b"")),
    ("MQTT-4.7.3-1: a topic of no characters", packet(0x30, b"\0\0")),
    ("MQTT-4.7.3-2: NUL in a topic", packet(0x30, b"\0\1\0")),
    ("MQTT-3.3.2-1: a topic that is no UTF-8", packet(0x30, b"\0\1\xff")),
    ("MQTT-1.5.3-1: a surrogate", packet(0x30, b"\0\3\xed\xa0\x80")),
    ("MQTT-3.8.3-3: a SUBSCRIBE of nothing", packet(0x82, b"\0\1")),
    ("MQTT-3-8.3-4: reserved bits of a requested QoS", packet(0x82, b"\0\1" + text("a") + b"\5")),
    ("MQTT-3.8.3-4: QoS 3 of a subscription", packet(0x82, b"\0\1" + text("a") + b"\3")),
    ("MQTT-3.10.3-2: an UNSUBSCRIBE of nothing", packet(0xa2, b"\0\1")),
    ("MQTT-4.8.0-1: a PUBACK that is cut short", packet(0x40, b"\0")),
    ("4.8: a PUBACK that is too long", packet(0x40, b"\0\1\0")),
    ("4.8: a packet that only a server sends (CONNACK)", packet(0x20, b"\0\0")),
    ("4.8: SUBACK", packet(0x90, b"\0\1\0")), ("4.8: PINGRESP", b"\xd0\0"),
    ("4.8: a type that does not exist (0)", b"\0\0"), ("4.8: 15", b"\xf0\0"),
    ("3.3: a topic longer than its packet", packet(0x30, b"\0\x0aab"))]


@pytest.mark.parametrize("statement, data", ENDS, ids=[e[0] for e in ENDS])
def test_what_ends_a_connection(api, peer, statement, data):
    peer.wire.send(data)
    peer.closed()
    assert peer.packets == [], "3.1.1 has no word for it"
    wait_until(lambda: api.device(peer.id)["status"] == "OFFLINE")


# ---- what is answered, and how

def test_answers(peer):
    peer.wire.send(packet(0x82, b"\x12\x34" + text("a/b") + b"\0" + text("$SYS/#") + b"\1" + text("c/#") + b"\2"))
    assert peer.take(0x90) == b"\x12\x34\0\x80\1", "MQTT-3.8.4-2, 3.8.4-5: its id, a code each, in their order"
    peer.wire.send(packet(0xa2, b"\x43\x21" + text("a/b") + text("never")))
    assert peer.take(0xb0) == b"\x43\x21", "MQTT-3.10.4-4, 3.10.4-5: also for what was not subscribed"
    peer.wire.send(b"\xc0\0")
    assert peer.take(0xd0) == b"", "MQTT-3.12.4-1"
    for packet_id in (1, 65535):
        peer.wire.send(publish_packet(up(peer), b"x", 1, packet_id))
        assert peer.take(0x40) == struct.pack(">H", packet_id), "MQTT-3.3.4-1: PUBACK with its id"
    peer.wire.send(publish_packet(up(peer), b"x", 0))
    peer.wire.send(b"\xc0\0")
    peer.take(0xd0)
    assert peer.packets == [], "MQTT-3.3.4-1: QoS 0 is not answered"


def test_acknowledgements_keep_their_order(peer):
    """MQTT-4.6.0-2: PUBACKs in the order of the PUBLISHes."""
    for n in range(1, 101):
        peer.wire.send(publish_packet(up(peer), b"x", 1, n))
    wait_until(lambda: len(peer.packets) == 100)
    assert [struct.unpack(">H", body)[0] for _, body in peer.packets] == list(range(1, 101))


def test_a_subscription_is_replaced(platform, api, product, peer):
    """MQTT-3.8.4-3: the same filter again: one subscription with the new QoS."""
    topic = unique("plant/")
    for qos in (1, 0):
        peer.wire.send(packet(0x82, b"\0\1" + text(topic) + bytes([qos])))
        peer.take(0x90)
    with platform.connect(api.new_device(product["product_id"])) as other:
        other.publish_acked(topic, b"x")
    assert peer.take(0x30) == text(topic) + b"x", "QoS 0"
    stays(lambda: [p for p in peer.packets if p[0] >> 4 == 3] == [], 0.5, 0.05, "once")


@pytest.mark.parametrize("filter_, topic, catches", [
    ("sport/tennis/player1/#", "sport/tennis/player1", True), ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/#", "sport", True), ("#", "a/b", True), ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False), ("sport/+", "sport", False), ("sport/+", "sport/", True),
    ("+/+", "/finance", True), ("/+", "/finance", True), ("+", "/finance", False), ("+/tennis/#", "a/tennis/b/c", True),
    ("a", "A", False), ("a/b", "a/b/", False)])
def test_wildcards(platform, api, product, peer, filter_, topic, catches):
    """4.7.1, 4.7.3: the standard's examples."""
    peer.wire.send(packet(0x82, b"\0\1" + text(filter_) + b"\0" + b"" + text("wild/end") + b"\0"))
    peer.take(0x90)
    with platform.connect(api.new_device(product["product_id"])) as other:
        other.publish_acked(topic, b"x")
        other.publish_acked("wild/end", b"end")
    wait_until(lambda: any(b.endswith(b"end") for f, b in peer.packets if f >> 4 == 3))
    got = [b for f, b in peer.packets if f >> 4 == 3 and b == text(topic) + b"x"]
    assert len(got) == (1 if catches else 0)


def test_dollar_topics_are_not_caught_by_wildcards(api, peer):
    """MQTT-4.7.2-1."""
    peer.wire.send(packet(0x82, b"\0\1" + text("#") + b"\1" + text("+/devices/#") + b"\1"))
    peer.take(0x90)
    peer.wire.send(publish_packet(up(peer), b"x", 1, 1))
    peer.take(0x40)
    stays(lambda: peer.packets == [], 0.5, 0.05, "nothing")


def test_after_disconnect_nothing_counts(api, peer):
    """MQTT-3.14.4-2: the server closes; what comes behind is not taken."""
    peer.wire.send(b"\xe0\0" + publish_packet(up(peer), b"x", 1, 1))
    peer.closed()
    assert peer.packets == []
    wait_until(lambda: api.device(peer.id)["status"] == "OFFLINE")
    assert api.history(peer.id) == []


def test_a_second_connection_takes_over(platform, device, peer):
    """MQTT-3.1.4-2, by the device, not the client id."""
    other = Peer(platform)
    other.wire.send(login(device))
    assert other.take(0x20) == b"\0\0"
    peer.closed()
    other.wire.close()


def test_a_client_may_not_wait_for_connack(platform, api, device):
    """3.1.4: what comes behind CONNECT is taken once it is let in."""
    made = Peer(platform)
    made.id = device["device_id"]
    made.wire.send(login(device) + publish_packet(up(made), b"at once", 1, 7))
    assert made.take(0x20) == b"\0\0" and made.take(0x40) == b"\0\7"
    made.wire.close()


# ---- bytes in every division

def script(device):
    peer = type("P", (), {"id": device["device_id"]})
    return login(device) + packet(0x82, b"\0\1" + text("a/b") + b"\1") + publish_packet(up(peer), b"in pieces", 1, 2) + b"\xc0\0"


ANSWERS = [(0x20, b"\0\0"), (0x90, b"\0\1\1"), (0x40, b"\0\2"), (0xd0, b"")]


def in_order(packets):
    """PUBACK waits for the log, the rest does not: order within each kind is what counts."""
    return sorted(packets)


def test_one_byte_at_a_time(platform, device):
    made = Peer(platform)
    for byte in script(device):
        made.wire.send(bytes([byte]))
    wait_until(lambda: len(made.packets) == len(ANSWERS))
    assert in_order(made.packets) == in_order(ANSWERS)
    made.wire.close()


def test_split_at_every_offset(platform, device):
    data = script(device)
    for at in range(1, len(data), 3):
        made = Peer(platform)
        made.wire.send(data[:at])
        made.wire.send(data[at:])
        wait_until(lambda: len(made.packets) == len(ANSWERS), 10, 0.002, f"all answers, split at {at}")
        assert in_order(made.packets) == in_order(ANSWERS), at
        made.wire.close()


# ---- what is done otherwise, by intent

DEVIATIONS = [
    ("4.3.3: a PUBLISH of QoS 2 ends the connection", packet(0x34, text("a") + b"\0\1"), None),
    ("4.3.3: PUBREL of nothing is not answered, it ends the connection", packet(0x62, b"\0\1"), None)]


@pytest.mark.parametrize("statement, data, answer", DEVIATIONS, ids=[d[0] for d in DEVIATIONS])
def test_qos_2_is_not_offered(peer, statement, data, answer):
    peer.wire.send(data)
    peer.closed()
    assert peer.packets == []


def test_a_retained_publish_is_one_that_is_not(platform, api, product, peer):
    """3.3.1-5 is not followed: nothing is kept; 3.3.1-9 is: the flag is not set on the way to a subscriber."""
    topic = unique("plant/")
    peer.wire.send(packet(0x82, b"\0\1" + text(topic) + b"\0"))
    peer.take(0x90)
    peer.wire.send(publish_packet(topic, b"kept?", 1, 1, retain=True))
    assert peer.take(0x30) == text(topic) + b"kept?"
    with platform.connect(api.new_device(product["product_id"])) as late:
        late.subscribe(topic)
        stays(lambda: late.received == [], 0.5, 0.05, "nothing was kept")


def test_a_will_is_not_published(platform, api, product, device):
    """3.1.2-8 is not followed."""
    topic = unique("plant/")
    with platform.connect(api.new_device(product["product_id"])) as other:
        other.subscribe(topic)
        made = Peer(platform)
        made.wire.send(login(device, will=(topic, "gone")))
        assert made.take(0x20) == b"\0\0"
        made.wire.drop()
        wait_until(lambda: api.device(device["device_id"])["status"] == "OFFLINE")
        stays(lambda: other.received == [], 0.5, 0.05, "no will")


def test_keep_alive_0_is_refused(platform, device):
    """3.1.2.10 lets a client switch it off; here 30 to 1200 s are let in."""
    made = Peer(platform)
    made.wire.send(login(device, keep_alive=0))
    assert made.take(0x20) == b"\0\2"
    made.closed()


def test_an_empty_client_id_is_refused(platform, device):
    """MQTT-3.1.3-6 lets a server assign one; 3.1.3-8: then CONNACK 2."""
    made = Peer(platform)
    made.wire.send(connect_packet("", device["device_id"], "x"))
    assert made.take(0x20) == b"\0\2"
    made.closed()

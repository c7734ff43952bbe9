"""What devices say to each other: topics outside $oc and $oc/m2m, and what applications say to all of them."""
import base64

import pytest

from rest import unique
from waiting import stays, wait_until


@pytest.fixture
def pair(platform, api, product):
    """Two connected devices."""
    peers = [platform.connect(api.new_device(product["product_id"])) for _ in range(2)]
    yield peers
    for peer in peers:
        peer.disconnect()


def payloads(peer, topic):
    return [m.payload for m in peer.received if m.topic == topic]


def test_a_topic_of_their_own(api, pair):
    one, two = pair
    topic = f"{unique('plant')}/line7/temperature"
    assert two.subscribe(topic) == 1 and one.subscribe(topic) == 1
    one.publish_acked(topic, b"\x00\xff raw")
    got = two.wait_for(topic)[0]
    assert got.payload == b"\x00\xff raw" and got.qos == 1 and not got.retain
    assert one.wait_for(topic)[0].payload == b"\x00\xff raw", "the publisher too"
    assert wait_until(lambda: api.history(one.id))[0]["topic"] == topic, "and it is a message to the platform"


def test_once_whatever_filters_match(pair):
    one, two = pair
    level = unique("plant")
    for name in (f"{level}/#", f"{level}/+", f"{level}/a", "#", f"+/a"):
        two.subscribe(name, 0 if name == "#" else 1)
    one.publish_acked(f"{level}/a", b"x")
    assert two.wait_for(f"{level}/a")[0].qos == 1
    stays(lambda: len(payloads(two, f"{level}/a")) == 1, 0.5, 0.05, "once")
    two.wire.send(b"\xa2" + bytes([4 + len(f"{level}/a")]) + b"\x00\x09" + len(f"{level}/a").to_bytes(2, "big")
                  + f"{level}/a".encode())
    one.publish_acked(f"{level}/b", b"y")
    assert payloads(two, f"{level}/b") == [b"y"] or two.wait_for(f"{level}/b")


def test_what_was_unsubscribed_does_not_come(pair):
    one, two = pair
    level = unique("plant")
    two.subscribe(f"{level}/a")
    two.subscribe(f"{level}/b")
    name = f"{level}/a".encode()
    two.wire.send(bytes([0xa2, 4 + len(name)]) + b"\x00\x09" + len(name).to_bytes(2, "big") + name)
    two.ping()
    one.publish_acked(f"{level}/a", b"gone")
    one.publish_acked(f"{level}/b", b"here")
    two.wait_for(f"{level}/b")
    assert two.on(f"{level}/a") == []


def test_the_lower_qos_counts(pair):
    one, two = pair
    level = unique("plant")
    two.subscribe(f"{level}/low", 0)
    two.subscribe(f"{level}/high", 1)
    one.publish_acked(f"{level}/low", b"x")
    one.publish(f"{level}/high", b"x", qos=0)
    assert two.wait_for(f"{level}/low")[0].qos == 0 and two.wait_for(f"{level}/high")[0].qos == 0


def test_the_order_of_a_sender_holds(pair):
    one, two = pair
    topic = f"{unique('plant')}/n"
    two.subscribe(topic)
    for n in range(50):
        one.publish(topic, str(n))
    two.wait_for(topic, 50)
    assert payloads(two, topic) == [str(n).encode() for n in range(50)]


def test_odd_first_levels(pair):
    one, two = pair
    for level in ("", "a.b", "a b", "*", ">", "水", "=5f", "x" * 120):
        topic = f"{level}/{unique('t')}"[:127]
        assert two.subscribe(topic) == 1, topic
        one.publish_acked(topic, b"x")
        two.wait_for(topic)


def test_other_spaces_hear_nothing(platform, api, product):
    space = api.post("/apps", {"app_name": unique("space")})["app_id"]
    elsewhere = api.new_device(api.new_product(app_id=space)["product_id"], app_id=space)
    topic = f"{unique('plant')}/x"
    with platform.connect(elsewhere) as stranger, platform.connect(api.new_device(product["product_id"])) as one:
        stranger.subscribe(topic)
        one.subscribe(topic)
        one.publish_acked(topic, b"x")
        one.wait_for(topic)
        stays(lambda: stranger.received == [], 0.5, 0.05, "not in another space")


def test_m2m(pair):
    one, two = pair
    assert two.subscribe(f"$oc/m2m/to/{two.id}/#") == 1
    topic = f"$oc/m2m/to/{two.id}/from/{one.id}/request_id=1"
    one.publish_acked(topic, {"request_id": "1", "to": two.id, "from": one.id, "content": "hi"})
    assert two.wait_for(topic)[0].json["content"] == "hi"
    assert one.subscribe(f"$oc/m2m/to/{two.id}/#") == 128, "what is for another device"


@pytest.mark.parametrize("topic, code", [
    ("$oc/m2m/to/x/from/somebody/request_id=1", "topic_m2m"), ("$oc/m2m/to/x", "topic_m2m"),
    ("$oc/broadcast/news", "topic_broadcast"), ("$SYS/x", "topic_not_offered")])
def test_what_a_device_may_not_publish(api, connected, topic, code):
    connected.publish_acked(topic, b"x")
    assert wait_until(lambda: api.why(connected.id)["failures"].get("topic"))["code"] == code
    assert connected.connected


def test_own_publishes_below_oc_do_not_come_back(connected):
    connected.subscribe(connected.topic("#"))
    connected.subscribe(connected.topic("commands/#"))
    connected.report("Pump", {"flow": 1})
    connected.publish_acked(connected.topic("commands/response/request_id=r"), {})
    stays(lambda: connected.received == [], 0.5, 0.05, "nothing comes back")


# ---- broadcasts

def broadcast(api, topic, payload, **more):
    return api.post("/broadcast-messages", {"topic_full_name": topic, "message": base64.b64encode(payload).decode(),
                                            **more})


def test_a_broadcast(api, product, pair):
    one, two = pair
    topic = f"$oc/broadcast/{unique('news')}"
    one.subscribe(topic)
    two.subscribe("$oc/broadcast/#")
    got = broadcast(api, topic, b"\x00hello", message_id="b-1", app_id=product["app_id"])
    assert got["message_id"] == "b-1" and got["app_id"] == product["app_id"] and len(got["created_time"]) == 16
    assert got["topic_full_name"] == topic
    assert one.wait_for(topic)[0].payload == b"\x00hello" == two.wait_for(topic)[0].payload


@pytest.mark.parametrize("change, status, code", [
    ({"topic_full_name": "news"}, 400, "IOTDA.000006"), ({"topic_full_name": "$oc/broadcast/"}, 400, "IOTDA.000006"),
    ({"topic_full_name": "$oc/broadcast/#"}, 400, "IOTDA.000006"), ({"message": "no base64!"}, 400, "IOTDA.000006"),
    ({"ttl": 3}, 400, "IOTDA.000006"), ({"ttl": 5}, 501, "IOTDA.000904"), ({"app_id": "nowhere"}, 403, "IOTDA.001000")])
def test_broadcasts_that_are_none(api, change, status, code):
    api.refused(status, code, "POST", "/broadcast-messages",
                {"topic_full_name": "$oc/broadcast/x", "message": "eA==", **change})


# ---- several instances

@pytest.mark.long
def test_across_instances(own_platform):
    platform = own_platform(instances="mqtt-gateway=2")
    api, product = platform.api, platform.api.new_product()["product_id"]
    peers = []
    for _ in range(40):  # the kernel chooses the instance
        peers.append(platform.connect(api.new_device(product)))
        if len(peers) > 5 and all(platform.sessions(n) > 1 for n in (1, 2)):
            break
    topic = f"{unique('plant')}/x"
    for n, peer in enumerate(peers):
        peer.subscribe(topic if n % 2 else "#")
    for n, peer in enumerate(peers):
        peer.publish_acked(topic, str(n))
    for peer in peers:
        peer.wait_for(topic, len(peers))
        assert sorted(payloads(peer, topic)) == sorted(str(n).encode() for n in range(len(peers))), "each once"
        peer.disconnect()

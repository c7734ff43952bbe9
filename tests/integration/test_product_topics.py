"""Custom topics of products (docs/protocol/custom-topics.md): what devices may say and hear below user/, and that a refusal
names the nearest topic that is defined."""
import concurrent.futures
import time

import pytest

from mqtt5 import Peer
from rest import unique
from waiting import wait_until


class Pump:
    """A product of its own, and devices of it."""

    def __init__(self, platform):
        self.platform, self.api = platform, platform.api
        self.id = self.api.new_product()["product_id"]

    def device(self, **more):
        return self.api.new_device(self.id, **more)

    def peer(self, device=None):
        return Peer(self.platform, device or self.device())

    def define(self, topic, rights="BOTH", **more):
        return self.api.post(f"/products/{self.id}/topics", {"topic": topic, "rights": rights, **more})

    def topics(self):
        return self.api.get(f"/products/{self.id}/topics")["topics"]

    def forget(self, topic):
        self.api.delete(f"/products/{self.id}/topics/{topic['topic_id']}")


@pytest.fixture
def pump(platform):
    return Pump(platform)


@pytest.fixture
def peer(pump):
    made = pump.peer()
    yield made
    made.close()


def own(peer, name):
    return f"$oc/devices/{peer.id}/user/{name}"


def may_publish(peer, name):
    peer.publish(own(peer, name), b"x")
    code = peer.take(4)[2][2:3]
    assert code in (b"", b"\0", b"\x87"), code
    return code != b"\x87"


def may_subscribe(peer, name):
    code = peer.subscribe(own(peer, name))[-1]
    assert code in (1, 0x87)
    return code == 1


def until(wanted, question, *args):
    began = time.monotonic()
    wait_until(lambda: question(*args) == wanted, 5, 0.01, f"{args}: {wanted}")
    return time.monotonic() - began


def hears(peer):
    """The custom topic of the next message, which is acknowledged."""
    topic, _, packet_id, _, _ = peer.message()
    peer.puback(packet_id)
    return topic.removeprefix(own(peer, ""))


def becomes(pump, peer, message, status):
    path = f"/devices/{peer.id}/messages/{message}"
    return wait_until(lambda: next((m for m in [pump.api.get(path)] if m["status"] == status), None), 15, 0.05, status)


def test_a_product_that_defines_none_lets_devices_use_all(pump, peer):
    assert pump.topics() == []
    assert may_publish(peer, "any/thing") and may_subscribe(peer, "any/thing") and may_subscribe(peer, "#")


def test_topics_are_made_listed_and_deleted(pump):
    made = pump.define("valve/state", "PUBLISH", description="open or not")
    assert made["topic_full_name"] == "$oc/devices/{device_id}/user/valve/state" and len(made["create_time"]) == 16
    second = pump.define("alarm", "SUBSCRIBE")
    assert "description" not in second or second["description"] is None
    assert [t["topic"] for t in pump.topics()] == ["alarm", "valve/state"] and pump.topics()[1] == made
    path = f"/products/{pump.id}/topics"
    assert made["topic_id"] in pump.api.refused(400, "IOTDA.013913", "POST", path, {"topic": "valve/state", "rights": "BOTH"})
    pump.forget(made)
    assert pump.topics() == [second]
    pump.api.refused(404, "IOTDA.013911", "DELETE", f"{path}/{made['topic_id']}")
    pump.api.refused(404, "IOTDA.013900", "GET", "/products/none/topics")
    pump.api.refused(403, "IOTDA.001000", "POST", path, {"topic": "x", "rights": "BOTH", "app_id": "none"})


@pytest.mark.parametrize("topic, code", [
    ("/a", "IOTDA.013912"), ("a//b", "IOTDA.013912"), ("a-b", "IOTDA.000006"), ("a/+", "IOTDA.000006"), ("a b", "IOTDA.000006"),
    ("", "IOTDA.000006"), ("x" * 65, "IOTDA.000006"), ("$oc/devices/{device_id}/user/a", "IOTDA.000006"), ("é", "IOTDA.000006")])
def test_names_that_are_none(pump, topic, code):
    said = pump.api.refused(400, code, "POST", f"/products/{pump.id}/topics", {"topic": topic, "rights": "BOTH"})
    assert "topic" in said


def test_names_as_long_as_they_may_be(pump, peer):
    longest = "a/" * 31 + "zz"
    pump.define(longest)
    assert until(True, may_publish, peer, longest) < 1 and until(False, may_publish, peer, longest[:-1]) < 1


# Each row: right; may it be published to, and subscribed.
@pytest.mark.parametrize("rights, publish, subscribe", [
    ("PUBLISH", True, False), ("SUBSCRIBE", False, True), ("BOTH", True, True)])
def test_rights(pump, peer, rights, publish, subscribe):
    pump.define("valve/state", rights)
    assert until(False, may_publish, peer, "other") < 1
    assert may_publish(peer, "valve/state") == publish and may_subscribe(peer, "valve/state") == subscribe
    assert may_subscribe(peer, "valve/+") == subscribe and may_subscribe(peer, "#") == subscribe
    assert not may_subscribe(peer, "other") and not may_subscribe(peer, "other/#")
    peer.publish(peer.topic("messages/up"), b"x")
    assert peer.take(4)[2][2:3] in (b"", b"\0"), "other topics are no concern of it"


def test_it_follows_each_change_within_a_second(pump, peer):
    assert may_publish(peer, "a")
    for _ in range(5):
        b = pump.define("b")
        assert until(False, may_publish, peer, "a") < 1
        a = pump.define("a")
        assert until(True, may_publish, peer, "a") < 1
        pump.forget(a)
        assert until(False, may_publish, peer, "a") < 1
        pump.forget(b)
        assert until(True, may_publish, peer, "a") < 1, "none is defined any more"


def test_it_holds_from_the_first_publish_of_a_login_on(pump):
    pump.define("a")
    peer = pump.peer()
    assert not may_publish(peer, "b") and may_publish(peer, "a")
    peer.close()
    other = Pump(pump.platform)
    peer = other.peer()
    assert may_publish(peer, "b"), "another product's devices"
    peer.close()


def test_a_refusal_names_the_nearest_topic(pump):
    pump.define("valve/state")
    pump.define("alarm", "SUBSCRIBE")
    device = pump.device()
    why = lambda: pump.api.why(device["device_id"])["failures"].get("topic", {})  # noqa: E731

    def told(code, sample):
        return wait_until(lambda: why().get("code") == code and why().get("sample") == sample and why(), 10, 0.05, sample)
    with pump.platform.connect(device) as peer:  # 3.1.1: acknowledged and dropped
        peer.publish_acked(own(peer, "valve/sate"), b"x")
        said = told("topic_not_defined", own(peer, "valve/sate"))
        assert f"Publish to {own(peer, 'valve/state')}, or define it" in said["next_step"]
        assert f"/products/{pump.id}/topics" in said["next_step"]
        peer.publish_acked(own(peer, "alarm"), b"x")
        said = told("topic_right", own(peer, "alarm"))
        assert "receive this custom topic only" in said["reason"] and own(peer, "valve/state") in said["next_step"]
        assert peer.subscribe(own(peer, "alarms")) == 0x80
        said = told("topic_not_defined", own(peer, "alarms"))
        assert f"Subscribe {own(peer, 'alarm')}, or define it" in said["next_step"]
        assert peer.connected
    assert pump.api.history(device["device_id"]) == [], "nothing of it reached the platform"


def test_messages_of_applications(pump, peer):
    def send(**topic):
        return pump.api.post(f"/devices/{peer.id}/messages", {"message": "x", **topic})["message_id"]
    assert may_subscribe(peer, "#")
    made = send(topic="any")
    assert hears(peer) == "any" and becomes(pump, peer, made, "DELIVERED")
    pump.define("down", "SUBSCRIBE")
    pump.define("up", "PUBLISH")
    until(False, may_publish, peer, "other")
    for name in "up", "other":
        text = pump.api.refused(400, "IOTDA.014916", "POST", f"/devices/{peer.id}/messages", {"topic": name, "message": "x"})
        assert f'"{name}"' in text
        failed = becomes(pump, peer, send(topic_full_name=own(peer, name)), "FAILED")  # nobody looks before it goes
        assert failed["error_info"]["error_code"] == "IOTDA.014112"
    made = send(topic="down")
    assert hears(peer) == "down", "what was subscribed before lets in only what is defined"
    becomes(pump, peer, made, "DELIVERED")


def test_a_message_to_a_child_goes_by_the_product_of_its_gateway(pump, peer):
    child = Pump(pump.platform)
    child.define("of_child")
    pump.define("of_gateway")
    device = pump.api.new_device(child.id, gateway_id=peer.id)["device_id"]
    until(True, may_subscribe, peer, "of_gateway")
    pump.api.refused(400, "IOTDA.014916", "POST", f"/devices/{device}/messages", {"topic": "of_child", "message": "x"})
    pump.api.post(f"/devices/{device}/messages", {"topic": "of_gateway", "message": "x"})
    assert hears(peer) == "of_gateway"


def test_fifty_for_a_product_even_at_once(pump):
    def define(i):
        return pump.api.call("POST", f"/products/{pump.id}/topics", {"topic": f"t{i}", "rights": "BOTH"})
    with concurrent.futures.ThreadPoolExecutor(8) as many:
        got = list(many.map(define, range(58)))
    assert sorted(a.status for a in got) == [201] * 50 + [403] * 8
    assert {a.code for a in got if a.status == 403} == {"IOTDA.013914"} and len(pump.topics()) == 50
    taken = pump.topics()[0]["topic"]
    pump.api.refused(400, "IOTDA.013913", "POST", f"/products/{pump.id}/topics", {"topic": taken, "rights": "BOTH"})
    pump.forget(pump.topics()[0])
    pump.define("one_more")


def test_they_go_with_their_product(pump):
    pump.define("a")
    pump.api.delete(f"/products/{pump.id}")
    pump.api.refused(404, "IOTDA.013900", "GET", f"/products/{pump.id}/topics")


def test_the_same_product_id_in_two_spaces(platform):
    api, product = platform.api, unique("pump")
    spaces = [api.post("/apps", {"app_name": unique("space")})["app_id"] for _ in range(2)]
    for app in spaces:
        api.new_product(product_id=product, app_id=app)
        api.post(f"/products/{product}/topics", {"topic": f"of_{app}", "rights": "BOTH", "app_id": app})
    peers = [Peer(platform, api.new_device(product, app_id=app)) for app in spaces]
    for peer, app, other in zip(peers, spaces, spaces[::-1]):
        assert may_publish(peer, f"of_{app}") and not may_publish(peer, f"of_{other}")
        assert [t["topic"] for t in api.get(f"/products/{product}/topics", app_id=app)["topics"]] == [f"of_{app}"]
        peer.close()


@pytest.mark.long
def test_strict_takes_defined_topics_only(own_platform):
    pump = Pump(own_platform(CAUSEWAY_STRICT="1"))
    peer = pump.peer()
    assert not may_publish(peer, "a") and not may_subscribe(peer, "a")
    pump.api.refused(400, "IOTDA.014916", "POST", f"/devices/{peer.id}/messages", {"topic": "a", "message": "x"})
    pump.define("a")
    assert until(True, may_publish, peer, "a") < 1 and may_subscribe(peer, "a") and not may_publish(peer, "b")
    peer.close()


@pytest.mark.long
def test_every_gateway_follows_within_a_second(own_platform):
    platform = own_platform(instances="mqtt-gateway=2")
    pump, peers = Pump(platform), []
    for _ in range(40):  # the kernel chooses the instance
        peers.append(pump.peer())
        if len(peers) > 5 and all(platform.sessions(n) > 1 for n in (1, 2)):
            break
    for _ in range(5):
        made = pump.define("only")
        assert max(until(False, may_publish, p, "a") for p in peers) < 1
        pump.forget(made)
        assert max(until(True, may_publish, p, "a") for p in peers) < 1
    for p in peers:
        p.close()


@pytest.mark.long
def test_who_was_killed_knows_them_again(own_platform):
    pump = Pump(own_platform())
    device = pump.device()
    pump.define("yes")
    for daemon in "mqtt-gateway", "device-registry", "nats-server":
        pump.platform.kill(daemon)
        assert wait_until(lambda: _said(pump, device), 30, 0.1, f"answers after {daemon}") == [True, False]


@pytest.mark.long
def test_what_changes_while_nats_is_away_holds_afterwards(own_platform):
    pump = Pump(own_platform())
    peer = pump.peer()
    assert may_publish(peer, "a")
    pump.platform.kill("nats-server")
    wait_until(lambda: pump.api.call("POST", f"/products/{pump.id}/topics", {"topic": "b", "rights": "BOTH"}).status
               in (201, 400), 30, 0.1, "it is defined")
    wait_until(lambda: _said(pump, pump.device(), "b", "a"), 30, 0.1, "devices get in")
    wait_until(lambda: not may_publish(peer, "a"), 30, 0.1, "connections that were open know it, too")
    peer.close()


def _said(pump, device, *names):
    """Which of them may be published to, by a connection of their own; None while that does not work."""
    try:
        peer = pump.peer(device)
    except (AssertionError, OSError):
        return None
    try:
        return [may_publish(peer, n) for n in names or ("yes", "no")]
    except (AssertionError, OSError):
        return None
    finally:
        peer.close()

"""Device policies (docs/protocol/device-policies.md): what devices may say and hear outside $oc, and that a refusal
names the policy and what would be right."""
import time

import pytest

from mqtt5 import Peer
from rest import unique
from waiting import wait_until

PUBLISH, SUBSCRIBE = "iotda:devices:publish", "iotda:devices:subscribe"


def statement(effect, *resources, actions=(PUBLISH, SUBSCRIBE)):
    return {"effect": effect, "actions": list(actions), "resources": [f"topic:{r}" for r in resources]}


class Space:
    """A resource space of its own, with a product and devices."""

    def __init__(self, platform):
        self.platform, self.api = platform, platform.api
        self.id = self.api.post("/apps", {"app_name": unique("space")})["app_id"]
        self.product = self.api.new_product(app_id=self.id)["product_id"]
        self.first = self.api.get("/device-policies", app_id=self.id)["policies"][0]["policy_id"]

    def device(self):
        return self.api.new_device(self.product, app_id=self.id)

    def policy(self, *statements, name="limits"):
        return self.api.post("/device-policies", {"policy_name": name, "app_id": self.id,
                                                  "statement": list(statements)})["policy_id"]

    def bind(self, policy, kind, *ids, verb="bind"):
        got = self.api.post(f"/device-policies/{policy}/{verb}", {"target_type": kind, "target_ids": list(ids)},
                            status=200)
        assert got["policy_id"] == policy and got["target_type"] == kind
        return got

    def bound(self, kind, target, *statements, name="limits"):
        policy = self.policy(*statements, name=name)
        assert self.bind(policy, kind, target)["success_targets"] == [target]
        return policy


@pytest.fixture
def space(platform):
    return Space(platform)


@pytest.fixture
def peer(space):
    made = Peer(space.platform, space.device())
    yield made
    made.close()


def may_publish(peer, topic):
    peer.publish(topic, b"x")
    body = peer.take(4)[2]
    assert body[2:3] in (b"", b"\0", b"\x87"), body
    return body[2:3] != b"\x87"


def may_subscribe(peer, filter):
    code = peer.subscribe(filter)[-1]
    assert code in (1, 0x87)
    return code == 1


def until_refused(question, *args):
    began = time.monotonic()
    wait_until(lambda: not question(*args), 5, 0.01, f"{args} is refused")
    return time.monotonic() - began


def test_a_new_space_allows_everything(space, peer):
    shown = space.api.get(f"/device-policies/{space.first}")
    assert shown["policy_name"] == "system_default_policy" and shown["app_id"] == space.id
    assert shown["statement"] == [{"effect": "ALLOW", "actions": [PUBLISH, SUBSCRIBE], "resources": ["topic:*"]}]
    targets = space.api.post(f"/device-policies/{space.first}/list-targets", {}, status=200)
    assert targets == {"targets": [{"target_type": "app", "target_id": space.id}],
                       "page": {"count": 1, "marker": targets["page"]["marker"]}}
    assert may_publish(peer, "any/thing") and may_subscribe(peer, "#")


def test_a_policy_is_made_shown_changed_and_deleted(space):
    api = space.api
    made = api.post("/device-policies", {"policy_name": "one", "app_id": space.id,
                                         "statement": [statement("DENY", "a/*")]})
    assert made == api.get(f"/device-policies/{made['policy_id']}")
    assert made["create_time"] == made["update_time"] and len(made["create_time"]) == 16
    changed = api.put(f"/device-policies/{made['policy_id']}", {"policy_name": "two"})
    assert changed["policy_name"] == "two" and changed["statement"] == made["statement"]
    listed = api.get("/device-policies", app_id=space.id)
    assert [p["policy_name"] for p in listed["policies"]] == ["two", "system_default_policy"]
    assert "statement" not in listed["policies"][0] and listed["page"]["count"] == 2
    assert api.get("/device-policies", app_id=space.id, policy_name="two")["page"]["count"] == 1
    api.delete(f"/device-policies/{made['policy_id']}")
    api.refused(404, "IOTDA.035900", "GET", f"/device-policies/{made['policy_id']}")


@pytest.mark.parametrize("resource, said", [
    ("topics:a/b", "topic:"), ("a/b/c/d", "topic:"), ("topic:$oc/devices/x/sys/messages/up", "below $oc"),
    ("topic:a/${devices.device_id}", "${devices.deviceId}"), ("topic:a/${", "${devices.deviceId}"),
    ("topic:" + "${devices.deviceId", "${devices.deviceId}")])
def test_resources_that_are_none(space, resource, said):
    good = statement("ALLOW", "fine")
    bad = {"effect": "DENY", "actions": [PUBLISH], "resources": ["topic:fine", resource]}
    text = space.api.refused(400, "IOTDA.035901", "POST", "/device-policies",
                             {"policy_name": "bad", "statement": [good, bad]})
    assert "statement[1].resources[1]" in text and said in text


def test_statements_of_more_than_10_kb(space):
    many = [{"effect": "DENY", "actions": [PUBLISH], "resources": ["topic:" + "x" * 240] * 10}] * 5
    assert "10 KB" in space.api.refused(400, "IOTDA.035901", "POST", "/device-policies",
                                        {"policy_name": "bad", "statement": many})


# Each row: statements of a policy that is bound to the product of a device, beside the open one of the space or in its
# place; then topics that may be published to, and some that may not. D, P: device and product id.
MATRIX = [
    ("denied wins", True, [("DENY", "secret/*")], ["secret", "secrets/x", "a"], ["secret/", "secret/a", "secret/a/b"]),
    ("one character", True, [("DENY", "a?c")], ["ac", "abbc"], ["abc", "a/c", "a水c"]),
    ("+ and # mean themselves", True, [("DENY", "a/+/c"), ("DENY", "b/#")], ["a/b/c", "b/c"], []),
    ("only what is allowed", False, [("ALLOW", "plant/*")], ["plant/", "plant/a/b"], ["plant", "other", "x/plant/a"]),
    ("the device's id", False, [("ALLOW", "of/${devices.deviceId}/*")], ["of/D/x"], ["of/E/x", "of/D"]),
    ("the product's id", False, [("ALLOW", "${devices.productId}")], ["P"], ["D", "P/x"]),
    ("both in one", False, [("ALLOW", "${devices.productId}/${devices.deviceId}")], ["P/D"], ["D/P"]),
    ("deny what is allowed", False, [("ALLOW", "*"), ("DENY", "*secret*")], ["a/b"], ["a/secret/b", "secret", "xsecret"]),
    ("stars between", False, [("ALLOW", "a*b*c")], ["abc", "a1b2c", "abcbc"], ["acb", "abcd"]),
    ("several resources", False, [("ALLOW", "a", "b", "c/*")], ["a", "b", "c/d"], ["d", "ab"]),
]


@pytest.mark.parametrize("beside, statements, fine, refused", [row[1:] for row in MATRIX], ids=[row[0] for row in MATRIX])
def test_topics_against_statements(space, peer, beside, statements, fine, refused):
    if not beside:
        space.bind(space.first, "app", space.id, verb="unbind")
    space.bound("product", space.product, *[statement(e, *r) for e, *r in statements],
                statement("DENY", "it/has/arrived"))
    until_refused(may_publish, peer, "it/has/arrived")

    def spell(topic):
        return topic.replace("D", peer.id).replace("P", space.product).replace("E", "other")
    for question in may_publish, may_subscribe:
        assert [t for t in fine if not question(peer, spell(t))] == []
        assert [t for t in refused if question(peer, spell(t))] == []
    peer.publish(peer.topic("messages/up"), b"x")
    assert peer.take(4)[2][2:3] in (b"", b"\0"), "what is below $oc is no concern of policies"


@pytest.mark.parametrize("kind", ["device", "product", "app"])
def test_what_a_policy_is_bound_to(space, peer, kind):
    target = {"device": peer.id, "product": space.product, "app": space.id}[kind]
    other = Peer(space.platform, space.device())
    policy = space.bound(kind, target, statement("DENY", "no/*"))
    until_refused(may_publish, peer, "no/a")
    assert may_publish(other, "no/a") == (kind == "device")
    assert space.api.post(f"/device-policies/{policy}/list-targets", {"target_type": kind}, status=200)["targets"] == [
        {"target_type": kind, "target_id": target}]
    assert space.bind(policy, kind, target, verb="unbind")["success_targets"] == [target]
    wait_until(lambda: may_publish(peer, "no/a"), 5, 0.01, "allowed again")
    space.bind(policy, kind, target)
    until_refused(may_publish, peer, "no/a")
    space.api.delete(f"/device-policies/{policy}")
    wait_until(lambda: may_publish(peer, "no/a"), 5, 0.01, "allowed again")
    other.close()


def test_it_holds_at_the_next_login_too(space):
    device = space.device()
    space.bound("device", device["device_id"], statement("DENY", "no/*"))
    for _ in range(3):
        peer = Peer(space.platform, device)
        assert until_refused(may_publish, peer, "no/a") < 1 and may_publish(peer, "yes")
        peer.close()
    peer = Peer(space.platform, device)
    assert not may_publish(peer, "no/a"), "from the first publish on"
    peer.close()


def test_publish_and_subscribe_apart(space, peer):
    space.bound("app", space.id, statement("DENY", "up/*", actions=[SUBSCRIBE]),
                statement("DENY", "down/*", actions=[PUBLISH]))
    until_refused(may_publish, peer, "down/a")
    assert may_publish(peer, "up/a") and not may_subscribe(peer, "up/a") and may_subscribe(peer, "down/a")


def test_a_denial_is_explained(space):
    device = space.device()
    why = lambda: space.api.why(device["device_id"])["failures"].get("topic", {})  # noqa: E731
    space.bind(space.first, "app", space.id, verb="unbind")
    space.bound("app", space.id, statement("ALLOW", "plant/${devices.deviceId}/*", "other"), name="own_topics")
    space.bound("product", space.product, statement("DENY", "plant/*/secret"), name="no_secrets")
    probe = Peer(space.platform, space.device())
    until_refused(may_publish, probe, "plant/x/secret")
    probe.close()
    with space.platform.connect(device) as peer:  # 3.1.1: acknowledged and dropped
        allowed = f"topic:plant/{peer.id}/*"
        peer.publish_acked(f"plant/{peer.id}/secret", b"x")
        told = wait_until(lambda: why().get("code") == "topic_policy" and why())
        assert told["reason"] == 'Policy "no_secrets" denies the device to publish to topic:plant/*/secret.'
        assert allowed in told["next_step"] and told["sample"] == f"plant/{peer.id}/secret"
        peer.publish_acked("plant/another/state", b"x")
        told = wait_until(lambda: why().get("sample") == "plant/another/state" and why())
        assert "None of the policies" in told["reason"] and allowed in told["next_step"]
        assert peer.subscribe(f"plant/{peer.id}/secret") == 0x80
        told = wait_until(lambda: why().get("code") == "subscribe_policy" and why())
        assert '"no_secrets"' in told["reason"] and told["sample"] == f"plant/{peer.id}/secret"
        assert peer.connected
    assert space.api.history(device["device_id"]) == [], "nothing of it reached the platform"


def test_what_was_subscribed_before_comes_no_more(space, peer):
    two = Peer(space.platform, space.device())
    assert may_subscribe(two, "talk/a") and may_subscribe(two, "#")
    assert may_publish(peer, "talk/a") and two.message()[0] == "talk/a"
    policy = space.bound("device", two.id, statement("DENY", "talk/*", actions=[SUBSCRIBE]))
    until_refused(may_subscribe, two, "talk/b")
    assert may_publish(peer, "talk/a") and may_publish(peer, "other"), "who speaks is not limited"
    assert two.message()[0] == "other", "not even what a wildcard would catch"
    space.api.delete(f"/device-policies/{policy}")
    wait_until(lambda: may_subscribe(two, "talk/b"), 5, 0.01, "allowed again")
    assert may_publish(peer, "talk/a") and two.message()[0] == "talk/a"
    two.close()


# ---- targets that are none, and limits

@pytest.mark.parametrize("kind, code", [("device", "IOTDA.014000"), ("product", "IOTDA.013900"), ("app", "IOTDA.001000")])
def test_each_target_for_itself(platform, space, kind, code):
    other = Space(platform)
    fine = {"device": space.device()["device_id"], "product": space.product, "app": space.id}[kind]
    elsewhere = {"device": other.device()["device_id"], "product": other.product, "app": other.id}[kind]
    policy = space.policy(statement("DENY", "x"))
    got = space.bind(policy, kind, "nobody", fine, elsewhere, fine)
    assert got["success_targets"] == [fine]
    assert [(f["target_id"], f["error_code"]) for f in got["failure_targets"]] == [("nobody", code), (elsewhere, code)]
    assert space.bind(policy, kind, fine)["success_targets"] == [fine], "a second time does no harm"
    got = space.bind(policy, kind, fine, elsewhere, verb="unbind")
    assert got["success_targets"] == [fine] and got["failure_targets"][0]["error_code"] == "IOTDA.035904"


@pytest.mark.parametrize("kind", ["device", "product"])
def test_five_policies_for_a_target(space, kind):
    target = space.device()["device_id"] if kind == "device" else space.product
    policies = [space.policy(statement("DENY", "x")) for _ in range(6)]
    for p in policies[:5]:
        assert space.bind(p, kind, target)["success_targets"] == [target]
    got = space.bind(policies[5], kind, target)
    assert got["failure_targets"][0]["error_code"] == "IOTDA.035903" and got["success_targets"] == []
    assert space.bind(policies[0], kind, target)["success_targets"] == [target], "it has this one"
    space.bind(policies[0], kind, target, verb="unbind")
    assert space.bind(policies[5], kind, target)["success_targets"] == [target]


def test_targets_go_with_what_they_are(space):
    device = space.device()["device_id"]
    policy = space.policy(statement("DENY", "x"))
    space.bind(policy, "device", device)
    space.api.delete(f"/devices/{device}")
    assert space.api.post(f"/device-policies/{policy}/list-targets", {}, status=200)["page"]["count"] == 0


def test_targets_are_paged(space):
    devices = [space.device()["device_id"] for _ in range(7)]
    policy = space.policy(statement("DENY", "x"))
    space.bind(policy, "device", *devices)
    got, page = [], {}
    while True:
        answer = space.api.post(f"/device-policies/{policy}/list-targets", {"limit": 3, **page}, status=200)
        got += [t["target_id"] for t in answer["targets"]]
        assert answer["page"]["count"] == 7
        if len(answer["targets"]) < 3:
            break
        page = {"marker": answer["page"]["marker"]}
    assert sorted(got) == sorted(devices)


def test_no_more_policies_than_the_setting_says(own_platform):
    space = Space(own_platform(etc={"device-registry": "POLICIES_MAX=2"}))
    for _ in range(2):
        space.policy(statement("DENY", "x"))
    space.api.refused(403, "IOTDA.035902", "POST", "/device-policies",
                      {"policy_name": "third", "statement": [statement("DENY", "x")]})
    Space(space.platform)  # what a space begins with does not count


# ---- several gateways, and what is killed

@pytest.mark.long
def test_every_gateway_follows_within_a_second(own_platform):
    platform = own_platform(instances="mqtt-gateway=2")
    space, peers = Space(platform), []
    for _ in range(40):  # the kernel chooses the instance
        peers.append(Peer(platform, space.device()))
        if len(peers) > 5 and all(platform.sessions(n) > 1 for n in (1, 2)):
            break
    for turn in range(5):
        policy = space.bound("app" if turn % 2 else "product", space.id if turn % 2 else space.product,
                             statement("DENY", "no/*"))
        assert max(until_refused(may_publish, p, "no/a") for p in peers) < 1, "within a second"
        space.api.delete(f"/device-policies/{policy}")
        for p in peers:
            wait_until(lambda: may_publish(p, "no/a"), 5, 0.01, "allowed again")
    for p in peers:
        p.close()


@pytest.mark.long
def test_who_was_killed_knows_them_again(own_platform):
    platform = own_platform()
    space = Space(platform)
    device = space.device()
    space.bound("device", device["device_id"], statement("DENY", "no/*"))
    for daemon in "mqtt-gateway", "device-registry", "nats-server":
        platform.kill(daemon)
        told = wait_until(lambda: _said(platform, device, "yes", "no/a"), 30, 0.1, f"answers after {daemon}")
        assert told == [True, False]


def _said(platform, device, *topics):
    """Which of them may be published to, by a connection of their own; None while that does not work."""
    try:
        peer = Peer(platform, device)
    except (AssertionError, OSError):
        return None
    try:
        return [may_publish(peer, t) for t in topics]
    except (AssertionError, OSError):
        return None
    finally:
        peer.close()

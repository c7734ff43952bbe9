"""Device proxies (docs/protocol/device-proxies.md): gateways whose children come online and report through each other, for
a time; a refusal names the proxy and the time."""
import concurrent.futures

import pytest

from rest import sequence, unique
from test_children import DOWN, MANAGER, say, told
from waiting import wait_until

LONG_AGO, YESTERYEAR, SOME_DAY, LATER = "20200101T000000Z", "20210101T000000Z", "20900101T000000Z", "20910101T000000Z"
NEVER = "99991231T235959Z"
BATCH = "gateway/sub_devices/properties/report"


class Site:
    """Gateways, the children of the first, and a proxy for them."""

    def __init__(self, platform, product_id):
        self.platform, self.api, self.product = platform, platform.api, product_id
        self.peers = []

    def gateway(self, **more):
        return self.api.new_device(self.product, **more)

    def child(self, gateway):
        return self.api.new_device(self.product, gateway_id=gateway["device_id"])

    def connect(self, device):
        self.peers.append(self.platform.connect(device))
        return self.peers[-1]

    def close(self):
        for peer in self.peers:
            if peer.connected:
                peer.disconnect()

    def body(self, *gateways, start=LONG_AGO, end=None, name=None):
        times = {k: v for k, v in (("start_time", start), ("end_time", end)) if v}
        return {"proxy_name": name or unique("hall"), "app_id": self.api.device(gateways[0]["device_id"])["app_id"],
                "proxy_devices": [g["device_id"] for g in gateways], "effective_time_range": times}

    def proxy(self, *gateways, **more):
        return self.api.post("/device-proxies", self.body(*gateways, **more))

    def change(self, proxy, **body):
        return self.api.put(f"/device-proxies/{proxy['proxy_id']}", body)

    def status(self, child):
        return self.api.device(child["device_id"])["status"]

    def until(self, child, status):
        wait_until(lambda: self.status(child) == status, 10, 0.02, f"the child is {status}")


@pytest.fixture
def site(platform, product):
    made = Site(platform, product["product_id"])
    yield made
    made.close()


@pytest.fixture
def pair(site):
    """(own gateway, other gateway, child of the first)"""
    own, other = site.gateway(), site.gateway()
    return own, other, site.child(own)


def report(peer, child, flow, service="Pump", **more):
    peer.publish_acked(peer.topic(BATCH), {"devices": [{"device_id": child["device_id"], "services": [
        {"service_id": service, "properties": more or {"flow": flow}}]}]})


def flow_of(api, child):
    return api.shadow(child["device_id"]).get("Pump", {}).get("reported", {}).get("properties", {}).get("flow")


def state(peer, child, status, event_id):
    """What the platform answers to sub_device_update_status: None, or the refusal."""
    say(peer, "sub_device_update_status", {"device_statuses": [{"device_id": child["device_id"], "status": status}]}, event_id)
    answer = wait_until(lambda: [s for m in peer.on(DOWN) for s in m.json["services"] if s["event_id"] == event_id], 10, 0.01,
                        f"an answer to {event_id}")[0]
    assert answer["service_id"] == MANAGER and answer["event_type"] == "sub_device_update_status_response"
    failed = answer["paras"]["failed_devices"]
    assert len(failed) + len(answer["paras"]["successful_devices"]) == 1
    return failed[0] if failed else None


def refusal(api, peer, count=1):
    return wait_until(lambda: (f := api.why(peer.id)["failures"].get("topic")) and f["count"] >= count and f, 10, 0.02,
                      f"{count} refusals in why")


# ---- what the other gateway may say

def test_a_child_reports_through_another_gateway(site, pair, subscribe):
    own, other, child = pair
    subscription = subscribe("device.property", "report")
    site.proxy(own, other)
    peer = site.connect(other)
    report(peer, child, 7)
    wait_until(lambda: flow_of(site.api, child) == 7)
    data = subscription.wait_for(child["device_id"])[0]["notify_data"]
    assert data["header"]["gateway_id"] == own["device_id"], "the one that it is registered below"
    assert site.api.history(child["device_id"]) and not site.api.history(other["device_id"])
    assert site.api.why(peer.id)["failures"] == {}
    assert site.status(child) == "INACTIVE", "data is not status"


def test_a_child_comes_online_through_another_gateway(site, pair, subscribe):
    own, other, child = pair
    subscription = subscribe("device.status", "update")
    site.proxy(own, other)
    peer = site.connect(other)
    assert state(peer, child, "ONLINE", "e1") is None
    site.until(child, "ONLINE")
    assert subscription.wait_for(child["device_id"])[0]["notify_data"]["body"]["status"] == "ONLINE"
    assert f'Gateway "{peer.id}" says that it is ONLINE.' in [c["text"] for c in site.api.why(child["device_id"])["changes"]]
    assert state(peer, child, "OFFLINE", "e2") is None
    site.until(child, "OFFLINE")


def test_messages_and_questions_of_a_child_through_another_gateway(site, pair, subscribe):
    own, other, child = pair
    subscription = subscribe("device.message", "report")
    site.proxy(own, other)
    peer = site.connect(other)
    report(peer, child, 8)
    peer.publish_acked(peer.topic("messages/up"), {"object_device_id": child["device_id"], "content": "42 l"})
    assert subscription.wait_for(child["device_id"])[0]["notify_data"]["body"]["content"]["content"] == "42 l"
    peer.publish_acked(peer.topic("shadow/get/request_id=r1"), {"object_device_id": child["device_id"]})
    shadow = peer.wait_for("shadow/get/response/request_id=r1")[0].json
    assert shadow["object_device_id"] == child["device_id"]
    assert shadow["shadow"][0]["reported"]["properties"] == {"flow": 8}
    say(peer, "sub_device_sync_request", {"version": 0})  # its own list of children is still empty
    peer.publish_acked(peer.topic("events/up"), {"object_device_id": child["device_id"], "services": [
        {"service_id": "$time_sync", "event_type": "time_sync_request", "event_id": "t1", "paras": {"device_send_time": 1}}]})
    assert told(peer, "time_sync_response")[0]["event_id"] == "t1"
    assert not [m for m in peer.on(DOWN) if m.json["services"][0]["event_type"] == "add_sub_device_notify"]


def test_children_of_each_and_of_their_children(site):
    """Ten gateways, and a child two levels below the last."""
    gateways = [site.gateway() for _ in range(10)]
    site.proxy(*gateways)
    below = site.child(gateways[9])
    deep = site.child(below)
    children = [site.child(g) for g in gateways[1:9]] + [below, deep]
    peer = site.connect(gateways[0])
    for i, child in enumerate(children):
        report(peer, child, i + 1)
    for i, child in enumerate(children):
        wait_until(lambda: flow_of(site.api, child) == i + 1)


def test_another_gateway_removes_no_children(site, pair):
    """It may speak for them, not change the list of their gateway."""
    own, other, child = pair
    site.proxy(own, other)
    peer = site.connect(other)
    say(peer, "delete_sub_device_request", {"devices": [child["device_id"]]})
    failed = told(peer, "delete_sub_device_response")[0]["paras"]["failed_devices"]
    assert [d["error_msg"] for d in failed] == ["no child of this gateway"]
    assert site.status(child) == "INACTIVE"


# ---- when, and who

def test_before_its_time(site, pair):
    own, other, child = pair
    proxy = site.proxy(own, other, start=SOME_DAY, end=LATER)
    peer = site.connect(other)
    report(peer, child, 1)
    failure = refusal(site.api, peer)
    assert failure["code"] == "proxy_not_in_force"
    assert failure["reason"] == (f'It speaks for device "{child["device_id"]}" of gateway "{own["device_id"]}". Device proxy '
                                 f'"{proxy["proxy_name"]}" lists both gateways, but begins at {SOME_DAY}.')
    assert own["device_id"] in failure["next_step"] and "effective_time_range" in failure["next_step"]
    assert state(peer, child, "ONLINE", "e1")["error_code"] == "IOTDA.014000"
    assert refusal(site.api, peer, 2)["code"] == "proxy_not_in_force"
    shown = site.change(proxy, effective_time_range={"start_time": LONG_AGO})
    assert shown["effective_time_range"] == {"start_time": LONG_AGO, "end_time": LATER}, "what is left out stays"
    report(peer, child, 2)
    wait_until(lambda: flow_of(site.api, child) == 2)
    assert len(site.api.history(child["device_id"])) == 1 and site.status(child) == "INACTIVE"


def test_after_its_time(site, pair):
    own, other, child = pair
    proxy = site.proxy(own, other, start=LONG_AGO)
    peer = site.connect(other)
    report(peer, child, 1)
    wait_until(lambda: flow_of(site.api, child) == 1)
    site.change(proxy, effective_time_range={"end_time": YESTERYEAR})
    report(peer, child, 2)
    assert refusal(site.api, peer)["reason"].endswith(f"lists both gateways, but ended at {YESTERYEAR}.")
    peer.publish_acked(peer.topic("messages/up"), {"object_device_id": child["device_id"], "content": "42 l"})
    refusal(site.api, peer, 2)
    peer.publish_acked(peer.topic("events/up"), {"object_device_id": child["device_id"], "services": []})
    refusal(site.api, peer, 3)
    peer.publish_acked(peer.topic("shadow/get/request_id=r1"), {"object_device_id": child["device_id"]})
    assert refusal(site.api, peer, 4)["code"] == "proxy_not_in_force"
    assert flow_of(site.api, child) == 1 and len(site.api.history(child["device_id"])) == 1


def test_the_next_in_time_is_named(site, pair):
    own, other, child = pair
    site.proxy(own, other, end=YESTERYEAR)
    site.proxy(own, other, start=LATER)
    proxy = site.proxy(own, other, start=SOME_DAY)
    peer = site.connect(other)
    report(peer, child, 1)
    assert f'"{proxy["proxy_name"]}" lists both gateways, but begins at {SOME_DAY}.' in refusal(site.api, peer)["reason"]


def test_a_gateway_that_is_not_listed(site, pair):
    own, other, child = pair
    site.proxy(own, other)
    site.proxy(site.gateway(), third := site.gateway())
    peer = site.connect(third)
    report(peer, child, 1)
    failure = refusal(site.api, peer)
    assert failure["code"] == "no_child" and "device proxy" in failure["next_step"]
    assert state(peer, child, "ONLINE", "e1")["error_code"] == "IOTDA.014000"
    assert site.api.history(child["device_id"]) == []


def test_gateways_do_not_speak_for_each_other(site, pair):
    own, other, _ = pair
    site.proxy(own, other)
    peer = site.connect(other)
    report(peer, own, 1)
    assert refusal(site.api, peer)["code"] == "no_child"
    assert site.api.history(own["device_id"]) == []


def test_who_leaves_the_list_is_refused(site, pair):
    own, other, child = pair
    proxy = site.proxy(own, other)
    peer = site.connect(other)
    report(peer, child, 1)
    wait_until(lambda: flow_of(site.api, child) == 1)
    third = site.gateway()
    shown = site.change(proxy, proxy_devices=[third["device_id"], own["device_id"]])
    assert shown["proxy_devices"] == [third["device_id"], own["device_id"]] and shown["proxy_name"] == proxy["proxy_name"]
    report(peer, child, 2)
    assert refusal(site.api, peer)["code"] == "no_child"
    report(site.connect(third), child, 3)
    wait_until(lambda: flow_of(site.api, child) == 3)
    assert len(site.api.history(child["device_id"])) == 2


def test_a_deleted_proxy_is_none(site, pair):
    own, other, child = pair
    proxy = site.proxy(own, other)
    peer = site.connect(other)
    report(peer, child, 1)
    wait_until(lambda: flow_of(site.api, child) == 1)
    site.api.delete(f"/device-proxies/{proxy['proxy_id']}")
    report(peer, child, 2)
    assert refusal(site.api, peer)["code"] == "no_child"
    assert flow_of(site.api, child) == 1


# ---- whose word counts

def test_who_has_it_says_that_it_is_gone(site, pair):
    """The own gateway's session is older than the other's: it is the time that counts, not the session."""
    own, other, child = pair
    site.proxy(own, other)
    at_own, at_other = site.connect(own), site.connect(other)
    assert state(at_own, child, "ONLINE", "e1") is None
    assert state(at_other, child, "ONLINE", "e2") is None
    failed = wait_until(lambda: state(at_own, child, "OFFLINE", unique("e")), 10, 0.02, "the other gateway has it")
    assert failed["error_code"] == "IOTDA.000006" and other["device_id"] in failed["error_msg"]
    site.until(child, "ONLINE")
    assert state(at_own, child, "ONLINE", "e4") is None
    assert state(at_other, child, "OFFLINE", "e5")["error_msg"].endswith(f'"{own["device_id"]}"')
    at_other.disconnect()
    assert state(at_own, child, "OFFLINE", "e6") is None
    site.until(child, "OFFLINE")


def test_it_goes_with_the_gateway_that_has_it(site, pair):
    own, other, child = pair
    site.proxy(own, other)
    at_own, at_other = site.connect(own), site.connect(other)
    assert state(at_own, child, "ONLINE", "e1") is None and state(at_other, child, "ONLINE", "e2") is None
    at_own.disconnect()
    wait_until(lambda: site.status(own) == "OFFLINE")
    still = site.child(own)  # one that goes with the own gateway shows that its children have been gone through
    with site.connect(own) as again:
        assert state(again, still, "ONLINE", "e3") is None
        site.until(still, "ONLINE")
    site.until(still, "OFFLINE")
    assert site.status(child) == "ONLINE", "it is there through the other"
    at_other.disconnect()
    site.until(child, "OFFLINE")
    changes = wait_until(lambda: [c for c in site.api.why(child["device_id"])["changes"] if c.get("code") == "gateway_offline"])
    assert changes[0]["text"] == f'Gateway "{other["device_id"]}", through which it was online, went offline.'


def test_a_gateway_without_children_of_its_own_takes_them_with_it(site, pair):
    own, other, child = pair
    site.proxy(own, other)
    for n in range(2):
        at_other = site.connect(other)
        assert state(at_other, child, "ONLINE", f"e{n}") is None
        site.until(child, "ONLINE")
        at_other.drop()
        site.until(child, "OFFLINE")


@pytest.mark.parametrize("connected", [True, False])
def test_a_gateway_that_is_deleted_takes_them_with_it(site, pair, connected):
    """With its connection; or, whose connection broke, as it went."""
    own, other, child = pair
    site.proxy(own, other)
    at_other = site.connect(other)
    assert state(at_other, child, "ONLINE", "e1") is None
    site.until(child, "ONLINE")
    if not connected:
        at_other.drop()
    site.api.delete(f"/devices/{other['device_id']}")
    site.until(child, "OFFLINE")
    text = wait_until(lambda: [c["text"] for c in site.api.why(child["device_id"])["changes"]
                               if c.get("code") == "gateway_offline"])[0]
    assert text == "The gateway through which it was online has been deleted." or \
        not connected and text == f'Gateway "{other["device_id"]}", through which it was online, went offline.'


def test_after_the_proxy_the_own_gateway_has_its_say(site, pair):
    own, other, child = pair
    proxy = site.proxy(own, other)
    at_own, at_other = site.connect(own), site.connect(other)
    assert state(at_other, child, "ONLINE", "e1") is None
    site.until(child, "ONLINE")
    site.api.delete(f"/device-proxies/{proxy['proxy_id']}")
    assert state(at_own, child, "OFFLINE", "e2") is None
    site.until(child, "OFFLINE")
    assert state(at_other, child, "ONLINE", "e3")["error_code"] == "IOTDA.014000"


def test_a_child_that_moves_is_its_new_gateways(site, pair):
    """ChangeGateway, to one whose session is older."""
    own, other, child = pair
    at_other, at_own = site.connect(other), site.connect(own)
    assert state(at_own, child, "ONLINE", "e1") is None
    site.until(child, "ONLINE")
    site.api.post(f"/devices/{child['device_id']}/change-gateway", {"gateway_id": other["device_id"]}, status=200)
    wait_until(lambda: state(at_other, child, "OFFLINE", unique("e")) is None, 10, 0.02, "the move is known")
    site.until(child, "OFFLINE")
    assert state(at_other, child, "ONLINE", "e3") is None
    site.until(child, "ONLINE")


def test_commands_go_through_its_own_gateway(site, pair):
    own, other, child = pair
    site.proxy(own, other)
    at_own, at_other = site.connect(own), site.connect(other)
    at_own.answer_commands({"result_code": 0, "response_name": "drained", "paras": {"litres": 1}})
    assert state(at_other, child, "ONLINE", "e1") is None
    site.until(child, "ONLINE")
    body = {"service_id": "Pump", "command_name": "drain", "paras": {"seconds": 1}}
    got = site.api.post(f"/devices/{child['device_id']}/commands", body, status=200)
    assert got["response"]["paras"] == {"litres": 1}
    assert at_own.commands[0]["object_device_id"] == child["device_id"] and at_other.commands == []


# ---- over REST

def test_made_shown_listed_changed(site, pair):
    own, other, _ = pair
    space = site.api.post("/apps", {"app_name": unique("space")})["app_id"]
    product = site.api.new_product(app_id=space)["product_id"]
    gateways = [site.api.new_device(product, app_id=space) for _ in range(3)]
    body = site.body(*gateways, start=None, name="north")
    made = site.api.post("/device-proxies", body)
    assert made["proxy_devices"] == body["proxy_devices"] and made["app_id"] == space
    assert made["effective_time_range"]["start_time"] > "20260101" and made["effective_time_range"]["end_time"] == NEVER
    second = site.proxy(*gateways[:2], end=LATER, name="south")
    shown = site.api.get(f"/device-proxies/{second['proxy_id']}")
    assert shown == second and shown["effective_time_range"] == {"start_time": LONG_AGO, "end_time": LATER}
    listed = site.api.get("/device-proxies", app_id=space)
    assert [p["proxy_name"] for p in listed["device_proxies"]] == ["south", "north"] and listed["page"]["count"] == 2
    assert "proxy_devices" not in listed["device_proxies"][0]
    named = site.api.get("/device-proxies", app_id=space, proxy_name="north")["device_proxies"]
    assert [p["proxy_id"] for p in named] == [made["proxy_id"]]
    page = site.api.get("/device-proxies", app_id=space, limit=1, marker=listed["device_proxies"][0]["proxy_id"])
    assert [p["proxy_name"] for p in page["device_proxies"]] == ["north"]
    assert site.change(made, proxy_name="east", effective_time_range={"end_time": SOME_DAY}) == {
        **made, "proxy_name": "east", "effective_time_range": {**made["effective_time_range"], "end_time": SOME_DAY}}
    site.api.delete(f"/devices/{gateways[2]['device_id']}")
    assert site.api.get(f"/device-proxies/{made['proxy_id']}")["proxy_devices"] == body["proxy_devices"][:2], "who is deleted leaves"
    site.api.delete(f"/device-proxies/{made['proxy_id']}")
    for method, more in (("GET", None), ("PUT", {"proxy_name": "x"}), ("DELETE", None)):
        site.api.refused(404, "IOTDA.037903", method, f"/device-proxies/{made['proxy_id']}", more)


def refused_lists(site, own, other):
    """what: (status and code, list, what the refusal says)"""
    space = site.api.post("/apps", {"app_name": unique("space")})["app_id"]
    foreign = site.api.new_device(site.api.new_product(app_id=space)["product_id"], app_id=space)["device_id"]
    child = site.child(own)["device_id"]
    a, b = own["device_id"], other["device_id"]
    bad = (400, "IOTDA.037905")
    return {"nobody": (bad, [a, "nobody", b], 'proxy_devices[1]: the space of the proxy has no device "nobody"'),
            "a child": (bad, [a, b, child], f'proxy_devices[2]: "{child}" is no gateway but the child of one'),
            "twice": (bad, [a, b, a], f'proxy_devices[2]: "{a}" is listed twice'),
            "of another space": (bad, [foreign, a], f'proxy_devices[0]: the space of the proxy has no device "{foreign}"'),
            "alone": ((400, "IOTDA.000006"), [a], "proxy_devices"),
            "eleven": ((400, "IOTDA.000006"), [site.gateway()["device_id"] for _ in range(11)], "proxy_devices")}


def test_lists_that_are_none(site, pair):
    own, other, _ = pair
    proxy = site.proxy(own, other)
    for what, (refused, listed, said) in refused_lists(site, own, other).items():
        message = site.api.refused(*refused, "POST", "/device-proxies", {**site.body(own, other), "proxy_devices": listed})
        assert said in message, what
        message = site.api.refused(*refused, "PUT", f"/device-proxies/{proxy['proxy_id']}", {
            "proxy_devices": listed, "proxy_name": "changed"})
        assert said in message, what
    assert site.api.get(f"/device-proxies/{proxy['proxy_id']}") == proxy, "nothing of a refused change stays"


def test_times_that_are_none(site, pair):
    own, other, _ = pair
    for start, end in ((LATER, SOME_DAY), (LATER, LATER), (None, YESTERYEAR)):
        site.api.refused(400, "IOTDA.000010", "POST", "/device-proxies", site.body(own, other, start=start, end=end))
    site.api.refused(400, "IOTDA.000006", "POST", "/device-proxies", site.body(own, other, start="20261301T000000Z"))
    proxy = site.proxy(own, other, start=SOME_DAY, end=LATER)
    for change in ({"start_time": LATER}, {"end_time": SOME_DAY}, {"start_time": LATER, "end_time": SOME_DAY}):
        site.api.refused(400, "IOTDA.000010", "PUT", f"/device-proxies/{proxy['proxy_id']}", {
            "effective_time_range": change, "proxy_name": "changed"})
    assert site.api.get(f"/device-proxies/{proxy['proxy_id']}") == proxy


def test_a_space_that_is_none(site, pair):
    site.api.refused(403, "IOTDA.001000", "POST", "/device-proxies", {**site.body(*pair[:2]), "app_id": "nowhere"})


# ---- platforms of their own

@pytest.mark.long
def test_there_are_ten(own_platform):
    platform = own_platform()
    site = Site(platform, platform.api.new_product()["product_id"])
    gateways = [site.gateway() for _ in range(2)]
    made = [site.proxy(*gateways) for _ in range(10)]
    message = site.api.refused(403, "IOTDA.037904", "POST", "/device-proxies", site.body(*gateways))
    assert "CAUSEWAY_PROXIES_MAX" in message
    site.api.delete(f"/device-proxies/{made[3]['proxy_id']}")
    site.proxy(*gateways)


@pytest.mark.long
def test_children_that_wander_between_instances(own_platform, application, authority):
    """Two of each daemon, gateways in several partitions: what was said last is so everywhere, nothing is lost."""
    platform = own_platform(instances="mqtt-gateway=2 uplink-processor=2 device-registry=2 rule-engine=2")
    site = Site(platform, platform.api.new_product()["product_id"])
    gateways = [site.gateway() for _ in range(4)]
    site.proxy(*gateways)
    children = [site.child(gateways[i % 4]) for i in range(8)]
    peers = [site.connect(g) for g in gateways]

    def wander(n):
        """A child goes from gateway to gateway; each takes it, reports, and the one before says that it is gone."""
        for step in range(12):
            peer, before = peers[(n + step) % 4], peers[(n + step - 1) % 4]
            event = f"c{n}s{step}"
            state(peer, children[n], "ONLINE", event)
            report(peer, children[n], 0, service="Load", seq=step)
            state(before, children[n], "OFFLINE", event + "x")
        return peer

    with concurrent.futures.ThreadPoolExecutor(len(children)) as pool:
        last = list(pool.map(wander, range(len(children))))
    for child in children:
        site.until(child, "ONLINE")
        wait_until(lambda: sequence(site.api.history(child["device_id"])) == list(range(12)), 10, 0.05, "all reports, in order")
    for peer in set(last):
        peer.disconnect()
    for child in children:
        site.until(child, "OFFLINE")
    site.close()

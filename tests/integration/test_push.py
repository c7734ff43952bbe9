"""What an application gets over HTTPS: once, in order, from the right peer only; and what happens when
it does not answer well. Servers that misbehave are servers of their own: failing is counted by host
and port."""
import threading
import time

import pytest

from callback import Authority, Callback, HOST, answers, ok, resets
from rest import unique
from waiting import stays, wait_until


@pytest.fixture
def server(authority):
    made = Callback(authority.issue())
    yield made
    made.down()


def failing_first(times, status=500):
    """Fails the first `times` requests."""
    left = [times]

    def behave(handler, _record):
        left[0] -= 1
        return handler.reply(status if left[0] >= 0 else 200)
    return behave


@pytest.fixture
def forward(api, cert_id):
    """forward(url, **detail): a rule on reports with one action; deleted after the test."""
    made = []

    def make(url, cert=cert_id, resource="device.property", event="report", **detail):
        rule = api.post("/routing-rule/rules", {
            "rule_name": unique("push"), "subject": {"resource": resource, "event": event}})
        made.append(rule["rule_id"])
        http = {"url": url, **detail}
        if cert:
            http["cert_id"] = cert
        action = api.post("/routing-rule/actions", {
            "rule_id": rule["rule_id"], "channel": "HTTP_FORWARDING",
            "channel_detail": {"http_forwarding": http}})
        api.put(f"/routing-rule/rules/{rule['rule_id']}", {"active": True})
        return rule["rule_id"], action["action_id"]
    yield make
    for rule_id in made:
        api.call("DELETE", f"/routing-rule/rules/{rule_id}")


def sequence_on(server, path, device_id):
    return [s["properties"]["seq"] for r in server.on(path) if r.answered == 200
            and r.body["notify_data"]["header"]["device_id"] == device_id
            for s in r.body["notify_data"]["body"]["services"]]


def why_push(api, device):
    return wait_until(lambda: api.why(device["device_id"])["failures"].get("push"), 15, 0.1,
                      "why names the push")


def test_a_push_is_a_plain_post_of_one_json_document(device, connected, server, forward):
    forward(server.url("/in"))
    connected.report("Load", {"seq": 1})
    record = server.wait_for("/in")[0]
    assert record.headers["Content-Type"].split(";")[0] == "application/json"
    assert int(record.headers["Content-Length"]) == len(record.raw)
    assert record.raw == record.raw.strip() and b'": ' not in record.raw, "compact"
    assert record.headers["Host"] == f"{HOST}:{server.port}"


def test_http_without_tls_works_too(device, connected, forward):
    plain = Callback()
    forward(plain.url("/in"), cert=None)
    connected.report("Load", {"seq": 1})
    plain.wait_for("/in")
    plain.down()


def test_only_what_happened_after_activation_and_before_its_end_is_pushed(
        api, device, connected, server, forward):
    connected.report("Load", {"seq": 1})
    wait_until(lambda: api.history(device["device_id"]))
    rule_id, _ = forward(server.url("/in"))
    forward(server.url("/all"))
    # a rule works from the moment at which its PUT was answered
    connected.report("Load", {"seq": 2})
    server.wait_for("/in")
    api.put(f"/routing-rule/rules/{rule_id}", {"active": False})
    connected.report("Load", {"seq": 3})
    wait_until(lambda: 3 in sequence_on(server, "/all", device["device_id"]))  # rule-engine is past it
    api.put(f"/routing-rule/rules/{rule_id}", {"active": True})
    connected.report("Load", {"seq": 4})
    wait_until(lambda: 4 in sequence_on(server, "/in", device["device_id"]))
    assert sequence_on(server, "/in", device["device_id"]) == [2, 4]


def test_two_applications_both_get_everything(device, connected, server, forward):
    forward(server.url("/one"))
    forward(server.url("/two"))
    for seq in range(20):
        connected.report("Load", {"seq": seq})
    for path in ("/one", "/two"):
        server.wait_for(path, 20)
        assert sequence_on(server, path, device["device_id"]) == list(range(20))


def test_a_rule_of_one_space_gets_only_its_devices(platform, api, server, cert_id):
    space = api.post("/apps", {"app_name": unique("pushed")})["app_id"]
    mine = api.new_device(api.new_product(app_id=space)["product_id"], app_id=space)
    other = api.new_device(api.new_product()["product_id"])
    rule_id, _ = api.new_rule(server.url("/space"), "device.property", "report", cert_id,
                              app_type="APP", app_id=space)
    with platform.connect(other) as a, platform.connect(mine) as b:
        for seq in range(5):
            a.report("Load", {"seq": seq})
            b.report("Load", {"seq": seq})
        server.wait_for("/space", 5)
        wait_until(lambda: len(api.history(other["device_id"])) == 5)
    assert {r.body["notify_data"]["header"]["device_id"] for r in server.on("/space")} == \
        {mine["device_id"]}
    api.delete(f"/routing-rule/rules/{rule_id}")


@pytest.mark.parametrize("behaviour", [
    failing_first(2), failing_first(2, 404), failing_first(2, 201), failing_first(2, 302), "reset"])
def test_what_is_not_200_is_pushed_again_with_the_same_request_id_and_in_order(
        api, device, connected, server, forward, behaviour):
    if behaviour == "reset":
        left = [2]

        def behaviour(handler, record):
            left[0] -= 1
            return resets(handler, record) if left[0] >= 0 else handler.reply(200)
    server.behave("/in", behaviour)
    forward(server.url("/in"))
    for seq in range(10):
        connected.report("Load", {"seq": seq})
    wait_until(lambda: len(sequence_on(server, "/in", device["device_id"])) >= 10, 20)
    assert sequence_on(server, "/in", device["device_id"]) == list(range(10))
    tries = server.on("/in")[:3]
    assert len({r.body["request_id"] for r in tries}) == 1, "the first one again, before the others"
    assert tries[1].at - tries[0].at > 0.5 and tries[2].at - tries[1].at > 1.2, "growing pauses"
    failure = why_push(api, device)
    assert failure["reason"] and failure["next_step"]


def test_redirects_are_not_followed(api, device, connected, server, forward):
    server.behave("/in", answers(307, [("Location", server.url("/elsewhere"))]))
    rule_id, _ = forward(server.url("/in"))
    connected.report("Load", {"seq": 1})
    server.wait_for("/in", 2)
    api.delete(f"/routing-rule/rules/{rule_id}")
    assert server.on("/elsewhere") == [] and "307" in why_push(api, device)["reason"]


def test_a_dead_target_does_not_delay_a_healthy_one(platform, api, product, server, forward):
    dead, hanging = Callback(), threading.Event()
    dead.down()
    stuck = Callback()
    stuck.behave("/", lambda handler, record: hanging.wait(60) and handler.reply(200))
    forward(dead.url("/in"), cert=None)
    forward(stuck.url("/in"), cert=None)
    forward(server.url("/good"))
    devices, told = [api.new_device(product["product_id"]) for _ in range(4)], []
    try:
        for device in devices:
            with platform.connect(device) as peer:
                for seq in range(100):
                    peer.publish(peer.topic("properties/report"), {"services": [
                        {"service_id": "Load", "properties": {"seq": seq}}]})
                wait_until(lambda: len(peer.acked) == 100)
                done = time.monotonic()
                wait_until(lambda: len(sequence_on(server, "/good", device["device_id"])) == 100, 20)
                assert time.monotonic() - done < 8, "parking takes a second, not more"
            assert sequence_on(server, "/good", device["device_id"]) == list(range(100))
            told.append(why_push(api, device))
        assert any(f["code"] == "refused" and str(dead.port) in f["reason"] for f in told), told
    finally:
        hanging.set()
        stuck.down()


def test_what_a_dead_target_missed_arrives_later_and_in_order(api, device, connected, server, forward):
    forward(server.url("/in"))
    connected.report("Load", {"seq": 0})
    server.wait_for("/in")
    server.down()
    for seq in range(1, 30):
        connected.report("Load", {"seq": seq})
    why_push(api, device)
    server.up()
    wait_until(lambda: len(sequence_on(server, "/in", device["device_id"])) >= 30, 30)
    assert sequence_on(server, "/in", device["device_id"]) == list(range(30))


# ---- who is at the other end

@pytest.mark.parametrize("case, reason", [
    ("another CA", "certificate"), ("another name", "name"), ("expired", "expired"),
    ("no TLS at all", "TLS")])
def test_a_wrong_peer_gets_nothing_and_the_reason_is_told(
        api, device, connected, authority, forward, tmp_path, case, reason):
    stranger = Authority(tmp_path, "Stranger")
    files = {"another CA": lambda: stranger.issue(),
             "another name": lambda: authority.issue("elsewhere.test", ("elsewhere.test",)),
             "expired": lambda: authority.issue(days=-1), "no TLS at all": lambda: None}
    wrong = Callback(files[case]())
    rule_id, _ = forward(f"https://{HOST}:{wrong.port}/in")
    connected.report("Load", {"seq": 1})
    failure = why_push(api, device)
    assert reason.lower() in (failure["reason"] + failure["next_step"]).lower(), failure
    api.delete(f"/routing-rule/rules/{rule_id}")
    assert wrong.records == []
    wrong.down()


def test_cn_name_replaces_the_name_that_is_compared(device, connected, authority, forward):
    other = Callback(authority.issue("pump.test", ("pump.test",)))
    forward(other.url("/in"), cn_name=f"pump.test:{other.port}", sni_enable=True)
    connected.report("Load", {"seq": 1})
    other.wait_for("/in")
    other.down()


def test_a_common_name_is_enough_without_alternative_names(device, connected, authority, forward):
    old = Callback(authority.issue("old.test", ()))
    forward(old.url("/in"), cn_name=f"old.test:{old.port}")
    connected.report("Load", {"seq": 1})
    old.wait_for("/in")
    old.down()


def test_check_common_name_false_compares_the_chain_only(api, device, connected, authority, forward):
    lenient = api.post("/routing-rule/certificates", {
        "name": "lenient", "content": authority.pem, "check_common_name": False})
    other = Callback(authority.issue("whatever.test", ("whatever.test",)))
    forward(other.url("/in"), cert=lenient["cert_id"])
    connected.report("Load", {"seq": 1})
    other.wait_for("/in")
    other.down()


def test_a_changed_action_goes_to_the_new_target(api, device, connected, server, forward):
    _, action_id = forward(server.url("/old"))
    connected.report("Load", {"seq": 1})
    server.wait_for("/old")
    detail = api.get(f"/routing-rule/actions/{action_id}")["channel_detail"]
    detail["http_forwarding"]["url"] = server.url("/new")
    api.put(f"/routing-rule/actions/{action_id}",
            {"channel": "HTTP_FORWARDING", "channel_detail": detail})
    connected.report("Load", {"seq": 2})
    server.wait_for("/new")
    assert len(server.on("/old")) == 1


def test_a_deleted_rule_is_silent(api, device, connected, server, forward):
    rule_id, _ = forward(server.url("/gone"))
    forward(server.url("/stays"))
    connected.report("Load", {"seq": 1})
    server.wait_for("/gone")
    api.delete(f"/routing-rule/rules/{rule_id}")
    connected.report("Load", {"seq": 2})
    server.wait_for("/stays", 2)
    stays(lambda: len(server.on("/gone")) == 1, 0.5)
    server.behave("/stays", ok)


def test_one_request_at_a_time_for_a_device(api, device, connected, server, forward):
    """Order is kept by waiting, not by luck."""
    at_once, most, lock = [0], [0], threading.Lock()
    pause = threading.Event()

    def behave(handler, _record):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        pause.wait(0.02)
        with lock:
            at_once[0] -= 1
        return handler.reply(200)
    server.behave("/in", behave)
    forward(server.url("/in"))
    for seq in range(50):
        connected.publish(connected.topic("properties/report"), {"services": [
            {"service_id": "Load", "properties": {"seq": seq}}]})
    server.wait_for("/in", 50)
    assert most[0] == 1
    wait_until(lambda: len(sequence_on(server, "/in", device["device_id"])) == 50)
    assert sequence_on(server, "/in", device["device_id"]) == list(range(50))

"""Asynchronous commands: kept for devices that are away, sent one at a time, followed to their end."""
import time

import pytest

from rest import unique
from waiting import stays, wait_until

DRAIN = {"service_id": "Pump", "command_name": "drain", "paras": {"seconds": 5}, "send_strategy": "delay"}
COMMAND = "/sys/commands/request_id="


def path(device):
    return f"/devices/{device['device_id']}/async-commands"


@pytest.fixture
def send(api, device):
    def post(**changed):
        return api.post(path(device), {**DRAIN, **changed}, status=200)
    return post


@pytest.fixture
def shown(api, device):
    return lambda command: api.get(f"{path(device)}/{command['command_id']}")


def answer(peer, message, **body):
    peer.publish(message.topic.replace("/commands/", "/commands/response/"), body)


def test_online_and_answered(api, device, connected, send, shown, subscribe):
    subscription = subscribe("device.command.status", "update")
    made = send()
    assert made["status"] == "PENDING" and made["device_id"] == device["device_id"]
    assert made["paras"] == DRAIN["paras"] and made["expire_time"] == 86400 and len(made["created_time"]) == 16
    message = connected.wait_for(COMMAND)[0]
    assert message.topic.endswith(made["command_id"])
    assert message.json == {k: DRAIN[k] for k in ("service_id", "command_name", "paras")}
    delivered = wait_until(lambda: (c := shown(made))["status"] == "DELIVERED" and c)
    assert delivered["sent_time"] and delivered["delivered_time"] and not delivered.get("response_time")
    answer(connected, message, result_code=0, response_name="drained", paras={"litres": 3})
    done = wait_until(lambda: (c := shown(made))["status"] == "SUCCESSFUL" and c)
    assert done["result"] == {"result_code": 0, "response_name": "drained", "paras": {"litres": 3}}
    assert done["response_time"] and done["paras"] == DRAIN["paras"] and done["send_strategy"] == "delay"
    notes = [n["notify_data"]["body"] for n in subscription.wait_for(device["device_id"], 2)]
    assert [n["status"] for n in notes] == ["DELIVERED", "SUCCESSFUL"]
    assert notes[1]["command_id"] == made["command_id"] and notes[1]["result"] == done["result"]
    assert notes[1]["response_time"] and notes[0]["delivered_time"]


def test_the_device_says_no(connected, send, shown):
    made = send()
    answer(connected, connected.wait_for(COMMAND)[0], result_code=7)
    assert wait_until(lambda: (c := shown(made))["status"] == "FAILED" and c)["result"] == {"result_code": 7}


@pytest.mark.parametrize("payload", ["{", "[]", "", b"\xff"])
def test_an_answer_that_is_none(connected, send, shown, payload):
    made = send()
    message = connected.wait_for(COMMAND)[0]
    connected.publish(message.topic.replace("/commands/", "/commands/response/"), payload)
    failed = wait_until(lambda: (c := shown(made))["status"] == "FAILED" and c)
    assert "not with a JSON object" in failed["result"]["error_msg"]


def test_it_waits_for_the_device(platform, device, send, shown):
    made = [send(paras={"seconds": n}) for n in range(3)]
    time.sleep(1.5)  # more than a sweep: they are parked
    assert {shown(m)["status"] for m in made} == {"PENDING"}
    with platform.connect(device) as peer:
        got = peer.wait_for(COMMAND, 3)
        assert [m.json["paras"]["seconds"] for m in got] == [0, 1, 2]
        wait_until(lambda: {shown(m)["status"] for m in made} == {"DELIVERED"})


def test_one_at_a_time(platform, device, send, shown):
    with platform.connect(device, ack=False) as deaf:
        first, second = send(), send()
        message = deaf.wait_for(COMMAND)[0]
        stays(lambda: len(deaf.on(COMMAND)) == 1, 2, 0.1, "the second waits for the first's PUBACK")
        deaf.puback(message.packet_id)
        again = deaf.wait_for(COMMAND, 2)[1]
        assert again.topic.endswith(second["command_id"]) and shown(first)["status"] == "DELIVERED"
        deaf.puback(again.packet_id)


def test_the_connection_ends_before_the_puback(platform, device, send, shown):
    with platform.connect(device, ack=False) as deaf:
        made = send()
        deaf.wait_for(COMMAND)
    sent = wait_until(lambda: (c := shown(made))["status"] == "SENT" and c)
    assert sent["sent_time"] and not sent.get("delivered_time")
    with platform.connect(device) as peer:
        assert peer.wait_for(COMMAND)[0].topic.endswith(made["command_id"])
        wait_until(lambda: shown(made)["status"] == "DELIVERED")


def test_immediately_needs_a_connection(platform, api, device, send, shown):
    body = {**DRAIN, "send_strategy": "immediately"}
    api.refused(403, "IOTDA.014016", "POST", path(device), body)
    with platform.connect(device, ack=False) as deaf:
        made = send(send_strategy="immediately")
        assert made["expire_time"] == 0
        deaf.wait_for(COMMAND)
    failed = wait_until(lambda: (c := shown(made))["status"] == "FAILED" and c)
    assert failed["result"]["error_code"] == "IOTDA.014016"


def test_one_that_nobody_fetched_expires(platform, device, send, shown):
    made = send(expire_time=1)
    wait_until(lambda: shown(made)["status"] == "EXPIRED", 20)
    with platform.connect(device) as peer:
        later = send()
        assert [m.topic.split("=")[1] for m in peer.wait_for(COMMAND)] == [later["command_id"]]


def test_a_command_is_canceled(platform, api, device, send, shown):
    made = send()
    api.delete(f"{path(device)}/{made['command_id']}")
    assert shown(made)["status"] == "CANCELED"
    message = api.refused(409, "IOTDA.014915", "DELETE", f"{path(device)}/{made['command_id']}")
    assert "CANCELED" in message
    api.refused(404, "IOTDA.014913", "DELETE", f"{path(device)}/never-was")
    with platform.connect(device) as peer:
        later = send()
        assert [m.topic.split("=")[1] for m in peer.wait_for(COMMAND)] == [later["command_id"]]


def test_twenty_wait_for_a_device(api, device, send):
    made = [send() for _ in range(20)]
    assert "20" in api.refused(403, "IOTDA.014914", "POST", path(device), DRAIN)
    api.delete(f"{path(device)}/{made[3]['command_id']}")
    send()


def test_a_child_gets_it_through_its_gateway(api, product, connected):
    child = api.new_device(product["product_id"], gateway_id=connected.id)
    made = api.post(path(child), DRAIN, status=200)
    message = connected.wait_for(COMMAND)[0]
    assert message.json["object_device_id"] == child["device_id"]
    answer(connected, message, result_code=0)
    wait_until(lambda: api.get(f"{path(child)}/{made['command_id']}")["status"] == "SUCCESSFUL")


def test_a_late_answer_is_kept(platform, api, device, connected, send, shown):
    made = send()
    message = connected.wait_for(COMMAND)[0]
    answer(connected, message, result_code=0)
    wait_until(lambda: shown(made)["status"] == "SUCCESSFUL")
    answer(connected, message, result_code=9)
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("command"))
    assert failure["code"] == "late_answer" and shown(made)["result"] == {"result_code": 0}
    assert platform.sql("SELECT count(*) FROM command.async_answer") == "0"


@pytest.mark.parametrize("change, code", [
    ({"command_name": "fly"}, "IOTDA.014906"), ({"paras": {"seconds": "x"}}, "IOTDA.014906"),
    ({"send_strategy": "later"}, "IOTDA.000006"), ({"expire_time": 172801}, "IOTDA.000006"),
    ({"expire_time": -1}, "IOTDA.000006"), ({"paras": {"x": "y" * 33000}}, "IOTDA.000006")])
def test_what_does_not_fit_is_refused(api, device, change, code):
    api.refused(400, code, "POST", path(device), {**DRAIN, **change})


# ---- lists

@pytest.fixture
def history(platform, api, product):
    """A device with commands in several states."""
    device = api.new_device(product["product_id"])
    with platform.connect(device) as peer:
        done = [api.post(path(device), DRAIN, status=200)["command_id"] for _ in range(3)]
        for message in peer.wait_for(COMMAND, 3):
            answer(peer, message, result_code=0)
        wait_until(lambda: api.get(path(device))["page"]["count"] == 0)
        delivered = api.post(path(device), DRAIN, status=200)["command_id"]
        wait_until(lambda: api.get(f"{path(device)}/{delivered}")["status"] == "DELIVERED")
    wait_until(lambda: api.device(device["device_id"])["status"] == "OFFLINE")
    waiting = [api.post(path(device), {**DRAIN, "command_name": "drain"}, status=200)["command_id"] for _ in range(2)]
    return device, done, delivered, waiting


def test_queue_history_and_count(api, history):
    device, done, delivered, waiting = history
    queue = api.get(path(device))
    assert [c["command_id"] for c in queue["commands"]] == waiting[::-1] + [delivered]
    assert queue["page"]["count"] == 3 and len(queue["page"]["marker"]) == 24
    assert [c["status"] for c in queue["commands"]] == ["PENDING", "PENDING", "DELIVERED"]
    assert "paras" not in queue["commands"][0]
    over = api.get(f"{path(device)}-history")
    assert [c["command_id"] for c in over["commands"]] == done[::-1] and "count" not in over["page"]
    assert api.post(f"{path(device)}-history/count", status=200) == {"count": 3}


def test_filters_and_pages(api, history):
    device, done, delivered, waiting = history
    ids = lambda got: [c["command_id"] for c in got["commands"]]  # noqa: E731
    assert ids(api.get(path(device), status="DELIVERED")) == [delivered]
    assert ids(api.get(path(device), command_name="other")) == []
    first = api.get(path(device), limit=2)
    assert ids(first) == waiting[::-1]
    assert ids(api.get(path(device), limit=2, marker=first["page"]["marker"])) == [delivered]
    assert ids(api.get(path(device), offset=1, limit=1)) == waiting[:1]
    hour = lambda h: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + 3600 * h))  # noqa: E731
    assert len(ids(api.get(path(device), start_time=hour(-1), end_time=hour(1)))) == 3
    assert ids(api.get(path(device), start_time=hour(1))) == []
    assert api.post(f"{path(device)}-history/count", status=200, end_time=hour(-1)) == {"count": 0}


def test_unknown_ones(api, device):
    api.refused(404, "IOTDA.014913", "GET", f"{path(device)}/never-was")
    for method, url in (("GET", "async-commands"), ("GET", "async-commands-history"),
                        ("POST", "async-commands-history/count")):
        api.refused(404, "IOTDA.014000", method, f"/devices/nobody_here/{url}")
    api.refused(404, "IOTDA.014000", "POST", "/devices/nobody_here/async-commands", DRAIN)


# ---- the resend plan, and what is stricter

@pytest.mark.long
def test_the_plan_of_resends(platform, device, send, shown):
    """12 s without a PUBACK: SENT, and again; the rest of the plan is test_delivery.c's."""
    with platform.connect(device, ack=False) as deaf:
        begun = time.monotonic()
        made = send()
        first, second = deaf.wait_for(COMMAND, 2, timeout=30)[:2]
        assert 11 < time.monotonic() - begun < 20
        assert shown(made)["status"] == "SENT" and first.topic == second.topic
        deaf.puback(second.packet_id)
        wait_until(lambda: shown(made)["status"] == "DELIVERED")


@pytest.mark.long
def test_strict_refuses_them(own_platform):
    platform = own_platform(CAUSEWAY_STRICT="1")
    device = platform.api.new_device(platform.api.new_product()["product_id"])
    platform.api.refused(403, "IOTDA.014114", "POST", path(device), DRAIN)


def test_what_is_newer_does_not_overtake_what_is_parked(platform, device, send):
    """A device has just come back: what was parked while it was away is not awake yet."""
    def parked(command, yes):
        platform.sql(f"UPDATE command.async_command SET parked = {yes} WHERE command_id = '{command['command_id']}'")
    made = [send()]
    wait_until(lambda: platform.sql(f"SELECT parked FROM command.async_command WHERE command_id = "
                                    f"'{made[0]['command_id']}'").strip() == "t")
    peer = platform.connect(device, ack=False)
    first = peer.wait_for(COMMAND)[0]
    made += [send() for _ in range(2)]
    parked(made[1], "true")
    peer.ack = True
    peer.puback(first.packet_id)
    stays(lambda: not [m for m in peer.on(COMMAND) if m.topic != first.topic], 2.5, 0.05, "the third waits")
    parked(made[1], "false")
    wait_until(lambda: len({m.topic for m in peer.on(COMMAND)}) == 3)
    order = list(dict.fromkeys(m.topic.split("=")[1] for m in peer.on(COMMAND)))
    assert order == [m["command_id"] for m in made]
    peer.disconnect()


@pytest.mark.long
def test_a_dispatcher_that_is_killed_forgets_none(platform, api, product):
    devices = [api.new_device(product["product_id"], node_id=unique("kill")) for _ in range(10)]
    made = [(d, api.post(path(d), DRAIN, status=200)["command_id"]) for d in devices for _ in range(5)]
    messages = [(d, api.post(f"/devices/{d['device_id']}/messages", {"message": "m"})["message_id"]) for d in devices]
    peers = [platform.connect(d) for d in devices]
    platform.kill("command-dispatcher")
    for peer in peers:
        peer.wait_for(COMMAND, 5, timeout=30)
        peer.wait_for("messages/down", 1, timeout=30)
    for device, command in made:
        wait_until(lambda: api.get(f"{path(device)}/{command}")["status"] == "DELIVERED", 30)
    for device, message in messages:
        wait_until(lambda: api.get(f"/devices/{device['device_id']}/messages/{message}")["status"] == "DELIVERED", 30)
    for (device, _), peer in zip(made[::5], peers):
        order = []
        for m in peer.on(COMMAND):  # repetitions aside, in the order of their creation
            if m.topic not in order:
                order.append(m.topic)
        assert [t.split("=")[1] for t in order] == [c for d, c in made if d is device]
        peer.disconnect()

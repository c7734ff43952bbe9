"""The way down as one table: what is asked of a device × what the device does, with the status, the code, the text, the
receipt and what `why` says. Its platform waits for devices for 1.5 s only."""
import json
import threading
import time

import pytest

from platform_under_test import Platform
from waiting import wait_until

WAIT_S = 1.5


@pytest.fixture(scope="module")
def platform():
    running = Platform(etc={"command-dispatcher": f"COMMAND_TIMEOUT={int(WAIT_S * 1000)}ms"}).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def product(platform):
    return platform.api.new_product()


class Ask:
    """One thing that can be asked of a device."""

    def __init__(self, name, method, path, body, query, topic, payload, answer, response, id_name, denied):
        self.name, self.method, self.path, self.body, self.query = name, method, path, body, query
        self.topic, self.payload, self.answer, self.response = topic, payload, answer, response
        self.id_name, self.denied = id_name, denied

    def of(self, api, device_id):
        return api.call(self.method, f"/devices/{device_id}/{self.path}", self.body, self.query)

    def receipt(self, platform, request_id):
        """(status, stage, kind, has a response) as it is kept."""
        rows = platform.sql("SELECT status, stage, kind, response IS NOT NULL FROM command.command"
                            f" WHERE command_id = '{request_id}'")
        return rows.split("|") if rows else None

    def __repr__(self):
        return self.name


DRAIN = {"service_id": "Pump", "command_name": "drain", "paras": {"seconds": 5}}
SERVICES = {"services": [{"service_id": "Pump", "properties": {"flow": 1}, "event_time": "20260102T030405Z"}]}
ASKS = [
    Ask("command", "POST", "commands", DRAIN, None, "commands", DRAIN,
        {"result_code": 0, "response_name": "drained", "paras": {"litres": 3}}, None, "command_id",
        {"result_code": 9}),
    Ask("set", "PUT", "properties", {"services": [{"service_id": "Pump", "properties": {"on": 1}}]}, None,
        "properties/set", {"services": [{"service_id": "Pump", "properties": {"on": 1}}]},
        {"result_code": 0, "result_desc": "success"}, None, "request_id", {"result_code": 9, "result_desc": "no"}),
    Ask("get", "GET", "properties", None, {"service_id": "Pump"}, "properties/get", {"service_id": "Pump"},
        SERVICES, None, "request_id", None)]
each = pytest.mark.parametrize("ask", ASKS, ids=str)


class Caller(threading.Thread):
    def __init__(self, ask, api, device_id):
        super().__init__(daemon=True)
        self.ask, self.api, self.device_id, self.got = ask, api, device_id, None
        if not api.token:
            api.login()
        self.start()

    def run(self):
        self.begun = time.monotonic()
        self.got = self.ask.of(self.api, self.device_id)
        self.took = time.monotonic() - self.begun

    def result(self):
        self.join(30)
        assert self.got is not None, "no answer in 30 s"
        return self.got


def reply(peer, message, payload):
    topic = message.topic.replace("/request_id=", "/response/request_id=")
    return peer.publish(topic, payload)


def timed_out(ask, got):
    assert got.status == 200 and got.body["error_code"] == "IOTDA.014111" and got.body[ask.id_name], got
    return got.body["error_msg"]


@each
def test_online(platform, api, device, connected, ask):
    caller = Caller(ask, api, device["device_id"])
    message = connected.wait_for(f"/sys/{ask.topic}/request_id=")[0]
    assert message.json == ask.payload and message.qos == 1
    reply(connected, message, ask.answer)
    got = caller.result()
    assert got.status == 200 and got.body == {ask.id_name: message.topic.split("=")[1], "response": ask.answer}
    receipt = wait_until(lambda: (r := ask.receipt(platform, got.body[ask.id_name])) and r[0] != "SENT" and r)
    assert receipt == ["SUCCESSFUL", "answered", ask.name, "t"]
    assert api.shadow(device["device_id"]) == {}, "what is asked does not change the shadow"


@each
def test_a_child_is_asked_through_its_gateway(api, product, connected, ask):
    child = api.new_device(product["product_id"], gateway_id=connected.id)["device_id"]
    caller = Caller(ask, api, child)
    message = connected.wait_for(f"/sys/{ask.topic}/request_id=")[0]
    assert message.json == {"object_device_id": child, **ask.payload}
    reply(connected, message, ask.answer)
    assert caller.result().body["response"] == ask.answer


@each
def test_offline(api, device, ask):
    got = ask.of(api, device["device_id"])
    assert got.status == 403 and got.code == "IOTDA.014016" and "not online" in got.message
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("command"))
    assert failure["code"] == "offline"


@each
def test_unknown_device(api, ask):
    assert ask.of(api, "nobody_here").code == "IOTDA.014000"


@each
def test_frozen(api, device, ask):
    api.post(f"/devices/{device['device_id']}/freeze", status=204)
    got = ask.of(api, device["device_id"])
    assert got.status == 403 and got.code == "IOTDA.014016" and "frozen" in got.message


@each
def test_not_answering(platform, api, device, connected, ask):
    caller = Caller(ask, api, device["device_id"])
    text = timed_out(ask, caller.result())
    assert WAIT_S * 0.9 < caller.took < WAIT_S + 5
    assert f"/sys/{ask.topic}/response/request_id=" in text and "PUBACK +" in text
    receipt = wait_until(lambda: (r := ask.receipt(platform, caller.got.body[ask.id_name])) and r[0] != "SENT" and r)
    assert receipt[0] == "TIMEOUT" and "PUBACK" in receipt[1] and receipt[3] == "f"
    assert wait_until(lambda: api.why(device["device_id"])["failures"].get("command"))["code"] == "no_response"


@each
def test_not_even_acknowledging(platform, api, device, ask):
    with platform.connect(device, ack=False):
        text = timed_out(ask, Caller(ask, api, device["device_id"]).result())
    assert "no PUBACK" in text or "before the device's PUBACK" in text


@each
def test_late(platform, api, device, connected, ask):
    caller = Caller(ask, api, device["device_id"])
    timed_out(ask, caller.result())
    reply(connected, connected.on(f"/sys/{ask.topic}/request_id=")[0], ask.answer)
    failure = wait_until(lambda: (f := api.why(device["device_id"])["failures"].get("command"))
                         and f["code"] == "late_answer" and f)
    assert "after the timeout" in failure["reason"]
    assert ask.receipt(platform, caller.got.body[ask.id_name])[3] == "t", "the late answer is kept"


@each
@pytest.mark.parametrize("payload", ["{not json", "", "[]", '"text"', "\xff"])
def test_malformed_answer(platform, api, device, connected, ask, payload):
    caller = Caller(ask, api, device["device_id"])
    reply(connected, connected.wait_for(f"/sys/{ask.topic}/request_id=")[0], payload.encode("latin-1"))
    assert "not with a JSON object" in timed_out(ask, caller.result())
    assert caller.took < WAIT_S, "it ends at once"
    receipt = wait_until(lambda: (r := ask.receipt(platform, caller.got.body[ask.id_name])) and r[0] != "SENT" and r)
    assert receipt[0] == "FAILED"


@each
def test_wrong_request_id(api, device, connected, ask):
    caller = Caller(ask, api, device["device_id"])
    connected.wait_for(f"/sys/{ask.topic}/request_id=")
    connected.publish_acked(connected.topic(f"{ask.topic}/response/request_id=another"), ask.answer)
    timed_out(ask, caller.result())
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("command"))
    assert failure["code"] in ("unknown_request", "no_response")


@each
def test_disconnect_in_between(platform, api, device, ask):
    peer = platform.connect(device)
    caller = Caller(ask, api, device["device_id"])
    peer.wait_for(f"/sys/{ask.topic}/request_id=")
    peer.drop()
    got = caller.result()
    assert got.code in ("IOTDA.014111", "IOTDA.014016") and got.message


@pytest.mark.parametrize("ask", ASKS[:2], ids=str)
def test_the_device_says_no(platform, api, device, connected, ask):
    caller = Caller(ask, api, device["device_id"])
    reply(connected, connected.wait_for(f"/sys/{ask.topic}/request_id=")[0], ask.denied)
    got = caller.result()
    assert got.status == 200 and got.body["response"] == ask.denied
    receipt = wait_until(lambda: (r := ask.receipt(platform, got.body[ask.id_name])) and r[0] != "SENT" and r)
    assert receipt[0] == "FAILED"


def test_the_go_sdk_answers_a_read_without_a_list(api, device, connected):
    ask = ASKS[2]
    caller = Caller(ask, api, device["device_id"])
    bare = {"service_id": "Pump", "properties": {"flow": 1}, "event_time": "2026-01-02 03:04:05"}
    reply(connected, connected.wait_for(f"/sys/{ask.topic}/request_id=")[0], bare)
    assert caller.result().body["response"] == {"services": [bare]}


@pytest.mark.parametrize("services, code, what", [
    ([{"service_id": "Pump", "properties": {"flow": 1}}], "IOTDA.013002", "services[0].properties.flow"),
    ([{"service_id": "Pump", "properties": {"on": 1}}, {"service_id": "Pump", "properties": {"no": 1}}],
     "IOTDA.013002", "services[1].properties.no"),
    ([{"service_id": "Pump", "properties": {"on": "one"}}], "IOTDA.013002", "services[0].properties.on"),
    ([{"service_id": "Nothing", "properties": {"on": 1}}], "IOTDA.013002", "services[0]"),
    ([], "IOTDA.000006", "services"), ([{"service_id": "Pump"}], "IOTDA.000006", "properties")])
def test_a_write_against_the_model_is_not_sent(api, device, connected, services, code, what):
    got = api.call("PUT", f"/devices/{device['device_id']}/properties", {"services": services})
    assert got.status == 400 and got.code == code and what in got.message, got
    connected.ping()
    assert connected.on("properties/set") == []


def test_a_read_names_its_service(api, device):
    assert api.call("GET", f"/devices/{device['device_id']}/properties").code == "IOTDA.000006"


def test_what_is_kept_of_what_was_asked(platform, api, device, connected):
    for ask in ASKS:
        caller = Caller(ask, api, device["device_id"])
        reply(connected, connected.wait_for(f"/sys/{ask.topic}/request_id=")[0], ask.answer)
        caller.result()
    rows = platform.sql("SELECT kind, coalesce(service_id, '-'), coalesce(command_name, '-'), paras FROM command.command"
                        f" WHERE device_id = '{device['device_id']}' ORDER BY created").splitlines()
    assert [r.split("|")[:3] for r in rows] == [["command", "Pump", "drain"], ["set", "-", "-"], ["get", "Pump", "-"]]
    assert json.loads(rows[1].split("|")[3]) == ASKS[1].body["services"]

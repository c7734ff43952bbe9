"""Devices of the V3 protocol (docs/protocol/legacy-topics.md): reports, commands and their answers."""
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from waiting import stays, wait_until

DRAIN = {"service_id": "Pump", "command_name": "drain", "paras": {"seconds": 5}}


class Old:
    """What PropertyV3AndCmdV3Sample of the Java SDK does."""

    def __init__(self, peer):
        self.peer, self.code, self.body = peer, 0, {"litres": 3}
        self.base = f"/huawei/v1/devices/{peer.id}"
        assert peer.subscribe(f"{self.base}/command/json") == 1

    def say(self, **payload):
        self.peer.publish_acked(f"{self.base}/data/json", payload)

    def asked(self, count=1):
        return [json.loads(m.payload) for m in self.peer.wait_for("/command/json", count)]

    def answer(self, mid, **more):
        self.say(msgType="deviceRsp", mid=mid, **{"errcode": 0, "body": {"litres": 3}, **more})


@pytest.fixture
def old(connected):
    return Old(connected)


def ask(api, old, **said):
    """A synchronous command, and what the device is asked; it answers at once."""
    api.get("/apps")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(api.post, f"/devices/{old.peer.id}/commands", DRAIN, status=200)
        asked = old.asked()[0]
        old.answer(asked["mid"], **said)
        return asked, call.result()["response"]


def test_a_report(api, old, subscribe):
    subscription = subscribe("device.property", "report")
    old.say(msgType="deviceReq", data=[{"serviceId": "Pump", "serviceData": {"flow": 12.5},
                                        "eventTime": "20261126T010203Z"}])
    part = wait_until(lambda: api.shadow(old.peer.id).get("Pump"))
    assert part["reported"]["properties"] == {"flow": 12.5} and part["reported"]["event_time"] == "20261126T010203Z"
    pushed = subscription.wait_for(old.peer.id)[0]["notify_data"]["body"]["services"]
    assert pushed == [{"service_id": "Pump", "properties": {"flow": 12.5}, "event_time": "20261126T010203Z"}]


def test_a_command_and_its_answer(api, old):
    asked, response = ask(api, old)
    mid = asked.pop("mid")
    assert asked == {"msgType": "cloudReq", "serviceId": "Pump", "cmd": "drain", "paras": {"seconds": 5}}
    assert isinstance(mid, int) and 0 <= mid < 1 << 31
    assert response == {"result_code": 0, "paras": {"litres": 3}}
    assert not old.peer.on("/sys/commands/")


def test_the_device_says_no(api, old):
    assert ask(api, old, errcode=1, body={})[1]["result_code"] == 1


def test_an_asynchronous_command(api, old):
    path = f"/devices/{old.peer.id}/async-commands"
    made = api.post(path, {**DRAIN, "send_strategy": "delay"}, status=200)
    old.answer(old.asked()[0]["mid"])
    done = wait_until(lambda: (c := api.get(f"{path}/{made['command_id']}"))["status"] == "SUCCESSFUL" and c)
    assert done["result"] == {"result_code": 0, "paras": {"litres": 3}}


def test_who_has_subscribed_the_new_topic_gets_it_there(api, old):
    assert old.peer.subscribe(f"$oc/devices/{old.peer.id}/sys/commands/#") == 1
    old.peer.answer_commands({"result_code": 0})
    assert api.post(f"/devices/{old.peer.id}/commands", DRAIN, status=200)["response"]["result_code"] == 0
    assert not old.peer.on("/command/json")


def test_who_has_not_subscribed_gets_the_new_form(api, connected):
    connected.answer_commands({"result_code": 0})
    assert api.post(f"/devices/{connected.id}/commands", DRAIN, status=200)["response"]["result_code"] == 0


@pytest.mark.parametrize("payload", [{"msgType": "deviceRsp", "mid": 12345}, {"msgType": "deviceReq"}, {"msgType": "x"}],
                         ids=["no such command", "no data", "no such type"])
def test_what_is_refused_is_told(api, old, payload):
    old.say(**payload)
    wait_until(lambda: api.why(old.peer.id)["failures"].get("decode", {}).get("code") == "legacy")
    old.peer.ping()


def test_bytes_are_a_message(api, old):
    """data/binary is for a codec; until there is one it is kept as it is."""
    old.peer.publish_acked(f"{old.base}/data/binary", b"\x01\xff")
    assert wait_until(lambda: api.history(old.peer.id))[0]["topic"] == f"{old.base}/data/binary"
    stays(lambda: not old.peer.on("/data/"), 0.3, 0.05, "nobody has subscribed it")

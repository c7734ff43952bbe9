"""Synchronous commands: the device's answer is the API's answer, and every failure names its stage."""
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from waiting import wait_until

DRAIN = {"service_id": "Pump", "command_name": "drain", "paras": {"seconds": 5}}


def commands(device):
    return f"/devices/{device['device_id']}/commands"


def test_the_answer_of_the_device_is_the_answer_of_the_api(api, device, connected):
    answer = {"result_code": 0, "response_name": "drained", "paras": {"litres": 3}}
    connected.answer_commands(answer)
    got = api.post(commands(device), DRAIN, status=200)
    assert got["response"] == answer
    assert connected.commands == [DRAIN]
    assert connected.on("commands/")[0].topic.endswith(f"request_id={got['command_id']}")


def test_a_refusal_of_the_device_is_an_answer_too(api, device, connected):
    connected.answer_commands({"result_code": 17, "paras": {"why": "dry"}})
    assert api.post(commands(device), DRAIN, status=200)["response"]["result_code"] == 17


def test_a_command_without_a_service_is_free(api, device, connected):
    connected.answer_commands({"paras": None})
    api.post(commands(device), {"paras": {"anything": [1, {"x": None}]}}, status=200)
    assert connected.commands[0]["paras"] == {"anything": [1, {"x": None}]}


def test_many_commands_at_once_are_told_apart(api, device, connected):
    connected.answer_commands(lambda command: {"result_code": 0, "paras": command["paras"]})
    api.get("/apps")

    def one(n):
        return api.post(commands(device), {"paras": {"n": n}}, status=200)["response"]["paras"]["n"]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(64))) == list(range(64))


def test_answers_in_another_order_find_their_commands(api, device, connected):
    waiting, both = [], threading.Event()
    api.get("/apps")

    def post(n):
        return api.post(commands(device), {"paras": {"n": n}}, status=200)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(post, n) for n in range(2)]
        waiting = connected.wait_for("commands/request_id", 2)
        for message in waiting[::-1]:
            connected.answer(message, {"paras": message.json["paras"]})
        assert [f.result()["response"]["paras"]["n"] for f in futures] == [0, 1]
    assert not both.is_set()


def test_offline_is_403_at_once(api, device):
    begun = time.monotonic()
    api.refused(403, "IOTDA.014016", "POST", commands(device), DRAIN)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("body, code", [
    ({"service_id": "Pump", "command_name": "fly", "paras": {}}, "IOTDA.014906"),
    ({"service_id": "Plane", "command_name": "drain", "paras": {}}, "IOTDA.014906"),
    ({"service_id": "Pump", "command_name": "drain", "paras": {"secs": 5}}, None),
    ({"service_id": "Pump", "command_name": "drain", "paras": {"seconds": "5"}}, None),
    ({"service_id": "Pump", "command_name": "drain", "paras": {"seconds": 61}}, None),
    ({"service_id": "Pump", "command_name": "drain"}, "IOTDA.000006"),
    ({"service_id": "Pump", "command_name": "drain", "paras": 7}, "IOTDA.000006"),
    ({"service_id": "s" * 65, "command_name": "drain", "paras": {}}, "IOTDA.000006"),
    ({"service_id": "Pump", "command_name": "c" * 129, "paras": {}}, "IOTDA.000006"),
    ({"paras": {"x": "y" * 33000}}, "IOTDA.000006"),
])
def test_a_command_against_the_model_is_refused_and_never_sent(api, device, connected, body, code):
    got = api.call("POST", commands(device), body)
    assert got.status == 400 and got.code in (code, "IOTDA.014906", "IOTDA.000006"), got
    connected.ping()
    assert connected.commands == []


@pytest.mark.long
def test_a_timeout_names_the_stage(platform, api, device):
    """200 with IOTDA.014111 after 20 s: acknowledged but not answered, or not even acknowledged."""
    other = api.new_device(device["product_id"])
    with platform.connect(device) as silent, platform.connect(other, ack=False) as deaf:
        api.get("/apps")
        with ThreadPoolExecutor(2) as pool:
            begun = time.monotonic()
            futures = [pool.submit(api.post, commands(d), DRAIN, 200) for d in (device, other)]
            got, never = (f.result() for f in futures)
            took = time.monotonic() - begun
        assert 19 < took < 25
        for answer in (got, never):
            assert answer["error_code"] == "IOTDA.014111" and answer["command_id"]
        assert got["error_msg"] != never["error_msg"], "the texts tell the stages apart"
        assert "acknowledged" in got["error_msg"].lower() or "PUBACK" in got["error_msg"]
        # an answer after its time is only a note
        silent.answer(silent.on("commands/")[0], {"result_code": 0})
        wait_until(lambda: "late" in str(api.why(device["device_id"])).lower(), 15,
                   what="the late answer is in why")
        assert deaf.connected


def test_a_device_that_leaves_ends_the_wait(platform, api, device):
    peer = platform.connect(device)
    api.get("/apps")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(api.call, "POST", commands(device), DRAIN)
        peer.wait_for("commands/")
        peer.drop()
        got = future.result(timeout=30)
    assert got.status in (200, 403) and got.code in ("IOTDA.014111", "IOTDA.014016"), got
    assert got.message


def test_a_broken_answer_is_explained(api, device, connected):
    api.get("/apps")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(api.post, commands(device), DRAIN, 200)
        message = connected.wait_for("commands/")[0]
        connected.answer(message, "{not json")
        got = future.result(timeout=10)
    assert got["error_code"] == "IOTDA.014111" and got["command_id"]
    assert "not with a JSON object" in got["error_msg"]
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("command"))
    assert failure["code"] == "answer_malformed" and "JSON" in failure["next_step"]


def test_an_answer_to_an_unknown_request_is_only_a_note(api, device, connected):
    connected.publish_acked(connected.topic("commands/response/request_id=never-asked"),
                            {"result_code": 0})
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("command"))
    assert "never-asked" in str(failure) or "unknown" in failure["reason"]

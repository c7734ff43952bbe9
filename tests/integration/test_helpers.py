"""The instruments themselves: the signer gives the published signatures, the callback server obeys."""
import threading

import pytest
import requests

import callback
import load
import rawmqtt
import signing

AK, SK = "AKCAUSEWAY0000000001", "SKcauseway00000000000000000000000000000001"
DATE, PROJECT = "20230101T120000Z", "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
COMMAND = b'{"service_id":"Light","command_name":"ON_OFF","paras":{"value":"ON"}}'
DEVICES = f"/v5/iot/{PROJECT}/devices"
QUERY = "limit=50&device_name=a%20b%E4%B8%AD~*&is_cascade_query=true&app_id="
LIST = {"content-type": "application/json", "host": "iotda.example.test:8943",
        "x-project-id": PROJECT, "x-sdk-date": DATE}
UPLOAD = {**LIST, "content-type": "multipart/form-data; boundary=XbX",
          "x-sdk-content-sha256": "UNSIGNED-PAYLOAD", "x-security-token": "sts-token-1"}
PLAIN, DERIVED = "SDK-HMAC-SHA256", "V11-HMAC-SHA256"


@pytest.mark.parametrize("scheme, method, path, query, headers, body, signature", [
    (PLAIN, "GET", DEVICES, QUERY, LIST, b"",
     "fcfb89a42a25e073d18224921a9cc68cd24361a37f753891f03a1a58dd6f48ac"),
    (DERIVED, "GET", DEVICES, QUERY, LIST, b"",
     "8e3470bc0d8cdde79e33534f028fc841f25faa21467700a07856976097fd5f7e"),
    (PLAIN, "POST", DEVICES + "/prod1_node1/commands", "", {**LIST, "instance-id": "inst-1"}, COMMAND,
     "b535f73d830790655984ec0460aece897046679ede7d8dcd7bcb70e228307bd0"),
    (DERIVED, "POST", DEVICES + "/prod1_node1/commands", "", {**LIST, "instance-id": "inst-1"},
     COMMAND, "2469ee9af7d910f56bed6d0629fc4ca25961d2377f7022aed4c27fb1a3271083"),
    (PLAIN, "POST", f"/v5/iot/{PROJECT}/batchtask-files", "", UPLOAD, b"x",
     "2f4e08ffd33b9d2d8c4857c52aaf51cb70f767a4761282647a86c08f7d6900e0"),
    (DERIVED, "POST", f"/v5/iot/{PROJECT}/batchtask-files", "", UPLOAD, b"x",
     "80fe79973ff79077bba8606303c4af1c507f124bd09c24a0a1f5e74bfc44f4bb"),
    (PLAIN, "GET", "/v3/projects", "name=region-1", {"host": "iam.example.test", "x-sdk-date": DATE},
     b"", "d15f67ff96d35d0d08e22b0535a14fc9188861b1983bac50efc40b7715ca5e6c"),
])
def test_the_signer_gives_the_published_signatures(scheme, method, path, query, headers, body,
                                                   signature):
    got = signing.sign(AK, SK, method, path, query, headers, body, scheme)
    assert got.endswith(f"Signature={signature}")


def test_the_password_of_a_device_is_the_published_one():
    assert rawmqtt.password("12345678", "2025041401") == \
        "c75150e6cb841417396819e4d2ee4358a416344a03a083e3a8567074ddec820a"


def test_the_callback_server_records_in_order_and_misbehaves_on_demand(tmp_path):
    ca = callback.Authority(tmp_path)
    (tmp_path / "ca.pem").write_text(ca.pem)
    server = callback.Callback(ca.issue())
    released = threading.Event()
    server.behave("/bad", callback.answers(500))
    server.behave("/cut", callback.resets)
    server.behave("/slow", callback.slow(released))

    def post(path, **more):
        return requests.post(server.url(path), json={"n": path}, verify=str(tmp_path / "ca.pem"),
                             **more)
    assert [post("/a").status_code, post("/bad").status_code] == [200, 500]
    with pytest.raises(requests.ConnectionError):
        post("/cut")
    with pytest.raises(requests.Timeout):
        post("/slow", timeout=0.2)
    released.set()
    server.down()
    with pytest.raises(requests.ConnectionError):
        post("/a")
    server.up()
    assert post("/a").status_code == 200
    assert [r.path for r in server.records] == ["/a", "/bad", "/cut", "/slow", "/a"]
    server.down()


class FakeTalker:
    id, disorder, connections = "d", [], 2

    def __init__(self, sent, acked):
        self.sent, self.acked = sent, acked


class FakeApi:
    def __init__(self, kept):
        self.kept = kept

    def history(self, _device_id):
        return [{"body": {"services": [{"properties": {"seq": n}}]}} for n in self.kept]


class FakeRecord:
    def __init__(self, seq, answered=200):
        self.answered = answered
        self.body = {"request_id": f"r{seq}", "notify_data": {
            "header": {"device_id": "d"}, "body": {"services": [{"properties": {"seq": seq}}]}}}


def compared(kept, pushed, acked=(0, 1, 3)):
    talker = FakeTalker({0: 1, 1: 1, 2: 1, 3: 2, 4: 2}, list(acked))
    load_ = type("FakeLoad", (), {"talkers": [talker]})
    records = [FakeRecord(n) for n in pushed]
    load.compare(FakeApi(kept), load_, lambda: records, settle_s=0.1)


@pytest.mark.parametrize("kept, pushed", [
    ([0, 1, 3], [0, 1, 3]), ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),  # unacknowledged ones may arrive
    ([0, 1, 3], [0, 1, 0, 1, 3]),  # a push may be repeated
    ([0, 1, 3, 2], [0, 1, 3, 2])])  # what was never acknowledged on an old connection
def test_the_comparison_takes_what_is_promised(kept, pushed):
    compared(kept, pushed)


@pytest.mark.parametrize("kept, pushed, told", [
    ([0, 1], [0, 1], "not in history"), ([0, 1, 3], [0, 1], "history is pushed"),
    ([0, 1, 1, 3], [0, 1, 3], "twice"), ([0, 1, 3, 9], [0, 1, 3, 9], "never sent"),
    ([1, 0, 3], [1, 0, 3], "out of order"), ([3, 0, 1], [3, 0, 1], "out of order"),
    ([0, 1, 4, 3], [0, 1, 4, 3], "connection 2"), ([0, 1, 3], [1, 0, 3], "another order"),
    ([0, 1, 3], [0, 1, 3, 2], "another order")])
def test_the_comparison_finds_what_is_lost_doubled_or_turned(kept, pushed, told):
    with pytest.raises(AssertionError, match=told):
        compared(kept, pushed)

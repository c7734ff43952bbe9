"""Bad input, row by row: a clear error or a closed connection, and nobody falls over."""
import json
import socket
import struct
import time
from urllib.parse import urlsplit

import pytest

import rawmqtt
from platform_under_test import DAEMONS
from waiting import wait_until


@pytest.fixture(autouse=True, scope="module")
def nobody_falls_over(platform):
    before = {name: platform.processes(name) for name in DAEMONS}
    yield
    assert {name: platform.processes(name) for name in DAEMONS} == before
    assert all(platform.healthy(name) for name in DAEMONS)


# ---- the REST API: bodies

@pytest.mark.parametrize("data", [
    b"", b"{", b"}", b'{"a"}', b"{'a': 1}", b'{"a": 1,}', b'{"a": 01}', b'{"a": NaN}', b'{"a": .5}',
    b'{"a": "\n"}', b'{"a": "\\x"}', b'{"a": "\\ud800"}', b'{"a": "\xff"}', b'\xef\xbb\xbf{}',
    b'{"a": "\xc3"}', b'{"a": 1} x', b"\x00", b'{"a\x00b": 1}', b"[" * 100000,
    b'{"a":' * 65 + b"1" + b"}" * 65, b'{"a": tru}', b"<xml/>", b"a=1&b=2"])
def test_what_is_no_json_is_400(api, data):
    message = api.refused(400, "IOTDA.000008", "POST", "/products", data=data)
    assert "JSON" in message


@pytest.mark.parametrize("data", [b"null", b"null\x00", b"7", b'"x"', b"[]", b"true"])
def test_json_that_is_no_object_is_400(api, data):
    got = api.call("POST", "/products", data=data)
    assert got.status == 400 and got.code in ("IOTDA.000006", "IOTDA.000008")


@pytest.mark.parametrize("value", ["1e999", "-1e999", "123456789012345678901234567890",
                                   "1" * 400, "0." + "1" * 5000])
def test_numbers_beyond_all_bounds_are_400(api, product, value):
    data = (f'{{"node_id":"x","product_id":"{product["product_id"]}",'
            f'"auth_info":{{"timeout":{value}}}}}').encode()
    got = api.call("POST", "/devices", data=data)
    assert got.status == 400 and got.code in ("IOTDA.000006", "IOTDA.000008"), got


def test_a_nul_in_a_name_is_400(api):
    got = api.call("POST", "/apps", data=b'{"app_name": "a\\u0000b"}')
    assert got.status == 400 and got.code in ("IOTDA.000006", "IOTDA.000008"), got


def test_a_body_over_1_mib_is_413(api):
    got = api.call("POST", "/products", data=b'{"name":"' + b"x" * (1 << 20) + b'"}')
    assert (got.status, got.code) == (413, "IOTDA.000902") and got.message


def test_the_last_of_two_equal_names_counts(api):
    got = api.call("POST", "/products", data=b'{"name": "", "name": 7}')
    assert got.status == 400 and "name" in got.message


def test_other_media_types_are_refused_or_taken_as_json(api, product):
    body = json.dumps({"node_id": "x"}).encode()
    for media in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x=y"):
        assert "product_id" in api.call("POST", "/devices", data=body,
                                        headers={"Content-Type": media}).message
    for media in ("text/plain", "application/xml", "multipart/form-data; boundary=x"):
        got = api.call("POST", "/devices", data=body, headers={"Content-Type": media})
        assert (got.status, got.code) == (400, "IOTDA.000008"), got


# ---- the REST API: paths and queries

@pytest.mark.parametrize("path, status, code", [
    ("/nothing", 404, "IOTDA.000900"), ("/devices/a/b/c", 404, "IOTDA.000900"),
    ("/devices/" + "d" * 129, 400, "IOTDA.000006"), ("/devices/a%20b", 400, "IOTDA.000006"),
    ("/devices/a%00b", 404, "IOTDA.000900"), ("/devices/%ff%fe", 400, "IOTDA.000006"),
    ("/devices/..%2f..%2fapps", 400, "IOTDA.000006"), ("/devices/%zz", 400, None),
    ("/products/" + "p" * 37, 400, "IOTDA.000006"), ("/devices?limit=1&limit=x", 400, None),
    ("/devices?device_name=%ff", 400, None), ("/devices?limit=", 200, None),
    ("/devices?limit=1e1", 400, "IOTDA.000017"), ("/devices?limit=99999999999999999999", 400,
                                                  "IOTDA.000017"),
    ("/devices?is_cascade_query=perhaps", 400, "IOTDA.000006"),
    ("/devices?" + "&".join(f"x{n}=1" for n in range(500)), None, None),
    ("/devices/x'%20OR%20'1'='1", 400, "IOTDA.000006"), ("/", 404, "IOTDA.000900")])
def test_bad_paths_and_queries(api, path, status, code):
    got = api.call("GET", path)
    assert got.status in ({status} if status else {200, 400}), got
    if got.status != 200:
        assert got.message and got.code == (code or got.code), got


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_another_method_is_405(api, method):
    got = api.call(method, "/devices")
    assert got.status in (405, 501), got
    if got.status == 405 and method in ("PUT", "DELETE", "PATCH"):
        assert got.code == "IOTDA.000901"


def rest_socket(api):
    parts = urlsplit(api.base)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def read_all(s):
    data = b""
    try:
        while chunk := s.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize("request_bytes", [
    b"garbage\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00",
    b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"\r\n" * 100 + b"x\r\n\r\n",
    b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 3000 + b"\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"])
def test_what_is_no_http_is_answered_4xx_or_closed(api, request_bytes):
    with rest_socket(api) as s:
        try:
            s.sendall(request_bytes)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answer = read_all(s)
    assert not answer or answer.split(b" ")[1][:1] in (b"4", b"5"), answer[:200]
    api.get("/apps")


def test_a_caller_that_sends_half_a_request_does_not_hold_up_others(api):
    slow = [rest_socket(api) for _ in range(30)]
    try:
        for s in slow:
            s.sendall(b"POST /v5/iot/x/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        begun = time.monotonic()
        for _ in range(10):
            api.get("/apps")
        assert time.monotonic() - begun < 5
    finally:
        for s in slow:
            s.close()


# ---- the MQTT port

def fixed(first, *length):
    return bytes([first, *length])


LOGIN = rawmqtt.connect_packet("a_0_0_2026010203", "a", "0" * 64)


@pytest.mark.parametrize("data", [
    b"\x00" * 64, b"\xff" * 64, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00",
    fixed(0x10, 0x80, 0x80, 0x80, 0x80, 0x01), fixed(0x10, 0x00), fixed(0x10, 0x02) + b"\x00\x04",
    fixed(0x10, 0xff, 0xff, 0xff, 0x7f) + b"x" * 100,
    rawmqtt.packet(0x10, rawmqtt.text("MQTT")), rawmqtt.packet(0x10, b"\xff\xffMQTT"),
    rawmqtt.packet(0x10, rawmqtt.text("HTTP") + b"\x04\x02\x00\x3c" + rawmqtt.text("x")),
    rawmqtt.packet(0x10, rawmqtt.text("MQTT") + b"\x04\x03\x00\x3c" + rawmqtt.text("x")),  # reserved
    rawmqtt.packet(0x10, rawmqtt.text("MQTT") + b"\x04\x42\x00\x3c" + rawmqtt.text("x")),  # no user
    rawmqtt.packet(0x10, rawmqtt.text("MQTT") + b"\x04\xc2\x00\x3c" + rawmqtt.text(b"\xff\xfe")),
    LOGIN[:-3] + b"", b"\x11" + LOGIN[1:], LOGIN[:1] + bytes([LOGIN[1] + 5]) + LOGIN[2:] + b"extra",
    rawmqtt.publish_packet("a/b", b"x", 1, 1), b"\xc0\x00", rawmqtt.packet(0x82, b"\x00\x01"),
    rawmqtt.packet(0x10, b""), b"\xe0\x00", b"\xf0\x00"])
def test_garbage_before_a_login_closes_the_connection(platform, data):
    wire, answers = platform.wire(), []
    wire.on_packet = lambda first, body: answers.append((first, body))
    wire.send(data)
    try:
        wire.sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    wait_until(wire.closed.is_set, 12)
    assert all(first == 0x20 and body[1] for first, body in answers), "at most a refusal"
    wire.close()


def own(connected, name):
    return rawmqtt.text(connected.topic(name))


@pytest.mark.parametrize("frame", [
    lambda d: rawmqtt.connect_packet("x", "x", "x"),
    lambda d: rawmqtt.packet(0x36, own(d, "properties/report") + b"\x00\x01x"),  # QoS 3
    lambda d: rawmqtt.packet(0x32, own(d, "properties/report") + b"\x00\x00x"),  # id 0
    lambda d: rawmqtt.packet(0x32, own(d, "properties/report")),  # no id
    lambda d: rawmqtt.packet(0x30, b"\xff\xff"), lambda d: rawmqtt.packet(0x30, b""),
    lambda d: rawmqtt.packet(0x30, rawmqtt.text("") + b"x"),
    lambda d: rawmqtt.packet(0x30, rawmqtt.text("a/#") + b"x"),
    lambda d: rawmqtt.packet(0x30, rawmqtt.text("a/+/b") + b"x"),
    lambda d: rawmqtt.packet(0x30, rawmqtt.text(b"a\x00b") + b"x"),
    lambda d: rawmqtt.packet(0x30, rawmqtt.text(b"a\xff\xfe") + b"x"),
    lambda d: rawmqtt.packet(0x30, rawmqtt.text(b"a\xed\xa0\x80") + b"x"),  # a surrogate
    lambda d: rawmqtt.packet(0x82, b"\x00\x01"),  # no filter
    lambda d: rawmqtt.packet(0x82, b"\x00\x01" + rawmqtt.text("a") + b"\x03"),
    lambda d: rawmqtt.packet(0x80, b"\x00\x01" + rawmqtt.text("a") + b"\x00"),  # flags
    lambda d: rawmqtt.packet(0x82, b"\x00\x00" + rawmqtt.text("a") + b"\x00"),
    lambda d: rawmqtt.packet(0x82, b"\x00\x01" + rawmqtt.text("") + b"\x00"),
    lambda d: rawmqtt.packet(0xa2, b"\x00\x01"),  # UNSUBSCRIBE of nothing
    lambda d: rawmqtt.packet(0x40, b"\x00"), lambda d: rawmqtt.packet(0x43, b"\x00\x01"),
    lambda d: rawmqtt.packet(0x20, b"\x00\x00"), lambda d: rawmqtt.packet(0x90, b"\x00\x01\x00"),
    lambda d: rawmqtt.packet(0xc0, b"x"), lambda d: rawmqtt.packet(0xd0, b""),
    lambda d: rawmqtt.packet(0x00, b""), lambda d: rawmqtt.packet(0xf0, b""),
    lambda d: b"\x30\xff\xff\xff\xff\x01"])
def test_a_protocol_error_after_the_login_closes_and_is_explained(api, device, connected, frame):
    connected.wire.send(frame(connected))
    connected.wait_closed()
    failure = wait_until(lambda: api.why(device["device_id"])["failures"].get("connect"), 10, 0.1,
                         "a reason in why")
    assert failure["reason"] and failure["next_step"]


@pytest.mark.parametrize("frame", [
    lambda d: rawmqtt.packet(0x40, b"\x12\x34"),  # a PUBACK that nobody waits for
    lambda d: rawmqtt.packet(0xa2, b"\x00\x01" + rawmqtt.text("never/subscribed")),
    lambda d: rawmqtt.packet(0x30, own(d, "properties/report")),  # an empty payload
    lambda d: rawmqtt.packet(0x31, own(d, "properties/report") + b"{}"),  # retain
    lambda d: rawmqtt.packet(0x3a, own(d, "properties/report") + b"\x00\x07{}")])  # DUP
def test_what_is_odd_but_allowed_keeps_the_connection(connected, frame):
    connected.wire.send(frame(connected))
    connected.ping()


def test_a_will_is_taken_and_ignored(platform, api, device):
    wire, seen = platform.wire(), []
    wire.on_packet = lambda first, body: seen.append((first, body))
    stamp = rawmqtt.timestamp()
    wire.send(rawmqtt.connect_packet(
        f"{device['device_id']}_0_0_{stamp}", device["device_id"],
        rawmqtt.password(device["auth_info"]["secret"], stamp),
        will=(f"$oc/devices/{device['device_id']}/sys/properties/report", "{}")))
    wait_until(lambda: seen)
    assert seen[0] == (0x20, b"\x00\x00")
    wire.drop()
    wait_until(lambda: api.device(device["device_id"])["status"] == "OFFLINE")
    assert api.history(device["device_id"]) == []


@pytest.mark.parametrize("field, value", [
    ("client_id", "x" * 257), ("client_id", "x" * 60000), ("user", "u" * 257), ("pw", "p" * 257),
    ("pw", "p" * 60000), ("client_id", "\u0001_0_0_2026010203"), ("user", "")])
def test_an_over_long_or_odd_login_is_refused(platform, device, field, value):
    with pytest.raises(rawmqtt.Refused) as refusal:
        platform.connect(device, **{field: value})
    assert refusal.value.code in (None, 2, 4)


def test_silent_and_slow_connections_are_closed_after_10_s(platform, device):
    """Half-open, half a login, a login byte by byte: all end, and nobody else notices."""
    silent, half, dripping = platform.wire(), platform.wire(), platform.wire()
    begun = time.monotonic()
    half.send(LOGIN[:10])

    def drip():
        at = int((time.monotonic() - begun) / 0.5)
        if not dripping.closed.is_set() and at < len(LOGIN) - 1 and drip.sent < at:
            try:
                dripping.send(LOGIN[drip.sent:drip.sent + 1])
            except OSError:
                pass
            drip.sent += 1
        return all(w.closed.is_set() for w in (silent, half, dripping))
    drip.sent = 0
    platform.connect(device).disconnect()
    wait_until(drip, 20, 0.1)
    assert 8 < time.monotonic() - begun < 15


def test_a_slow_reader_is_not_fed_for_ever(platform, api, device):
    """It sends pings and never reads: the platform's memory is bounded, others are served."""
    peer = platform.connect(device)
    sock = peer.wire.sock
    before = rss(platform)
    sock.setblocking(False)
    sent = 0
    begun = time.monotonic()
    while sent < 40_000_000 and time.monotonic() - begun < 3:
        try:
            sent += sock.send(b"\xc0\x00" * 30000)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            break
    other = api.new_device(device["product_id"])
    with platform.connect(other) as fine:
        fine.ping()
    assert rss(platform) - before < 30_000, "kB"
    peer.drop()


def rss(platform):
    return sum(int(line.split()[1]) for pid in platform.processes("mqtt-gateway")
               for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS"))


def test_tls_garbage_and_a_half_handshake(platform, device):
    for data in (b"\x16\x03\x01" + struct.pack(">H", 200) + b"\x01", b"garbage" * 100, b""):
        s = socket.create_connection(("127.0.0.1", platform.mqtts_port), timeout=20)
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed already
        read_all(s)
        s.close()
    with rawmqtt.Device("127.0.0.1", platform.mqtts_port, device["device_id"],
                        device["auth_info"]["secret"],
                        tls_ca=platform.access["CAUSEWAY_CA_FILE"]) as peer:
        peer.ping()


def test_200_connections_that_say_nothing_do_not_keep_a_device_out(platform, device):
    idle = [platform.wire() for _ in range(200)]
    with platform.connect(device) as peer:
        peer.report("Pump", {"flow": 1})
    for wire in idle:
        wire.drop()

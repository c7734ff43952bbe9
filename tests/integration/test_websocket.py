"""MQTT over WebSocket, plain and TLS: the handshake, frames in every form, and real clients."""
import json
import os
import shutil
import socket
import subprocess

import paho.mqtt.client as paho
import pytest

from rawmqtt import connect_packet, password, publish_packet, timestamp
from waiting import wait_until
from websocket import CLOSE, CONTINUATION, PING, PONG, TEXT, Web, frame

MQTT_JS = "mqtt@5.10.1"


@pytest.fixture
def port(platform):
    return int(platform.access["CAUSEWAY_MQTT_WS_PORT"])


@pytest.fixture
def secure_port(platform):
    return int(platform.access["CAUSEWAY_MQTT_WSS_PORT"])


def login(device):
    stamp = timestamp()
    return connect_packet(f"{device['device_id']}_0_0_{stamp}", device["device_id"],
                          password(device["auth_info"]["secret"], stamp))


@pytest.fixture
def web(port, device):
    made = Web(port)
    made.send(login(device))
    assert made.take() == b"\x20\x02\0\0"
    yield made
    made.close()


def report(device, flow, packet_id=1):
    return publish_packet(f"$oc/devices/{device['device_id']}/sys/properties/report", json.dumps(
        {"services": [{"service_id": "Pump", "properties": {"flow": flow}}]}).encode(), 1, packet_id)


# ---- the handshake

def test_the_handshake_of_the_standard(port):
    """RFC 6455, 1.3: the example's key."""
    made = Web(port, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==")
    assert made.status == 101
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in made.answer
    assert b"Sec-WebSocket-Protocol: mqtt\r" in made.answer + b"\r"
    made.close()


@pytest.mark.parametrize("how", [{"path": "/"}, {"Connection": "Upgrade"}, {"Upgrade": "WebSocket"},
                                 {"Sec_WebSocket_Protocol": "chat, mqtt"}, {"Origin": "https://example.test"}])
def test_handshakes_that_are_fine(port, how):
    made = Web(port, **how)
    assert made.status == 101
    made.close()


@pytest.mark.parametrize("how, status", [
    ({"path": "/elsewhere"}, 404), ({"Upgrade": None}, 426), ({"Connection": "close"}, 426),
    ({"Sec_WebSocket_Version": "8"}, 426), ({"Sec_WebSocket_Version": None}, 426), ({"Sec_WebSocket_Key": None}, 400),
    ({"Sec_WebSocket_Key": "short"}, 400), ({"Sec_WebSocket_Protocol": None}, 400),
    ({"Sec_WebSocket_Protocol": "chat"}, 400), ({"Content_Length": "3"}, 400), ({"Host": None}, 400),
    ({"request": b"POST /mqtt HTTP/1.1\r\nHost: x\r\n\r\n"}, 400), ({"request": b"\x10\x10\r\n\r\n"}, 400),
    ({"X_Long": "y" * 9000}, 431)])
def test_handshakes_that_are_refused(port, how, status):
    made = Web(port, **how)
    assert made.status == status and made.data.strip(), "it says why"
    made.close()


def test_the_handshake_byte_by_byte(port, device):
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    request = (b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
    for byte in request + frame(login(device)):
        sock.sendall(bytes([byte]))
    got = b""
    while b"\x20\x02\0\0" not in got:
        chunk = sock.recv(4096)
        assert chunk, got
        got += chunk
    assert got.startswith(b"HTTP/1.1 101 ") and got.endswith(b"\x82\x04\x20\x02\0\0")
    sock.close()


# ---- frames

def test_a_report(api, device, web):
    web.send(report(device, 5))
    assert web.take() == b"\x40\x02\0\1"
    wait_until(lambda: api.shadow(device["device_id"]).get("Pump"))


def test_packets_and_frames_need_not_agree(api, device, web):
    """MQTT 5, 6: a packet may lie in several frames, a frame may hold several packets."""
    data = report(device, 1, 1) + report(device, 2, 2)
    for at in range(0, len(data), 3):
        web.send(data[at:at + 3])
    web.send(report(device, 3, 3) + report(device, 4, 4))
    wait_until(lambda: api.shadow(device["device_id"]).get("Pump", {}).get("reported", {}).get("properties") == {"flow": 4})


def test_fragments_with_a_ping_between(api, device, web):
    data = report(device, 7, 9)
    web.send(data[:10], final=False)
    web.send(b"are you there", opcode=PING)
    web.send(data[10:20], opcode=CONTINUATION, final=False)
    web.send(data[20:], opcode=CONTINUATION)
    assert web.take(PONG) == b"are you there" and web.take() == b"\x40\x02\0\x09"


def test_long_frames(api, device, web):
    body = b"x" * 70000
    topic = f"$oc/devices/{device['device_id']}/sys/messages/up"
    web.send(publish_packet(topic, body, 1, 1))
    web.send(publish_packet(topic, body[:300], 1, 2))
    rows = wait_until(lambda: len(r := api.history(device["device_id"])) == 2 and r)
    assert [len(r["body"]) for r in rows] == [70000, 300]


def test_long_frames_down(api, device, web):
    api.post(f"/devices/{device['device_id']}/messages", {"message": "y" * 70000, "payload_format": "raw"})
    assert web.take().endswith(b"y" * 70000)


@pytest.mark.parametrize("what, data, code", [
    ("text", frame(b"hello", opcode=TEXT), 1003), ("not masked", frame(b"\xc0\0", masked=False), 1002),
    ("a reserved bit", frame(b"\xc0\0", reserved=64), 1002), ("an unknown opcode", frame(b"", opcode=3), 1002),
    ("an unknown control frame", frame(b"", opcode=11), 1002), ("a fragmented ping", frame(b"", opcode=PING, final=False), 1002),
    ("a ping of 126 bytes", frame(b"x" * 126, opcode=PING), 1002), ("a continuation of nothing", frame(b"x", opcode=CONTINUATION), 1002),
    ("a message within a message", frame(b"\xc0", final=False) + frame(b"\0"), 1002),
    ("a length in a longer form", frame(b"\xc0\0", length="16"), 1002), ("in the longest", frame(b"\xc0\0", length="64"), 1002),
    ("a Close of one byte", frame(b"x", opcode=CLOSE), 1002), ("a Close", frame(b"\x03\xe8", opcode=CLOSE), 1000)])
def test_what_ends_it(api, device, web, what, data, code):
    web.sock.sendall(data)
    assert web.closed() == code
    wait_until(lambda: api.device(device["device_id"])["status"] == "OFFLINE")


def test_a_protocol_error_of_mqtt_is_closed_in_order(device, web):
    web.send(b"\xf0\0")
    wait_until(web.over.is_set)


def test_a_refused_login(port, device):
    made = Web(port)
    made.send(connect_packet("nonsense", device["device_id"], "x"))
    assert made.take() == b"\x20\x02\0\2" and made.closed() == 1000


# ---- real clients

def test_paho(platform, api, device, port):
    stamp, seen = timestamp(), []
    client = paho.Client(f"{device['device_id']}_0_0_{stamp}", transport="websockets", protocol=paho.MQTTv5)
    client.ws_set_options("/mqtt")
    client.username_pw_set(device["device_id"], password(device["auth_info"]["secret"], stamp))
    client.on_message = lambda c, u, m: seen.append(m.payload)
    client.connect("127.0.0.1", port, 60)
    client.loop_start()
    try:
        wait_until(client.is_connected)
        api.post(f"/devices/{device['device_id']}/messages", {"message": "hello", "payload_format": "raw"})
        wait_until(lambda: seen == [b"hello"])
    finally:
        client.loop_stop()
        client.disconnect()


SCRIPT = """
const mqtt = require("mqtt"), [url, id, client, password, ca] = process.argv.slice(2);
const c = mqtt.connect(url, { clientId: client, username: id, password, protocolVersion: 5, reconnectPeriod: 0,
                              ca: ca && require("fs").readFileSync(ca), keepalive: 60 });
c.on("error", e => { console.error(e); process.exit(1); });
c.on("connect", async () => {
  await c.subscribeAsync("js/answers", { qos: 1 });
  c.on("message", (topic, body) => { console.log(topic, body.toString()); c.end(false, {}, () => process.exit(0)); });
  await c.publishAsync("js/answers", "from js", { qos: 1, properties: { userProperties: { a: "b" } } });
});
setTimeout(() => process.exit(2), 15000);
"""


@pytest.fixture(scope="module")
def mqtt_js(tmp_path_factory):
    """The `mqtt` package of npm; skipped where npm or its registry is not there."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("mqttjs")
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), MQTT_JS],
                          capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip("the npm registry is not reachable")
    (folder / "client.js").write_text(SCRIPT)
    return folder


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_mqtt_js(platform, device, port, secure_port, mqtt_js, secure):
    stamp = timestamp()
    url = f"wss://127.0.0.1:{secure_port}/mqtt" if secure else f"ws://127.0.0.1:{port}/mqtt"
    done = subprocess.run(
        ["node", str(mqtt_js / "client.js"), url, device["device_id"], f"{device['device_id']}_0_0_{stamp}",
         password(device["auth_info"]["secret"], stamp), platform.access["CAUSEWAY_CA_FILE"] if secure else ""],
        capture_output=True, text=True, timeout=60, env={**os.environ, "NODE_PATH": str(mqtt_js / "node_modules")})
    assert done.returncode == 0 and done.stdout == "js/answers from js\n", (done.stdout, done.stderr)


def test_secure(platform, api, device, secure_port):
    made = Web(secure_port, ca=platform.access["CAUSEWAY_CA_FILE"])
    assert made.status == 101
    made.send(login(device))
    assert made.take() == b"\x20\x02\0\0"
    made.send(report(device, 9))
    assert made.take() == b"\x40\x02\0\1"
    made.close()

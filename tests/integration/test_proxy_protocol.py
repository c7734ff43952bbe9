"""The PROXY protocol: an entry in front of the gateways says whom a connection comes from; nobody else may."""
import socket
import ssl
import struct

import pytest

from rawmqtt import connect_packet, password, timestamp
from waiting import wait_until

ENTRY, CLIENT = "127.0.0.2", "203.0.113.9"
V1 = f"PROXY TCP4 {CLIENT} 127.0.0.1 4711 1883\r\n".encode()
V2 = (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + socket.inet_aton(CLIENT) + socket.inet_aton("127.0.0.1")
      + struct.pack(">HH", 4711, 1883))
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


@pytest.fixture(scope="module")
def behind():
    from platform_under_test import Platform
    platform = Platform(etc={"mqtt-gateway": f"PROXY_FROM={ENTRY}", "rest-gateway": f"PROXY_FROM={ENTRY}/32 fd00::/8"})
    platform.start()
    yield platform
    platform.stop()


def dial(port, header, source=ENTRY, tls=None):
    s = socket.create_connection(("127.0.0.1", port), 10, source_address=(source, 0))
    try:
        for at in range(0, len(header), 7):  # in pieces
            s.sendall(header[at:at + 7])
    except ConnectionError:
        pass  # refused before its end: who reads next sees that
    if tls:
        context = ssl.create_default_context(cafile=tls)
        s = context.wrap_socket(s, server_hostname="localhost")
    return s


def greet(s, device):
    """The code of CONNACK; None: closed."""
    stamp = timestamp()
    try:
        s.sendall(connect_packet(f"{device['device_id']}_0_0_{stamp}", device["device_id"],
                                 password(device["auth_info"]["secret"], stamp)))
        got = s.recv(4)
    except ConnectionError:
        return None
    return got[3] if len(got) == 4 else None


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_device_is_who_the_entry_says(behind, header, tls):
    api = behind.api
    device = api.new_device(api.new_product()["product_id"])
    port, ca = (behind.mqtts_port, behind.access["CAUSEWAY_CA_FILE"]) if tls else (behind.mqtt_port, None)
    with dial(port, header, tls=ca) as s:
        assert greet(s, device) == 0
        wait_until(lambda: api.why(device["device_id"])["state"].get("peer") == f"{CLIENT}:4711", 5, 0.05, "its address")


def test_who_is_believed(behind):
    api = behind.api
    device = api.new_device(api.new_product()["product_id"])
    for header, source, code in ((b"", ENTRY, None), (V1, "127.0.0.1", None), (b"", "127.0.0.1", 0), (LOCAL, ENTRY, 0),
                                 (b"PROXY TCP4 nonsense\r\n", ENTRY, None), (b"\x00" * 40, ENTRY, None)):
        with dial(behind.mqtt_port, header, source) as s:
            assert greet(s, device) == code, (header, source)


def test_rest(behind):
    port = int(behind.access["CAUSEWAY_REST_URL"].rpartition(":")[2])
    for header, source, fine in ((V1, ENTRY, True), (V2, ENTRY, True), (LOCAL, ENTRY, True), (b"", "127.0.0.1", True),
                                 (b"", ENTRY, False), (V1, "127.0.0.1", False)):
        with dial(port, header, source) as s:
            try:
                s.sendall(b"GET /v3/projects HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: s.recv(65536), b""))
            except ConnectionError:
                answer = b""
            assert answer.startswith(b"HTTP/1.1 401") == fine, (header, source, answer)
    with open(f"{behind.var}/log/rest-gateway.1/current") as log:
        assert f"peer={CLIENT}:4711" in log.read()

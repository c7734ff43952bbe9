"""MQTT 5 on a socket, written from the standard: what rawmqtt.py is for 3.1.1."""
import struct

from rawmqtt import Wire, packet, password, text, timestamp
from waiting import wait_until

BYTE, TWO, FOUR, VARIABLE, BYTES, TEXT, PAIR = range(7)
FORMS = {0x01: BYTE, 0x02: FOUR, 0x03: TEXT, 0x08: TEXT, 0x09: BYTES, 0x0b: VARIABLE, 0x11: FOUR, 0x12: TEXT, 0x13: TWO,
         0x15: TEXT, 0x16: BYTES, 0x17: BYTE, 0x18: FOUR, 0x19: BYTE, 0x1a: TEXT, 0x1c: TEXT, 0x1f: TEXT, 0x21: TWO,
         0x22: TWO, 0x23: TWO, 0x24: BYTE, 0x25: BYTE, 0x26: PAIR, 0x27: FOUR, 0x28: BYTE, 0x29: BYTE, 0x2a: BYTE}


def variable(n):
    out = b""
    while True:
        out += bytes([n & 127 | (128 if n > 127 else 0)])
        n >>= 7
        if not n:
            return out


def props(*pairs):
    """(identifier, value)…; the value of 0x26 is a pair."""
    body = b""
    for name, value in pairs:
        form = FORMS[name]
        body += bytes([name])
        if form in (BYTE, TWO, FOUR):
            body += value.to_bytes({BYTE: 1, TWO: 2, FOUR: 4}[form], "big")
        elif form == VARIABLE:
            body += variable(value)
        elif form == PAIR:
            body += text(value[0]) + text(value[1])
        else:
            body += text(value)
    return variable(len(body)) + body


def read_props(data):
    """({identifier: value or [values of 0x26]}, the rest)"""
    size, at = 0, 0
    while True:
        size |= (data[at] & 127) << (7 * at)
        at += 1
        if not data[at - 1] & 128:
            break
    body, rest, out = data[at:at + size], data[at + size:], {}

    def take_text():
        nonlocal body
        n = struct.unpack(">H", body[:2])[0]
        value, body = body[2:2 + n], body[2 + n:]
        return value
    while body:
        name, body = body[0], body[1:]
        form = FORMS[name]
        if form in (BYTE, TWO, FOUR):
            n = {BYTE: 1, TWO: 2, FOUR: 4}[form]
            value, body = int.from_bytes(body[:n], "big"), body[n:]
        elif form == PAIR:
            value = (take_text().decode(), take_text().decode())
        else:
            value = take_text()
        if form == PAIR:
            out.setdefault(name, []).append(value)
        else:
            assert name not in out, f"property {name:#x} twice"
            out[name] = value
    return out, rest


class Peer:
    """A connection; packets come as (type, flags, body)."""

    def __init__(self, platform, device=None, **connect):
        self.wire = Wire("127.0.0.1", platform.mqtt_port)
        self.packets = []
        self.wire.on_packet = lambda first, body: self.packets.append((first >> 4, first & 15, body))
        self.wire.start()
        self.id = device["device_id"] if device else ""
        if device:
            self.send_connect(device, **connect)
            self.connack = self.take(2)

    def send_connect(self, device, flags=0xc2, keep_alive=60, properties=b"\0", will=b"", level=5, client_id=None,
                     user=None, pw=None):
        stamp = timestamp()
        client_id = f"{device['device_id']}_0_0_{stamp}" if client_id is None else client_id
        body = text("MQTT") + bytes([level, flags]) + struct.pack(">H", keep_alive) + properties + text(client_id) + will
        if flags & 0x80:
            body += text(device["device_id"] if user is None else user)
        if flags & 0x40:
            body += text(password(device["auth_info"]["secret"], stamp) if pw is None else pw)
        self.wire.send(packet(0x10, body))

    def take(self, kind, timeout=10):
        """The next packet of this type."""
        def found():
            for i, p in enumerate(self.packets):
                if p[0] == kind:
                    return self.packets.pop(i)
        return wait_until(found, timeout, 0.002, f"a packet of type {kind}; there are {self.packets}")

    def publish(self, topic, payload=b"", qos=1, packet_id=1, properties=b"\0", flags=0):
        body = text(topic) + (struct.pack(">H", packet_id) if qos else b"") + properties + payload
        self.wire.send(packet(0x30 | qos << 1 | flags, body))

    def subscribe(self, topic, options=1, properties=b"\0"):
        self.wire.send(packet(0x82, b"\0\5" + properties + text(topic) + bytes([options])))
        return self.take(9)[2]

    def topic(self, name):
        return f"$oc/devices/{self.id}/sys/{name}"

    def disconnected(self):
        """The reason of the server's DISCONNECT, which is its last packet."""
        _, _, body = self.take(14)
        wait_until(self.wire.closed.is_set, 10, 0.01, "closed by the server")
        return body[0]

    def message(self):
        """(topic, QoS, packet id, properties, payload) of the next PUBLISH."""
        _, flags, body = self.take(3)
        size = struct.unpack(">H", body[:2])[0]
        topic, rest, qos = body[2:2 + size].decode(), body[2 + size:], flags >> 1 & 3
        packet_id = None
        if qos:
            packet_id, rest = struct.unpack(">H", rest[:2])[0], rest[2:]
        properties, payload = read_props(rest)
        return topic, qos, packet_id, properties, payload

    def puback(self, packet_id, reason=None):
        self.wire.send(packet(0x40, struct.pack(">H", packet_id) + (bytes([reason]) if reason is not None else b"")))

    def ping(self):
        self.wire.send(b"\xc0\0")
        self.take(13)

    def close(self):
        self.wire.close()

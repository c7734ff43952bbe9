"""A device: MQTT 3.1.1 on a socket, written from the standard. Nothing of ours inside, so that it can
also do what a decent client would not: garbage, silence, missing PUBACKs, sudden ends."""
import hashlib
import hmac
import json
import queue
import select
import socket
import ssl
import struct
import threading
import time

from waiting import wait_until

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14


def timestamp(offset_h=0):
    return time.strftime("%Y%m%d%H", time.gmtime(time.time() + offset_h * 3600))


def password(secret, stamp):
    return hmac.new(stamp.encode(), secret.encode(), hashlib.sha256).hexdigest()


def text(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack(">H", len(raw)) + raw


def packet(first, body):
    length, size = b"", len(body)
    while True:
        byte, size = size & 127, size >> 7
        length += bytes([byte | (128 if size else 0)])
        if not size:
            return bytes([first]) + length + body


def connect_packet(client_id, user=None, pw=None, keep_alive=60, clean=True, level=4, name="MQTT",
                   will=None):
    flags = (2 if clean else 0) | (128 if user is not None else 0) | (64 if pw is not None else 0)
    flags |= 4 if will else 0
    body = text(name) + bytes([level, flags]) + struct.pack(">H", keep_alive) + text(client_id)
    if will:
        body += text(will[0]) + text(will[1])
    for part in (user, pw):
        if part is not None:
            body += text(part)
    return packet(0x10, body)


def publish_packet(topic, payload, qos=0, packet_id=0, dup=False, retain=False):
    first = 0x30 | qos << 1 | (8 if dup else 0) | (1 if retain else 0)
    return packet(first, text(topic) + (struct.pack(">H", packet_id) if qos else b"") + payload)


class Message:
    def __init__(self, first, body):
        size = struct.unpack(">H", body[:2])[0]
        self.topic = body[2:2 + size].decode()
        self.qos, self.dup, self.retain = first >> 1 & 3, bool(first & 8), bool(first & 1)
        at = 2 + size + (2 if self.qos else 0)
        self.packet_id = struct.unpack(">H", body[2 + size:at])[0] if self.qos else None
        self.payload, self.at = body[at:], time.monotonic()

    @property
    def json(self):
        return json.loads(self.payload)

    def __repr__(self):
        return f"<{self.topic} {self.payload[:200]!r} qos={self.qos} dup={self.dup}>"


class Wire:
    """One connection: bytes out, packets in. A thread reads; `closed` is set when it ended."""

    def __init__(self, host, port, tls_ca=None, certificate=None, server_name=None):
        self.sock = socket.create_connection((host, port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls_ca:
            context = ssl.create_default_context(cafile=tls_ca)
            if certificate:
                context.load_cert_chain(certificate)
            self.sock = context.wrap_socket(self.sock, server_hostname=server_name or host)
        self.tls = bool(tls_ca)
        self.sock.settimeout(0 if self.tls else None)
        self.closed = threading.Event()
        self.sending = threading.Lock()
        self.on_packet = lambda first, body: None
        self.reader = None

    def start(self):
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def send(self, data):
        with self.sending:
            while self.tls and data:
                try:
                    data = data[self.sock.send(data):]
                except ssl.SSLWantWriteError:
                    select.select([], [self.sock], [], 10)
            if data:
                self.sock.sendall(data)

    def _receive(self):
        """A TLS session must not be read and written at the same time, so it never blocks."""
        while self.tls:
            if not self.sock.pending():
                select.select([self.sock], [], [])
            with self.sending:
                try:
                    return self.sock.recv(65536)
                except ssl.SSLWantReadError:
                    pass
        return self.sock.recv(65536)

    def _read(self):
        data = b""
        try:
            while True:
                chunk = self._receive()
                if not chunk:
                    break
                data += chunk
                while (cut := self._cut(data)) is not None:
                    first, body, data = cut
                    self.on_packet(first, body)
        except (OSError, ValueError):  # ValueError: we closed it while it was being read
            pass
        self.closed.set()

    @staticmethod
    def _cut(data):
        size, shift = 0, 0
        for i in range(1, min(len(data), 5)):
            size |= (data[i] & 127) << shift
            shift += 7
            if not data[i] & 128:
                if len(data) < i + 1 + size:
                    return None
                return data[0], data[i + 1:i + 1 + size], data[i + 1 + size:]
        return None

    def drop(self):
        """Ends without a word: the other side gets a reset."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.shutdown(socket.SHUT_RD)  # frees the reading thread
        except OSError:
            pass
        self.sock.close()
        self.closed.set()

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class Refused(Exception):
    def __init__(self, code):
        super().__init__(f"CONNACK {code}")
        self.code = code


class Device:
    """A device that is, or was, connected. Use as a context: leaving it disconnects politely."""

    def __init__(self, host, port, device_id, secret, tls_ca=None, sign_type=0, keep_alive=60,
                 stamp=None, client_id=None, user=None, pw=None, ack=True, connack_s=15, certificate=None, clean=True,
                 server_name=None):
        stamp = stamp or timestamp()
        self.id, self.ack, self.answers, self.replies = device_id, ack, None, {}
        self.received, self.commands, self.acked = [], [], []
        self.connack, self.subacks, self.present = queue.Queue(), queue.Queue(), None
        self.pings = 0
        self.next_id, self.lock = 0, threading.Lock()
        self.wire = Wire(host, port, tls_ca, certificate, server_name)
        self.wire.on_packet = self._on_packet
        self.wire.start()
        self.wire.send(connect_packet(
            client_id if client_id is not None else f"{device_id}_0_{sign_type}_{stamp}",
            device_id if user is None else user,
            password(secret, stamp) if pw is None else pw, keep_alive, clean))
        try:
            code = self._connack(connack_s)
        except AssertionError:
            self.wire.drop()
            raise
        if code:
            self.wire.close()
            raise Refused(code)

    def _connack(self, timeout):
        def answered():
            return not self.connack.empty() or self.wire.closed.is_set()
        wait_until(answered, timeout, 0.002, "CONNACK")
        if self.connack.empty():
            raise Refused(None)
        return self.connack.get()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.disconnect()

    # ---- what arrives

    def _on_packet(self, first, body):
        kind = first >> 4
        if kind == CONNACK:
            self.present = bool(body[0])
            self.connack.put(body[1])
        elif kind == PUBACK:
            self.acked.append(struct.unpack(">H", body[:2])[0])
        elif kind == SUBACK:
            self.subacks.put(list(body[2:]))
        elif kind == PINGRESP:
            self.pings += 1
        elif kind == PUBLISH:
            self._on_publish(Message(first, body))

    def _on_publish(self, message):
        self.received.append(message)
        if message.qos and self.ack:
            self.puback(message.packet_id)
        if "/sys/commands/request_id=" in message.topic:
            self.commands.append(message.json)
            if self.answers is not None:
                answer = self.answers(message.json) if callable(self.answers) else self.answers
                if answer is not None:
                    self.answer(message, answer)

        for part, payload in self.replies.items():
            if f"/sys/{part}/request_id=" in message.topic:
                self.publish(message.topic.replace("/request_id=", "/response/request_id="), payload)

    def on(self, part):
        """Messages whose topic contains `part`."""
        return [m for m in self.received if part in m.topic]

    def wait_for(self, part, count=1, timeout=10):
        return wait_until(lambda: (got := self.on(part)) and len(got) >= count and got, timeout, 0.01,
                          f"{count} messages on {part}")

    # ---- what it says

    def topic(self, name):
        return f"$oc/devices/{self.id}/sys/{name}"

    def publish(self, topic, payload, qos=1, dup=False, packet_id=None, retain=False):
        """Returns the packet id, does not wait."""
        with self.lock:
            if packet_id is None:
                self.next_id = self.next_id % 65535 + 1
                packet_id = self.next_id
        if not isinstance(payload, bytes):
            payload = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
        self.wire.send(publish_packet(topic, payload, qos, packet_id, dup, retain))
        return packet_id

    def wait_acked(self, packet_id, timeout=10):
        wait_until(lambda: packet_id in self.acked, timeout, 0.002, f"PUBACK {packet_id}")

    def report(self, service, properties, **more):
        """Publishes one report with QoS 1 and waits for its PUBACK."""
        self.publish_acked(self.topic("properties/report"), {"services": [
            {"service_id": service, "properties": properties, **more}]})

    def publish_acked(self, topic, payload):
        self.wait_acked(self.publish(topic, payload))

    def answer(self, message, body):
        request = message.topic.split("request_id=", 1)[1]
        return self.publish(self.topic(f"commands/response/request_id={request}"), body)

    def answer_commands(self, body):
        """body: the answer, or a function of the command; None: says nothing."""
        self.answers = body

    def answer_requests(self, **replies):
        """What is said to each properties_set=…, properties_get=…"""
        self.replies = {name.replace("_", "/"): body for name, body in replies.items()}

    def puback(self, packet_id):
        self.wire.send(packet(0x40, struct.pack(">H", packet_id)))

    def subscribe(self, topic, qos=1):
        """The granted QoS, 128 for a refusal."""
        self.wire.send(packet(0x82, struct.pack(">H", 60001) + text(topic) + bytes([qos])))
        return self.subacks.get(timeout=10)[0]

    def ping(self):
        before = self.pings
        self.wire.send(b"\xc0\x00")
        wait_until(lambda: self.pings > before, 10, 0.005, "PINGRESP")

    def wait_closed(self, timeout=10):
        wait_until(self.wire.closed.is_set, timeout, 0.01, "connection closed by the platform")

    @property
    def connected(self):
        return not self.wire.closed.is_set()

    # ---- its end

    def disconnect(self):
        if not self.wire.closed.is_set():
            try:
                self.wire.send(b"\xe0\x00")
            except OSError:
                pass
        self.wire.close()

    def drop(self):
        self.wire.drop()

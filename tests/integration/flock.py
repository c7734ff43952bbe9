"""Thousands of devices on one thread: each connects, acknowledges messages and remembers which. For storms; a single
device is rawmqtt.Device."""
import collections
import json
import random
import selectors
import socket
import threading
import time

from rawmqtt import connect_packet, packet, password, timestamp

RETRY_S = 0.5


class Bird:
    """A device, and the connection that it has now."""

    def __init__(self, device_id, secret):
        self.id, self.secret = device_id, secret
        self.sock, self.data, self.online, self.next_try = None, b"", False, 0.0
        self.received = collections.Counter()  # message id: copies
        self.acked = set()  # message ids whose PUBACK was written
        self.foreign = []


class Flock(threading.Thread):
    """deaf: the share of messages that a device does not acknowledge (it drops the connection instead)."""

    def __init__(self, port, devices, deaf=0.0, seed=1):
        super().__init__(daemon=True)
        self.port, self.deaf, self.random = port, deaf, random.Random(seed)
        self.birds = [Bird(*d) for d in devices]
        self.selector, self.wishes = selectors.DefaultSelector(), collections.deque()
        self.ending, self.ghosts = threading.Event(), []
        self.connects = 0

    # ---- from other threads

    def drop(self, bird):
        """Its connection breaks; it comes again at once."""
        self.wishes.append((self._lose, bird))

    def double(self, bird):
        """It connects again without having closed: a takeover."""
        self.wishes.append((self._double, bird))

    def online(self):
        return sum(b.online for b in self.birds)

    def stop(self):
        self.ending.set()
        self.join(30)

    # ---- the loop

    def run(self):
        while not self.ending.is_set():
            self._connect_some()
            for _ in range(len(self.wishes)):
                wish, bird = self.wishes.popleft()
                wish(bird)
            for key, _ in self.selector.select(0.02):
                self._read(key.data, key.fileobj)
        for bird in self.birds:
            self._close(bird)

    def _connect_some(self, most=100):
        now = time.monotonic()
        for bird in self.birds:
            if bird.sock is None and bird.next_try <= now:
                self._connect(bird)
                most -= 1
                if not most:
                    return

    def _connect(self, bird):
        try:
            bird.sock = socket.create_connection(("127.0.0.1", self.port), timeout=5)
            stamp = timestamp()
            bird.sock.sendall(connect_packet(f"{bird.id}_0_0_{stamp}", bird.id, password(bird.secret, stamp)))
            bird.sock.setblocking(False)
            self.selector.register(bird.sock, selectors.EVENT_READ, bird)
            self.connects += 1
        except OSError:
            self._lose(bird)

    def _close(self, bird):
        if bird.sock is not None:
            try:
                self.selector.unregister(bird.sock)
            except (KeyError, ValueError):
                pass
            bird.sock.close()
        bird.sock, bird.data, bird.online = None, b"", False

    def _lose(self, bird):
        self._close(bird)
        bird.next_try = time.monotonic() + self.random.random() * RETRY_S

    def _double(self, bird):
        if bird.sock is None:
            return
        old = bird.sock
        self.selector.unregister(old)
        self.ghosts.append(old)  # the platform ends it
        bird.sock, bird.data, bird.online = None, b"", False

    def _read(self, bird, sock):
        if sock is not bird.sock:
            return
        try:
            chunk = sock.recv(65536)
        except OSError:
            chunk = b""
        if not chunk:
            self._lose(bird)
            return
        bird.data += chunk
        while bird.sock is sock and (cut := self._cut(bird)):
            self._take(bird, *cut)

    @staticmethod
    def _cut(bird):
        data, size, shift = bird.data, 0, 0
        for i in range(1, min(len(data), 5)):
            size |= (data[i] & 127) << shift
            shift += 7
            if not data[i] & 128:
                if len(data) < i + 1 + size:
                    return None
                bird.data = data[i + 1 + size:]
                return data[0], data[i + 1:i + 1 + size]
        return None

    def _take(self, bird, first, body):
        if first >> 4 == 2:
            bird.online = body[1] == 0
            if not bird.online:
                self._lose(bird)
        elif first >> 4 == 3:
            self._message(bird, body)

    def _message(self, bird, body):
        size = int.from_bytes(body[:2], "big")
        topic, packet_id, payload = body[2:2 + size].decode(), body[2 + size:4 + size], body[4 + size:]
        message = json.loads(payload)["id"]
        bird.received[message] += 1
        if bird.id not in topic:
            bird.foreign.append(topic)
        if self.random.random() < self.deaf:
            self._lose(bird)
            return
        try:
            bird.sock.sendall(packet(0x40, packet_id))
            bird.acked.add(message)
        except OSError:
            self._lose(bird)

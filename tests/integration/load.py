"""Devices that keep talking while things break. None ever sends a report twice, so what the platform
has twice was doubled there. Each remembers what it sent, over which connection, and what was
acknowledged; `compare` holds that against history and against what the application got."""
import collections
import json
import threading
import time

import rawmqtt
from rest import sequence
from waiting import wait_until

STALL_S = 4.0  # without a PUBACK for so long the connection is given up


class _Peer(rawmqtt.Device):
    """Tells its talker about each PUBACK."""

    def __init__(self, talker, *args, **more):
        self.talker, self.flying = talker, collections.deque()
        super().__init__(*args, **more)

    def _on_packet(self, first, body):
        if first >> 4 == rawmqtt.PUBACK:
            self.talker.on_puback(self, int.from_bytes(body[:2], "big"))
        else:
            super()._on_packet(first, body)


class Talker(threading.Thread):
    def __init__(self, platform, device, rate, window):
        super().__init__(daemon=True)
        self.platform, self.device, self.pause, self.window = platform, device, 1 / rate, window
        self.id = device["device_id"]
        self.sent, self.acked, self.disorder = {}, [], []  # sent: seq -> connection
        self.connections, self.refusals = 0, collections.Counter()
        self.progress, self.ending = threading.Condition(), threading.Event()

    def run(self):
        while not self.ending.is_set():
            try:
                self._session()
            except (OSError, AssertionError):
                self.ending.wait(0.1)
            except rawmqtt.Refused as refusal:
                self.refusals[refusal.code] += 1
                self.ending.wait(0.2)

    def _session(self):
        peer = _Peer(self, "127.0.0.1", self.platform.mqtt_port, self.id,
                     self.device["auth_info"]["secret"], connack_s=STALL_S)
        self.connections += 1
        try:
            while not self.ending.is_set() and self._room(peer, self.window):
                self._say(peer)
                self.ending.wait(self.pause)
            if self.ending.is_set():
                self._room(peer, 1)
                peer.disconnect()
        finally:
            peer.drop()

    def _room(self, peer, window):
        """Waits until fewer than `window` reports fly. False: nothing moves any more."""
        with self.progress:
            while len(peer.flying) >= window:
                flying = len(peer.flying)
                self.progress.wait(STALL_S)
                if peer.wire.closed.is_set() or len(peer.flying) == flying:
                    return False
        return not peer.wire.closed.is_set()

    def _say(self, peer):
        seq = len(self.sent)
        with self.progress:
            packet_id = peer.next_id = peer.next_id % 65535 + 1
            peer.flying.append((packet_id, seq))
            self.sent[seq] = self.connections
        body = {"services": [{"service_id": "Load", "properties": {"seq": seq}}]}
        peer.wire.send(rawmqtt.publish_packet(peer.topic("properties/report"),
                                              json.dumps(body).encode(), 1, packet_id))

    def on_puback(self, peer, packet_id):
        with self.progress:
            expected, seq = peer.flying.popleft() if peer.flying else (None, None)
            if packet_id != expected:
                self.disorder.append((packet_id, expected))
            else:
                self.acked.append(seq)
            self.progress.notify_all()


class Load:
    """Use as a context: leaving it waits for the PUBACKs that are still out."""

    def __init__(self, platform, product_id, devices=8, rate=25, window=16):
        self.talkers = [Talker(platform, platform.api.new_device(product_id), rate, window)
                        for _ in range(devices)]

    def __enter__(self):
        for talker in self.talkers:
            talker.start()
        self.wait_progress(1)
        return self

    def __exit__(self, *_):
        for talker in self.talkers:
            talker.ending.set()
        for talker in self.talkers:
            talker.join(30)

    def wait_progress(self, count=10, timeout=45, why="devices are served"):
        """Each device gets `count` more PUBACKs."""
        goal = {t: len(t.acked) + count for t in self.talkers}

        def all_there():
            return all(len(t.acked) >= goal[t] for t in self.talkers)
        begun = time.monotonic()
        wait_until(all_there, timeout, 0.05, f"{why}: {[len(t.acked) for t in self.talkers]}")
        return time.monotonic() - begun

    @property
    def acked(self):
        return sum(len(t.acked) for t in self.talkers)


def first_of_each(items):
    return list(dict.fromkeys(items))


def pushed_by_device(records):
    """{device_id: sequence numbers as the application took them, a repetition counted once}."""
    seen, repeated, got = set(), 0, collections.defaultdict(list)
    for record in list(records):
        if record.answered != 200:
            continue
        note = record.body
        if note["request_id"] in seen:
            repeated += 1
            continue
        seen.add(note["request_id"])
        for service in note["notify_data"]["body"]["services"]:
            got[note["notify_data"]["header"]["device_id"]].append(service["properties"]["seq"])
    return got, repeated


def compare(api, load, records, settle_s=60):
    """Acknowledged is in history, once and in order, and exactly history was pushed, in its order."""
    assert all(not t.disorder for t in load.talkers), [t.disorder[:3] for t in load.talkers]

    def all_pushed():
        pushed, _ = pushed_by_device(records())
        return all(set(t.acked) <= set(pushed[t.id]) for t in load.talkers)
    try:
        wait_until(all_pushed, settle_s, 0.5)
    except AssertionError:
        pass  # what is missing is said below, by device
    for talker in load.talkers:
        kept = sequence(api.history(talker.id))
        lost = sorted(set(talker.acked) - set(kept))
        assert not lost, f"{talker.id}: acknowledged but not in history: {lost[:20]} of {len(lost)}"
        assert len(kept) == len(set(kept)), f"{talker.id}: twice in history: " + \
            str([s for s, n in collections.Counter(kept).items() if n > 1][:20])
        invented = set(kept) - set(talker.sent)
        assert not invented, f"{talker.id}: never sent: {sorted(invented)[:20]}"
        acknowledged = set(talker.acked)
        ordered = [s for s in kept if s in acknowledged]
        assert ordered == sorted(ordered), f"{talker.id}: out of order: {_breaks(ordered)}"
        for connection in range(1, talker.connections + 1):
            mine = [s for s in kept if talker.sent[s] == connection]
            assert mine == sorted(mine), \
                f"{talker.id}: out of order within connection {connection}: {_breaks(mine)}"

        def pushed_all():
            return set(kept) <= set(pushed_by_device(records())[0][talker.id])
        wait_until(pushed_all, settle_s, 0.5, f"{talker.id}: history is pushed, missing: " + str(
            sorted(set(kept) - set(pushed_by_device(records())[0][talker.id]))[:20]))
        pushed = pushed_by_device(records())[0][talker.id]
        assert pushed == kept, f"{talker.id}: pushed in another order: {_difference(pushed, kept)}"


def _breaks(numbers):
    return [(a, b) for a, b in zip(numbers, numbers[1:]) if b < a][:10]


def _difference(left, right):
    at = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
    return f"at {at}: {left[at:at + 8]} instead of {right[at:at + 8]}"

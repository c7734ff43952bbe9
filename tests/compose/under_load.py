"""Devices that report while things are broken, and the comparison afterwards."""
import base64
import threading
import time

import deployment  # noqa: F401  finds the modules of tests/integration
from rest import Unexpected
from waiting import wait_until


def text_of(row):
    """What a device said, of a row of its history."""
    body = row.get("raw", row.get("body"))
    if isinstance(body, str):
        try:
            return str(int(body))
        except ValueError:
            return base64.b64decode(body).decode()
    return str(body)


class Load:
    """Devices that report without end; each acknowledged report must be in the history, in order."""

    def __init__(self, deployment, devices=20):
        self.deployment = deployment
        product = deployment.api.new_product()["product_id"]
        self.devices = [deployment.api.new_device(product) for _ in range(devices)]
        self.acked = {d["device_id"]: [] for d in self.devices}
        self.stopped = False
        self.threads = [threading.Thread(target=self._play, args=(d,), daemon=True) for d in self.devices]

    def __enter__(self):
        for t in self.threads:
            t.start()
        wait_until(lambda: all(self.acked.values()), 60, 0.05, "all report")
        return self

    def __exit__(self, *_):
        self.stopped = True
        for t in self.threads:
            t.join(60)

    def total(self):
        return sum(map(len, self.acked.values()))

    def _play(self, device):
        seq, peer = 0, None
        while not self.stopped:
            try:
                peer = peer or self.deployment.connect(device, connack_s=5)
                peer.wait_acked(peer.publish(peer.topic("messages/up"), str(seq)), 5)
                self.acked[device["device_id"]].append(seq)
                seq += 1
                time.sleep(0.02)
            except Exception:  # the connection broke, or nobody answers now: the device comes again with what is not acked
                peer = peer and peer.drop()
                time.sleep(0.1)
        if peer:
            peer.drop()

    def compare(self):
        for device_id, acked in self.acked.items():
            rows = wait_until(lambda: (got := self.stored(device_id)) and set(acked) <= set(got) and got, 60, 0.2,
                              f"what was acknowledged to {device_id} is stored")
            first = [n for i, n in enumerate(rows) if n not in rows[:i]]
            assert first == sorted(first), "in order"

    def stored(self, device_id):
        try:
            return [int(text_of(r)) for r in self.deployment.api.history(device_id)]
        except Unexpected:  # a part is still coming back
            return []

"""A list of 5,000 is walked while rows come and go: each row that stays is met once."""
import itertools
import queue
import threading
import time

import pytest

from rest import Api
from rows import load
from waiting import wait_until

N = 5000


@pytest.fixture
def crowd(platform, api):
    """(product_id, ids of the devices that stay, ids of those that may go)"""
    product = api.new_product()["product_id"]
    mark = load(platform, product, N)
    every = [f"{product}_{mark}{i}" for i in range(1, N + 1)]
    return product, {d for i, d in enumerate(every) if i % 5}, [d for i, d in enumerate(every) if i % 5 == 0]


class Churn:
    """Adds devices of the product, and deletes what delete() names next, until the end."""

    def __init__(self, platform, product, delete):
        self.api = Api(platform.access)
        self.product, self.delete, self.done, self.deleted = product, delete, threading.Event(), 0
        self.threads = [threading.Thread(target=self._add), threading.Thread(target=self._delete)]

    def __enter__(self):
        self.api.login()
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        for t in self.threads:
            t.join()

    def _add(self):
        api = Api(self.api.env)
        api.token = self.api.token
        for n in itertools.count():
            if self.done.is_set():
                return
            api.post("/devices", {"node_id": f"fresh{n}", "product_id": self.product})

    def _delete(self):
        while not self.done.is_set():
            if (device := self.delete()) is None:
                return
            self.api.delete(f"/devices/{device}")
            self.deleted += 1


def test_with_marker_each_row_is_met_once(platform, api, crowd):
    product, stay, go = crowd
    left = iter(go)
    with Churn(platform, product, lambda: next(left, None)) as churn:
        met, marker = [], None
        while True:
            page = api.get("/devices", product_id=product, limit=50, **({"marker": marker} if marker else {}))
            met += [d["device_id"] for d in page["devices"]]
            if not page["devices"]:
                break
            marker = page["page"]["marker"]
    assert len(met) == len(set(met)), "none twice"
    assert stay <= set(met), "none left out"
    assert churn.deleted > 10


def test_with_offset_each_row_is_met_once(platform, api, crowd):
    """Offsets count from a marker, over the rows that are there: what goes behind the marker moves nothing."""
    product, stay, go = crowd
    passed = queue.Queue()  # rows before the marker: they go
    met, marker = [], f"{int(time.time()) - 1:08x}" + "f" * 16
    with Churn(platform, product, passed.get) as churn:
        while True:
            window = []
            for offset in range(0, 500, 50):
                page = api.get("/devices", product_id=product, limit=50, offset=offset, marker=marker)
                window += [(d["device_id"], page["page"]["marker"]) for d in page["devices"]]
            met += [device for device, _ in window]
            for device, _ in window:
                if device in go:
                    passed.put(device)
            if len(window) < 500:
                break
            marker = window[-1][1]
        wait_until(lambda: churn.deleted > 10, 10, 0.01, "some have gone")
        passed.put(None)
    assert len(met) == len(set(met)) == N and stay | set(go) == set(met), "each one once"

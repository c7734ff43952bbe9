"""Two gateways, two registries: what an application decides about a device is so everywhere within a second."""
import time

import pytest

import rawmqtt
from platform_under_test import Platform
from waiting import wait_until

pytestmark = pytest.mark.long
SOON = 1.0


@pytest.fixture(scope="module")
def pair():
    platform = Platform(instances="mqtt-gateway=2 device-registry=2 rest-gateway=2")
    try:
        yield platform.start()
    finally:
        platform.stop()


@pytest.fixture(scope="module")
def pump(pair):
    return pair.api.new_product()["product_id"]


def holders(pair, product, count=2):
    """{gateway number: (device, connection)}"""
    found = {}
    while len(found) < count:
        device = pair.api.new_device(product)
        before = [pair.sessions(n) for n in (1, 2)]
        peer = pair.connect(device)
        n = wait_until(lambda: [n for n in (1, 2) if pair.sessions(n) > before[n - 1]], 5, 0.01, "a session")[0]
        found.setdefault(n, (device, peer))
    return found


ENDS = {
    "deleted": lambda api, d: api.delete(f"/devices/{d}"),
    "frozen": lambda api, d: api.post(f"/devices/{d}/freeze", status=204),
    "secret reset": lambda api, d: api.post(f"/devices/{d}/action", {"force_disconnect": True}, status=200,
                                            action_id="resetSecret"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_session_ends_on_every_instance(pair, pump, end):
    for number, (device, peer) in holders(pair, pump).items():
        begun = time.monotonic()
        ENDS[end](pair.api, device["device_id"])
        peer.wait_closed(SOON)
        took = time.monotonic() - begun
        assert took < SOON, f"gateway {number}: {took:.3f} s"
        refusals = set()
        for _ in range(8):  # whichever gateway and registry it comes to
            with pytest.raises(rawmqtt.Refused) as refusal:
                pair.connect(device)
            refusals.add(refusal.value.code)
        assert refusals <= {4, 5} and len(refusals) == 1, refusals


def test_an_old_secret_opens_nothing_on_any_instance(pair, pump):
    """Without cutting the session: whoever comes next needs the new one, at once."""
    device = pair.api.new_device(pump)
    for _ in range(4):  # both registries have opened its secret
        pair.connect(device).disconnect()
    old = device["auth_info"]["secret"]
    new = pair.api.post(f"/devices/{device['device_id']}/action", {}, status=200, action_id="resetSecret")["secret"]
    for _ in range(8):
        with pytest.raises(rawmqtt.Refused):
            pair.connect(device, secret=old)
        pair.connect(device, secret=new).disconnect()


def test_unfrozen_it_comes_back_everywhere(pair, pump):
    device = pair.api.new_device(pump)
    pair.api.post(f"/devices/{device['device_id']}/freeze", status=204)
    pair.api.post(f"/devices/{device['device_id']}/unfreeze", status=204)
    for _ in range(6):
        pair.connect(device).disconnect()

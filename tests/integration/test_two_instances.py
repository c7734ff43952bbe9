"""Two of every daemon: they share the work; one may die, one may stand still and wake again."""
import signal
import time

import pytest

import load
import rawmqtt
from platform_under_test import DAEMONS
from rest import sequence
from waiting import stays, wait_until

pytestmark = pytest.mark.long
TWO = " ".join(f"{name}=2" for name in DAEMONS)


def test_two_of_each_share_the_work_and_survive_each_other(watched):
    platform, product_id, subscription = watched(instances=TWO)
    for name in DAEMONS:
        assert len(platform.processes(name)) == 2, name
        assert all(platform.healthy(name, number) for number in (1, 2)), name
    _a_takeover_crosses_instances(platform, product_id)
    _devices_of_a_dead_gateway_go_offline(platform, product_id)
    with load.Load(platform, product_id) as talking:
        subscription.wait_for(talking.talkers[0].id)
        for name in DAEMONS:
            _kill_one(platform, talking, subscription, name)
        for name in DAEMONS:
            _stop_and_wake_one(platform, talking, subscription, name)
    load.compare(platform.api, talking, subscription.records)


def _arrived(subscription):
    return len(subscription.application.on(subscription.path))


def _moves_on(platform, talking, subscription, why):
    talking.wait_progress(15, 60, f"devices are served {why}")
    before = _arrived(subscription)
    wait_until(lambda: _arrived(subscription) > before + 30, 60, 0.1, f"reports are pushed {why}")


def _kill_one(platform, talking, subscription, name):
    platform.kill(name, index=1)
    _moves_on(platform, talking, subscription, f"after the end of one {name}")
    wait_until(lambda: all(platform.healthy(name, n) for n in (1, 2)), 30, 0.1, f"{name} is back")


def _stop_and_wake_one(platform, talking, subscription, name):
    pid = platform.instance(name, 1)
    platform.signal(pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        # longer than any lease: its partitions and devices are taken over meanwhile
        wait_until(lambda: time.monotonic() - begun > 6, 10)
        _moves_on(platform, talking, subscription, f"while one {name} stands still")
    finally:
        platform.signal(pid, signal.SIGCONT)
    wait_until(lambda: all(platform.healthy(name, n) for n in (1, 2)), 30, 0.1, f"{name} woke up")
    _moves_on(platform, talking, subscription, f"after one {name} woke up")


def _sessions(platform):
    return [platform.sessions(number) for number in (1, 2)]


def _a_takeover_crosses_instances(platform, product_id):
    """The kernel chooses the instance; so often that both have had the device."""
    device = platform.api.new_device(product_id)
    peers, seen = [], set()
    for turn in range(40):
        peer = platform.connect(device, stamp=rawmqtt.timestamp(-turn))
        if peers:
            peers[-1].wait_closed()
        peer.report("Load", {"seq": turn})
        peers.append(peer)
        wait_until(lambda: sum(_sessions(platform)) == 1, what="one session, whatever instance")
        seen.add(_sessions(platform).index(1))
        if len(seen) == 2 and turn > 5:
            break
    assert seen == {0, 1}, "40 connections on one instance only"
    wait_until(lambda: platform.api.device(device["device_id"])["status"] == "ONLINE")
    stays(lambda: platform.api.device(device["device_id"])["status"] == "ONLINE", 1, 0.2)
    rows = wait_until(lambda: len(r := platform.api.history(device["device_id"])) == len(peers) and r)
    assert sequence(rows) == list(range(len(peers)))
    peers[-1].disconnect()
    wait_until(lambda: sum(_sessions(platform)) == 0)


def _devices_of_a_dead_gateway_go_offline(platform, product_id):
    """They do not come back by themselves: silence of the gateway is enough."""
    devices = [platform.api.new_device(product_id) for _ in range(8)]
    peers = {d["device_id"]: platform.connect(d) for d in devices}
    for device in devices:
        wait_until(lambda: platform.api.device(device["device_id"])["status"] == "ONLINE")
    number = 1 if platform.sessions(1) else 2
    platform.signal(platform.instance("mqtt-gateway", number), signal.SIGKILL)
    lost = wait_until(lambda: [i for i, p in peers.items() if not p.connected])
    for device_id in lost:
        wait_until(lambda: platform.api.device(device_id)["status"] == "OFFLINE", 10, 0.1,
                   "OFFLINE within 10 s of the gateway's end")
    for device_id, peer in peers.items():
        if device_id not in lost:
            peer.ping()
            assert platform.api.device(device_id)["status"] == "ONLINE"
        peer.disconnect()
    wait_until(lambda: platform.healthy("mqtt-gateway", number), 20, 0.1)

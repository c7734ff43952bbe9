"""Takeovers, killed gateways and reconnections of 5,000 devices, while messages are sent to them: each arrives, at least
once, with its id; none is DELIVERED without the device's PUBACK."""
import random
import threading
import time

import pytest

from flock import Flock
from generators import call
from waiting import wait_until

pytestmark = pytest.mark.long
DEVICES, MESSAGES = 5000, 3000
SECRET = "0123456789abcdef"


def test_no_message_is_lost_in_a_storm(own_platform):
    platform = own_platform(instances="mqtt-gateway=3", etc={
        "mqtt-gateway": "CONNECT_LIMIT=30s", "rest-gateway": "REST_RATE=1000000"})  # one user alone asks here
    api, chance = platform.api, random.Random(7)
    product = api.new_product()["product_id"]
    told = call(api, "POST", "/devices", calls=DEVICES, connections=16, body=(
        '{"node_id":"n{n}","product_id":"%s","auth_info":{"secret":"%s"}}' % (product, SECRET)))
    assert told["status"] == {"201": DEVICES} or told.get("answered") == DEVICES, told
    flock = Flock(platform.mqtt_port, [(f"{product}_n{n}", SECRET) for n in range(1, DEVICES + 1)], deaf=0.05)
    flock.start()
    try:
        wait_until(lambda: flock.online() == DEVICES, 120, 0.2, "all are connected")
        sent = _send_in_a_storm(platform, flock, chance)
        wait_until(lambda: flock.online() == DEVICES, 120, 0.2, "all are connected again")
        left = "SELECT count(*) FROM command.message WHERE status = 'PENDING'"
        wait_until(lambda: platform.sql(left) == "0", 120, 0.5, "every message has come to its end")
    finally:
        flock.stop()
    _compare(platform, flock, sent)


def _send_in_a_storm(platform, flock, chance):
    """{message id: device id}; meanwhile connections break, double, and a gateway and a dispatcher are killed."""
    sent, lock, numbers, kills = {}, threading.Lock(), iter(range(MESSAGES)), []

    def send():
        api = type(platform.api)(platform.access)
        api.token = platform.api.token
        while True:
            with lock:
                n = next(numbers, None)
                bird = chance.choice(flock.birds)
            if n is None:
                return
            while len(kills) < 3 and n > MESSAGES * (len(kills) + 2) / 4:
                time.sleep(0.01)  # the kills are to fall among the messages
            for attempt in range(1000):  # 503 while a daemon is away: then nothing was promised
                name = f"m-{n}-{attempt}"
                got = api.call("POST", f"/devices/{bird.id}/messages", {"message": f"m{n}", "message_id": name})
                if got.status == 201:
                    sent[name] = bird.id
                    break
                assert got.status == 503, got
                time.sleep(0.05)
    threads = [threading.Thread(target=send) for _ in range(4)]
    for t in threads:
        t.start()
    begun = time.monotonic()
    while any(t.is_alive() for t in threads):
        for bird in chance.sample(flock.birds, 40):
            (flock.drop if chance.random() < 0.6 else flock.double)(bird)
        done = len(sent) / MESSAGES
        if len(kills) < 3 and done > (len(kills) + 1) / 4:
            kills.append(platform.kill("command-dispatcher" if len(kills) == 1 else "mqtt-gateway"))
        assert time.monotonic() - begun < 300
        time.sleep(0.1)
    assert len(kills) == 3 and len(sent) == MESSAGES
    return sent


def _compare(platform, flock, sent):
    birds = {b.id: b for b in flock.birds}
    rows = platform.sql("SELECT message_id, device_id, status FROM command.message").splitlines()
    status = {m: (d, s) for m, d, s in (r.split("|") for r in rows)}
    lost = [m for m, d in sent.items() if not birds[d].received[m]]
    assert not lost, f"{len(lost)} of {len(sent)} never arrived: {[(m, status[m]) for m in lost[:10]]}"
    assert not [b.foreign for b in flock.birds if b.foreign]
    strangers = [(b.id, m) for b in flock.birds for m in b.received if status.get(m, ("",))[0] != b.id]
    assert not strangers, strangers[:10]
    unfounded = [m for m, (d, s) in status.items() if s == "DELIVERED" and m not in birds[d].acked]
    assert not unfounded, f"DELIVERED without a PUBACK: {unfounded[:10]}"
    failed = {m: s for m, (d, s) in status.items() if s != "DELIVERED" and m in sent}
    assert not failed, f"{len(failed)} were not delivered: {list(failed.items())[:10]}"
    assert sum(n > 1 for b in flock.birds for n in b.received.values()), "some came twice, with the same id"

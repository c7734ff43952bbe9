"""The logs forget what every reader has passed, and only that."""
import re

import pytest

from generators import swarm
from waiting import wait_until

pytestmark = pytest.mark.long

DEVICES, REPORTS, BYTES = 64, 60, 60000  # 230 MB a round: more than what the 8 partitions of a log keep
LOGS = 24  # partitions of UPLINK, EVENT and PUSH


def trimmed(platform):
    """{(log, partition): the highest sequence it was trimmed to}"""
    found = {}
    for path in platform.log_files():
        for log, p, seq in re.findall(r"log_trimmed log=(\w+) partition=(\d+) seq=(\d+)", path.read_text()):
            found[log, int(p)] = max(found.get((log, int(p)), 0), int(seq))
    return found


def test_every_log_is_trimmed_behind_its_readers_and_nothing_is_lost(own_platform, sink, tmp_path):
    platform = own_platform()
    platform.api.new_rule(sink.url, "device.property", "report")
    product_id = platform.api.new_product()["product_id"]
    made = [platform.api.new_device(product_id) for _ in range(DEVICES)]
    (tmp_path / "devices").write_text("".join(f"{d['device_id']} {d['auth_info']['secret']}\n" for d in made))
    rounds, known = 0, {}
    while rounds < 2 or len(known) < LOGS:
        swarm(platform.mqtt_port, tmp_path / "devices", payload=BYTES, messages=REPORTS, duration=0, window=4,
              first_seq=rounds * REPORTS + 1, timeout=60)
        rounds += 1
        reports = rounds * DEVICES * REPORTS
        wait_until(lambda: int(platform.sql("SELECT count(*) FROM data.history")) == reports, 120, 0.5,
                   "every report is in history")
        wait_until(lambda: sink.figures()["pushes"] >= reports, 120, 0.5, "every report is pushed")
        wait_until(lambda: trimmed(platform) != known, 30, 0.5, "a log is trimmed further")
        known = trimmed(platform)
        assert rounds < 8, f"trimmed after {rounds} rounds: {known}"
    assert sink.figures()["pushes"] == reports, "nothing was pushed twice"
    assert all(platform.healthy(name) for name in ("uplink-processor", "rule-engine", "push-notifier"))

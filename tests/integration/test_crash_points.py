"""Real daemons that die at the worst moments, again and again, under load. tests/unit/test_log_crash.c ends
one reader 200 times at each point; here all stages of the road die at once."""
import pytest

import load
from waiting import wait_until

pytestmark = pytest.mark.long
DEATHS = 8  # of each
POINTS = {"uplink-processor": "after_append_before_commit:~25", "rule-engine": "after_append_before_commit:~25",
          "push-notifier": "push.saved:~12"}


def test_every_stage_dies_between_append_and_commit_and_nothing_is_lost_or_doubled(watched):
    platform, product_id, subscription = watched()
    lives = {name: set() for name in POINTS}

    def all_died():
        for name, seen in lives.items():
            seen.update(platform.processes(name))
        return all(len(seen) > DEATHS for seen in lives.values())
    for name, point in POINTS.items():
        platform.set(name, f"CRASH_AT={point}")
    with load.Load(platform, product_id) as talking:
        platform.script("up", check=False)  # they may be dead when it looks whether they are ready
        wait_until(all_died, 240, 0.05, f"each died {DEATHS} times")
        for name in POINTS:
            platform.set(name, "")
        platform.start()
        talking.wait_progress(20)
    load.compare(platform.api, talking, subscription.records)
    assert platform.sql("SELECT count(*) FROM data.quarantine") == "0", "a death speaks against no record"

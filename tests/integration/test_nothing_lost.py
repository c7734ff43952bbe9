"""Kill anything at any moment: what was acknowledged is in history and was pushed, in order."""
import pytest

import load
from platform_under_test import DAEMONS
from waiting import wait_until

pytestmark = pytest.mark.long


def test_every_process_is_killed_under_load_and_nothing_is_lost(watched):
    platform, product_id, subscription = watched()
    victims = DAEMONS + ["nats-server", "postgres"]
    with load.Load(platform, product_id) as talking:
        subscription.wait_for(talking.talkers[0].id)
        for name in victims:
            platform.kill(name)
            talking.wait_progress(20, 45, f"devices are served after the end of {name}")
            arrived = len(subscription.application.on(subscription.path))
            wait_until(lambda: len(subscription.application.on(subscription.path)) > arrived + 50,
                       45, 0.1, f"reports are pushed after the end of {name}")
            wait_until(lambda: all(platform.healthy(d) for d in DAEMONS), 30, 0.1,
                       f"all daemons are healthy after the end of {name}")
    assert talking.acked > 100 * len(victims), "a load that is worth the name"
    load.compare(platform.api, talking, subscription.records)
    for talker in talking.talkers:
        wait_until(lambda: platform.api.device(talker.id)["status"] == "OFFLINE", 15, 0.1)


def test_everything_is_killed_at_once_and_comes_back_with_its_state(watched):
    platform, product_id, subscription = watched()
    with load.Load(platform, product_id, devices=4) as talking:
        talking.wait_progress(50)
        platform.kill_all()
    assert not any(platform.processes(name) for name in DAEMONS)
    platform.lose_run_folder()
    platform.start()
    load.compare(platform.api, talking, subscription.records)
    with load.Load(platform, product_id, devices=2) as again:
        again.wait_progress(20)
    load.compare(platform.api, again, subscription.records)

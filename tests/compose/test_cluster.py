"""A NATS cluster of three with three copies of each stream: one server after the other is killed under load."""
import pytest

from deployment import Deployment, engine
from under_load import Load
from waiting import wait_until

SERVERS = ("nats", "nats-2", "nats-3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("cluster"), project="causeway-cluster", files=["tests/compose/cluster.yml"],
                      CAUSEWAY_LOG_REPLICAS="3", CAUSEWAY_NATS_URL=",".join(f"nats://{s}:4222" for s in SERVERS))
    try:
        made.down()
        made.build()
        yield made.up()
    finally:
        made.down()
        engine("stop")


def test_a_server_is_killed_under_load(cluster):
    with Load(cluster) as load:
        for server in SERVERS:
            before = load.total()
            for container in cluster.containers(server):
                cluster.kill(container)
            wait_until(lambda: load.total() > before + 20, 90, 0.1, f"reports flow on without {server}")
            wait_until(lambda: cluster.healthy(), 90, 0.3, f"all are healthy again after {server}")
    load.compare()

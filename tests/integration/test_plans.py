"""No statement without an index behind it: PostgreSQL tells the plan of each one (auto_explain) while every operation
of the contract and every combination of filters is called. Sequential scans are off: one that is left has no index."""
import itertools
import pathlib
import re

import pytest

from contract import OPERATIONS
from rawmqtt import Refused
from rest import Api, Unexpected, unique
from rows import load
from test_certificates import forged
from test_children import say
from test_provisioning import World as Factory
from test_provisioning import group, join
from waiting import wait_until
from walk_world import World

pytestmark = pytest.mark.long
ROLES = ["identity", "registry", "data", "command", "rule", "push"]
# Read as a whole: a row per partition, account, space, counter of a product; or as many as a setting allows.
SMALL = {"position", "schema_migration", "account", "project", "app", "first_access", "quarantined", "device_count",
         "rule", "action", "certificate", "ca_certificate",
         "device_policy", "bridge", "device_proxy", "provisioning_template", "registration_group", "device_certificate_count",
         "refused_connection", "bootstrap_strategy", "device_group"}
SETTINGS = {"session_preload_libraries": "auto_explain", "auto_explain.log_min_duration": "0",
            "auto_explain.log_nested_statements": "on", "enable_seqscan": "off"}


def answers(platform):
    try:
        return Api(platform.access).call("GET", "/devices").status == 200
    except Unexpected:
        return False


@pytest.fixture
def explained(own_platform):
    """A platform whose daemons' statements are explained in PostgreSQL's log."""
    platform = own_platform(etc={"device-registry": "APPS_MAX=0\nTEMPLATES_MAX=1000"})
    for role, (name, value) in itertools.product(ROLES, SETTINGS.items()):
        platform.sql(f"ALTER ROLE {role} SET {name} = '{value}'")
    platform.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY(ARRAY["
                 + ",".join(f"'{r}'" for r in ROLES) + "])")
    wait_until(lambda: answers(platform), 20, 0.2, "the daemons are back")
    return platform


def plans(platform):
    """(statement, plan) of the log."""
    text = "".join(p.read_text(errors="replace") for p in sorted(pathlib.Path(platform.var).glob("log/postgresql/*"))
                   if p.name == "current" or p.name.startswith("@"))
    text = re.sub(r"^\d{4}-\d\d-\d\d \S+ UTC ", "", text, flags=re.M)
    for block in re.split(r"^(?=\S* ?LOG:  duration:)", text, flags=re.M):
        if "plan:" in block.split("\n", 1)[0]:
            query, _, plan = block.partition("Query Text: ")[2].partition("\n")
            yield query, plan


def register_themselves(platform, folder):
    """What no operation of the contract does: unknown devices, by certificate, by a group, with a key that is not theirs."""
    factory = Factory(platform, folder)
    factory.bind(factory.template())
    name = unique("plan")
    factory.comes_in(name, factory.ca.issue(f"/CN={name}")).disconnect()
    with pytest.raises(Refused):
        factory.connect(unique("other"), factory.ca.issue(f"/CN={name}"))
    made, member = group(factory), unique("plan")
    join(factory, made, member).disconnect()
    with join(factory, made, member) as peer:
        peer.subscribe(peer.topic("bootstrap/down"), 0)
        peer.publish_acked(peer.topic("bootstrap/up"), "")
        peer.wait_for("/sys/bootstrap/down")
    with pytest.raises((Refused, OSError)):
        factory.connect(name, forged(factory.ca.issue(f"/CN={name}"), folder))
    wait_until(lambda: any(r["code"] == "tls_key_mismatch" for r in
                           platform.api.get("/refused-connections", limit=50)["refused_connections"]), 10, 0.2, "it is listed")


def speak_through_another_gateway(world):
    """A child comes online through a gateway that is not its own, and goes with it."""
    child, other = world.new_device(gateway_id=world.gateway["device_id"])["device_id"], world.new_device()
    world.api.post("/device-proxies", {"proxy_name": "plan", "app_id": world.space, "effective_time_range": {},
                                       "proxy_devices": [world.gateway["device_id"], other["device_id"]]})
    with world.platform.connect(other) as peer:
        say(peer, "sub_device_update_status", {"device_statuses": [{"device_id": child, "status": "ONLINE"}]})
        wait_until(lambda: world.api.device(child)["status"] == "ONLINE", 10, 0.1, "it is online")
    wait_until(lambda: world.api.device(child)["status"] == "OFFLINE", 10, 0.1, "it has gone with the other")


def test_every_statement_has_an_index(explained, authority, tmp_path):
    platform = explained
    world = World(platform, authority)
    filters = ["app_id", "product_id", "gateway_id", "node_id", "device_name", "start_time", "end_time"]
    values = {"app_id": world.space, "product_id": world.product, "gateway_id": world.gateway["device_id"],
              "node_id": "n", "device_name": "n", "start_time": "20200101T000000Z", "end_time": "20990101T000000Z"}
    load(platform, world.product, 3000)
    platform.sql("ANALYZE")
    limited = world.iam.someone(world.iam.policy(("Allow", ["iotda:*:*"], [world.space])))
    for bits in range(1 << len(filters)):
        query = {n: values[n] for i, n in enumerate(filters) if bits >> i & 1}
        platform.api.get("/devices", **query)
        limited.get("/devices", **query)
        if "gateway_id" in query:
            platform.api.get("/devices", is_cascade_query=True, **query)
    for op in OPERATIONS:
        values = world.path_values(op)
        got = world.send(op, world.caller(op), values, world.body(op))
        assert got.status == op.success, got
    for name in ("user_name", "resource_id", "request_id"):
        platform.api.get("/audit-records", **{name: "x"})
    speak_through_another_gateway(world)
    world.close()
    register_themselves(platform, tmp_path)
    seen, bad = set(), {}
    for query, plan in plans(platform):
        seen.add(query[:60])
        for table in re.findall(r"Seq Scan on (?:\w+\.)?(\w+)", plan):
            if table not in SMALL and not table.startswith("pg_"):
                bad.setdefault(table, query[:300])
    assert len(seen) > 100, "the log has the plans"
    assert not bad, "\n".join(f"{table}: {query}" for table, query in bad.items())

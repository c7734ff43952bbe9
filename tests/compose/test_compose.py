"""What docs/deploy.md promises of `docker compose up`, seen on containers."""
import json
import os
import re
import shutil
import subprocess
import time

import pytest
import requests

from deployment import DAEMONS, ROOT, Deployment, engine
from under_load import Load, text_of
from waiting import wait_until

SUITE = ["access", "async_commands", "auth_matrix", "bridges", "certificates", "children", "commands", "connect", "contract", "device_proxies", "device_to_device", "draft",
         "events", "facts", "groups", "identity", "kept_sessions", "legacy_topics", "messages", "mqtt311", "mqtt5", "packages", "paging", "policies", "product_topics", "provisioning",
         "push", "registry", "registry_core", "registry_events", "reports", "rules", "shadow", "undelete", "walk", "way_down", "websocket",
         "why", "x509"]


@pytest.fixture(scope="module")
def deployment(request, tmp_path_factory):
    made = Deployment(tmp_path_factory.mktemp("compose"))
    try:
        made.down()  # what an interrupted run has left
        made.build()
        yield made.up()
    finally:
        if request.session.testsfailed:
            print(made.logs())
        made.down()
        engine("stop")


def test_the_suite_runs_against_it_unchanged(deployment):
    """By the public REST API and the devices' entry; what looks behind them is skipped."""
    files = [f"tests/integration/test_{name}.py" for name in SUITE]
    done = subprocess.run(["/usr/bin/python3", "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "400", *files],
                          cwd=ROOT, capture_output=True, text=True, timeout=1800, env={
                              **os.environ, "CAUSEWAY_ACCESS": str(deployment.access_file),
                              "CAUSEWAY_CALLBACK_HOST": deployment.gateway_of("outside")})
    last = done.stdout.strip().splitlines()[-1]
    print(last)
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if re.match(r"E  |FAILED|ERROR|[0-9]+ ", line))
    assert int(re.search(r"(\d+) passed", last)[1]) > 1500, last


# ---- scaled

def test_scaled_services_share_the_work(deployment):
    deployment.up(mqtt_gateway=3, uplink_processor=2, rule_engine=2, rest_gateway=2)
    api, product = deployment.api, deployment.api.new_product()["product_id"]
    gateways = deployment.containers("mqtt-gateway")
    assert len(gateways) == 3
    wait_until(lambda: _connects_spread(deployment, product), 30, 0.5, "the entry knows all three gateways")
    devices = [api.new_device(product) for _ in range(30)]
    peers = [deployment.connect(d) for d in devices]
    sessions = [deployment.metrics(g)["causeway_gateway_sessions"] for g in gateways]
    assert min(sessions) >= 5, sessions
    for seq in range(20):
        ids = [p.publish(p.topic("messages/up"), str(seq)) for p in peers]
        for p, i in zip(peers, ids):
            p.wait_acked(i)
    for p in peers:
        wait_until(lambda: len(api.history(p.id)) == 20, 20, 0.1, "stored")
        assert [int(text_of(r)) for r in api.history(p.id)] == list(range(20)), "in order"
    ask = {"service_id": "Pump", "command_name": "drain", "paras": {"seconds": 1}}
    for p in peers[:10]:
        p.answer_commands({"result_code": 0, "response_name": "drained", "paras": {"litres": 1}})
        assert api.post(f"/devices/{p.id}/commands", ask, status=200)["response"]["paras"] == {"litres": 1}
    again = [deployment.connect(d) for d in devices]  # seldom at the same gateway
    for p in peers:
        p.wait_closed()
    for p, device in zip(again, devices):
        p.answer_commands({"result_code": 0, "response_name": "drained", "paras": {"litres": 2}})
        assert api.post(f"/devices/{p.id}/commands", ask, status=200)["response"]["paras"] == {"litres": 2}
        p.disconnect()


def _connects_spread(deployment, product):
    peers = [deployment.connect(deployment.api.new_device(product)) for _ in range(9)]
    counts = [deployment.metrics(g)["causeway_gateway_sessions"] for g in deployment.containers("mqtt-gateway")]
    for p in peers:
        p.disconnect()
    return min(counts) > 0


def test_the_address_of_a_client_survives_the_entry(deployment):
    device = deployment.api.new_device(deployment.api.new_product()["product_id"])
    with deployment.connect(device):
        peer = wait_until(lambda: deployment.api.why(device["device_id"])["state"].get("peer"))
    assert peer.rpartition(":")[0] == deployment.gateway_of("outside"), "not the entry's address"


# ---- broken

def test_every_process_is_killed_under_load(deployment):
    services = [*DAEMONS, "nats", "postgresql", "devices", "applications"]
    with Load(deployment) as load:
        for service in services:
            before = load.total()
            for container in deployment.containers(service):
                deployment.kill(container)
            wait_until(lambda: deployment.healthy(), 60, 0.3, f"all are healthy again after {service}")
            wait_until(lambda: load.total() > before + 20, 60, 0.1, f"reports flow again after {service}")
    load.compare()


def test_nats_is_cut_off_for_20_s(deployment):
    [nats] = deployment.containers("nats")
    rule = ["-p", "tcp", "--dport", "4222", "-j", "DROP"]
    with Load(deployment) as load:
        deployment.inside(nats, "iptables", "-I", "INPUT", *rule)
        time.sleep(20)
        before = load.total()
        deployment.inside(nats, "iptables", "-D", "INPUT", *rule)
        wait_until(lambda: deployment.healthy(), 60, 0.3, "all are healthy again")
        wait_until(lambda: load.total() > before + 20, 60, 0.1, "reports flow again")
    load.compare()


def test_postgresql_is_restarted(deployment):
    with Load(deployment) as load:
        deployment.compose("restart", "postgresql")
        before = load.total()
        wait_until(lambda: deployment.healthy(), 60, 0.3, "all are healthy again")
        wait_until(lambda: load.total() > before + 20, 60, 0.1, "reports flow again")
    load.compare()


# ---- hardened

@pytest.mark.parametrize("service", DAEMONS)
def test_a_daemon_can_do_little(deployment, service):
    container = deployment.containers(service)[0]
    told, host = deployment.inspect(container), deployment.inspect(container)["HostConfig"]
    assert told["Config"]["User"] == "10001:10001" and host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
    assert host["Memory"] > 0 and host["PidsLimit"] > 0 and "no-new-privileges:true" in host["SecurityOpt"]
    listing = "\n".join(told["Config"]["Env"]) + deployment.run("docker", "history", "--no-trunc", "causeway:test")
    assert not re.search(r"PASSWORD=|KEY_|CAUSEWAY_DB=", listing), "no secret in the image or the environment"


def test_networks_are_apart(deployment):
    """Each reaches what it needs, by address; nothing else, neither by address nor by name."""
    entry, gateway, registry = (deployment.containers(s)[0] for s in ("devices", "mqtt-gateway", "device-registry"))
    postgresql, nats = deployment.addresses("postgresql"), deployment.addresses("nats")
    assert list(postgresql) == ["db"] and list(nats) == ["bus"], "in one network each"
    assert deployment.reaches(registry, postgresql["db"], 5432) and deployment.reaches(gateway, nats["bus"], 4222)
    assert deployment.reaches(entry, deployment.addresses("mqtt-gateway")["entry"], 1883)
    assert not deployment.reaches(entry, postgresql["db"], 5432) and not deployment.reaches(entry, nats["bus"], 4222)
    assert not deployment.reaches(gateway, postgresql["db"], 5432)

    def knows(name):
        return deployment.run("docker", "exec", entry, "getent", "hosts", name, check=False).strip()
    assert knows("mqtt-gateway") and not knows("postgresql") and not knows("nats")


def test_prometheus_finds_every_daemon(deployment):
    deployment.compose("--profile", "metrics", "up", "-d", "--no-build", "prometheus")
    url = f"http://127.0.0.1:{deployment.env['CAUSEWAY_METRICS_PORT']}/api/v1/query"

    def up():
        try:
            rows = requests.get(url, params={"query": "up == 1"}, timeout=5).json()["data"]["result"]
        except (OSError, ValueError):
            return set()
        return {r["metric"].get("daemon") for r in rows}
    wait_until(lambda: up() == set(DAEMONS), 90, 0.5, "all daemons are scraped")
    deployment.compose("--profile", "metrics", "rm", "-fs", "prometheus")


def test_the_image(deployment):
    """Size and packages are printed; nothing is in it that builds or that a person would log in with."""
    told = deployment.inspect("causeway:test")
    base = deployment.inspect("debian:bookworm-slim")
    bom = json.loads(deployment.run("docker", "run", "--rm", "--network", "none", "causeway:test", "cat", "/usr/share/causeway/sbom.cdx.json"))
    names = {c["name"]: c["version"] for c in bom["components"]}
    print(f"causeway: {told['Size'] / 1e6:.0f} MB, {(told['Size'] - base['Size']) / 1e6:.0f} MB above its base; {len(names)} packages:")
    print(" ".join(f"{n}={v}" for n, v in sorted(names.items())))
    assert bom["bomFormat"] == "CycloneDX" and {"libnats3.4", "libpq5", "libssl3"} <= set(names)
    assert told["Size"] - base["Size"] < 60e6
    assert not [n for n in names if re.match(r"gcc-\d+$|cpp|make$|.*-dev$|python3|openssh|sudo", n)]


def test_the_demo_shows_the_road(deployment):
    """Simulated devices report through the entry, a callback hears of it, a command comes back answered."""
    deployment.compose("--profile", "demo", "up", "-d", "--no-build", "--wait", "--wait-timeout", "120", "demo")
    said = deployment.compose("logs", "--no-log-prefix", "demo")
    assert "It works: reports went up, a command went down" in said, said
    assert '"result_code":0' in said and "brightness=80" in said and "http://demo:" in said, said
    told = deployment.inspect(deployment.containers("demo")[0])
    assert told["Config"]["User"] == "10001:10001" and told["HostConfig"]["ReadonlyRootfs"]
    deployment.compose("--profile", "demo", "rm", "-sf", "demo")


def test_an_upgrade_and_a_rollback_under_load(deployment, tmp_path):
    """To a release with one migration more, service by service, and back to the one before it, which tolerates that."""
    tree = tmp_path / "next"
    for part in ("deploy", "scripts", "proto"):
        shutil.copytree(ROOT / part, tree / part)
    number = 1 + max(int(f.name[:4]) for f in (ROOT / "deploy" / "sql").glob("0*.sql"))
    (tree / "deploy" / "sql" / f"{number:04}_next.sql").write_text(
        "ALTER TABLE registry.device ADD COLUMN of_next text;\n"
        f"INSERT INTO public.schema_migration (version, name) VALUES ({number}, 'next');\n")
    deployment.run("docker", "build", "-q", "--network", "host", "-f", tree / "deploy" / "Dockerfile", "--target", "setup", "-t",
                   "causeway-setup:next", tree)
    deployment.run("docker", "tag", "causeway:test", "causeway:next")
    with Load(deployment) as load:
        for release in ("next", "test"):
            deployment.env |= {"CAUSEWAY_IMAGE": f"causeway:{release}", "CAUSEWAY_SETUP_IMAGE": f"causeway-setup:{release}"}
            deployment.compose("up", "--no-build", "--no-deps", "--exit-code-from", "migrate", "migrate")
            for service in DAEMONS:
                before = load.total()
                deployment.compose("up", "-d", "--no-build", "--no-deps", "--wait", "--wait-timeout", "90", service)
                assert deployment.inspect(deployment.containers(service)[0])["Config"]["Image"] == f"causeway:{release}"
                wait_until(lambda: load.total() > before + 20, 60, 0.1, f"reports flow after {service}")
    load.compare()
    wait_until(lambda: deployment.healthy(), 60, 0.3, "all are healthy")


def test_backup_and_restore(deployment, tmp_path):
    """Into an empty deployment; every device can log in as before, and what it had said is there."""
    api, file = deployment.api, tmp_path / "backup.tar"
    product = api.new_product()["product_id"]
    devices = [api.new_device(product) for _ in range(5)]
    for n, device in enumerate(devices):
        with deployment.connect(device) as peer:
            peer.report("Pump", {"flow": n})
    deployment.script("backup", file)
    wait_until(lambda: deployment.healthy() and deployment.answers(), 90, 0.5, "it goes on after the backup")
    assert file.stat().st_mode & 0o077 == 0, "the keys are in it"
    with pytest.raises(RuntimeError, match="already"):
        deployment.script("restore", file)
    before = dict(deployment.access)
    deployment.down()
    deployment.script("restore", file)
    deployment.up()
    assert {k: v for k, v in deployment.access.items() if k != "CAUSEWAY_CA_FILE"} == {
        k: v for k, v in before.items() if k != "CAUSEWAY_CA_FILE"}, "the same project, keys and passwords"
    for n, device in enumerate(devices):
        with deployment.connect(device) as peer:
            assert deployment.api.shadow(peer.id)["Pump"]["reported"]["properties"] == {"flow": n}
            peer.report("Pump", {"flow": n + 10})
            wait_until(lambda: deployment.api.shadow(peer.id)["Pump"]["reported"]["properties"] == {"flow": n + 10}, 20, 0.1)
            assert len(deployment.api.history(peer.id)) == 2

"""scripts/up, down and status: what is started, what is left alone, what is said when it does not work."""
import os
import re
import signal
import subprocess

import pytest

from platform_under_test import BUILD, DAEMONS, ROOT
from waiting import wait_until

SETTING = re.compile(r"^([A-Z][A-Z0-9_]*) *=", re.M)


def run(name, environment, **more):
    return subprocess.run([ROOT / "scripts" / name], env={**environment, **more}, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def table():
    """daemon -> its section of deploy/daemons"""
    parts = re.split(r"^\[(.+)\]$", (ROOT / "deploy" / "daemons").read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def pids(platform):
    return {name: platform.processes(name) for name in DAEMONS + ["postgres", "nats-server"]}


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_knows_each_setting_of_the_table(name):
    text = subprocess.run([BUILD / "bin" / name, "--help"], capture_output=True, text=True).stdout
    for setting in SETTING.findall(table()[name]):
        assert re.search(rf"\bCAUSEWAY_{setting}\b", text), setting


def test_what_is_built_is_in_the_table():
    assert sorted(table()) == sorted(p.name for p in (ROOT / "services").iterdir())


def test_a_daemon_gets_the_secrets_of_no_other(platform):
    secrets = {}
    for path in os.listdir(f"{platform.var}/secrets"):
        with open(f"{platform.var}/secrets/{path}") as text:
            secrets[path] = text.read().strip()
    holders = {name: [] for name in secrets}
    for daemon in DAEMONS:
        with open(f"/proc/{platform.processes(daemon)[0]}/environ") as text:
            environment = text.read()
        for name, value in secrets.items():
            if value in environment:
                holders[name].append(daemon)
    assert holders.pop("master.key") == holders.pop("db.postgres") == holders.pop("nats.guard") == []
    assert sorted(holders.pop("key.token")) == ["identity", "rest-gateway"]
    assert sorted(holders.pop("key.seal.push")) == ["push-notifier", "rule-engine"]
    assert all(len(found) == 1 for found in holders.values()), holders


def test_secrets_are_for_the_owner_only(platform):
    assert os.stat(f"{platform.var}/secrets").st_mode & 0o077 == 0
    for path in [f"secrets/{name}" for name in os.listdir(f"{platform.var}/secrets")] + [
            "access.env", "tls/ca.key", "tls/server.key"]:
        assert os.stat(f"{platform.var}/{path}").st_mode & 0o077 == 0, path


@pytest.mark.parametrize("setting, value, word", [
    ("CAUSEWAY_INSTANCES", "mqtt-gatewey=2", "mqtt-gatewey"),
    ("CAUSEWAY_INSTANCES", "mqtt-gateway=200", "mqtt-gateway=200"),
    ("CAUSEWAY_PORT_BASE", "80a", "80a"),
    ("CAUSEWAY_PORT_BASE", "65530", "65530"),
    ("BUILD", "/nowhere", "push-notifier"),
    ("CAUSEWAY_DURABILITY", "always", "not process or power"),
    ("CAUSEWAY_DURABILITY", "power", "nats-server 2.10"),
])
def test_a_wrong_setting_is_named_and_nothing_starts(tmp_path, setting, value, word):
    environment = {**os.environ, "CAUSEWAY_VAR": str(tmp_path / "var"), "BUILD": str(BUILD)}
    said = run("up", environment, **{setting: value})
    assert said.returncode == 1 and said.stdout.startswith("up: ") and word in said.stdout
    assert run("status", environment).returncode == 3


@pytest.mark.long
def test_instances_come_and_go(own_platform):
    platform = own_platform()
    before = pids(platform)
    platform.environment["CAUSEWAY_INSTANCES"] = "mqtt-gateway=2 rule-engine=3"
    platform.start()
    assert [len(platform.processes(n)) for n in ("mqtt-gateway", "rule-engine")] == [2, 3]
    del platform.environment["CAUSEWAY_INSTANCES"]
    platform.start()
    assert pids(platform) == before


@pytest.mark.long
def test_a_daemon_that_does_not_start_is_named_with_its_last_words(own_platform):
    platform = own_platform()
    os.mkdir(f"{platform.var}/etc")
    with open(f"{platform.var}/etc/push-notifier", "w") as own:
        own.write("LOG_LEVEL=loud\n")
    said = run("up", platform.environment, CAUSEWAY_READY_S="2")
    assert said.returncode == 1
    assert "push-notifier.1 is not ready" in said.stdout and "loud" in said.stdout
    assert "identity.1 is not ready" not in said.stdout
    os.remove(f"{platform.var}/etc/push-notifier")
    platform.start()


@pytest.mark.long
@pytest.mark.parametrize("name, log", [("nats-server", "nats"), ("rule-engine", "rule-engine.1")])
def test_what_hangs_is_ended_and_starts_again(own_platform, name, log):
    platform = own_platform()
    hung = platform.processes(name)
    os.kill(hung[0], signal.SIGSTOP)
    wait_until(lambda: platform.processes(name) not in ([], hung), 30, 0.1, f"{name} is started again")
    with open(f"{platform.var}/log/guard/current") as said:
        assert f"{log}: process {hung[0]} answers nothing" in said.read()
    wait_until(lambda: run("status", platform.environment).returncode == 0, 30, 0.2, "all are well")


@pytest.mark.long
def test_a_killed_supervisor_leaves_no_second_set(own_platform):
    platform = own_platform()
    product = platform.api.new_product()
    for lose in (lambda: None, platform.lose_run_folder):
        for pid in platform.processes("s6-svscan"):
            os.kill(pid, signal.SIGKILL)
        lose()
        platform.start()
        assert all(len(found) == 1 for found in pids(platform).values()), pids(platform)
    assert platform.api.get(f"/products/{product['product_id']}")["product_id"] == product["product_id"]

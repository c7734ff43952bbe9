"""What every daemon has: --help, --check-config, health, metrics, a clean end; and what `make up`
promises."""
import re
import signal
import subprocess

import pytest

from platform_under_test import BUILD, DAEMONS
from waiting import wait_until


def run(name, *options, **env):
    return subprocess.run([str(BUILD / "bin" / name), *options], text=True, capture_output=True,
                          timeout=10, env={"PATH": "/usr/bin:/bin", **env})


@pytest.mark.parametrize("name", DAEMONS)
def test_help_lists_every_setting_with_its_default(name):
    done = run(name, "--help")
    assert done.returncode == 0 and name in done.stdout
    for setting in ("CAUSEWAY_NATS_URL", "CAUSEWAY_LOG_LEVEL", "CAUSEWAY_DRAIN"):
        assert setting in done.stdout


@pytest.mark.parametrize("name", DAEMONS)
def test_a_wrong_setting_is_named_and_ends_the_start(name):
    done = run(name, "--check-config", CAUSEWAY_DRAIN="soon")
    assert done.returncode == 2, done
    assert "CAUSEWAY_DRAIN" in done.stdout + done.stderr and "soon" in done.stdout + done.stderr


@pytest.mark.parametrize("name", DAEMONS)
def test_an_unknown_option_is_refused(name):
    done = run(name, "--no-such-thing")
    assert done.returncode == 2 and "--no-such-thing" in done.stdout + done.stderr


@pytest.mark.parametrize("name", DAEMONS)
def test_health_and_metrics(platform, name):
    assert platform.healthy(name)
    metrics = platform.metrics(name)
    assert metrics and all(sample.startswith("causeway_") for sample in metrics), metrics
    assert platform.admin(name, 1, "/elsewhere")[0] == 404


@pytest.mark.parametrize("name", DAEMONS)
def test_a_health_check_without_other_tools(platform, name):
    with open(f"/proc/{platform.processes(name)[0]}/environ", "rb") as f:
        env = dict(line.decode().split("=", 1) for line in f.read().split(b"\0") if b"=" in line)

    def check(**more):
        return subprocess.run([str(BUILD / "bin" / name), "--healthcheck"], text=True, capture_output=True, timeout=10,
                              env={**env, **more}, cwd=platform.var)
    done = check()
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done
    done = check(CAUSEWAY_ADMIN_SOCKET="run/nobody.sock")
    assert done.returncode == 1 and "run/nobody.sock" in done.stdout


@pytest.mark.parametrize("name", DAEMONS)
def test_sigterm_ends_a_daemon_cleanly_and_it_comes_back(platform, api, name):
    sizes = platform.log_sizes()
    before = platform.processes(name)
    platform.signal(before[0], signal.SIGTERM)
    wait_until(lambda: (now := platform.processes(name)) and before[0] not in now, 15, 0.02)
    wait_until(lambda: platform.healthy(name), 15, 0.02)
    logged = platform.logs(sizes)
    assert "drain" in logged, logged
    assert not re.search(r"ERROR \S* ?(assert|abort)|Sanitizer|core dumped", logged), logged
    wait_until(lambda: api.call("GET", "/apps").status == 200, 15)


def test_no_secret_is_logged_and_lines_have_one_form(platform):
    text = platform.logs(limit=10 ** 8)
    for key in ("CAUSEWAY_PASSWORD", "CAUSEWAY_SK"):
        assert platform.access[key] not in text
    lines = [line for line in text.splitlines()
             if re.match(r"\S+ (ERROR|WARN|INFO|DEBUG) ", line)]
    assert lines, "at least each start is logged"
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (ERROR|WARN|INFO|DEBUG) [a-z-]+(\.\d+)? \w+"
    assert all(re.match(form, line) for line in lines), \
        [line for line in lines if not re.match(form, line)][:3]


def test_up_again_changes_nothing(platform, api):
    before = {name: platform.processes(name) for name in DAEMONS}
    access = open(f"{platform.var}/access.env").read()
    platform.start()
    assert {name: platform.processes(name) for name in DAEMONS} == before
    assert open(f"{platform.var}/access.env").read() == access


def test_status_lists_every_daemon(platform):
    text = platform.script("status").stdout
    for name in DAEMONS:
        assert name in text


def test_nats_and_postgresql_want_a_password(platform):
    done = subprocess.run(["psql", "-w", "-h", "127.0.0.1", "-p", str(platform.base + 11), "-U",
                           "postgres", "-c", "SELECT 1", "causeway"], text=True, timeout=10,
                          capture_output=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode != 0, "no password, no entry"
    import socket
    with socket.create_connection(("127.0.0.1", platform.base + 10), timeout=5) as nats:
        nats.settimeout(5)
        nats.recv(4096)
        nats.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        assert b"Authorization Violation" in nats.recv(4096)

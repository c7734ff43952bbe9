"""docker-compose.yml for real, on an engine of our own (tests/compose/engine): brought up, looked at, broken."""
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from deployed import Addressed  # noqa: E402
from platform_under_test import DAEMONS, free_base  # noqa: E402
from rest import Api  # noqa: E402
from waiting import wait_until  # noqa: E402

PORTS = ("MQTT", "MQTTS", "WS", "WSS", "REST", "REST_TLS", "METRICS")
PROFILES = [word for name in ("tools", "metrics", "demo") for word in ("--profile", name)]
# One user asks here as fast as it can, and the suite makes more of everything than a person would.
SETTINGS = {"APPS_MAX": 0, "PRODUCTS_MAX": 0, "POLICIES_MAX": 1000, "BRIDGES_MAX": 10000, "PROXIES_MAX": 10000, "TEMPLATES_MAX": 1000,
            "REGISTRATION_GROUPS_MAX": 1000, "STRATEGIES_MAX": 1000, "DEVICE_GROUPS_MAX": 0, "REST_RATE": 1000000}


def engine(verb):
    done = subprocess.run([ROOT / "tests" / "compose" / "engine", verb], capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"engine {verb}: {done.stderr[-4000:]}")
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


class Deployment(Addressed):
    def __init__(self, folder, project="causeway-test", files=(), **env):
        self.project, self.folder, base = project, folder, free_base()
        self.files = ["docker-compose.yml", "tests/compose/offline.yml", *files]
        settings = folder / "settings.env"
        settings.write_text("".join(f"CAUSEWAY_{k}={v}\n" for k, v in SETTINGS.items()))
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": os.environ.get("HOME", "/root"), **engine("start"),
                    "CAUSEWAY_SETTINGS": str(settings), "CAUSEWAY_IMAGE": "causeway:test",
                    "CAUSEWAY_SETUP_IMAGE": "causeway-setup:test", "CAUSEWAY_DEMO_IMAGE": "causeway-demo:test",
                    **{f"CAUSEWAY_{name}_PORT": str(base + i) for i, name in enumerate(PORTS)}, **env}
        self.access, self.api = {}, None

    # ---- the two tools

    def run(self, *words, check=True, timeout=600, **more):
        done = subprocess.run([str(w) for w in words], env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL, **more)
        if check and done.returncode:
            raise RuntimeError(f"{shlex.join(map(str, words))}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done.stdout

    def compose(self, *words, **more):
        return self.run("docker", "compose", "-p", self.project, *[w for f in self.files for w in ("-f", f)], *words, **more)

    def script(self, name, *words):
        return self.run(ROOT / "scripts" / name, *words, "-p", self.project, *[w for f in self.files for w in ("-f", f)])

    # ---- life

    def build(self):
        self.compose(*PROFILES, "build", "-q", timeout=1800)

    def up(self, **scale):
        words = [w for name, n in scale.items() for w in ("--scale", f"{name.replace('_', '-')}={n}")]
        self.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "180", *words)
        lines = self.compose("run", "--rm", "access").splitlines()
        self.access = dict(line.split("=", 1) for line in lines if line.startswith("CAUSEWAY_"))
        ca = self.folder / "ca.crt"
        ca.write_text(self.compose("run", "--rm", "access", "ca"))
        self.access["CAUSEWAY_CA_FILE"] = str(ca)
        self.access_file = self.folder / "access.env"
        self.access_file.write_text("".join(f"{k}={v}\n" for k, v in self.access.items()))
        self.api = Api(self.access)
        wait_until(lambda: self.answers(), 30, 0.2, "the entry has found the gateways")
        return self

    def answers(self):
        try:
            return self.api.call("GET", "/apps").status == 200
        except OSError:
            return False

    def down(self):
        for last in (False, True):  # a container that starts again meanwhile still holds its network
            self.compose(*PROFILES, "down", "-v", "--timeout", "5", check=last)

    def logs(self, lines=200):
        return self.compose("logs", "--no-color", "--tail", str(lines), check=False)

    # ---- its parts

    def containers(self, service):
        """Ids, those that run."""
        return self.compose("ps", "-q", service).split()

    def inspect(self, container):
        return json.loads(self.run("docker", "inspect", container))[0]

    def pid(self, container):
        """Of the program itself: the container's first process is its init."""
        first = self.inspect(container)["State"]["Pid"]
        children = pathlib.Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return int(children[0]) if children and self.inspect(container)["HostConfig"].get("Init") else first

    def kill(self, container):
        os.kill(self.pid(container), signal.SIGKILL)

    def healthy(self, *services):
        """All that should run, does, and says that it is ready."""
        rows = self.compose("ps", "-a", "--format", "json", *services)
        states = [json.loads(line) for line in rows.splitlines()]
        return all(s["State"] == "running" and s["Health"] in ("", "healthy") or s["Service"] in ("init", "migrate") for s in states)

    def inside(self, container, *words, **more):
        """A program of this machine in the network of the container."""
        return self.run("nsenter", "-t", self.pid(container), "-n", *words, **more)

    def metrics(self, container):
        text = self.inside(container, "curl", "-s", "-m", "5", "http://127.0.0.1:9100/metrics")
        rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {sample: float(value) for sample, _, value in rows}

    def gateway_of(self, network):
        return json.loads(self.run("docker", "network", "inspect", f"{self.project}_{network}"))[0]["IPAM"]["Config"][0]["Gateway"]

    def reaches(self, container, address, port):
        """Does a connection from the container's network come about?"""
        script = f"exec 3<>/dev/tcp/{address}/{port} && echo connected"
        return "connected" in self.inside(container, "timeout", "3", "bash", "-c", script, check=False)

    def addresses(self, service):
        networks = self.inspect(self.containers(service)[0])["NetworkSettings"]["Networks"]
        return {name.removeprefix(f"{self.project}_"): n["IPAddress"] for name, n in networks.items()}

"""A platform of one's own: started by scripts/up on free ports, its processes found in /proc, its state
asked over the public API and the sockets of each instance."""
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from deployed import ACCESS, Addressed
from rest import Api
from waiting import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("BUILD", "build")
DAEMONS = ["rest-gateway", "identity", "device-registry", "mqtt-gateway", "uplink-processor",
           "command-dispatcher", "rule-engine", "push-notifier"]
PORTS = 12  # rows of the table of ports


def free_base():
    """The first of PORTS free ports in a row, below the range that the kernel hands out."""
    for _ in range(200):
        base = random.randrange(20000, 32000, 16)
        taken = []
        try:
            for port in range(base, base + PORTS):
                taken.append(socket.socket())
                taken[-1].bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for s in taken:
                s.close()
    raise RuntimeError("no free ports")


def read_proc(pid, name):
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def parent_of(pid):
    stat = read_proc(pid, "stat").rsplit(b")", 1)
    return int(stat[1].split()[1]) if len(stat) == 2 else 0


class Platform(Addressed):
    def __init__(self, instances="", etc=None, **settings):
        """etc: {daemon: lines of its settings}."""
        if ACCESS:
            pytest.skip("starts a platform of its own")
        self.violates = False  # a test tries what is forbidden
        self.var = tempfile.mkdtemp(prefix="cw", dir="/tmp")
        os.chmod(self.var, 0o755)  # PostgreSQL runs as its own user
        self.base = free_base()
        self.environment = {**os.environ, "CAUSEWAY_VAR": self.var, "BUILD": str(BUILD),
                            "CAUSEWAY_PORT_BASE": str(self.base), **settings}
        if instances:
            self.environment["CAUSEWAY_INSTANCES"] = instances
        self.access, self.api = {}, None
        for name, lines in (etc or {}).items():
            self.set(name, lines)

    # ---- life

    def start(self):
        begun = time.monotonic()
        self.script("up")
        self.started_s = time.monotonic() - begun
        with open(f"{self.var}/access.env") as lines:
            self.access = dict(line.strip().split("=", 1) for line in lines if "=" in line)
        self.api = Api(self.access)
        return self

    def set(self, name, lines):
        """Settings of a daemon (without the prefix); they count from the next start() on."""
        os.makedirs(f"{self.var}/etc", exist_ok=True)
        pathlib.Path(f"{self.var}/etc/{name}").write_text(lines + "\n")

    def script(self, name, check=True):
        done = subprocess.run([str(ROOT / "scripts" / name)], cwd=ROOT, env=self.environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=180)
        if done.returncode and check:
            raise RuntimeError(f"scripts/{name} ended with {done.returncode}:\n{done.stdout[-4000:]}\n"
                               + self.logs())
        return done

    def stop(self):
        self.script("down")
        findings = self.findings()
        assert not findings, "the daemons' logs have findings of a sanitizer:\n" + "\n".join(findings)
        if not os.environ.get("CAUSEWAY_KEEP"):
            shutil.rmtree(self.var, ignore_errors=True)

    # ---- its processes

    def owns(self, pid):
        """scripts/up puts this mark into the environment of whatever it starts."""
        return f"CAUSEWAY_SUPERVISED={self.var}".encode() in read_proc(pid, "environ").split(b"\0")

    def processes(self, name):
        """The pids of a program of this platform, without the helpers that it forked."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            pid = int(pid)
            try:
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            except OSError:
                continue
            if program == name and self.owns(pid):
                found.append(pid)
        return sorted(p for p in found if parent_of(p) not in found)

    def signal(self, pid, number):
        os.kill(pid, number)

    def kill(self, name, index=0):
        """SIGKILL; returns when another process has taken its place."""
        before = self.processes(name)
        victim = before[index]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(now := self.processes(name)) == len(before) and victim not in now,
                   30, 0.05, f"{name} runs again")
        return victim

    def instance(self, name, number):
        """The pid of one of several."""
        wanted = f"CAUSEWAY_INSTANCE={number}\0".encode()
        return next(p for p in self.processes(name) if wanted in read_proc(p, "environ"))

    def kill_all(self):
        """Everything at once, the supervisor first."""
        for _ in range(100):  # what is being forked while we look
            pids = [int(p) for p in filter(str.isdigit, os.listdir("/proc")) if self.owns(p)]
            if not pids:
                return
            for pid in sorted(pids):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        raise RuntimeError(f"still there: {pids}")

    def file(self, name):
        return f"{self.var}/{name}"

    def lose_run_folder(self):
        shutil.rmtree(f"{self.var}/run", ignore_errors=True)

    def sql(self, text, database="causeway"):
        """As the database's superuser; rows as lines, columns separated by |."""
        secret = pathlib.Path(f"{self.var}/secrets/db.postgres")
        env = {"PATH": "/usr/bin:/bin", "PGPASSWORD": secret.read_text().strip()}
        done = subprocess.run(["psql", "-XqtAw", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p",
                               str(self.base + 11), "-U", "postgres", "-d", database, "-c", text],
                              text=True, capture_output=True, timeout=30, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sessions(self, number):
        """How many devices are connected to an instance of the MQTT gateway."""
        return int(self.metrics("mqtt-gateway", number)["causeway_gateway_sessions"])

    def healthy(self, name, number=1):
        try:
            return self.admin(name, number, "/healthz")[0] == 200
        except OSError:
            return False

    def admin(self, name, number, path):
        """(status, text) of an instance's own socket."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(f"{self.var}/run/{name}.{number}.sock")
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while chunk := s.recv(65536):
                data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            raise AssertionError("metrics should come with a length")
        return int(head.split()[1]), body.decode()

    def metrics(self, name, number=1):
        """{sample with labels: value}"""
        values = {}
        for line in self.admin(name, number, "/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                sample, _, value = line.rpartition(" ")
                values[sample] = float(value)
        return values

    # ---- for people, when something failed

    def log_files(self):
        return sorted(pathlib.Path(self.var).glob("log/*/current"))

    def findings(self):
        """What a sanitizer (make asan) or the C library wrote before it ended a daemon; what nats-server refused them."""
        said = re.compile((r"(Publish|Subscription) Violation|" if not self.violates else "") + r"ERROR: \w+Sanitizer|runtime error:|^(free|malloc|realloc|munmap_chunk)\(|"
                          r"^(double free|corrupted|malloc_consolidate)|stack smashing", re.M)
        return [f"{path.parent.name}: {text[at.start():at.start() + 3000]}"
                for path in sorted(pathlib.Path(self.var).glob("log/*/*"))
                for text in [path.read_text(errors="replace")] for at in [said.search(text)] if at]

    def log_sizes(self):
        return {str(p): p.stat().st_size for p in self.log_files()}

    def logs(self, since=None, limit=6000):
        """What was logged since log_sizes() was asked."""
        out = []
        for path in self.log_files():
            with open(path, "rb") as f:
                f.seek((since or {}).get(str(path), 0))
                text = f.read().decode(errors="replace")
            if text.strip():
                out.append(f"==== {path.relative_to(self.var)}\n{text[-limit:]}")
        return "\n".join(out)

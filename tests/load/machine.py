"""What a figure depends on: the machine, the versions, which process used the CPU, how large it was."""
import os
import re
import subprocess
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return f"no {command[0]}"


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) / 2 ** 20
    return f"{os.cpu_count()} × {model[1] if model else os.uname().machine}, {memory:.0f} GB, Linux {os.uname().release}"


def versions(repository, nats="nats-server"):
    return ", ".join((said("/usr/lib/postgresql/15/bin/postgres", "--version"), said(nats, "--version"),
                      "gcc " + said("gcc", "-dumpfullversion"),
                      "commit " + said("git", "-C", str(repository), "describe", "--always", "--dirty")))  # fmt: skip


def pids():
    return (int(p) for p in os.listdir("/proc") if p.isdigit())


def program(pid):
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def pss_mb(names, owns):
    """Proportional resident size of all processes of these programs that owns(pid) accepts."""
    total = 0
    for pid in pids():
        if program(pid) in names and owns(pid):
            total += memory_kb(pid, "smaps_rollup", "Pss")
    return total / 1024


def memory_kb(pid, file="status", what="VmRSS"):
    try:
        found = re.search(rf"^{what}:\s*(\d+)", Path(f"/proc/{pid}/{file}").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def stat(pid):
    """Fields of /proc/<pid>/stat after the name: [1] parent, [11] user, [12] system, [13] and [14] of ended children."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu(owns):
    """{program: (user s, system s)} of what owns(pid) accepts and of the generators, those that ended included."""
    ended = os.times()
    used = {"generators that ended": (ended.children_user, ended.children_system)}
    for pid in pids():
        name = program(pid)
        try:
            fields = stat(pid)
            # PostgreSQL writes its title over its environment: what the postmaster owns is known by it
            if not (name in ("swarm", "sink", "caller", "mosquitto") or owns(pid) or
                    name == "postgres" and owns(int(fields[1]))):
                continue
        except OSError:
            continue
        if name == "postgres":
            name = title(pid)
        user, system = used.get(name, (0, 0))
        used[name] = (user + int(fields[11]) / TICK, system + int(fields[12]) / TICK)
    return used


def title(pid):
    """postgres: walwriter; postgres: data (the role of a backend)."""
    words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split()
    return " ".join(words[:2]) if words and words[0] == "postgres:" else "postgres"


def cpu_between(before, after):
    """The same as a difference, what used nothing left out, most first."""
    spent = {name: tuple(round(a - b, 2) for a, b in zip(after[name], before.get(name, (0, 0)))) for name in after}
    return dict(sorted(((n, s) for n, s in spent.items() if sum(s) >= 0.05), key=lambda item: -sum(item[1])))

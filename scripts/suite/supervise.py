"""s6: a folder for each process under var/run/s6, a log folder each under var/log. Who runs is asked of /proc, not of
files: var/run may be gone, and every process may have been killed."""
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .layout import LOG, RUN, SCAN, VAR, Wrong

MARK = f"CAUSEWAY_SUPERVISED={VAR}"  # in the environment of everything that belongs to this platform
STOP_S = 15  # daemons drain for 10 s at most


def belongs(pid):
    try:
        return MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def command(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def processes():
    """Those of this platform: (pid of s6-svscan or None, [all others it did not start])."""
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and belongs(p.name)]
    roots = [pid for pid in pids if command(pid) == "s6-svscan" and (SCAN / ".s6-svscan").exists()]
    strays = []
    for pid in pids:
        up = pid
        while up > 1 and up not in roots[:1]:
            up = parent(up)
        if up <= 1:
            strays.append(pid)
    return (roots[0] if roots else None), strays


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def end_strays():
    """Ends what an earlier supervisor left behind when it was killed: supervisors first, so that nothing comes back."""
    strays = processes()[1]
    send([pid for pid in strays if command(pid) in ("s6-svscan", "s6-supervise")], signal.SIGKILL)
    send([pid for pid in strays if not command(pid).startswith("s6-")], signal.SIGINT)
    if not wait_until(lambda: not processes()[1], 5):
        send(processes()[1], signal.SIGKILL)
        if not wait_until(lambda: not processes()[1], 5):
            raise Wrong(f"processes do not end: {processes()[1]}")


def start():
    """s6-svscan runs, and nothing of this platform runs that it did not start."""
    root, strays = processes()
    if strays:
        end_strays()
    if root:
        return
    shutil.rmtree(RUN, ignore_errors=True)
    for folder in (RUN, SCAN):
        folder.mkdir(mode=0o700)
    LOG.mkdir(mode=0o700, exist_ok=True)
    env = {"PATH": os.environ["PATH"], "CAUSEWAY_VAR": str(VAR)} | dict([MARK.split("=", 1)])
    with open(LOG / "supervisor", "ab") as log:
        subprocess.Popen(["s6-svscan", SCAN], env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                         start_new_session=True)  # fmt: skip
    if not wait_until((SCAN / ".s6-svscan" / "control").exists, 5):
        raise Wrong(f"s6-svscan does not start; see {LOG}/supervisor")


def files_of(name, argv, env, limits, down_signal):
    run = f"#!/bin/sh\nexec 2>&1\ncd {shlex.quote(str(VAR))}\n"
    if limits:
        run += 'ulimit -n "$(ulimit -Hn)"\n'
    keep = f'PATH="$PATH" {shlex.quote(MARK)}'
    words = " ".join(shlex.quote(str(word)) for word in argv)
    run += f"exec env -i {keep} s6-envdir {shlex.quote(str(SCAN / name / 'env'))} {words}\n"
    log = f"#!/bin/sh\nexec s6-log n5 s4000000 {shlex.quote(str(LOG / name))}\n"
    files = {"run": run, "log/run": log, "down-signal": down_signal + "\n"}
    return files | {f"env/{key}": value + "\n" for key, value in env.items()}


def put(name, argv, env, limits=False, down_signal="SIGTERM", changed=False):
    """States that this process shall run. True: it has to be restarted, for something about it (or, changed, a file that
    it reads) is not what it started with."""
    folder, files = SCAN / name, files_of(name, argv, env, limits, down_signal)
    old = {str(p.relative_to(folder)): p for p in folder.glob("env/*")} if folder.exists() else {}
    is_new = not folder.exists()
    at = RUN / f"new.{name}" if is_new else folder
    for path in [p for key, p in old.items() if key not in files]:
        path.unlink()
        changed = True
    (at / "env").mkdir(mode=0o700, parents=True, exist_ok=True)
    for key, text in files.items():
        path = at / key
        if path.exists() and path.read_text() == text:
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o700 if path.name == "run" else 0o600)
        changed = True
    if is_new:
        at.rename(folder)
    return changed and not is_new


def names():
    return sorted(p.name for p in SCAN.iterdir() if not p.name.startswith(".")) if SCAN.exists() else []


def rescan():
    subprocess.run(["s6-svscanctl", "-a", SCAN], check=True)
    ready = lambda: all((SCAN / n / "supervise" / "control").exists() for n in names())  # noqa: E731
    if not wait_until(ready, 5):
        raise Wrong(f"s6 does not take up its folders; see {LOG}/supervisor")


def control(who, wait, order):
    """Gives the order to all side by side and waits; what does not obey in time is killed, and the order stands."""
    command = ["s6-svc", wait, "-T", str(STOP_S * 1000), order]
    waiting = [(name, subprocess.Popen([*command, SCAN / name], stderr=subprocess.DEVNULL)) for name in who]
    for name in [name for name, process in waiting if process.wait()]:
        subprocess.run(["s6-svc", wait, "-T", "5000", "-k", SCAN / name])


def restart(who):
    control(who, "-wr", "-r")
    for name in who:
        subprocess.run(["s6-svdt-clear", SCAN / name])


def stop(who):
    control(who, "-wD", "-d")


def remove(who):
    stop(who)
    for name in who:
        shutil.rmtree(SCAN / name)
    if who:
        subprocess.run(["s6-svscanctl", "-an", SCAN], check=True)


def is_outdated(name):
    """The program was built again after this process had started."""
    pid = state(name)["pid"]
    try:
        return pid > 0 and os.readlink(f"/proc/{pid}/exe").endswith(" (deleted)")
    except OSError:
        return False


def state(name):
    """up, pid, seconds in this state, deaths."""
    folder = SCAN / name
    ask = ["s6-svstat", "-o", "up,pid,updownfor", folder]
    words = subprocess.run(ask, capture_output=True, text=True).stdout.split() or ["false", "-1", "0"]
    deaths = subprocess.run(["s6-svdt", folder], capture_output=True, text=True).stdout.count("\n")
    return {"up": words[0] == "true", "pid": int(words[1]), "seconds": int(words[2]), "restarts": deaths}


def end():
    """Everything of this platform ends; daemons before the servers they stand on."""
    root, _ = processes()
    if root:
        servers = [name for name in names() if "." not in name]
        stop([name for name in names() if name not in servers])
        stop(servers)
        subprocess.run(["s6-svscanctl", "-t", SCAN], check=False)
        if not wait_until(lambda: not belongs(root), 5):
            send([root], signal.SIGKILL)
    end_strays()
    shutil.rmtree(RUN, ignore_errors=True)
    return root is not None

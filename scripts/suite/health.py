"""Asks instances how they are, over their admin sockets."""
import os
import socket
import time

from .layout import LOG, RUN, Wrong

READY_S = int(os.environ.get("CAUSEWAY_READY_S", "60"))


def ask(name, path="/healthz"):
    """(status, text); (0, reason) when nobody answers. The current folder is var: so no path is too long."""
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(2)
            s.connect(f"run/{name}.sock")
            s.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: s.recv(65536), b"")).decode(errors="replace")
    except OSError as error:
        return 0, error.strerror or str(error)
    head, _, text = answer.partition("\r\n\r\n")
    words = head.split(maxsplit=2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), text


def last_lines(name, count=15):
    path = LOG / name / "current"
    lines = path.read_text(errors="replace").splitlines()[-count:] if path.exists() else []
    return "".join(f"    {line}\n" for line in lines) or "    (no log line)\n"


def wait_ready(who):
    """Returns when each is ready; else names the one that is not, why, and its last log lines."""
    waiting, end = list(who), time.monotonic() + READY_S
    while waiting:
        waiting = [name for name in waiting if ask(name)[0] != 200]
        if waiting and time.monotonic() > end:
            raise Wrong("".join(not_ready(name) for name in waiting))
        if waiting:
            time.sleep(0.02)


def not_ready(name):
    status, text = ask(name)
    reason = text.strip().replace("\n", "; ") if status else f"no answer on {RUN}/{name}.sock ({text})"
    return f"{name} is not ready after {READY_S} s: {reason}\n{last_lines(name)}"

"""One platform on this machine: its folders, ports, daemons and settings. Everything here is stated, nothing done."""
import configparser
import os
import re
import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BUILD = REPO / os.environ.get("BUILD", "build")
VAR = Path(os.environ.get("CAUSEWAY_VAR") or REPO / "var").absolute()
RUN, LOG, SECRETS, TLS = VAR / "run", VAR / "log", VAR / "secrets", VAR / "tls"
SCAN = RUN / "s6"  # a folder for each supervised process
PG_DATA = VAR / "postgresql"
PG_BIN = Path("/usr/lib/postgresql/15/bin")
DATABASE = "causeway"
LOCAL = "127.0.0.1"

# With CAUSEWAY_PORT_BASE=B row i listens on B+i. NATS and PostgreSQL keep clear of a system's own.
PORT_TABLE = (
    ("rest", 8080), ("rest_tls", 8443), ("mqtt", 1883), ("mqtts", 8883), ("ws", 8083), ("wss", 8084),
    ("coap", 5683), ("coaps", 5684), ("http_device", 8444), ("object", 8943), ("nats", 14222), ("postgresql", 15432),
)  # fmt: skip
ELSEWHERE = ("NATS_URL", "DB")  # servers that somebody else runs: what a person sets counts
NOT_SETTINGS = ("role",)


class Wrong(Exception):
    """What a person has to put right; its text is for them."""


def ports():
    base = os.environ.get("CAUSEWAY_PORT_BASE")
    if not base:
        return dict(PORT_TABLE)
    if not base.isdigit() or not 1024 <= int(base) <= 65535 - len(PORT_TABLE):
        raise Wrong(f'CAUSEWAY_PORT_BASE="{base}": not a port (1024..{65535 - len(PORT_TABLE)})')
    return {name: int(base) + i for i, (name, _) in enumerate(PORT_TABLE)}


def daemons():
    """name -> row of deploy/daemons."""
    table = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",))
    table.optionxform = str
    table.read(REPO / "deploy" / "daemons")
    return {name: dict(table[name]) for name in table.sections()}


def instances(table):
    """[(name, number)], one of each daemon unless CAUSEWAY_INSTANCES says otherwise."""
    count = dict.fromkeys(table, 1)
    for item in os.environ.get("CAUSEWAY_INSTANCES", "").split():
        found = re.fullmatch(r"([a-z-]+)=(\d{1,2})", item)
        if not found or found[1] not in count or int(found[2]) > 64:
            raise Wrong(f'CAUSEWAY_INSTANCES: "{item}" is not <daemon>=<0..64>; daemons: {" ".join(table)}')
        count[found[1]] = int(found[2])
    return [(name, n) for name in table for n in range(1, count[name] + 1)]


def secret(name):
    return (SECRETS / name).read_text().strip()


def values():
    """What {…} in deploy/daemons stands for."""
    known = {name: str(port) for name, port in ports().items()}
    known |= {"tls.cert": str(TLS / "server.crt"), "tls.key": str(TLS / "server.key"), "tls.ca": str(TLS / "ca.crt")}
    return known | {path.name: secret(path.name) for path in SECRETS.glob("key.*")}


def own_settings(name, number):
    """Settings of the person who runs this: files var/etc/all, <daemon>, <daemon>.<n>, and the environment."""
    found = {}
    for path in (VAR / "etc" / who for who in ("all", name, f"{name}.{number}")):
        if path.exists():
            lines = (line.strip() for line in path.read_text().splitlines())
            found |= dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    given = {key[9:]: value for key, value in os.environ.items() if key.startswith("CAUSEWAY_")}
    given = {k: v for k, v in given.items() if k not in ("VAR", "PORT_BASE", "INSTANCES", "INSTANCE")}
    if given:
        text = subprocess.run([BUILD / "bin" / name, "--help"], capture_output=True, text=True).stdout
        found |= {key: value for key, value in given.items() if re.search(rf"\bCAUSEWAY_{key}\b", text)}
    return found


def environment(name, number, row, known):
    """The whole environment of one instance."""
    port, own = ports(), own_settings(name, number)
    env = dict(own)
    for key, value in row.items():
        if key not in NOT_SETTINGS:
            env[key] = re.sub(r"\{([\w.]+)\}", lambda at: known[at[1]], value)
    env |= {
        "VAR": str(VAR),
        "INSTANCE": str(number),
        "ADMIN_SOCKET": f"run/{name}.{number}.sock",  # below the current folder: no path is too long for a socket
        "NATS_URL": f"nats://{LOCAL}:{port['nats']}",
        "NATS_USER": name,
        "NATS_PASSWORD": secret(f"nats.{name}"),
    }
    if "role" in row:
        role = row["role"]
        env["DB"] = (
            f"host={LOCAL} port={port['postgresql']} dbname={DATABASE} user={role} password={secret('db.' + role)}"
        )
    env |= {key: own[key] for key in ELSEWHERE if key in own}
    return {f"CAUSEWAY_{key}": value for key, value in env.items()}

"""The private PostgreSQL cluster and nats-server of one platform."""
import hashlib
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from . import rights, supervise
from .keys import write_private
from .layout import DATABASE, LOCAL, PG_BIN, PG_DATA, REPO, RUN, VAR, Wrong, ports, secret

AS_ROOT = os.geteuid() == 0
HBA = f"host all all {LOCAL}/32 scram-sha-256\n"
ELSEWHERE = Path("/var/lib/postgresql")
SYNC_ALWAYS = {"sync_interval": "always"}  # of JetStream
GUARD = {"publish": ["$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*"], "subscribe": ["_INBOX.guard.*"]}


def as_postgres(*argv):
    """PostgreSQL refuses to run as root."""
    return (["s6-setuidgid", "postgres"] if AS_ROOT else []) + [str(word) for word in argv]


def give(path):
    if AS_ROOT:
        user = pwd.getpwnam("postgres")
        os.chown(path, user.pw_uid, user.pw_gid)


def cluster_home():
    """Where the cluster is made: in var, or, where user postgres may not go (a clone below /root), in its own home."""
    if subprocess.run(as_postgres("test", "-x", VAR)).returncode == 0:
        home = VAR / "postgresql.new"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o700)
    else:
        home = Path(tempfile.mkdtemp(prefix="causeway.", dir=ELSEWHERE))
        print(f"up: user postgres cannot enter {VAR}: the database lies in {home}")
    give(home)
    return home


def make_cluster():
    """Returns the running initdb and a function that ends the work, or None: there is a cluster."""
    if (PG_DATA / "PG_VERSION").exists():
        return None
    home = cluster_home()
    password = home / "password"
    write_private(password, secret("db.postgres"))
    give(password)
    initdb = subprocess.Popen(
        as_postgres(PG_BIN / "initdb", "-D", home / "data", "-U", "postgres", "--auth=scram-sha-256",
                    f"--pwfile={password}", "--no-locale", "-E", "UTF8", "--no-sync"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")  # fmt: skip

    def finish():
        said = initdb.communicate()[0]
        if initdb.returncode:
            raise Wrong(f"initdb failed: {said}")
        password.unlink()
        subprocess.run(["sync", "-f", home], check=True)  # once, instead of for each file
        if home.parent == VAR:
            (home / "data").rename(PG_DATA)
            home.rmdir()
        else:
            PG_DATA.symlink_to(home / "data")

    return finish


def put_postgresql():
    changed = False
    files = {"postgresql.conf": (REPO / "deploy" / "postgresql.conf").read_text(), "pg_hba.conf": HBA}
    for name, text in files.items():
        path = PG_DATA / name
        if path.read_text() != text:
            write_private(path, text)
            give(path)
            changed = True
    argv = as_postgres(PG_BIN / "postgres", "-D", PG_DATA.resolve(), "-p", ports()["postgresql"])
    return supervise.put("postgresql", argv, {}, down_signal="SIGINT", changed=changed)


def nats_users(table):
    allowed = {name: rights.permissions(name) for name in table} | {"guard": GUARD}
    return [{"user": name, "password": secret(f"nats.{name}"), "permissions": may} for name, may in allowed.items()]


def wants_power():
    level = os.environ.get("CAUSEWAY_DURABILITY") or "process"
    if level not in ("process", "power"):
        raise Wrong(f'CAUSEWAY_DURABILITY="{level}": not process or power')
    return level == "power"


def durability():
    """What the streams' files survive: the end of any process, or (power) the loss of power too."""
    if not wants_power():
        return {}
    said = subprocess.run(["nats-server", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"v(\d+)\.(\d+)", said)
    if not found or (int(found[1]), int(found[2])) < (2, 10):
        raise Wrong(f"CAUSEWAY_DURABILITY=power needs nats-server 2.10 or later; here it is \"{said.strip()}\"")
    return SYNC_ALWAYS


def nats_conf(table, host, port, store, sync, **more):
    conf = {
        "host": host,
        "port": port,
        "server_name": "causeway",
        "max_payload": 8 << 20,
        "jetstream": {"store_dir": store} | sync,
        "authorization": {"users": nats_users(table)},
    } | more
    return json.dumps(conf, indent=1)  # its configuration language takes JSON


def put_nats(table):
    (VAR / "nats").mkdir(mode=0o700, exist_ok=True)
    text = nats_conf(table, LOCAL, ports()["nats"], str(VAR / "nats"), durability())
    path = RUN / "nats.conf"
    changed = not path.exists() or path.read_text() != text
    write_private(path, text)
    return supervise.put("nats", ["nats-server", "-c", path], {}, changed=changed)


def put_guard():
    text = (REPO / "scripts" / "guard").read_bytes()
    env = {"CAUSEWAY_VAR": str(VAR), "VERSION": hashlib.sha256(text).hexdigest()}
    if "CAUSEWAY_PORT_BASE" in os.environ:
        env["CAUSEWAY_PORT_BASE"] = os.environ["CAUSEWAY_PORT_BASE"]
    return supervise.put("guard", ["/usr/bin/python3", REPO / "scripts" / "guard"], env)


def accepts(port):
    try:
        socket.create_connection((LOCAL, port), timeout=1).close()
    except OSError:
        return False
    return True


def libpq():
    return os.environ | {
        "PGHOST": LOCAL, "PGPORT": str(ports()["postgresql"]), "PGUSER": "postgres", "PGDATABASE": DATABASE,
        "PGPASSWORD": secret("db.postgres"), "CAUSEWAY_VAR": str(VAR),
    }  # fmt: skip


def postgresql_answers():
    ask = [PG_BIN / "pg_isready", "-q"]
    return accepts(ports()["postgresql"]) and subprocess.run(ask, env=libpq()).returncode == 0


def migrate():
    done = subprocess.run([REPO / "scripts" / "migrate"], env=libpq(), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)  # fmt: skip
    if done.returncode:
        raise Wrong(f"the database could not be brought up to date:\n{done.stdout}")

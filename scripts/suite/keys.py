"""Secrets and certificates of one platform: made once, kept under var/secrets and var/tls, readable by the owner only."""
import hashlib
import hmac
import os
import re
import secrets
import socket
import subprocess

from .layout import SECRETS, TLS, Wrong

CA_DAYS, SERVER_DAYS, RENEW_S = 3650, 825, 30 * 86400


def write_private(path, text):
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        f.write(text)
    new.replace(path)


def once(name, make):
    if not (SECRETS / name).exists():
        write_private(SECRETS / name, make() + "\n")


def derive(master, purpose):
    """HKDF-SHA256 (RFC 5869) without salt; 32 bytes are one block. Not `openssl kdf`: a command line can be seen."""
    prk = hmac.digest(bytes(32), master, hashlib.sha256)
    return hmac.digest(prk, purpose.encode() + b"\x01", hashlib.sha256).hex()


def make_secrets(table):
    SECRETS.mkdir(mode=0o700, exist_ok=True)
    once("master.key", lambda: secrets.token_hex(32))
    master = bytes.fromhex((SECRETS / "master.key").read_text())
    for row in table.values():
        for name in re.findall(r"\{(key\.[\w.]+)\}", " ".join(row.values())):
            once(name, lambda: derive(master, name.removeprefix("key.")))
    for role in ["postgres"] + [row["role"] for row in table.values() if "role" in row]:
        once(f"db.{role}", lambda: secrets.token_hex(24))
    for name in [*table, "guard"]:
        # a letter first: nats-server takes what looks like a number for one
        once(f"nats.{name}", lambda: "n" + secrets.token_hex(24))


def openssl(*args):
    done = subprocess.run(["openssl", *args], cwd=TLS, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"openssl {args[0]}: {done.stderr.strip()}")
    return done.stdout


def new_key(name):
    if not (TLS / name).exists():
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", name + ".new")
        (TLS / (name + ".new")).chmod(0o600)
        (TLS / (name + ".new")).replace(TLS / name)


def checked(name):
    if not re.fullmatch(r"[A-Za-z0-9*:.-]{1,253}", name):
        raise Wrong(f'CAUSEWAY_HOSTNAMES: "{name}" is not a host name or an address')
    return name


def host_names():
    names = {"DNS:localhost", "IP:127.0.0.1", "IP:::1"}
    for name in re.split(r"[\s,]+", os.environ.get("CAUSEWAY_HOSTNAMES", "").strip()):
        if name:
            names.add(("IP:" if re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:]*", name) else "DNS:") + checked(name))
    if re.fullmatch(r"[A-Za-z0-9.-]{1,253}", socket.gethostname()):
        names.add("DNS:" + socket.gethostname())
    return ",".join(sorted(names))


def is_current(names):
    if not (TLS / "server.crt").exists() or (TLS / "names").read_text() != names:
        return False
    check = ["openssl", "x509", "-in", TLS / "server.crt", "-noout", "-checkend", str(RENEW_S)]
    return subprocess.run(check, capture_output=True).returncode == 0


def make_certificates():
    """An own CA, and a certificate of it for this machine's names; renewed a month before its end."""
    TLS.mkdir(mode=0o755, exist_ok=True)
    names = host_names()
    if (TLS / "ca.crt").exists() and is_current(names):
        return
    if not (TLS / "ca.crt").exists():
        new_key("ca.key")
        openssl("req", "-x509", "-new", "-key", "ca.key", "-sha256", "-days", str(CA_DAYS), "-out", "ca.crt",
                "-subj", "/CN=Causeway CA", "-addext", "basicConstraints=critical,CA:true,pathlen:0",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    new_key("server.key")
    (TLS / "server.ext").write_text(
        f"subjectAltName={names}\nbasicConstraints=critical,CA:false\nextendedKeyUsage=serverAuth\n"
        "keyUsage=critical,digitalSignature\n"
    )
    openssl("req", "-new", "-key", "server.key", "-subj", "/CN=localhost", "-out", "server.csr")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-sha256", "-days", str(SERVER_DAYS), "-extfile", "server.ext", "-out", "server.crt.new")  # fmt: skip
    (TLS / "names").write_text(names)
    (TLS / "server.crt.new").replace(TLS / "server.crt")

"""An application's callback: a real HTTP(S) server with a CA of its own. It records what arrives in
order and can be told to misbehave."""
import datetime
import ipaddress
import json
import os
import socket
import ssl
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from waiting import wait_until


HOST = os.environ.get("CAUSEWAY_CALLBACK_HOST", "127.0.0.1")  # by which the platform reaches us


def _name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


class Authority:
    """A CA; its certificate as PEM is what one uploads to the platform."""

    def __init__(self, folder, name="Callback Test CA", days=30):
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.cert = self._build(_name(name), _name(name), self.key.public_key(), days).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
                self.key, hashes.SHA256())
        self.pem = self.cert.public_bytes(serialization.Encoding.PEM).decode()

    @staticmethod
    def _build(subject, issuer, public_key, days):
        now = datetime.datetime.utcnow()
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
                .public_key(public_key).serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=max(1, 2 - days)))
                .not_valid_after(now + datetime.timedelta(days=days)))

    def issue(self, common=HOST, sans=(HOST,), days=10):
        """A server certificate; a negative number of days: expired. Returns its file, key included."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._build(_name(common), _name(self.name), key.public_key(), days)
        names = []
        for san in sans:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(san)))
            except ValueError:
                names.append(x509.DNSName(san))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert = builder.sign(self.key, hashes.SHA256())
        path = f"{self.folder}/{common}-{cert.serial_number}.pem"
        with open(path, "wb") as out:
            out.write(cert.public_bytes(serialization.Encoding.PEM) + _pem(key))
        return path


class Record:
    def __init__(self, path, headers, raw):
        self.path, self.headers, self.raw, self.at = path, headers, raw, time.monotonic()
        self.answered = None

    @property
    def body(self):
        return json.loads(self.raw)

    def __repr__(self):
        return f"<{self.path} {self.answered} {self.raw[:300]!r}>"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = -1  # an answer is one packet: two would wait for each other's acknowledgement

    def setup(self):
        if self.server.tls:  # the handshake here, not in the accepting thread
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.gone:
            resets(self, None)
            return
        record = Record(self.path, dict(self.headers), raw)
        owner = self.server.owner
        behaviour = owner.behaviour_of(self.path)
        with owner.lock:
            owner.records.append(record)
        record.answered = behaviour(self, record)

    def reply(self, status, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        return status

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    gone = False

    def handle_error(self, request, client_address):
        pass


def ok(handler, _record):
    return handler.reply(200)


def answers(status, headers=()):
    return lambda handler, _record: handler.reply(status, headers)


def slow(released, status=200):
    """Answers when the event is set."""
    def behave(handler, _record):
        released.wait(60)
        return handler.reply(status)
    return behave


def resets(handler, _record):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()
    return "reset"


class Callback:
    """Starts at once on a free port. Behaviour is set for a path (and what lies below it)."""

    def __init__(self, certificate=None, host=HOST):
        self.host, self.certificate = host, certificate
        self.records, self.lock, self.behaviours = [], threading.Lock(), {}
        self.server, self.port = None, 0
        self.up()

    def up(self):
        self.server = Server((self.host, self.port), Handler, bind_and_activate=False)
        self.server.allow_reuse_address = True
        self.server.server_bind()
        self.server.server_activate()
        self.port = self.server.server_address[1]
        self.server.owner, self.server.tls = self, None
        if self.certificate:
            self.server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.server.tls.load_cert_chain(self.certificate)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self):
        """Nobody listens any more; what is connected gets a reset at its next request."""
        self.server.gone = True
        self.server.shutdown()
        self.server.server_close()

    def url(self, path="/"):
        return f"{'https' if self.certificate else 'http'}://{self.host}:{self.port}{path}"

    def behave(self, path, behaviour):
        self.behaviours[path] = behaviour

    def behaviour_of(self, path):
        fitting = [p for p in self.behaviours if path.startswith(p)]
        return self.behaviours[max(fitting, key=len)] if fitting else ok

    def on(self, path):
        with self.lock:
            return [r for r in self.records if r.path == path]

    def bodies(self, path):
        return [r.body for r in self.on(path)]

    def wait_for(self, path, count=1, timeout=15):
        return wait_until(lambda: len(got := self.on(path)) >= count and got, timeout, 0.02,
                          f"{count} requests on {path}")


def pushed_sequence(records):
    """(device_id, seq) of each delivered `Load` report, in the order of arrival."""
    pairs = []
    for r in records:
        if r.answered != 200:
            continue
        note = r.body["notify_data"]
        for service in note["body"]["services"]:
            if "seq" in service["properties"]:
                pairs.append((note["header"]["device_id"], service["properties"]["seq"]))
    return pairs

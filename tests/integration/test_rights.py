"""Least privilege between the daemons: what the credentials of each can do at nats-server and PostgreSQL."""
import json
import pathlib
import socket
import subprocess
import time

import pytest

from platform_under_test import DAEMONS, Platform
from waiting import wait_until


class Nats:
    """A connection as one of the platform's users, by the protocol's own words."""

    def __init__(self, platform, user):
        self.socket = socket.create_connection(("127.0.0.1", platform.base + 10), 10)
        self.lines = self.socket.makefile("rb")
        assert self.lines.readline().startswith(b"INFO")
        password = pathlib.Path(f"{platform.var}/secrets/nats.{user}").read_text().strip()
        self.say("CONNECT " + json.dumps({"user": user, "pass": password, "verbose": False, "pedantic": False}))
        assert self.settle() == []

    def say(self, *lines):
        self.socket.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def settle(self):
        """What the server says of what was sent so far; it goes on after a violation."""
        self.say("PING")
        return [line.decode().strip() for line in iter(self.lines.readline, b"PONG\r\n")]

    def may_publish(self, subject):
        self.say(f"PUB {subject} 0", "")
        return not any("Violation" in line for line in self.settle())

    def may_subscribe(self, subject):
        self.say(f"SUB {subject} 1")
        fine = not any("Violation" in line for line in self.settle())
        self.say("UNSUB 1")
        self.settle()
        return fine

    def close(self):
        self.socket.close()


@pytest.fixture(scope="module")
def platform():
    running = Platform()
    running.violates = True
    yield running.start()
    running.stop()


@pytest.fixture(params=DAEMONS)
def user(platform, request):
    nats = Nats(platform, request.param)
    yield nats, request.param
    nats.close()


FORBIDDEN = ["$SYS.REQ.SERVER.PING", "$JS.API.STREAM.DELETE.UPLINK_0", "$JS.API.STREAM.UPDATE.UPLINK_0", "$JS.API.STREAM.CREATE.X",
             "$JS.API.INFO", "$JS.API.CONSUMER.DELETE.UPLINK_0.x", "elsewhere", "event.0", "_INBOX.x.y"]


def test_nobody_may_what_nobody_needs(user):
    nats, name = user
    assert [s for s in FORBIDDEN if nats.may_publish(s)] == []
    assert [s for s in (">", "*", "_INBOX.>", "uplink.>", "event.>", "push.>", "api.>", "$JS.>", "$SYS.>") if nats.may_subscribe(s)] == []
    others = [d for d in DAEMONS if d != name]
    assert [d for d in others if nats.may_subscribe(f"_INBOX.{d}.x")] == [], "answers are for who asked"


ANSWERS_TO = {  # who is asked by whom: proto/subjects.h
    "identity": {"rest-gateway", "device-registry"}, "device-registry": {"rest-gateway", "mqtt-gateway", "device-registry"},
    "uplink-processor": {"rest-gateway"}, "command-dispatcher": {"rest-gateway"}, "rule-engine": {"rest-gateway"},
    "mqtt-gateway": {"command-dispatcher", "device-registry", "uplink-processor", "mqtt-gateway"},
}


def test_answers_go_to_who_asks(user):
    """Stated one by one: nats-server's own way of it slows it down with each message of the logs (scripts/suite/rights.py)."""
    nats, name = user
    assert {d for d in DAEMONS if nats.may_publish(f"_INBOX.{d[:20]}.x")} == ANSWERS_TO.get(name, set()) | {"identity"}  # which asks all of them for the facts


WHO_MAY = {  # of those that touch what a person owns
    "api.registry.DeleteDevice": {"rest-gateway", "device-registry"}, "api.command.CreateCommand": {"rest-gateway"},
    "api.identity.ShowAccessKey": {"rest-gateway"}, "api.identity.WriteAudit": {"rest-gateway", "device-registry"},
    "api.registry.open_sessions": {"rest-gateway", "mqtt-gateway", "device-registry"},
    "uplink.0": {"mqtt-gateway", "device-registry", "uplink-processor", "command-dispatcher", "push-notifier"},
    "event.0.device-registry": {"device-registry", "rule-engine"}, "push.0.rule-engine": {"rule-engine", "push-notifier"},
    "$JS.API.STREAM.PURGE.UPLINK_0": {"uplink-processor"}, "$JS.API.STREAM.PURGE.EVENT_0": {"rule-engine"},
    "$JS.API.CONSUMER.CREATE.UPLINK_0.x": {"uplink-processor"}, "$JS.API.DIRECT.GET.PUSH_0": {"rule-engine", "push-notifier"},
}


def test_who_may_what(user):
    nats, name = user
    for subject, who in WHO_MAY.items():
        if name not in who:  # what they may is tried by all other tests; here it would do something
            assert not nats.may_publish(subject), subject


def test_a_gateway_reads_nothing_of_others(platform):
    nats = Nats(platform, "mqtt-gateway")
    for subject in ("uplink.0", "event.0.uplink-processor", "push.0.rule-engine", "api.registry.*", "response.x.y",
                    "invalidate.device", "wake.device-registry.0"):
        assert not nats.may_subscribe(subject), subject
    for subject in ("event.0.uplink-processor", "push.0.rule-engine", "$JS.API.DIRECT.GET.EVENT_0",
                    "$JS.API.CONSUMER.CREATE.UPLINK_0.x", "$JS.API.CONSUMER.MSG.NEXT.UPLINK_0.x", "invalidate.device",
                    "api.data.ListDeviceHistory", "wake.uplink-processor.0"):
        assert not nats.may_publish(subject), subject
    nats.close()


def test_no_database_for_gateways(platform):
    for name in ("mqtt-gateway", "rest-gateway"):
        with open(f"/proc/{platform.processes(name)[0]}/environ", "rb") as f:
            assert b"CAUSEWAY_DB=" not in f.read()


ROLES = {"identity": "identity.account", "registry": "registry.device", "data": "data.history", "command": "command.message",
         "rule": "rule.rule", "push": "push.position"}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_writes_its_own_schema_only(platform, role):
    password = pathlib.Path(f"{platform.var}/secrets/db.{role}").read_text().strip()

    def run(sql):
        done = subprocess.run(["psql", "-XqtA", "-h", "127.0.0.1", "-p", str(platform.base + 11), "-U", role, "-d", "causeway",
                               "-c", sql], text=True, capture_output=True, env={"PATH": "/usr/bin:/bin", "PGPASSWORD": password})
        return done.stderr
    for other, table in ROLES.items():
        if other != role:
            for sql in (f"DELETE FROM {table}", f"INSERT INTO {table} DEFAULT VALUES", f"TRUNCATE {table}", f"DROP TABLE {table}"):
                assert "permission denied" in run(sql) or "must be owner" in run(sql), sql
    assert "permission denied" in run("CREATE TABLE public.x ()") and "permission denied" in run("CREATE DATABASE x")
    assert "permission denied" in run("CREATE SCHEMA x") and "permission denied" in run("SELECT * FROM pg_authid")


def test_a_call_is_the_operation_of_its_subject(platform):
    """device-registry may write the audit log, and read no key through that subject."""
    nats = Nats(platform, "device-registry")

    def call(operation):
        fields = (b"\x0a" + bytes([len(operation)]) + operation.encode() + b"\x12\x01x" +
                  b"\x18" + varint(int(time.time() * 1000) + 60000))
        nats.say("SUB _INBOX.device-registry.smuggled 7")
        nats.socket.sendall(f"PUB api.identity.WriteAudit _INBOX.device-registry.smuggled {len(fields)}\r\n".encode() + fields + b"\r\n")
        nats.settle()
    call("ListUsers")
    wait_until(lambda: "api_mismatch" in pathlib.Path(f"{platform.var}/log/identity.1/current").read_text(), 10, 0.1, "identity drops it")
    nats.close()


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])

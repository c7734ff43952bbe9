"""What can go wrong: a class for each cause. The dice decide everything when it is made; begin() breaks and says what,
end() mends (what a supervisor mends is left to it)."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

import rawmqtt
from platform_under_test import DAEMONS
from waiting import wait_until

VICTIMS = DAEMONS + ["nats-server", "postgres"]
PARTITIONS = 8


class Proxy:
    """Stands before nats-server; can be cut (connections end, new ones are refused) or frozen (nothing moves)."""

    def __init__(self, target):
        self.target, self.pairs, self.is_cut = target, set(), False
        self.open = threading.Event()
        self.open.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self.listener.accept()
            try:
                if self.is_cut:
                    raise OSError("cut")
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self.pairs.add((near, far))
            for a, b in ((near, far), (far, near)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._copy, args=(a, b, (near, far)), daemon=True).start()

    def _copy(self, source, sink, pair):
        try:
            while data := source.recv(262144):
                self.open.wait()
                sink.sendall(data)
        except OSError:
            pass
        self._end(pair)

    def _end(self, pair):
        self.pairs.discard(pair)
        for s in pair:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def cut(self):
        self.is_cut = True
        for pair in list(self.pairs):
            self._end(pair)

    def mend(self):
        self.is_cut = False
        self.open.set()


class Disk:
    """A file system of its own for the streams, whose size can be changed; needs the right to mount."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, mode=0o700, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24g,mode=0700", "causeway-fault", folder],
                              capture_output=True, text=True)
        self.there = done.returncode == 0
        self.reason = done.stderr.strip()

    def _resize(self, size):
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def fill(self):
        used = os.statvfs(self.folder)
        self._resize((used.f_blocks - used.f_bfree) * used.f_frsize + (256 << 10))  # soon

    def room(self):
        self._resize("24g")

    def close(self):
        if self.there:
            subprocess.run(["umount", "-l", self.folder], check=True)


class Clock:
    """The wall clock of the daemons, through libfaketime: wrappers in a build folder of their own."""

    LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"

    def __init__(self, folder, build):
        self.folder = folder
        os.makedirs(f"{folder}/bin")
        self.set(0)
        for name in DAEMONS:
            path = f"{folder}/bin/{name}"
            with open(path, "w") as f:
                f.write(f"#!/bin/sh\nexec env LD_PRELOAD={self.LIBRARY} FAKETIME_TIMESTAMP_FILE={folder}/{name}.time "
                        f"FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 {build}/bin/{name} \"$@\"\n")
            os.chmod(path, 0o755)

    def set(self, seconds, victim=None):
        for name in DAEMONS:
            if victim in (None, name):
                with open(f"{self.folder}/{name}.new", "w") as f:
                    f.write(f"{seconds:+d}\n")
                os.replace(f"{self.folder}/{name}.new", f"{self.folder}/{name}.time")


def js_api(world, subject, body):
    """One request to JetStream, past the proxy, as a daemon that may."""
    user = "uplink-processor"
    with open(f"{world.platform.var}/secrets/nats.{user}") as secret:
        password = secret.read().strip()
    with socket.create_connection(("127.0.0.1", world.cut.target), timeout=5) as s:
        lines = s.makefile("rwb")
        lines.readline()  # INFO
        hello = {"verbose": False, "pedantic": False, "user": user, "pass": password, "lang": "c", "version": "1"}
        data = json.dumps(body).encode()
        lines.write(b"CONNECT %s\r\nSUB _INBOX.fault.1 1\r\nPUB %s _INBOX.fault.1 %d\r\n%s\r\n" % (
            json.dumps(hello).encode(), subject.encode(), len(data), data))
        lines.flush()
        while line := lines.readline():
            if line.startswith(b"MSG"):
                return json.loads(lines.read(int(line.split()[-1])))
            if line.startswith(b"-ERR"):
                raise AssertionError(line)
            if line.startswith(b"PING"):
                lines.write(b"PONG\r\n")
                lines.flush()
    raise AssertionError("nats-server closed the connection")


class Cause:
    lasts_s = 0.0

    def __init__(self, dice):
        self.lasts_s = dice.uniform(0.5, 6)

    def end(self, world):
        pass


class Kill(Cause):
    """SIGKILL of one process"""
    name = "kill"

    def __init__(self, dice):
        self.victim, self.index = dice.choice(VICTIMS), dice.random()

    def begin(self, world):
        pids = world.platform.processes(self.victim)
        pid = pids[int(self.index * len(pids))]
        os.kill(pid, signal.SIGKILL)
        return f"{self.victim} ({pid})"


class KillSome(Cause):
    """SIGKILL of several processes at once"""
    name = "kill-some"

    def __init__(self, dice):
        self.victims = dice.sample(VICTIMS, dice.randrange(2, 6))

    def begin(self, world):
        for victim in self.victims:
            for pid in world.platform.processes(victim):
                os.kill(pid, signal.SIGKILL)
        return ", ".join(self.victims)


class Stop(Cause):
    """SIGSTOP of one process, woken again after seconds"""
    name = "stop"

    def __init__(self, dice):
        self.victim, self.index, self.lasts_s = dice.choice(VICTIMS), dice.random(), dice.uniform(0.5, 15)

    def begin(self, world):
        pids = world.platform.processes(self.victim)
        self.pid = pids[int(self.index * len(pids))]
        os.kill(self.pid, signal.SIGSTOP)
        return f"{self.victim} ({self.pid}) for {self.lasts_s:.1f} s"

    def end(self, world):
        try:
            os.kill(self.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # its supervisor or the kernel was faster


class NoDatabase(Cause):
    """PostgreSQL ends all connections and refuses new ones"""
    name = "no-database"

    def begin(self, world):
        world.platform.sql("ALTER DATABASE causeway ALLOW_CONNECTIONS false", database="postgres")
        world.platform.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'causeway'",
                           database="postgres")  # fmt: skip
        return f"for {self.lasts_s:.1f} s"

    def end(self, world):
        world.platform.sql("ALTER DATABASE causeway ALLOW_CONNECTIONS true", database="postgres")


class NatsCut(Cause):
    """connections to nats-server end, new ones are refused"""
    name = "nats-cut"

    def begin(self, world):
        world.cut.cut()
        return f"for {self.lasts_s:.1f} s"

    def end(self, world):
        world.cut.mend()


class NatsFrozen(NatsCut):
    """nothing moves on the connections to nats-server, then all of it at once"""
    name = "nats-frozen"

    def begin(self, world):
        world.cut.open.clear()
        return f"for {self.lasts_s:.1f} s"


class Full(Cause):
    """a partition of a log is full"""
    name = "full"

    def __init__(self, dice):
        super().__init__(dice)
        self.stream = f"{dice.choice(['UPLINK', 'EVENT', 'PUSH'])}_{dice.randrange(PARTITIONS)}"

    def _set(self, world, max_bytes):
        config = js_api(world, f"$JS.API.STREAM.INFO.{self.stream}", {})["config"]
        was, config["max_bytes"] = config["max_bytes"], max_bytes
        answer = js_api(world, f"$JS.API.STREAM.UPDATE.{self.stream}", config)
        assert "error" not in answer, answer
        return was

    def begin(self, world):
        self.max_bytes = self._set(world, 1)
        return f"{self.stream} for {self.lasts_s:.1f} s"

    def end(self, world):
        self._set(world, self.max_bytes)


class SlowCallback(Cause):
    """the application answers after seconds"""
    name = "callback-slow"

    def begin(self, world):
        self.released = threading.Event()

        def slow(handler, record):
            self.released.wait(20)
            return handler.reply(200)
        world.application.behave("/in", slow)
        return f"for {self.lasts_s:.1f} s"

    def end(self, world):
        world.application.behaviours.clear()
        self.released.set()


class BrokenCallback(Cause):
    """the application resets connections, answers 500, or both"""
    name = "callback-broken"

    def __init__(self, dice):
        super().__init__(dice)
        self.dice = dice.__class__(dice.random())

    def begin(self, world):
        from callback import resets
        world.application.behave("/in", lambda handler, record: handler.reply(500) if self.dice.random() < 0.5
                                 else resets(handler, record))  # fmt: skip
        return f"for {self.lasts_s:.1f} s"

    def end(self, world):
        world.application.behaviours.clear()


class DeafDevice(Cause):
    """a device that sends as fast as it can and never reads"""
    name = "deaf-device"

    def begin(self, world):
        device = world.platform.api.new_device(world.product)
        wire = self.wire = rawmqtt.Wire("127.0.0.1", world.platform.mqtt_port)
        stamp = rawmqtt.timestamp()
        wire.send(rawmqtt.connect_packet(f"{device['device_id']}_0_0_{stamp}", device["device_id"],
                                         rawmqtt.password(device["auth_info"]["secret"], stamp)))
        topic, body = f"$oc/devices/{device['device_id']}/sys/messages/up", b"x" * 1000
        until = time.monotonic() + self.lasts_s

        def flood():
            number = 0
            try:
                while time.monotonic() < until:
                    number = number % 65535 + 1
                    wire.send(rawmqtt.publish_packet(topic, body, 1, number))
            except OSError:
                pass
        wait_until(lambda: wire.sock.recv(4), 10, what="CONNACK")
        threading.Thread(target=flood, daemon=True).start()
        return f"for {self.lasts_s:.1f} s"

    def end(self, world):
        self.wire.sock.close()


class DiskFull(Cause):
    """the disk of the streams is full"""
    name = "disk-full"

    def begin(self, world):
        world.disk.fill()
        return f"for {self.lasts_s:.1f} s"

    def end(self, world):
        world.disk.room()


class ClockStep(Cause):
    """the wall clock of all daemons, or of one, steps; and back again"""
    name = "clock-step"

    def __init__(self, dice):
        super().__init__(dice)
        self.seconds = dice.choice([-7200, -600, -30, -1, 1, 30, 600, 7200])
        self.victim = dice.choice(DAEMONS) if dice.random() < 0.5 else None

    def begin(self, world):
        world.clock.set(self.seconds, self.victim)
        return f"{self.victim or 'all daemons'} by {self.seconds:+d} s for {self.lasts_s:.1f} s"

    def end(self, world):
        world.clock.set(0)


ALL = [Kill, KillSome, Stop, NoDatabase, NatsCut, NatsFrozen, Full, DiskFull, ClockStep, SlowCallback, BrokenCallback,
       DeafDevice]

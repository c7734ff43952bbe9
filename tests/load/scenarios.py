"""What is measured. A scenario takes the Bench and yields rows; each makes its load with the generators of this folder
and checks that nothing is missing before it counts."""
import dataclasses
import hashlib
import json
import os
import random
import statistics
import subprocess
import time
from pathlib import Path

import machine
import psycopg2
import psycopg2.extras
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from generators import Sink, call, command, swarm
from peer import Mosquitto
from waiting import wait_until

PAYLOAD = {"payload": 200, "stamp": "at"}  # properties seq, at, pad in 200 bytes
SECRET = "0123456789abcdef0123456789abcdef"
MODEL = [{"service_id": "Load", "service_type": "Load", "properties": [
    {"property_name": "seq", "data_type": "long", "min": "0", "max": "2147483647", "method": "R"},
    {"property_name": "at", "data_type": "long", "method": "R"},
    {"property_name": "pad", "data_type": "string", "max_length": 60000, "method": "R"}], "commands": [
    {"command_name": "go", "paras": [], "responses": []}]}]  # fmt: skip


@dataclasses.dataclass
class Row:
    what: str
    values: list  # one of each run
    unit: str = ""
    target: float = None
    least: bool = True  # the target is a lower bound
    peer: float = None  # what mosquitto reached in the same run
    digits: int = 0

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def missed(self):
        return self.target is not None and (self.median < self.target if self.least else self.median > self.target)


class Bench:
    """platform, its product, files of device lines, how often and how long."""

    def __init__(self, platform, folder, runs, seconds):
        self.platform, self.folder, self.runs, self.seconds = platform, folder, runs, seconds
        self.api, self.made, self.tables = platform.api, 0, []
        self.db = psycopg2.connect(host="127.0.0.1", port=platform.base + 11, user="postgres", dbname="causeway",
                                   password=(Path(platform.var) / "secrets/db.postgres").read_text().strip())
        self.db.autocommit = True
        self.product = self.api.new_product(MODEL, name="bench")["product_id"]

    def times(self, work):
        return [work() for _ in range(self.runs)]

    def devices(self, count):
        """A file of `count` devices; those that are missing are created."""
        if count > self.made:
            self.create(count - self.made)
        path = self.folder / f"devices.{count}"
        path.write_text("".join(f"{self.product}_n{i} {SECRET}\n" for i in range(1, count + 1)))
        return path

    def create(self, count):
        body = json.dumps({"node_id": "n{n}", "product_id": self.product, "auth_info": {"secret": SECRET}})
        told = call(self.api, "POST", "/devices", body=body, calls=count, first=self.made + 1, connections=16)
        self.made += count
        return told

    def taken(self):
        """Reports that uplink-processor has committed: in history, shadow and EVENT."""
        with self.db.cursor() as cursor:
            cursor.execute("SELECT sum(totals[1]) FROM data.position WHERE log = 'UPLINK'")
            return int(cursor.fetchone()[0])

    def swarm(self, devices, **options):
        return swarm(self.platform.mqtt_port, self.devices(devices), **options)

    def settled(self):
        """Waits until no reader of a log has anything left."""
        def lag():
            return sum(v for name in ("uplink-processor", "rule-engine", "command-dispatcher", "device-registry")
                       for k, v in self.platform.metrics(name).items() if k.startswith("causeway_log_lag"))
        wait_until(lambda: lag() == 0, 600, 0.2, "all readers are at the end of their logs")

    def cpu(self):
        return machine.cpu(self.platform.owns)

    def logs(self):
        """{log: (appends, bytes)} of all writers."""
        totals = {}
        for name in ("mqtt-gateway", "uplink-processor", "rule-engine"):
            for sample, value in self.platform.metrics(name).items():
                for i, kind in enumerate(("causeway_log_appends_total{log=", "causeway_log_append_bytes_total{log=")):
                    if sample.startswith(kind):
                        log = sample[len(kind):].strip('"}')
                        totals.setdefault(log, [0, 0])[i] += value
        return totals


# ---- connections

def connect(b):
    def storm(devices, tls):
        def once():
            b.settled()
            told = swarm(b.platform.mqtts_port if tls else b.platform.mqtt_port, b.devices(devices), hold=True, duration=1,
                         tls=tls, ca=b.platform.access["CAUSEWAY_CA_FILE"] if tls else None, connect_rate=1000000,
                         connecting=300, sources=4)  # fmt: skip
            return told["connects_per_s"]
        return once
    with Mosquitto() as other:
        peer = statistics.median(b.times(lambda: swarm(other.port, b.devices(5000), hold=True, duration=1, sources=4,
                                                       connect_rate=1000000, connecting=300)["connects_per_s"]))
    yield Row("authenticated connects/s, plain", b.times(storm(5000, False)), "", 10000, peer=peer)
    yield Row("authenticated connects/s, TLS", b.times(storm(1500, True)), "", 1000)


def idle(b):
    def held(count, tls):
        [gateway] = b.platform.processes("mqtt-gateway")
        before = machine.memory_kb(gateway)
        holding = subprocess.Popen(command("swarm", port=b.platform.mqtts_port if tls else b.platform.mqtt_port, tls=tls,
                                           devices=b.devices(count), hold=True, duration=600, connect_rate=3000, sources=4,
                                           connecting=300, quiet=True), stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            wait_until(lambda: b.platform.sessions(1) == count, 120, 0.5, f"{count} devices are connected")
            b.settled()
            return (machine.memory_kb(gateway) - before) * 1024 / count
        finally:
            holding.terminate()
            holding.wait()
            wait_until(lambda: b.platform.sessions(1) == 0, 60, 0.5, "the devices are gone")

    def fresh(count, tls):
        b.platform.kill("mqtt-gateway")  # what an earlier crowd left in its heap must not be counted
        wait_until(lambda: b.platform.healthy("mqtt-gateway"), 30, 0.1, "the gateway is back")
        return held(count, tls)
    yield Row("resident bytes of an idle connection, plain, of 15,000", [fresh(15000, False)], "", 4096, False)
    yield Row("resident bytes of an idle connection, TLS, of 5,000", [fresh(5000, True)], "", 25 * 1024, False)


# ---- reports

def fanin(b):
    runs, cpu, logs, size = [], [], [], []

    def steady():
        b.settled()
        rows, used, appended = b.taken(), b.cpu(), b.logs()
        told = b.swarm(500, rate=50000, duration=b.seconds, window=64, **PAYLOAD)
        stopped = time.monotonic()
        wait_until(lambda: b.taken() - rows >= told["acked"], 300, 0.05, "all reports are through")
        told["behind"] = time.monotonic() - stopped
        told["cpu"] = machine.cpu_between(used, b.cpu())
        told["logs"] = {log: [now - then for now, then in zip(v, appended.get(log, (0, 0)))] for log, v in b.logs().items()}
        assert told["unacked"] == 0 and b.taken() - rows == told["acked"], told
        return told

    def most():
        b.settled()
        rows, begun = b.taken(), time.monotonic()
        told = b.swarm(500, duration=b.seconds, **PAYLOAD)
        wait_until(lambda: b.taken() - rows >= told["acked"], 600, 0.1, "all reports are through")
        return told | {"through": told["acked"] / (time.monotonic() - begun)}

    with Mosquitto() as other:
        peer = b.times(lambda: swarm(other.port, b.devices(500), duration=b.seconds, **PAYLOAD)["rate"])
    runs = b.times(steady)
    flood = b.times(most)
    five = b.times(lambda: (b.settled(), b.swarm(500, duration=b.seconds // 3, mqtt5=True, **PAYLOAD)["rate"])[1])
    web = b.times(lambda: (b.settled(), swarm(int(b.platform.access["CAUSEWAY_MQTT_WS_PORT"]), b.devices(500),
                                              duration=b.seconds // 3, ws=True, **PAYLOAD)["rate"])[1])
    slow = b.times(lambda: (b.settled(), b.swarm(500, rate=20000, duration=b.seconds, **PAYLOAD))[1])
    broker = statistics.median(peer)
    yield Row("QoS 1 reports/s at a steady 50,000, through to shadow, history and EVENT", [r["rate"] for r in runs], "",
              49500, peer=broker)
    yield Row("… behind when the load stops", [r["behind"] for r in runs], "s", 1, False, digits=2)
    yield Row("reports/s through, as many as come", [r["through"] for r in flood], "", 50000, peer=broker)
    yield Row("reports/s gateway to UPLINK, as many as come", [r["rate"] for r in flood], "", 120000, peer=broker)
    yield Row("… with MQTT 5", five, "", 120000)
    yield Row("… over WebSocket", web, "", 100000)
    yield Row("PUBACK p50 at 20,000 reports/s", [r["ack_us"]["p50"] / 1000 for r in slow], "ms", digits=1)
    yield Row("PUBACK p99 at 20,000 reports/s", [r["ack_us"]["p99"] / 1000 for r in slow], "ms", 15, False, digits=1)
    middle = sorted(runs, key=lambda r: r["rate"])[len(runs) // 2]
    cpu_table(b, "steady 50,000 reports/s", middle["cpu"], middle["acked"], b.seconds)
    b.tables.append("| log | appends per 1,000 reports | bytes per report |\n| --- | --- | --- |\n" + "".join(
        f"| {log} | {n * 1000 / middle['acked']:.1f} | {size / middle['acked']:.0f} |\n"
        for log, (n, size) in sorted(middle["logs"].items()) if size))


def cpu_table(b, title, used, count, seconds):
    b.tables.append(f"CPU, {title}:\n\n| process | user s | system s | µs per report | of a core |\n"
                    "| --- | --- | --- | --- | --- |\n" + "".join(
                        f"| {name} | {u:.2f} | {s:.2f} | {(u + s) * 1e6 / count:.1f} | {(u + s) / seconds:.0%} |\n"
                        for name, (u, s) in used.items()))


# ---- to the application

def callback(b):
    with Sink() as sink:
        rule, _ = b.api.new_rule(sink.url, "device.property", "report")
        try:
            slow = b.times(lambda: pushed(b, sink, 500, rate=5000, duration=b.seconds))
            before, begun = b.cpu(), time.monotonic()
            fast = b.times(lambda: pushed(b, sink, 500, rate=15000, duration=b.seconds))
            cpu_table(b, "15,000 pushes/s", machine.cpu_between(before, b.cpu()), sum(f["pushes"] for f in fast),
                      time.monotonic() - begun)
            most = b.times(lambda: pushed(b, sink, 500, messages=200, duration=0))
        finally:
            b.api.delete(f"/routing-rule/rules/{rule}")
    yield Row("report → HTTP callback p50 at 5,000 reports/s", [f["latency_us"]["p50"] / 1000 for f in slow], "ms", digits=1)
    yield Row("report → HTTP callback p99 at 5,000 reports/s", [f["latency_us"]["p99"] / 1000 for f in slow], "ms", 20,
              False, digits=1)
    yield Row("… p99 at 15,000 reports/s", [f["latency_us"]["p99"] / 1000 for f in fast], "ms", digits=1)
    yield Row("pushes/s to one local callback, of a crowd of 100,000", [f["rate"] for f in most], "", 15000)


def pushed(b, sink, devices, **options):
    b.settled()
    sink.figures(reset=True)
    told = b.swarm(devices, **options, **PAYLOAD)
    wait_until(lambda: sink.figures()["pushes"] >= told["acked"], 300, 0.2, "all reports are pushed")
    return sink.figures()


def commands(b):
    devices = b.devices(500)
    holding = subprocess.Popen(command("swarm", port=b.platform.mqtt_port, devices=devices, hold=True, answer=True,
                                       duration=3600, quiet=True), stdout=subprocess.DEVNULL)  # fmt: skip
    body = json.dumps({"service_id": "Load", "command_name": "go", "paras": {}})
    try:
        wait_until(lambda: b.platform.sessions(1) == 500, 60, 0.1, "the devices are connected")
        b.settled()
        told = b.times(lambda: call(b.api, "POST", "/devices/{d}/commands", ids=devices, body=body, rate=500,
                                    calls=500 * b.seconds, connections=64))
        before, begun = b.cpu(), time.monotonic()
        most = b.times(lambda: call(b.api, "POST", "/devices/{d}/commands", ids=devices, body=body, calls=10000,
                                    connections=64))
        cpu_table(b, "synchronous commands as many as come", machine.cpu_between(before, b.cpu()),
                  sum(m["calls"] for m in most), time.monotonic() - begun)
    finally:
        holding.terminate()
        holding.wait()
    yield Row("synchronous command p50 at 500/s", [t["latency_us"]["p50"] / 1000 for t in told], "ms", digits=1)
    yield Row("synchronous command p99 at 500/s", [t["latency_us"]["p99"] / 1000 for t in told], "ms", 10, False, digits=1)
    yield Row("synchronous commands/s, as many as come", [m["rate"] for m in most], "")


# ---- the API

def registry(b):
    shadow = b.devices(500)
    b.swarm(500, messages=1, duration=0, **PAYLOAD)
    b.settled()
    made = b.times(lambda: b.create(2000))
    read = b.times(lambda: call(b.api, "GET", "/devices/{d}/shadow", ids=shadow, calls=10000))
    listed = b.times(lambda: call(b.api, "GET", f"/devices?product_id={b.product}&limit=50", calls=2000))
    for what, told in (("devices created/s over REST", made), ("shadow reads/s", read),
                       ("lists of 50 devices/s", listed)):  # fmt: skip
        yield Row(what, [t["rate"] for t in told], "")
        yield Row("… p99", [t["latency_us"]["p99"] / 1000 for t in told], "ms", digits=1)


# ---- by hand: a registry of a million devices

MILLION, PRODUCTS, KNOWN = 1_000_000, 1000, 5000
MANY_PRODUCTS = """
INSERT INTO registry.product (product_key, record_id, app_id, product_id, name, device_type, protocol_type, data_format,
    service_capabilities, created, updated)
SELECT nextval('registry.product_key'), '60000000' || lpad(to_hex(g), 16, '0'), a.app_id, 'million' || g, 'million' || g,
    'x', 'MQTT', 'json', '[]', now(), now() FROM registry.app a, generate_series(0, %s - 1) g WHERE a.default_app
"""
MANY_DEVICES = """
INSERT INTO registry.device (device_key, record_id, device_id, node_id, device_name, app_id, product_key, root_id, depth,
    partition, auth_type, created, updated)
SELECT nextval('registry.device_key'), lpad(to_hex(1600000000 + g / 100), 8, '0') || lpad(to_hex(g), 16, '0'),
    'device' || g, 'node' || g, 'name' || g / 100, p.app_id, p.product_key, 'device' || g, 0, g %% 8, 'SECRET',
    to_timestamp(1600000000 + g / 100), now()
FROM generate_series(%s, %s) g JOIN registry.product p ON p.product_id = 'million' || g %% %s
"""


def seal(key, context, text):
    """As libcommon/crypto.c does."""
    nonce = os.urandom(12)
    sealed = nonce + AESGCM(key).encrypt(nonce, text.encode(), context.encode())
    return f"v1.{hashlib.sha256(key).hexdigest()[:8]}.{sealed.hex()}"


MANY_TAGS = """
INSERT INTO registry.device_tag (device_key, record_id, tag_key, tag_value)
SELECT device_key, record_id, k.key, k.key || device_key % k.many FROM registry.device
CROSS JOIN (VALUES ('street', 1000), ('town', 10)) k(key, many)
"""
SEARCHES = {  # {n} is a running number
    "of a product and status": "product_id = 'million{n}' and status = 'INACTIVE' order by marker limit 50",
    "of a tag of 1,000 devices": "tag_key = 'street' and tag_value = 'street{n}' order by marker limit 50",
    "of a tag of 100,000, and a product": "tag_key = 'town' and tag_value = 'town1' and product_id = 'million{n}' limit 50",
    "of the beginning of a name": "device_name like 'name1{n}%' limit 50",
    "of a node, or a product in one hour": "node_id = 'node{n}' or product_id = 'million{n}' and create_time > '20200913T130000Z'",
    "of a group and status": "group_id = '{group}' and status != 'ONLINE' order by marker limit 50",
}


def searches(b):
    """Rows of the search over the million, of groups that follow it, and of what cannot be fast."""
    with b.db.cursor() as cursor:
        cursor.execute(MANY_TAGS)
        cursor.execute("VACUUM ANALYZE registry.device_tag")
        cursor.execute("CHECKPOINT")
    groups = [b.api.post("/device-group", {"name": f"street{i}", "group_type": "DYNAMIC", "dynamic_group_rule":
              f"tag_key = 'street' and tag_value = 'street{i}'"})["group_id"] for i in range(10)]  # fmt: skip
    wait_until(lambda: not any(b.api.get(f"/device-group/{g}")["filling"] for g in groups), 120, 0.1, "the groups are full")

    def ask(what, rate, calls):
        body = json.dumps({"sql": f"select * from device where {what}".replace("{group}", groups[0])})
        return call(b.api, "POST", "/search/query-devices", body=body, calls=calls, rate=rate, first=100,
                    connections=4)["latency_us"]["p99"] / 1000
    for what, where in SEARCHES.items():
        yield Row(f"search {what}, 50/s, p99", b.times(lambda where=where: ask(where, 50, 50 * b.seconds)), "ms", 50, False, digits=1)

    def follows(n):
        """From the answer to a change until the list of the group's devices shows it."""
        tag = {"resource_type": "device", "resource_id": f"device{n}", "tags": [{"tag_key": "street", "tag_value": "street3"}]}
        before = b.api.get(f"/device-group/{groups[3]}")["device_count"]
        b.api.post("/tags/bind-resource", tag, status=200)
        begun = time.monotonic()
        wait_until(lambda: b.api.get(f"/device-group/{groups[3]}")["device_count"] > before, 10, 0.002, "the group has it")
        return time.monotonic() - begun
    yield Row("a dynamic group follows a change, longest of 50", [max(follows(2000 * n + 500) for n in range(50))], "s", 2, False,
              digits=2)
    begun = time.monotonic()
    wide = b.api.call("POST", "/search/query-devices", {"sql": "select count(*) from device where device_name != 'x' and status != 'y'"})
    yield Row(f"a count of all that no index narrows, answered {wide.status}", [time.monotonic() - begun], "s", digits=2)


def load_million(b):
    """1,000,000 devices in 1,000 products; KNOWN of them, spread evenly, with a secret. Returns their ids."""
    with b.db.cursor() as cursor:
        cursor.execute(MANY_PRODUCTS, (PRODUCTS,))
        for first in range(0, MILLION, 50000):
            cursor.execute(MANY_DEVICES, (first, first + 49999, PRODUCTS))
        known = [f"device{i}" for i in range(0, MILLION, MILLION // KNOWN)]
        cursor.execute("SELECT device_key, device_id FROM registry.device WHERE device_id = ANY(%s)", (known,))
        key = bytes.fromhex((Path(b.platform.var) / "secrets/key.seal.registry").read_text().strip())
        rows = [(k, seal(key, f"device.{k}.primary", SECRET)) for k, _ in cursor.fetchall()]
        psycopg2.extras.execute_values(cursor, "UPDATE registry.device d SET secret = v.secret FROM (VALUES %s)"
                                       " AS v(k, secret) WHERE d.device_key = v.k", rows)
        cursor.execute("VACUUM ANALYZE registry.device")
        cursor.execute("CHECKPOINT")  # what loading leaves to write is not what is measured
    random.shuffle(known)
    return known


def million(b):
    made = b.create(20000)
    yield Row("devices created/s over REST, 20,000 of them", [made["rate"]], "")
    yield Row("… p99", [made["latency_us"]["p99"] / 1000], "ms", digits=1)
    known = load_million(b)
    ids, products, lines = (b.folder / name for name in ("known.ids", "products.ids", "known.lines"))
    ids.write_text("".join(f"{d}\n" for d in known))
    products.write_text("".join(f"million{i}\n" for i in random.sample(range(PRODUCTS), PRODUCTS)))

    def p99(path, ids=None, rate=200):
        return lambda: call(b.api, "GET", path, ids=ids, calls=rate * b.seconds, rate=rate)["latency_us"]["p99"] / 1000
    lists = {"of a product": ("/devices?product_id={d}&limit=50", products),
             "of a name": (f"/devices?device_name=name{MILLION // 200}&limit=50", None),
             "of a node": (f"/devices?node_id=node{MILLION // 2}&limit=50", None),
             "of all": ("/devices?limit=50", None),
             "of all, from the middle": (f"/devices?limit=50&offset=500&marker={1600005000:08x}{'f' * 16}", None),
             "of a day": ("/devices?limit=50&start_time=20200913T130000Z&end_time=20200913T140000Z", None)}
    for what, (path, file) in lists.items():
        yield Row(f"a list of 50 {what}, 200/s, p99", b.times(p99(path, file)), "ms", 20, False, digits=1)
    yield Row("show of a random device, 500/s, p99", b.times(p99("/devices/{d}", ids, 500)), "ms", 5, False, digits=1)
    yield from searches(b)
    fresh = iter(known)

    def logins(count):
        """CONNECT to CONNACK of devices that nobody has asked for yet."""
        lines.write_text("".join(f"{next(fresh)} {SECRET}\n" for _ in range(count)))
        told = swarm(b.platform.mqtt_port, lines, connect_rate=200, duration=1, hold=True, connecting=60)
        b.settled()
        return told["connack_us"]["p99"] / 1000
    logins(200)  # statements are prepared, indexes in memory
    yield Row("authentication of a random device, 200/s, p99", b.times(lambda: logins(1000)), "ms", 5, False, digits=1)
    [daemon] = b.platform.processes("device-registry")
    yield Row("device-registry, resident", [machine.memory_kb(daemon) / 1024], "MB", digits=0)


SCENARIOS = {f.__name__: f for f in (connect, idle, fanin, callback, commands, registry, million)}
BY_HAND = {"million"}  # run when they are named only

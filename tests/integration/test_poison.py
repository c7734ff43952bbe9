"""Bad records between good ones: the good ones arrive, the bad one is counted and named."""
import json

import pytest

from rest import sequence
from waiting import wait_until

SIZE = 1024 * 1024


def report(properties):
    return '{"services":[{"service_id":"Pump","properties":%s}]}' % properties


POISON = {
    "NUL in a string": (report('{"label":"a\\u0000b"}'), ("u0000", "nul")),
    "NUL in a name": (report('{"a\\u0000b":1}'), ("u0000", "nul")),
    "1 MB of control characters": (b"\x01\x02\x1f\x00" * (SIZE // 4), ("64", "65536", "1048576")),
    "control characters": (b"\x01\x02\x1f" * 1000, ("json", "character")),
    "10,000 levels of nesting": ('{"services":' * 4000 + "[" * 6000, ("depth", "deep", "nest", "level")),
    "nesting, closed": ("[" * 10000 + "]" * 10000, ("depth", "deep", "nest", "level")),
    "a number beyond double": (report('{"flow":1e400}'), ("number", "1e400", "range", "real")),
    "a negative one": (report('{"flow":-1e400}'), ("number", "1e400", "range", "real")),
    "an integer of 400 digits": (report('{"on":%s}' % ("9" * 400)), ("number", "integer", "range", "big")),
    "bytes that are no UTF-8": (report('{"label":"\xff\xfe"}').encode("latin-1"), ("utf-8",)),
    "half a surrogate": (report('{"label":"\\ud800"}'), ("surrogate", "ud800", "unicode")),
    "the end is missing": (report('{"flow":1')[:-3], ("position", "byte", "line", "end")),
}


def refused_total(platform):
    """What the gateway refused, and what the uplink-processor did."""
    gateway = platform.metrics("mqtt-gateway")["causeway_gateway_refused_total"]
    return gateway + sum(value for sample, value in platform.metrics("uplink-processor").items()
                         if sample.startswith("causeway_uplink_records") and
                         'what="refused"' in sample)


@pytest.mark.parametrize("what", POISON)
def test_a_bad_record_between_good_ones(api, device, connected, subscribe, what):
    payload, words = POISON[what]
    pushed = subscribe("device.property", "report")
    connected.report("Load", {"seq": 1})
    connected.publish_acked(connected.topic("properties/report"), payload)
    connected.report("Load", {"seq": 2})
    rows = wait_until(lambda: len(r := api.history(device["device_id"], service_id="Load")) == 2 and r)
    assert sequence(rows) == [1, 2]
    pushed.wait_for(device["device_id"], 2)
    good = [n for n in pushed.notes(device["device_id"])
            if n["notify_data"]["body"]["services"][0]["service_id"] == "Load"]
    assert [n["notify_data"]["body"]["services"][0]["properties"]["seq"] for n in good] == [1, 2]
    failures = wait_until(lambda: api.why(device["device_id"])["failures"])
    told = json.dumps(failures).lower()
    assert any(word in told for word in words), failures
    assert "Pump" not in api.shadow(device["device_id"])


def test_each_is_counted_as_refused(platform, connected):
    before = refused_total(platform)
    for payload, _words in POISON.values():
        connected.publish_acked(connected.topic("properties/report"), payload)
    wait_until(lambda: refused_total(platform) >= before + len(POISON), 15, 0.2,
               f"{before} and {len(POISON)} more are refused")


def test_odd_bytes_in_a_message_are_no_poison(api, device, connected, subscribe):
    """A message is any bytes: kept and pushed whole."""
    pushed = subscribe("device.message", "report")
    bodies = [b"\x00" * 1000, b"\x01\x1f" * 1000, b"[" * 20000, b"\xff" * 10]
    for body in bodies:
        connected.publish_acked(connected.topic("messages/up"), body)
    assert len(pushed.wait_for(device["device_id"], len(bodies))) == len(bodies)
    wait_until(lambda: len(api.history(device["device_id"])) == len(bodies))


@pytest.fixture
def trap(platform):
    """A trigger with which PostgreSQL refuses each report that contains a word."""
    platform.sql("""
        CREATE FUNCTION data.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.body LIKE '%spring the trap%' THEN
                RAISE EXCEPTION 'trapped' USING ERRCODE = '23514'; END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER trap BEFORE INSERT ON data.history FOR EACH ROW EXECUTE FUNCTION data.trap();""")
    yield "spring the trap"
    platform.sql("DROP TRIGGER trap ON data.history; DROP FUNCTION data.trap();")


def test_a_record_that_postgresql_refuses_is_alone_in_quarantine(
        platform, api, product, connected, device, subscribe, trap):
    pushed = subscribe("device.property", "report")
    others = [platform.connect(api.new_device(product["product_id"])) for _ in range(3)]
    before = int(platform.sql("SELECT count(*) FROM data.quarantine"))
    for seq in range(100):  # many at once, so that it is somewhere inside a batch
        connected.publish(connected.topic("properties/report"), {"services": [
            {"service_id": "Load", "properties": {"seq": seq}}]})
        for other in others:
            other.publish(other.topic("properties/report"), {"services": [
                {"service_id": "Load", "properties": {"seq": seq}}]})
        if seq == 50:
            connected.publish(connected.topic("properties/report"), {"services": [
                {"service_id": "Pump", "properties": {"label": trap}}]})
    wait_until(lambda: len(connected.acked) == 101 and all(len(o.acked) == 100 for o in others))
    for peer in (connected, *others):
        rows = wait_until(lambda: len(r := api.history(peer.id)) >= 100 and r, 30)
        assert sequence(rows) == list(range(100)), "the position moves on, nothing else is lost"
    row = platform.sql("SELECT count(*), max(reason) FROM data.quarantine "
                       f"WHERE id > {before} OR {before} = 0")
    assert row.startswith("1|") and "trapped" in row, row
    got = wait_until(lambda: next((f for f in api.why(device["device_id"])["failures"].values()
                                   if "quarantine" in json.dumps(f).lower()), None), 15)
    assert got["reason"] and got["next_step"]
    notes = pushed.wait_for(device["device_id"], 100)
    seqs = [s["properties"]["seq"] for n in notes for s in n["notify_data"]["body"]["services"]
            if "seq" in s["properties"]]
    assert seqs == list(range(100))
    for other in others:
        other.disconnect()

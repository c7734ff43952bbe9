"""The ledger: what comes in at a stage is what left it, was refused by it or waits in it."""
from waiting import wait_until


def gateway(platform):
    m = platform.metrics("mqtt-gateway")
    return {word: m[f"causeway_gateway_{word}"] for word in
            ("received_total", "appended_total", "refused_total", "in_flight", "in_doubt_total")}


def uplink(platform):
    """{what: total over all partitions}, as committed with the positions."""
    totals = {}
    for sample, value in platform.metrics("uplink-processor").items():
        if sample.startswith("causeway_uplink_records{"):
            what = sample.split('what="')[1].split('"')[0]
            totals[what] = totals.get(what, 0) + value
    return totals


def up_to_date(platform):
    """The gauges follow the positions every few seconds."""
    def same():
        kept = platform.sql("SELECT (SELECT coalesce(sum(t), 0) FROM data.position, unnest(totals) t "
                            "WHERE log = 'UPLINK') + (SELECT coalesce(sum(n), 0) FROM data.quarantined "
                            "WHERE log = 'UPLINK')")
        totals = uplink(platform)
        return sum(totals.values()) == int(kept) and totals
    return wait_until(same, 15, 0.2, "the gauges show what is committed")


def test_every_stage_accounts_for_what_it_got(platform, api, product, connected, device, subscribe):
    pushed = subscribe("device.property", "report")
    before, stored = gateway(platform), up_to_date(platform)
    for seq in range(50):
        connected.report("Load", {"seq": seq})
    for _ in range(5):
        connected.publish_acked(connected.topic("properties/report"), "{no json")
    for _ in range(3):
        connected.publish_acked("$oc/devices/other/sys/properties/report", "{}")
    now = gateway(platform)
    assert now["received_total"] == now["appended_total"] + now["refused_total"] + now["in_flight"] + \
        now["in_doubt_total"]
    assert now["in_flight"] == 0
    assert {word: now[word] - before[word] for word in before} == {
        "received_total": 58, "appended_total": 55, "refused_total": 3, "in_flight": 0,
        "in_doubt_total": 0}

    def settled():
        grown = {what: total - stored.get(what, 0) for what, total in uplink(platform).items()}
        return grown["stored"] == 50 and grown["refused"] == 5 and \
            grown["gateway_refused"] == 3 and grown.get("quarantined", 0) == 0
    wait_until(settled, 20, 0.2, f"stored 50, refused 5: {stored} {uplink(platform)}")
    assert len(pushed.wait_for(device["device_id"], 50)) == 50

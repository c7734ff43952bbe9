"""A product model from the first reports: POST /products/draft."""
from rest import unique
from waiting import wait_until

SAMPLES = [{"services": [{"service_id": "Meter", "properties": {"flow": 1, "serial": "A7", "open": True}}]},
           {"services": [{"service_id": "Meter", "properties": {"flow": 1.5, "serial": "A7"}}]},
           {"services": [{"service_id": "Meter", "properties": {"flow": "high", "tags": ["x"]}}]}]


def draft(api, status=200, **body):
    return api.post("/products/draft", body, status=status)


def test_a_draft_becomes_a_product_whose_devices_report(platform):
    api = platform.api
    made = draft(api, samples=SAMPLES)
    [flow] = [e for e in made["evidence"] if e["property_name"] == "flow"]
    assert flow["data_type"] == "decimal" and flow["decided_by"] == {"sample": 2, "value": "1.5"}
    assert flow["conflicting"] == 1 and flow["conflicts"] == [{"sample": 3, "value": '"high"'}]
    assert (flow["least"], flow["most"], flow["seen"]) == (1, 1.5, 3)
    types = {p["property_name"]: p["data_type"] for p in made["service_capabilities"][0]["properties"]}
    assert types == {"flow": "decimal", "serial": "string", "open": "boolean", "tags": "string list"}
    product = api.post("/products", {"name": unique("draft"), "device_type": "Meter", "protocol_type": "MQTT", "data_format": "json",
                                     "service_capabilities": made["service_capabilities"]})["product_id"]
    with platform.connect(api.new_device(product)) as peer:
        peer.report("Meter", SAMPLES[1]["services"][0]["properties"])
        wait_until(lambda: api.history(peer.id), 10, 0.05, "stored")
        assert [v for v in api.history(peer.id)[0]["verdicts"] if v.get("code") not in (None, "ok")] == []


def test_a_draft_from_what_a_device_has_sent(platform):
    api = platform.api
    with platform.connect(api.new_device(api.new_product()["product_id"])) as peer:
        assert "sent nothing" in draft(api, status=400, device_id=peer.id)["error_msg"]
        peer.report("Unknown", {"level": 3})
        peer.publish_acked(peer.topic("messages/up"), '{"free": {"form": true}}')
        peer.publish_acked(peer.topic("messages/up"), "no JSON")
        wait_until(lambda: len(api.history(peer.id)) == 3, 10, 0.05, "stored")
        made = draft(api, device_id=peer.id, service_id="Loose")
    assert {(e["service_id"], e["property_name"], e["data_type"]) for e in made["evidence"]} == {
        ("Unknown", "level", "int"), ("Loose", "free", "jsonObject")}
    assert made["sample_ids"] == [r["id"] for r in api.history(peer.id)]
    assert made["left_out"] == [{"sample": 3, "reason": "the sample is no object"}]


def test_what_cannot_be_drafted(platform):
    api = platform.api
    assert "either" in draft(api, status=400)["error_msg"]
    assert "either" in draft(api, status=400, samples=SAMPLES, device_id="x")["error_msg"]
    assert draft(api, status=400, samples=[1, "x", {}])["error_code"] == "IOTDA.013910"
    assert draft(api, status=404, device_id="nobody")["error_code"] == "IOTDA.014000"
    assert "samples" in draft(api, status=400, samples=[{"a": 1}] * 101)["error_msg"]
    many = draft(api, samples=[{f"p{i}": i for i in range(600)}])
    assert len(many["service_capabilities"][0]["properties"]) == 500 and "500 properties" in many["left_out"][0]["reason"]

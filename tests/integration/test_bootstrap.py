"""Bootstrap (docs/protocol/provisioning.md): where a device that asks is sent, and the four sequences of the device
libraries, byte for byte."""
import json
import struct

import pytest

import rawmqtt
from rawmqtt import packet, password, text, timestamp
from rest import unique
from test_provisioning import derived
from waiting import wait_until


@pytest.fixture
def space(api):
    class Space:
        id = api.post("/apps", {"app_name": unique("boot")})["app_id"]
        product = api.new_product(app_id=id)["product_id"]

        def device(self):
            return api.new_device(self.product, app_id=self.id)

        def strategy(self, keyword=None, **more):
            return api.post("/bootstrap-strategies", {**({"keyword": keyword} if keyword else {}), "app_id": self.id, **more})
    return Space()


def ask(platform, device, payload=""):
    with platform.connect(device) as peer:
        peer.subscribe(peer.topic("bootstrap/down"), 0)
        peer.publish_acked(peer.topic("bootstrap/up"), payload)
        return peer.wait_for("/sys/bootstrap/down")[0].json


def test_strategies(platform, api, space):
    own, device = f"127.0.0.1:{platform.mqtts_port}", space.device()
    assert ask(platform, device, {"baseStrategyKeyword": "plant-3"}) == {"address": own}, "no strategies: this platform"
    made = space.strategy("plant-3", address="host.example:8883", init_config={"zone": 3})
    assert made["keyword"] == "plant-3" and made["init_config"] == {"zone": 3}
    answer = ask(platform, device, {"baseStrategyKeyword": "plant-3"})
    assert answer["address"] == "host.example:8883" and json.loads(answer["initConfig"]) == {"zone": 3}
    refused = ask(platform, device, {"baseStrategyKeyword": "plant-4"})
    assert refused["errorCode"] == "100414" and "plant-4" in refused["errorMsg"]
    assert ask(platform, device) == {"address": own}, "who names none"
    space.strategy(init_config={"zone": 0})
    answer = ask(platform, device)
    assert answer["address"] == own and json.loads(answer["initConfig"]) == {"zone": 0}
    api.refused(400, "IOTDA.036921", "POST", "/bootstrap-strategies", {"keyword": "plant-3", "app_id": space.id})
    api.put(f"/bootstrap-strategies/{made['strategy_id']}", {"address": "other.example:1883"})
    assert ask(platform, device, {"baseStrategyKeyword": "plant-3"})["address"] == "other.example:1883"
    api.delete(f"/bootstrap-strategies/{made['strategy_id']}")
    assert ask(platform, device, {"baseStrategyKeyword": "plant-3"})["errorCode"] == "100414"


@pytest.mark.parametrize("address", ["host", "host:", ":8883", "host:0", "host:65536", "host:8883x", "ho st:1", "mqtts://host:8883"])
def test_an_address_that_is_none(api, space, address):
    assert "address" in api.refused(400, "IOTDA.000006", "POST", "/bootstrap-strategies", {"address": address, "app_id": space.id})


def test_strategies_of_another_space_do_not_count(platform, space, device):
    space.strategy("plant-3", address="host.example:8883")
    assert ask(platform, device, {"baseStrategyKeyword": "plant-3"}) == {"address": f"127.0.0.1:{platform.mqtts_port}"}


# ---- the libraries' own sequences: what they send is written out, what comes back is compared

class Sdk:
    """group: by a registration group's secret. The rest is how this library speaks."""

    def __init__(self, name, group, keep_alive, up, up_qos, packet_ids):
        self.name, self.group, self.keep_alive, self.up, self.up_qos = name, group, keep_alive, up, up_qos
        self.packet_ids = packet_ids

    def __repr__(self):
        return self.name


SDKS = [Sdk("C bootstrap_test", False, 120, b"", 1, (1, 2)),
        Sdk("C bootstrap_groups_test", True, 120, b"", 1, (1, 2)),
        Sdk("Java BootstrapMessageSample", False, 120, b'{"baseStrategyKeyword":"plant-3"}', 1, (1, 2)),
        Sdk("Java BootstrapSelfRegGroupPasswordSample", True, 120, b"", 1, (1, 2)),
        Sdk("Go bootstrapSecret", False, 250, b"", 0, (1, None)),
        Sdk("Go bootstrapScopeId", True, 250, b'{\n\t"baseStrategyKeyword":\t"plant-3"\n}', 0, (1, None))]


def connect_bytes(client_id, user, pw, keep_alive):
    """Version 4, clean session, user name and password."""
    return packet(0x10, text("MQTT") + b"\x04\xc2" + struct.pack(">H", keep_alive) + text(client_id) + text(user) + text(pw))


@pytest.mark.parametrize("sdk", SDKS, ids=str)
def test_a_sequence_of_an_sdk(platform, api, space, sdk):
    own = f"127.0.0.1:{platform.mqtts_port}"
    stamp = timestamp()
    if sdk.group:
        group = api.post("/registration-groups", {"group_name": "boot", "app_id": space.id, "product_id": space.product})
        device_id = f"{space.product}_{unique('dev')}"
        secret, client_id = derived(group["group_secret"], device_id), f"{device_id}_0_{group['scope_id']}_0_{stamp}"
    else:
        device = space.device()
        device_id, secret = device["device_id"], device["auth_info"]["secret"]
        client_id = f"{device_id}_0_0_{stamp}"
    if b"plant-3" in sdk.up:
        space.strategy("plant-3", init_config={"zone": 3})
    wire = rawmqtt.Wire("127.0.0.1", platform.mqtts_port, platform.access["CAUSEWAY_CA_FILE"])
    packets = []
    wire.on_packet = lambda first, body: packets.append((first, body))
    wire.start()
    wire.send(connect_bytes(client_id, device_id, password(secret, stamp), sdk.keep_alive))
    wait_until(lambda: len(packets) == 1, 5, 0.005, "CONNACK")
    assert packets == [(0x20, b"\0\0")]
    down, up = (f"$oc/devices/{device_id}/sys/bootstrap/{w}" for w in ("down", "up"))
    wire.send(packet(0x82, struct.pack(">H", sdk.packet_ids[0]) + text(down) + b"\0"))
    wait_until(lambda: len(packets) == 2, 5, 0.005, "SUBACK")
    assert packets[1] == (0x90, struct.pack(">H", sdk.packet_ids[0]) + b"\0")
    with_id = struct.pack(">H", sdk.packet_ids[1]) if sdk.up_qos else b""
    wire.send(packet(0x30 | sdk.up_qos << 1, text(up) + with_id + sdk.up))
    wait_until(lambda: len(packets) == 3 + sdk.up_qos, 5, 0.005, "the answer, within the five seconds that C waits")
    if sdk.up_qos:
        assert (0x40, with_id) in packets[2:]
    answers = [(first, body) for first, body in packets[2:] if first >> 4 == 3]
    assert len(answers) == 1 and answers[0][0] == 0x30, "QoS 0, as subscribed"
    assert answers[0][1].startswith(text(down))
    payload = json.loads(answers[0][1][len(text(down)):])
    assert payload.pop("address") == own
    assert (json.loads(payload.pop("initConfig")) == {"zone": 3} if b"plant-3" in sdk.up else True) and payload == {}
    wire.send(b"\xe0\0")
    wait_until(wire.closed.is_set, 5, 0.01, "the first connection ends")
    again = timestamp()  # the second link: where the answer said, as any device
    with rawmqtt.Device(own.split(":")[0], int(own.split(":")[1]), device_id, secret, tls_ca=platform.access["CAUSEWAY_CA_FILE"], stamp=again) as peer:
        peer.report("Pump", {"flow": 1})
    assert api.device(device_id)["auth_info"]["secret"] == secret

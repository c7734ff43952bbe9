"""Twenty-four ways not to be let in: each has its code on the wire and its own words in `why`; the device is told nothing
else. (FAQ 8.5 and 9.3.)"""
import time

import pytest

import mqtt5
import rawmqtt
from rawmqtt import connect_packet, password, timestamp
from rest import unique
from test_x509 import Ca
from waiting import wait_until

SECRET = "0123456789abcdef"


class World:
    def __init__(self, platform, folder):
        self.platform, self.api = platform, platform.api
        self.product = self.api.new_product()["product_id"]
        self.ca, self.strange = Ca(folder), Ca(folder)
        self.ca.upload(self.api)

    def device(self, product=None, **more):
        more.setdefault("auth_info", {"secret": SECRET})
        return self.api.new_device(product or self.product, **more)

    def with_certificate(self, **more):
        return self.device(auth_info={"auth_type": "CERTIFICATES", **more})



@pytest.fixture(scope="module")
def world(platform, tmp_path_factory):
    return World(platform, tmp_path_factory.mktemp("matrix"))


def hour(offset):
    return timestamp(offset)


class Case:
    """prepare(world) gives the device; the rest is how it connects."""

    def __init__(self, name, code, layer="authenticate", prepare=World.device, certificate=None, tls=False, **how):
        self.name, self.code, self.layer, self.prepare = name, code, layer, prepare
        self.certificate, self.tls, self.how = certificate, tls or certificate is not None, how

    def __repr__(self):
        return self.name


def frozen(world):
    device = world.device()
    world.api.post(f"/devices/{device['device_id']}/freeze", status=204)
    return device


def child(world):
    return world.device(gateway_id=world.device()["device_id"])


def in_a_space_without_ca(world):
    space = world.api.post("/apps", {"app_name": unique("bare")})["app_id"]
    return world.device(world.api.new_product(app_id=space)["product_id"], app_id=space, auth_info={"auth_type": "CERTIFICATES"})


def bound(world):
    return world.with_certificate(fingerprint="ab" * 32)


STAMP = "2026010203"
CASES = [
    Case("user name that is no device id", 2, "connect", user="a b", client_id=lambda d: f"{d}_0_0_{STAMP}", elsewhere=True),
    Case("client id without a timestamp", 2, "connect", client_id=lambda d: d),
    Case("client id without a sign type", 2, "connect", client_id=lambda d: f"{d}_{STAMP}"),
    Case("unknown sign type", 2, "connect", client_id=lambda d: f"{d}_0_7_{STAMP}"),
    Case("unknown id type", 2, "connect", client_id=lambda d: f"{d}_7_0_{STAMP}"),
    Case("client id of another device", 2, "connect", client_id=lambda d: f"another_0_0_{STAMP}"),
    Case("client id that is too long", 2, "connect", client_id=lambda d: "x" * 300),
    Case("keep-alive too short", 2, "connect", keep_alive=5),
    Case("keep-alive too long", 2, "connect", keep_alive=2000),
    Case("the secret itself", 4, pw=SECRET),
    Case("no password", 4, pw=""),
    Case("key and message swapped", 4, pw=lambda stamp: password(stamp, SECRET)),
    Case("a password that is no digest", 4, pw="abc"),
    Case("the digest of another secret", 4, pw=lambda stamp: password("another", stamp)),
    Case("a clock that is behind", 4, sign_type=1, stamp=hour(-5)),
    Case("a clock that is ahead", 4, sign_type=1, stamp=hour(5)),
    Case("frozen", 5, prepare=frozen),
    Case("a child", 5, prepare=child),
    Case("TLS is demanded", 5, prepare=lambda w: w.device(auth_info={"secret": SECRET, "secure_access": True})),
    Case("a certificate is demanded, over plain TCP", 5, prepare=World.with_certificate),
    Case("a certificate is demanded", 5, prepare=World.with_certificate, tls=True),
    Case("a certificate of an unknown CA", 5, prepare=World.with_certificate, certificate=lambda w: w.strange.issue("x", sans=())),
    Case("a certificate that has expired", 5, prepare=World.with_certificate, certificate=lambda w: w.ca.issue("x", sans=(), days=-1)),
    Case("a certificate of another device", 5, prepare=bound, certificate=lambda w: w.ca.issue("x", sans=())),
    Case("no CA in the space", 5, prepare=in_a_space_without_ca, certificate=lambda w: w.ca.issue("x", sans=()))]

told = {}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_refusal(world, case):
    platform, device = world.platform, case.prepare(world)
    port = platform.mqtts_port if case.tls else platform.mqtt_port
    wire = rawmqtt.Wire("127.0.0.1", port, platform.access["CAUSEWAY_CA_FILE"] if case.tls else None,
                        case.certificate(world) if case.certificate else None)
    packets = []
    wire.on_packet = lambda first, body: packets.append((first, body))
    wire.start()
    how, stamp = case.how, case.how.get("stamp", timestamp())
    client_id = how.get("client_id", lambda d: f"{d}_0_{how.get('sign_type', 0)}_{stamp}")(device["device_id"])
    pw = how.get("pw", password(SECRET, stamp))
    wire.send(connect_packet(client_id, how.get("user", device["device_id"]), pw(stamp) if callable(pw) else pw,
                             how.get("keep_alive", 60)))
    wait_until(wire.closed.is_set, 10, 0.01, "the connection is closed")
    assert packets == [(0x20, bytes([0, case.code]))], "the code and nothing else"
    if how.get("elsewhere"):
        return  # nobody's why: no device is named
    failure = wait_until(lambda: world.api.why(device["device_id"])["failures"].get(case.layer), 10, 0.05,
                         f"why, {case.layer}")
    assert failure["reason"] and failure["next_step"] and failure["count"] == 1
    assert SECRET not in str(failure), "no secret"
    told[case.name] = failure["reason"].replace(device["device_id"], "…")


def test_each_has_its_own_words():
    assert len(told) >= 24 and len(set(told.values())) == len(told), sorted(told.values())


def test_a_device_that_was_deleted(world):
    """By whom, and how long ago: it is nobody's why any more, the platform's log tells."""
    device = world.device()
    world.api.delete(f"/devices/{device['device_id']}")
    with pytest.raises(rawmqtt.Refused) as no:
        world.platform.connect(device)
    assert no.value.code == 4


@pytest.mark.parametrize("code, reason", [(4, 0x86), (5, 0x87), (2, 0x85)])
def test_the_codes_of_mqtt_5(world, code, reason):
    device = {4: World.device, 5: frozen, 2: World.device}[code](world)
    more = {4: {"pw": "x"}, 5: {}, 2: {"client_id": "nonsense"}}[code]
    peer = mqtt5.Peer(world.platform, device, **more)
    assert peer.connack[2] == bytes([0, reason, 0]), "no reason string"
    peer.close()


def test_refusals_are_quick(world):
    """The Python SDK takes a CONNACK that comes after a second for a failure of its own."""
    device, begun = world.device(), time.monotonic()
    with pytest.raises(rawmqtt.Refused):
        world.platform.connect(device, secret="wrong")
    assert time.monotonic() - begun < 1

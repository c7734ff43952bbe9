"""Certificates of devices (docs/protocol/provisioning.md): their records, INACTIVE, CAs that end, and the bad ones of
FAQ 9.3: each has a reason of its own."""
import base64
import datetime
import pathlib
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

import rawmqtt
from callback import _name, _pem
from deployed import is_us
from rest import unique
from test_x509 import Ca, login, sha256  # noqa: F401
from waiting import wait_until

UTC_NOW = datetime.datetime.utcnow


def days(n):
    return datetime.timedelta(days=n)


def write(folder, cert, key, *more):
    path = f"{folder}/{unique('cert')}.pem"
    pathlib.Path(path).write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in (cert, *more)) + _pem(key))
    return path


def build(subject, issuer, public_key, begins=-2, ends=10, ca=None, usage=None):
    made = (x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)).public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(UTC_NOW() + (begins if isinstance(begins, datetime.timedelta) else days(begins)))
            .not_valid_after(UTC_NOW() + (ends if isinstance(ends, datetime.timedelta) else days(ends))))
    if ca is not None:
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=ca), critical=True)
    if usage:
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return made


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


class World:
    def __init__(self, platform, folder):
        self.platform, self.api, self.folder = platform, platform.api, folder
        self.space = self.api.post("/apps", {"app_name": unique("certs")})["app_id"]
        self.product = self.api.new_product(app_id=self.space)["product_id"]
        self.ca = Ca(folder)
        self.uploaded = self.ca.upload(self.api, app_id=self.space)
        wait_until(lambda: self.connects(self.device(), self.ca.issue("first", sans=())), 10, 0.1, "the CA counts")

    def device(self, **auth):
        return self.api.new_device(self.product, app_id=self.space, auth_info={"auth_type": "CERTIFICATES", **auth})

    def connect(self, device, certificate=None, **more):
        return rawmqtt.Device("127.0.0.1", self.platform.mqtts_port, device["device_id"], "", certificate=certificate, pw=None,
                              tls_ca=self.platform.access["CAUSEWAY_CA_FILE"], **more)

    def connects(self, device, certificate):
        try:
            self.connect(device, certificate).disconnect()
            return True
        except rawmqtt.Refused:
            return False

    def issue(self, subject="d", key=None, issuer=None, **more):
        key = key or new_key()
        cert = build(subject, issuer or self.ca.name, key.public_key(), **more).sign(self.ca.key, hashes.SHA256())
        return write(self.folder, cert, key)

    def record(self, certificate):
        return self.api.get("/device-certificates", fingerprint=sha256(certificate))["device_certificates"][0]

    def refusals(self, **query):
        return self.api.get("/refused-connections", limit=50, **query)["refused_connections"]


@pytest.fixture(scope="module")
def world(platform, tmp_path_factory):
    return World(platform, tmp_path_factory.mktemp("certs"))


# ---- records

def test_a_record_appears_with_the_first_login(world):
    name = unique("pump")
    mine, device = world.issue(name), world.device()
    assert world.api.get("/device-certificates", fingerprint=sha256(mine))["device_certificates"] == []
    world.connect(device, mine).disconnect()
    record = world.record(mine)
    assert (record["common_name"], record["status"], record["app_id"]) == (name, "ACTIVE", world.space)
    assert record["fingerprint"] == sha256(mine) and len(record["expiry_date"]) == 16
    assert "ends in" in record["expiry_warning"], "ten days are less than thirty"
    path = f"/device-certificates/{record['certificate_id']}"
    pem = pathlib.Path(mine).read_text().split("-----BEGIN PRIVATE")[0]
    assert world.api.get(path)["certificate_pem"].split() == pem.split()
    assert [c["certificate_id"] for c in world.api.get("/device-certificates", common_name=name[:-1])["device_certificates"]] == [
        record["certificate_id"]]
    assert world.api.get("/device-certificates", common_name=name + "x")["device_certificates"] == []
    world.connect(device, mine).disconnect()
    assert world.api.get("/device-certificates", common_name=name)["page"]["count"] == 1, "once"
    users = world.api.post(path + "/list-device", {}, status=200)
    assert [d["device_id"] for d in users["devices"]] == [device["device_id"]] and users["page"]["count"] == 1
    world.api.delete(path)
    world.api.refused(404, "IOTDA.014391", "GET", path)
    world.connect(device, mine).disconnect()
    assert world.record(mine)["certificate_id"] != record["certificate_id"], "shown again it is there again"


def test_a_certificate_without_a_login_has_no_record(world):
    mine = world.issue()
    world.api.post(f"/devices/{(frozen := world.device())['device_id']}/freeze", status=204)
    assert not world.connects(frozen, mine)
    assert world.api.get("/device-certificates", fingerprint=sha256(mine))["device_certificates"] == []


def test_two_devices_of_one_certificate(world):
    mine = world.issue()
    devices = [world.device(), world.device(), world.device()]
    for device in devices:
        world.connect(device, mine).disconnect()
    path = f"/device-certificates/{world.record(mine)['certificate_id']}/list-device"
    seen, marker = [], None
    while (page := world.api.post(path, {"limit": 2, **({"marker": marker} if marker else {})}, status=200))["devices"]:
        assert page["page"]["count"] == 3
        seen += [d["device_id"] for d in page["devices"]]
        marker = page["page"]["marker"]
    assert sorted(seen) == sorted(d["device_id"] for d in devices)


def test_inactive_cuts_and_refuses_until_it_is_active_again(world):
    mine, other = world.issue(), world.issue()
    device, neighbour = world.device(), world.device()
    peer, untouched = world.connect(device, mine), world.connect(neighbour, other)
    path = f"/device-certificates/{world.record(mine)['certificate_id']}"
    answer = world.api.put(path, {"status": "INACTIVE"})
    assert answer["status"] == "INACTIVE" and "BEGIN CERTIFICATE" in answer["certificate_pem"]
    peer.wait_closed(1)
    untouched.ping()
    untouched.disconnect()
    assert not world.connects(device, mine)
    why = wait_until(lambda: (f := world.api.why(device["device_id"])["failures"]).get("authenticate") and f.get("connect") and f)
    assert why["authenticate"]["code"] == "certificate_inactive" and sha256(mine)[:16] in why["authenticate"]["reason"]
    assert why["connect"]["code"] == "certificate_inactive", "why its connection ended"
    assert not world.connects(world.device(), mine), "nor may it bind another one"
    assert world.api.put(path, {"status": "ACTIVE"})["status"] == "ACTIVE"
    world.connect(device, mine).disconnect()


def test_inactive_against_logins_at_the_same_time(world):
    """However they meet, nobody stays with a certificate that is INACTIVE."""
    mine, device = world.issue(), world.device()
    world.connect(device, mine).disconnect()
    path = f"/device-certificates/{world.record(mine)['certificate_id']}"
    for _ in range(5):
        peers = []
        def come():
            for _ in range(8):
                try:
                    peers.append(world.connect(device, mine))
                except rawmqtt.Refused:
                    pass
        thread = threading.Thread(target=come)
        thread.start()
        world.api.put(path, {"status": "INACTIVE"})
        thread.join()
        assert peers == [] or wait_until(lambda: not any(p.connected for p in peers), 5, 0.02, "all are cut")
        assert not world.connects(device, mine)
        world.api.put(path, {"status": "ACTIVE"})


def test_every_instance_follows(own_platform, tmp_path):
    """Two gateways and two registries: a change of one is that of all when it is answered."""
    world = World(own_platform(instances="mqtt-gateway=2 device-registry=2"), tmp_path)
    mine, devices = world.issue(), [world.device() for _ in range(6)]
    peers = [world.connect(d, mine) for d in devices]
    path = f"/device-certificates/{world.record(mine)['certificate_id']}"
    world.api.put(path, {"status": "INACTIVE"})
    assert wait_until(lambda: not any(p.connected for p in peers), 2, 0.01, "all are cut")
    assert not any(world.connects(d, mine) for d in devices for _ in range(2))
    world.api.put(path, {"status": "ACTIVE"})
    assert all(world.connects(d, mine) for d in devices for _ in range(2))


def test_the_number_of_records_has_a_limit(own_platform, tmp_path):
    platform = own_platform(etc={"device-registry": "DEVICE_CERTS_MAX=2"})
    world = World(platform, tmp_path)  # one
    for _ in range(3):
        world.connect(world.device(), world.issue()).disconnect()
    assert world.api.get("/device-certificates")["page"]["count"] == 2, "who comes later is let in without"


# ---- CAs

def test_a_ca_that_ends_soon_says_so(world, tmp_path):
    soon, late = Ca(tmp_path), Ca(tmp_path)
    late.cert = build(late.name, late.name, late.key.public_key(), ends=400, ca=0).sign(late.key, hashes.SHA256())
    late.pem = late.cert.public_bytes(Encoding.PEM).decode()
    made = soon.upload(world.api, app_id=world.space)
    assert "ends in 29 days" in made["expiry_warning"] and "successor" in made["expiry_warning"]
    assert "expiry_warning" not in late.upload(world.api, app_id=world.space)
    wait_until(lambda: world.platform.metrics("device-registry")["causeway_cas_expiring"] >= 1, 10, 0.1, "the gauge")


def test_a_hundred_cas(own_platform, tmp_path):
    platform = own_platform()
    api = platform.api
    key = new_key()
    for i in range(100):
        cert = build(f"CA {i}", f"CA {i}", key.public_key(), ca=0).sign(key, hashes.SHA256())
        api.post("/certificates", {"content": cert.public_bytes(Encoding.PEM).decode()})
    assert api.get("/certificates")["page"]["count"] == 100
    more = build("CA x", "CA x", key.public_key(), ca=0).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    api.refused(403, "IOTDA.014393", "POST", "/certificates", {"content": more.decode()})


def test_a_space_with_a_ca_is_not_empty(api, tmp_path):
    space = api.post("/apps", {"app_name": unique("certs")})["app_id"]
    made = Ca(tmp_path).upload(api, app_id=space)
    assert "1 CAs" in api.refused(403, "IOTDA.001903", "DELETE", f"/apps/{space}")
    api.delete(f"/certificates/{made['certificate_id']}")
    api.delete(f"/apps/{space}")


@pytest.mark.parametrize("body", [{"ocsp_enable": True}, {"ocsp_ssl_enable": True}, {"ocsp_server_ca_id": "x"}])
def test_ocsp_is_refused_by_the_name_of_its_field(world, body):
    path = f"/certificates/{world.uploaded['certificate_id']}"
    assert next(iter(body)) in world.api.refused(400, "IOTDA.014396", "PUT", path, body)
    assert world.api.put(path, {"ocsp_enable": False})["ocsp_enable"] is False


# ---- the bad ones

def short_lived_ca(world):
    """Uploaded while it was valid; valid no more."""
    ca = Ca(world.folder)
    ca.cert = build(ca.name, ca.name, ca.key.public_key(), ends=datetime.timedelta(seconds=4), ca=0).sign(ca.key, hashes.SHA256())
    ca.pem = ca.cert.public_bytes(Encoding.PEM).decode()
    ca.upload(world.api, app_id=world.space)
    ends = time.time() + 4.1
    wait_until(lambda: time.time() > ends, 10, 0.1, "it has ended")
    return ca.issue("x", sans=())


def unverified_ca(world):
    ca = Ca(world.folder)
    ca.upload(world.api, verify=False, app_id=world.space)
    return ca.issue("x", sans=())


def self_signed(world):
    key = new_key()
    return write(world.folder, build("me", "me", key.public_key()).sign(key, hashes.SHA256()), key)


def broken_chain(world):
    """One certificate between is sent along, its issuer is missing."""
    between, key = new_key(), new_key()
    middle = build("between", "the missing one", between.public_key(), ca=0).sign(new_key(), hashes.SHA256())
    return write(world.folder, build("x", "between", key.public_key()).sign(between, hashes.SHA256()), key, middle)


def other_key_of_the_ca(world):
    key = new_key()
    return write(world.folder, build("x", world.ca.name, key.public_key()).sign(new_key(), hashes.SHA256()), key)


def inactive(world):
    mine = world.issue()
    world.connect(world.device(), mine).disconnect()
    world.api.put(f"/device-certificates/{world.record(mine)['certificate_id']}", {"status": "INACTIVE"})
    return mine


def of_another_space(world):
    space = world.api.post("/apps", {"app_name": unique("certs")})["app_id"]
    ca = Ca(world.folder)
    ca.upload(world.api, app_id=space)
    return ca.issue("x", sans=())


# name, reason, certificate, what the reason says
BAD = [
    ("unknown CA", "certificate_unknown_ca", lambda w: Ca(w.folder).issue("x", sans=()), ("SHA-256", "issued by", "Devices CA")),
    ("expired", "certificate_expired", lambda w: w.issue(begins=-9, ends=-1), ("CN=d",)),
    ("not yet valid", "certificate_not_yet_valid", lambda w: w.issue(begins=2), ("CN=d",)),
    ("wrong purpose", "certificate_purpose", lambda w: w.issue(usage=ExtendedKeyUsageOID.SERVER_AUTH), ("TLS clients",)),
    ("self-signed", "certificate_self_signed", self_signed, ("CN=me",)),
    ("chain broken", "certificate_chain_broken", broken_chain, ("CN=between", "the missing one")),
    ("signed with another key", "certificate_bad_signature", other_key_of_the_ca, ("another key",)),
    ("CA expired", "ca_expired", short_lived_ca, ("Devices CA",)),
    ("CA not verified", "ca_unverified", unverified_ca, ("nobody has proven",)),
    ("CA of another space", "ca_of_another_space", of_another_space, ("space",)),
    ("INACTIVE", "certificate_inactive", inactive, ("INACTIVE",)),
    ("none shown", "certificate_missing", lambda w: None, ("shown none",)),
]


@pytest.mark.parametrize("name, code, make, words", BAD, ids=[b[0] for b in BAD])
def test_a_bad_certificate_has_a_reason_of_its_own(world, name, code, make, words):
    bad, device = make(world), world.device()

    def reason():
        """A change of the CAs may be on its way to the instance that is asked."""
        with pytest.raises(rawmqtt.Refused) as no:
            world.connect(device, bad)
        assert no.value.code == 5
        failure = wait_until(lambda: world.api.why(device["device_id"])["failures"].get("authenticate"))
        return failure["code"] == code and failure
    failure = wait_until(reason, 10, 0.2, f"{code}: {world.api.why(device['device_id'])['failures']}")
    assert all(word in failure["reason"] for word in words) and failure["next_step"], failure


def test_bound_to_another_certificate(world):
    device = world.device(fingerprint="ab" * 32)
    assert not world.connects(device, world.issue())
    failure = wait_until(lambda: world.api.why(device["device_id"])["failures"].get("authenticate"))
    assert failure["code"] == "fingerprint_mismatch"


def test_each_reason_is_there_once():
    assert len({b[1] for b in BAD}) == len(BAD) >= 12


# ---- handshakes that fail: no device is known, the list of refused connections tells

def forged(path, folder):
    """The certificate of a file with a private key that is not its own. OpenSSL on the device's side compares public keys
    only, so the key file holds that of the certificate beside a private one that does not belong to it."""
    whole = pathlib.Path(path).read_bytes()
    mine, cert = load_pem_private_key(whole, None), x509.load_pem_x509_certificate(whole)

    def scalar(key):
        return key.private_numbers().private_value.to_bytes(32, "big")
    der = mine.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert der.count(scalar(mine)) == 1
    text = base64.encodebytes(der.replace(scalar(mine), scalar(new_key()))).decode()
    made = f"{folder}/{unique('forged')}.pem"
    pathlib.Path(made).write_text(cert.public_bytes(Encoding.PEM).decode() +
                                  f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n")
    return made


def test_a_key_that_is_not_the_certificates(world):
    name = unique("thief")
    path = forged(real := world.issue(name), world.folder)
    with pytest.raises((rawmqtt.Refused, OSError)):
        world.connect(world.device(), path)
    seen = wait_until(lambda: [r for r in world.refusals() if r.get("common_name") == name], 10, 0.2, "the refusal is listed")[0]
    assert seen["code"] == "tls_key_mismatch" and seen["fingerprint"] == sha256(real) and seen["next_step"]
    bound = world.device(fingerprint=sha256(real).upper())  # of a device that has this certificate its own why tells
    with pytest.raises((rawmqtt.Refused, OSError)):
        world.connect(bound, path)
    failure = wait_until(lambda: world.api.why(bound["device_id"])["failures"].get("connect"))
    assert failure["code"] == "tls_key_mismatch" and "private key" in failure["reason"]


def test_the_alert_that_the_device_sent(world, tmp_path):
    stranger = tmp_path / "another.pem"
    stranger.write_text(Ca(tmp_path).pem)
    device = world.device()
    with pytest.raises(OSError):
        rawmqtt.Device("127.0.0.1", world.platform.mqtts_port, device["device_id"], "", pw=None, tls_ca=str(stranger),
                       certificate=world.issue())
    seen = wait_until(lambda: [r for r in world.refusals() if r["code"] == "tls_alert_unknown_ca"], 10, 0.2, "the alert is listed")[0]
    assert is_us(seen["peer"]) and "CA" in seen["next_step"] and seen["count"] >= 1


def test_what_is_no_tls(world):
    wire = rawmqtt.Wire("127.0.0.1", world.platform.mqtts_port)
    wire.start()
    wire.send(b"GET / HTTP/1.1\r\n\r\n")
    wait_until(lambda: any(r["code"] == "tls_not_tls" for r in world.refusals()), 10, 0.2, "it is listed")
    wire.close()


def test_unknown_devices_are_listed_and_counted(world):
    name = unique("nobody")
    for _ in range(3):
        with pytest.raises(rawmqtt.Refused):
            world.platform.connect({"device_id": name, "auth_info": {"secret": "x"}})
    row = wait_until(lambda: (got := world.refusals(device_id=name)) and got[0]["count"] == 3 and got, 10, 0.2, "three times")[0]
    assert row["code"] == "unknown_device" and row["device_id"] == name and is_us(row["peer"])

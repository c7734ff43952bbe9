"""Devices with certificates: CAs are uploaded and proven, a first login binds, everything else is refused by its reason."""
import pathlib
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

import rawmqtt
from callback import Authority, _name
from rest import unique
from waiting import wait_until


class Ca(Authority):
    """A CA of devices."""

    def __init__(self, folder):
        super().__init__(folder, unique("Devices CA "))

    def upload(self, api, verify=True, **more):
        made = api.post("/certificates", {"content": self.pem, **more})
        if verify:
            proof = pathlib.Path(self.issue(made["verify_code"], sans=())).read_text()
            api.post(f"/certificates/{made['certificate_id']}/action", {"verify_content": proof}, status=200,
                     action_id="verify")
        return made


@pytest.fixture(scope="module")
def ca(platform, tmp_path_factory):
    made = Ca(tmp_path_factory.mktemp("devices"))
    made.upload(platform.api)
    return made


@pytest.fixture
def bare(api, product):
    """A device that is registered with a certificate."""
    return api.new_device(product["product_id"], auth_info={"auth_type": "CERTIFICATES", "secure_access": True})


@pytest.fixture
def login(platform):
    """login(device, certificate file): a connection."""
    made = []

    def connect(device, certificate=None, **more):
        peer = rawmqtt.Device("127.0.0.1", more.pop("port", platform.mqtts_port), device["device_id"], "",
                              tls_ca=more.pop("tls_ca", platform.access["CAUSEWAY_CA_FILE"]), certificate=certificate,
                              pw=more.pop("pw", None), **more)
        made.append(peer)
        return peer
    yield connect
    for peer in made:
        peer.disconnect()


def sha256(path):
    return x509.load_pem_x509_certificate(pathlib.Path(path).read_bytes()).fingerprint(hashes.SHA256()).hex()


def refused(api, login, device, code, certificate=None, **more):
    """CONNACK 5, and this reason in why."""
    with pytest.raises(rawmqtt.Refused) as no:
        login(device, certificate, **more)
    assert no.value.code == 5
    failure = wait_until(lambda: (f := api.why(device["device_id"])["failures"].get("authenticate")) and f["code"] == code
                         and f, 10, 0.05, f"the reason {code}; {api.why(device['device_id'])['failures']}")
    assert failure["reason"] and failure["next_step"]
    return failure


def refuse_until(api, login, device, certificate, code):
    """It is refused again and again until the reason is this: all instances have heard of a change."""
    def reason():
        with pytest.raises(rawmqtt.Refused):
            login(device, certificate)
        return (api.why(device["device_id"])["failures"].get("authenticate") or {}).get("code") == code
    wait_until(reason, 10, 0.2, f"the reason {code}")


# ---- the CAs

def test_a_ca_is_uploaded_verified_and_deleted(api, tmp_path):
    ca = Ca(tmp_path)
    made = ca.upload(api, verify=False)
    assert made["status"] is False and len(made["verify_code"]) == 40 and made["cn_name"] == ca.name
    path = f"/certificates/{made['certificate_id']}"
    shown = api.get(path)
    assert shown["content"].split() == ca.pem.split() and shown["name"] == ca.name and len(shown["expiry_date"]) == 16
    assert "014394" in api.call("POST", "/certificates", {"content": ca.pem}).code
    proof = pathlib.Path(ca.issue(made["verify_code"], sans=())).read_text()
    api.post(path + "/action", {"verify_content": proof}, status=200, action_id="verify")
    assert api.get(path)["status"] is True
    listed = api.get("/certificates", limit=50)
    assert made["certificate_id"] in [c["certificate_id"] for c in listed["certificates"]] and listed["page"]["count"]
    api.delete(path)
    api.refused(404, "IOTDA.014391", "GET", path)


def test_a_proof_that_is_none(api, tmp_path):
    ca, other = Ca(tmp_path), Ca(tmp_path)
    made = ca.upload(api, verify=False)
    path, code = f"/certificates/{made['certificate_id']}/action", made["verify_code"]

    def prove(text):
        return api.refused(400, "IOTDA.014307", "POST", path, {"verify_content": text}, query={"action_id": "verify"})
    assert "common name" in prove(pathlib.Path(ca.issue("another", sans=())).read_text())
    assert "signed" in prove(pathlib.Path(other.issue(code, sans=())).read_text())
    assert "expired" in prove(pathlib.Path(ca.issue(code, sans=(), days=-1)).read_text())
    assert "no PEM" in prove("nonsense")
    assert api.get(f"/certificates/{made['certificate_id']}")["status"] is False


@pytest.mark.parametrize("content", ["nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_what_is_no_ca_is_refused(api, content):
    api.refused(400, "IOTDA.014390", "POST", "/certificates", {"content": content})


# ---- logins

def test_the_first_login_binds(api, ca, bare, login):
    mine, another = ca.issue(bare["device_id"], sans=()), ca.issue(bare["device_id"], sans=())
    login(bare, mine).report("Pump", {"flow": 1})
    assert api.device(bare["device_id"])["auth_info"]["fingerprint"] == sha256(mine)
    login(bare, mine).ping()
    refused(api, login, bare, "fingerprint_mismatch", another)
    api.post(f"/devices/{bare['device_id']}/reset-fingerprint", {"force_disconnect": False}, status=200)
    login(bare, another).ping()


@pytest.mark.parametrize("algorithm", [hashes.SHA256, hashes.SHA1])
def test_a_fingerprint_that_was_given(api, product, ca, login, algorithm):
    node = unique("x509")
    mine = ca.issue(node, sans=())
    given = x509.load_pem_x509_certificate(pathlib.Path(mine).read_bytes()).fingerprint(algorithm()).hex()
    device = api.new_device(product["product_id"], node_id=node, auth_info={
        "auth_type": "CERTIFICATES", "fingerprint": given.upper(), "secure_access": True})
    login(device, mine).ping()
    refused(api, login, device, "fingerprint_mismatch", ca.issue(node, sans=()))


def test_a_password_is_not_looked_at(ca, bare, login):
    """The Go SDK sends one that it has made of an empty secret."""
    login(bare, ca.issue(bare["device_id"], sans=()), pw="0" * 64).ping()


def test_reasons(api, platform, product, ca, bare, login, tmp_path):
    refused(api, login, bare, "certificate_missing")
    refused(api, login, bare, "certificate_unknown_ca", Ca(tmp_path).issue(bare["device_id"], sans=()))
    refused(api, login, bare, "certificate_expired", ca.issue(bare["device_id"], sans=(), days=-1))
    refused(api, login, bare, "auth_type", port=platform.mqtt_port, tls_ca=None)
    space = api.post("/apps", {"app_name": unique("space")})["app_id"]
    elsewhere = api.new_device(api.new_product(app_id=space)["product_id"], app_id=space,
                               auth_info={"auth_type": "CERTIFICATES"})
    refused(api, login, elsewhere, "no_ca", ca.issue("x", sans=()))
    api.post(f"/devices/{bare['device_id']}/freeze", status=204)
    refused(api, login, bare, "frozen", ca.issue(bare["device_id"], sans=()))


def test_a_ca_that_nobody_verified_admits_nobody(api, login, tmp_path):
    space = api.post("/apps", {"app_name": unique("space")})["app_id"]
    device = api.new_device(api.new_product(app_id=space)["product_id"], app_id=space, auth_info={"auth_type": "CERTIFICATES"})
    ca = Ca(tmp_path)
    made = ca.upload(api, verify=False, app_id=space)
    mine = ca.issue("x", sans=())
    refuse_until(api, login, device, mine, "ca_unverified")
    proof = pathlib.Path(ca.issue(made["verify_code"], sans=())).read_text()
    api.post(f"/certificates/{made['certificate_id']}/action", {"verify_content": proof}, status=200, action_id="verify")
    wait_until(lambda: connects(login, device, ca), 10, 0.2, "the CA counts")
    api.delete(f"/certificates/{made['certificate_id']}")
    wait_until(lambda: not connects(login, device, ca), 10, 0.2, "it no longer counts")


def connects(login, device, ca, made={}):  # noqa: B006
    certificate = made.setdefault(device["device_id"], ca.issue("x", sans=()))
    try:
        login(device, certificate).disconnect()
        return True
    except rawmqtt.Refused:
        return False


def test_a_certificate_between(platform, api, product, login, tmp_path):
    """The device sends its issuer along; the root was uploaded."""
    root = Ca(tmp_path)
    root.cert = root._build(_name(root.name), _name(root.name), root.key.public_key(), 30).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(root.key, hashes.SHA256())
    root.pem = root.cert.public_bytes(serialization.Encoding.PEM).decode()
    root.upload(api)
    between = Ca(tmp_path)
    between.cert = root._build(_name(between.name), _name(root.name), between.key.public_key(), 30).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(root.key, hashes.SHA256())
    device = api.new_device(product["product_id"], auth_info={"auth_type": "CERTIFICATES"})
    path = between.issue(device["device_id"], sans=())
    alone = refused(api, login, device, "certificate_unknown_ca", path)
    assert between.name.encode().decode() in alone["reason"]
    with open(path, "ab") as out:
        out.write(between.cert.public_bytes(serialization.Encoding.PEM))
    login(device, path).ping()


def test_a_certificate_does_not_help_a_device_with_a_secret(platform, device, ca):
    certificate = ca.issue(device["device_id"], sans=())
    peer = rawmqtt.Device("127.0.0.1", platform.mqtts_port, device["device_id"], device["auth_info"]["secret"],
                          tls_ca=platform.access["CAUSEWAY_CA_FILE"], certificate=certificate)
    peer.ping()
    peer.disconnect()
    with pytest.raises(rawmqtt.Refused) as no:
        rawmqtt.Device("127.0.0.1", platform.mqtts_port, device["device_id"], "wrong",
                       tls_ca=platform.access["CAUSEWAY_CA_FILE"], certificate=certificate)
    assert no.value.code == 4


def test_two_certificates_at_once(api, ca, bare, login):
    """Of two first logins one binds, the other finds it bound."""
    mine, another = (ca.issue(bare["device_id"], sans=()) for _ in range(2))
    login(bare, mine)
    with pytest.raises(rawmqtt.Refused):
        login(bare, another)
    assert api.device(bare["device_id"])["auth_info"]["fingerprint"] == sha256(mine)


# ---- a real client

def test_mosquitto(platform, api, ca, bare):
    certificate = ca.issue(bare["device_id"], sans=())
    done = subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(platform.mqtts_port), "-q", "1", "--cafile",
         platform.access["CAUSEWAY_CA_FILE"], "--cert", certificate, "--key", certificate, "-i",
         f"{bare['device_id']}_0_0_{rawmqtt.timestamp()}", "-u", bare["device_id"], "-t",
         f"$oc/devices/{bare['device_id']}/sys/messages/up", "-m", "hello"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert wait_until(lambda: api.history(bare["device_id"]))[0]["body"] == "hello"

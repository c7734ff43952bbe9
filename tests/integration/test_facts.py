"""GET …/facts (docs/protocol/facts.md): what it says is so, and each line of it works when it is pasted."""
import os
import re
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from rest import unique
from waiting import wait_until

ALL = {"identity", "rest-gateway", "device-registry", "mqtt-gateway", "uplink-processor", "command-dispatcher", "rule-engine",
       "push-notifier"}  # fmt: skip


@pytest.fixture(scope="module")
def facts(platform):
    return platform.api.get("/facts")


def addresses(facts):
    return {a["protocol"]: a for a in facts["addresses"]}


def limit(facts, daemon, name):
    [found] = [one for one in facts["limits"] if (one["daemon"], one["setting"]) == (daemon, f"CAUSEWAY_{name}")]
    return found


def test_who_and_where(platform, facts):
    access = platform.access
    assert (facts["project_id"], facts["project_name"]) == (access["CAUSEWAY_PROJECT_ID"], access["CAUSEWAY_REGION"])
    assert (facts["domain_name"], facts["user_name"]) == (access["CAUSEWAY_DOMAIN"], access["CAUSEWAY_USER"])
    assert access["CAUSEWAY_AK"] in facts["access_keys"] and facts["default_app_id"] == access["CAUSEWAY_APP_ID"]
    assert {d["daemon"] for d in facts["daemons"]} == ALL and facts["missing"] == [] and facts["strict"] is False
    ports = {"mqtt": "MQTT", "mqtts": "MQTTS", "ws": "MQTT_WS", "wss": "MQTT_WSS"}
    where = addresses(facts)
    assert {p: where[p]["port"] for p in ports} == {p: int(access[f"CAUSEWAY_{name}_PORT"]) for p, name in ports.items()}
    assert access["CAUSEWAY_REST_URL"] == f"http://{where['http']['host']}:{where['http']['port']}"
    assert facts["ca_certificate"] == open(access["CAUSEWAY_CA_FILE"], encoding="ascii").read()
    assert {u["protocol"] for u in facts["unavailable"]} == {"mqtts11", "coap", "coaps", "https_device", "amqps"}
    assert {"sdk": "Java", "serverUri": f"ssl://{where['mqtts']['host']}:{access['CAUSEWAY_MQTTS_PORT']}"} in facts["device_sdks"]


def test_no_secret_is_told(platform, facts):
    text = repr(facts)
    secrets = [path.read_text().strip() for path in Path(platform.file("secrets")).iterdir()]
    assert len(secrets) > 10
    for secret in secrets + [platform.access["CAUSEWAY_SK"], platform.access["CAUSEWAY_PASSWORD"]]:
        assert secret not in text
    assert platform.file("") not in text, "nor a path"


# ---- the lines

class Shell:
    """One shell into which all lines are pasted; what they set stays."""

    def __init__(self, folder, **env):
        self.folder = folder
        self.env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")} | env

    def run(self, line):
        missing = [name for name in line["needs"] if not self.env.get(name)]
        assert not missing, f"{line['title']}: {missing} is not set by a line before it"
        command = {"sh": ["bash", "-e", "-o", "pipefail", "-c", f"set -a\n{line['text']}\nenv -0 > env.out"],
                   "python": ["/usr/bin/python3", "-c", line["text"]], "javascript": ["node", "-e", line["text"]]}[line["language"]]
        done = subprocess.run(command, cwd=self.folder, env=self.env, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, f"{line['title']}: {done.stdout}{done.stderr}"
        if line["language"] == "sh":
            told = (self.folder / "env.out").read_text().split("\0")
            self.env |= dict(one.split("=", 1) for one in told if "=" in one)
        return done.stdout + done.stderr


def test_each_line_works_when_it_is_pasted(platform, api, device, facts, sdk, tmp_path):
    shell = Shell(tmp_path, PASSWORD=platform.access["CAUSEWAY_PASSWORD"], AK=platform.access["CAUSEWAY_AK"],
                  SK=platform.access["CAUSEWAY_SK"], DEVICE_ID=device["device_id"], SECRET=device["auth_info"]["secret"],
                  NODE_PATH=str(sdk / "node_modules"))  # fmt: skip
    lines = facts["client_lines"]
    assert len(lines) == 16 and len({line["title"] for line in lines}) == 16

    def appended():
        return platform.metrics("mqtt-gateway")["causeway_gateway_appended_total"]
    for line in lines:
        before, title = appended(), line["title"]
        if title.startswith("waits"):
            api.post(f"/devices/{device['device_id']}/messages", {"message": "pasted"})
        out = shell.run(line)
        if title.startswith("the devices"):
            assert '"devices":[{' in out.replace(" ", ""), out
        elif title.startswith("a message of the device"):
            assert appended() >= before + 1, title
        elif title.startswith("waits"):
            assert '"pasted"' in out
        elif title.startswith("the certificate and"):
            assert "Verification: OK" in out
    assert shell.env["TOKEN"] and (tmp_path / "causeway-ca.crt").read_text() == facts["ca_certificate"]


def test_where_there_is_no_token_yet_the_password_is_what_is_missing(facts):
    given = {"PASSWORD", "AK", "SK", "DEVICE_ID", "SECRET"}
    for line in facts["client_lines"]:
        assert set(line["needs"]) <= given, line["title"]
        given |= set(re.findall(r"\b([A-Z_]+)=\$\(", line["text"]))


# ---- TLS: what a scanner finds is what is told

def agrees(port, version, suite):
    """A handshake with this version and this suite alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(f"{suite}:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        try:
            with context.wrap_socket(s) as tls:
                return tls.version()
        except (ssl.SSLError, ConnectionError):
            return None


def agrees_13(port, suite):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-ciphersuites", suite, "-brief"],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=30)  # fmt: skip
    return done.returncode == 0


def known_suites():
    listed = subprocess.run(["openssl", "ciphers", "-v", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"], text=True, capture_output=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {r[0] for r in rows if r[1] != "TLSv1.3"}, {r[0] for r in rows if r[1] == "TLSv1.3"} | {
        "TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"}  # fmt: skip


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # old versions are asked for on purpose
@pytest.mark.parametrize("protocol", ["mqtts", "wss", "https"])
def test_a_scanner_finds_what_is_told(facts, protocol):
    at = addresses(facts)[protocol]
    old, new = known_suites()
    assert len(old) > 60
    found = {s for s in old if agrees(at["port"], ssl.TLSVersion.TLSv1_2, s)} | {s for s in new if agrees_13(at["port"], s)}
    assert set(at["tls"]["suites"]) == found
    versions = {v.name.replace("_", "."): v for v in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2,
                                                      ssl.TLSVersion.TLSv1_3)}  # fmt: skip
    assert set(at["tls"]["versions"]) == {name for name, v in versions.items() if agrees(at["port"], v, "ALL")}


def test_the_certificate_is_the_one_that_is_shown(facts):
    for protocol in ("mqtts", "https"):
        at = addresses(facts)[protocol]
        shown = x509.load_pem_x509_certificate(ssl.get_server_certificate((at["host"], at["port"])).encode())
        told = at["tls"]["certificate"]
        assert told["fingerprint"] == shown.fingerprint(hashes.SHA256()).hex()
        assert told["expiry_date"] == shown.not_valid_after.strftime("%Y%m%dT%H%M%SZ")
        assert "127.0.0.1" in told["names"] and "localhost" in told["names"]
        assert shown.subject.rfc4514_string() == told["subject"] and shown.issuer.rfc4514_string() == told["issuer"]


# ---- limits

def test_use_follows_what_is_made(api, facts):
    before = limit(api.get("/facts"), "device-registry", "PRODUCTS_MAX")
    assert (before["unit"], before["at_limit"]) == ("count", "refused with IOTDA.013903, 403")
    api.new_product()
    assert limit(api.get("/facts"), "device-registry", "PRODUCTS_MAX")["used"] == before["used"] + 1
    assert limit(facts, "mqtt-gateway", "MQTT_BANDWIDTH")["unit"] == "bytes"
    assert limit(facts, "push-notifier", "PUSH_TIMEOUT") == {
        "daemon": "push-notifier", "setting": "CAUSEWAY_PUSH_TIMEOUT", "value": 15000, "unit": "ms",
        "meaning": "wait for a target's answer"}  # fmt: skip


def test_open_connections_are_counted(platform, api, device):
    def used():
        return limit(api.get("/facts"), "mqtt-gateway", "MAX_CONNECTIONS")["used"]
    before = used()
    with platform.connect(device):
        assert used() == before + 1


@pytest.fixture
def small(own_platform):
    """Of everything little; entries in front of it; a name of its own."""
    return own_platform(instances="mqtt-gateway=2", etc={
        "device-registry": "PRODUCTS_MAX=5", "push-notifier": "PUSH_SOURCE=127.0.0.3",
        "identity": "USERS_MAX=2\nPUBLIC_HOST=iot.example\nPUBLIC_PORTS=mqtts=28883 http=8081"})  # fmt: skip


@pytest.mark.long
def test_limits_that_come_near_and_addresses_of_entries(small):
    api = small.api
    made = [api.new_product() for _ in range(3)]
    assert api.get("/facts")["warnings"] == []
    made.append(api.new_product())
    [near] = api.get("/facts")["warnings"]
    assert near.startswith("products; 0: any number: 4 of 5 are used (CAUSEWAY_PRODUCTS_MAX of device-registry)")
    made.append(api.new_product())
    [full] = api.get("/facts")["warnings"]
    assert "the limit is reached: refused with IOTDA.013903, 403" in full
    with pytest.raises(Exception, match="IOTDA.013903"):
        api.new_product()
    told = api.get("/facts")
    assert [(a["protocol"], a["host"], a["port"], a["instances"]) for a in told["addresses"]] == [
        ("mqtts", "iot.example", 28883, 2), ("http", "iot.example", 8081, 1)]
    assert "http://iot.example:8081/v3/auth/tokens" in told["client_lines"][0]["text"]
    assert told["push_source_addresses"] == ["127.0.0.3"]


@pytest.mark.long
def test_pushes_come_from_the_address_that_is_told(small):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        api = small.api
        rule = api.post("/routing-rule/rules", {"rule_name": unique("src"), "subject": {"resource": "device", "event": "create"}})
        api.post("/routing-rule/actions", {"rule_id": rule["rule_id"], "channel": "HTTP_FORWARDING", "channel_detail": {
            "http_forwarding": {"url": f"http://127.0.0.1:{server.getsockname()[1]}/x"}}})
        api.put(f"/routing-rule/rules/{rule['rule_id']}", {"active": True})
        api.new_device(api.new_product()["product_id"])
        connection, peer = server.accept()
        connection.close()
        assert peer[0] == "127.0.0.3"


@pytest.mark.long
def test_who_does_not_answer_is_named(own_platform):
    platform = own_platform()
    [victim] = platform.processes("rule-engine")
    os.kill(victim, 19)  # SIGSTOP: there, and silent
    try:
        begun = time.monotonic()
        told = platform.api.get("/facts")
        assert told["missing"] == ["rule-engine"] and time.monotonic() - begun < 5
        assert "rule-engine" not in {d["daemon"] for d in told["daemons"]}
    finally:
        os.kill(victim, 18)
    wait_until(lambda: platform.api.get("/facts")["missing"] == [], 20, 0.2, "it answers again")

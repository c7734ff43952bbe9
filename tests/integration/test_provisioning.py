"""Devices that register themselves (docs/protocol/provisioning.md): by a certificate of a CA with a template, with
certificates made by openssl; and by the secret or certificate of a registration group."""
import base64
import hashlib
import hmac
import pathlib
import subprocess
import threading

import pytest

import rawmqtt
from deployed import is_us
from rawmqtt import password, timestamp
from rest import unique
from test_x509 import sha256
from waiting import wait_until

CN = "iotda::certificate::common_name"


def openssl(folder, *args):
    done = subprocess.run(["openssl", *map(str, args)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class OpenSsl:
    """A CA, and certificates of it, as people make them."""

    def __init__(self, folder):
        self.folder = folder
        self.name = unique("Factory CA ")
        openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 90, "-keyout",
                "ca.key", "-out", "ca.crt", "-subj", f"/O=Factory/CN={self.name}", "-addext", "basicConstraints=critical,CA:true")
        self.pem = (folder / "ca.crt").read_text()

    def issue(self, subject):
        name = unique("device")
        openssl(self.folder, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name + ".key",
                "-out", name + ".csr", "-subj", subject)
        openssl(self.folder, "x509", "-req", "-in", name + ".csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", 60,
                "-out", name + ".crt")
        path = self.folder / (name + ".pem")
        path.write_text((self.folder / (name + ".crt")).read_text() + (self.folder / (name + ".key")).read_text())
        return str(path)


class World:
    def __init__(self, platform, folder):
        self.platform, self.api = platform, platform.api
        self.space = self.api.post("/apps", {"app_name": unique("factory")})["app_id"]
        self.product = self.api.new_product(app_id=self.space)["product_id"]
        self.ca = OpenSsl(folder)
        made = self.api.post("/certificates", {"content": self.ca.pem, "app_id": self.space})
        self.ca_id = made["certificate_id"]
        proof = pathlib.Path(self.ca.issue(f"/CN={made['verify_code']}")).read_text()
        self.api.post(f"/certificates/{self.ca_id}/action", {"verify_content": proof}, status=200, action_id="verify")

    def template(self, policies=None, **device):
        parameters = {r["ref"] for r in device.values() if isinstance(r, dict)} | {CN}
        resources = {"device": {"node_id": {"ref": CN}, "device_id": {"ref": CN}, "product_id": self.product, **device}}
        if policies:
            resources["policy"] = {"policy_ids": policies}
        return self.api.post("/provisioning-templates", {"template_name": unique("template"), "template_body": {
            "parameters": {p: {"type": "String"} for p in parameters}, "resources": resources}})["template_id"]

    def bind(self, template, enable=True):
        got = self.api.put(f"/certificates/{self.ca_id}", {"provision_enable": enable, "template_id": template})
        assert got["provision_enable"] is enable and got.get("template_id") == template
        return template

    def connect(self, device_id, certificate, server_name="localhost", **more):
        return rawmqtt.Device("127.0.0.1", self.platform.mqtts_port, device_id, "", certificate=certificate, pw=more.pop("pw", None),
                              tls_ca=self.platform.access["CAUSEWAY_CA_FILE"], server_name=server_name, **more)

    def comes_in(self, device_id, certificate, **more):
        """Its connection, once each instance knows of the template."""
        def connects():
            try:
                return self.connect(device_id, certificate, **more)
            except rawmqtt.Refused:
                return None
        return wait_until(connects, 10, 0.1, f"{device_id} is let in; {self.refusals(device_id)}")

    def refusals(self, device_id):
        return self.api.get("/refused-connections", device_id=device_id, limit=50)["refused_connections"]

    def refused(self, code, device_id, certificate, **more):
        """It is refused, and this reason is listed."""
        def listed():
            with pytest.raises(rawmqtt.Refused):
                self.connect(device_id, certificate, **more)
            return next((r for r in self.refusals(device_id) if r["code"] == code), None)
        row = wait_until(listed, 10, 0.5, f"{code} is listed: {self.refusals(device_id)}")
        assert row["reason"] and row["next_step"]
        self.api.refused(404, "IOTDA.014000", "GET", f"/devices/{device_id}")
        return row


@pytest.fixture(scope="module")
def world(platform, tmp_path_factory):
    return World(platform, tmp_path_factory.mktemp("factory"))


# ---- by a certificate

def test_an_unknown_device_registers_itself_and_goes_on(world, subscribe):
    """From the certificate to its first report, in one connection; the event and the audit log tell."""
    created = subscribe("device", "create", app_type="APP", app_id=world.space)
    template = world.bind(world.template(device_name={"ref": "iotda::certificate::organizational_unit"},
                                         tags=[{"tag_key": "street", "tag_value": "north"}]))
    name = unique("pump")
    mine = world.ca.issue(f"/O=Factory/OU=Hall_7/CN={name}")
    with world.comes_in(name, mine) as peer:
        peer.report("Pump", {"flow": 7})
        wait_until(lambda: world.api.shadow(name).get("Pump"))
    device = world.api.device(name)
    assert (device["node_id"], device["product_id"], device["app_id"]) == (name, world.product, world.space)
    assert device["tags"] == [{"tag_key": "street", "tag_value": "north"}]
    assert device["device_name"] == "Hall_7" and device["auth_info"]["auth_type"] == "CERTIFICATES"
    assert device["auth_info"]["fingerprint"] == sha256(mine)
    wait_until(lambda: [r for r in created.records() if r.body["notify_data"]["body"]["device_id"] == name], 15, 0.05, "device.create")
    record = wait_until(lambda: (got := world.api.get("/audit-records", resource_id=name)["records"]) and got, 10, 0.1, "the audit log")[0]
    assert record["user_name"] == "self-registration" and record["operation"] == "AddDevice" and record["status"] == 201
    assert is_us(record["peer"]) and record["method"] == "MQTT"
    assert sha256(mine) in record["resource"] and world.ca_id in record["resource"] and template in record["resource"]
    certificate = world.api.get("/device-certificates", fingerprint=sha256(mine))["device_certificates"][0]
    assert certificate["common_name"] == name and certificate["status"] == "ACTIVE"
    world.connect(name, mine).disconnect()
    assert len(world.api.get("/audit-records", resource_id=name)["records"]) == 1, "registered once"


def test_values_of_the_subject(world):
    world.bind(world.template(device_id={"ref": "iotda::certificate::serial_number"},
                              product_id={"ref": "iotda::certificate::organization"}))
    name = unique("sn")
    world.comes_in(name, world.ca.issue(f"/O={world.product}/serialNumber={name}/CN=node_{name}")).disconnect()
    assert world.api.device(name)["node_id"] == f"node_{name}"


def test_without_a_device_id_it_is_made_of_product_and_node(world):
    world.bind(world.api.post("/provisioning-templates", {"template_name": unique("template"), "template_body": {
        "parameters": {CN: {"type": "String"}}, "resources": {"device": {"node_id": {"ref": CN}, "product_id": world.product}}}})["template_id"])
    name = unique("node")
    mine = world.ca.issue(f"/CN={name}")
    world.comes_in(f"{world.product}_{name}", mine).disconnect()


def test_its_policies_hold_from_the_first_message_on(world):
    deny = world.api.post("/device-policies", {"policy_name": "no_x", "app_id": world.space, "statement": [
        {"effect": "DENY", "actions": ["iotda:devices:publish"], "resources": ["topic:x"]}]})["policy_id"]
    world.bind(world.template(policies=[deny]))
    name = unique("bound")
    with world.comes_in(name, world.ca.issue(f"/CN={name}")) as peer:
        peer.publish_acked("x", "1")
        why = wait_until(lambda: world.api.why(name)["failures"].get("topic"))
        assert why["code"] == "topic_policy" and "no_x" in why["reason"]
    targets = world.api.post(f"/device-policies/{deny}/list-targets", {}, status=200)["targets"]
    assert targets == [{"target_type": "device", "target_id": name}]


def test_two_connections_at_once_register_one_device(world):
    world.bind(world.template())
    world.comes_in(first := unique("warm"), world.ca.issue(f"/CN={first}")).disconnect()
    name, results = unique("twin"), []
    mine = world.ca.issue(f"/CN={name}")

    def come():
        try:
            results.append(world.connect(name, mine))
        except rawmqtt.Refused as no:
            results.append(no)
    threads = [threading.Thread(target=come) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 4 and any(isinstance(r, rawmqtt.Device) for r in results)
    assert all(r.code == 3 for r in results if isinstance(r, rawmqtt.Refused) and r.code is not None), results
    assert len(world.api.get("/devices", node_id=name)["devices"]) == 1
    for r in results:
        if isinstance(r, rawmqtt.Device):
            r.disconnect()


def test_what_was_deleted_registers_itself_again(world):
    world.bind(world.template())
    name = unique("again")
    mine = world.ca.issue(f"/CN={name}")
    world.comes_in(name, mine).disconnect()
    world.api.delete(f"/devices/{name}")
    world.comes_in(name, mine).disconnect()
    certificate = world.api.get("/device-certificates", fingerprint=sha256(mine))["device_certificates"][0]["certificate_id"]
    world.api.put(f"/device-certificates/{certificate}", {"status": "INACTIVE"})
    world.api.delete(f"/devices/{name}")
    world.refused("certificate_inactive", name, mine)


# ---- by a certificate: each way to fail has its reason

def test_refusals(world, tmp_path):
    world.bind(world.template())
    name = unique("none")
    mine = world.ca.issue(f"/CN={name}")
    strange = OpenSsl(tmp_path).issue(f"/CN={name}")
    # first what the certificate is, then by which name the platform was called
    assert "issued by" in world.refused("certificate_unknown_ca", name, strange)["reason"]
    row = world.refused("provision_server_name", name, mine, server_name=None)
    assert "no server" in row["reason"] and row["common_name"] == name and row["fingerprint"] == sha256(mine)
    row = world.refused("provision_name_mismatch", other := unique("other"), mine)
    assert name in row["reason"] and other in row["reason"]
    world.bind(world.template(device_name={"ref": "iotda::certificate::country"}))
    assert "iotda::certificate::country" in world.refused("provision_value_missing", name, mine)["reason"]
    world.bind(world.template(product_id="no_such_product"))
    assert "no_such_product" in world.refused("provision_refused", name, mine)["reason"]
    elsewhere = world.api.post("/device-policies", {"policy_name": "x", "statement": [
        {"effect": "DENY", "actions": ["iotda:devices:publish"], "resources": ["topic:x"]}]})["policy_id"]
    world.bind(world.template(policies=[elsewhere]))
    assert elsewhere in world.refused("provision_no_policy", name, mine)["reason"]
    world.bind(None)
    world.refused("provision_no_template", name, mine)
    bad = unique("not valid")
    world.bind(world.template(device_id={"ref": "iotda::certificate::organization"}))
    row = world.refused("provision_invalid", name, world.ca.issue(f"/O={name}/CN={bad}"))
    assert "node_id" in row["reason"]
    world.bind(None, enable=False)
    with pytest.raises(rawmqtt.Refused) as no:
        world.connect(name, mine)
    assert no.value.code in (4, 5)


def test_only_one_space_registers_by_a_ca(world):
    world.bind(world.template())
    space = world.api.post("/apps", {"app_name": unique("factory")})["app_id"]
    second = world.api.post("/certificates", {"content": world.ca.pem, "app_id": space})["certificate_id"]
    world.api.refused(403, "IOTDA.014395", "PUT", f"/certificates/{second}", {"provision_enable": True})
    world.api.delete(f"/certificates/{second}")


def test_without_the_audit_log_nothing_is_registered(own_platform, tmp_path):
    platform = own_platform()
    world = World(platform, tmp_path)
    world.bind(world.template())
    world.comes_in(first := unique("warm"), world.ca.issue(f"/CN={first}")).disconnect()
    name = unique("unwritten")
    mine = world.ca.issue(f"/CN={name}")
    platform.sql("ALTER TABLE identity.audit RENAME TO away")
    with pytest.raises(rawmqtt.Refused) as no:
        world.connect(name, mine)
    assert no.value.code == 3
    world.api.refused(404, "IOTDA.014000", "GET", f"/devices/{name}")
    platform.sql("ALTER TABLE identity.away RENAME TO audit")
    world.connect(name, mine).disconnect()


def test_kills_while_devices_register_themselves(own_platform, tmp_path):
    """Whoever comes again is let in; no device is there without its line in the audit log, and none twice."""
    platform = own_platform(etc={"device-registry": "PROVISION_RATE=1000"})
    world = World(platform, tmp_path)
    world.bind(world.template())
    made = world.api.post("/registration-groups", {"group_name": "storm", "app_id": world.space, "product_id": world.product,
                                                   "device_limit": 1000})
    names = [unique("storm") for _ in range(24)]
    certificates = {name: world.ca.issue(f"/CN={name}") for name in names[::2]}
    into, over = set(), threading.Event()

    def come(name):
        while not over.is_set() and name not in into:
            try:
                (world.connect(name, certificates[name]) if name in certificates else join(world, made, name)).disconnect()
                into.add(name)
            except (rawmqtt.Refused, OSError, AssertionError):
                over.wait(0.2)
    threads = [threading.Thread(target=come, args=(name,)) for name in names]
    for t in threads:
        t.start()
    for victim in ("device-registry", "identity", "device-registry", "mqtt-gateway"):
        platform.kill(victim)
    try:
        wait_until(lambda: len(into) == len(names), 60, 0.2, "all are in")
    finally:
        over.set()
        for t in threads:
            t.join()
    without = platform.sql("SELECT device_id FROM registry.device d WHERE NOT EXISTS (SELECT FROM identity.audit a WHERE a.user_name ="
                           " 'self-registration' AND a.resource LIKE 'device ' || d.device_id || ' by %')"
                           f" AND app_id = '{world.space}'")
    assert without == "", "an end may be lost with a process, a beginning not"
    assert int(platform.sql(f"SELECT count(*) FROM registry.device WHERE app_id = '{world.space}'")) == len(names)
    assert world.api.get(f"/registration-groups/{made['scope_id']}")["registered"] >= len(names) // 2, "rather one too many"


def test_registrations_have_a_rate(own_platform, tmp_path):
    platform = own_platform(etc={"device-registry": "PROVISION_RATE=2"})
    world = World(platform, tmp_path)
    world.bind(world.template())
    names = [unique("rush") for _ in range(8)]
    mine = {name: world.ca.issue(f"/CN={name}") for name in names}
    codes = []
    for name in names:
        try:
            world.connect(name, mine[name]).disconnect()
            codes.append(0)
        except rawmqtt.Refused as no:
            codes.append(no.code)
    assert 3 in codes, codes
    for name in names:  # who comes again is let in
        world.comes_in(name, mine[name]).disconnect()


# ---- templates

@pytest.mark.parametrize("change, path", [
    (lambda b: b["parameters"].update({"iotda::certificate::shoe_size": {"type": "String"}}), "template_body.parameters"),
    (lambda b: b["parameters"].update({CN: {"type": "Number"}}), f"template_body.parameters.{CN}"),
    (lambda b: b["parameters"].pop(CN), "template_body.resources.device.node_id.ref"),
    (lambda b: b["resources"]["device"].update(product_id=7), "template_body.resources.device.product_id"),
    (lambda b: b["resources"]["device"].update(product_id=""), "template_body.resources.device.product_id"),
    (lambda b: b["resources"]["device"].update(device_name={"ref": "nothing"}), "template_body.resources.device.device_name.ref"),
    (lambda b: b["resources"]["device"].update(tags=[{"tag_key": "k"}, {"tag_key": "k"}]),
     "template_body.resources.device.tags[1].tag_key"),
    (lambda b: b["resources"].update(policy={"policy_ids": ["0" * 24]}), "template_body.resources.policy.policy_ids")])
def test_a_template_that_is_wrong_names_the_field(api, change, path):
    body = {"parameters": {CN: {"type": "String"}}, "resources": {"device": {"node_id": {"ref": CN}, "product_id": "p"}}}
    api.post("/provisioning-templates", {"template_name": unique("t"), "template_body": body})
    change(body)
    said = api.refused(400, "IOTDA.036901", "POST", "/provisioning-templates", {"template_name": unique("t"), "template_body": body})
    assert path in said, said


def test_templates_have_names_and_a_number(own_platform):
    api = own_platform().api
    body = {"parameters": {CN: {"type": "String"}}, "resources": {"device": {"node_id": {"ref": CN}, "product_id": "p"}}}
    made = [api.post("/provisioning-templates", {"template_name": f"t{i}", "template_body": body}) for i in range(10)]
    api.delete(f"/provisioning-templates/{made[0]['template_id']}")
    api.refused(400, "IOTDA.036903", "POST", "/provisioning-templates", {"template_name": "t5", "template_body": body})
    api.post("/provisioning-templates", {"template_name": "t0", "template_body": body})
    api.refused(403, "IOTDA.036902", "POST", "/provisioning-templates", {"template_name": "t10", "template_body": body})
    assert [t["template_name"] for t in api.get("/provisioning-templates", template_name="t5")["templates"]] == ["t5"]
    changed = api.put(f"/provisioning-templates/{made[5]['template_id']}", {"description": "other"})
    assert changed["description"] == "other" and changed["template_body"] == body


def test_a_template_that_a_ca_is_bound_to_stays(world):
    template = world.bind(world.template())
    world.api.refused(403, "IOTDA.036904", "DELETE", f"/provisioning-templates/{template}")
    world.bind(None, enable=False)
    world.api.delete(f"/provisioning-templates/{template}")
    world.api.refused(404, "IOTDA.036900", "PUT", f"/certificates/{world.ca_id}", {"template_id": template})


# ---- registration groups

def derived(group_secret, device_id):
    return hmac.new(device_id.encode(), base64.b64decode(group_secret), hashlib.sha256).hexdigest()


def group(world, **more):
    return world.api.post("/registration-groups", {"group_name": unique("group"), "app_id": world.space,
                                                   "product_id": world.product, **more})


def join(world, made, device_id, secret=None, form="{id}_0_{scope}_0_{stamp}", port=None, **more):
    """As the SDKs do: the derived secret, its password, the client id with the scope id."""
    stamp = timestamp()
    secret = secret or derived(made["group_secret"], device_id)
    client_id = form.format(id=device_id, scope=made["scope_id"], stamp=stamp)
    return rawmqtt.Device("127.0.0.1", port or world.platform.mqtts_port, device_id, "", client_id=client_id,
                          pw=password(secret, stamp), tls_ca=world.platform.access["CAUSEWAY_CA_FILE"], **more)


def refused_join(world, code, made, device_id, connack, **more):
    with pytest.raises(rawmqtt.Refused) as no:
        join(world, made, device_id, **more)
    assert no.value.code == connack
    return wait_until(lambda: next((r for r in world.refusals(device_id) if r["code"] == code), None), 10, 0.1, code)


def test_a_device_of_a_group(world):
    made = group(world)
    assert len(made["scope_id"]) == 12 and 0 not in base64.b64decode(made["group_secret"]) and made["registered"] == 0
    path = f"/registration-groups/{made['scope_id']}"
    assert "group_secret" not in world.api.get(path), "shown once"
    name = unique("member")
    with join(world, made, name) as peer:
        peer.report("Pump", {"flow": 3})
    device = world.api.device(name)
    secret = derived(made["group_secret"], name)
    assert device["auth_info"]["secret"] == secret and device["product_id"] == world.product and device["node_id"] == name
    assert world.api.get(path)["registered"] == 1
    join(world, made, name).disconnect()
    assert world.api.get(path)["registered"] == 1
    world.platform.connect(device, secret=secret).disconnect()  # the derived secret, on the normal login
    record = wait_until(lambda: (got := world.api.get("/audit-records", resource_id=name)["records"]) and got)[0]
    assert record["status"] == 201 and made["scope_id"] in record["resource"]


def test_the_id_names_the_product(world):
    made = group(world)
    other = world.api.new_product(app_id=world.space)["product_id"]
    node = f"n{abs(hash(other)) % 10 ** 8}"
    join(world, made, f"{other}_{node}").disconnect()
    device = world.api.device(f"{other}_{node}")
    assert (device["product_id"], device["node_id"]) == (other, node)
    two = f"{other}_{node}_x"  # two underscores: the default product
    join(world, made, two).disconnect()
    assert (world.api.device(two)["product_id"], world.api.device(two)["node_id"]) == (world.product, two)
    bare = group(world, product_of_device_id=False)
    third = f"{other}_{node}y"
    join(world, bare, third).disconnect()
    assert world.api.device(third)["product_id"] == world.product


def test_the_ways_not_to_get_in(world):
    made = group(world, device_limit=1)
    path = f"/registration-groups/{made['scope_id']}"
    assert "HMAC" in refused_join(world, "wrong_group_secret", made, name := unique("m"), 4, secret="wrong")["next_step"]
    refused_join(world, "unknown_scope", {**made, "scope_id": "f" * 12}, name, 4)
    world.api.put(path, {"enabled": False})
    refused_join(world, "group_disabled", made, name, 5)
    assert world.api.put(path, {"enabled": True})["enabled"] is True
    join(world, made, name).disconnect()
    refused_join(world, "group_full", made, unique("m"), 5)
    world.api.put(path, {"device_limit": 2})
    renewed = world.api.post(path + "/reset-secret", status=200)
    assert renewed["group_secret"] != made["group_secret"]
    refused_join(world, "wrong_group_secret", made, late := unique("m"), 4)
    join(world, {**made, **renewed}, late).disconnect()
    join(world, made, name).disconnect()  # who is registered keeps his
    world.api.delete(path)
    with pytest.raises(rawmqtt.Refused):
        join(world, made, name)
    why = wait_until(lambda: world.api.why(name)["failures"].get("authenticate"))
    assert why["code"] == "unknown_scope", "of a device that is known, its own why tells"


def test_a_registration_that_fails_gives_its_place_back(world):
    made = group(world, product_of_device_id=False)
    refused_join(world, "provision_invalid", made, "x" * 65, 5)  # no node id has 65 characters
    assert world.api.get(f"/registration-groups/{made['scope_id']}")["registered"] == 0


def test_a_group_needs_a_product_of_its_space(world):
    world.api.refused(404, "IOTDA.013900", "POST", "/registration-groups",
                      {"group_name": "x", "app_id": world.space, "product_id": "no_such"})
    made = world.api.post("/registration-groups", {"group_name": "x", "app_id": world.space})
    refused_join(world, "provision_no_product", made, unique("m"), 5)


def test_a_group_of_certificates(world, tmp_path):
    """Form {id}_0_{scope}, no password."""
    made = group(world, auth_type="CERTIFICATES")
    assert "group_secret" not in made
    world.api.refused(400, "IOTDA.000006", "POST", f"/registration-groups/{made['scope_id']}/reset-secret")
    name = unique("member")
    mine = world.ca.issue(f"/CN={name}")
    strange = OpenSsl(tmp_path).issue(f"/CN={name}")
    form = f"{name}_0_{made['scope_id']}"
    for certificate, code in ((None, "certificate_missing"), (strange, "certificate_unknown_ca")):
        with pytest.raises(rawmqtt.Refused):
            world.connect(name, certificate, client_id=form)
        wait_until(lambda: any(r["code"] == code for r in world.refusals(name)), 10, 0.1, code)
    world.connect(name, mine, client_id=form).disconnect()
    assert world.api.device(name)["auth_info"]["fingerprint"] == sha256(mine)
    world.connect(name, mine).disconnect()  # and as any device with a certificate

"""A space as plain files: scripts/space export, import, and export again."""
import json
import pathlib
import subprocess

import pytest

from rest import unique

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "space"
FILES = ["products", "devices", "groups", "policies", "rules"]


def space(platform, *words, code=0):
    done = subprocess.run([SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=300, env={
        "PATH": "/usr/bin:/bin", "CAUSEWAY_ACCESS": f"{platform.var}/access.env"})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def filled(platform):
    """A space with a thousand devices, some below gateways, in groups, under policies, with rules."""
    api, name = platform.api, unique("files")
    app = api.post("/apps", {"app_name": name})["app_id"]
    products = [api.new_product(app_id=app)["product_id"] for _ in range(3)]

    def add(node, **more):
        return api.post("/devices", {"node_id": f"{name}_{node}", "product_id": products[node % 3], "app_id": app, **more})["device_id"]
    direct = [add(i, device_name=f"水表{i}", extension_info={"i": i}) for i in range(900)]
    below = [add(1000 + i, gateway_id=direct[i % 5]) for i in range(90)]
    for i in range(10):
        add(2000 + i, gateway_id=below[i])
    for i in range(0, 900, 50):
        api.post("/tags/bind-resource", {"resource_type": "device", "resource_id": direct[i], "tags": [
            {"tag_key": "street", "tag_value": str(i)}, {"tag_key": "leased"}]}, status=200)
    top = api.post("/device-group", {"name": "top", "app_id": app})["group_id"]
    low = api.post("/device-group", {"name": "low", "app_id": app, "super_group_id": top, "description": "of the north"})["group_id"]
    api.post("/device-group", {"name": "tagged", "app_id": app, "group_type": "DYNAMIC", "dynamic_group_rule": "tag_key = 'street'"})
    for device in direct[:60]:
        api.post(f"/device-group/{low}/action", status=200, action_id="addDevice", device_id=device)
    for topic, rights in (("alarm/level", "PUBLISH"), ("valve", "BOTH")):
        api.post(f"/products/{products[1]}/topics", {"topic": topic, "rights": rights, "description": "of pumps"})
    policy = api.post("/device-policies", {"policy_name": "quiet", "app_id": app, "statement": [
        {"effect": "DENY", "actions": ["iotda:devices:publish"], "resources": ["topic:loud/*"]}]})["policy_id"]
    for kind, ids in (("device", direct[:2]), ("product", products[:1]), ("app", [app])):
        api.post(f"/device-policies/{policy}/bind", {"target_type": kind, "target_ids": ids}, status=200)
    rule = api.post("/routing-rule/rules", {"rule_name": "all", "subject": {"resource": "device.property", "event": "report"},
                                            "app_type": "APP", "app_id": app})["rule_id"]
    for path in ("a", "b"):
        api.post("/routing-rule/actions", {"rule_id": rule, "channel": "HTTP_FORWARDING", "channel_detail": {
            "http_forwarding": {"url": f"http://127.0.0.1:1/{path}"}}})
    api.put(f"/routing-rule/rules/{rule}", {"active": True})
    return name


def contents(folder):
    return {name: (folder / f"{name}.jsonl").read_text() for name in FILES}


def test_a_round_trip_into_an_empty_platform(platform, own_platform, filled, tmp_path):
    said = space(platform, "export", tmp_path / "a", "--space", filled, "--secrets")
    assert "1000 devices" in said and "3 groups" in said
    other = own_platform()
    assert "0 refused" in space(other, "import", tmp_path / "a", "--space", filled)
    space(other, "export", tmp_path / "b", "--space", filled, "--secrets")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    again = space(other, "import", tmp_path / "a", "--space", filled)
    assert again.startswith("0 made") and "0 refused" in again, again
    first = json.loads(contents(tmp_path / "a")["devices"].splitlines()[0])
    with other.connect({"device_id": first["device_id"], "auth_info": first["auth_info"]}) as peer:
        peer.report("Pump", {"flow": 1})


def test_without_secrets_and_with_what_is_in_the_way(platform, own_platform, filled, tmp_path):
    space(platform, "export", tmp_path / "a", "--space", filled)
    assert '"secret"' not in contents(tmp_path / "a")["devices"]
    for name, lines in contents(tmp_path / "a").items():  # a few of it
        (tmp_path / "a" / f"{name}.jsonl").write_text("".join(lines.splitlines(True)[:20]))
    other = own_platform()
    device = json.loads(contents(tmp_path / "a")["devices"].splitlines()[3])
    product = other.api.new_product()["product_id"]
    other.api.post("/devices", {"node_id": "x", "device_id": device["device_id"], "product_id": product})
    said = space(other, "import", tmp_path / "a", "--space", "elsewhere", code=1)
    assert "devices.jsonl:4: another space has a device of this id" in said, said
    secrets = [json.loads(line) for line in (tmp_path / "a" / "secrets.jsonl").read_text().splitlines()]
    assert len(secrets) == 19 and (tmp_path / "a" / "secrets.jsonl").stat().st_mode & 0o077 == 0
    with other.connect({"device_id": secrets[0]["device_id"], "auth_info": {"secret": secrets[0]["secret"]}}):
        pass
    assert "no space" in space(other, "export", tmp_path / "c", "--space", "nowhere", code=1)

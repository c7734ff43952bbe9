"""Rules, actions and certificates of the forwarding API: what is kept, what is refused and how."""
import re

import pytest

from callback import Authority
from rest import unique

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
REPORTS = {"resource": "device.property", "event": "report"}
URL = "https://127.0.0.1:9443/in"


@pytest.fixture
def rule(api):
    made = api.post("/routing-rule/rules", {"rule_name": unique("rule"), "subject": REPORTS})
    yield made
    api.call("DELETE", f"/routing-rule/rules/{made['rule_id']}")


def action_body(rule, **detail):
    return {"rule_id": rule["rule_id"], "channel": "HTTP_FORWARDING",
            "channel_detail": {"http_forwarding": {"url": URL, **detail}}}


def test_a_rule_lives(api, rule):
    path = f"/routing-rule/rules/{rule['rule_id']}"
    assert re.fullmatch(UUID, rule["rule_id"]) and rule["active"] is False
    assert (rule["subject"], rule["app_type"]) == (REPORTS, "GLOBAL")
    assert api.get(path) == rule
    changed = api.put(path, {"rule_name": "renamed", "description": "why not"})
    assert (changed["rule_name"], changed["description"]) == ("renamed", "why not")
    assert changed["subject"] == REPORTS
    api.delete(path)
    for method, body in (("GET", None), ("PUT", {"active": False}), ("DELETE", None)):
        api.refused(404, "IOTDA.010002", method, path, body)


def test_a_rule_without_an_action_is_not_activated(api, rule):
    path = f"/routing-rule/rules/{rule['rule_id']}"
    api.refused(403, "IOTDA.010900", "PUT", path, {"active": True})
    made = api.post("/routing-rule/actions", action_body(rule))
    assert api.put(path, {"active": True})["active"] is True
    assert api.get("/routing-rule/rules", rule_name=rule["rule_name"])["rules"][0]["active"] is True
    assert api.put(path, {"active": False})["active"] is False
    assert made["rule_id"] == rule["rule_id"]


def test_an_action_lives_and_goes_with_its_rule(api, rule):
    made = api.post("/routing-rule/actions", action_body(rule))
    path = f"/routing-rule/actions/{made['action_id']}"
    assert (made["channel"], made["channel_detail"]["http_forwarding"]["url"]) == \
        ("HTTP_FORWARDING", URL)
    assert api.get(path) == made
    changed = api.put(path, {"channel": "HTTP_FORWARDING", "channel_detail": {
        "http_forwarding": {"url": "http://127.0.0.1:9080/other"}}})
    assert changed["channel_detail"]["http_forwarding"]["url"] == "http://127.0.0.1:9080/other"
    listed = api.get("/routing-rule/actions", rule_id=rule["rule_id"])
    assert [a["action_id"] for a in listed["actions"]] == [made["action_id"]]
    assert listed["count"] == 1
    api.delete(f"/routing-rule/rules/{rule['rule_id']}")
    for method, body in (("GET", None), ("DELETE", None),
                         ("PUT", {k: made[k] for k in ("channel", "channel_detail")})):
        api.refused(404, "IOTDA.010902", method, path, body)


def test_an_action_may_be_deleted_alone(api, rule):
    made = [api.post("/routing-rule/actions", action_body(rule)) for _ in range(2)]
    api.delete(f"/routing-rule/actions/{made[0]['action_id']}")
    listed = api.get("/routing-rule/actions", rule_id=rule["rule_id"])["actions"]
    assert [a["action_id"] for a in listed] == [made[1]["action_id"]]


def test_rules_are_listed_newest_first_and_filtered(api):
    name = unique("listed")
    made = [api.post("/routing-rule/rules", {"rule_name": f"{name}_{n}", "subject": REPORTS})
            for n in range(3)]
    other = api.post("/routing-rule/rules", {"rule_name": f"{name}_3", "subject": {
        "resource": "device.status", "event": "update"}})
    newest = [r["rule_id"] for r in made + [other]][::-1]
    first = api.get("/routing-rule/rules", limit=2)
    assert [r["rule_id"] for r in first["rules"]] == newest[:2] and first["count"] >= 4
    assert re.fullmatch("[0-9a-f]{24}", first["marker"]), "at top level"
    second = api.get("/routing-rule/rules", limit=2, marker=first["marker"])
    assert [r["rule_id"] for r in second["rules"]] == newest[2:]
    only = api.get("/routing-rule/rules", resource="device.status", event="update", limit=50)
    assert other["rule_id"] in [r["rule_id"] for r in only["rules"]]
    assert all(r["subject"]["resource"] == "device.status" for r in only["rules"])
    active = api.get("/routing-rule/rules", active=True, limit=50)["rules"]
    assert not {r["rule_id"] for r in active} & set(newest)
    for rule_id in newest:
        api.delete(f"/routing-rule/rules/{rule_id}")


@pytest.mark.parametrize("resource, event", [
    ("device.status", "update"), ("device.property", "report"), ("device.message", "report"),
    ("device", "create"), ("device", "update"), ("device", "delete"), ("device.message.status", "update"),
    ("device.command.status", "update"), ("product", "create"), ("product", "update"), ("product", "delete")])
def test_these_subjects_are_built(api, resource, event):
    made = api.post("/routing-rule/rules", {"subject": {"resource": resource, "event": event}})
    assert made["subject"] == {"resource": resource, "event": event}
    api.delete(f"/routing-rule/rules/{made['rule_id']}")


@pytest.mark.parametrize("resource, event", [("batchtask", "update")])
def test_a_subject_that_is_not_built_is_501_by_its_name(api, resource, event):
    """So that no rule looks alive that is not."""
    assert f"{resource}:{event}" in api.refused(501, "IOTDA.000904", "POST", "/routing-rule/rules", {
        "subject": {"resource": resource, "event": event}})


@pytest.mark.parametrize("change, named", [
    ({"subject": None}, "subject"), ({"subject": {}}, "resource"),
    ({"subject": {"resource": "device"}}, "event"),
    ({"subject": {"resource": "planet", "event": "update"}}, "resource"),
    ({"subject": {"resource": "device.property", "event": "create"}}, "event"),
    ({"subject": "device"}, "subject"), ({"rule_name": "n" * 257}, "rule_name"),
    ({"rule_name": "semi;colon"}, "rule_name"), ({"app_type": "ALL"}, "app_type"),
    ({"select": 7}, "select"), ({"description": "d" * 257}, "description")])
def test_a_bad_rule_is_refused_by_the_name_of_the_field(api, change, named):
    body = {"rule_name": "x", "subject": REPORTS, **change}
    assert named in api.refused(400, "IOTDA.000006", "POST", "/routing-rule/rules",
                                {k: v for k, v in body.items() if v is not None})


@pytest.mark.parametrize("clauses", [
    {"select": "*, x", "where": ""}, {"select": "", "where": "a = 1"},
    {"select": "notify_data.header.device_id", "where": "1 = 1"}])
def test_select_and_where_are_refused_with_a_clear_error_for_now(api, rule, clauses):
    message = api.refused(400, "IOTDA.010903", "POST", "/routing-rule/rules",
                          {"subject": REPORTS, **clauses})
    assert "select" in message or "where" in message
    api.refused(400, "IOTDA.010903", "PUT", f"/routing-rule/rules/{rule['rule_id']}", clauses)


def test_empty_select_and_where_are_the_whole_document(api):
    made = api.post("/routing-rule/rules", {"subject": REPORTS, "select": "", "where": ""})
    api.delete(f"/routing-rule/rules/{made['rule_id']}")


def test_a_rule_of_an_unknown_space_is_refused(api):
    api.refused(403, "IOTDA.001000", "POST", "/routing-rule/rules",
                {"subject": REPORTS, "app_type": "APP", "app_id": "f" * 32})


@pytest.mark.parametrize("detail, named", [
    ({"url": "http://127.0.0.1:8081"}, "url"), ({"url": "http://127.0.0.1/in"}, "url"),
    ({"url": "ftp://127.0.0.1:21/x"}, "url"), ({"url": ""}, "url"), ({"url": 7}, "url"),
    ({"url": "http://127.0.0.1:99999/"}, "url"), ({"url": "http://:80/"}, "url"),
    ({"url": "http://169.254.169.254:80/latest"}, "url"),
    ({"url": "http://127.0.0.1:80/a b"}, "url"), ({"url": "http://127.0.0.1:80/\r\nX: y"}, "url"),
    ({"token": "ab", "signature_enable": True}, "token"), ({"sni_enable": "yes"}, "sni_enable"),
    ({"sni_enable": True}, "cn_name"), ({"token": "abcdef"}, "token")])
def test_a_bad_http_action_is_refused_by_the_name_of_the_field(api, rule, detail, named):
    assert named in api.refused(400, "IOTDA.000006", "POST", "/routing-rule/actions",
                                action_body(rule, **detail))


def test_an_action_of_an_unknown_rule_or_certificate_is_refused(api, rule):
    api.refused(404, "IOTDA.010002", "POST", "/routing-rule/actions",
                action_body({"rule_id": "nothing"}))
    api.refused(404, "IOTDA.014391", "POST", "/routing-rule/actions",
                action_body(rule, cert_id="f" * 24))


@pytest.mark.parametrize("channel, detail", [
    ("OBS_FORWARDING", {"obs_forwarding": {"region_name": "r", "project_id": "p",
                                           "bucket_name": "b"}}),
    ("MRS_KAFKA_FORWARDING", {"mrs_kafka_forwarding": {"addresses": [], "topic": "t"}}),
    ("FUNCTIONGRAPH_FORWARDING", {"functiongraph_forwarding": {"func_urn": "u", "func_name": "f"}})])
def test_a_channel_that_is_not_built_is_501_by_its_name(api, rule, channel, detail):
    assert channel in api.refused(501, "IOTDA.000904", "POST", "/routing-rule/actions",
                                  {"rule_id": rule["rule_id"], "channel": channel,
                                   "channel_detail": detail})


def test_the_member_must_fit_the_channel(api, rule):
    got = api.call("POST", "/routing-rule/actions", {
        "rule_id": rule["rule_id"], "channel": "HTTP_FORWARDING",
        "channel_detail": {"amqp_forwarding": {"queue_name": "queue-name"}}})
    assert (got.status, got.code) == (400, "IOTDA.000006") and "http_forwarding" in got.message


# ---- certificates

def test_a_certificate_lives(api, tmp_path):
    ca = Authority(tmp_path, name="Lives CA")
    made = api.post("/routing-rule/certificates", {"name": "lives", "content": ca.pem})
    path = f"/routing-rule/certificates/{made['cert_id']}"
    assert re.fullmatch("[0-9a-f]{24}", made["cert_id"]) and made["name"] == "lives"
    assert "Lives CA" in made["subject"] and made["expires"]
    shown = made["fingerprint"].replace(":", "").lower()
    from cryptography.hazmat.primitives import hashes
    assert shown == ca.cert.fingerprint(hashes.SHA256()).hex()
    assert api.get(path)["fingerprint"] == made["fingerprint"]
    assert made["cert_id"] in [c["cert_id"] for c in
                               api.get("/routing-rule/certificates", limit=50)["certificates"]]
    api.delete(path)
    api.refused(404, "IOTDA.014391", "GET", path)
    api.refused(404, "IOTDA.014391", "DELETE", path)


def test_a_certificate_in_use_stays(api, rule, tmp_path):
    made = api.post("/routing-rule/certificates", {"content": Authority(tmp_path).pem})
    api.post("/routing-rule/actions", action_body(rule, cert_id=made["cert_id"]))
    path = f"/routing-rule/certificates/{made['cert_id']}"
    api.refused(403, "IOTDA.014392", "DELETE", path)
    api.delete(f"/routing-rule/rules/{rule['rule_id']}")
    api.delete(path)


@pytest.mark.parametrize("content, code", [
    (None, "IOTDA.000006"), ("", "IOTDA.000006"), (7, "IOTDA.000006"),
    ("no certificate", "IOTDA.014390"),
    ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "IOTDA.014390"),
    ("-----BEGIN CERTIFICATE-----\n" + "A" * 60000, "IOTDA.014390")])
def test_what_is_no_certificate_is_refused(api, content, code):
    body = {"name": "bad"} if content is None else {"name": "bad", "content": content}
    message = api.refused(400, code, "POST", "/routing-rule/certificates", body)
    assert code == "IOTDA.014390" or "content" in message

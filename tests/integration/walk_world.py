"""What an operation of the contract needs to be called with success: fresh things for each call."""
import copy
import io
import json
import zipfile
from urllib.parse import urlencode

import rawmqtt
from callback import Authority
from contract import OPERATIONS
from identity_world import Iam
from rest import unique
from waiting import wait_until


def package(manufacturer=None, model=None):
    """The ZIP form of a small model."""
    manufacturer, model = manufacturer or unique("Maker"), model or unique("M")
    device = {"devices": [{"manufacturerId": manufacturer, "manufacturerName": "Waterworks", "model": model,
                           "protocolType": "MQTT", "deviceType": "Pump",
                           "serviceTypeCapabilities": [{"serviceId": "Pump", "serviceType": "Pump", "option": "Optional"}]}]}
    service = {"services": [{"serviceType": "Pump", "description": "", "commands": [], "properties": [
        {"propertyName": "flow", "dataType": "int", "required": True, "min": "0", "max": "9", "step": 0,
         "maxLength": 0, "method": "R", "unit": None, "enumList": None}]}]}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("profile/devicetype-capability.json", json.dumps(device))
        z.writestr("service/Pump/profile/servicetype-capability.json", json.dumps(service))
    return out.getvalue()


class World:
    def __init__(self, platform, authority):
        self.platform, self.api, self.iam = platform, platform.api, Iam(platform.api)
        self.pem, self.folder, self.devices_ca = authority.pem, authority.folder, None
        self.api.login()
        self.space = self.api.post("/apps", {"app_name": unique("walk")})["app_id"]
        self.example = copy.deepcopy(self._operation("CreateProduct").content["example"])
        self.product = self.new_product()
        self.gateway = self.new_device()
        self.peer = platform.connect(self.gateway)
        self.peer.answer_commands({"result_code": 0, "response_name": "drained", "paras": {"litres": 1}})
        self.peer.answer_requests(properties_set={"result_code": 0}, properties_get={"services": []})
        self.peer.subscribe(self.peer.topic("messages/down"))

    def close(self):
        self.peer.disconnect()

    def _operation(self, name):
        return next(op for op in OPERATIONS if op.id == name)

    # ---- things

    def new_product(self):
        return self.api.post("/products", {**self.example, "name": unique("walk"), "app_id": self.space})["product_id"]

    def new_device(self, **more):
        body = {"node_id": unique("walk"), "product_id": self.product, "app_id": self.space, **more}
        return self.api.post("/devices", body)

    def new_rule(self):
        return self.api.post("/routing-rule/rules", {
            "subject": {"resource": "device.property", "event": "report"}, "app_type": "APP", "app_id": self.space})["rule_id"]

    def new_action(self):
        return self.api.post("/routing-rule/actions", {
            "rule_id": self.new_rule(), "channel": "HTTP_FORWARDING",
            "channel_detail": {"http_forwarding": {"url": "http://127.0.0.1:1/in"}}})["action_id"]

    # ---- a call that succeeds

    def path_values(self, op):
        """{name: value}, all of them new, in the state that the operation needs."""
        make = getattr(self, "path_" + op.id, None)
        values = make() if make else {}
        makers = {"app_id": lambda: self.api.post("/apps", {"app_name": unique("walk")})["app_id"],
                  "product_id": self.new_product, "device_id": lambda: self.new_device()["device_id"],
                  "rule_id": self.new_rule, "action_id": self.new_action,
                  "cert_id": lambda: self.api.post("/routing-rule/certificates", {"content": self.pem})["cert_id"],
                  "certificate_id": self.new_certificate,
                  "template_id": self.new_template, "scope_id": self.new_scope,
                  "strategy_id": lambda: self.api.post("/bootstrap-strategies", {
                      "keyword": unique("walk"), "app_id": self.space})["strategy_id"],
                  "bridge_id": lambda: self.api.post("/bridges", {"bridge_name": "walk"})["bridge_id"],
                  "proxy_id": self.new_proxy,
                  "policy_id": lambda: self.api.post("/device-policies", {
                      "policy_name": "walk", "app_id": self.space, "statement": [
                          {"effect": "DENY", "actions": ["iotda:devices:publish"], "resources": ["topic:x"]}]})["policy_id"],
                  "user_id": lambda: self.iam.user()["id"], "group_id": lambda: self.iam.group(),
                  "role_id": lambda: self.iam.policy(("Allow", ["iotda:devices:*"], None)),
                  "access_key": lambda: self.iam.expect(
                      201, "POST", "/v3.0/OS-CREDENTIAL/credentials",
                      {"credential": {"user_id": self.iam.user()["id"]}})["credential"]["access"],
                  "project_id": lambda: self.api.project}
        for name in op.path_names:
            if name not in values:
                values[name] = makers[name]()
        return values

    def path_UnfreezeDevice(self):
        device = self.new_device()["device_id"]
        self.api.post(f"/devices/{device}/freeze", status=204)
        return {"device_id": device}

    def path_ResetFingerprint(self):
        return {"device_id": self.new_device(auth_info={"auth_type": "CERTIFICATES"})["device_id"]}

    def path_DeleteProductTopic(self):
        product = self.new_product()
        return {"product_id": product, "topic_id": self.api.post(f"/products/{product}/topics", {
            "topic": "walk", "rights": "BOTH"})["topic_id"]}

    def path_ChangeGateway(self):
        return {"device_id": self.new_device(gateway_id=self.gateway["device_id"])["device_id"]}

    def path_CreateCommand(self):
        return {"device_id": self.gateway["device_id"]}

    path_CreateMessage = path_UpdateProperties = path_ListProperties = path_CreateCommand

    def path_ShowDeviceMessage(self):
        device = self.gateway["device_id"]
        return {"device_id": device,
                "message_id": self.api.post(f"/devices/{device}/messages", {"message": "x"})["message_id"]}

    path_DeleteDeviceMessage = path_ShowDeviceMessage

    def path_ShowAsyncDeviceCommand(self):
        device = self.new_device()["device_id"]
        body = {"service_id": "Pump", "command_name": "DRAIN", "paras": {"seconds": 1}, "send_strategy": "delay"}
        return {"device_id": device, "command_id": self.api.post(f"/devices/{device}/async-commands", body,
                                                                 status=200)["command_id"]}

    def new_ca(self):
        self.ca = Authority(self.folder, unique("CA"))
        return self.ca.pem

    def new_certificate(self):
        self.uploaded = self.api.post("/certificates", {"content": self.new_ca(), "app_id": self.space})
        return self.uploaded["certificate_id"]

    def proof(self):
        with open(self.ca.issue(self.uploaded["verify_code"], sans=())) as f:
            return f.read()

    path_CancelAsyncCommand = path_ShowAsyncDeviceCommand

    def new_template(self):
        return self.api.post("/provisioning-templates", {"template_name": unique("walk"), "template_body": {
            "parameters": {"iotda::certificate::common_name": {"type": "String"}}, "resources": {"device": {
                "node_id": {"ref": "iotda::certificate::common_name"}, "product_id": self.product}}}})["template_id"]

    def new_proxy(self):
        return self.api.post("/device-proxies", {
            "proxy_name": "walk", "app_id": self.space, "effective_time_range": {},
            "proxy_devices": [self.gateway["device_id"], self.new_device()["device_id"]]})["proxy_id"]

    def new_scope(self):
        return self.api.post("/registration-groups", {"group_name": "walk", "app_id": self.space,
                                                      "product_id": self.product})["scope_id"]

    def path_ShowDeviceCertificate(self):
        """It is there once a device has logged in with it."""
        if not self.devices_ca:
            self.new_certificate()
            self.devices_ca = self.ca
            self.api.post(f"/certificates/{self.uploaded['certificate_id']}/action", {"verify_content": self.proof()},
                          status=200, action_id="verify")
        device = self.new_device(auth_info={"auth_type": "CERTIFICATES"})["device_id"]
        certificate = self.devices_ca.issue(device, sans=())

        def lets_in():
            try:
                rawmqtt.Device("127.0.0.1", self.platform.mqtts_port, device, "", certificate=certificate,
                               tls_ca=self.platform.access["CAUSEWAY_CA_FILE"]).disconnect()
                return True
            except rawmqtt.Refused:
                return False
        wait_until(lets_in, 10, 0.1, "the CA counts")
        fingerprint = self.api.device(device)["auth_info"]["fingerprint"]
        return {"certificate_id": self.api.get("/device-certificates", fingerprint=fingerprint)
                ["device_certificates"][0]["certificate_id"]}

    path_UpdateDeviceCertificate = path_DeleteDeviceCertificate = path_ShowDeviceCertificate
    path_ListDeviceByDeviceCertificate = path_ShowDeviceCertificate

    def path_KeystoneRemoveUserFromGroup(self):
        group = self.iam.group()
        return {"group_id": group, "user_id": self.iam.user(group)["id"]}

    def path_KeystoneRemoveProjectPermissionFromGroup(self):
        role = self.iam.policy(("Allow", ["iotda:devices:*"], None))
        return {"group_id": self.iam.group(role), "role_id": role}

    def path_KeystoneUpdateUserPassword(self):
        self.changing = self.iam.user()
        return {"user_id": self.changing["id"]}

    def new_group(self):
        return self.api.post("/device-group", {"name": unique("walk"), "app_id": self.space})["group_id"]

    def path_ShowDeviceGroup(self):
        return {"group_id": self.new_group()}

    path_UpdateDeviceGroup = path_DeleteDeviceGroup = path_ShowDeviceGroup
    path_CreateOrDeleteDeviceInGroup = path_ShowDevicesInGroup = path_ShowDeviceGroup

    def tagged(self):
        device = self.new_device()["device_id"]
        self.api.post("/tags/bind-resource", {"resource_type": "device", "resource_id": device, "tags": [
            {"tag_key": "street", "tag_value": "north"}]}, status=200)
        return device

    def path_UndeleteDevice(self):
        device = self.new_device()["device_id"]
        self.api.delete(f"/devices/{device}")
        return {"device_id": device}

    def reporting(self):
        """A device that has said something."""
        device = self.new_device()
        with self.platform.connect(device) as peer:
            peer.report("Pump", {"flow": 1})
            wait_until(lambda: self.api.history(peer.id), 10, 0.05, "it is stored")
        return device["device_id"]

    def url(self, op, values):
        return op.path.format(**values)

    def query(self, op):
        given = {p["name"]: p["schema"].get("enum", [p.get("example")])[0] for p in op.query if p.get("required")}
        return self._fill(given, {"device_id": lambda: self.new_device()["device_id"]})

    def body(self, op):
        """The example with its {names} filled in, and names that are new."""
        if not op.content:
            return None
        known = {"product_id": self.product, "pem": self.new_ca if op.id == "AddCertificate" else self.pem,
                 "proof": self.proof, "app_id": self.space,
                 "rule_id": self.new_rule, "template_id": self.new_template, "user_id": lambda: self.iam.user()["id"],
                 "device_id": lambda: self.new_device()["device_id"], "tagged_id": self.tagged, "reporting_id": self.reporting,
                 "new_group": lambda: unique("walk"),
                 "other_gateway_id": lambda: self.new_device()["device_id"],
                 "user_name": self.api.env["CAUSEWAY_USER"], "domain_name": self.api.env["CAUSEWAY_DOMAIN"],
                 "project_name": self.api.env["CAUSEWAY_REGION"],
                 "password": "long_enough_1" if op.id == "KeystoneUpdateUserPassword" else self.api.env["CAUSEWAY_PASSWORD"]}
        if op.id == "KeystoneCreateToken":  # wrong passwords lock whoever they were for
            known.update(user_name=self.iam.user()["name"], password="long_enough_1")
        body = self._fill(copy.deepcopy(op.content["example"]), known)
        for name in ("app_name", "node_id", "rule_name", "template_name", "keyword"):
            if name in body:
                body[name] = unique("walk")
        for thing, name in (("user", "name"), ("group", "name"), ("role", "display_name")):
            if name in body.get(thing, {}):
                body[thing][name] = unique("walk")
        if op.id == "AddDevice":
            body["app_id"] = self.space
        if op.id == "CreateRoutingRule":
            body.update(app_type="APP", app_id=self.space)
        if op.id == "CreateProduct":
            body["app_id"] = self.space
        return body

    def _fill(self, value, known):
        if isinstance(value, dict):
            return {k: self._fill(v, known) for k, v in value.items()}
        if isinstance(value, list):
            return [self._fill(v, known) for v in value]
        if isinstance(value, str):
            for name, what in known.items():
                if "{" + name + "}" in value:
                    value = value.replace("{" + name + "}", what() if callable(what) else what)
        return value

    def send(self, op, api, values, body=None, query=None, scheme="token", data=None, headers=None):
        """One call as `api`, by token or signed."""
        url = self.url(op, values)
        query = self.query(op) if query is None else query
        if query:
            url += "?" + urlencode(query)
        if op.media:
            data = package() if data is None else data
        elif data is None:
            data = json.dumps(body).encode() if body is not None else None
        media = op.media or "application/json"
        if scheme == "token":
            if op.permission and not api.token:
                api.login()
            own = {"Content-Type": media, **({"X-Auth-Token": api.token} if op.permission else {})}
        else:
            own = api.signed_headers(op.method, url, data, {"sdk": "SDK-HMAC-SHA256", "v11": "V11-HMAC-SHA256"}[scheme],
                                     **{"content-type": media})
        own.update(headers or {})
        return api.raw(op.method, url, data, own)

    def caller(self, op):
        """Who can do it: the administrator; a password is changed by its user."""
        return self.iam.as_user(self.changing) if op.id == "KeystoneUpdateUserPassword" else self.api

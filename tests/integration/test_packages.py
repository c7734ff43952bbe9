"""The ZIP form of product models: in, out, and each violation with its file, line and path."""
import io
import json
import zipfile

import pytest

from rest import unique

DEVICE = "profile/devicetype-capability.json"
SERVICE = "service/Pump/profile/servicetype-capability.json"


def parts(maker, model):
    """{file: JSON} of a sound package."""
    value = {"required": True, "min": "0", "max": "9", "step": 1, "maxLength": 0, "unit": "l", "enumList": None}
    return {
        DEVICE: {"devices": [{
            "manufacturerId": maker, "manufacturerName": "Waterworks", "model": model, "protocolType": "MQTT",
            "deviceType": "Pump", "omCapability": None, "icon": None,
            "serviceTypeCapabilities": [{"serviceId": "Pump", "serviceType": "Pump", "option": "Master"},
                                        {"serviceId": "Pump2", "serviceType": "Pump", "option": None}]}]},
        SERVICE: {"services": [{
            "serviceType": "Pump", "description": "moves water", "events": None,
            "properties": [{"propertyName": "flow", "dataType": "int", "method": "R", **value},
                           {"propertyName": "at", "dataType": "dateTime", "method": "RW", "min": None, "max": None,
                            "required": False, "step": 0, "maxLength": 16, "unit": None, "enumList": None},
                           {"propertyName": "level", "dataType": "decimal", "method": "R", "min": 0, "max": 1.5,
                            "required": False}],
            "commands": [{"commandName": "DRAIN", "paras": [{"paraName": "seconds", "dataType": "int", **value}],
                          "responses": [{"responseName": "done", "paras": None}]}]}]},
    }


def pack(files):
    """files: {name: JSON, text or bytes}."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items():
            z.writestr(name, content if isinstance(content, (str, bytes)) else json.dumps(content, indent=1))
    return out.getvalue()


@pytest.fixture
def upload(api):
    def send(data, status=201, media="application/zip", **query):
        got = api.call("POST", "/product-packages", query=query, data=data, headers={"Content-Type": media})
        assert got.status == status, got
        return got.body if status == 201 else got
    return send


@pytest.fixture
def files():
    return parts(unique("Maker"), unique("M"))


def test_a_package_becomes_a_product(api, upload, files):
    made = upload(pack(files))
    device = files[DEVICE]["devices"][0]
    assert made["name"] == f"Pump_{device['model']}" and made["manufacturer_name"] == "Waterworks"
    assert (made["device_type"], made["protocol_type"], made["data_format"]) == ("Pump", "MQTT", "json")
    one, two = made["service_capabilities"]
    assert (one["service_id"], one["service_type"], one["option"]) == ("Pump", "Pump", "Master")
    assert (two["service_id"], two["service_type"], two["option"]) == ("Pump2", "Pump", "Optional")
    flow, at, level = one["properties"]
    assert flow["property_name"] == "flow" and flow["min"] == "0" and flow["required"] is True
    assert at["data_type"] == "DateTime" and (level["min"], level["max"]) == ("0", "1.5")
    assert one["commands"][0]["paras"][0]["para_name"] == "seconds"
    assert one["commands"][0]["responses"] == [{"response_name": "done"}]
    assert api.get(f"/products/{made['product_id']}") == made


def test_lwm2m_is_coap_and_binary(upload, files):
    files[DEVICE]["devices"][0]["protocolType"] = "LWM2M"
    made = upload(pack(files))
    assert (made["protocol_type"], made["data_format"]) == ("CoAP", "binary")


def test_name_and_id_may_be_chosen(api, upload, files):
    space = api.post("/apps", {"app_name": unique("zip")})["app_id"]
    made = upload(pack(files), product_name="My_Pump", product_id=unique("my_"), app_id=space)
    assert made["name"] == "My_Pump" and made["app_id"] == space and made["product_id"].startswith("my_")


def test_what_goes_out_comes_in_again(api, upload, files):
    made = upload(pack(files))
    got = api.session.get(f"{api.base}/v5/iot/{api.project}/products/{made['product_id']}/package",
                          headers={"X-Auth-Token": api.token})
    assert got.status_code == 200 and got.headers["Content-Type"] == "application/zip"
    assert made["product_id"] in got.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(got.content)) as z:
        assert sorted(z.namelist()) == sorted(files)
        device = json.loads(z.read(DEVICE))["devices"][0]
        assert device["manufacturerId"] == files[DEVICE]["devices"][0]["manufacturerId"]
    api.delete(f"/products/{made['product_id']}")
    again = upload(got.content)
    strip = lambda services: [[p["property_name"], p["data_type"], p.get("min")]  # noqa: E731
                              for s in services for p in s["properties"]]
    assert strip(again["service_capabilities"]) == strip(made["service_capabilities"])
    assert again["service_capabilities"][0]["commands"][0]["command_name"] == "DRAIN"


def test_a_product_that_was_never_a_package_goes_out_too(api, upload, product):
    got = api.session.get(f"{api.base}/v5/iot/{api.project}/products/{product['product_id']}/package",
                          headers={"X-Auth-Token": api.token})
    with zipfile.ZipFile(io.BytesIO(got.content)) as z:
        device = json.loads(z.read(DEVICE))["devices"][0]
    assert device["model"] == product["product_id"] and device["manufacturerId"] == "Waterworks"
    made = upload(got.content)
    assert [s["service_id"] for s in made["service_capabilities"]] == \
        [s["service_id"] for s in product["service_capabilities"]]


def test_hidden_files_and_a_folder_around_are_ignored(upload, files):
    packed = {f"my model/{name}": content for name, content in files.items()}
    packed.update({"__MACOSX/._x": b"\0", "my model/.DS_Store": b"x", "my model/profile/Thumbs.db": b"x",
                   ".git/config": "x"})
    assert upload(pack(packed))["device_type"] == "Pump"


def test_the_same_maker_and_model_again(upload, files):
    made = upload(pack(files))
    got = upload(pack(files), status=400)
    assert got.code == "IOTDA.013906" and made["product_id"] in got.message and made["name"] in got.message


def test_the_name_of_the_file_is_compared(upload, files):
    d = files[DEVICE]["devices"][0]
    got = upload(pack(files), status=400, file_name="Valve_Other_X.zip")
    assert got.code == "IOTDA.013905" and f"Pump_{d['manufacturerId']}_{d['model']}.zip" in got.message
    upload(pack(files), file_name=f"Pump_{d['manufacturerId']}_{d['model']}.zip")


def _change(name, path, value):
    def change(files):
        at = files[name]
        for key in path[:-1]:
            at = at[key]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value
    return change


PROPERTY = ("services", 0, "properties", 0)
BROKEN = {
    "no JSON": (lambda f: f.update({SERVICE: "{\n \"services\": [\n {,}\n]}"}), [f"{SERVICE}:3"]),
    "no device file": (lambda f: f.pop(DEVICE), [DEVICE, "is missing"]),
    "no service file": (lambda f: f.pop(SERVICE), [f"{DEVICE}:", "devices[0].serviceTypeCapabilities[0]", SERVICE]),
    "an object for an array": (_change(SERVICE, ("services", 0, "properties"), {}),
                               [f"{SERVICE}:", "services[0].properties", "expected an array"]),
    "an unknown type": (_change(SERVICE, PROPERTY + ("dataType",), "float"),
                        [f"{SERVICE}:", "services[0].properties[0].dataType", "must be one of int"]),
    "a missing name": (_change(SERVICE, PROPERTY + ("propertyName",), None),
                       ["services[0].properties[0].propertyName", "is required"]),
    "a wrong range": (_change(SERVICE, PROPERTY + ("max",), "-5"), ["services[0].properties[0].max", "below min"]),
    "a wrong method": (_change(SERVICE, PROPERTY + ("method",), "X"), ["services[0].properties[0].method"]),
    "a para too long": (_change(SERVICE, ("services", 0, "commands", 0, "paras", 0, "paraName"), "p" * 40),
                        ["services[0].commands[0].paras[0].paraName", "32"]),
    "an unknown protocol": (_change(DEVICE, ("devices", 0, "protocolType"), "SMTP"),
                            [f"{DEVICE}:", "devices[0].protocolType", "must be one of MQTT"]),
    "no manufacturer": (_change(DEVICE, ("devices", 0, "manufacturerId"), None), ["devices[0].manufacturerId"]),
    "a number for a text": (_change(DEVICE, ("devices", 0, "model"), 7), ["devices[0].model"]),
    "no devices": (_change(DEVICE, ("devices",), []), ["devices", "expected an array"]),
    "a codec": (lambda f: f.update({"codec/x.jar": b"x"}), ["codec/x.jar", "codec"]),
    "a foreign file": (lambda f: f.update({"readme.txt": "x"}), ["readme.txt", "does not belong here"]),
    "a way out": (lambda f: f.update({"../evil.json": "x"}), ["../evil.json", "relative path"]),
    "an empty file": (lambda f: f.update({SERVICE: b""}), [SERVICE, "is empty"]),
    "a bomb": (lambda f: f.update({SERVICE: b" " * (3 << 20)}), [SERVICE, "too large"]),
    "a thousand and one files": (lambda f: f.update({f"x/{i}": "x" for i in range(1001)}), ["1003 files"]),
    "GBK": (lambda f: f.update({SERVICE: '{"a":"水泵"}'.encode("gbk")}), [f"{SERVICE}:1"]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_each_violation_names_file_line_and_path(upload, files, what):
    change, said = BROKEN[what]
    change(files)
    got = upload(pack(files), status=400)
    assert got.code == "IOTDA.013905", got
    for text in said:
        assert text in got.message, (text, got)


def test_the_line_is_that_of_the_value(upload, files):
    files[SERVICE]["services"][0]["commands"][0]["paras"][0]["dataType"] = "float"
    text = json.dumps(files[SERVICE], indent=1)
    line = next(i for i, row in enumerate(text.split("\n"), 1) if "float" in row)
    got = upload(pack({**files, SERVICE: text}), status=400)
    assert f"{SERVICE}:{line} services[0].commands[0].paras[0].dataType" in got.message


def test_all_violations_are_listed_at_once(upload, files):
    for i in range(3):
        files[SERVICE]["services"][0]["properties"][i]["dataType"] = "float"
    files["extra.txt"] = "x"
    got = upload(pack(files), status=400)
    assert "4 violations" not in got.message and "7 violations" in got.message, "two services share the file"
    for i in range(3):
        assert f"properties[{i}].dataType" in got.message


def test_what_is_no_zip(upload):
    for data in (b"", b"PK", b"no zip at all", pack({"a": "b"})[:-10], b"\0" * 100000):
        got = upload(data, status=400)
        assert got.code in ("IOTDA.013905", "IOTDA.000008"), got
    assert upload(b"x" * (4 << 20) + b"x", status=413).code == "IOTDA.000902"
    assert upload(b"{}", status=400, media="application/json").code == "IOTDA.000008"


def test_an_encrypted_package_is_refused(upload, files):
    data = bytearray(pack(files))
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of each header says: encrypted
        start = 0
        while (start := data.find(magic, start)) >= 0:
            data[start + at] |= 1
            start += 4
    assert "encrypted" in upload(bytes(data), status=400).message

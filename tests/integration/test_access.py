"""A third party needs only access.env: mosquitto's own clients, paho, curl, the official JavaScript SDK."""
import json
import os
import subprocess
import threading

import paho.mqtt.client as paho
import pytest

import rawmqtt
from rest import body_of
from rest import unique
from waiting import wait_until


def run(*command, timeout=60, **more):
    done = subprocess.run(command, text=True, capture_output=True, timeout=timeout, **more)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout


def mosquitto_login(platform, device):
    stamp = rawmqtt.timestamp()
    return ["-h", "127.0.0.1", "-p", str(platform.mqtt_port), "-V", "mqttv311",
            "-i", f"{device['device_id']}_0_0_{stamp}", "-u", device["device_id"],
            "-P", rawmqtt.password(device["auth_info"]["secret"], stamp)]


def test_access_env_has_exactly_the_documented_keys(platform):
    assert set(platform.access) == {
        "CAUSEWAY_REST_URL", "CAUSEWAY_PROJECT_ID", "CAUSEWAY_DOMAIN", "CAUSEWAY_REGION",
        "CAUSEWAY_USER", "CAUSEWAY_PASSWORD", "CAUSEWAY_AK", "CAUSEWAY_SK", "CAUSEWAY_APP_ID",
        "CAUSEWAY_MQTT_PORT", "CAUSEWAY_MQTTS_PORT", "CAUSEWAY_MQTT_WS_PORT", "CAUSEWAY_MQTT_WSS_PORT",
        "CAUSEWAY_COAP_PORT", "CAUSEWAY_COAPS_PORT",
        "CAUSEWAY_CA_FILE"}
    assert os.path.exists(platform.access["CAUSEWAY_CA_FILE"])
    assert platform.access["CAUSEWAY_REGION"] == "region-1"
    assert os.stat(platform.file("access.env")).st_mode & 0o077 == 0, "it holds a password"


def test_mosquitto_pub_reports_and_the_shadow_has_it(platform, api, device):
    topic = f"$oc/devices/{device['device_id']}/sys/properties/report"
    run("mosquitto_pub", *mosquitto_login(platform, device), "-q", "1", "-t", topic,
        "-m", '{"services":[{"service_id":"Pump","properties":{"flow":12.5}}]}')
    shadow = wait_until(lambda: api.shadow(device["device_id"]).get("Pump"))
    assert shadow["reported"]["properties"] == {"flow": 12.5}


def test_mosquitto_pub_with_tls_needs_only_the_ca_file(platform, api, device):
    login = mosquitto_login(platform, device)
    login[3] = str(platform.mqtts_port)
    topic = f"$oc/devices/{device['device_id']}/sys/properties/report"
    run("mosquitto_pub", *login, "--cafile", platform.access["CAUSEWAY_CA_FILE"], "-q", "1",
        "-t", topic, "-m", '{"services":[{"service_id":"Pump","properties":{"on":1}}]}')
    wait_until(lambda: api.shadow(device["device_id"]).get("Pump"))


def test_mosquitto_sub_receives_a_message_of_the_application(platform, api, device):
    topic = f"$oc/devices/{device['device_id']}/sys/messages/down"
    with subprocess.Popen(["mosquitto_sub", *mosquitto_login(platform, device), "-q", "1", "-t", topic,
                           "-C", "1", "-W", "20"], stdout=subprocess.PIPE, text=True) as sub:
        wait_until(lambda: api.device(device["device_id"])["status"] == "ONLINE")
        api.post(f"/devices/{device['device_id']}/messages", {"message": "hello"})
        assert json.loads(sub.communicate(timeout=25)[0])["content"] == "hello"


def test_paho_reports_and_answers_a_command(platform, api, device):
    stamp = rawmqtt.timestamp()
    client = paho.Client(f"{device['device_id']}_0_0_{stamp}", clean_session=True)
    client.username_pw_set(device["device_id"],
                           rawmqtt.password(device["auth_info"]["secret"], stamp))
    up = threading.Event()
    prefix = f"$oc/devices/{device['device_id']}/sys/"

    def on_message(_client, _data, message):
        request = message.topic.split("request_id=")[1]
        client.publish(f"{prefix}commands/response/request_id={request}",
                       json.dumps({"result_code": 0, "paras": {"litres": 3}}), qos=1)
    client.on_connect = lambda *args: args[3] == 0 and up.set()
    client.on_message = on_message
    client.connect("127.0.0.1", platform.mqtt_port)
    client.loop_start()
    try:
        assert up.wait(10)
        info = client.publish(f"{prefix}properties/report", json.dumps(
            {"services": [{"service_id": "Pump", "properties": {"flow": 3}}]}), qos=1)
        info.wait_for_publish(10)
        assert info.is_published()
        got = api.post(f"/devices/{device['device_id']}/commands", {
            "service_id": "Pump", "command_name": "drain", "paras": {"seconds": 5}}, status=200)
        assert got["response"]["paras"] == {"litres": 3}
    finally:
        client.disconnect()
        client.loop_stop()
    rows = wait_until(lambda: api.history(device["device_id"]))
    assert body_of(rows[0])["services"][0]["properties"] == {"flow": 3}


def test_curl_with_a_token(platform, api, tmp_path):
    url, project = platform.access["CAUSEWAY_REST_URL"], platform.access["CAUSEWAY_PROJECT_ID"]
    head = tmp_path / "head"
    run("curl", "-sS", "--noproxy", "*", "-D", str(head), "-o", "/dev/null",
        "-H", "Content-Type: application/json;charset=utf8",
        "-d", json.dumps(api.login_body()), f"{url}/v3/auth/tokens")
    lines = head.read_text().splitlines()
    token = next(line.split(": ", 1)[1] for line in lines
                 if line.lower().startswith("x-subject-token:"))
    apps = json.loads(run("curl", "-sS", "--noproxy", "*", "-H", f"X-Auth-Token: {token}",
                          f"{url}/v5/iot/{project}/apps"))["applications"]
    assert [a["app_id"] for a in apps if a["default_app"]] == [platform.access["CAUSEWAY_APP_ID"]]


def test_curl_over_https_with_the_ca_file(platform):
    port = platform.base + 1
    out = run("curl", "-sS", "--noproxy", "*", "--cacert", platform.access["CAUSEWAY_CA_FILE"],
              "-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}",
              f"https://127.0.0.1:{port}/v5/iot/{platform.access['CAUSEWAY_PROJECT_ID']}/apps")
    assert out == "401 0"


@pytest.mark.parametrize("derived", [False, True], ids=["plain", "derived-key"])
@pytest.mark.parametrize("with_project", [True, False], ids=["project-given", "project-asked"])
def test_the_official_sdk_signs_and_is_served(platform, sdk, derived, with_project):
    script = os.path.join(os.path.dirname(__file__), "sdk_client.js")
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env.update(platform.access, NODE_PATH=str(sdk / "node_modules"), DERIVED=str(int(derived)),
               WITH_PROJECT=str(int(with_project)), NAME=unique("sdk"))
    got = json.loads(run("node", script, env=env).splitlines()[-1])
    assert got["apps"]["applications"], got
    assert got["product"]["name"] == "水泵(1)" and got["product"]["app_id"] == got["space"]["app_id"], got
    assert [p["product_id"] for p in got["listed"]["products"]] == [got["product"]["product_id"]]
    device_id = got["device"]["device_id"]
    assert [d["device_id"] for d in got["devices"]["devices"]] == [device_id] and got["devices"]["page"]["count"] == 1
    assert got["shown"]["auth_info"]["secret"] == got["device"]["auth_info"]["secret"]
    assert got["updated"]["description"] == "地下室" and got["frozen"] == "FROZEN"
    assert got["shadow"]["shadow"][0]["desired"]["properties"] == {"mode": "自动"}
    for name, status, code in (("conflict", 409, "IOTDA.014903"), ("full", 403, "IOTDA.001903"),
                               ("gone", 404, "IOTDA.014000")):
        assert (got[name]["status"], got[name]["code"]) == (status, code) and got[name]["request"], got[name]

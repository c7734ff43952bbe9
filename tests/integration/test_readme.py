"""What the README tells a newcomer to type works as it stands there; only ids and secrets are filled in."""
import json
import os
import re
import subprocess

import pytest

from platform_under_test import ROOT
from waiting import wait_until

DEVICE, APPLICATION = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.fixture
def type_in(platform, tmp_path):
    """Runs lines in a folder in which var/ is the platform's; gives what they print."""
    os.symlink(platform.var, tmp_path / "var")

    def run(lines):
        done = subprocess.run(["sh", "-euc", lines], cwd=tmp_path, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    return run


def test_an_own_application_and_an_own_device(api, type_in):
    start, more = APPLICATION.split("call POST /devices ", 1)
    product = json.loads(type_in(start))
    assert product["name"] == "meter"
    device_line = "call POST /devices " + more.splitlines()[0].split("#")[0].replace("…", product["product_id"])
    only = start.split("call POST /products")[0]
    device = json.loads(type_in(only + device_line))
    lines = DEVICE.replace("DEVICE=…", f"DEVICE={device['device_id']}").replace(
        "SECRET=…", f"SECRET={device['auth_info']['secret']}")
    type_in(lines[:lines.index("mosquitto_sub")])
    wait_until(lambda: api.shadow(device["device_id"]).get("Meter"))
    for what in re.findall(r"call GET /devices/…/(\w+)", more):
        assert "error_code" not in json.loads(type_in(f"{only}call GET /devices/{device['device_id']}/{what}"))
    assert api.shadow(device["device_id"])["Meter"]["reported"]["properties"] == {"flow": 1.5}

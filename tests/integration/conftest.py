"""Fixtures. One platform serves all ordinary tests; tests marked `long` start their own and run last."""
import os
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

import callback  # noqa: E402
from deployed import ACCESS, Deployed  # noqa: E402
from generators import Sink  # noqa: E402
from platform_under_test import Platform  # noqa: E402
from rest import unique  # noqa: E402
from waiting import wait_until  # noqa: E402

SDK = "@huaweicloud/huaweicloud-sdk-core"
_running = []  # platforms whose logs a failing test shows


def pytest_configure(config):
    config.addinivalue_line("markers", "long: has a platform of its own and runs once, at the end")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("long") is not None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed and call.when in ("setup", "call"):
        for platform in _running:
            report.sections.append((f"daemons, {platform.var}",
                                    platform.logs(getattr(item, "log_sizes", {}).get(platform.var))))


@pytest.fixture(autouse=True)
def _remember_logs(request):
    request.node.log_sizes = {p.var: p.log_sizes() for p in _running}


@pytest.fixture(scope="session")
def platform():
    yield from _run(Deployed() if ACCESS else Platform(etc={"device-registry": "APPS_MAX=0\nPRODUCTS_MAX=0\nPOLICIES_MAX=1000\nBRIDGES_MAX=10000\nPROXIES_MAX=10000\nCAS_MAX=10000\nTEMPLATES_MAX=10000\n"
                                                                    "REGISTRATION_GROUPS_MAX=10000\nPROVISION_RATE=1000"}))


def _run(platform):
    _running.append(platform)
    try:
        yield platform.start()
    finally:
        platform.stop()
        _running.remove(platform)


@pytest.fixture
def own_platform():
    """own_platform(instances=...) starts one for this test alone."""
    alive = []

    def start(**settings):
        run = _run(Platform(**settings))
        alive.append(run)
        return next(run)
    yield start
    for run in alive:
        for _ in run:
            pass


@pytest.fixture
def api(platform):
    return platform.api


@pytest.fixture(scope="session")
def product(platform):
    """A pump: services Pump and Load."""
    return platform.api.new_product()


@pytest.fixture
def device(platform, product):
    return platform.api.new_device(product["product_id"])


@pytest.fixture
def connected(platform, device):
    with platform.connect(device) as peer:
        yield peer


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return callback.Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def application(authority):
    """A callback server with HTTPS; each test uses paths of its own."""
    server = callback.Callback(authority.issue())
    yield server
    server.down()


@pytest.fixture(scope="session")
def cert_id(platform, authority):
    return platform.api.post("/routing-rule/certificates",
                             {"name": "callback", "content": authority.pem})["cert_id"]


class Subscription:
    """What the application gets for one rule, on a path of its own."""

    def __init__(self, application, path, rule_id, action_id):
        self.application, self.path = application, path
        self.rule_id, self.action_id = rule_id, action_id

    def records(self, device_id=None):
        return [r for r in self.application.on(self.path)
                if device_id is None or r.body["notify_data"].get("header", {}).get("device_id") ==
                device_id]

    def notes(self, device_id=None):
        return [r.body for r in self.records(device_id)]

    def wait_for(self, device_id, count=1, timeout=15):
        return wait_until(lambda: len(got := self.notes(device_id)) >= count and got, timeout, 0.02,
                          f"{count} pushes of {device_id}")


@pytest.fixture
def subscribe(api, application, cert_id):
    """subscribe(resource, event): a rule with an action to the callback; deleted after the test."""
    made = []

    def make(resource, event, behaviour=None, **rule):
        path = f"/{unique('in')}"
        if behaviour:
            application.behave(path, behaviour)
        made.append(api.new_rule(application.url(path), resource, event, cert_id, **rule))
        return Subscription(application, path, *made[-1])
    yield make
    for rule_id, _ in made:
        api.call("DELETE", f"/routing-rule/rules/{rule_id}")


@pytest.fixture
def sink():
    """A fast callback address (tests/load/sink.c)."""
    with Sink() as running:
        yield running


@pytest.fixture
def watched(own_platform, application, authority):
    """watched(instances=…): a platform with a rule; gives (platform, product_id, subscription)."""
    def start(**settings):
        platform = own_platform(**settings)
        api = platform.api
        cert_id = api.post("/routing-rule/certificates", {"content": authority.pem})["cert_id"]
        path = f"/{unique('lost')}"
        ids = api.new_rule(application.url(path), "device.property", "report", cert_id)
        return platform, api.new_product()["product_id"], Subscription(application, path, *ids)
    return start


@pytest.fixture(scope="session")
def sdk(tmp_path_factory):
    """The official SDK core from the registry. Skipped only where there is no registry."""
    folder = tmp_path_factory.mktemp("sdk")
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), SDK,
                           "uuid@9"],  # which the core uses and forgets to name
                          text=True, capture_output=True, timeout=240)
    unreachable = ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH")
    if done.returncode and any(sign in done.stderr for sign in unreachable):
        pytest.skip("the npm registry is not reachable")
    assert done.returncode == 0, done.stderr
    return folder

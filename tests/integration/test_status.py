"""Devices that sleep: silent for 25 hours they are ABNORMAL, for 49 hours OFFLINE; a word brings them back. The clock is
turned by moving what the platform remembers."""
import pytest

from platform_under_test import Platform
from rest import unique
from waiting import wait_until

pytestmark = pytest.mark.long
HOUR = 3600 * 1000


@pytest.fixture(scope="module")
def sleepy():
    platform = Platform(etc={"uplink-processor": "SLEEP_SWEEP=100ms"})
    try:
        yield platform.start()
    finally:
        platform.stop()


def later(platform, device, hours):
    """All that the device ever did was so many hours earlier."""
    ms = int(hours * HOUR)
    platform.sql("UPDATE data.device_state SET connected_ms = connected_ms - {0}, last_report_ms = last_report_ms - {0},"
                 " last_message_ms = last_message_ms - {0} WHERE device_key = (SELECT device_key FROM registry.device"
                 " WHERE device_id = '{1}')".format(ms, device))


def becomes(platform, device, status):
    wait_until(lambda: platform.api.device(device)["status"] == status, 15, 0.05, f"{device} is {status}")


@pytest.fixture
def meter(sleepy):
    """A device of a CoAP product, connected (over MQTT, for want of another way) and heard."""
    product = sleepy.api.new_product(protocol_type="CoAP", data_format="binary")["product_id"]
    device = sleepy.api.new_device(product, node_id=unique("imei"))
    with sleepy.connect(device) as peer:
        peer.report("Pump", {"flow": 1})
        wait_until(lambda: sleepy.api.shadow(device["device_id"]).get("Pump"), 10, 0.05, "the report")
        becomes(sleepy, device["device_id"], "ONLINE")
        yield device, peer


def test_silence_decides_and_a_word_brings_it_back(sleepy, meter):
    device, peer = meter
    name = device["device_id"]
    later(sleepy, name, 24.9)
    assert sleepy.api.device(name)["status"] == "ONLINE"
    later(sleepy, name, 0.2)
    becomes(sleepy, name, "ABNORMAL")
    later(sleepy, name, 23.7)
    assert sleepy.api.device(name)["status"] == "ABNORMAL"
    later(sleepy, name, 0.3)
    becomes(sleepy, name, "OFFLINE")
    peer.report("Pump", {"flow": 2})
    becomes(sleepy, name, "ONLINE")


def test_a_disconnection_stays(sleepy, meter):
    device, peer = meter
    later(sleepy, device["device_id"], 26)
    becomes(sleepy, device["device_id"], "ABNORMAL")
    peer.disconnect()
    becomes(sleepy, device["device_id"], "OFFLINE")
    with sleepy.connect(device):
        becomes(sleepy, device["device_id"], "ONLINE")


def test_others_do_not_sleep(sleepy):
    product = sleepy.api.new_product()["product_id"]
    device = sleepy.api.new_device(product)
    coap = sleepy.api.new_device(sleepy.api.new_product(protocol_type="CoAP", data_format="binary")["product_id"],
                                 node_id=unique("imei"))
    with sleepy.connect(device), sleepy.connect(coap):
        for d in (device, coap):
            becomes(sleepy, d["device_id"], "ONLINE")
        for d in (device, coap):
            later(sleepy, d["device_id"], 100)
        becomes(sleepy, coap["device_id"], "OFFLINE")
        assert sleepy.api.device(device["device_id"])["status"] == "ONLINE"


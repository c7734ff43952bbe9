"""Devices, children and products that change are events, in the documented forms, so that rules can forward them."""
import json

import pytest

from waiting import wait_until


@pytest.fixture
def told(subscribe):
    """told(resource, event) subscribes; then told(key, value) of it gives the notification about one thing."""
    def make(resource, event):
        subscription = subscribe(resource, event)

        def find(key, value):
            def found():
                for record in subscription.records():
                    data = record.body["notify_data"]
                    if value in (data.get("body", {}).get(key), data.get("header", {}).get(key)):
                        assert (record.body["resource"], record.body["event"]) == (resource, event)
                        return record.body
            return wait_until(found, 15, 0.02, f"{resource}:{event} of {value}")
        return find
    return make


def test_devices(api, product, told):
    create, update, delete = (told("device", e) for e in ("create", "update", "delete"))
    gateway = api.new_device(product["product_id"])
    child = api.new_device(product["product_id"], gateway_id=gateway["device_id"], device_name="first")
    data = create("device_id", child["device_id"])["notify_data"]
    assert "header" not in data
    body = data["body"]
    assert body["gateway_id"] == gateway["device_id"] and body["node_id"] == child["node_id"]
    assert body["device_name"] == "first" and body["status"] == "INACTIVE" and body["product_id"] == product["product_id"]
    assert gateway["auth_info"]["secret"] not in json.dumps(create("device_id", gateway["device_id"])), "no secrets"
    api.put(f"/devices/{child['device_id']}", {"device_name": "second"})
    assert update("device_id", child["device_id"])["notify_data"]["body"]["device_name"] == "second"
    api.delete(f"/devices/{child['device_id']}")
    data = delete("device_id", child["device_id"])["notify_data"]
    assert "body" not in data
    assert data["header"]["gateway_id"] == gateway["device_id"] and data["header"]["node_id"] == child["node_id"]


def test_a_child_that_its_gateway_adds(platform, api, product, device, told):
    create = told("device", "create")
    with platform.connect(device) as peer:
        peer.publish_acked(peer.topic("events/up"), {"services": [
            {"service_id": "$sub_device_manager", "event_type": "add_sub_device_request",
             "paras": {"devices": [{"node_id": "told", "product_id": product["product_id"]}]}}]})
        made = f"{product['product_id']}_told"
        assert create("device_id", made)["notify_data"]["body"]["gateway_id"] == device["device_id"]
        api.delete(f"/devices/{made}")


def test_products(api, told):
    create, update, delete = (told("product", e) for e in ("create", "update", "delete"))
    made = api.new_product()["product_id"]
    body = create("product_id", made)["notify_data"]["body"]
    assert body["device_type"] == "Pump" and body["service_capabilities"]
    api.put(f"/products/{made}", {"description": "new"})
    assert update("product_id", made)["notify_data"]["body"]["description"] == "new"
    api.delete(f"/products/{made}")
    assert "header" not in delete("product_id", made)["notify_data"]

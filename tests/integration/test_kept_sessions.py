"""Sessions that outlive their connection (MQTT 3.1.1, 3.1.2.4; MQTT 5, 3.1.2.11.2): what a device has subscribed."""
import os
import signal

import pytest

from mqtt5 import Peer, props
from rawmqtt import Refused, packet, text
from rest import unique
from waiting import stays, wait_until

FOR_EVER = 0xffffffff


@pytest.fixture
def other(platform, api, product):
    """Another device, which says something on shared topics."""
    with platform.connect(api.new_device(product["product_id"])) as peer:
        yield peer


def offline(api, device):
    wait_until(lambda: api.device(device["device_id"])["status"] == "OFFLINE")


def leave(api, device, peer):
    peer.disconnect()
    offline(api, device)


def unsubscribe(peer, topic):
    answers = []
    heard = peer.wire.on_packet
    peer.wire.on_packet = lambda first, body: answers.append(body) if first == 0xb0 else heard(first, body)
    peer.wire.send(packet(0xa2, b"\0\7" + text(topic)))
    wait_until(lambda: answers == [b"\0\7"], 10, 0.01, "UNSUBACK")


def five(platform, device, expiry, clean=False):
    """The connection, and whether a session was present."""
    peer = Peer(platform, device, flags=0xc2 if clean else 0xc0, properties=props((0x11, expiry)))
    assert peer.connack[2][1] == 0, peer.connack
    return peer, bool(peer.connack[2][0])


# ---- 3.1.1

def test_a_session_is_resumed(platform, api, device, other):
    topic, given_up = unique("plant"), unique("plant")
    with platform.connect(device, clean=False) as peer:
        assert not peer.present, "3.1.2-4: there was none"
        assert peer.subscribe(topic) == 1 and peer.subscribe(f"{topic}/low", 0) == 0 and peer.subscribe(given_up) == 1
        unsubscribe(peer, given_up)
    offline(api, device)
    with platform.connect(device, clean=False) as peer:
        assert peer.present, "3.2.2-2"
        other.publish_acked(given_up, b"no")
        other.publish_acked(f"{topic}/low", b"low")
        other.publish_acked(topic, b"yes")
        assert peer.wait_for(topic, 2) and [(m.payload, m.qos) for m in peer.on(topic)] == [(b"low", 0), (b"yes", 1)]
        assert not peer.on(given_up)


def test_a_clean_session_forgets(platform, api, device, other):
    topic = unique("plant")
    for clean, subscribes in ((False, True), (True, False), (False, False)):
        with platform.connect(device, clean=clean) as peer:
            assert not peer.present, "3.1.2-6, 3.2.2-1"
            if subscribes:
                peer.subscribe(topic)
            else:
                other.publish_acked(topic, b"for nobody")
                stays(lambda: not peer.on(topic), 0.3, 0.05, "nothing is subscribed")
        offline(api, device)


def test_a_session_is_resumed_while_the_old_connection_stands(platform, device, other):
    topic = unique("plant")
    first = platform.connect(device, clean=False)
    first.subscribe(topic)
    with platform.connect(device, clean=False) as second:
        assert second.present
        first.wire.closed.wait(10)
        other.publish_acked(topic, b"x")
        assert second.wait_for(topic)
    assert not first.on(topic)


def test_commands_wait_for_a_kept_session_as_for_any(platform, api, device):
    """What the platform has for a device is its own, whatever session it has."""
    with platform.connect(device, clean=False) as peer:
        peer.subscribe(unique("plant"))
    offline(api, device)
    api.post(f"/devices/{device['device_id']}/messages", {"message": "later", "ttl": 60}, expect=201)
    with platform.connect(device, clean=False) as peer:
        assert peer.present and peer.wait_for("/messages/down")


def test_gateways_that_die_lose_no_session(own_platform):
    platform = own_platform()
    api, topic = platform.api, unique("plant")
    made = api.new_device(api.new_product()["product_id"])
    with platform.connect(made, clean=False) as peer:
        peer.subscribe(topic)
        platform.kill("mqtt-gateway")
        assert peer.wire.closed.wait(10)
    for name in ("device-registry", "mqtt-gateway"):
        platform.kill(name)
    again = wait_until(lambda: connected(platform, made), 30, 0.2, "the device is let in")
    assert again.present
    again.publish_acked(topic, b"own")
    assert again.wait_for(topic)
    again.disconnect()


def connected(platform, device):
    try:
        return platform.connect(device, clean=False)
    except (OSError, AssertionError, Refused):  # CONNACK 3 while the registry comes back
        return None


def test_what_is_not_kept_is_not_granted(own_platform):
    """SUBACK says failure and the connection goes on; UNSUBACK has no way to say it, so the connection ends."""
    platform = own_platform()
    made = platform.api.new_device(platform.api.new_product()["product_id"])
    with platform.connect(made, clean=False) as peer, \
            platform.connect(platform.api.new_device(made["product_id"])) as passing:
        assert peer.subscribe("before") == 1
        stopped = platform.processes("device-registry")[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert peer.subscribe("while/away") == 0x80
            assert passing.subscribe("while/away") == 1, "a session that is not kept needs no registry"
            peer.ping()
            peer.wire.send(packet(0xa2, b"\0\7" + text("before")))
            assert peer.wire.closed.wait(20), "not told that it is kept"
        finally:
            try:
                os.kill(stopped, signal.SIGCONT)
            except ProcessLookupError:  # it was ended because it hung
                pass


# ---- MQTT 5

@pytest.mark.parametrize("expiry", [1000, FOR_EVER])
def test_five_asks_for_a_time(platform, api, device, other, expiry):
    topic = unique("plant")
    peer, present = five(platform, device, expiry)
    assert not present and peer.subscribe(topic) == b"\0\5\0\1"
    leave5(api, device, peer)
    peer, present = five(platform, device, 0)
    assert present
    other.publish_acked(topic, b"x")
    assert peer.message()[0] == topic
    leave5(api, device, peer)
    peer, present = five(platform, device, 0)
    assert not present, "it asked for none any more"
    peer.close()


def leave5(api, device, peer, how=b"\xe0\0"):
    peer.wire.send(how)
    offline(api, device)


def age(platform, device):
    """Seconds since its connection ended, by the clock that counts."""
    return float(platform.sql("SELECT extract(epoch FROM now() - connection_status_update_time) FROM registry.device"
                              f" WHERE device_id = '{device['device_id']}'"))


@pytest.mark.parametrize("asked, present", [(1, False), (60, True)])
def test_the_time_passes(platform, api, device, asked, present):
    peer, _ = five(platform, device, asked)
    peer.subscribe(unique("plant"))
    leave5(api, device, peer)
    wait_until(lambda: age(platform, device) > 1.1, 10, 0.05, "more than a second is gone")
    peer, was = five(platform, device, asked)
    assert was == present
    peer.close()


def test_clean_start_forgets(platform, api, device):
    peer, _ = five(platform, device, 100)
    peer.subscribe(unique("plant"))
    leave5(api, device, peer)
    for _ in range(2):
        peer, present = five(platform, device, 100, clean=True)
        assert not present
        leave5(api, device, peer)


@pytest.mark.parametrize("said, present", [(0, False), (FOR_EVER, True)])
def test_disconnect_changes_the_time(platform, api, device, said, present):
    """3.14.2.2.2"""
    peer, _ = five(platform, device, 1)
    peer.subscribe(unique("plant"))
    leave5(api, device, peer, packet(0xe0, b"\0" + props((0x11, said))))
    wait_until(lambda: age(platform, device) > 1.1, 10, 0.05, "more than a second is gone")
    peer, was = five(platform, device, 1)
    assert was == present
    peer.close()


def test_disconnect_cannot_keep_what_was_not(platform, device):
    peer, _ = five(platform, device, 0)
    peer.wire.send(packet(0xe0, b"\0" + props((0x11, 10))))
    assert peer.disconnected() == 0x82


def test_a_longer_time_counts_at_the_next_login(platform, api, device):
    peer, _ = five(platform, device, 1)
    peer.subscribe(unique("plant"))
    peer.wire.drop()
    offline(api, device)
    peer, _ = five(platform, device, 60)  # in time or not: one that is subscribed again
    peer.subscribe(unique("plant"))
    leave5(api, device, peer)
    peer, present = five(platform, device, FOR_EVER)
    assert present
    leave5(api, device, peer)
    assert platform.sql("SELECT expiry_s FROM registry.kept_session k JOIN registry.device d USING (device_key)"
                        f" WHERE d.device_id = '{device['device_id']}'").strip() == str(FOR_EVER)

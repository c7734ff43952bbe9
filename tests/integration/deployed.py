"""The suite against a platform that somebody else has started (CAUSEWAY_ACCESS: the file of what a client needs): tests
that look behind the API, or start a platform of their own, are skipped."""
import os

import pytest

import rawmqtt
from rest import Api

ACCESS = os.environ.get("CAUSEWAY_ACCESS")


def is_us(peer):
    """Is this the address that a platform saw us come from? Elsewhere, it is one of a network that we do not know."""
    return bool(peer) if ACCESS else peer.startswith("127.0.0.1")


class Addressed:
    """What a client can do, whoever runs the platform. Needs self.access."""

    def connect(self, device, **more):
        """device: what the API answered, with its secret."""
        return rawmqtt.Device("127.0.0.1", self.mqtt_port, device["device_id"],
                              more.pop("secret", None) or device["auth_info"]["secret"], **more)

    @property
    def mqtt_port(self):
        return int(self.access["CAUSEWAY_MQTT_PORT"])

    @property
    def mqtts_port(self):
        return int(self.access["CAUSEWAY_MQTTS_PORT"])

    def wire(self):
        """A bare connection to the MQTT port."""
        w = rawmqtt.Wire("127.0.0.1", self.mqtt_port)
        w.start()
        return w


class Deployed(Addressed):
    var = "deployed"

    def __init__(self):
        with open(ACCESS) as lines:
            self.access = dict(line.strip().split("=", 1) for line in lines if "=" in line)
        self.api = Api(self.access)

    def start(self):
        return self

    def stop(self):
        pass

    def log_sizes(self):
        return {}

    def logs(self, since=None):
        return ""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.skip(f"looks behind the API: {name}")

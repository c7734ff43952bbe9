"""var/access.env: what a client needs, as KEY=value lines."""
from .keys import write_private
from .layout import LOCAL, TLS, VAR, Wrong, ports

# What the daemons that make it write when they start.
PARTS = {
    "identity": ("PROJECT_ID", "DOMAIN", "REGION", "USER", "PASSWORD", "AK", "SK"),
    "device-registry": ("APP_ID",),
}


def part(name, keys):
    path = VAR / "access.d" / f"{name}.env"
    lines = path.read_text().splitlines() if path.exists() else []
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    missing = [f"CAUSEWAY_{key}" for key in keys if not found.get(f"CAUSEWAY_{key}")]
    if missing:
        raise Wrong(f"{name} has not written {', '.join(missing)} to {path}")
    return {key: found[f"CAUSEWAY_{key}"] for key in keys}


def write(skip=()):
    port = ports()
    made = {k: v for name, keys in PARTS.items() if name not in skip for k, v in part(name, keys).items()}
    lines = {
        "REST_URL": f"http://{LOCAL}:{port['rest']}",
        **made,
        "MQTT_PORT": port["mqtt"],
        "MQTTS_PORT": port["mqtts"],
        "MQTT_WS_PORT": port["ws"],
        "MQTT_WSS_PORT": port["wss"],
        "COAP_PORT": port["coap"],
        "COAPS_PORT": port["coaps"],
        "CA_FILE": TLS / "ca.crt",
    }
    write_private(VAR / "access.env", "".join(f"CAUSEWAY_{key}={value}\n" for key, value in lines.items()))

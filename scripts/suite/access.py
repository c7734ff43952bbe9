"""var/access.env: what a client needs, as KEY=value lines."""
from .keys import write_private
from .layout import LOCAL, TLS, VAR, Wrong, ports

# What the daemons that make it write when they start.
PARTS = {
    "identity": ("PROJECT_ID", "DOMAIN", "REGION", "USER", "PASSWORD", "AK", "SK"),
    "device-registry": ("APP_ID",),
}


def part(name, keys, folder):
    path = folder / f"{name}.env"
    lines = path.read_text().splitlines() if path.exists() else []
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    missing = [f"CAUSEWAY_{key}" for key in keys if not found.get(f"CAUSEWAY_{key}")]
    if missing:
        raise Wrong(f"{name} has not written {', '.join(missing)} to {path}")
    return {key: found[f"CAUSEWAY_{key}"] for key in keys}


def text(folder, host, port, ca, skip=()):
    """folder: where the daemons have written theirs."""
    made = {k: v for name, keys in PARTS.items() if name not in skip for k, v in part(name, keys, folder).items()}
    lines = {
        "REST_URL": f"http://{host}:{port['rest']}",
        **made,
        "MQTT_PORT": port["mqtt"],
        "MQTTS_PORT": port["mqtts"],
        "MQTT_WS_PORT": port["ws"],
        "MQTT_WSS_PORT": port["wss"],
        "COAP_PORT": port["coap"],
        "COAPS_PORT": port["coaps"],
        "CA_FILE": ca,
    }
    return "".join(f"CAUSEWAY_{key}={value}\n" for key, value in lines.items())


def write(skip=()):
    write_private(VAR / "access.env", text(VAR / "access.d", LOCAL, ports(), TLS / "ca.crt", skip))

"""What the demo prints: where things are, and what to type. Pure."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from bridge.mqtt.brokers import BrokerOptions
from bridge.mqtt.embedded import EmbeddedBroker
from bridge.mqtt.options import Address, parse_url
from bridge.settings import MqttSettings

_NO_BYTES = ("+/+/preview", "+/+/output/#", "+/+/image")
"""Topics with the bytes of pictures, which a terminal shows as noise."""


def introduction(settings: MqttSettings, *, broker: str, comfyui: str, data: Path) -> str:
    """Return what is printed when the demo is ready."""
    base = settings.base_topic
    where = client_arguments(settings)
    topics = " ".join([f"-t '{base}/#'", *(f"-T '{base}/{one}'" for one in _NO_BYTES)])
    lines = [
        f"The demo runs: broker {broker}, ComfyUI {comfyui}, files in {data}. A first picture is being drawn.",
        "In another terminal, see what happens; set a text; draw it:",
        "",
        f"    mosquitto_sub{where} -v {topics}",
        f"    mosquitto_pub{where} -t {base}/update/text -m 'a fox in the snow'",
        f"    mosquitto_pub{where} -t {base}/queue -n",
        "",
    ]
    if shutil.which("mosquitto_sub") is None:
        lines += [
            "mosquitto's clients are not installed here; these do the same:",
            "",
            f"    {command()} watch{own_arguments(settings)}",
            f"    {command()} submit txt2img{own_arguments(settings)} --set prompt='a fox in the snow'",
            "",
        ]
    lines.append("Ctrl-C ends the demo. Pictures:")
    return "\n".join(lines)


def client_arguments(settings: MqttSettings) -> str:
    """Return what mosquitto's clients need to find the broker, with a space before it; nothing for the usual place."""
    words = []
    address = _address(settings)
    if address.host not in {"127.0.0.1", "localhost"}:
        words += ["-h", shlex.quote(address.host)]
    if address.port != 1883:
        words += ["-p", str(address.port)]
    username = settings.username or address.username
    if username:
        words += ["-u", shlex.quote(username), "-P", "PASSWORD"]
    if settings.tls_ca is not None:
        words += ["--cafile", shlex.quote(str(settings.tls_ca))]
    return "".join(f" {word}" for word in words)


def own_arguments(settings: MqttSettings) -> str:
    """Return what our own commands need to find the bridge, with a space before it."""
    words = []
    address = str(_address(settings))
    if address != "mqtt://127.0.0.1:1883":
        words += ["--mqtt-url", shlex.quote(address)]
    if settings.base_topic != "comfyui":
        words += ["--base-topic", settings.base_topic]
    return "".join(f" {word}" for word in words)


def _address(settings: MqttSettings) -> Address:
    """Return where a client on this machine finds the broker."""
    if settings.url != "embedded":
        return parse_url(settings.url)
    return parse_url(EmbeddedBroker(BrokerOptions(Path(), settings.embedded_port, settings.embedded_host)).url)


def command() -> str:
    """Return how this program is called here."""
    if shutil.which("comfy-bridge"):
        return "comfy-bridge"
    called = Path(sys.argv[0])
    if called.stem == "comfy-bridge":
        return shlex.quote(str(called))
    return f"{shlex.quote(sys.executable)} -m bridge"

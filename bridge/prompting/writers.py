"""Which writer the settings mean. Pure but for what the writers do when they are opened."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from bridge.prompting.address import AddressWriter
from bridge.prompting.model import Writer
from bridge.prompting.ollama import OllamaWriter
from bridge.prompting.openai import OpenAIWriter
from bridge.settings import Settings

_HERE = frozenset({"localhost", "host.docker.internal", "host.containers.internal"})


def make_writer(settings: Settings) -> Writer | None:
    """Return the writer that `prompting.writer` names; None for the one that asks an MQTT topic."""
    prompting = settings.prompting
    key = None if prompting.api_key is None else prompting.api_key.get_secret_value()
    if prompting.writer == "mqtt":
        return None
    if prompting.writer.startswith("openai:"):
        return OpenAIWriter(prompting.writer.removeprefix("openai:"), model=prompting.model, key=key)
    if prompting.writer != "ollama":
        return AddressWriter(prompting.writer, key=key)
    ollama = settings.ollama
    shares = any(may_share_host(ollama.url, url) for url in settings.comfyui.urls)
    # Beside ComfyUI the model has to leave the memory before the picture starts; alone it had better stay.
    keep_alive = ollama.keep_alive if shares or "keep_alive" in ollama.model_fields_set else None
    return OllamaWriter(
        ollama.url,
        model=ollama.model,
        vision_model=ollama.vision_model,
        keep_alive=keep_alive,
        settles=shares and keep_alive in {0, "0s", "0m", "0h"},
    )


def may_share_host(one: str, other: str) -> bool:
    """Tell whether two addresses may be of one machine: True unless they are surely of two.

    Names without a domain are those of containers, which mostly run together.
    """
    first, second = (_host(url) for url in (one, other))
    return first == second or (_may_be_here(first) and _may_be_here(second))


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower().rstrip(".")


def _may_be_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _HERE or "." not in host

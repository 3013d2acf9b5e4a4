from __future__ import annotations

import pytest

from bridge.cli import demo_words
from bridge.cli.check import _makes_previews
from bridge.settings import MqttSettings


@pytest.mark.parametrize(
    ("argv", "makes"),
    [
        (["main.py"], False),
        (["main.py", "--preview-method", "auto"], True),
        (["main.py", "--preview-method=latent2rgb"], True),
        (["main.py", "--preview-method", "latent2rgb", "--preview-method", "none"], False),
        (["main.py", "--preview-method"], True),
    ],
)
def test_previews_are_told_from_the_command_line_of_comfyui(argv: list[str], makes: bool) -> None:
    assert _makes_previews(argv) is makes


@pytest.mark.parametrize(
    ("settings", "arguments", "own"),
    [
        (MqttSettings(), "", ""),
        (MqttSettings(url="embedded"), "", ""),
        (MqttSettings(url="embedded", embedded_port=1884), " -p 1884", " --mqtt-url mqtt://127.0.0.1:1884"),
        (MqttSettings(url="embedded", embedded_host="0.0.0.0"), "", ""),  # noqa: S104
        (MqttSettings(url="embedded", embedded_host="::1"), " -h ::1", " --mqtt-url 'mqtt://[::1]:1883'"),
        (MqttSettings(url="mqtt://me:word@nas:1883"), " -h nas -u me -P PASSWORD", " --mqtt-url mqtt://nas:1883"),
        (MqttSettings(base_topic="a/b"), "", " --base-topic a/b"),
    ],
)
def test_what_to_type_names_what_is_not_usual(settings: MqttSettings, arguments: str, own: str) -> None:
    assert demo_words.client_arguments(settings) == arguments
    assert demo_words.own_arguments(settings) == own

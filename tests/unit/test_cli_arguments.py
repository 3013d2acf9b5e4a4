from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bridge import __version__
from bridge.cli import main
from bridge.cli.arguments import Options, parse
from bridge.cli.process import settings_of


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_settings_may_stand_before_and_after_the_command() -> None:
    options = parse(
        ["--base-topic", "a", "-o", "jobs.attempts=5", "run", "--base-topic", "b", "-o", "jobs.max_batch=2"]
    )
    assert options.command == "run"
    assert options.overrides() == {"mqtt": {"base_topic": "b"}, "jobs": {"attempts": "5", "max_batch": "2"}}


def test_a_repeated_address_of_comfyui_is_a_further_server() -> None:
    options = parse(["check", "--comfyui-url", "http://a:1", "--comfyui-url", "http://b:2"])
    assert settings_of(options).comfyui.urls == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("given", "nested"),
    [
        ("node_mappings.prompt=6.text", {"node_mappings": {"prompt": "6.text"}}),
        ("node_mappings.fox.prompt=6", {"node_mappings": {"fox": {"prompt": "6"}}}),
        ("mqtt.password=a=b", {"mqtt": {"password": "a=b"}}),
        ('ollama.profiles={"x": {"model": "m"}}', {"ollama": {"profiles": {"x": {"model": "m"}}}}),
        ("mqtt.username=", {"mqtt": {"username": ""}}),
    ],
)
def test_any_setting_can_be_given(given: str, nested: dict[str, object]) -> None:
    assert parse(["run", "-o", given]).overrides() == nested


@pytest.mark.parametrize("given", ["foo", "foo=1", "=1", "a.b", "ollama.profiles={"])
def test_a_setting_of_another_form_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "-o" in refused(["run", "-o", given], capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["submit"],
        ["submit", "fox", "--set", "steps"],
        ["submit", "fox", "--set", "=3"],
        ["submit", "fox", "--count", "0"],
        ["submit", "fox", "--count", "²"],
        ["submit", "fox", "--timeout", "0"],
        ["submit", "fox", "--timeout", "nan"],
        ["demo", "--port", "0"],
        ["demo", "--port", "65536"],
        ["workflows", "show"],
        ["run", "--mqtt", "mqtt://abbreviated"],
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "error:" in refused(arguments, capsys)


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "demo" in capsys.readouterr().err


def test_workflows_alone_lists_them() -> None:
    assert getattr(parse(["workflows"]), "verb", None) is None
    shown = parse(["workflows", "show", "fox", "--json", "--workflows", "w"])
    assert (shown.verb, shown.name, shown.json) == ("show", "fox", True)
    assert shown.has("workflows.dir")


def test_values_keep_what_comes_after_the_first_equals_sign() -> None:
    options = parse(["submit", "fox", "--set", "prompt=a=b", "--set", "3.steps=20"])
    assert options.values == [("prompt", "a=b"), ("3.steps", "20")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "mqtt.urll=x"], ["mqtt.urll", "did you mean 'url'"]),
        (["--mqtt-url", "http://x"], ["mqtt.url", "mqtt://"]),
        (["--config", "nowhere.toml"], ["nowhere.toml", "does not exist"]),
        (["--mqtt-url", "embedded", "-o", "mqtt.url.x=3"], ["mqtt.url"]),
    ],
)
def test_wrong_settings_end_with_2(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said


def test_an_option_wins_over_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('[mqtt]\nbase_topic = "file"\nclient_id = "file"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGE_MQTT__BASE_TOPIC", "environment")
    made = settings_of(parse(["run", "--base-topic", "given"]))
    assert (made.mqtt.base_topic, made.mqtt.client_id) == ("given", "file")


def test_options_without_settings_change_nothing() -> None:
    assert Options(given=[]).overrides() == {}


def test_help_and_version_answer_without_what_is_slow_to_import() -> None:
    program = (
        "import sys\nfrom bridge.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit as stopped:\n    assert stopped.code == 0\n"
        "print(sorted({'asyncio', 'aiohttp', 'httpx', 'paho', 'pydantic', 'rich', 'logging'} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.splitlines() == [f"comfy-bridge {__version__}", "[]"]

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.errors import SettingsError
from bridge.settings import Settings, load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "config.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_are_those_of_the_design() -> None:
    settings = load(environ={})
    assert settings.comfyui.urls == ("http://127.0.0.1:8188",)
    assert (settings.comfyui.stall_timeout, settings.comfyui.depth, settings.comfyui.previews) == (600, 2, True)
    assert settings.mqtt.url == "mqtt://127.0.0.1:1883"
    assert (settings.mqtt.embedded_port, settings.mqtt.base_topic) == (1883, "comfyui")
    assert (settings.mqtt.protocol, settings.mqtt.session) == ("5", "clean")
    assert (str(settings.workflows.dir), settings.workflows.loaded, settings.workflows.watch) == (
        "workflows",
        None,
        True,
    )
    assert settings.node_mappings == {}
    assert (settings.jobs.attempts, settings.jobs.max_waiting, settings.jobs.max_batch) == (3, 10_000, 1_000)
    assert (settings.http.host, settings.http.port, settings.http.token) == ("127.0.0.1", 8189, None)
    assert settings.relay.port == 8190
    assert (settings.store.url, settings.store.keep) == ("sqlite:///comfy-bridge.db", 7 * 86400)
    assert (settings.ollama.url, settings.ollama.keep_alive) == ("http://127.0.0.1:11434", 0)
    assert (settings.prompting.writer, settings.prompting.timeout) == ("ollama", 60)
    assert (settings.homeassistant.discovery, settings.homeassistant.prefix) == (True, "homeassistant")
    assert settings.security.allowed_hosts == ()


def test_a_file_saved_by_an_editor_of_windows(folder: Path) -> None:
    (folder / "config.toml").write_bytes(b"\xef\xbb\xbf[jobs]\r\nattempts = 5\r\n")
    assert load(environ={}).jobs.attempts == 5


def test_an_empty_variable_says_nothing(folder: Path) -> None:
    write(folder, '[http]\ntoken = "from the file"\n')
    names = ("HTTP__TOKEN", "HTTP__PUBLIC_URL", "HTTP__PORT", "MQTT__TLS_CA", "COMFYUI__COMMAND")
    settings = load(environ={f"BRIDGE_{name}": "" for name in names})
    assert settings.http.token is not None
    assert settings.http.token.get_secret_value() == "from the file"
    assert (settings.http.public_url, settings.http.port, settings.mqtt.tls_ca) == (None, 8189, None)
    assert settings.comfyui.command == ()


@pytest.mark.parametrize("section", [{"http": {"token": ""}}, {"prompting": {"api_key": " "}}])
def test_an_empty_key_would_let_in_everybody(section: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="must not be empty; leave it out to have none"):
        load(environ={}, overrides=section)


def test_later_wins(folder: Path) -> None:
    write(folder, '[mqtt]\nbase_topic = "file"\nusername = "file"\nembedded_port = 1\n[jobs]\nattempts = 5\n')
    settings = load(
        environ={"BRIDGE_MQTT__BASE_TOPIC": "environment", "BRIDGE_MQTT__USERNAME": "environment", "PATH": "/bin"},
        overrides={"mqtt": {"base_topic": "override"}},
    )
    assert settings.mqtt.base_topic == "override"
    assert settings.mqtt.username == "environment"
    assert settings.mqtt.embedded_port == 1
    assert settings.jobs.attempts == 5


def test_a_file_of_another_name(folder: Path) -> None:
    write(folder, "[jobs]\nattempts = 9\n")
    other = write(folder, "[jobs]\nattempts = 7\n", "other.toml")
    assert load(environ={}).jobs.attempts == 9
    assert load(config=other, environ={}).jobs.attempts == 7
    with pytest.raises(SettingsError, match=r"missing\.toml does not exist"):
        load(config=folder / "missing.toml", environ={})


def test_lists_in_the_environment() -> None:
    environ = {
        "BRIDGE_COMFYUI__URLS": "http://a:1, http://b:2/",
        "BRIDGE_SECURITY__ALLOWED_HOSTS": '["x", "10.0.0.0/8"]',
    }
    settings = load(environ=environ)
    assert settings.comfyui.urls == ("http://a:1", "http://b:2")
    assert settings.security.allowed_hosts == ("x", "10.0.0.0/8")


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("python main.py --extra a,b", ("python main.py --extra a,b",)),
        ('["python a.py", ""]', ("python a.py", "")),
    ],
)
def test_commands_in_the_environment(text: str, commands: tuple[str, ...]) -> None:
    environ = {"BRIDGE_COMFYUI__URLS": "http://a:1,http://b:2", "BRIDGE_COMFYUI__COMMAND": text}
    assert load(environ=environ).comfyui.command == commands


def test_types_in_the_environment() -> None:
    environ = {
        "BRIDGE_COMFYUI__PREVIEWS": "false",
        "BRIDGE_COMFYUI__STALL_TIMEOUT": "12.5",
        "BRIDGE_COMFYUI__DEPTH": "3",
        "bridge_workflows__dir": "somewhere",
    }
    settings = load(environ=environ)
    assert settings.comfyui.previews is False
    assert (settings.comfyui.stall_timeout, settings.comfyui.depth) == (12.5, 3)
    assert settings.workflows.dir == Path("somewhere")


def test_mappings_and_profiles_in_the_environment() -> None:
    environ = {
        "BRIDGE_NODE_MAPPINGS__PROMPT": "6",
        "BRIDGE_NODE_MAPPINGS__FOX__SEED": "3.seed",
        "BRIDGE_OLLAMA__PROFILES__SHORT__MODEL": "llama",
    }
    settings = load(environ=environ)
    assert settings.mappings_for("fox", loaded=True) == {"prompt": "6", "seed": "3.seed"}
    assert settings.ollama.profiles["short"].model == "llama"


def test_mappings_of_a_workflow_stand_over_the_plain_ones(folder: Path) -> None:
    write(
        folder, '[node_mappings]\nprompt = 6\nsave_image = "9"\n[node_mappings.fox]\nprompt = "12:5.text"\nseed = 3\n'
    )
    settings = load(environ={})
    assert settings.mappings_for("fox", loaded=True) == {"prompt": "12:5.text", "save_image": "9", "seed": "3"}
    assert settings.mappings_for("fox", loaded=False) == {"prompt": "12:5.text", "seed": "3"}
    assert settings.mappings_for("other", loaded=True) == {"prompt": "6", "save_image": "9"}
    assert settings.mappings_for("other", loaded=False) == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[mqt]\nurl = 'x'", r"mqt: there is no such setting; did you mean 'mqtt'"),
        ("[mqtt]\nbase_topik = 'x'", r"mqtt\.base_topik: there is no such setting; did you mean 'base_topic'"),
        ("[comfyui]\nurl = 'http://x'", r"comfyui\.url: there is no such setting; did you mean 'urls'"),
        ("[mqtt]\nqqqqqq = 1", r"mqtt\.qqqqqq: there is no such setting$"),
        (
            "[ollama.profiles.a]\nmodle = 'x'",
            r"ollama\.profiles\.a\.modle: there is no such setting; did you mean 'model'",
        ),
        ("[mqtt]\nurl = 'localhost:1883'", r"mqtt\.url: must be an address such as mqtt://.*'localhost:1883'"),
        ("[mqtt]\nurl = 'http://x'", r"mqtt\.url: must be"),
        ("[mqtt]\nbase_topic = 'a/#'", r"mqtt\.base_topic: must be a topic without"),
        ("[mqtt]\nbase_topic = 'a b'", r"mqtt\.base_topic: must be"),
        ("[mqtt]\nbase_topic = '/'", r"mqtt\.base_topic: must be"),
        ("[mqtt]\nprotocol = '4'", r"mqtt\.protocol: .*'5' or '3\.1\.1'"),
        ("[mqtt]\nembedded_port = 70000", r"mqtt\.embedded_port: .*65535"),
        ("[comfyui]\nurls = []", r"comfyui\.urls: "),
        ("[comfyui]\nurls = ['http://a:1', 'http://b:1', 'http://a:1/']", r"comfyui\.urls: must be different"),
        ("[comfyui]\ncommand = ['a', 'b']", r"comfyui\.command: must be at most one for each of comfyui\.urls"),
        ("[comfyui]\nurls = ['127.0.0.1:8188']", r"comfyui\.urls\.0: must be an address such as http://"),
        ("[comfyui]\ndepth = 0", r"comfyui\.depth: "),
        ("[comfyui]\ndepth = 'two'", r"comfyui\.depth: .*'two'"),
        ("[jobs]\nattempts = 0", r"jobs\.attempts: "),
        ("[store]\nurl = 'bridge.db'", r"store\.url: "),
        ("[log]\nlevel = 'loud'", r"log\.level: "),
        ("mqtt = 3", r"mqtt: "),
        ("[mqtt\nurl", r"config\.toml is not TOML"),
    ],
)
def test_a_wrong_file_is_one_error_that_names_the_key(folder: Path, text: str, sentence: str) -> None:
    write(folder, text)
    with pytest.raises(SettingsError, match=sentence) as caught:
        load(environ={})
    assert caught.value.code == "settings"


def test_every_wrong_key_is_told_at_once(folder: Path) -> None:
    write(folder, "[jobs]\nattempts = 0\nmax_batsh = 1\n[log]\nlevel = 'x'\n")
    with pytest.raises(SettingsError) as caught:
        load(environ={})
    assert len(caught.value.message.splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("BRIDGE_MQT__URL", r"BRIDGE_MQT__URL: there is no section 'mqt'; did you mean 'mqtt'"),
        ("BRIDGE_MQTT_URL", r"BRIDGE_MQTT_URL: .*BRIDGE_<SECTION>__<KEY>"),
        ("BRIDGE_MQTT", r"BRIDGE_MQTT: the form is BRIDGE_MQTT__<KEY>"),
        ("BRIDGE_MQTT__BASE_TOPIK", r"base_topik: there is no such setting; did you mean 'base_topic'"),
    ],
)
def test_a_wrong_variable_is_an_error(name: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load(environ={name: "x"})


def test_a_list_in_the_environment_that_is_no_json() -> None:
    with pytest.raises(SettingsError, match=r"comfyui\.urls"):
        load(environ={"BRIDGE_COMFYUI__URLS": "[http://x"})


def test_a_file_that_is_not_text(folder: Path) -> None:
    (folder / "config.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(environ={})


def test_a_folder_in_place_of_the_file(folder: Path) -> None:
    (folder / "config.toml").mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        load(environ={})


SECRET = "hunter2hunter2"
SECRETS: dict[str, Any] = {
    "mqtt": {"password": SECRET},
    "http": {"token": SECRET},
    "webhooks": {"secret": SECRET},
}


def test_secrets_are_not_shown() -> None:
    settings = load(overrides=SECRETS, environ={})
    assert settings.mqtt.password is not None
    assert settings.mqtt.password.get_secret_value() == SECRET
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"mqtt": {"password": [SECRET]}},
        {"mqtt": {"password": {"x": SECRET}}},
        {"http": {"token": {"x": SECRET}}},
        {"webhooks": {"secret": [SECRET]}},
        {"mqtt": {"password": SECRET, "base_topik": "x"}},
        {"mqtt": {"url": f"ftp://user:{SECRET}@host"}},
        {"comfyui": {"urls": [f"ftp://user:{SECRET}@host"]}},
        {"webhooks": [SECRET]},
        {"http": [SECRET]},
        {"mqtt": [SECRET]},
    ],
)
def test_errors_do_not_show_secrets(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(overrides=wrong, environ={})
    assert SECRET not in caught.value.message
    assert SECRET not in repr(caught.value)


def test_a_misspelt_password_is_not_shown(folder: Path) -> None:
    write(folder, f"[mqtt]\npasswort = '{SECRET}'")
    with pytest.raises(SettingsError, match="did you mean 'password'") as caught:
        load(environ={})
    assert SECRET not in caught.value.message


def test_the_merge_leaves_its_sources_alone() -> None:
    overrides: dict[str, Any] = {"mqtt": {"base_topic": "x"}}
    load(overrides=overrides, environ={"BRIDGE_MQTT__USERNAME": "me"})
    assert overrides == {"mqtt": {"base_topic": "x"}}


def test_settings_do_not_change() -> None:
    settings = load(environ={})
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "mqtt", settings.mqtt)  # noqa: B010  mypy knows that it cannot be set
    assert isinstance(settings, Settings)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
sections = st.sampled_from(sorted(Settings.model_fields))
keys = st.sampled_from(["url", "urls", "password", "port", "dir", "prompt", "allowed_hosts", "depth", "x", ""])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.dictionaries(sections, json_values | st.dictionaries(keys, json_values, max_size=2), max_size=2))
def test_arbitrary_settings_are_right_or_one_error(overrides: dict[str, Any]) -> None:
    try:
        load(overrides=overrides, environ={})
    except SettingsError as error:
        assert error.message  # noqa: PT017  either is right

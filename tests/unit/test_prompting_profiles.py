"""Profiles: built in, from the settings, and their templates."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from bridge.errors import BadValue, SettingsError
from bridge.prompting.answers import read_answer
from bridge.prompting.model import SCHEMA
from bridge.prompting.profiles import Profiles
from bridge.prompting.writers import make_writer, may_share_host
from bridge.settings import OllamaSettings, Settings, load


def profiles(**settings: Any) -> Profiles:
    made = Profiles(OllamaSettings.model_validate(settings))
    made.check()
    return made


def system(made: Profiles, name: str | None, **fields: Any) -> str:
    profile = made.choose(name, suggested="sd")
    return made.system(profile, **{"idea": "a fox", "style": "", "negative": "", "images": 0, **fields})


@pytest.mark.parametrize(("name", "least", "most"), [("sd", 25, 60), ("flux", 60, 110)])
def test_the_examples_of_the_built_in_profiles_keep_their_own_rules(name: str, least: int, most: int) -> None:
    text = system(profiles(), name)
    examples = re.findall(r'^\{"prompt": .*"\}$', text, re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        assert set(json.loads(example)) == set(SCHEMA["required"])
        written = read_answer(example)
        assert written is not None
        assert least <= len(written.prompt.split()) <= most
        assert 2 <= len(written.title.split()) <= 5
        assert bool(written.negative) == (name == "sd")
        assert not re.search(r"\b(no|not|without|masterpiece|8k)\b", written.prompt)


def test_style_negative_and_pictures_are_told_where_there_are_any() -> None:
    made = profiles()
    bare = system(made, "sd")
    assert "woodcut" in system(made, "sd", style="woodcut")
    assert "nudity" in system(made, "sd", negative="nudity")
    assert "Look at it first" in system(made, "flux", images=1)
    assert "Keep to this style" not in bare
    assert "Look at it first" not in bare
    assert "{{" not in bare
    assert "{%" not in bare


def test_a_profile_of_the_settings_stands_on_a_built_in_one() -> None:
    made = profiles(
        profiles={
            "flux": {"temperature": 0.2},
            "poster": {"model": "m", "style": ["flat", "bold"], "negative": ["photo"], "options": {"num_ctx": 1}},
        }
    )
    flux, poster = made.choose("flux", suggested="sd"), made.choose("poster", suggested="sd")
    assert (flux.temperature, flux.system) == (0.2, profiles().choose("flux", suggested="sd").system)
    assert (poster.model, poster.style, poster.negative, poster.options) == ("m", "flat, bold", "photo", {"num_ctx": 1})
    assert poster.system == made.choose("sd", suggested="sd").system
    assert made.names() == ["flux", "poster", "sd"]


def test_without_a_name_the_workflow_or_the_settings_decide() -> None:
    assert profiles().choose(None, suggested="flux").name == "flux"
    assert profiles(profile="sd").choose(None, suggested="flux").name == "sd"


def test_a_system_of_the_settings_is_for_profiles_without_one() -> None:
    made = profiles(system="Draw {{ idea }}!", profiles={"own": {"system": "mine"}, "bare": {}})
    assert system(made, None) == "Draw a fox!"
    assert system(made, "bare") == "Draw a fox!"
    assert system(made, "own") == "mine"
    assert system(made, "flux") == system(profiles(), "flux")


def test_an_unknown_profile_names_those_that_there_are() -> None:
    with pytest.raises(BadValue, match="flux, sd"):
        profiles().choose("sdxl", suggested="sd")
    with pytest.raises(SettingsError, match=r"ollama\.profile: .*flux, sd"):
        profiles(profile="sdxl")


@pytest.mark.parametrize(
    "template",
    ["{{ ide }}", "{% if idea %}", "{{ idea.__class__.__mro__ }}", "{{ 1 / 0 }}", "{{ idea + 1 }}", "{{ idea() }}"],
)
def test_a_template_that_fails_is_told_at_the_start(template: str) -> None:
    with pytest.raises(SettingsError, match=r"ollama\.profiles\.own\.system: .*it knows idea, style"):
        profiles(profiles={"own": {"system": template}})


def test_an_idea_is_no_template() -> None:
    made = profiles(system="{{ idea }}")
    assert system(made, None, idea="{{ 7 * 7 }}") == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    ("one", "other", "shares"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:8188", True),
        ("http://localhost:11434", "http://[::1]:8188", True),
        ("http://gpu.lan:11434", "http://GPU.lan:8188", True),
        ("http://ollama:11434", "http://host.docker.internal:8188", True),
        ("http://192.168.1.5:11434", "http://192.168.1.6:8188", False),
        ("http://127.0.0.1:11434", "http://gpu.lan:8188", False),
    ],
)
def test_which_addresses_may_be_of_one_machine(one: str, other: str, shares: bool) -> None:
    assert may_share_host(one, other) is shares


def keep_alive(**environment: str) -> object:
    settings: Settings = load(environ={f"BRIDGE_{name}": value for name, value in environment.items()})
    return getattr(make_writer(settings), "_keep_alive", "none")


def test_the_model_leaves_the_memory_where_comfyui_may_need_it() -> None:
    assert keep_alive() == 0
    assert keep_alive(OLLAMA__URL="http://192.168.1.5:11434") is None
    assert keep_alive(OLLAMA__URL="http://192.168.1.5:11434", OLLAMA__KEEP_ALIVE="0") == 0
    assert keep_alive(OLLAMA__KEEP_ALIVE="5m") == "5m"
    assert keep_alive(OLLAMA__KEEP_ALIVE="-1") == -1


@pytest.mark.parametrize(
    ("writer", "name"),
    [
        ("ollama", "ollama"),
        ("openai:http://127.0.0.1:1234", "openai"),
        ("openai:http://127.0.0.1:1234/v1", "openai"),
        ("http://127.0.0.1:1880/prompt?x=1", "http"),
    ],
)
def test_the_writer_of_the_settings(writer: str, name: str) -> None:
    made = make_writer(load(environ={"BRIDGE_PROMPTING__WRITER": writer}))
    assert made is not None
    assert made.name == name


def test_the_writer_that_asks_a_topic_is_made_elsewhere() -> None:
    assert make_writer(load(environ={"BRIDGE_PROMPTING__WRITER": "mqtt"})) is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PROMPTING__WRITER", "gpt", r'prompting\.writer: must be "ollama", "mqtt", an address'),
        ("OLLAMA__KEEP_ALIVE", "five minutes", r"ollama\.keep_alive: must be seconds, or a text such as 5m"),
        ("PROMPTING__TIMEOUT", "0", r"prompting\.timeout"),
    ],
)
def test_wrong_settings_are_told(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(environ={f"BRIDGE_{name}": value})

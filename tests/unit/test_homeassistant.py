"""Home Assistant's devices: the documents, their templates, and when they are announced and removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import events
from bridge.core import Core
from bridge.jobs.model import Status
from bridge.jobs.store import Store
from bridge.mqtt import homeassistant
from bridge.mqtt.discovery import STATUSES, Discovery, with_removals
from bridge.mqtt.entities import MAX_CHOICES
from bridge.mqtt.homeassistant import HomeAssistant
from bridge.mqtt.message import Message
from bridge.mqtt.publisher import Publisher
from bridge.mqtt.topics import Topics
from bridge.settings import HomeAssistantSettings, MqttSettings
from tests.support.brokers import until
from tests.support.homeassistant import UNKNOWN, Entity, check
from tests.unit import test_mqtt_publisher

Json = dict[str, Any]

EXACT = 2**53 - 1


def parameter(name: str, kind: str, **more: Any) -> Json:
    return {"name": name, "title": name.capitalize(), "type": kind, "default": None, "targets": [], **more}


PARAMETERS = [
    parameter("prompt", "text", default="a fox"),
    parameter("seed", "integer", default=42, min=0, max=2**64 - 1, targets=[{"node": "3", "input": "seed"}]),
    parameter("steps", "integer", default=20, min=1, max=150),
    parameter("cfg", "number", default=7.0, min=0.0, max=100.0, step=0.1),
    parameter("sampler", "choice", default="euler", choices=["euler", "dpmpp_2m"]),
    parameter("hires", "boolean", default=True),
    parameter("image", "image", default="example.png"),
    parameter("secret", "text", hidden=True),
]


def described(name: str = "fox", *parameters: Json, **more: Any) -> Json:
    """An entry of `bridge/workflows`."""
    return {
        "name": name,
        "title": name.capitalize(),
        "path": f"{name}.json",
        "kind": "workflow",
        "parameters": list(parameters or PARAMETERS),
        "outputs": [{"node": "9", "title": "Picture", "type": "image"}],
        **more,
    }


def discovery(base: str = "comfyui") -> Discovery:
    return Discovery(Topics(base), prefix="homeassistant", version="1.2.3")


def components(*parameters: Json, **more: Any) -> Json:
    document = discovery().workflow(described("fox", *parameters, **more))
    check(document)
    return cast("Json", document["components"])


def shown(component: Json, document: Json) -> Any:
    """What an entity shows after a message on its state topic."""
    entity = Entity(component)
    entity.take(component["state_topic"], json.dumps(document).encode(), retain=True)
    return entity.state


# The documents


@pytest.mark.parametrize("base", ["comfyui", "studio/comfy", "Über_uns", "a-b"])
def test_the_documents_are_what_home_assistant_takes(base: str) -> None:
    made = discovery(base)
    bridge = made.bridge(["127-0-0-1-8188", "gpu-8188"], ["fox", "cat"], painters=["fox"])
    fox = made.workflow(described())
    for document in (bridge, fox, made.bridge(["b"], [], painters=[])):
        check(document)
        assert document["origin"] == {"name": "comfy-bridge", "sw_version": "1.2.3"}
        assert all(one["qos"] == 1 for one in document["components"].values())
        assert "~" not in json.dumps(document)
    assert fox["device"]["via_device"] in bridge["device"]["identifiers"]


def test_what_a_workflow_has() -> None:
    found = components()
    assert {one["default_entity_id"] for one in found.values()} == {
        "button.comfyui_fox_generate",
        "button.comfyui_fox_cancel",
        "text.comfyui_fox_prompt",
        "notify.comfyui_fox_prompt",
        "number.comfyui_fox_seed",
        "switch.comfyui_fox_random_seed",
        "number.comfyui_fox_steps",
        "number.comfyui_fox_cfg",
        "select.comfyui_fox_sampler",
        "switch.comfyui_fox_hires",
        "text.comfyui_fox_image",
        "sensor.comfyui_fox_status",
        "sensor.comfyui_fox_progress",
        "sensor.comfyui_fox_duration",
        "sensor.comfyui_fox_last_prompt",
        "binary_sensor.comfyui_fox_running",
        "image.comfyui_fox_result",
        "camera.comfyui_fox_preview",
        "event.comfyui_fox_job",
    }
    assert {one["command_topic"] for one in found.values() if "command_topic" in one} == {
        "comfyui/workflow/fox/queue",
        "comfyui/workflow/fox/interrupt",
        "comfyui/workflow/fox/set",  # a picture, by name or address
        *(f"comfyui/workflow/fox/set/{name}" for name in ("prompt", "seed", "steps", "cfg", "sampler", "hires")),
    }


def test_what_the_bridge_has() -> None:
    found = discovery().bridge(["a-1", "b-2"], ["fox"], painters=["fox"])["components"]
    assert {one["default_entity_id"] for one in found.values()} == {
        "text.comfyui_idea",
        "notify.comfyui_idea",
        "button.comfyui_write_prompt",
        "button.comfyui_cancel_writing",
        "select.comfyui_idea_workflow",
        "sensor.comfyui_written_prompt",
        "binary_sensor.comfyui_prompt_writer",
        "button.comfyui_free_memory",
        "button.comfyui_cancel_all",
        "sensor.comfyui_queue",
        "sensor.comfyui_version",
        "select.comfyui_loaded_workflow",
        *(f"binary_sensor.comfyui_backend_{name}" for name in ("a_1", "b_2")),
        *(f"sensor.comfyui_vram_free_{name}" for name in ("a_1", "b_2")),
    }
    many = [str(number) for number in range(MAX_CHOICES + 1)]
    for none in ([], many):
        assert "loaded_workflow" not in discovery().bridge(["a-1"], none, painters=none)["components"]
    assert "idea_workflow" not in discovery().bridge(["a-1"], many, painters=many)["components"]


def test_what_asks_the_prompt_writer_is_unavailable_without_it() -> None:
    found = discovery().bridge(["a-1"], ["fox"], painters=["fox"])["components"]
    assert {key for key, one in found.items() if "availability" in one} == {"write_prompt"}
    topics = [one["topic"] for one in found["write_prompt"]["availability"]]
    assert topics == ["comfyui/bridge/state", "comfyui/ollama/state"]


def test_commands_of_the_prompt_step() -> None:
    found = discovery().bridge(["a-1"], ["fox"], painters=["fox"])["components"]
    idea, long, workflow = (Entity(found[key]) for key in ("idea", "idea_notify", "idea_workflow"))
    assert idea.command("a fox") == ("comfyui/ollama/set/idea", "a fox")
    assert long.command("a fox, " * 100) == ("comfyui/ollama/set/idea", "a fox, " * 100)
    assert workflow.command("fox") == ("comfyui/ollama/set/workflow", "fox")
    assert workflow.command("(prompt only)") == ("comfyui/ollama/set/workflow", "")
    assert Entity(found["write_prompt"]).command() == ("comfyui/ollama/generate", "PRESS")
    assert Entity(found["cancel_writing"]).command() == ("comfyui/ollama/cancel", "PRESS")


def test_states_of_the_prompt_step() -> None:
    found = discovery().bridge(["a-1"], ["fox"], painters=["fox"])["components"]
    idea = Entity(found["idea"])
    idea.take("comfyui/ollama/values", json.dumps({"idea": "{x} " * 100, "workflow": ""}).encode(), retain=True)
    assert (idea.state, idea.attributes) == (("{x} " * 100)[:255].strip(), {"text": "{x} " * 100})
    choices = [shown(found["idea_workflow"], {"idea": "", "workflow": one}) for one in ("", "fox", "gone")]
    assert choices == ["(prompt only)", "fox", UNKNOWN]
    written = Entity(found["written_prompt"])
    result = {"id": "i", "status": "ok", "prompt": "a fox, " * 60, "negative": "text", "model": "m", "prompt_id": "p"}
    written.take("comfyui/ollama/result", json.dumps(result).encode(), retain=False)
    assert written.state == result["prompt"][:255].strip()
    assert {name: value for name, value in written.attributes.items() if value is not None} == {
        name: value for name, value in result.items() if name != "status"
    }
    failed = {"id": "i", "status": "error", "code": "timeout", "error": "the prompt was not written in time"}
    written.take("comfyui/ollama/result", json.dumps(failed).encode(), retain=False)
    assert (written.state, written.attributes["code"]) == (UNKNOWN, "timeout")


def test_every_status_of_a_job_is_known() -> None:
    assert set(STATUSES) == {"idle", *Status}


def test_what_needs_comfyui_is_unavailable_without_it() -> None:
    found = components()
    needs = {key for key, one in found.items() if "availability" in one}
    assert needs == {"generate", "progress", "running", "preview"}
    for key in needs:
        assert found[key]["availability_mode"] == "all"
        topics = [one["topic"] for one in found[key]["availability"]]
        assert topics == ["comfyui/bridge/state", "comfyui/workflow/fox/state"]
    document = discovery().workflow(described())
    assert [one["topic"] for one in document["availability"]] == ["comfyui/bridge/state"]


def test_bridges_share_a_broker_without_sharing_an_id() -> None:
    ids: list[str] = []
    topics: list[str] = []
    for base in ("comfyui", "comfyui_2", "comfyui-2", "studio/comfy", "studio-comfy", "studio_comfy"):
        made = discovery(base)
        for workflow, document in (
            *((name, made.workflow(described(name))) for name in ("fox", "2", "a_b")),
            (None, made.bridge(["b"], ["fox"], painters=["fox"])),
        ):
            ids += [one["unique_id"] for one in document["components"].values()]
            ids += document["device"]["identifiers"]
            topics.append(made.topic(workflow))
    # Two entities of a device may only differ in their platform, so their keys do.
    assert len(ids) == len(set(ids))
    assert len(topics) == len(set(topics))


@pytest.mark.parametrize("base", ["comfyui", "studio/comfy"])
def test_a_topic_tells_its_workflow(base: str) -> None:
    made = discovery(base)
    assert made.owner(made.topic()) == ""
    assert made.owner(made.topic("a_b")) == "a_b"
    assert made.owner(discovery("comfyui-2").topic()) is None
    assert made.owner("homeassistant/device/other/config") is None
    assert made.owner(f"{base}/workflow/fox/values") is None


def test_a_device_says_which_bridge_it_is_of() -> None:
    assert discovery().workflow(described())["device"]["name"] == "Fox"
    assert discovery("upstairs").workflow(described())["device"]["name"] == "Fox (upstairs)"


def test_outputs_decide_what_a_result_is() -> None:
    def outputs(*kinds: str) -> set[str]:
        found = components(*PARAMETERS, outputs=[{"node": "1", "title": "", "type": kind} for kind in kinds])
        return {"result", "text"} & found.keys()

    assert outputs("image") == {"result"}
    assert outputs("text") == {"text"}
    assert outputs("image", "text") == {"result", "text"}
    assert outputs("audio") == set()
    assert outputs() == {"result"}
    assert "last_prompt" not in components(parameter("steps", "integer"))


# Parameters


def test_numbers() -> None:
    def number(**limits: Any) -> Json:
        return cast("Json", components(parameter("x", "integer", **limits))["set_x_number"])

    def fields(component: Json) -> tuple[Any, ...]:
        return tuple(component[name] for name in ("min", "max", "step", "mode"))

    assert fields(number(min=1, max=150)) == (1, 150, 1, "slider")
    assert fields(number(min=16, max=16384, step=8)) == (16, 16384, 8, "box")
    assert fields(number()) == (-EXACT, EXACT, 1, "box")
    assert fields(number(min=0, max=2**64 - 1)) == (0, EXACT, 1, "box")
    assert fields(number(min=2**60, max=2**64)) == (-EXACT, EXACT, 1, "box")
    assert fields(number(min=9, max=3)) == (-EXACT, EXACT, 1, "box")
    fraction = components(parameter("y", "number", min=0.0, max=1.0, step=1e-9))["set_y_number"]
    assert fields(fraction) == (0.0, 1.0, 0.001, "slider")


@pytest.mark.parametrize(
    ("value", "state"),
    [(5, 5.0), (1, 1.0), (150, 150.0), (0, UNKNOWN), (151, UNKNOWN), ("random", UNKNOWN), (None, UNKNOWN)],
)
def test_a_number_beyond_its_limits_is_unknown(value: Any, state: Any) -> None:
    component = components(parameter("steps", "integer", min=1, max=150))["set_steps_number"]
    assert shown(component, {"steps": value}) == state
    assert shown(component, {}) == UNKNOWN  # the values may be those of a newer file


def test_a_seed_can_be_random() -> None:
    for name, targets in (("seed_2", []), ("noise", [{"node": "3", "input": "noise_seed"}])):
        found = components(parameter(name, "integer", min=0, max=2**64 - 1, default=7, targets=targets))
        switch = found[f"set_{name}_switch"]
        assert (switch["payload_on"], switch["payload_off"]) == ("random", "7")
        assert shown(switch, {name: "random"}) == "on"
        assert shown(switch, {name: 7}) == "off"
        assert shown(switch, {}) == "off"
        assert shown(found[f"set_{name}_number"], {name: "random"}) == UNKNOWN
        assert shown(found[f"set_{name}_number"], {name: 2**64 - 1}) == UNKNOWN
        assert shown(found[f"set_{name}_number"], {name: EXACT}) == EXACT
    for default in ("random", 2**60, -1):
        found = components(parameter("seed", "integer", min=0, default=default))
        assert found["set_seed_switch"]["payload_off"] == "0"
    assert "set_noise_switch" in components(parameter("noise", "integer", default="random"))
    assert "set_steps_switch" not in components()


def test_a_long_text_is_cut_and_whole_in_the_attributes() -> None:
    found = components()
    entity = Entity(found["set_prompt_text"])
    text = 'ünïcödé "quotes" {{ braces }} <b>\n' * 30
    entity.take("comfyui/workflow/fox/values", json.dumps({"prompt": text}).encode(), retain=True)
    assert entity.state == text[:255].strip()
    assert entity.attributes == {"text": text}
    assert Entity(found["set_prompt_notify"]).command(text) == ("comfyui/workflow/fox/set/prompt", text)
    assert shown(found["set_prompt_text"], {}) == ""
    assert shown(found["set_prompt_text"], {"prompt": None}) == ""


def test_choices() -> None:
    names = ["euler", "a 'quoted' \"name\"", "{{ x }} {% y %}", "日本 \U0001f98a", "1.5", "back\\slash"]
    found = components(parameter("sampler", "choice", choices=[*names[:4], 1.5, names[5], "euler"]))[
        "set_sampler_select"
    ]
    assert found["options"] == names
    for name in names:
        assert shown(found, {"sampler": name}) == name
    assert shown(found, {"sampler": 1.5}) == "1.5"
    for other in ("gone", None, ""):
        assert shown(found, {"sampler": other}) == UNKNOWN
    assert shown(found, {}) == UNKNOWN


def test_choices_that_are_unknown_or_too_many_are_a_text() -> None:
    for choices in ([], [str(number) for number in range(MAX_CHOICES + 1)]):
        found = components(parameter("lora", "choice", choices=choices))
        assert "set_lora_text" in found
        assert not {"set_lora_select", "set_lora_notify"} & found.keys()
        assert shown(found["set_lora_text"], {"lora": "a.safetensors"}) == "a.safetensors"
    few = [str(number) for number in range(MAX_CHOICES)]
    assert "set_lora_select" in components(parameter("lora", "choice", choices=few))


def test_a_switch() -> None:
    found = components()["set_hires_switch"]
    assert [shown(found, values) for values in ({"hires": True}, {"hires": False}, {})] == ["on", "off", "off"]


def test_a_picture_is_set_by_name_or_address() -> None:
    found = components()["set_image_text"]
    for value, sent in (
        ("cat.png", {"image": "cat.png"}),
        ('it\'s "my" <cat>.png', {"image": 'it\'s "my" <cat>.png'}),
        ("https://example.org/a.png?x=1&y=2", {"image": {"url": "https://example.org/a.png?x=1&y=2"}}),
    ):
        topic, payload = Entity(found).command(value)
        assert (topic, json.loads(payload)) == ("comfyui/workflow/fox/set", sent)
    assert shown(found, {"image": "cat.png"}) == "cat.png"
    assert shown(found, {"image": {"filename": "door.jpg", "sha256": "abc"}}) == "door.jpg"
    assert shown(found, {}) == ""


def test_a_hidden_parameter_is_not_shown() -> None:
    assert not [key for key in components() if "secret" in key]


kinds = st.sampled_from(["text", "integer", "number", "boolean", "choice", "image", "video", "audio", "file"])
limits = st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
anything = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(
    st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True),
    kinds,
    st.fixed_dictionaries(
        {"min": limits, "max": limits, "step": st.none() | st.floats(1e-12, 1e12), "default": anything}
    ),
    st.lists(st.text(max_size=20).map(str.strip).filter(bool) | st.integers() | st.floats(allow_nan=False), max_size=6),
    st.text(max_size=30),
    anything,
)
def test_any_parameter_makes_entities_that_any_value_fits(
    name: str, kind: str, numbers: Json, choices: list[Any], title: str, value: Any
) -> None:
    known = {key: one for key, one in numbers.items() if one is not None}
    found = components(parameter(name, kind, choices=choices, **known) | {"title": title})
    for component in found.values():
        if component.get("state_topic") == "comfyui/workflow/fox/values":
            shown(component, {name: value})
            json.dumps(component)


# Templates of what is not a parameter


def test_states() -> None:
    found = components(outputs=[{"node": "1", "title": "", "type": kind} for kind in ("text", "image")])
    idle = {"id": None, "status": "idle", "workflow": "fox", "percent": 0.0}
    status = {"id": "x", "status": "running", "position": None, "percent": 41.6, "error": None}
    assert shown(found["status"], idle) == "idle"
    assert [shown(found["status"], {**status, "status": word}) for word in STATUSES] == list(STATUSES)
    assert shown(found["progress"], status) == 42
    assert shown(found["progress"], idle) == 0
    running = {word: shown(found["running"], {**status, "status": word}) for word in STATUSES}
    assert {word for word, state in running.items() if state == "on"} == {"preparing", "running", "finishing"}
    result = {
        "values": {"prompt": "x" * 999, "seed": 1},
        "timings": {"queued": 100.0, "preparing": 0.25, "running": 2.0, "finishing": 0.5},
        "text": [{"node": "1", "text": "a fox"}, {"node": "2", "text": "<red>"}],
    }
    assert shown(found["duration"], result) == 2.8
    assert shown(found["duration"], {"timings": {"queued": 1.0}}) == 0
    for key, state, attributes in (
        ("last_prompt", "x" * 255, result["values"]),
        ("text", "a fox\n<red>", {"text": "a fox\n<red>"}),
    ):
        entity = Entity(found[key])
        entity.take("comfyui/workflow/fox/result", json.dumps(result).encode(), retain=True)
        assert (entity.state, entity.attributes) == (state, attributes)
    assert shown(found["last_prompt"], {"values": {}}) == ""


def test_states_of_the_bridge() -> None:
    found = discovery().bridge(["a-1"], ["fox", "cat"], painters=["cat"])["components"]
    assert shown(found["queue"], {"waiting_count": 3}) == 3
    assert shown(found["version"], {"version": "0.1.0"}) == "0.1.0"
    assert [shown(found["loaded_workflow"], {"loaded": one}) for one in ("cat", None, "new")] == [
        "cat",
        UNKNOWN,
        UNKNOWN,
    ]
    backend = found["backend_a-1"]
    for payload, state in ((b"online", "on"), (b"offline", "off")):
        entity = Entity(backend)
        entity.take(backend["state_topic"], payload, retain=True)
        assert entity.state == state
    vram = found["vram_free_a-1"]
    assert shown(vram, {"backends": {"a-1": {"devices": [{"vram_free": 6_442_450_944}]}}}) == 6.44
    without: tuple[Json, ...] = (
        {"a-1": {"state": "offline"}},
        {"a-1": {"devices": []}},
        {"a-1": {"devices": [{"vram_free": None}]}},
        {},
    )
    for health in without:
        assert shown(vram, {"backends": health}) == UNKNOWN


# Removal


def test_what_went_is_reduced_to_its_platform_and_stays_so() -> None:
    before = components()
    after = with_removals(components(PARAMETERS[0]), before)
    assert after["set_steps_number"] == {"platform": "number"}
    assert after["set_prompt_text"] == before["set_prompt_text"]
    assert with_removals(after, after) == after
    assert with_removals(before, after) == before
    check(discovery().workflow(described()) | {"components": after})


def test_a_parameter_that_becomes_a_choice_moves_to_another_key() -> None:
    before = components(parameter("lora", "choice"))
    after = with_removals(components(parameter("lora", "choice", choices=["a"])), before)
    assert after["set_lora_text"] == {"platform": "text"}
    assert after["set_lora_select"]["options"] == ["a"]


def test_parameters_keep_what_was_announced_while_comfyui_is_unknown() -> None:
    before = with_removals(components(), components(parameter("old", "text")))
    knows_less = described(
        "fox", parameter("sampler", "choice"), parameter("steps", "integer"), parameter("new", "text")
    )
    after = discovery().workflow(knows_less, before)["components"]
    assert after["set_sampler_select"] == before["set_sampler_select"]
    assert after["set_steps_number"] == before["set_steps_number"]
    assert "set_new_text" in after
    assert not {"set_sampler_text", "set_prompt_text", "set_old_text"} & after.keys()


# When


@dataclass
class FakeCore(test_mqtt_publisher.FakeCore):
    """As much of the core as is asked."""

    documents: list[Json] = field(default_factory=lambda: [described("fox"), described("cat")])
    broken: set[str] = field(default_factory=set)
    knows: bool = True

    def workflows(self) -> Json:
        return {"loaded": None, "workflows": self.documents, "problems": []}

    def workflow_names(self) -> tuple[str, ...]:
        return tuple(one["name"] for one in self.documents)

    def painters(self) -> list[str]:
        return [*self.workflow_names()]

    def has_file(self, name: str) -> bool:
        return name in {*self.workflow_names(), *self.broken}

    def knows_nodes(self) -> bool:
        return self.knows


class Side:
    """A publisher and what announces, with everything that they sent."""

    def __init__(self, store: Store, core: FakeCore, base: str, **settings: Any) -> None:
        self.core = core
        self.sent: list[Message] = []
        self.discovery = Discovery(Topics(base), prefix=settings.get("prefix", "homeassistant"), version="")
        self.publisher = Publisher(
            *(cast("Core", core), store, Topics(base), MqttSettings(), self._send),
            elsewhere=self._stays,
        )
        made = HomeAssistantSettings(**settings)
        self.homeassistant = HomeAssistant(cast("Core", core), store, Topics(base), made, self.publisher)

    def _send(self, message: Message, *, on_acknowledged: Callable[[], None] | None = None, **_: Any) -> None:
        self.sent.append(message)
        if on_acknowledged is not None:
            on_acknowledged()

    def _stays(self, topic: str) -> bool:
        return self.homeassistant.keeps(topic)

    def announced(self, name: str | None = None) -> list[Json | None]:
        """The documents of a device, in their order; None for its removal."""
        topic = self.discovery.topic(name)
        assert all(one.retain and one.qos == 1 for one in self.sent if one.topic == topic)
        return [json.loads(one.payload) if one.payload else None for one in self.sent if one.topic == topic]

    def devices(self) -> list[str]:
        return [one.topic.split("/")[-2] for one in self.sent if one.topic.endswith("/config") and one.payload]

    def change(self) -> None:
        self.publisher.listen(events.WorkflowsChanged())
        self.homeassistant.listen(events.WorkflowsChanged())


Started = Callable[..., Any]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    """A start of the bridge; each has the store of the one before."""
    monkeypatch.setattr(homeassistant, "_SETTLE", 0.01)
    monkeypatch.setattr(homeassistant, "_AFTER_BIRTH", (0.01, 0.02))
    monkeypatch.setattr(homeassistant, "_PATIENCE", 0.1)

    @asynccontextmanager
    async def start(core: FakeCore | None = None, base: str = "comfyui", **settings: Any) -> AsyncIterator[Side]:
        async with Store(f"sqlite:///{tmp_path / 'x.db'}", keep=1e6) as store:
            side = Side(store, core or FakeCore(), base, **settings)
            await side.publisher.start()
            await side.homeassistant.start()
            side.publisher.greet()
            yield side
            side.homeassistant.close()
            side.publisher.say_goodbye()

    return start


async def test_everything_is_announced_before_the_bridge_is_online(started: Started) -> None:
    async with started() as side:
        assert side.devices()[:3] == ["comfy-bridge_comfyui", "comfy-bridge_comfyui__fox", "comfy-bridge_comfyui__cat"]
        assert "comfyui/bridge/state" not in [one.topic for one in side.sent]
        for name in (None, "fox", "cat"):
            check(side.announced(name)[0])


async def test_it_is_announced_again_after_a_reconnect(started: Started) -> None:
    async with started() as side:
        side.sent.clear()
        side.publisher.greet()
        assert sorted(side.devices()) == sorted(
            ["comfy-bridge_comfyui", "comfy-bridge_comfyui__cat", "comfy-bridge_comfyui__fox"]
        )


@pytest.mark.parametrize("retain", [False, True])
async def test_it_is_announced_again_when_home_assistant_starts(started: Started, retain: bool) -> None:
    async with started(prefix="ha") as side:
        side.sent.clear()
        assert side.homeassistant.subscriptions == ("ha/status",)
        for payload in (b"offline", b"", b"online", b"online"):
            assert side.homeassistant.receive(Message("ha/status", payload, retain=retain))
        assert not side.sent
        await until(lambda: len(side.sent) == 3)
        assert len(side.devices()) == 3
        assert not side.homeassistant.receive(Message("comfyui/load", b"online"))


async def test_a_change_is_announced_once_and_nothing_else(started: Started) -> None:
    async with started() as side:
        side.sent.clear()
        side.core.documents[0] = described("fox", PARAMETERS[0])
        for _ in range(5):
            side.change()
        await until(lambda: side.announced("fox"))
        (fox,) = side.announced("fox")
        assert fox["components"]["set_steps_number"] == {"platform": "number"}
        assert not side.announced("cat")
        assert not side.announced()


async def test_a_workflow_that_went_takes_its_device_with_it(started: Started) -> None:
    async with started() as side:
        side.sent.clear()
        del side.core.documents[1]
        side.change()
        cleared = [one.topic for one in side.sent if not one.payload]
        assert cleared[0] == side.discovery.topic("cat")
        assert "comfyui/workflow/cat/values" in cleared
        await until(side.announced)
        assert side.announced()[0]["components"]["loaded_workflow"]["options"] == ["fox"]
        side.core.documents.append(described("cat"))
        side.change()
        await until(lambda: len(side.announced("cat")) == 2)
        assert side.announced("cat")[1] == discovery().workflow(described("cat")) | {
            key: side.announced("cat")[1][key] for key in ("device", "origin")
        }


async def test_a_later_start_knows_what_was_announced(started: Started) -> None:
    async with started():
        pass
    async with started(FakeCore(documents=[described("fox", PARAMETERS[0])])) as side:
        assert side.announced("cat") == [None]
        assert side.announced("fox")[0]["components"]["set_steps_number"] == {"platform": "number"}
    async with started(FakeCore(documents=[described("fox", PARAMETERS[0])])) as side:
        assert not side.announced("cat")
        assert side.announced("fox")[0]["components"]["set_steps_number"] == {"platform": "number"}


async def test_a_broken_file_keeps_its_device(started: Started) -> None:
    async with started():
        pass
    async with started(FakeCore(documents=[described("fox")], broken={"cat"})) as side:
        assert side.announced("cat") == []
    async with started(FakeCore(documents=[described("fox"), described("cat", PARAMETERS[0])])) as side:
        assert side.announced("cat")[0]["components"]["set_steps_number"] == {"platform": "number"}


async def test_what_comfyui_has_not_told_yet_is_waited_for(started: Started) -> None:
    core = FakeCore(documents=[described("fox", parameter("lora", "choice"))], knows=False)
    async with started(core) as side:
        assert side.devices() == ["comfy-bridge_comfyui", "comfy-bridge_comfyui"]
        core.documents, core.knows = [described("fox", parameter("lora", "choice", choices=["a"]))], True
        side.change()
        await until(lambda: side.announced("fox"))
        assert "set_lora_select" in side.announced("fox")[0]["components"]
        assert "set_lora_text" not in side.announced("fox")[0]["components"]
    # The next start finds ComfyUI away, and nothing changes.
    core.documents, core.knows = [described("fox", parameter("lora", "choice"))], False
    async with started(core) as side:
        assert side.announced("fox") == []
        await until(lambda: side.announced("fox"))
        for document in side.announced("fox"):
            assert document["components"]["set_lora_select"]["options"] == ["a"]


async def test_it_is_not_waited_for_without_end(started: Started) -> None:
    async with started(FakeCore(documents=[described("fox", parameter("lora", "choice"))], knows=False)) as side:
        await until(lambda: side.announced("fox"))
        assert "set_lora_text" in side.announced("fox")[0]["components"]


async def test_switched_off_it_says_nothing_and_clears_what_it_said(started: Started) -> None:
    async with started():
        pass
    async with started(discovery=False) as side:
        assert side.homeassistant.subscriptions == ()
        for name in (None, "fox", "cat"):
            assert side.announced(name) == [None]
        side.change()
        assert not side.homeassistant.receive(Message("homeassistant/status", b"online"))
        assert not side.devices()
    async with started(FakeCore(documents=[described("fox", PARAMETERS[0])])) as side:
        assert "set_steps_number" not in side.announced("fox")[0]["components"]


@pytest.mark.parametrize("other", [{"base": "upstairs"}, {"prefix": "ha"}])
async def test_another_base_topic_or_prefix_clears_the_old_devices(started: Started, other: Json) -> None:
    async with started():
        pass
    async with started(**other) as side:
        old = {one.topic for one in side.sent if not one.payload and one.topic.startswith("homeassistant/")}
        assert old == {discovery().topic(name) for name in (None, "fox", "cat")}
        assert len(set(side.devices())) == 3


@pytest.mark.parametrize("prefix", ["", "#", "home/+/x", "a b", "a//b"])
def test_a_prefix_is_a_topic(prefix: str) -> None:
    with pytest.raises(ValueError, match="topic without"):
        HomeAssistantSettings(prefix=prefix)

"""Every topic of the design: commands are parsed, what goes out is never a command, filters do not overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.mqtt.topics import VERBS, Command, Topics

BASES = ["comfyui", "home/comfy", "a/workflow/b", "load", "update/queue"]


def matches(pattern: str, topic: str) -> bool:
    """Tell whether an MQTT filter matches a topic (MQTT 5, section 4.7)."""
    wanted, levels = pattern.split("/"), topic.split("/")
    if levels[0].startswith("$") and wanted[0] in {"+", "#"}:
        return False
    for n, level in enumerate(wanted):
        if level == "#":
            return True
        if n >= len(levels) or level not in {"+", levels[n]}:
            return False
    return len(wanted) == len(levels)


def test_the_matcher_of_this_test() -> None:
    assert matches("a/#", "a")
    assert matches("a/#", "a/b/c")
    assert matches("a/+/c", "a/b/c")
    assert not matches("a/+", "a")
    assert not matches("a/+", "a/b/c")
    assert not matches("a/b", "a/b/c")


COMMANDS = [
    ("load", Command("load", "load")),
    ("update/text", Command("update/text", "update/text")),
    ("update/text/6", Command("update/text", "update/text", argument="6")),
    ("update/text/12:5", Command("update/text", "update/text", argument="12:5")),
    ("update/text/positive-prompt", Command("update/text", "update/text", argument="positive-prompt")),
    ("update/image", Command("update/image", "update/image")),
    ("update/image/46", Command("update/image", "update/image", argument="46")),
    ("update/values", Command("update/values", "update/values")),
    ("queue", Command("queue", "queue")),
    ("interrupt", Command("interrupt", "interrupt")),
    ("workflow/fox/set", Command("workflow/fox/set", "set", "fox")),
    ("workflow/fox/set/seed", Command("workflow/fox/set", "set", "fox", "seed")),
    ("workflow/fox/set/6.text", Command("workflow/fox/set", "set", "fox", "6.text")),
    ("workflow/sdxl-txt2img/queue", Command("workflow/sdxl-txt2img/queue", "queue", "sdxl-txt2img")),
    ("workflow/fox/interrupt", Command("workflow/fox/interrupt", "interrupt", "fox")),
    *((f"bridge/request/{verb}", Command(f"bridge/request/{verb}", "request", argument=verb)) for verb in VERBS),
]
UNKNOWN = [
    "update",
    "update/",
    "update/values/x",
    "update/sound",
    "load/fox",
    "interrupt/0c1f6a0e",
    "bridge/request/nonsense",
    "bridge/request/a/b",
]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_command(base: str, name: str, command: Command) -> None:
    topics = Topics(base)
    assert topics.parse(f"{base}/{name}") == command
    assert sum(matches(one, f"{base}/{name}") for one in topics.filters()) == 1


def test_the_verbs_that_the_design_names_are_there() -> None:
    assert {"health", "workflows", "reload", "jobs", "job", "free", "log_level"} <= set(VERBS)


@pytest.mark.parametrize("name", [*UNKNOWN, "workflow//queue", "workflow//set/seed"])
def test_what_looks_like_a_command_is_answered_as_an_unknown_one(name: str) -> None:
    command = Topics("comfyui").parse(f"comfyui/{name}")
    assert command is not None
    assert command.kind == "unknown"


@pytest.mark.parametrize(
    "topic",
    [
        "comfyui",
        "comfyui/",
        "comfyui/x",
        "other/queue",
        "comfyuiqueue",
        "queue",
        "comfyui/queue/x",
        "",
    ],
)
def test_what_is_no_command(topic: str) -> None:
    assert Topics("comfyui").parse(topic) is None


words = st.sampled_from(
    [
        "load",
        "update",
        "text",
        "image",
        "queue",
        "interrupt",
        "workflow",
        "fox",
        "set",
        "bridge",
        "request",
        "health",
        "",
    ]
)
paths = st.lists(words | st.text("ab-_.:", max_size=3), min_size=1, max_size=6).map("/".join)


@given(st.sampled_from(BASES), paths)
def test_filters_do_not_overlap_and_what_they_bring_is_answered(base: str, path: str) -> None:
    topics = Topics(base)
    topic = f"{base}/{path}"
    hits = [one for one in topics.filters() if matches(one, topic)]
    assert len(hits) <= 1
    if hits:
        # A message that we subscribe to is never dropped in silence.
        assert topics.parse(topic) is not None
    else:
        assert topics.parse(topic) is None


def out_topics(topics: Topics, name: str, event: str) -> list[str]:
    return [
        *(topics.bridge(what) for what in ("state", "info", "health", "workflows", "log")),
        *(topics.response(command.name) for _, command in COMMANDS),
        *(topics.response(name) for name in UNKNOWN),
        topics.queue_state(),
        topics.backend(name, "state"),
        topics.backend_event(name, event),
        *(topics.prompt(name, what) for what in ("status", "result", "preview")),
        topics.prompt_event(name, event),
        topics.output(name, 0),
        *(
            topics.workflow(name, what)
            for what in ("state", "values", "status", "image", "result", "preview", "progress", "event")
        ),
    ]


names = st.sampled_from(["fox", "set", "queue", "interrupt", "request", "load", "u6587", "a-b_c"])


@given(
    st.sampled_from(BASES), names, st.text(min_size=1, max_size=8) | st.sampled_from(["queue", "a/b", "+", "#", ".."])
)
def test_what_goes_out_is_no_command_and_a_valid_topic(base: str, name: str, event: str) -> None:
    topics = Topics(base)
    for topic in out_topics(topics, name, event):
        assert topics.parse(topic) is None, topic
        assert not any(matches(one, topic) for one in topics.filters())
        assert topic.startswith(f"{base}/")
        assert not set(topic) & set("+#\x00 \n")
        assert "//" not in topic
        topic.encode()


def test_the_topics_of_the_design() -> None:
    topics = Topics("comfyui")
    assert topics.output("id", 3) == "comfyui/prompt/id/output/3"
    assert topics.prompt_event("id", "execution_start") == "comfyui/prompt/id/event/execution_start"
    assert topics.backend("127-0-0-1-8188", "state") == "comfyui/backend/127-0-0-1-8188/state"
    assert topics.backend_event("b", "status") == "comfyui/backend/b/event/status"
    assert topics.response("workflow/fox/set") == "comfyui/response/workflow/fox/set"
    assert topics.queue_state() == "comfyui/queue/state"


@pytest.mark.parametrize(
    ("event", "level"),
    [
        ("execution_start", "execution_start"),
        ("impact-node/feedback", "impact-node-feedback"),
        ("a b", "a-b"),
        ("+#", "other"),
        ("", "other"),
        ("日本", "other"),
    ],
)
def test_an_event_type_is_one_level(event: str, level: str) -> None:
    assert Topics("c").prompt_event("id", event) == f"c/prompt/id/event/{level}"


def test_owners() -> None:
    topics = Topics("home/comfy")
    assert topics.owner("home/comfy/workflow/fox/values") == ("workflow", "fox")
    assert topics.owner("home/comfy/backend/b/state") == ("backend", "b")
    assert topics.owner("home/comfy/bridge/info") == ("", "")
    assert topics.owner("comfyui/workflow/fox/values") is None

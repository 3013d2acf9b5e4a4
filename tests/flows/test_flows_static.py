"""The flow files, without Node-RED: ids, wires, types, topics, environment, and nothing of one machine in them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.mqtt.topics import Topics
from tests.flows.node_red import FLOWS, Node, flow, names

BASE = "studio/comfy"
TOPICS = Topics(BASE)

CORE = {
    *("tab", "subflow", "comment", "inject", "debug", "function", "change", "template", "trigger", "delay", "rbe"),
    *("catch", "status", "mqtt-broker", "mqtt in", "mqtt out", "http in", "http response", "http request"),
    *("websocket-client", "websocket in"),
}
DASHBOARD = {"ui-base", "ui-page", "ui-theme", "ui-group", "ui-template"}
CONFIGURATION = {"mqtt-broker", "websocket-client", *DASHBOARD} - {"ui-template"}

ENVIRONMENT = {
    *("MQTT_HOST", "MQTT_PORT", "BRIDGE_TOPIC", "COMFY_WORKFLOW"),
    *("SENSOR_TOPIC", "SENSOR_KEY", "SENSOR_QUIET", "SENSOR_EVERY", "GALLERY_PICTURES"),
    *("WATCH_PATIENCE", "ALERT_TOPIC", "ALERT_URL"),
    *("OLLAMA_URL", "OLLAMA_MODEL", "OLLAMA_VISION_MODEL", "OLLAMA_KEEP_ALIVE"),
    *("BRIDGE_URL", "BRIDGE_TOKEN", "RELAY_URL", "PROMPT_NODE", "RELAY_PATIENCE"),
}

# What the bridge publishes and the flows listen to, as the bridge itself builds it.
SAID = {
    TOPICS.bridge("state"),
    TOPICS.bridge("health"),
    TOPICS.bridge("workflows"),
    TOPICS.backend("+", "state"),
    TOPICS.ollama("state"),
    TOPICS.ollama("result"),
    TOPICS.ollama("stream/prompt"),
    TOPICS.prompting_request(),
    *(TOPICS.response(command) for command in ("queue", "ollama/generate")),
    *(TOPICS.prompt("+", what) for what in ("status", "preview", "result", "output/+")),
    *(TOPICS.workflow("+", what) for what in ("values", "status", "preview", "image", "event")),
}


def everything() -> Iterator[tuple[str, Node]]:
    for name in names():
        for node in flow(name):
            yield name, node


def of_type(kind: str) -> Iterator[tuple[str, Node]]:
    return ((name, node) for name, node in everything() if node["type"] == kind)


def texts(value: Any) -> Iterator[str]:
    """Every text in a node."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def environment(node: Node) -> dict[str, str]:
    """The variables of a tab or a subflow; `env` and `jsonata` as Node-RED makes them, with nothing set outside."""
    found = {}
    for one in node.get("env", []):
        default = re.fullmatch(r'\(\$v := \$env\("\w+"\); \$v \? \$v : "(.*)"\)', one["value"])
        found[one["name"]] = default[1] if default else one["value"]
    if "BASE" in found:
        assert found["BASE"] == "comfyui", node["id"]
        found["BASE"] = BASE
    return {name: value.replace("${BASE}", BASE) for name, value in found.items()}


def scope_of(name: str, node: Node) -> dict[str, str]:
    return environment(next(one for one in flow(name) if one["id"] == node["z"]))


def test_all_seven_are_there() -> None:
    assert names() == [
        "01-generate",
        "02-idea-to-image",
        "03-sensor-to-art",
        "04-gallery",
        "05-watchdog",
        "06-prompt-writer",
        "07-http-relay",
    ]


@pytest.mark.parametrize("name", names())
def test_a_file_is_as_node_red_exports_it(name: str) -> None:
    text = (FLOWS / f"{name}.json").read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", names())
def test_each_file_has_one_tab_with_all_that_belongs_to_it(name: str) -> None:
    nodes = flow(name)
    (tab,) = [one for one in nodes if one["type"] == "tab"]
    assert len(tab["info"]) > 200
    assert "Environment:" in tab["info"]
    homes = {tab["id"], *(one["id"] for one in nodes if one["type"] == "subflow")}
    for one in nodes:
        if one["type"] in {"tab", "subflow", *CONFIGURATION}:
            assert "z" not in one, one["id"]
        else:
            assert one["z"] in homes, one["id"]
    mine = [one["type"] for one in nodes if one.get("z") == tab["id"]]
    assert mine.count("catch") == 1
    assert mine.count("status") == 1
    (comment,) = [one for one in nodes if one["type"] == "comment" and one["z"] == tab["id"]]
    assert "payload" in comment["name"]
    assert len(comment["info"]) > 100


def test_ids_are_unique_but_for_the_broker() -> None:
    counts = Counter(node["id"] for _, node in everything())
    assert {one: count for one, count in counts.items() if count > 1} == {"comfy-broker": len(names())}


def test_the_broker_is_the_same_everywhere() -> None:
    brokers = [node for _, node in of_type("mqtt-broker")]
    assert all(one == brokers[0] for one in brokers)
    assert (brokers[0]["broker"], brokers[0]["port"]) == ("${MQTT_HOST}", "${MQTT_PORT}")
    # 3.1.1 is what every broker speaks, the built-in one of the bridge too.
    assert brokers[0]["protocolVersion"] == "4"
    for _, node in everything():
        if node["type"] in {"mqtt in", "mqtt out"}:
            assert node["broker"] == brokers[0]["id"]


@pytest.mark.parametrize("name", names())
def test_wires_lead_to_nodes_of_the_same_tab(name: str) -> None:
    nodes = {one["id"]: one for one in flow(name)}
    reached = set()
    for one in nodes.values():
        for target in [target for wire in one.get("wires", []) for target in wire]:
            assert nodes[target]["z"] == one["z"], f"{one['id']} leads to {target}"
            reached.add(target)
        for scope in one.get("scope") or []:
            assert nodes[scope]["z"] == one["z"], f"{one['id']} watches {scope}"
        if one["type"] == "function":
            assert len(one["wires"]) == one["outputs"], one["id"]
        if one["type"] == "subflow":
            doors = [*one["in"], *one["out"], one["status"]]
            inside = [wire["id"] for door in doors for wire in door["wires"]]
            assert {nodes[node]["z"] for node in inside} == {one["id"]}
            reached.update(wire["id"] for door in one["in"] for wire in door["wires"])
        if one["type"].startswith("subflow:"):
            kind = nodes[one["type"].removeprefix("subflow:")]
            assert len(one["wires"]) == len(kind["out"])
    sources = {"mqtt in", "inject", "catch", "status", "http in", "websocket in", "comment", "tab", "subflow"}
    for one in nodes.values():
        if one["type"] not in sources | CONFIGURATION:
            assert one["id"] in reached, f"nothing leads to {one['id']}"


@pytest.mark.parametrize("name", names())
def test_there_are_core_nodes_only(name: str) -> None:
    subflows = {f"subflow:{one['id']}" for one in flow(name) if one["type"] == "subflow"}
    kinds = {one["type"] for one in flow(name)} - subflows
    assert kinds <= CORE | (DASHBOARD if name == "04-gallery" else set())


def test_what_is_listened_to_is_what_the_bridge_says() -> None:
    used = set()
    for name, node in of_type("mqtt in"):
        variable = re.fullmatch(r"\$\{(\w+)\}", node["topic"])
        assert variable, f"{node['id']}: Node-RED replaces a variable only where it is the whole property"
        topic = scope_of(name, node)[variable[1]]
        if node["id"] == "sensor-reading":
            assert topic == "sensor/temperature"
            continue
        assert topic in SAID, f"{node['id']} listens to {topic}"
        used.add(topic)
    assert used == SAID


def test_no_two_filters_overlap() -> None:
    """Brokers may send a message once for each of a client's filters that match; nodes of one filter share it."""

    def overlap(one: str, other: str) -> bool:
        first, second = one.split("/"), other.split("/")
        return len(first) == len(second) and all(a == b or "+" in (a, b) for a, b in zip(first, second, strict=True))

    filters = sorted(SAID)
    for number, one in enumerate(filters):
        for other in filters[number + 1 :]:
            assert not overlap(one, other), (one, other)


def test_what_is_sent_is_a_command() -> None:
    sent = set()
    for _, node in of_type("function"):
        for tail in re.findall(r'topic: `\$\{env\.get\("BASE"\)\}/([^`]+)`', node["func"]):
            command = TOPICS.parse(TOPICS.command(re.sub(r"\$\{[^}]+\}", "0c1f", tail)))
            assert command is not None, f"{node['id']} sends to {tail}"
            assert command.kind != "unknown", f"{node['id']} sends to {tail}"
            sent.add(command.kind)
    assert sent == {"queue", "interrupt", "ollama/generate", "prompting/response"}
    for _, node in of_type("mqtt out"):
        assert (node["topic"], node["retain"]) == ("", "false")


def test_nothing_belongs_to_one_machine() -> None:
    for name, node in everything():
        for key in ("credentials", "user", "username", "password", "token"):
            assert key not in node, f"{name}: {node['id']}"
        for text in texts(node):
            assert not re.search(r"(https?|wss?|mqtts?)://", text), f"{name}: {node['id']}: {text[:80]}"
            assert not re.search(r"\b\d{1,3}(\.\d{1,3}){3}\b|localhost", text), f"{name}: {node['id']}"


def test_the_environment_is_used_and_explained() -> None:
    used: set[str] = set()
    explained = (FLOWS / "README.md").read_text(encoding="utf-8")
    for name in names():
        mine: set[str] = set()
        own = {one["name"] for node in flow(name) for one in node.get("env", [])}
        for text in (text for node in flow(name) for text in texts(node)):
            mine |= set(re.findall(r'env(?:\.get)?\("(\w+)"\)', text)) | set(re.findall(r"\$\{([A-Z_]+)\}", text))
        mine -= own - ENVIRONMENT
        (tab,) = [one for one in flow(name) if one["type"] == "tab"]
        for variable in mine - ({"MQTT_HOST", "MQTT_PORT"} if name == "07-http-relay" else set()):
            assert f"`{variable}`" in tab["info"], f"the description of {name} does not name {variable}"
        used |= mine
    assert used == ENVIRONMENT
    for variable in ENVIRONMENT:
        assert f"`{variable}`" in explained, f"flows/README.md does not name {variable}"


def test_packages_have_exact_versions_and_no_lock_file() -> None:
    package = json.loads((FLOWS / "package.json").read_text(encoding="utf-8"))
    assert set(package["dependencies"]) == {"node-red", "@flowfuse/node-red-dashboard"}
    for version in package["dependencies"].values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert not (FLOWS / "package-lock.json").exists()

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BridgeError, InvalidGraph, UiFormat
from bridge.workflow.graph import (
    copy_graph,
    flow_order,
    is_json,
    is_link,
    links,
    named,
    own_title,
    read_graph,
    slug,
    title,
)
from tests.unit.workflow_graphs import graph_of, node, recorded, recorded_graphs, txt2img

SAVE = {"class_type": "SaveImage", "inputs": {}}


@pytest.mark.parametrize("name", recorded_graphs())
def test_recorded_graphs_are_read_as_they_are(name: str) -> None:
    document = recorded_graphs()[name]
    assert read_graph(document) == document


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": {"1": SAVE}, "client_id": "abc", "extra_data": {}},
        {"output": {"1": SAVE}, "workflow": {"nodes": []}},
        {"input": {"workflow": {"1": SAVE}, "images": []}},
        {"input": {"request_id": "", "workflow_json": {"1": SAVE}}},
        {"1": SAVE, "note": "made by hand", "workflow": {"name": "fox"}},
        {"1": SAVE, "version": 0.4, "extra_data": {"a": 1}, "_comment": "mine"},
        {"1": SAVE, "workflow": {"nodes": [], "links": []}},
        {1: {"class_type": "SaveImage"}},
        {"1": {"class_type": "SaveImage", "inputs": {}, "_meta": None}},
    ],
)
def test_wrappings_and_what_stands_beside_the_nodes_are_dropped(document: Any) -> None:
    before = copy.deepcopy(document)
    assert read_graph(document) == {"1": SAVE}
    assert document == before


def test_unknown_keys_of_a_node_are_kept() -> None:
    entry = {**SAVE, "is_changed": [1.0], "_meta": {"title": "Out", "color": 3}}
    assert read_graph({"1": entry}) == {"1": entry}


def test_a_node_of_the_id_prompt_is_a_node() -> None:
    assert read_graph({"prompt": SAVE}) == {"prompt": SAVE}


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"prompt": d}, lambda d: {"workflow": d}])
def test_a_file_of_the_editor_is_refused_with_the_menu_entry(wrap: Any) -> None:
    with pytest.raises(UiFormat, match=r"Workflow > Export \(API\).*Save \(API Format\)") as caught:
        read_graph(wrap(recorded("e_validation/ui_format.json")), where="fox.json")
    assert caught.value.code == "ui_format"
    assert caught.value.message.startswith("fox.json")


def linked(value: Any) -> dict[str, Any]:
    return {"1": {"class_type": "EmptyImage"}, "2": {"class_type": "SaveImage", "inputs": {"images": value}}}


@pytest.mark.parametrize(
    ("document", "node_id", "words"),
    [
        (None, None, "null"),
        ([], None, "a list"),
        ("{}", None, "a text"),
        (b"{}", None, "raw bytes"),
        ({}, None, "no nodes"),
        ({"prompt": {}}, None, "no nodes"),
        ({"version": 1}, None, "no nodes"),
        ({"3": None}, "3", "'3' of the workflow is null"),
        ({"3": [1]}, "3", "class_type"),
        ({"prompt": [1]}, "prompt", "a list"),
        ({"3": {"inputs": {}}}, "3", "no class_type"),
        ({"3": {"class_type": ""}}, "3", "empty class_type"),
        ({"3": {"class_type": 5}}, "3", "a whole number as class_type"),
        ({"3": {"class_type": "A", "inputs": None}}, "3", "null as inputs"),
        ({"3": {"class_type": "A", "inputs": []}}, "3", "a list as inputs"),
        ({"3": {"class_type": "A", "inputs": {5: 1}}}, "3", "names are texts"),
        ({"3": {"class_type": "A", "inputs": {"x": float("nan")}}}, "3", "'x'.*finite number"),
        ({"3": {"class_type": "A", "inputs": {"x": [1, {"y": float("inf")}]}}}, "3", "'x'.*finite number"),
        ({"3": {"class_type": "A", "inputs": {"x": b"1"}}}, "3", "'x'.*raw bytes"),
        ({"3": {"class_type": "A", "inputs": {"x": "\ud800"}}}, "3", "'x'.*surrogate"),
        ({"3": {"class_type": "A", "inputs": {"x": {1: 2}}}}, "3", "'x'.*keys are texts"),
        ({"3": {"class_type": "A", "z": {1: 2}}}, "3", "keys are texts"),
        ({"": SAVE}, None, "at least one character"),
        ({True: SAVE}, None, "a boolean"),
        ({2.5: SAVE}, None, "a number"),
        ({1: SAVE, "1": SAVE}, "1", "two nodes of id '1'"),
        (linked(["99", 0]), "2", "'images' of node '2'.*'99', which does not exist"),
        (linked([99, 0]), "2", "'images' of node '2'.*99, which does not exist"),
        (linked(["1", -1]), "2", "'images'.*output -1 of node '1'"),
        (linked(["1", 0.5]), "2", "'images'.*output 0.5 of node '1'"),
        (linked(["2", 0]), "2", "circle: 2 -> 2"),
    ],
)
def test_what_is_no_graph_is_refused_with_the_node_and_what_would_be_right(
    document: Any, node_id: str | None, words: str
) -> None:
    with pytest.raises(InvalidGraph, match=words) as caught:
        read_graph(document)
    assert caught.value.code == "invalid_graph"
    assert caught.value.node == node_id
    caught.value.message.encode()


@pytest.mark.parametrize("value", [["1", 0], [1, 0], ["1", 0.0], ("1", 0)])
def test_links_get_one_form(value: Any) -> None:
    graph = read_graph(linked(value))
    assert graph["2"]["inputs"]["images"] == ["1", 0]
    assert is_link(graph["2"]["inputs"]["images"])
    assert list(links(graph["2"])) == [("images", "1", 0)]


@pytest.mark.parametrize("value", [[], ["1"], ["a", "b"], [1, 2, 3], [0.5, 1], ["1", True], {"__value__": ["9", 0]}])
def test_lists_that_are_no_links_stay_literals(value: Any) -> None:
    graph = read_graph(linked(value))
    assert graph["2"]["inputs"]["images"] == value
    assert not is_link(value)


def test_a_circle_names_its_nodes() -> None:
    circle = {str(i): {"class_type": "A", "inputs": {"x": [str((i + 1) % 3), 0]}} for i in range(3)}
    with pytest.raises(InvalidGraph, match="0 -> 1 -> 2 -> 0"):
        read_graph({"9": {"class_type": "B", "inputs": {"y": ["0", 0]}}, **circle})


def test_long_chains_and_deep_values_do_not_exhaust_the_stack() -> None:
    count = 20_000
    chain = {
        str(i): {"class_type": "A", "inputs": {"x": [str(i + 1), 0]} if i < count else {}} for i in range(count + 1)
    }
    graph = read_graph(chain)
    assert flow_order(graph)[0] == str(count)
    chain[str(count)]["inputs"] = {"x": ["0", 0]}
    with pytest.raises(InvalidGraph, match="circle"):
        read_graph(chain)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidGraph, match="deeper than 64"):
        read_graph({"1": {"class_type": "A", "inputs": {"x": deep}}})
    assert is_json(deep)
    while isinstance(deep, list):  # the interpreter would recurse while it frees this
        deep = deep.pop()


def test_titles() -> None:
    assert own_title(node("A")) is None
    assert title(node("A")) == "A"
    assert title(node("A", " Sky ")) == "Sky"
    assert title({"class_type": "A", "inputs": {}, "title": "Old"}) == "Old"
    assert own_title({"class_type": "A", "inputs": {}, "_meta": {"title": 5}, "title": ""}) is None
    assert named(txt2img(), "6") == "node 6 (Positive Prompt)"


def test_a_copy_can_be_changed() -> None:
    graph = graph_of(n1=node("A", x=[1, [2], 3], y={"z": [1]}), n2=node("B", l=["1", 0]))
    before = copy.deepcopy(graph)
    other = copy_graph(graph)
    assert other == graph
    other["1"]["inputs"]["x"][1].append(5)
    other["1"]["inputs"]["y"]["z"].append(5)
    other["2"]["inputs"]["l"][1] = 7
    other["2"]["inputs"]["new"] = 1
    assert graph == before


def test_flow_order_follows_the_data_and_not_the_numbers() -> None:
    graph = read_graph({"1": node("C", x=["5", 0]), "5": node("B", x=["9", 0]), "9": node("A"), "2": node("D")})
    assert flow_order(graph) == ["9", "5", "1", "2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("txt2img", "txt2img"),
        ("SDXL/Txt2Img v1.0", "sdxl-txt2img-v1-0"),
        ("127.0.0.1:8188", "127-0-0-1-8188"),
        ("Größe é", "grosse-e"),
        ("文生图 v2", "u6587u751fu56fe-v2"),
        (" -- a__b -- ", "a__b"),
        ("!!!", ""),
        ("", ""),
    ],
)
def test_slug(text: str, expected: str) -> None:
    assert slug(text) == expected


@given(st.text())
def test_slug_is_stable_and_fit_for_a_topic(text: str) -> None:
    result = slug(text)
    assert re.fullmatch("[a-z0-9_-]*", result)
    assert slug(result) == result


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
anything = st.recursive(
    scalars | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.none(), inner, max_size=4)
        | st.dictionaries(st.sampled_from(["class_type", "inputs", "_meta", "title", "prompt", "nodes", "1"]), inner)
    ),
    max_leaves=20,
)
ids = st.sampled_from(["1", "2", "3", 1, 2, "12:5"])
nearly_nodes = st.fixed_dictionaries(
    {"class_type": st.sampled_from(["KSampler", "SaveImage", "CLIPTextEncode"]) | anything},
    optional={
        "inputs": st.dictionaries(st.text(max_size=3), anything | st.tuples(ids, st.integers(-1, 2)).map(list))
        | anything,
        "_meta": st.fixed_dictionaries({"title": anything}) | anything,
    },
)
nearly_graphs = st.dictionaries(ids | st.text(max_size=2), nearly_nodes | anything, max_size=4)


@given(anything | nearly_graphs)
def test_any_document_gives_a_graph_or_a_clear_error(document: Any) -> None:
    try:
        graph = read_graph(document)
    except BridgeError as error:
        assert isinstance(error, (InvalidGraph, UiFormat))  # noqa: PT017  both outcomes are right
        json.dumps(error.to_json(), allow_nan=False, ensure_ascii=False).encode()
        return
    json.dumps(graph, allow_nan=False, ensure_ascii=False).encode()
    assert read_graph(graph) == graph
    for entry in graph.values():
        assert isinstance(entry["class_type"], str)
        assert all(source in graph for _, source, _ in links(entry))
        title(entry)
    assert sorted(flow_order(graph)) == sorted(graph)

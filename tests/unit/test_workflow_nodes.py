from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadValue, BridgeError, IsLink, NoSuchInput, UnknownNode
from bridge.workflow.nodes import TEXT_INPUTS, address, find_node, image_input, input_of, text_input
from tests.unit.workflow_graphs import graph_of, linked_texts, node, txt2img


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        (6, "6"),
        ("6", "6"),
        ("Positive Prompt", "6"),
        ("positive-prompt", "6"),
        ("POSITIVE PROMPT", "6"),
        ("KSampler", "3"),
        ("mine", "7"),
        ("mine_too", "5"),
        ("Sampler", "3"),
    ],
)
def test_a_node_is_found_by_each_of_its_names(ref: Any, expected: str) -> None:
    mappings = {"mine": "7", "mine_too": "5.width", "Sampler": "3"}
    assert find_node(txt2img(), ref, mappings=mappings) == expected


def test_ids_of_subgraphs() -> None:
    assert find_node(linked_texts(), "12:5") == "12:5"
    assert find_node(linked_texts(), "12:5.text".removesuffix(".text")) == "12:5"


def test_an_id_wins_over_a_mapping_and_a_mapping_over_a_title() -> None:
    graph = graph_of(n1=node("A", "2"), n2=node("B", "x"), n3=node("C", "y"))
    assert find_node(graph, "2", mappings={"2": "3"}) == "2"
    assert find_node(graph, "x", mappings={"x": "3"}) == "3"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("Positiv Prompt", "'Positive Prompt'"),
        ("ksampler", "'KSampler'"),
        ("propmt", "'prompt'"),
        (99, "99"),
        ("zzzzzz", r"node 3 \(Sampler\)"),
        ("", "id, its title"),
        ("\ud800", "id, its title"),
        ("x" * 100_000, "id, its title"),
        pytest.param(10**5000, "bits", id="a huge number"),
    ],
)
def test_an_unknown_node_is_answered_with_near_names(ref: Any, words: str) -> None:
    with pytest.raises(UnknownNode, match=words) as caught:
        find_node(txt2img(), ref, mappings={"prompt": "6"})
    assert caught.value.code == "unknown_node"
    assert len(caught.value.message.encode()) < 1_000


def test_a_name_of_several_nodes_is_answered_with_all_of_them() -> None:
    with pytest.raises(UnknownNode, match=r"2 nodes.*node 6 \(Positive Prompt\), node 7 \(Negative Prompt\)") as caught:
        find_node(txt2img(), "CLIPTextEncode")
    assert caught.value.details == {"nodes": ["6", "7"]}
    with pytest.raises(UnknownNode, match=r"'Text' names 2 nodes: node 1 \(Text\), node 2 \(Text\)"):
        find_node(graph_of(n1=node("A", "Text"), n2=node("B", "Text")), "Text")


@pytest.mark.parametrize("ref", [True, None, 6.0, ["6"], b"6"])
def test_other_types_name_no_node(ref: Any) -> None:
    with pytest.raises(BadValue, match="a node cannot be named by") as caught:
        find_node(txt2img(), ref)
    assert caught.value.code == "bad_value"


def test_a_mapping_to_a_missing_node_names_the_mapping() -> None:
    with pytest.raises(UnknownNode, match=r"node_mappings\.fox.*'99'"):
        find_node(txt2img(), "fox", mappings={"fox": "99"})


def test_addresses_with_dots() -> None:
    graph = graph_of(n1=node("A", "SDXL 1.0", **{"text": "x", "v1.5": 1}), n2=node("B", "SDXL 1", x=1))
    assert address(graph, "1.text") == ("1", "text")
    assert address(graph, "1.v1.5") == ("1", "v1.5")
    assert address(graph, "SDXL 1.0") == ("1", None)
    assert address(graph, "SDXL 1.0.text") == ("1", "text")
    assert address(graph, "SDXL 1.x") == ("2", "x")
    assert address(graph, "1.nothing") == ("1", "nothing")
    with pytest.raises(UnknownNode, match="'SDXL 3'"):
        address(graph, "SDXL 3.x")


@pytest.mark.parametrize("name", TEXT_INPUTS)
def test_a_text_goes_to_the_first_of_the_inputs(name: str) -> None:
    later = TEXT_INPUTS[TEXT_INPUTS.index(name) :]
    assert text_input(graph_of(n1=node("A", None, **dict.fromkeys(reversed(later), "x"))), "1") == name


def test_a_linked_text_names_the_node_to_set_instead() -> None:
    with pytest.raises(IsLink, match=r"'text' of node 12:5 .*node 2 \(StringConcatenate\).*instead") as caught:
        text_input(linked_texts(), "12:5")
    assert caught.value.code == "is_link"
    assert caught.value.node == "12:5"
    assert caught.value.details == {"input": "text", "source": "2"}


def test_a_node_without_a_text_lists_its_inputs() -> None:
    with pytest.raises(NoSuchInput, match=r"node 5 .*no input for a text.*width, height, batch_size") as caught:
        text_input(txt2img(), "5")
    assert caught.value.code == "no_such_input"
    with pytest.raises(NoSuchInput, match=r"'value' holds a whole number"):
        text_input(linked_texts(), "3")
    with pytest.raises(NoSuchInput, match=r"cannot|no input that can be set.*samples, vae"):
        text_input(txt2img(), "8")


def test_an_image_goes_to_the_image_input() -> None:
    graph = graph_of(
        n1=node("LoadImage", image="a.png"),
        n2=node("LoadVideo", file="a.mp4"),
        n3=node("LoadAudio", audio="a.wav"),
        n4=node("ImageScale", image=["1", 0], width=5),
    )
    assert [image_input(graph, one) for one in "123"] == ["image", "file", "audio"]
    with pytest.raises(IsLink, match=r"'image' of node 4 .*node 1 \(LoadImage\)"):
        image_input(graph, "4")
    with pytest.raises(NoSuchInput, match=r"node 6 .*an image"):
        image_input(txt2img(), "6")


def test_input_of() -> None:
    assert input_of(txt2img(), "3", "steps") == 20
    with pytest.raises(NoSuchInput, match=r"no input 'step'\. Did you mean 'steps'"):
        input_of(txt2img(), "3", "step")
    with pytest.raises(IsLink, match=r"'model'.*node 4 \(Load Checkpoint\)"):
        input_of(txt2img(), "3", "model")


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()))
def test_any_reference_gives_a_node_or_a_clear_error(ref: Any) -> None:
    graph = txt2img()
    try:
        assert find_node(graph, ref, mappings={"prompt": "6"}) in graph
    except BridgeError as error:
        assert isinstance(error, (UnknownNode, BadValue))  # noqa: PT017  both outcomes are right
        error.message.encode()

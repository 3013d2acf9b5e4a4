from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadValue, BridgeError, IsLink, NoSuchInput, UnknownNode, UnknownParameter
from bridge.workflow.graph import Graph, Target, is_link
from bridge.workflow.kinds import RANDOM
from bridge.workflow.parameters import Parameter, derive
from bridge.workflow.values import apply, assign, check, image_targets, is_seed, resolve, text_targets
from tests.unit import workflow_graphs as graphs
from tests.unit.workflow_graphs import graph_of, node

STEPS = Target("3", "steps")


def parameter(name: str = "p", **more: Any) -> Parameter:
    settings = {"title": "P", "type": "text", "default": "", "targets": (Target("1", "x"),), **more}
    return Parameter(name=name, **settings)


def one_input(literal: Any, name: str = "x", class_type: str = "A") -> tuple[Graph, Target]:
    return graph_of(n1=node(class_type, None, **{name: literal})), Target("1", name)


def measured(value: Any, **more: Any) -> Any:
    graph, target = one_input(0)
    return check(graph, target, parameter(**more), value)


def alike(literal: Any, value: Any, name: str = "x", class_type: str = "A") -> Any:
    graph, target = one_input(literal, name, class_type)
    return check(graph, target, None, value)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("steps", STEPS),
        ("Steps", STEPS),
        ("3.steps", STEPS),
        ("KSampler.steps", STEPS),
        ("Sampler.steps", STEPS),
        ("positive-prompt.text", Target("6", "text")),
        ("Positive Prompt.text", Target("6", "text")),
        ("prompt", Target("6", "text")),
    ],
)
def test_keys(key: str, expected: Target) -> None:
    graph = graphs.txt2img()
    assert resolve(graph, derive(graph), key) == (expected,)


def test_keys_with_dots_and_of_several_inputs() -> None:
    graph = graph_of(n1=node("A", "SDXL 1.0", **{"v1.5": 1, "x": 2}), **{"n12:5": node("B", None, text="x")})
    assert resolve(graph, (), "SDXL 1.0.x") == (Target("1", "x"),)
    assert resolve(graph, (), "1.v1.5") == (Target("1", "v1.5"),)
    assert resolve(graph, (), "12:5.text") == (Target("12:5", "text"),)
    sdxl = graphs.sdxl_refiner()
    assert resolve(sdxl, derive(sdxl), "prompt") == (Target("6", "text"), Target("15", "text"))


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        ("stesp", UnknownParameter, "'stesp'.*'steps'"),
        ("zzz", UnknownParameter, "'zzz'.*prompt, negative, seed"),
        ("", UnknownParameter, "there is no parameter ''"),
        ("6", UnknownParameter, "'6'.*<node>.<input>"),
        ("99.text", UnknownNode, "'99'"),
        ("Smapler.steps", UnknownNode, "'Smapler'.*'Sampler'"),
        ("CLIPTextEncode.txt", NoSuchInput, "node 6 .*'txt'.*'text'"),
        ("3.step", NoSuchInput, "'step'.*'steps'"),
        ("3.a.b", NoSuchInput, r"'a\.b'"),
        ("3.", UnknownParameter, r"'3\.'"),
        (".steps", UnknownParameter, r"'\.steps'"),
        ("3.model", IsLink, "'model'.*node 4"),
        ("." * 10_000, UnknownNode, "no node"),
        (5, UnknownParameter, "a whole number"),
    ],
)
def test_keys_that_mean_nothing(key: Any, error: type[BridgeError], words: str) -> None:
    graph = graphs.txt2img()
    with pytest.raises(error, match=words) as caught:
        resolve(graph, derive(graph), key)
    assert len(caught.value.message) < 1_000


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("integer", 20, 20),
        ("integer", "20", 20),
        ("integer", " +20 ", 20),
        ("integer", "7.0", 7),
        ("integer", 7.0, 7),
        ("integer", 2**64 - 1, 2**64 - 1),
        ("integer", str(2**64 - 1), 2**64 - 1),
        ("number", 7, 7.0),
        ("number", "7.5", 7.5),
        ("number", "-.5e1", -5.0),
        ("boolean", True, True),
        ("boolean", "ON", True),
        ("boolean", " true", True),
        ("boolean", "off", False),
        ("boolean", 0, False),
        ("text", "20", "20"),
        ("text", "", ""),
        ("image", "a.png", "a.png"),
        ("choice", "anything", "anything"),
    ],
)
def test_values_take_the_type_of_the_parameter(kind: str, value: Any, expected: Any) -> None:
    result = measured(value, type=kind)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("integer", True, "p is a whole number, and got true"),
        ("integer", 7.5, "p is a whole number, and got 7.5"),
        ("integer", "many", "p is a whole number, and got 'many'"),
        ("integer", "1_000", "'1_000'"),
        ("integer", "٣", "whole number"),
        ("integer", "9" * 5_000, "whole number"),
        ("integer", None, "p is null"),
        ("integer", [1], "a list"),
        ("integer", float("inf"), "finite"),
        ("number", float("nan"), "finite"),
        ("number", "nan", "'nan'"),
        ("number", "7,5", "'7,5'"),
        ("number", True, "true"),
        ("number", 10**400, "finite"),
        ("number", "1e999", "finite"),
        ("boolean", "maybe", "true or false .*'maybe'"),
        ("boolean", 2, "2"),
        ("boolean", 0.5, "0.5"),
        ("text", 5, "p is a text, and got 5"),
        ("text", {"a": 1}, "an object"),
        ("text", ["4", 0], "a list"),
        ("text", "\ud800", "surrogate"),
        ("text", b"x", "raw bytes"),
        ("image", " ", "name of a file"),
        ("image", 5, "name of a file"),
        ("choice", 5, "5"),
    ],
)
def test_values_of_another_type_are_refused(kind: str, value: Any, words: str) -> None:
    with pytest.raises(BadValue, match=words) as caught:
        measured(value, type=kind)
    assert caught.value.code == "bad_value"
    assert caught.value.message.startswith("p ")
    caught.value.message.encode()


def test_limits_name_the_parameter_the_limit_and_the_value() -> None:
    assert measured(1, name="steps", type="integer", min=1, max=100) == 1
    assert measured(100, name="steps", type="integer", min=1, max=100) == 100
    with pytest.raises(BadValue, match="steps is at least 1, and got 0"):
        measured(0, name="steps", type="integer", min=1, max=100)
    with pytest.raises(BadValue, match="steps is at most 100, and got '101'"):
        measured("101", name="steps", type="integer", min=1, max=100)
    with pytest.raises(BadValue, match=r"cfg is at most 30\.0, and got 30\.1"):
        measured(30.1, name="cfg", type="number", max=30.0)


def test_choices() -> None:
    choices = ("euler", "euler_ancestral", "ddim", 2, True)
    assert measured("ddim", type="choice", choices=choices) == "ddim"
    assert measured("2", type="choice", choices=choices) == 2
    assert measured(True, type="choice", choices=choices) is True
    with pytest.raises(BadValue, match=r"p is one of 5 choices.*'eular' is none.*euler"):
        measured("eular", type="choice", choices=choices)
    with pytest.raises(BadValue, match="ddim"):
        measured("zzz", type="choice", choices=choices)
    with pytest.raises(BadValue, match="a list is none"):
        measured(["euler"], type="choice", choices=choices)


@pytest.mark.parametrize(
    ("literal", "value", "expected"),
    [
        (20, 7.0, 7),
        (20, "7", 7),
        (1, 0.5, 0.5),  # a file's 1 may be a 1.0
        (7.5, 8, 8.0),
        (7.5, "8", 8.0),
        ("x", "20", "20"),
        (False, "on", True),
        (None, "x", "x"),
        (None, 5, 5),
        ([1, 2, 3], [4, 5], [4, 5]),
        ({"on": True}, {"on": False}, {"on": False}),
    ],
)
def test_without_a_parameter_the_literal_is_the_measure(literal: Any, value: Any, expected: Any) -> None:
    result = alike(literal, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("literal", "value", "words"),
    [
        (20, True, r"1\.x.*true"),
        (20, "abc", "'abc'"),
        ("x", 5, "a text, and got 5"),
        (True, 5, "true or false"),
        ("x", ["2", 0], "a list"),
        ("x", None, "null"),
        (None, {"a": 1}, "an object"),
        ([1, 2, 3], "x", "a list, and got 'x'"),
        ([1, 2, 3], ["2", 0], "link"),
        ([1, 2, 3], [1, 0], "link"),
        ([1, 2, 3], [math.nan], "finite"),
        ({"a": 1}, [1], "an object"),
        (None, ["1", 0], "link"),
    ],
)
def test_values_unlike_the_literal_are_refused(literal: Any, value: Any, words: str) -> None:
    with pytest.raises(BadValue, match=words):
        alike(literal, value)


@pytest.mark.parametrize(("name", "class_type"), [("steps", "KSampler"), ("width", "A"), ("value", "PrimitiveInt")])
def test_inputs_that_are_surely_whole_stay_so(name: str, class_type: str) -> None:
    assert alike(20, 8.0, name, class_type) == 8
    with pytest.raises(BadValue, match="whole number"):
        alike(20, 7.5, name, class_type)


def test_seeds() -> None:
    graph = graphs.txt2img()
    seed = next(one for one in derive(graph) if one.name == "seed")
    target = seed.targets[0]
    assert is_seed(seed)
    assert check(graph, target, seed, "random") == RANDOM
    assert check(graph, target, None, " Random ") == RANDOM
    assert check(graph, target, seed, 2**63 + 1) == 2**63 + 1
    assert check(graph, target, seed, str(2**63 + 1)) == 2**63 + 1
    for bad, words in ((-1, "at least 0, and got -1"), (2**64, f"at most {2**64 - 1}")):
        for known in (seed, None):
            with pytest.raises(BadValue, match=words):
                check(graph, target, known, bad)
    with pytest.raises(BadValue, match="steps"):
        check(graph, STEPS, next(one for one in derive(graph) if one.name == "steps"), "random")
    linked = graphs.linked_texts()
    assert [one.name for one in derive(linked) if is_seed(one)] == ["seed"]
    assert [one.name for one in derive(graph, {"luck": "3.seed"}) if is_seed(one)] == ["luck"]


def test_check_wants_an_input_that_can_be_set() -> None:
    graph = graphs.txt2img()
    with pytest.raises(IsLink, match="'model'"):
        check(graph, Target("3", "model"), None, "x")
    with pytest.raises(NoSuchInput, match="'stesp'"):
        check(graph, Target("3", "stesp"), None, 5)
    with pytest.raises(UnknownNode, match="'99'"):
        check(graph, Target("99", "x"), None, 5)


def test_apply_leaves_the_graph_alone() -> None:
    graph = graphs.txt2img()
    before = copy.deepcopy(graph)
    value = [1, [2]]
    graph["5"]["inputs"]["free"] = before["5"]["inputs"]["free"] = None
    result = apply(graph, {STEPS: 5, Target("6", "text"): "a dog", Target("5", "free"): value})
    assert graph == before
    assert result["3"]["inputs"]["steps"] == 5
    assert result["6"]["inputs"]["text"] == "a dog"
    value[1].append(9)  # type: ignore[attr-defined]
    result["9"]["inputs"]["images"][0] = "changed"
    assert result["5"]["inputs"]["free"] == [1, [2]]
    assert graph == before
    assert list(result) == list(graph)


@pytest.mark.parametrize(
    ("target", "error"),
    [(Target("3", "model"), IsLink), (Target("3", "none"), NoSuchInput), (Target("99", "x"), UnknownNode)],
)
def test_apply_cuts_no_link_and_invents_no_input(target: Target, error: type[BridgeError]) -> None:
    with pytest.raises(error):
        apply(graphs.txt2img(), {target: 1})


def test_assign_takes_all_values_or_none() -> None:
    graph = graphs.sdxl_refiner()
    parameters = derive(graph)
    values = {"prompt": "a dog", "10.steps": "30", "seed": "random", "refiner +.text": "fur"}
    assert assign(graph, parameters, values) == {
        Target("6", "text"): "a dog",
        Target("15", "text"): "fur",
        Target("10", "steps"): 30,
        Target("10", "noise_seed"): RANDOM,
    }
    with pytest.raises(BadValue, match="steps"):
        assign(graph, parameters, {"prompt": "a dog", "steps": "many"})
    with pytest.raises(BadValue, match="steps"):
        assign(graph, parameters, {"10.steps": "many"})


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        (None, [Target("6", "text")]),
        ("prompt", [Target("6", "text")]),
        ("negative", [Target("7", "text")]),
        (7, [Target("7", "text")]),
        ("negative-prompt", [Target("7", "text")]),
        ("mine", [Target("7", "text")]),
    ],
)
def test_where_a_text_goes(ref: Any, expected: list[Target]) -> None:
    graph = graphs.txt2img()
    assert list(text_targets(graph, derive(graph), ref, mappings={"mine": "7"})) == expected


def test_where_a_text_cannot_go() -> None:
    graph = graphs.txt2img()
    with pytest.raises(NoSuchInput, match="steps is a parameter of type integer"):
        text_targets(graph, derive(graph), "steps")
    with pytest.raises(UnknownNode, match="'promt'"):
        text_targets(graph, derive(graph), "promt")
    with pytest.raises(BadValue, match="a boolean"):
        text_targets(graph, derive(graph), True)
    upscale = graph_of(n1=node("LoadImage", image="a.png"), n2=node("SaveImage", images=["1", 0], filename_prefix="x"))
    with pytest.raises(UnknownParameter, match="no text parameter"):
        text_targets(upscale, derive(upscale))
    two = graph_of(
        n1=node("A", "a", text="x"), n2=node("A", "b", text="y"), n3=node("SaveImage", a=["1", 0], b=["2", 0])
    )
    parameters = derive(two, {"first": "1", "second": "2"})
    with pytest.raises(UnknownParameter, match="first, second"):
        text_targets(two, parameters)


def test_where_an_image_goes() -> None:
    graph = graphs.inpaint()
    parameters = derive(graph)
    assert image_targets(graph, parameters) == (Target("2", "image"),)
    assert image_targets(graph, parameters, "mask") == (Target("3", "image"),)
    assert image_targets(graph, parameters, "photo") == (Target("2", "image"),)
    assert image_targets(graph, parameters, 3) == (Target("3", "image"),)
    with pytest.raises(NoSuchInput, match="prompt is a parameter of type text"):
        image_targets(graph, parameters, "prompt")
    with pytest.raises(NoSuchInput, match="node 4"):
        image_targets(graph, parameters, "4")
    plain = graphs.txt2img()
    with pytest.raises(UnknownParameter, match="no image parameter"):
        image_targets(plain, derive(plain))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
literals = st.sampled_from([0, 1.5, "x", True, None, [1, 2, 3], {"a": 1}])
kinds = st.sampled_from(["text", "integer", "number", "boolean", "choice", "image"])


@given(literals, values, st.none() | kinds)
def test_any_value_fits_or_gives_a_clear_error(literal: Any, value: Any, kind: str | None) -> None:
    graph, target = one_input(literal)
    known = parameter(type=kind, choices=("a", 2), min=-5, max=10**6) if kind else None
    try:
        result = check(graph, target, known, value)
    except BadValue as error:
        json.dumps(error.to_json(), ensure_ascii=False).encode()
        return
    json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
    assert not is_link(result)
    assert apply(graph, {target: result})["1"]["inputs"]["x"] == result
    assert check(graph, target, known, result) == result


@given(st.text(st.characters()) | st.sampled_from(["3.steps", "Sampler.", "steps"]))
def test_any_key_means_inputs_or_gives_a_clear_error(key: str) -> None:
    graph = graphs.txt2img()
    try:
        targets = resolve(graph, derive(graph), key)
    except BridgeError as error:
        error.message.encode()
        return
    assert all(not is_link(graph[target.node]["inputs"][target.input]) for target in targets)

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadValue, BridgeError
from bridge.jobs.chains import SKIPPED, Condition, Part, Reference, applies, read_chain

GOOD: dict[str, Any] = {
    "title": "Two",
    "parameters": {"prompt": "base.prompt"},
    "steps": [
        {"name": "base", "workflow": "txt2img", "values": {"steps": 3}},
        {
            "name": "large",
            "workflow": "upscale",
            "values": {"image": {"step": "base", "output": 0}, "note": {"step": "base", "text": 1}},
            "retry": 2,
            "when": {"step": "base", "status": "completed"},
        },
    ],
}


def test_a_chain_is_read_and_written_back() -> None:
    chain = read_chain(GOOD, where="two.toml")
    base, large = chain.steps
    assert (base.name, base.workflow, dict(base.values), base.retry, base.when) == (
        *("base", "txt2img", {"steps": 3}, 0),
        None,
    )
    assert large.references == {"image": Reference("base", output=0), "note": Reference("base", text=1)}
    assert (dict(large.values), large.retry, large.when) == ({}, 2, Condition("base", "completed"))
    assert chain.parameters == {"prompt": ("base", "prompt")}
    assert read_chain(json.loads(json.dumps(chain.to_json())), where="again") == chain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": []}, ["steps"]),
        ({"steps": "x"}, ["steps"]),
        ({"stepz": []}, ["stepz", "steps"]),
        ({"steps": [{"workflow": 3}]}, ["step1", "workflow"]),
        ({"steps": [{"name": "a"}]}, ["'a'", "workflow", "missing"]),
        ({"steps": [{"name": "A B", "workflow": "w"}]}, ["'A B'", "'a-b'"]),
        ({"steps": [{"name": "a", "workflow": "w"}, {"name": "a", "workflow": "w"}]}, ["'a'", "unique"]),
        ({"steps": [{"name": "a", "workflow": "w", "retry": -1}]}, ["'a'", "retry"]),
        ({"steps": [{"name": "a", "workflow": "w", "retry": True}]}, ["'a'", "retry"]),
        ({"steps": [{"name": "a", "workflow": "w", "values": {"x": {"step": "b"}}}]}, ["values.x", "'b'", "first"]),
        ({"steps": [{"name": "a", "workflow": "w", "when": {"step": "a", "status": "completed"}}]}, ["when", "'a'"]),
        ({"parameters": {"p": "nowhere.x"}}, ["parameters.p", "base"]),
        ({"parameters": {"P p": "base.prompt"}}, ["P p"]),
        ({"parameters": 3}, ["parameters"]),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadValue) as caught:
        read_chain({**GOOD, **change}, where="two.toml")
    for word in ["two.toml", *words]:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({"step": "base"}, ["status", "text"]),
        ({"step": "base", "status": "done"}, ["done", "completed"]),
        ({"step": "base", "stat": "failed"}, ["stat", "status"]),
    ],
)
def test_wrong_conditions(when: dict[str, Any], words: list[str]) -> None:
    steps = [GOOD["steps"][0], {**GOOD["steps"][1], "when": when}]
    with pytest.raises(BadValue) as caught:
        read_chain({**GOOD, "steps": steps}, where="two.toml")
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize("value", [{"output": 0, "text": 0}, {"output": -1}, {"output": "x"}, {"text": True}])
def test_wrong_references(value: dict[str, Any]) -> None:
    steps = [GOOD["steps"][0], {**GOOD["steps"][1], "values": {"image": {"step": "base", **value}}}]
    with pytest.raises(BadValue, match=r"values\.image"):
        read_chain({**GOOD, "steps": steps}, where="two.toml")


def test_when_a_step_runs() -> None:
    done, failed, skipped = Part("a", "completed"), Part("b", "failed"), Part("c", SKIPPED)
    assert applies(None, {}, {})
    assert applies(None, {"a": done, "c": skipped}, {})
    assert not applies(None, {"a": done, "b": failed}, {})
    parts = {"a": done, "b": failed, "c": skipped}
    assert applies(Condition("b", "failed"), parts, {})
    assert applies(Condition("c", SKIPPED), parts, {})
    assert not applies(Condition("a", "failed"), parts, {})
    assert applies(Condition("a", text="Fox"), parts, {"a": "a red fox"})
    assert not applies(Condition("a", text="owl"), parts, {"a": "a red fox"})
    assert not applies(Condition("b", text="fox"), parts, {"b": "a red fox"})
    assert applies(Condition("b", "failed", text="fox"), parts, {"b": "a red fox"})
    assert not applies(Condition("z", "completed"), parts, {})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["base", "large", "completed"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "workflow", "values", "retry", "when", "step", "steps", "status", "output", "text"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_nothing_else_than_our_errors(document: object) -> None:
    for one in (document, {"steps": document}, {"steps": [document]}, {**GOOD, "parameters": document}):
        try:
            chain = read_chain(one, where="x")
        except BridgeError:
            continue
        assert read_chain(chain.to_json(), where="x") == chain

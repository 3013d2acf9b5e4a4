"""The file beside a workflow: what of it is taken, and what is said of the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.workflow.sidecar import Declaration, Preset, read_sidecar


def test_the_whole_of_it() -> None:
    sidecar, errors = read_sidecar(
        """
        title = "Text to image"
        description = "A picture"
        stall_timeout = 900
        outputs = ["Save Image", 12]

        [parameters.prompt]
        node = "Positive"
        input = "text"
        type = "text"
        title = "Prompt"
        description = "What is seen"

        [parameters.steps]
        targets = ["3.steps", {node = 4, input = "steps"}]
        min = 1
        max = 50
        step = 1
        default = 30
        hidden = true

        [parameters.look]
        choices = ["a", "b"]

        [presets.quality]
        title = "Quality"
        default = "low"
        [presets.quality.low]
        steps = 5
        [presets.quality.high]
        steps = 40
        """,
        "fox.toml",
    )
    assert errors == ()
    assert (sidecar.title, sidecar.description, sidecar.stall_timeout) == ("Text to image", "A picture", 900.0)
    assert sidecar.outputs == ("Save Image", "12")
    assert sidecar.parameters == (
        Declaration("prompt", (("Positive", "text"),), "text", "Prompt", "What is seen"),
        Declaration("steps", (("3.steps", None), ("4", "steps")), default=30, min=1, max=50, step=1.0, hidden=True),
        Declaration("look", choices=("a", "b")),
    )
    assert sidecar.presets == (Preset("quality", {"low": {"steps": 5}, "high": {"steps": 40}}, "Quality", "low"),)


def test_the_example_of_the_documentation_is_right() -> None:
    text = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    sidecar, errors = read_sidecar(example, "docs")
    assert errors == ()
    assert {one.name for one in sidecar.parameters} >= {"prompt", "strength", "seed"}
    assert set(sidecar.presets[0].choices) == {"draft", "high"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('title = "a\nx = 1', "fox.toml is not TOML: .*line 1"),
        ("titel = 'x'", r"fox.toml: titel is not known. Did you mean 'title'\?"),
        ("title = 5", "title should be a text, and is 5"),
        ("stall_timeout = 0", "stall_timeout should be a number above 0, and is 0"),
        ("outputs = []", "outputs should be a list of nodes"),
        ("outputs = [true]", "outputs should be a node"),
        ("parameters = 3", "parameters should hold a table for each name"),
        ("[parameters]\nprompt = 3", "parameters.prompt should be a table, and is 3"),
        ("[parameters.Prompt]\nmin = 1", "parameters.Prompt cannot be the name of a parameter; .*such as 'prompt'"),
        ("[parameters.transaction]\nmin = 1", "parameters.transaction cannot be the name"),
        ("[parameters.steps]\nmaximum = 1", "parameters.steps.maximum is not known"),
        ("[parameters.steps]\nmax = '1'", "parameters.steps.max should be a number, and is '1'"),
        ("[parameters.steps]\nmax = nan", "nan"),
        ("[parameters.steps]\nmin = 5\nmax = 1", "parameters.steps.min is 5, which is above max, 1"),
        ("[parameters.steps]\nstep = -1", "step should be a number above 0"),
        ("[parameters.steps]\ntype = 'int'", "type should be one of text, integer"),
        ("[parameters.steps]\ntype = 'integr'", "Did you mean 'integer'"),
        ("[parameters.steps]\ninput = 'x'", "parameters.steps.input needs a node"),
        ("[parameters.steps]\nnode = true", "node should be a node: its id"),
        ("[parameters.steps]\ntargets = [5]", "targets should be a list such as"),
        ("[parameters.steps]\nchoices = []", "choices should be a list of texts or numbers"),
        ("[parameters.steps]\nhidden = 1", "hidden should be true or false, and is 1"),
        ("[presets]\nquality = 1", "presets.quality should be a table"),
        ("[presets.quality]\nx = 1", "presets.quality.x should be a table of values"),
        ("[presets.quality]", "presets.quality has no choice"),
        ("[presets.quality]\ndefault = 'c'\n[presets.quality.a]\nsteps = 1", "default is 'c', which is none of a"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(text: str, words: str) -> None:
    _, errors = read_sidecar(text, "fox.toml")
    assert errors
    with pytest.raises(type(errors[0]), match=words):
        raise errors[0]
    assert errors[0].code == "bad_value"
    assert all(one.message.startswith("fox.toml") for one in errors)


def test_the_rest_of_a_wrong_file_is_taken() -> None:
    sidecar, errors = read_sidecar(
        "titel = 'x'\ndescription = 'd'\n[parameters.a]\nmax = 'x'\n[parameters.b]\nmax = 4\nnonsense = 1", "fox.toml"
    )
    assert len(errors) == 3
    assert sidecar.description == "d"
    assert sidecar.parameters == (Declaration("b", max=4),)


_SCALARS = st.one_of(st.text(max_size=5), st.integers(), st.floats(), st.booleans())
_NAMES = st.sampled_from(
    ["title", "outputs", "parameters", "presets", "node", "input", "targets", "type", "min", "max", "choices", "x", ""]
)
_DOCUMENTS = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=12
)


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(one):08x}" for one in value if not "\ud800" <= one <= "\udfff") + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return repr(value)


@given(st.dictionaries(_NAMES, _DOCUMENTS, max_size=5))
def test_no_document_breaks_the_reader(document: dict[str, Any]) -> None:
    text = "\n".join(f"{toml(key)} = {toml(value)}" for key, value in document.items())
    sidecar, errors = read_sidecar(text, "fox.toml")
    assert all(error.message.startswith("fox.toml") for error in errors)
    assert all(one.name for one in sidecar.parameters)


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    read_sidecar(text, "fox.toml")

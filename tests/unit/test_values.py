"""What workflows are set to: by parameter, in the order of the changes."""

from __future__ import annotations

import json
from typing import Any

from bridge.library import build
from bridge.values import State, _entries
from bridge.workflow.graph import Graph, Target, read_graph
from bridge.workflow.workflow import Workflow
from tests.unit import workflow_graphs as graphs


def workflow(graph: Graph) -> Workflow:
    return build("fox", "fox.json", graph)[0]


def refined() -> Workflow:
    """Its prompt is for two nodes."""
    return workflow(graphs.sdxl_refiner())


def changed(state: State, number: int, values: dict[str, Any]) -> None:
    state.apply(number, _entries(state.workflow, state.workflow.assign(values)))


def test_a_parameter_is_kept_by_its_name_and_one_of_its_inputs_by_the_node() -> None:
    state = State(refined())
    changed(state, 1, {"prompt": "fox", "steps": 9})
    assert state.entries == {"prompt": "fox", "steps": 9}
    changed(state, 2, {"15.text": "dog"})
    assert state.values[Target("6", "text")] == "fox"
    assert state.values[Target("15", "text")] == "dog"
    changed(state, 3, {"prompt": "cat"})
    assert state.values[Target("15", "text")] == "cat"
    assert [key for key, _ in state.ordered()] == ["steps", Target("15", "text"), "prompt"]


def test_both_inputs_of_a_parameter_at_once_are_the_parameter() -> None:
    state = State(refined())
    changed(state, 1, {"6.text": "fox", "15.text": "fox"})
    assert state.entries == {"prompt": "fox"}
    changed(state, 2, {"6.text": "fox", "15.text": "dog"})
    assert state.values[Target("15", "text")] == "dog"


def test_a_later_change_counts_even_if_it_comes_first() -> None:
    state = State(refined())
    changed(state, 2, {"prompt": "later"})
    changed(state, 1, {"prompt": "earlier", "steps": 3})
    assert state.entries == {"prompt": "later", "steps": 3}


def test_other_ids_change_nothing() -> None:
    state = State(workflow(graphs.txt2img()))
    changed(state, 1, {"prompt": "fox"})
    again = json.loads(json.dumps(graphs.txt2img()).replace('"6"', '"106"'))
    state.workflow = workflow(read_graph(again))
    assert state.values == {Target("106", "text"): "fox"}


def test_a_snapshot_is_of_its_moment() -> None:
    state = State(refined())
    changed(state, 1, {"steps": 3})
    before = state.snapshot()
    changed(state, 2, {"steps": 4})
    assert before.entries == {"steps": 3}

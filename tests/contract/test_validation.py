from __future__ import annotations

from typing import Any

import pytest

from tests.contract.peer import Graph, Server, save_graph, unused_colour

BROKEN = b"500 Internal Server Error"


def _with(node: str, **inputs: Any) -> Graph:
    graph = save_graph()
    graph[node]["inputs"].update(inputs)
    return graph


def _without(node: str, name: str) -> Graph:
    graph = save_graph()
    del graph[node]["inputs"][name]
    return graph


NODE_ERRORS: dict[str, tuple[Graph, str, dict[str, Any]]] = {
    "missing input": (
        _without("1", "width"),
        "1",
        {
            "type": "required_input_missing",
            "message": "Required input is missing",
            "details": "width",
            "extra_info": {"input_name": "width"},
        },
    ),
    "too small": (
        _with("1", width=-5),
        "1",
        {
            "type": "value_smaller_than_min",
            "message": "Value -5 smaller than min of 1",
            "details": "width",
            "extra_info": {"input_name": "width", "received_value": -5},
        },
    ),
    "too big": (
        _with("1", width=99999),
        "1",
        {
            "type": "value_bigger_than_max",
            "message": "Value 99999 bigger than max of 16384",
            "details": "width",
            "extra_info": {"input_name": "width", "received_value": 99999},
        },
    ),
    "not a number": (
        _with("1", width="wide"),
        "1",
        {
            "type": "invalid_input_type",
            "message": "Failed to convert an input value to a INT value",
            "details": "width, wide, invalid literal for int() with base 10: 'wide'",
            "extra_info": {"input_name": "width", "received_value": "wide"},
        },
    ),
    "a link of one": (
        _with("2", images=["1"]),
        "2",
        {
            "type": "bad_linked_input",
            "message": "Bad linked input, must be a length-2 list of [node_id, slot_index]",
            "details": "images",
            "extra_info": {"input_name": "images", "received_value": ["1"]},
        },
    ),
    "a link of the wrong type": (
        {**save_graph(), "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}}}
        | {"3": {"class_type": "PrimitiveString", "inputs": {"value": "text"}}},
        "2",
        {
            "type": "return_type_mismatch",
            "message": "Return type mismatch between linked nodes",
            "details": "images, received_type(STRING) mismatch input_type(IMAGE)",
            "extra_info": {"input_name": "images", "received_type": "STRING", "linked_node": ["3", 0]},
        },
    ),
    "a link to nowhere": (
        _with("2", images=["99", 0]),
        "2",
        {
            "type": "exception_during_validation",
            "message": "Exception when validating node",
            "details": "'99'",
            "extra_info": {"exception_type": "KeyError"},
        },
    ),
    "a missing file": (
        {
            "10": {"class_type": "LoadImage", "inputs": {"image": "does_not_exist.png"}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["10", 0]}},
        },
        "10",
        {
            "type": "custom_validation_failed",
            "message": "Custom validation failed for node",
            "details": "image - Invalid image file: does_not_exist.png",
            "extra_info": {"input_name": "image"},
        },
    ),
    "not in the list": (
        _with("2", images=["3", 0])
        | {
            "3": {
                "class_type": "ImageScale",
                "inputs": {"image": ["1", 0], "upscale_method": "magic", "width": 8, "height": 8, "crop": "disabled"},
            }
        },
        "3",
        {
            "type": "value_not_in_list",
            "message": "Value not in list",
            "details": "upscale_method: 'magic' not in ['nearest-exact', 'bilinear', 'area', 'bicubic', 'lanczos']",
            "extra_info": {"input_name": "upscale_method", "received_value": "magic"},
        },
    ),
}


@pytest.mark.parametrize("case", NODE_ERRORS)
async def test_a_node_with_a_wrong_input_is_named(comfyui: Server, case: str) -> None:
    graph, node, wanted = NODE_ERRORS[case]
    async with comfyui.peer() as peer:
        answer = await peer.submit(graph)
        assert answer.status_code == 400
        body = answer.json()
        assert body["error"]["type"] == "prompt_outputs_failed_validation"
        assert body["error"]["message"] == "Prompt outputs failed validation"
        assert body["error"]["extra_info"] == {}
        assert list(body["node_errors"]) == [node]
        entry = body["node_errors"][node]
        assert entry["dependent_outputs"] == ["2"]
        assert entry["class_type"] == graph[node]["class_type"]
        (found,) = entry["errors"]
        assert {**found, "extra_info": None} == {**wanted, "extra_info": None}
        assert found["extra_info"].items() >= wanted["extra_info"].items()
        own = f"{wanted['message']}: {wanted['details']}"
        assert body["error"]["details"] == (own if node == "2" else "")


async def test_a_dangling_link_inside_is_told_on_the_node_that_holds_it(comfyui: Server) -> None:
    graph = save_graph()
    graph["3"] = {"class_type": "ImageInvert", "inputs": {"image": ["99", 0]}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    async with comfyui.peer() as peer:
        body = (await peer.submit(graph)).json()
        (found,) = body["node_errors"]["3"]["errors"]
        assert (found["type"], found["details"]) == ("exception_during_inner_validation", "'99'")
        assert found["extra_info"]["exception_type"] == "KeyError"
        assert found["extra_info"]["linked_node"] == ["3", 0]


async def test_a_cycle_is_refused_without_a_reason(comfyui: Server) -> None:
    graph = save_graph()
    graph["3"] = {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}}
    graph["4"] = {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    async with comfyui.peer() as peer:
        answer = await peer.submit(graph)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "prompt_outputs_failed_validation"
        assert answer.json()["node_errors"] == {}


INVALID: dict[str, tuple[Any, dict[str, Any]]] = {
    "unknown class": (
        {"3": {"class_type": "NoSuchNode", "inputs": {}}},
        {
            "type": "invalid_prompt",
            "message": "Cannot execute because node NoSuchNode does not exist.",
            "details": "Node ID '#3'",
        },
    ),
    "no class": (
        {"3": {"inputs": {}}},
        {
            "type": "invalid_prompt",
            "message": "Cannot execute because a node is missing the class_type property.",
            "details": "Node ID '#3'",
        },
    ),
    "a node that is text": (
        {"1": "x"},
        {
            "type": "invalid_prompt",
            "message": "Cannot execute because a node is missing the class_type property.",
            "details": "Node ID '#1'",
        },
    ),
    "nothing": ({}, {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": ""}),
    "a list": ([], {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": ""}),
    "no output node": (
        {"1": save_graph()["1"]},
        {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": ""},
    ),
}


@pytest.mark.parametrize("case", INVALID)
async def test_an_unusable_graph_is_refused(comfyui: Server, case: str) -> None:
    graph, wanted = INVALID[case]
    async with comfyui.peer() as peer:
        answer = await peer.submit(graph)
        assert answer.status_code == 400
        assert answer.json() == {"error": {**wanted, "extra_info": {}}, "node_errors": {}}


async def test_no_prompt_at_all(comfyui: Server) -> None:
    nothing = {"type": "no_prompt", "message": "No prompt provided", "details": "No prompt provided", "extra_info": {}}
    async with comfyui.peer() as peer:
        for body in ({"client_id": "x"}, [1, 2]):
            answer = await peer.http.post("/prompt", json=body)
            assert answer.status_code == 400
            assert answer.json() == {"error": nothing, "node_errors": {}}


UI_FORMAT = {
    "last_node_id": 2,
    "nodes": [{"id": 1, "type": "EmptyImage", "widgets_values": [64, 64, 1, 0]}],
    "links": [],
    "version": 0.4,
}


@pytest.mark.parametrize(
    "body",
    [
        b"this is not JSON",
        b"",
        b'{"prompt": null}',
        b'{"prompt": "text"}',
        b'{"prompt": {"1": 5}}',
        b'{"prompt": {}, "number": "abc"}',
        b"5",
    ],
)
async def test_what_is_no_prompt_is_a_server_error(comfyui: Server, body: bytes) -> None:
    async with comfyui.peer() as peer:
        answer = await peer.http.post("/prompt", content=body)
        assert answer.status_code == 500
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.content.startswith(BROKEN)


async def test_the_format_of_the_editor_is_a_server_error(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        assert (await peer.submit(UI_FORMAT)).status_code == 500


async def test_only_valid_outputs_run(comfyui: Server) -> None:
    graph = save_graph()
    bad = {"width": -5, "height": 64, "batch_size": 1, "color": 0}
    graph["20"] = {"class_type": "EmptyImage", "inputs": bad}
    graph["21"] = {"class_type": "PreviewImage", "inputs": {"images": ["20", 0]}}
    async with comfyui.peer() as peer:
        answer = await peer.submit(graph)
        assert answer.status_code == 200
        body = answer.json()
        assert list(body["node_errors"]) == ["20"]
        assert body["node_errors"]["20"]["dependent_outputs"] == ["21"]
        await peer.until("execution_success", prompt_id=body["prompt_id"])
        await peer.until("executing", node=None, prompt_id=body["prompt_id"])
        entry = await peer.history(body["prompt_id"])
        assert list(entry["outputs"]) == ["2"]
        assert entry["prompt"][4] == ["2"]


async def test_nodes_off_the_path_are_neither_checked_nor_run(comfyui: Server) -> None:
    graph = save_graph()
    graph["77"] = {"class_type": "ImageInvert", "inputs": {}}
    async with comfyui.peer() as peer:
        _, events = await peer.run(graph)
        assert all(event.data.get("node") != "77" for event in events)


async def test_unknown_inputs_are_ignored_and_numbers_may_be_text(comfyui: Server) -> None:
    graph = save_graph()
    graph["1"]["inputs"].update(width="96", unknown_input=3, color=unused_colour())
    async with comfyui.peer() as peer:
        _, events = await peer.run(graph)
        assert events[-2].kind == "execution_success"


async def test_partial_targets(comfyui: Server) -> None:
    graph = save_graph()
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    async with comfyui.peer() as peer:
        prompt_id, _ = await peer.run(graph, partial_execution_targets=["3"])
        assert list((await peer.history(prompt_id))["outputs"]) == ["3"]
        answer = await peer.submit(graph, partial_execution_targets=["42"])
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "prompt_no_outputs"

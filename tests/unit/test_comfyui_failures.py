from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import errors
from bridge.comfyui.failures import execution_error, refused_nodes, rejection
from bridge.comfyui.protocol import ExecutionError, decode_text
from tests.unit import recordings
from tests.unit.test_comfyui_protocol import JSON_VALUES

REFUSALS = [
    exchange
    for name in ("e_validation", "j_prompt_fields", "l_http")
    for exchange in recordings.load(name).http
    if exchange.method == "POST" and exchange.path == "/prompt" and exchange.status != 200
]
SENTENCES = {
    "unknown class_type": "Node 3: ComfyUI has no node class NoSuchNode; an add-on may be missing there.",
    "node without class_type": "Node 3 has no class_type.",
    "missing required input (seed)": "Node 3 (KSampler): the input seed is missing.",
    "node without inputs key": "Node 3 (KSampler): it has no inputs.",
    "steps=-1": "Node 3 (KSampler): steps is -1, its minimum is 1.",
    "steps=1e9": "Node 3 (KSampler): steps is 1000000000, its maximum is 10000.",
    "steps='eight'": "Node 3 (KSampler): steps is 'eight', it must be of the type INT.",
    "sampler_name not in list": (
        "Node 3 (KSampler): sampler_name is 'nope', it must be one of the 42 choices of the server."
    ),
    "nonexistent ckpt": (
        "Node 4 (CheckpointLoaderSimple): ckpt_name is 'nonexistent.safetensors', "
        "it must be one of dreamshaper_8.safetensors."
    ),
    "dangling link to a node that does not exist": (
        "Node 3 (KSampler): one of its links leads to node 99, which does not exist."
    ),
    "link of the wrong type (CLIP into model)": (
        "Node 3 (KSampler): model is linked to a CLIP of node 4, it must be a MODEL."
    ),
    "link of length 1": "Node 3 (KSampler): model is ['4'], a link must be [node id, number of the output].",
    "LoadImage of a missing file": "Node 10 (LoadImage): image: Invalid image file: does_not_exist.png.",
    "self-cycle": "ComfyUI refused the graph and named no node: most likely its links form a cycle.",
}


@pytest.mark.parametrize("exchange", REFUSALS, ids=lambda exchange: exchange.note)
def test_every_recorded_refusal_becomes_a_sentence(exchange: recordings.Exchange) -> None:
    assert exchange.body is not None
    error = rejection(exchange.status, exchange.body)
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert error.message == SENTENCES.get(exchange.note, error.message)
    if exchange.status == 400:
        document = json.loads(exchange.body)
        if document["node_errors"]:
            assert isinstance(error, errors.NodeErrors)
            assert error.node in document["node_errors"]
            assert f"Node {error.node} (" in error.message
        else:
            assert isinstance(error, errors.InvalidGraph)
            named = re.search(r"#(\d+)", document["error"]["details"])
            assert error.node == (named[1] if named else None)
            assert error.node is None or f"Node {error.node}" in error.message
    else:
        assert isinstance(error, errors.TooLarge if exchange.status == 413 else errors.InvalidGraph)
    assert "traceback" not in json.dumps(error.to_json())


def test_every_sentence_was_recorded() -> None:
    assert set(SENTENCES) <= {exchange.note for exchange in REFUSALS}


def test_a_200_with_node_errors() -> None:
    answers = [json.loads(e.body) for e in recordings.load("e_validation").http if e.status == 200 and e.body]
    node_errors = next(a["node_errors"] for a in answers if a.get("node_errors"))
    error = refused_nodes(node_errors)
    assert error.message == "Node 20 (EmptyImage): width is -5, its minimum is 1."
    assert error.node == "20"
    assert error.details is not None
    assert error.details["outputs"] == ["21"]
    assert error.details["node_errors"]["20"]["errors"][0]["type"] == "value_smaller_than_min"


def test_newer_servers_give_the_choices_elsewhere() -> None:
    info = {
        "input_name": "sampler",
        "received_value": "x",
        "input_config": ["COMBO", {"options": list("abcdefghijklm")}],
    }
    entry = {"class_type": "K", "errors": [{"type": "value_not_in_list", "details": "", "extra_info": info}]}
    text = refused_nodes({"1": entry}).message
    assert text == "Node 1 (K): sampler is 'x', it must be one of a, b, c, d, e, f, g, h, i, j and 3 more."
    info["input_config"] = [[], {}]
    assert "and it has none" in refused_nodes({"1": entry}).message


def test_many_errors_make_one_sentence() -> None:
    missing = {"type": "required_input_missing", "extra_info": {"input_name": "seed"}}
    error = refused_nodes({str(n): {"class_type": "K", "errors": [missing]} for n in range(9)})
    assert error.message.count("the input seed is missing") == 3
    assert error.message.endswith("; and 6 more.")


def test_other_statuses_and_bodies() -> None:
    assert isinstance(rejection(502, b"<html>"), errors.BackendOffline)
    assert isinstance(rejection(400, b"<html>"), errors.InvalidGraph)
    assert rejection(400, b'{"error": "no graph here"}').message == "ComfyUI refused the graph: no graph here"
    newer = {
        "type": "missing_node_type",
        "message": "Node 'X' not found.",
        "details": "",
        "extra_info": {"node_id": "7"},
    }
    error = rejection(400, json.dumps({"error": newer, "node_errors": {}}).encode())
    assert (error.message, error.node) == ("ComfyUI refused the graph: Node 'X' not found.", "7")


def test_an_error_of_a_node() -> None:
    texts = [r for r in recordings.load("f_runtime_error").received() if isinstance(r, str)]
    message = next(m for m in map(decode_text, texts) if isinstance(m, ExecutionError))
    error = execution_error(message)
    assert error.to_json() == {
        "code": "execution_error",
        "message": "Node 10 (LoadImage) failed: Truncated File Read.",
        "node": "10",
        "details": {"exception_type": "OSError", "node_type": "LoadImage"},
    }


@pytest.mark.parametrize(
    ("exception_type", "exception_message"),
    [
        ("torch.OutOfMemoryError", "Allocation on device 0"),
        ("torch.cuda.OutOfMemoryError", ""),
        ("RuntimeError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        ("numpy.core._exceptions._ArrayMemoryError", "Unable to allocate 3.00 GiB for an array"),
        ("MemoryError", ""),
        ("Exception", "Failed to allocate buffer"),
    ],
)
def test_out_of_memory(exception_type: str, exception_message: str) -> None:
    error = execution_error(ExecutionError("p", "3", "KSampler", exception_message, exception_type))
    assert isinstance(error, errors.OutOfMemory)
    assert error.message.startswith("Node 3 (KSampler) ran out of memory")


def test_the_tip_of_the_server_and_long_dumps_are_cut() -> None:
    tip = "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before …"
    error = execution_error(
        ExecutionError("p", "3", "KSampler", f"Allocation on device {tip}", "torch.OutOfMemoryError")
    )
    assert error.message == (
        "Node 3 (KSampler) ran out of memory (Allocation on device): a smaller image, batch or model needs less."
    )
    long = execution_error(ExecutionError("p", None, None, "x\n" * 10_000, "ValueError"))
    assert len(long.message) < 700
    assert "\n" not in long.message
    assert execution_error(ExecutionError("p", None, None, "", "")).message == (
        "A node failed: ComfyUI gave no reason."
    )


@given(st.integers(100, 599), st.binary() | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_rejection_never_raises(status: int, body: bytes) -> None:
    assert rejection(status, body).message


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "class_type": JSON_VALUES,
        "dependent_outputs": JSON_VALUES,
        "errors": JSON_VALUES
        | st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.sampled_from(
                        (
                            *("value_not_in_list", "value_smaller_than_min", "return_type_mismatch"),
                            *("exception_during_inner_validation", "custom_validation_failed", "bad_linked_input"),
                            *("invalid_input_type", "x"),
                        )
                    )
                },
                optional={
                    "message": JSON_VALUES,
                    "details": JSON_VALUES,
                    "extra_info": JSON_VALUES
                    | st.dictionaries(
                        st.sampled_from(
                            ["input_config", "input_name", "received_value", "linked_node", "exception_type"]
                        ),
                        JSON_VALUES,
                    ),
                },
            ),
            max_size=3,
        ),
    },
)


@given(st.dictionaries(st.text(), JSON_VALUES | ENTRIES, max_size=3))
def test_node_errors_of_any_shape(node_errors: dict[str, object]) -> None:
    body = json.dumps({"error": {}, "node_errors": node_errors}).encode()
    json.dumps(rejection(400, body).to_json()).encode()
    assert refused_nodes(node_errors).message

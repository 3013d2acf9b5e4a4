"""The wrapper's body, Result and words, without a network."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bridge.errors import UnknownWorkflow
from bridge.http import wrapper_shapes as shapes
from bridge.workflow.graph import Target
from tests.support.graphs import node, plain

LIMIT = 2**32

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_drawing_changes_nothing_else(value: Any) -> None:
    assert shapes.draw(value, random.Random(1)) == value


@given(st.text(alphabet="ab", max_size=4), st.integers(0, 3))
def test_every_occurrence_is_drawn(text: str, times: int) -> None:
    parts = f"{text}|" + shapes.RANDOM_INT + "|" if times else text
    drawn = shapes.draw({"a": [parts]}, random.Random(1))["a"][0]
    assert shapes.RANDOM_INT not in drawn
    assert drawn.startswith(text)


def test_a_whole_text_becomes_a_number() -> None:
    one, two = shapes.draw([shapes.RANDOM_INT, shapes.RANDOM_INT], random.Random(1))
    assert one != two
    assert all(isinstance(number, int) and 0 <= number < LIMIT for number in (one, two))


def test_links_are_never_drawn() -> None:
    graph = plain() | {shapes.RANDOM_INT: node("EmptyImage")}
    graph["2"]["inputs"] = {"images": [shapes.RANDOM_INT, 0], "filename_prefix": shapes.RANDOM_INT}
    shapes.draw_inputs(graph, random.Random(1))
    assert graph["2"]["inputs"]["images"] == [shapes.RANDOM_INT, 0]
    assert isinstance(graph["2"]["inputs"]["filename_prefix"], int)


def test_addresses_of_files_and_not_those_in_texts() -> None:
    graph = plain() | {
        "5": node("LoadImage", image="https://example.org/a.png"),
        "6": node("LoadVideo", file=" http://example.org/v.mp4?x=1 "),
        "7": node("CLIPTextEncode", text="https://example.org/a.png", clip=["4", 1]),
        "8": node("LoadImageFromUrl", image_url="https://example.org/a.png"),
        "9": node("LoadImage", image="see https://example.org/a.png"),
        "10": node("LoadImage", image="file:///etc/passwd"),
        "11": node("LoadImage", image="https://"),
    }
    assert dict(shapes.addresses(graph)) == {
        Target("5", "image"): "https://example.org/a.png",
        Target("6", "file"): "http://example.org/v.mp4?x=1",
    }


@pytest.mark.parametrize(
    ("modifier", "names", "expected"),
    [
        ("txt2img", ["txt2img"], "txt2img"),
        ("Text2Image", ["text2image", "other"], "text2image"),
        ("Text2Image", ["text-2-image"], "text-2-image"),
        ("A", ["a", "A"], "A"),
        ("Text2Image", ["txt2img", "img2img"], "txt2img"),
        ("Image2Image", ["txt2img", "img2img"], "img2img"),
        ("Text2Image", ["txt2img", "text2image"], "text2image"),
    ],
)
def test_a_modifier_is_found_by_its_name(modifier: str, names: list[str], expected: str) -> None:
    assert shapes.workflow_named(modifier, names) == expected


@pytest.mark.parametrize("names", [[], ["other"], ["text_2_image", "text2image"]])
def test_a_modifier_that_is_none_or_several_is_refused(names: list[str]) -> None:
    with pytest.raises(UnknownWorkflow, match="Unknown modifier: Text2Image"):
        shapes.workflow_named("Text2Image", names)


def test_complaints_hold_no_secret() -> None:
    with pytest.raises(ValidationError) as caught:
        shapes.Body.model_validate({"input": {"modifier": "x", "webhook": {"secret": ["hidden"], "timeout": -1}}})
    document = shapes.complaints(caught.value)
    assert {one["loc"][-1] for one in document["detail"]} == {"secret", "timeout"}
    assert "hidden" not in str(document)


def job(status: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "position": None, "percent": 0.0, "node": None, "error": None, **more}


@pytest.mark.parametrize(
    ("document", "status", "message"),
    [
        (job("queued", position=3), "processing", "Waiting for generation, position 3"),
        (job("preparing"), "processing", "Execution started..."),
        (job("running", node="3"), "generating", "Processing node: 3"),
        (job("running", node="3", percent=45.0), "generating", "Progress: 45.0%"),
        (job("finishing"), "generated", "Collecting outputs..."),
        (job("completed"), "completed", "Processing complete."),
        (job("interrupted", error={"code": "interrupted", "message": "x"}), "cancelled", "Request cancelled"),
        (
            job("failed", error={"code": "out_of_memory", "message": "CUDA out of memory"}),
            "failed",
            "Generation failed: Execution error: CUDA out of memory",
        ),
        (
            job("failed", error={"code": "node_errors", "message": "x", "details": {"node_errors": {"1": {}}}}),
            "failed",
            'Generation failed: ComfyUI node errors: {"1": {}}',
        ),
        (job("failed", error={"code": "lost", "message": "gone"}), "failed", "Generation failed: gone"),
    ],
)
def test_how_a_job_stands(document: dict[str, Any], status: str, message: str) -> None:
    assert (shapes.status_of(document), shapes.message_of(document)) == (status, message)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("completed", None, 200),
        ("generating", None, 200),
        ("cancelled", "interrupted", 499),
        ("failed", "execution_error", 500),
        ("failed", None, 500),
        ("failed", "backend_offline", 502),
        ("failed", "timeout", 502),
    ],
)
def test_the_status_of_an_answer(status: str, code: str | None, expected: int) -> None:
    assert shapes.http_status({"status": status}, code) == expected


@given(st.text(max_size=20), st.lists(st.text(max_size=10), max_size=4))
def test_keys_lead_nowhere_else_and_are_all_different(request_id: str, names: list[str]) -> None:
    outputs = [{"n": n, "filename": name} for n, name in enumerate(names)]
    keys = shapes.keys_of(request_id, outputs)
    assert len(keys) == len(names)
    for key in keys:
        folder, _, name = key.partition("/")
        assert ".." not in folder
        assert "/" not in name
        assert name not in {"", ".", ".."}


def test_outputs_of_one_name_do_not_share_a_key() -> None:
    outputs = [{"n": 0, "filename": "a.png"}, {"n": 1, "filename": "a.png"}]
    assert shapes.keys_of("id", outputs) == ["id/a.png", "id/1-a.png"]

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import FileMissing, InvalidGraph, IsLink, TooLarge, UiFormat, UnknownNode, UnknownWorkflow
from bridge.library import MAX_BYTES, Library, build
from tests.unit import workflow_graphs as graphs
from tests.unit.workflow_graphs import recorded

SAMPLES = Path(__file__).parent.parent.parent / "workflows"


def write(directory: Path, path: str, document: Any) -> Path:
    file = directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(document, bytes):
        file.write_bytes(document)
    else:
        file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return file


@pytest.fixture
def good() -> dict[str, Any]:
    return graphs.txt2img()


def test_nothing_is_read_before_load(tmp_path: Path, good: Any) -> None:
    write(tmp_path, "a.json", good)
    library = Library(tmp_path)
    assert library.names() == ()
    assert library.default() is None
    with pytest.raises(UnknownWorkflow, match="has none"):
        library.get("a")
    assert library.load() == ()
    assert library.names() == ("a",)


def test_names_titles_and_paths(tmp_path: Path, good: Any) -> None:
    for path in (
        "Txt2Img.json",
        "sdxl/txt2img.JSON",
        "b_c.json",
        "文.json",
        ".hidden.json",
        ".git/x.json",
        "notes.txt",
    ):
        write(tmp_path, path, good)
    library = Library(tmp_path)
    assert library.load() == ()
    assert library.names() == ("b_c", "sdxl-txt2img", "txt2img", "u6587")
    assert library.get("sdxl-txt2img").path == "sdxl/txt2img.JSON"
    assert library.get("sdxl/txt2img") is library.get("sdxl-txt2img")
    assert library.get("Txt2Img.json").title == "Txt2Img"
    assert library.get("b_c").title == "b c"
    assert library.default() is library.get("b_c")


def test_an_unknown_workflow_is_answered_with_near_names_and_the_list(tmp_path: Path, good: Any) -> None:
    write(tmp_path, "txt2img.json", good)
    write(tmp_path, "upscale.json", good)
    library = Library(tmp_path)
    library.load()
    with pytest.raises(UnknownWorkflow, match=r"'txt2imgg'.*Did you mean 'txt2img'.*txt2img, upscale") as caught:
        library.get("txt2imgg")
    assert caught.value.code == "unknown_workflow"
    assert caught.value.details == {"workflows": ["txt2img", "upscale"]}


def test_of_two_files_of_one_name_the_first_stays(tmp_path: Path, good: Any) -> None:
    write(tmp_path, "a b.json", good)
    write(tmp_path, "a/b.json", good)
    library = Library(tmp_path)
    (problem,) = library.load()
    assert library.get("a-b").path == "a b.json"
    assert problem.path == "a/b.json"
    assert "'a-b'" in problem.error.message
    assert "a b.json" in problem.error.message


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("", InvalidGraph, "is empty"),
        ("{\n\n,}", InvalidGraph, "not JSON.*line 3"),
        ("[" * 200_000, InvalidGraph, "nesting too deep"),
        ('{"1": {"class_type": "A", "inputs": {"x": ' + "9" * 5_000 + "}}}", InvalidGraph, "number too long"),
        ('{"1": {"class_type": "A", "inputs": {"x": NaN}}}', InvalidGraph, "finite number"),
        ('{"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}}', InvalidGraph, "'9', which does not exist"),
        (b'{"1": "\xff"}', InvalidGraph, "UTF-8"),
        (b"\xff\xfe{\x00", InvalidGraph, "UTF-8"),
        (b" " * (MAX_BYTES + 1), TooLarge, "20,000,000 bytes"),
        (json.dumps(recorded("e_validation/ui_format.json")), UiFormat, r"Export \(API\)"),
    ],
    ids=["empty", "comma", "deep", "long", "nan", "dangling", "latin1", "utf16", "large", "editor"],
)
def test_a_broken_file_is_reported_and_the_old_version_stays(
    tmp_path: Path, good: Any, content: Any, error: type[Exception], words: str
) -> None:
    write(tmp_path, "fox.json", content)
    write(tmp_path, "other.json", good)
    library = Library(tmp_path)
    (problem,) = library.load()
    assert library.names() == ("other",)
    assert problem.path == "fox.json"
    assert isinstance(problem.error, error)
    with pytest.raises(error, match=r"fox.json"):
        raise problem.error
    with pytest.raises(error, match=words):
        raise problem.error

    write(tmp_path, "fox.json", good)
    assert library.load() == ()
    before = library.get("fox")
    write(tmp_path, "fox.json", content)
    (problem,) = library.load()
    assert library.problems == (problem,)
    assert library.get("fox") == before


def test_changed_and_removed_files_are_taken_up(tmp_path: Path, good: Any) -> None:
    file = write(tmp_path, "fox.json", good)
    library = Library(tmp_path)
    library.load()
    held = library.get("fox")
    good["3"]["inputs"]["steps"] = 4
    write(tmp_path, "fox.json", good)
    library.load()
    assert library.get("fox").graph["3"]["inputs"]["steps"] == 4
    assert held.graph["3"]["inputs"]["steps"] == 20
    file.unlink()
    assert library.load() == ()
    assert library.names() == ()


def test_byte_order_mark_wrapping_and_duplicate_keys(tmp_path: Path, good: Any) -> None:
    write(tmp_path, "bom.json", b"\xef\xbb\xbf" + json.dumps(good).encode())
    write(tmp_path, "wrapped.json", {"prompt": good})
    write(tmp_path, "twice.json", '{"1": {"class_type": "A"}, "1": {"class_type": "SaveImage"}}')
    library = Library(tmp_path)
    assert library.load() == ()
    assert library.get("bom").graph == library.get("wrapped").graph == good
    assert library.get("twice").graph["1"]["class_type"] == "SaveImage"


def test_a_missing_directory_is_a_problem_and_what_was_there_stays(tmp_path: Path, good: Any) -> None:
    library = Library(tmp_path / "w")
    (problem,) = library.load()
    assert isinstance(problem.error, FileMissing)
    write(tmp_path / "w", "fox.json", good)
    assert library.load() == ()
    (tmp_path / "w").rename(tmp_path / "away")
    (problem,) = library.load()
    assert problem.path == "."
    assert library.names() == ("fox",)


def test_a_file_instead_of_a_directory_is_a_problem(tmp_path: Path) -> None:
    (problem,) = Library(write(tmp_path, "w", "x")).load()
    assert isinstance(problem.error, FileMissing)


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need rights there")
def test_links_to_the_outside_broken_links_and_pipes_are_refused(tmp_path: Path, good: Any) -> None:
    directory = tmp_path / "w"
    write(directory, "good.json", good)
    outside = write(tmp_path, "outside/x.json", good)
    (directory / "escape.json").symlink_to(outside)
    (directory / "folder").symlink_to(outside.parent)
    (directory / "gone.json").symlink_to(directory / "nothing.json")
    (directory / "loop.json").symlink_to(directory / "loop.json")
    (directory / "inside.json").symlink_to(directory / "good.json")
    os.mkfifo(directory / "pipe.json")
    library = Library(directory)
    problems = {one.path: one.error.message for one in library.load()}
    assert library.names() == ("good", "inside")
    assert problems.keys() == {"escape.json", "gone.json", "loop.json", "pipe.json"}
    assert all(path in message for path, message in problems.items())


def test_a_name_without_letters_is_refused(tmp_path: Path, good: Any) -> None:
    write(tmp_path, "!!.json", good)
    (problem,) = Library(tmp_path).load()
    assert "rename" in problem.error.message


def test_mappings_belong_to_a_workflow_and_bad_ones_are_reported(tmp_path: Path, good: Any) -> None:
    write(tmp_path, "fox.json", good)
    write(tmp_path, "dog.json", good)
    mappings = {"fox": {"positive": "6", "bad": "99", "linked": "3.model", "save_image": "9"}, "cat": {"x": "1"}}
    library = Library(tmp_path)
    library.remap(mappings)
    problems = library.load()
    assert [(one.path, type(one.error)) for one in problems] == [("fox.json", UnknownNode), ("fox.json", IsLink)]
    assert "node_mappings.bad" in problems[0].error.message
    fox, dog = library.get("fox"), library.get("dog")
    assert "positive" in {one.name for one in fox.parameters}
    assert "prompt" in {one.name for one in dog.parameters}
    assert fox.answer == "9"
    assert dog.answer is None
    library.remap({"dog": {"positive": "6"}})
    assert "prompt" in {one.name for one in library.get("fox").parameters}
    assert "positive" in {one.name for one in library.get("dog").parameters}


def test_a_bad_answer_node_is_reported(good: Any) -> None:
    workflow, errors = build("fox", "fox.json", good, {"save_image": "99"})
    assert workflow.answer is None
    assert [type(error) for error in errors] == [UnknownNode]


def test_object_info_gives_types_and_limits(good: Any) -> None:
    workflow, _ = build("fox", "fox.json", good, {"tries": "3.steps"})
    known, _ = build("fox", "fox.json", good, {"tries": "3.steps"}, recorded("l_http/object_info_samples.json"))
    tries = next(one for one in known.parameters if one.name == "tries")
    assert (tries.min, tries.max) == (1, 10000)
    assert known.graph is workflow.graph
    assert (known.name, known.outputs) == (workflow.name, workflow.outputs)


def test_the_entry_in_the_list_of_workflows(good: Any) -> None:
    workflow, _ = build("fox", "fox.json", good)
    entry = json.loads(json.dumps(workflow.to_json()))
    assert list(entry) == ["name", "path", "title", "kind", "parameters", "outputs"]
    assert entry["kind"] == "workflow"
    assert entry["outputs"] == [{"node": "9", "title": "Save Image", "type": "image"}]
    assert entry["parameters"][0] == {
        "name": "prompt",
        "title": "Prompt",
        "type": "text",
        "default": "a red fox",
        "targets": [{"node": "6", "input": "text"}],
    }


async def test_the_samples_are_good_and_use_stock_nodes_only() -> None:
    library = Library(SAMPLES)
    assert library.load() == ()
    names = {name: {one.name for one in workflow.parameters} for name, workflow in library.workflows.items()}
    assert {"prompt", "negative", "seed", "steps", "width", "checkpoint"} <= names["txt2img"]
    assert {"prompt", "negative", "seed", "denoise", "image"} <= names["img2img"]
    assert names["upscale"] == {"image"}
    assert {"width", "height", "color"} <= names["hello"]
    stock = set(recorded("l_http/object_info_keys.json"))
    assert {"count", "palette"} <= names["stripes"]
    assert {"prompt", "seed", "source", "upscale"} <= names["sd15-picture"]
    for workflow in library.workflows.values():
        seeds = {one.targets[0]: 1 for one in workflow.parameters if one.default == "random"}
        graph = (await workflow.instantiate(seeds)).graph
        assert {entry["class_type"] for entry in graph.values()} <= stock
        if workflow.kind == "workflow":
            assert len(workflow.outputs) == 1
            assert all(entry["_meta"]["title"] for entry in graph.values())


def test_a_sidecar_says_more_and_its_faults_are_told(tmp_path: Path, good: Any) -> None:
    write(tmp_path, "a/fox.json", good)
    write(tmp_path, "a/fox.toml", "title = 'Fox'\n[parameters.steps]\nmax = 30\n[parameters.x]\nnode = 99")
    write(tmp_path, "a/dog.toml", "title = 'Dog'")
    library = Library(tmp_path)
    found = {one.path: (one.workflow, one.error.message) for one in library.load()}
    assert found["a/fox.toml"][0] == "a-fox"
    assert "parameters.x" in found["a/fox.toml"][1]
    assert found["a/dog.toml"] == (None, "a/dog.toml stands beside no workflow; a/dog.json or a/dog.py is missing.")
    fox = library.get("a-fox")
    assert fox.title == "Fox"
    assert next(one for one in fox.parameters if one.name == "steps").max == 30

    # While it is no TOML the last good one stays; without the file it is forgotten.
    file = write(tmp_path, "a/fox.toml", "title = \nx = 1")
    problems = [one for one in library.load() if one.path == "a/fox.toml"]
    assert "not TOML" in problems[0].error.message
    assert "line 1" in problems[0].error.message
    assert library.get("a-fox").title == "Fox"
    file.unlink()
    library.load()
    assert library.get("a-fox").title == "a / fox"
    write(tmp_path, "a/fox.toml", b"title = '\xff'")
    assert any("UTF-8" in one.error.message for one in library.load())


def test_an_editors_file_is_converted_once_the_classes_are_known(tmp_path: Path, good: Any) -> None:
    editors = recorded("e_validation/ui_format.json")
    write(tmp_path, "fox.json", editors)
    write(tmp_path, "dog.json", {"workflow": editors})
    library = Library(tmp_path)
    assert {type(one.error) for one in library.load()} == {UiFormat}
    with pytest.raises(UiFormat, match=r"as soon as a ComfyUI is there.*Export \(API\)"):
        library.get("fox")
    image = ["INT", {"default": 1}]
    info = {
        "EmptyImage": {"input": {"required": dict.fromkeys(("width", "height", "batch_size", "color"), image)}},
        "SaveImage": {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}}},
    }
    library.learn({"Other": {}})
    assert "does not know 'EmptyImage', 'SaveImage'" in library.problems[0].error.message
    library.learn(info)
    assert library.problems == ()
    assert library.names() == ("dog", "fox")
    graph = library.get("fox").graph
    assert graph["1"]["inputs"] == {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    assert graph["2"]["inputs"] == {"filename_prefix": "ui", "images": ["1", 0]}
    assert library.load() == ()

    # In the place of a good one it counts only when it can be converted.
    write(tmp_path, "cat.json", good)
    library.load()
    write(tmp_path, "cat.json", {"nodes": [{"id": 1, "type": "Strange", "outputs": [{"links": [1]}]}], "links": []})
    (problem,) = library.load()
    assert isinstance(problem.error, UiFormat)
    assert library.get("cat").graph == good


def test_other_mappings_need_no_reading(tmp_path: Path, good: Any) -> None:
    file = write(tmp_path, "fox.json", good)
    library = Library(tmp_path)
    library.load()
    file.unlink()
    library.remap({"fox": {"idea": "6"}})
    assert "idea" in {one.name for one in library.get("fox").parameters}

"""Recipes: workflows whose graph a Python function builds."""

from __future__ import annotations

import asyncio
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import BadValue, BridgeError, InvalidGraph, NoSuchInput, RecipeError, UnknownParameter
from bridge.jobs.model import ImageValue
from bridge.library import Library
from bridge.recipes import Recipe, read_recipe, with_sidecar
from bridge.workflow.graph import Target
from bridge.workflow.sidecar import read_sidecar

HEAD = """
from __future__ import annotations
from enum import Enum
from typing import Literal
from pydantic import BaseModel, Field, field_validator
from bridge.recipes import Audio, File, Image, Seed, Video
"""
SMALL = """
class Input(BaseModel):
    prompt: str = "a fox"
    count: int = Field(2, ge=1, le=9)

def build(input):
    return {"1": {"class_type": "Text", "inputs": {"text": input.prompt, "count": input.count}}}
"""


def recipe(text: str, *, time_limit: float = 5.0) -> Recipe:
    source = (HEAD + textwrap.dedent(text)).encode()
    limits = {"time_limit": time_limit, "import_limit": time_limit}
    return read_recipe("fox", "fox.py", Path("fox.py"), source, **limits)


def of(name: str) -> Target:
    return Target("", name)


def parameters(one: Recipe) -> dict[str, Any]:
    return {parameter.name: parameter for parameter in one.parameters}


async def test_the_model_gives_the_parameters_and_the_function_the_graph() -> None:
    fox = recipe(SMALL)
    assert (fox.kind, fox.name, fox.graph, fox.outputs) == ("recipe", "fox", {}, ())
    entry = fox.to_json()
    assert entry["parameters"][1] == {
        "name": "count",
        "title": "Count",
        "type": "integer",
        "default": 2,
        "min": 1,
        "max": 9,
        "targets": [],
    }
    values = fox.assign({"count": "3"})
    assert values == {of("count"): 3}
    assert fox.shown(values) == {"prompt": "a fox", "count": 3}
    payload = await fox.instantiate(values)
    assert payload.graph == {"1": {"class_type": "Text", "inputs": {"text": "a fox", "count": 3}}}
    assert (payload.images, payload.answer_node) == ((), None)


def test_types_of_fields() -> None:
    fox = recipe(
        """
        __doc__ = "What it does.\\n\\nMore."
        TITLE = "The Fox"

        class Style(Enum):
            A = "a"
            B = "b"

        class Input(BaseModel):
            text: str
            whole: int = Field(3, gt=0, lt=10, multiple_of=2, title="Whole", description="A number")
            number: float = Field(0.5, ge=0, le=1)
            switch: bool = True
            style: Style = Style.B
            size: Literal[512, 768] = 768
            source: Image = "a.png"
            other: Image | None = None
            film: Video = "a.mp4"
            sound: Audio = "a.wav"
            data: File = "a.bin"
            seed: Seed = -1
            maybe: int | None = None
            many: list[str] = []
            Prompt: str = "x"

        def build(input): ...
        """
    )
    found = parameters(fox)
    assert {name: one.type for name, one in found.items()} == {
        "text": "text",
        "whole": "integer",
        "number": "number",
        "switch": "boolean",
        "style": "choice",
        "size": "choice",
        "source": "image",
        "other": "image",
        "film": "video",
        "sound": "audio",
        "data": "file",
        "seed": "integer",
        "maybe": "integer",
        "prompt": "text",
    }
    whole = found["whole"]
    assert (whole.min, whole.max, whole.step, whole.title, whole.description) == (1, 9, 2, "Whole", "A number")
    assert (found["style"].choices, found["style"].default) == (("a", "b"), "b")
    assert found["size"].choices == (512, 768)
    assert (found["seed"].default, found["seed"].seed, found["seed"].min) == ("random", True, 0)
    assert found["text"].default is None
    assert (fox.title, fox.description) == ("The Fox", "What it does.")
    assert found["prompt"].targets == (of("Prompt"),)


async def test_an_async_function_and_one_that_waits() -> None:
    fox = recipe(
        """
        import asyncio
        class Input(BaseModel): ...
        async def build(input):
            await asyncio.sleep(0.01)
            return {"1": {"class_type": "A"}}
        """
    )
    assert (await fox.instantiate({})).graph == {"1": {"class_type": "A", "inputs": {}}}


async def test_images_are_uploaded_where_the_graph_has_them() -> None:
    fox = recipe(
        """
        class Input(BaseModel):
            source: Image = "a.png"
            other: Image | None = None
        def build(input):
            nodes = {str(n): {"class_type": "LoadImage", "inputs": {"image": input.source}} for n in (1, 2)}
            return {**nodes, "3": {"class_type": "LoadImage", "inputs": {"image": input.other or "none.png"}}}
        """
    )
    image = ImageValue("b.png", "5" * 64)
    payload = await fox.instantiate({of("source"): image})
    assert payload.images == (("1", "image", image), ("2", "image", image))
    assert payload.graph["3"]["inputs"]["image"] == "none.png"
    assert payload.graph["1"]["inputs"]["image"].endswith(".png")
    payload = await fox.instantiate({of("source"): "c.png"})
    assert payload.images == ()
    assert payload.graph["1"]["inputs"]["image"] == "c.png"
    assert fox.image_targets("source") == (of("source"),)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"count": 99}, "count is at most 9, and got 99"),
        ({"count": "x"}, "count is a whole number, and got 'x'"),
        ({"prompt": 5}, "prompt is a text, and got 5"),
        ({"prompt": None}, "prompt is null"),
    ],
)
def test_values_are_checked_when_they_are_set(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadValue, match=words):
        recipe(SMALL).assign(values)


async def test_the_model_checks_what_only_it_knows() -> None:
    fox = recipe(
        """
        class Input(BaseModel):
            prompt: str
            size: int = 8
            @field_validator("size")
            @classmethod
            def even(cls, value):
                if value % 2: raise ValueError("must be even")
                return value
        def build(input): return {}
        """
    )
    with pytest.raises(BadValue, match="prompt is not set, and has no default"):
        await fox.instantiate({})
    with pytest.raises(BadValue, match="size: must be even, and got 3"):
        await fox.instantiate({of("prompt"): "x", of("size"): 3})


@pytest.mark.parametrize("ref", ["6", 6, "KSampler.steps", "promt"])
def test_nodes_are_refused(ref: str | int) -> None:
    fox = recipe(SMALL)
    for call in (fox.text_targets, fox.image_targets, fox.resolve):
        with pytest.raises(UnknownParameter, match=r"fox is a recipe.*prompt, count"):
            call(ref)  # type: ignore[arg-type]
    with pytest.raises(UnknownParameter, match="recipe"):
        fox.assign({str(ref): 1})


def test_texts_and_images_go_to_parameters() -> None:
    fox = recipe(SMALL)
    assert fox.text_targets() == fox.text_targets("prompt") == (of("prompt"),)
    with pytest.raises(NoSuchInput, match="type integer"):
        fox.text_targets("count")
    with pytest.raises(UnknownParameter, match="no image parameter"):
        fox.image_targets()
    assert fox.has(of("prompt"))
    assert not fox.has(of("other"))
    assert not fox.has(Target("6", "text"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def build(input): return {}", "fox.py has no class Input"),
        ("class Input: ...\ndef build(input): return {}", "has no class Input"),
        ("class Input(BaseModel): ...", "has no function build"),
        ("class Input(BaseModel): ...\ndef build(): return {}", "build should take one argument"),
        ("class Input(BaseModel):\n    x: list[str]\ndef build(input): ...", "'x' of Input is no text"),
        ("class Input(BaseModel):\n    transaction: str\ndef build(input): ...", "'transaction'.*rename it"),
        ("class Input(BaseModel):\n    x: Nothing = 1\ndef build(input): ...", "cannot be described|Nothing"),
        ("import no_such_package", "fox.py, line 8: ModuleNotFoundError: No module named 'no_such_package'"),
        ("x = = 1", "fox.py, line 8: SyntaxError"),
        ("1 / 0", "fox.py, line 8: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "fox.py, line 8: SystemExit: 3"),
        ("\x00", "fox.py.*(null bytes|SyntaxError)"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        recipe("\n" + text)
    assert caught.value.code == "recipe_error"


BROKEN = [
    ("return {}['x']", RecipeError, r"fox.py, line 9: KeyError: 'x'"),
    ("raise SystemExit", RecipeError, r"fox.py, line 9: SystemExit"),
    ("return [1]", RecipeError, "build gives a list; it should be a graph"),
    ("return None", RecipeError, "build gives null"),
    ("return {}", InvalidGraph, "the graph of the recipe fox has no nodes"),
    ("return {'1': {'class_type': 'A', 'inputs': {'x': ['9', 0]}}}", InvalidGraph, "'9', which does not exist"),
    ("return {'1': {'class_type': 'A', 'inputs': {'x': object()}}}", InvalidGraph, "JSON does not know"),
    ("import json; json.loads('{')", RecipeError, r"fox.py, line 9: JSONDecodeError"),
    ("from bridge.errors import BadValue; raise BadValue('not so')", BadValue, "not so"),
    ("class E(Exception):\n        __str__ = None\n    raise E", RecipeError, "fox.py, line 11: E"),
]


@pytest.mark.parametrize(("body", "error", "words"), BROKEN)
async def test_what_a_function_raises_is_an_answer(body: str, error: type[BridgeError], words: str) -> None:
    fox = recipe(f"class Input(BaseModel): ...\ndef build(input):\n    {body}\n")
    with pytest.raises(error, match=words) as caught:
        await fox.instantiate({})
    assert caught.value.to_json()["message"]


async def test_one_that_hangs_is_given_up_and_holds_up_nothing() -> None:
    hanging = recipe(
        """
        import time
        class Input(BaseModel): ...
        def build(input):
            time.sleep(2)
        """,
        time_limit=0.2,
    )
    waiting = recipe(
        """
        import asyncio
        class Input(BaseModel): ...
        async def build(input):
            await asyncio.sleep(60)
        """,
        time_limit=0.2,
    )
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    began = time.monotonic()
    for one in (hanging, waiting):
        with pytest.raises(RecipeError, match=r"fox.py was not done within 0.2 s"):
            await one.instantiate({})
    assert time.monotonic() - began < 1.9
    beating.cancel()
    assert beats > 10
    with pytest.raises(RecipeError, match="not done within"):
        recipe("import time\ntime.sleep(2)", time_limit=0.2)


async def test_an_endless_loop_is_ended_and_takes_no_time_from_the_rest() -> None:
    looping = recipe(
        """
        class Input(BaseModel): ...
        def build(input):
            while True: pass
        """,
        time_limit=0.2,
    )
    with pytest.raises(RecipeError, match="not done within"):
        await looping.instantiate({})
    with pytest.raises(RecipeError, match="not done within"):
        recipe("while True: pass", time_limit=0.2)
    for thread in threading.enumerate():
        if thread.name == "recipe fox.py":
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()


async def test_a_sidecar_says_more() -> None:
    sidecar, _ = read_sidecar(
        """
        title = "Fox"
        stall_timeout = 5
        outputs = ["1"]
        [parameters.count]
        max = 4
        default = 4
        title = "Times"
        [parameters.prompt]
        node = "6"
        [presets.quality.high]
        count = 3
        """,
        "fox.toml",
    )
    fox, errors = with_sidecar(recipe(SMALL), sidecar)
    assert [error.message for error in errors] == [
        "fox.toml: parameters.prompt names a node; a recipe has none before it runs."
    ]
    count = parameters(fox)["count"]
    assert (count.max, count.default, count.title, fox.title) == (4, 4, "Times", "Fox")
    payload = await fox.instantiate({})
    assert payload.graph["1"]["inputs"]["count"] == 4
    assert (payload.answer_node, payload.output_nodes, payload.stall_timeout) == ("1", ("1",), 5.0)
    assert fox.assign({"quality": "high"}) == {of("count"): 3}


def test_the_library_imports_a_recipe_again_only_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "sdxl" / "fox.py"
    file.parent.mkdir()
    file.write_text(HEAD + SMALL, encoding="utf-8")
    (tmp_path / "_helper.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "__init__.py").write_text("", encoding="utf-8")
    library = Library(tmp_path)
    assert library.load() == ()
    assert library.names() == ("sdxl-fox",)
    first = library.get("sdxl/fox.py")
    assert first.kind == "recipe"
    library.load()
    assert library.get("sdxl-fox") == first
    file.write_text(HEAD + SMALL.replace("a fox", "a dog"), encoding="utf-8")
    assert library.load() == ()
    assert library.get("sdxl-fox").parameters[0].default == "a dog"
    file.write_text("1 / 0", encoding="utf-8")
    (problem,) = library.load()
    assert (problem.path, problem.error.code, problem.workflow) == ("sdxl/fox.py", "recipe_error", "sdxl-fox")
    assert library.get("sdxl-fox").parameters[0].default == "a dog"
    file.unlink()
    assert library.load() == ()
    assert library.names() == ()


def test_a_recipe_that_was_never_good_is_answered_with_its_fault(tmp_path: Path) -> None:
    (tmp_path / "fox.py").write_text("1 / 0", encoding="utf-8")
    library = Library(tmp_path)
    library.load()
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        library.get("fox")

"""Files of workflows as they come and go, and what is declared in them, on the wire."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_process import House, house
from tests.support.graphs import Graph, img2img, node, picture, plain, txt2img
from tests.support.mqtt_eye import watching

RECIPE = '''
"""Squares in one picture."""
from pydantic import BaseModel, Field
from bridge.recipes import Image, Seed

class Input(BaseModel):
    count: int = Field(2, ge=1, le=4)
    seed: Seed = -1
    source: Image | None = None
    fail: bool = False

def build(input):
    if input.fail:
        raise RuntimeError("as asked")
    graph = {"0": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": input.count,
             "color": input.seed % 255}}}
    if input.source:
        graph["0"] = {"class_type": "LoadImage", "inputs": {"image": input.source}}
    graph["1"] = {"class_type": "SaveImage", "inputs": {"images": ["0", 0], "filename_prefix": "squares"}}
    return graph
'''


def write(here: House, name: str, content: Any) -> Path:
    file = here.plan.folder / "workflows" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def workflows(here: House) -> dict[str, Any]:
    return {one["name"]: one for one in here.eye.last("bridge/workflows").json["workflows"]}


def parameter(here: House, workflow: str, name: str) -> dict[str, Any]:
    return next(one for one in workflows(here)[workflow]["parameters"] if one["name"] == name)


def logged(here: House, *words: str) -> bool:
    return any(all(word in one.text for word in words) for one in here.eye.of("bridge/log"))


async def test_a_file_is_taken_up_within_a_second(
    tmp_path: Path, broker_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge")
    async with house(tmp_path, broker_port, workflows={"fox": txt2img()}) as here:
        file = write(here, "dog.json", plain())
        await here.eye.until(lambda: "dog" in workflows(here), 2.0)
        await here.eye.until(lambda: logged(here, "the workflow dog is new"))
        await here.eye.payload("workflow/dog/state", "online")
        await here.run(workflow="dog")
        assert parameter(here, "dog", "width")["default"] == 16

        write(here, "dog.json", plain(size=24))
        await here.eye.until(lambda: parameter(here, "dog", "width")["default"] == 24, 2.0)
        write(here, "dog.toml", "title = 'Dog'\n[parameters.width]\nmax = 64\nmaxx = 3")
        await here.eye.until(lambda: workflows(here)["dog"]["title"] == "Dog", 2.0)
        await here.eye.until(lambda: logged(here, "dog.toml: parameters.width.maxx is not known"))
        await here.eye.refused("workflow/dog/set", {"width": 65}, "bad_value", "width", "64", "65")

        write(here, "dog.json", "{")
        await here.eye.until(lambda: logged(here, "dog.json is not JSON"), 2.0)
        assert parameter(here, "dog", "width")["default"] == 24
        await here.run(workflow="dog")

        file.unlink()
        await here.eye.until(lambda: "dog" not in workflows(here), 2.0)
        await here.eye.until(lambda: logged(here, "the workflow dog is gone"))
        await here.eye.refused("workflow/dog/queue", None, "unknown_workflow", "dog")
        async with watching(broker_port, here.base) as late:
            await late.first("workflow/fox/values")
            await late.first("bridge/workflows")
            assert not [one for one in late.seen if one.topic.startswith("workflow/dog/") and one.payload]


async def test_a_workflow_of_its_own_topics(tmp_path: Path, broker_port: int) -> None:
    graph = img2img()
    graph["10"]["_meta"]["title"] = "IMAGE_source"
    async with house(tmp_path, broker_port, workflows={"fox": txt2img(), "img": graph}) as here:
        await here.eye.done("workflow/fox/set/prompt", "a red fox")
        await here.eye.done("workflow/fox/set/steps", "2")
        await here.eye.until(lambda: here.eye.last("workflow/fox/values").json["steps"] == 2)
        prompt_id = await here.run("", workflow="fox")
        assert here.graph(prompt_id)["6"]["inputs"]["text"] == "a red fox"
        assert here.graph(prompt_id)["3"]["inputs"]["steps"] == 2
        jpeg = picture(kind="JPEG")
        await here.eye.done("workflow/img/set/source", jpeg)
        assert here.eye.last("workflow/img/values").json["source"]["filename"].endswith(".jpg")
        prompt_id = await here.run("", workflow="img")
        assert here.graph(prompt_id)["10"]["inputs"]["image"].endswith(".jpg")


async def test_values_stay_with_their_parameter_when_ids_change(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, workflows={"fox": txt2img()}) as here:
        write(here, "fox.toml", "[parameters.idea]\nnode = 'Positive Prompt'")
        await here.eye.until(lambda: any(one["name"] == "idea" for one in workflows(here)["fox"]["parameters"]), 2.0)
        await here.eye.done("update/values", {"idea": "kept", "steps": 2})
        again: Graph = json.loads(json.dumps(txt2img()).replace('"6"', '"106"').replace('"3"', '"103"'))
        write(here, "fox.json", again)
        await here.eye.until(lambda: parameter(here, "fox", "idea")["targets"][0]["node"] == "106", 2.0)
        prompt_id = await here.run()
        assert here.graph(prompt_id)["106"]["inputs"]["text"] == "kept"
        assert here.graph(prompt_id)["103"]["inputs"]["steps"] == 2


async def test_a_recipe_is_a_workflow_like_any_other(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, workflows={"fox": txt2img()}) as here:
        write(here, "art/squares.py", RECIPE)
        await here.eye.until(lambda: "art-squares" in workflows(here), 2.0)
        entry = workflows(here)["art-squares"]
        assert (entry["kind"], entry["path"], entry["description"]) == (
            "recipe",
            "art/squares.py",
            "Squares in one picture.",
        )
        name = "art-squares"
        await here.eye.done(f"workflow/{name}/set/count", "3")
        prompt_id = await here.run("", workflow=name)
        result = here.eye.last(f"prompt/{prompt_id}/result").json
        assert result["values"]["count"] == 3
        assert isinstance(result["values"]["seed"], int)
        assert len(result["outputs"]) == 3
        assert here.eye.last(f"workflow/{name}/values").json["seed"] == "random"

        await here.eye.done(f"workflow/{name}/set/source", picture())
        prompt_id = await here.run("", workflow=name)
        assert here.graph(prompt_id)["0"]["inputs"]["image"].endswith(".png")
        assert not here.graph(prompt_id)["0"]["inputs"]["image"].startswith("bridge-")

        refused = here.eye.refused
        await refused(
            f"workflow/{name}/queue", {"values": {"fail": True}}, "recipe_error", "squares.py, line", "as asked"
        )
        await refused(f"workflow/{name}/set/count", "9", "bad_value", "count", "4", "9")
        await here.eye.done("load", name)
        await refused("update/text", {"node_id": 6, "text": "x"}, "unknown_parameter", "recipe", "count")
        await refused("update/image/10", picture(), "unknown_parameter", "recipe")
        await refused("update/values", {"KSampler.steps": 3}, "unknown_parameter", "recipe")


async def test_presets_classes_and_chosen_outputs(tmp_path: Path, broker_port: int) -> None:
    graph = txt2img()
    graph["10"] = node("SaveImage", "Again", filename_prefix="again", images=["8", 0])
    graph["11"] = node("PreviewImage", "Look", images=["8", 0])
    async with house(tmp_path, broker_port, workflows={"fox": graph}) as here:
        write(
            here,
            "fox.toml",
            """
            outputs = ["Again", "Picture"]
            [parameters.seed]
            default = "random"
            [presets.quality.draft]
            steps = 2
            cfg = 3
            [presets.quality.normal]
            steps = 4
            cfg = 7.0
            """,
        )
        await here.eye.until(lambda: "quality" in here.eye.last("workflow/fox/values").json, 2.0)
        assert here.eye.last("workflow/fox/values").json["quality"] == "normal"
        await here.eye.done("workflow/fox/set/quality", "draft")
        await here.eye.until(lambda: here.eye.last("workflow/fox/values").json["quality"] == "draft")
        prompt_id = await here.run({"values": {"KSampler.cfg": 5}})
        result = here.eye.last(f"prompt/{prompt_id}/result").json
        assert here.graph(prompt_id)["3"]["inputs"]["steps"] == 2
        assert here.graph(prompt_id)["3"]["inputs"]["cfg"] == 5.0
        assert result["values"]["quality"] is None
        assert result["values"]["seed"] == here.graph(prompt_id)["3"]["inputs"]["seed"]
        assert {one["node"] for one in result["outputs"]} == {"9", "10"}
        answer = next(one for one in result["outputs"] if one["node"] == "10")
        assert here.eye.last("workflow/fox/image").user["filename"] == answer["filename"]


async def test_a_file_of_the_editor_is_converted_with_the_backends_classes(tmp_path: Path, broker_port: int) -> None:
    editors = {
        "nodes": [
            {"id": 1, "type": "EmptyImage", "outputs": [{"links": [1]}], "widgets_values": [32, 16, 1, 255]},
            {
                "id": 2,
                "type": "SaveImage",
                "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
                "widgets_values": ["ui"],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "version": 0.4,
    }
    async with house(tmp_path, broker_port, workflows={"ui": editors}, loaded=None) as here:
        await here.eye.until(lambda: "ui" in workflows(here))
        prompt_id = await here.run()
        assert here.graph(prompt_id)["1"]["inputs"] == {"width": 32, "height": 16, "batch_size": 1, "color": 255}

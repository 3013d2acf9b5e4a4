"""What jobs make: several files, other kinds than images, texts, parts that fail."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from tests.support.bridge_process import house
from tests.support.graphs import Graph, node, plain, txt2img
from tests.support.mqtt_eye import watching


async def test_two_outputs_and_the_one_that_is_the_answer(tmp_path: Path, broker_port: int) -> None:
    graph: Graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=0xFF0000),
        "2": node("PreviewImage", "Look", images=["1", 0]),
        "3": node("ImageInvert", image=["1", 0]),
        "4": node("SaveImage", "A", filename_prefix="a", images=["1", 0]),
        "5": node("SaveImage", "B", filename_prefix="sub/b", images=["3", 0]),
    }
    more = {"node_mappings": {"save_image": "5"}}
    async with house(tmp_path, broker_port, workflows={"two": graph}, loaded="two", more=more) as here:
        prompt_id = await here.run()
        outputs = here.eye.last(f"prompt/{prompt_id}/result").json["outputs"]
        assert [one["n"] for one in outputs] == [0, 1, 2]
        by_node = {one["node"]: one for one in outputs}
        assert by_node.keys() == {"2", "4", "5"}
        assert (by_node["2"]["type"], by_node["4"]["type"], by_node["5"]["subfolder"]) == ("temp", "output", "sub")
        made = here.eye.outputs(prompt_id)
        assert made.keys() == {0, 1, 2}
        for one in outputs:
            assert len(made[one["n"]]) == one["bytes"]
        assert here.eye.last("workflow/two/image").payload == made[by_node["5"]["n"]]
    async with house(tmp_path / "plain", broker_port, workflows={"two": graph}, loaded="two") as here:
        prompt_id = await here.run()
        outputs = here.eye.last(f"prompt/{prompt_id}/result").json["outputs"]
        shown = here.eye.last("workflow/two/image").payload
        # Without a mapping it is the first one that is saved, not a look in between.
        answer = next(one for one in outputs if one["type"] == "output")
        assert shown == here.eye.outputs(prompt_id)[answer["n"]]


async def test_a_batch_of_images(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, workflows={"batch": plain(batch=4)}, loaded="batch") as here:
        prompt_id = await here.run()
        assert here.eye.outputs(prompt_id).keys() == {0, 1, 2, 3}
        names = [one["filename"] for one in here.eye.last(f"prompt/{prompt_id}/result").json["outputs"]]
        assert len(set(names)) == 4


async def test_the_same_again_gives_its_outputs_again(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="plain") as here:
        first, second = await here.run(), await here.run()
        assert here.eye.outputs(first) == here.eye.outputs(second)
        (cached,) = here.eye.of(f"prompt/{second}/event/execution_cached")
        assert sorted(cached.json["data"]["nodes"]) == ["1", "2"]


async def test_texts(tmp_path: Path, broker_port: int) -> None:
    graph: Graph = {
        "1": node("EmptyImage", width=8, height=24, batch_size=1, color=1),
        "2": node("GetImageSize", image=["1", 0]),
        "3": node("PreviewAny", "Width", source=["2", 0]),
        "4": node("PrimitiveString", value="grüße ✨"),
        "5": node("PreviewAny", "Words", source=["4", 0]),
    }
    async with house(tmp_path, broker_port, workflows={"text": graph}, loaded="text") as here:
        prompt_id = await here.run()
        result = here.eye.last(f"prompt/{prompt_id}/result").json
        texts = {(one["node"], one["text"]) for one in result["text"]}
        assert {("3", "8"), ("5", "grüße ✨")} <= texts
        (frame,) = here.eye.of(f"prompt/{prompt_id}/event/text")
        assert frame.json == {
            "type": "text",
            "data": {"node": "2", "text": "width: 8, height: 24\n batch size: 1"},
        }
        assert result["outputs"] == []


async def test_audio_video_and_animations(tmp_path: Path, broker_port: int) -> None:
    graph: Graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=3, color=1),
        "2": node(
            "SaveAnimatedWEBP",
            images=["1", 0],
            filename_prefix="moving",
            fps=6.0,
            lossless=True,
            quality=80,
            method="default",
        ),
        "3": node("SaveAnimatedPNG", images=["1", 0], filename_prefix="moving", fps=6.0, compress_level=4),
        "4": node("EmptyAudio", duration=0.2, sample_rate=44100, channels=2),
        "5": node("SaveAudio", audio=["4", 0], filename_prefix="sound"),
    }
    async with house(tmp_path, broker_port, workflows={"media": graph}, loaded="media") as here:
        prompt_id = await here.run()
        result = here.eye.last(f"prompt/{prompt_id}/result").json
        kinds = {one["node"]: one["content_type"] for one in result["outputs"]}
        assert kinds == {"2": "image/webp", "3": "image/png", "5": "audio/flac"}
        for one in result["outputs"]:
            message = here.eye.last(f"prompt/{prompt_id}/output/{one['n']}")
            assert message.content_type == one["content_type"]
            assert message.user["filename"] == one["filename"]
            if one["node"] == "5":
                assert message.payload[:4] == b"fLaC"
                assert one["width"] is None


async def test_images_by_websocket(tmp_path: Path, broker_port: int) -> None:
    graph: Graph = {
        "1": node("EmptyImage", width=20, height=10, batch_size=2, color=0x00FF00),
        "2": node("SaveImageWebsocket", images=["1", 0]),
    }
    async with house(tmp_path, broker_port, workflows={"ws": graph}, loaded="ws") as here:
        prompt_id = await here.run()
        made = here.eye.outputs(prompt_id)
        assert made.keys() == {0, 1}
        for payload in made.values():
            with Image.open(io.BytesIO(payload)) as image:
                assert (image.format, image.size) == ("PNG", (20, 10))
        result = here.eye.last(f"prompt/{prompt_id}/result").json
        assert [(one["node"], one["content_type"], one["width"]) for one in result["outputs"]] == [
            ("2", "image/png", 20),
            ("2", "image/png", 20),
        ]
        assert here.eye.last("workflow/ws/image").payload == made[0]


async def test_a_node_that_fails(tmp_path: Path, broker_port: int) -> None:
    graph: Graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=1),
        "2": node("SaveImage", filename_prefix="kept", images=["1", 0]),
        "3": node("StandInFail", "Broken", message="the lamp is out"),
    }
    # The output node that comes first in the graph runs first in the stand-in.
    async with house(tmp_path, broker_port, workflows={"fail": graph, "plain": plain()}, loaded="fail") as here:
        prompt_id = await here.eye.queue()
        result = await here.eye.over(prompt_id)
        assert result["status"] == "failed"
        error = result["error"]
        assert (error["code"], error["node"]) == ("execution_error", "3")
        assert "the lamp is out" in error["message"]
        assert here.eye.finals(prompt_id)[0]["error"] == error
        assert here.eye.of(f"prompt/{prompt_id}/event/execution_error")
        assert here.eye.last("workflow/fail/event").json["event_type"] == "failed"
        assert here.comfy.stats.started == {prompt_id: 1}
        # What was finished before is there.
        made = here.eye.outputs(prompt_id)
        assert len(made) == len(result["outputs"]) == len(here.comfy.stats.pictures)
        await here.run(workflow="plain")


async def test_outputs_before_the_failure_are_delivered(tmp_path: Path, broker_port: int) -> None:
    graph: Graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=1),
        "2": node("SaveImage", filename_prefix="kept", images=["1", 0]),
        "3": node("StandInSleep", seconds=0.2, steps=2),
        "4": node("ImageBlend", image1=["3", 0], image2=["5", 0], blend_factor=0.5, blend_mode="normal"),
        "5": node("StandInFail", "Broken", message="too late"),
        "6": node("SaveImage", filename_prefix="never", images=["4", 0]),
    }
    async with house(tmp_path, broker_port, workflows={"fail": graph}, loaded="fail") as here:
        prompt_id = await here.eye.queue()
        result = await here.eye.over(prompt_id)
        assert (result["status"], result["error"]["code"]) == ("failed", "execution_error")
        written = len(here.comfy.stats.pictures)
        assert len(here.eye.outputs(prompt_id)) == written == len(result["outputs"])


async def test_a_branch_that_comfyui_refuses(tmp_path: Path, broker_port: int) -> None:
    graph = plain()
    graph["20"] = node("EmptyImage", width=0, height=8, batch_size=1, color=1)
    graph["21"] = node("SaveImage", "Other", filename_prefix="x", images=["20", 0])
    async with house(tmp_path, broker_port, workflows={"half": graph}, loaded="half") as here:
        prompt_id = await here.eye.queue()
        result = await here.eye.over(prompt_id)
        assert result["status"] == "completed"
        assert result["error"]["code"] == "node_errors"
        assert "20" in str(result["error"])
        assert here.eye.outputs(prompt_id).keys() == {0}


async def test_a_graph_that_comfyui_refuses(tmp_path: Path, broker_port: int) -> None:
    graph = txt2img()
    graph["3"]["inputs"]["sampler_name"] = "no such sampler"
    strange = {**plain(), "1": node("NoSuchNode")}
    graphs = {"wrong": graph, "strange": strange, "plain": plain()}
    async with house(tmp_path, broker_port, workflows=graphs, loaded="plain") as here:
        for name, word in (("wrong", "sampler_name"), ("strange", "NoSuchNode")):
            reply = await here.eye.ask(f"workflow/{name}/queue")
            if reply["status"] == "error":  # known already when it was asked for
                assert word in reply["error"]
                continue
            (prompt_id,) = reply["data"]["prompt_ids"]
            result = await here.eye.over(prompt_id)
            assert result["status"] == "failed"
            assert result["error"]["code"] in {"node_errors", "invalid_graph"}
            assert word in result["error"]["message"]
            assert here.comfy.stats.started == {}
        await here.run()


async def test_out_of_memory(tmp_path: Path, broker_port: int) -> None:
    graph: Graph = {"1": node("StandInFail", message="no room", oom=True)}
    async with house(tmp_path, broker_port, workflows={"oom": graph, "plain": plain()}, loaded="oom") as here:
        prompt_id = await here.eye.queue()
        result = await here.eye.over(prompt_id)
        assert (result["status"], result["error"]["code"]) == ("failed", "out_of_memory")
        assert result["error"]["node"] == "1"
        # Tried once more with the memory freed, and no more.
        assert here.comfy.stats.started == {prompt_id: 2}
        assert here.comfy.stats.freed == 1
        await here.run(workflow="plain")


async def test_outputs_that_are_too_large_to_publish(tmp_path: Path, broker_port: int) -> None:
    more = {"mqtt": {"max_output": 500, "max_retained_image": 200}}
    graphs = {"small": plain(size=4), "large": plain(size=400, color=5)}
    async with house(tmp_path, broker_port, workflows=graphs, loaded="large", more=more) as here:
        large = await here.run()
        assert here.eye.outputs(large) == {}
        (output,) = here.eye.last(f"prompt/{large}/result").json["outputs"]
        assert output["bytes"] > 500
        assert output["url"]
        small = await here.run(workflow="small")
        assert here.eye.outputs(small).keys() == {0}
        async with watching(broker_port, here.base) as late:
            await late.first("workflow/large/result")
            await late.first("bridge/state")
            assert late.of("workflow/large/image") == []


async def test_a_view_that_fails(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="plain") as here:
        here.comfy.faults.view_error = 1
        prompt_id = await here.eye.queue()
        result = await here.eye.over(prompt_id)
        assert result["status"] == "completed"
        (output,) = result["outputs"]
        # Either it was asked for again, or the result says what is missing.
        assert bool(here.eye.outputs(prompt_id)) != bool(output.get("error"))
        here.comfy.faults.view_error = 1000
        prompt_id = await here.eye.queue({"values": {"1.color": 77}})
        result = await here.eye.over(prompt_id)
        assert result["status"] == "completed"
        assert result["outputs"][0]["error"]["message"]
        assert result["outputs"][0]["filename"]
        assert here.comfy.stats.started[prompt_id] == 1


async def test_many_previews(tmp_path: Path, broker_port: int) -> None:
    graph: Graph = {"1": node("StandInFrames", count=300, bytes=20_000, rate=0.0)}
    async with house(tmp_path, broker_port, workflows={"frames": graph}, loaded="frames") as here:
        prompt_id = await here.run()
        seqs = [int(one.user["seq"]) for one in here.eye.of(f"prompt/{prompt_id}/preview")]
        assert seqs == sorted(seqs)
        assert len(seqs) > 10
        assert all(len(one.payload) == 20_000 for one in here.eye.of(f"prompt/{prompt_id}/preview"))

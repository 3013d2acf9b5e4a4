"""The stand-in against the recordings of a real server: the same requests, the same answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.testing import StandIn
from bridge.testing.catalogue import CLASSES
from bridge.testing.nodes import NODES
from tests.contract.peer import Event, Peer, parse, unused_name
from tests.contract.test_files import picture

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
WORKFLOWS = Path(__file__).parents[2] / "workflows"


def requests_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECORDINGS / name / "http.jsonl").read_text("utf-8").splitlines()]


def comparable(answer: Any) -> Any:
    """An answer without what differs by right: ids, numbers, tooltips, choices of files, tracebacks."""
    if isinstance(answer, dict):
        dropped = {"prompt_id", "number", "tooltip", "traceback", "input_config"}
        return {name: comparable(value) for name, value in answer.items() if name not in dropped}
    if isinstance(answer, list):
        return [comparable(value) for value in answer]
    if isinstance(answer, str) and answer.startswith("ckpt_name: "):
        return answer.partition(" not in ")[0]
    return answer


async def test_validation_answers_as_recorded() -> None:
    async with StandIn() as standin, httpx.AsyncClient(base_url=standin.url) as http:
        for line in requests_of("e_validation"):
            if line["method"] != "POST":
                continue
            request = line["request"]
            answer = await http.request(
                "POST", httpx.URL(line["url"]).path, json=request.get("json"), content=request.get("content")
            )
            assert answer.status_code == line["status"], line["note"]
            if line["status"] == 500:
                assert answer.text == line["body_text"]
                continue
            assert answer.headers["content-type"] == line["response_headers"]["content-type"]
            assert comparable(answer.json()) == comparable(json.loads(line["body_text"])), line["note"]


def told(events: list[Event]) -> list[Any]:
    """Events without ids and times, so that two runs can be compared."""
    story: list[Any] = []
    for event in events:
        if event.kind == "binary":
            data = {key: value for key, value in event.data.items() if key not in {"image", "metadata"}}
        else:
            data = {key: value for key, value in event.data.items() if key not in {"prompt_id", "timestamp", "sid"}}
        if event.kind == "progress_state":
            data = {name: (node["value"], node["max"], node["state"]) for name, node in data["nodes"].items()}
        if event.kind == "executed" and data["output"] is not None:
            data["output"] = {
                key: len(value) if key in {"images", "audio"} else value for key, value in data["output"].items()
            }
        story.append((event.kind, data))
    return story


def recorded_frames(name: str, connection: str, prompt_id: str | None) -> list[Event]:
    """The recorded frames of one connection; of one prompt and without status if its id is given."""
    frames = []
    for line in (RECORDINGS / name / "ws.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("conn", "A") != connection:
            continue
        if entry["kind"] == "text":
            event = parse(entry["raw"])
        elif entry["kind"] == "binary":
            header = entry["header"]
            data = {1: {"type": 1, "format": header.get("image_format")}}.get(header["event_type"])
            if header["event_type"] == 3:
                data = {"type": 3, "node": header["node_id"], "text": header["text"]}
            event = Event("binary", data or {"type": 4}, b"")
        else:
            continue
        frames.append(event)
    if prompt_id is None:
        return frames
    first = next(index for index, event in enumerate(frames) if event.data.get("prompt_id") == prompt_id)
    last = max(index for index, event in enumerate(frames) if event.data.get("prompt_id") == prompt_id)
    return [event for event in frames[first : last + 1] if event.kind != "status"]


STRAIGHT = ["k-scale_save", "k-batch4", "k-ws_image", "k-prefix_vars"]
OTHER = ["n-text_string", "n-text_literal", "n-binary_text_type3", "n-audio_flac", "n-animated_webp", "n-mask_preview"]


@pytest.mark.parametrize(
    ("recording", "prompt_id"),
    [("k_no_sampler", name) for name in STRAIGHT] + [("n_other_outputs", name) for name in OTHER],
)
async def test_the_events_of_a_prompt_are_as_recorded(recording: str, prompt_id: str) -> None:
    line = next(
        line for line in requests_of(recording) if line["request"].get("json", {}).get("prompt_id") == prompt_id
    )
    wanted = recorded_frames(recording, "A", prompt_id)
    cached = next(event for event in wanted if event.kind == "execution_cached").data["nodes"]
    flags = recording == "n_other_outputs"
    async with StandIn() as standin, Peer(standin.url, flags=flags) as peer:
        graph = line["request"]["json"]["prompt"]
        if cached:
            warm = {name: graph[name] for name in cached}
            source = {"source": [cached[-1], 0]}
            await peer.run({**warm, "warm": {"class_type": "PreviewAny", "inputs": source}})
        _, events = await peer.run(graph)
        assert told([event for event in events if event.kind != "feature_flags"]) == told(wanted)


@pytest.mark.parametrize(("recording", "flags"), [("a_txt2img_no_flags", False), ("b_txt2img_feature_flags", True)])
async def test_sampling_is_told_as_recorded(recording: str, flags: bool) -> None:
    graph = json.loads((RECORDINGS / recording / "graph.json").read_text("utf-8"))
    wanted = told([event for event in recorded_frames(recording, "A", None) if event.kind == "progress"])
    async with StandIn() as standin, Peer(standin.url, flags=flags) as peer:
        _, events = await peer.run(graph)
        assert told([event for event in events if event.kind == "progress"]) == wanted
        assert len([event for event in events if event.kind == "binary"]) == 8


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
async def test_the_sample_workflows_run(path: Path) -> None:
    document = json.loads(await asyncio.to_thread(path.read_text, "utf-8"))
    graph = {name: node for name, node in document.get("prompt", document).items() if "class_type" in node}
    async with StandIn() as standin, Peer(standin.url) as peer:
        for node in graph.values():
            if node["class_type"] in {"LoadImage", "LoadImageMask"}:
                node["inputs"]["image"] = (await peer.upload(unused_name("in") + ".png", picture())).json()["name"]
        _, events = await peer.run(graph)
        assert events[-2].kind == "execution_success"
        assert [event for event in events if event.kind == "executed"]


def test_every_described_node_can_run() -> None:
    assert set(CLASSES) == set(NODES)


async def test_all_kinds_of_nodes_work_together() -> None:
    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    async with StandIn() as standin, Peer(standin.url) as peer:
        name = (await peer.upload("in.png", picture("white", (96, 64)))).json()["name"]
        sampled = {"seed": 1, "steps": 2, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.5}
        links = {"model": ["lora", 0], "positive": ["text", 0], "negative": ["text", 0]}
        graph = {
            "ckpt": node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors"),
            "lora": node(
                "LoraLoader",
                model=["ckpt", 0],
                clip=["ckpt", 1],
                lora_name="add_detail.safetensors",
                strength_model=1,
                strength_clip=1,
            ),
            "clip": node("CLIPSetLastLayer", clip=["lora", 1], stop_at_clip_layer=-2),
            "text": node("CLIPTextEncode", clip=["clip", 0], text="Straße, 世界"),
            "load": node("LoadImage", image=name),
            "mask": node("LoadImageMask", image=name, channel="red"),
            "vae": node("VAELoader", vae_name="vae-ft-mse-840000-ema-pruned.safetensors"),
            "inpaint": node(
                "VAEEncodeForInpaint", pixels=["load", 0], vae=["vae", 0], mask=["mask", 0], grow_mask_by=6
            ),
            "first": node("KSampler", latent_image=["inpaint", 0], **sampled, **links),
            "larger": node("LatentUpscaleBy", samples=["first", 0], upscale_method="bislerp", scale_by=1.5),
            "second": node("KSampler", latent_image=["larger", 0], **sampled, **links),
            "decode": node("VAEDecode", samples=["second", 0], vae=["vae", 0]),
            "by": node("ImageScaleBy", image=["decode", 0], upscale_method="lanczos", scale_by=0.5),
            "model": node("UpscaleModelLoader", model_name="RealESRGAN_x4plus.pth"),
            "up": node("ImageUpscaleWithModel", upscale_model=["model", 0], image=["by", 0]),
            "blend": node("ImageBlend", image1=["up", 0], image2=["load", 0], blend_factor=0.5, blend_mode="screen"),
            "blur": node("ImageBlur", image=["blend", 0], blur_radius=3, sigma=1.0),
            "sharp": node("ImageSharpen", image=["blur", 0], sharpen_radius=1, sigma=1.0, alpha=1.0),
            "both": node("ImageBatch", image1=["sharp", 0], image2=["load", 0]),
            "save": node("SaveImage", images=["both", 0], filename_prefix="all"),
            "tomask": node("ImageToMask", image=["load", 0], channel="blue"),
            "invert": node("InvertMask", mask=["tomask", 0]),
            "show": node("MaskPreview", mask=["invert", 0]),
            "back": node("MaskToImage", mask=["invert", 0]),
            "size": node("GetImageSize", image=["sharp", 0]),
            "width": node("PreviewAny", source=["size", 0]),
            "film": node("SaveAnimatedPNG", images=["both", 0], filename_prefix="film", fps=6, compress_level=4),
            "join": node("StringConcatenate", string_a="a", string_b="b", delimiter="-"),
            "said": node("PreviewAny", source=["join", 0]),
        }
        prompt_id, events = await peer.run(graph)
        assert events[-2].kind == "execution_success", events[-2].data
        outputs = (await peer.history(prompt_id))["outputs"]
        assert outputs["width"] == {"text": ["288"]}
        assert outputs["said"] == {"text": ["a-b"]}
        assert len(outputs["save"]["images"]) == 2
        assert outputs["film"]["animated"] == [True]
        tiles = [event.data for event in events if event.kind == "progress" and event.data["node"] == "up"]
        assert [(tile["value"], tile["max"]) for tile in tiles] == [(1, 1)]

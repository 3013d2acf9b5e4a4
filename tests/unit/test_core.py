"""The commands, with a real store, real workflows and a runner whose ComfyUI is not there."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from bridge import errors, events, requests
from bridge.core import Core
from bridge.errors import BridgeError
from bridge.jobs.model import Job, Payload
from bridge.jobs.runner import Runner
from bridge.jobs.store import Store
from bridge.library import Library
from bridge.settings import load as load_settings
from tests.support.brokers import free_port, until
from tests.support.web import Web, serving

UI_FORMAT = {"nodes": [{"id": 1, "type": "KSampler"}], "links": [], "last_node_id": 1, "version": 0.4}


def node(class_type: str, title: str | None = None, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs, **({"_meta": {"title": title}} if title else {})}


def txt2img() -> dict[str, Any]:
    return {
        "3": node(
            "KSampler",
            seed=42,
            steps=20,
            cfg=8.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "6": node("CLIPTextEncode", "Positive Prompt", text="a red fox", clip=["4", 1]),
        "7": node("CLIPTextEncode", "Negative Prompt", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="x", images=["8", 0]),
    }


def img2img() -> dict[str, Any]:
    graph = txt2img()
    graph["5"] = node("VAEEncode", pixels=["10", 0], vae=["4", 2])
    graph["10"] = node("LoadImage", "Load Image", image="example.png")
    return graph


def picture(color: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(out, "PNG")
    return out.getvalue()


@dataclass
class Clock:
    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """A core and what is behind it."""

    folder: Path
    core: Core
    store: Store
    runner: Runner
    clock: Clock
    happened: list[events.Event] = field(default_factory=list)

    async def jobs(self) -> list[tuple[Job, Payload]]:
        """The accepted jobs with their snapshots, in their order."""
        return [(job, await self.store.payload(job.id)) for job in await self.store.unfinished()]

    async def graphs(self) -> list[Any]:
        return [payload.graph for _, payload in await self.jobs()]

    async def queue(self, workflow: str | None = None, **fields: Any) -> dict[str, Any]:
        return await self.core.queue(requests.parse(requests.Queue, fields), workflow=workflow)

    async def text(self, text: str, node: str | int | None = None, workflow: str | None = None) -> dict[str, Any]:
        return await self.core.update_text(requests.UpdateText(text=text, node_id=node), workflow=workflow)

    async def image(self, **fields: Any) -> dict[str, Any]:
        return await self.core.update_image(requests.parse(requests.UpdateImage, fields))


@asynccontextmanager
async def opened(folder: Path, clock: Clock, **sections: Any) -> AsyncIterator[Bench]:
    overrides: dict[str, Any] = {
        "comfyui": {"urls": [f"http://127.0.0.1:{free_port()}"]},
        "workflows": {"dir": str(folder / "workflows"), "chains": str(folder / "chains")},
        "store": {"url": f"sqlite:///{folder / 'x.db'}"},
        "security": {"allowed_hosts": ["127.0.0.1"]},
    }
    for section, values in sections.items():
        overrides[section] = {**overrides.get(section, {}), **values}
    settings = load_settings(overrides=overrides, environ={}, config=folder / "config.toml")
    hub = events.Hub()
    async with Store(settings.store.url, keep=settings.store.keep, clock=clock) as store:
        runner = Runner(settings, store, hub, clock=clock)
        core = Core(settings, store, Library(settings.workflows.dir), runner, hub, clock=clock)
        await core.start()
        bench = Bench(folder, core, store, runner, clock)
        async with AsyncExitStack() as stack:
            for backend in runner.pool.backends:
                await stack.enter_async_context(backend.client)
            stack.enter_context(hub.subscribed(bench.happened.append))
            yield bench
        while runner._tasks.running:
            await asyncio.gather(*runner._tasks.running)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.toml").touch()
    (tmp_path / "workflows").mkdir()
    for name, graph in (("fox", txt2img()), ("photo", img2img()), ("ui", UI_FORMAT)):
        (tmp_path / "workflows" / f"{name}.json").write_text(json.dumps(graph), encoding="utf-8")
    return tmp_path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def bench(folder: Path, clock: Clock) -> AsyncIterator[Bench]:
    async with opened(folder, clock) as made:
        yield made


async def code_of(coroutine: Any) -> str:
    with pytest.raises(BridgeError) as caught:
        await coroutine
    assert caught.value.message
    return caught.value.code


# Workflows


async def test_the_first_by_name_is_loaded_and_a_file_for_the_editor_is_told(bench: Bench) -> None:
    document = bench.core.workflows()
    assert document["loaded"] == "fox"
    assert [one["name"] for one in document["workflows"]] == ["fox", "photo"]
    assert [(one["path"], one["error"]["code"]) for one in document["problems"]] == [("ui.json", "ui_format")]
    for name in ("ui", "ui.json"):
        assert await code_of(bench.core.load(requests.Load(workflow=name))) == "ui_format"
        assert await code_of(bench.queue(workflow=name)) == "ui_format"
    assert await code_of(bench.core.load(requests.Load(workflow="nonsense"))) == "unknown_workflow"


async def test_what_is_loaded_is_kept_over_a_restart(folder: Path, clock: Clock) -> None:
    async with opened(folder, clock) as bench:
        assert await bench.core.load(requests.Load(workflow="photo.json")) == {"workflow": "photo"}
        assert any(isinstance(one, events.WorkflowsChanged) for one in bench.happened)
        await bench.queue()
        assert (await bench.jobs())[0][0].workflow == "photo"
    async with opened(folder, clock) as bench:
        assert bench.core.workflows()["loaded"] == "photo"
    async with opened(folder, clock, workflows={"loaded": "fox"}) as bench:
        assert bench.core.workflows()["loaded"] == "fox"


async def test_a_loaded_workflow_that_is_gone_is_no_reason_not_to_start(folder: Path, clock: Clock) -> None:
    async with opened(folder, clock) as bench:
        await bench.core.load(requests.Load(workflow="photo"))
    (folder / "workflows" / "photo.json").unlink()
    async with opened(folder, clock) as bench:
        assert bench.core.workflows()["loaded"] == "fox"


async def test_without_any_workflow_everything_is_answered(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "config.toml").touch()
    async with opened(tmp_path, clock) as bench:
        assert bench.core.workflows()["loaded"] is None
        assert await code_of(bench.queue()) == "unknown_workflow"
        assert await code_of(bench.text("x")) == "unknown_workflow"
        assert await code_of(bench.core.load(requests.Load(workflow="fox"))) == "unknown_workflow"
        await bench.core.health()
        await bench.core.reload()


async def test_reload_sees_new_files(bench: Bench) -> None:
    (bench.folder / "workflows" / "new.json").write_text(json.dumps(txt2img()))
    answer = await bench.core.reload()
    assert answer["workflows"] == ["fox", "new", "photo"]
    (bench.folder / "workflows" / "new.json").unlink()
    assert (await bench.core.reload())["workflows"] == ["fox", "photo"]


async def test_a_load_during_a_reload_counts(bench: Bench) -> None:
    reload = asyncio.create_task(bench.core.reload())
    await asyncio.sleep(0)
    await bench.core.load(requests.Load(workflow="photo"))
    await reload
    assert bench.core.workflows()["loaded"] == "photo"  # defect 12


async def test_what_comes_after_a_load_is_for_the_loaded_one(folder: Path, clock: Clock) -> None:
    async with opened(folder, clock, node_mappings={"prompt": "7"}) as bench:
        await asyncio.gather(bench.core.load(requests.Load(workflow="photo")), bench.text("after the load"))
        await bench.queue()
        (graph,) = await bench.graphs()
        assert graph["7"]["inputs"]["text"] == "after the load"  # defect 13
        assert bench.core.workflows()["loaded"] == "photo"


async def test_of_two_loads_the_later_one_counts(folder: Path, clock: Clock) -> None:
    async with opened(folder, clock, node_mappings={"prompt": "7"}) as bench:
        for _ in range(5):
            loads = [
                bench.core.load(requests.Load(workflow=name)) for name in ("photo", "fox", "photo", "fox", "photo")
            ]
            await asyncio.gather(*loads)
            assert bench.core.workflows()["loaded"] == "photo"
            await bench.core.load(requests.Load(workflow="fox"))


# Values


async def test_a_text_goes_where_it_is_meant(bench: Bench) -> None:
    answer = await bench.text("one")
    assert answer["workflow"] == "fox"
    assert answer["values"]["prompt"] == "one"
    await bench.text("two", 7)
    await bench.text("three", "Positive Prompt")
    await bench.text("four", "negative")
    await bench.queue()
    (graph,) = await bench.graphs()
    assert (graph["6"]["inputs"]["text"], graph["7"]["inputs"]["text"]) == ("three", "four")
    assert bench.core.values()["negative"] == "four"


@pytest.mark.parametrize(
    ("node", "code"),
    [("99", "unknown_node"), ("nonsense", "unknown_node"), ("8", "no_such_input"), ("seed", "no_such_input")],
)
async def test_a_text_for_the_wrong_node(bench: Bench, node: str, code: str) -> None:
    assert await code_of(bench.text("x", node)) == code
    assert bench.core.values()["prompt"] == "a red fox"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"seed": "abc"}, "bad_value"),
        ({"seed": float("nan")}, "bad_value"),
        ({"seed": None}, "bad_value"),
        ({"nonsense": 1}, "unknown_parameter"),
        ({"6.nonsense": 1}, "no_such_input"),
        ({"99.text": 1}, "unknown_node"),
        ({"3.model": "x"}, "is_link"),
        ({"6.text": {"a": 1}}, "bad_value"),
    ],
)
async def test_values_are_set_all_or_none(bench: Bench, values: dict[str, Any], code: str) -> None:
    assert await code_of(bench.core.update_values({"prompt": "changed", **values})) == code
    assert bench.core.values()["prompt"] == "a red fox"
    assert await code_of(bench.queue(values={"prompt": "changed", **values})) == code
    assert await bench.jobs() == []


async def test_values_outlive_a_restart(folder: Path, clock: Clock) -> None:
    async with opened(folder, clock) as bench:
        await bench.core.update_values({"prompt": "kept", "seed": "random", "9.filename_prefix": "y", "steps": 7})
        await bench.core.update_image_bytes(None, picture(), workflow="photo")
        before = bench.core.values(), bench.core.values("photo")
    async with opened(folder, clock) as bench:
        assert (bench.core.values(), bench.core.values("photo")) == before
        assert bench.core.values()["9.filename_prefix"] == "y"
        await bench.queue(workflow="photo")
        ((_, payload),) = await bench.jobs()
        ((node_id, name, image),) = payload.images
        assert (node_id, name) == ("10", "image")
        assert await bench.store.media(image.sha256 or "") == picture()
        assert bench.core.media_in_use() == {image.sha256}


async def test_values_that_no_longer_fit_are_left_out(folder: Path, clock: Clock) -> None:
    async with opened(folder, clock) as bench:
        await bench.core.update_values({"prompt": "kept", "steps": 7, "negative": "x"})
        changed = txt2img()
        changed["3"]["inputs"]["negative"] = ["6", 0]
        del changed["7"]
        changed["3"]["inputs"]["steps"] = ["11", 0]
        changed["11"] = node("PrimitiveInt", value=3)
        (folder / "workflows" / "fox.json").write_text(json.dumps(changed))
        await bench.core.reload()
        await bench.queue()
        (graph,) = await bench.graphs()
        assert graph["6"]["inputs"]["text"] == "kept"
        assert graph["3"]["inputs"]["steps"] == ["11", 0]
        assert "7" not in graph


@pytest.mark.parametrize(
    ("name", "payload", "value"),
    [("seed", b"7", 7), ("cfg", b"3.5", 3.5), ("prompt", b'{"as": "it is"}', '{"as": "it is"}'), ("prompt", b"", "")],
)
async def test_a_parameter_takes_its_payload_as_it_is(bench: Bench, name: str, payload: bytes, value: Any) -> None:
    answer = await bench.core.set_parameter(name, payload, workflow="fox")
    assert answer["values"][name] == value


async def test_a_parameter_takes_no_nonsense(bench: Bench) -> None:
    assert await code_of(bench.core.set_parameter("seed", b"\xff", workflow="fox")) == "bad_value"
    assert await code_of(bench.core.set_parameter("seed", b"many", workflow="fox")) == "bad_value"
    assert await code_of(bench.core.set_parameter("nonsense", b"1", workflow="fox")) == "unknown_parameter"
    assert await code_of(bench.core.set_parameter("seed", b"1", workflow="nonsense")) == "unknown_workflow"
    assert await code_of(bench.core.set_parameter("image", b"\x00\x01", workflow="photo")) == "bad_value"


@pytest.mark.parametrize("name", ["a.png", "sub/a.png", "füchse.png", "a b [output].png"])
async def test_an_image_parameter_takes_a_name_or_bytes(bench: Bench, name: str) -> None:
    answer = await bench.core.set_parameter("image", picture(), workflow="photo")
    assert "sha256" in answer["values"]["image"]
    answer = await bench.core.set_parameter("image", name.encode(), workflow="photo")
    assert answer["values"]["image"] == name


# Images


async def test_an_image_from_every_source(bench: Bench) -> None:
    await bench.core.load(requests.Load(workflow="photo"))

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=picture("blue"), content_type="image/png")

    async with serving(handle) as site:
        assert "sha256" in (await bench.image(node_id=10, url=site.url("/a.png")))["values"]["image"]
    encoded = base64.b64encode(picture("green")).decode()
    assert "sha256" in (await bench.image(base64=f"data:image/png;base64,{encoded}"))["values"]["image"]
    assert (await bench.image(node="Load Image", filename="there.png"))["values"]["image"] == "there.png"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "bad_payload"),
        ({"filename": "a", "url": "http://x"}, "bad_payload"),
        ({"base64": "%%%"}, "bad_value"),
        ({"base64": base64.b64encode(b"text").decode()}, "bad_value"),
        ({"url": "file:///etc/passwd"}, "bad_value"),
        ({"url": "http://10.0.0.1/a.png"}, "not_allowed"),
        ({"url": "http://[::1]/a.png"}, "not_allowed"),
        ({"url": "http://127.0.0.1:1/a.png"}, "file_missing"),
        ({"node_id": 6, "filename": "a.png"}, "no_such_input"),
        ({"node_id": 99, "filename": "a.png"}, "unknown_node"),
        ({"base64": "A" * 4000}, "too_large"),
        ({"filename": "a.png", "mask": {"filename": "m.png"}}, "bad_value"),
        ({"filename": "a.png", "mask": {}}, "bad_payload"),
    ],
)
async def test_a_failing_image_leaves_the_old_one(
    folder: Path, clock: Clock, fields: dict[str, Any], code: str
) -> None:
    async with opened(folder, clock, media={"max_input": 1000}, workflows={"loaded": "photo"}) as bench:
        await bench.image(filename="old.png")
        assert await code_of(bench.image(**fields)) == code
        assert bench.core.values()["image"] == "old.png"
        await bench.queue()
        (graph,) = await bench.graphs()
        assert graph["10"]["inputs"]["image"] == "old.png"


async def test_an_image_that_is_too_large(folder: Path, clock: Clock) -> None:
    async with opened(folder, clock, media={"max_input": 10}) as bench:
        assert await code_of(bench.core.update_image_bytes("10", picture(), workflow="photo")) == "too_large"


async def test_a_mask_alone_is_for_the_image_that_is_set(bench: Bench) -> None:
    await bench.core.load(requests.Load(workflow="photo"))
    mask = {"base64": base64.b64encode(picture("white")).decode()}
    answer = await bench.image(mask=mask)
    assert answer["values"]["image"]["filename"] == "example.png"
    assert "sha256" not in answer["values"]["image"]
    await bench.core.update_image_bytes(None, picture())
    answer = await bench.image(mask=mask)
    assert {"filename", "sha256", "mask"} == answer["values"]["image"].keys()
    await bench.queue()
    ((_, payload),) = await bench.jobs()
    assert payload.images[0][2].mask is not None


# Order: an image on its way


class Slow:
    """A site that answers when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.status = 200
        self.asked = 0

    async def handle(self, _: web.Request) -> web.StreamResponse:
        self.asked += 1
        await self.go.wait()
        return web.Response(body=picture("blue"), content_type="image/png", status=self.status)


@asynccontextmanager
async def on_its_way(bench: Bench) -> AsyncIterator[tuple[Slow, Web, asyncio.Task[Any]]]:
    """An update/image of the loaded `photo` that hangs in its download."""
    await bench.core.load(requests.Load(workflow="photo"))
    slow = Slow()
    async with serving(slow.handle) as site:
        task = asyncio.create_task(bench.image(url=site.url("/a.png")))
        await until(lambda: slow.asked)
        yield slow, site, task
        slow.go.set()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_image_on_its_way_holds_up_nobody_else(bench: Bench) -> None:
    async with on_its_way(bench):
        async with asyncio.timeout(5):
            assert (await bench.text("meanwhile"))["values"]["prompt"] == "meanwhile"
            await bench.core.update_values({"seed": 3})
            await bench.core.health()
            await bench.core.jobs(requests.JobsRequest())
            await bench.queue(workflow="fox")
            assert (await bench.image(filename="other.png", node_id=10))["values"]["image"] == "other.png"


async def test_a_queue_after_an_image_sees_it(bench: Bench) -> None:
    async with on_its_way(bench) as (slow, _, task):
        queued = asyncio.create_task(bench.queue())
        await asyncio.sleep(0.05)
        assert not queued.done()
        slow.go.set()
        await task
        await queued
        ((_, payload),) = await bench.jobs()
        assert await bench.store.media(payload.images[0][2].sha256 or "") == picture("blue")


async def test_a_queue_sees_what_was_set_before_it_and_no_more(bench: Bench) -> None:
    async with on_its_way(bench) as (slow, _, task):
        await bench.text("before")
        queued = asyncio.create_task(bench.queue())
        await asyncio.sleep(0)
        await bench.text("after")
        await bench.image(filename="after.png")
        slow.go.set()
        await task
        await queued
        ((job, payload),) = await bench.jobs()
        assert payload.graph["6"]["inputs"]["text"] == "before"
        assert job.values["prompt"] == "before"
        assert payload.images[0][2].sha256 is not None
        assert bench.core.values()["image"] == "after.png"
        assert bench.core.values()["prompt"] == "after"


async def test_a_queue_with_an_image_of_its_own_is_right_too(bench: Bench) -> None:
    async with on_its_way(bench) as (slow, _, _task):
        slow.go.set()
        await bench.queue(values={"image": "mine.png"})
        ((_, payload),) = await bench.jobs()
        assert payload.graph["10"]["inputs"]["image"] == "mine.png"
        assert payload.images == ()


async def test_a_queue_after_an_image_that_fails_runs_with_the_old_one(bench: Bench) -> None:
    async with on_its_way(bench) as (slow, _, task):
        slow.status = 500
        queued = asyncio.create_task(bench.queue())
        await asyncio.sleep(0)
        slow.go.set()
        assert await code_of(task) == "file_missing"
        await queued
        (graph,) = await bench.graphs()
        assert graph["10"]["inputs"]["image"] == "example.png"


async def test_an_image_whose_command_is_cancelled_leaves_the_old_one(bench: Bench) -> None:
    async with on_its_way(bench) as (_, _, task):
        queued = asyncio.create_task(bench.queue())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await queued
        (graph,) = await bench.graphs()
        assert graph["10"]["inputs"]["image"] == "example.png"


async def test_values_with_an_image_are_all_or_none(bench: Bench) -> None:
    await bench.core.load(requests.Load(workflow="photo"))
    values = {"prompt": "changed", "image": {"url": "http://10.0.0.1/a.png"}}
    assert await code_of(bench.core.update_values(values)) == "not_allowed"
    assert bench.core.values()["prompt"] == "a red fox"
    encoded = base64.b64encode(picture()).decode()
    await bench.core.update_values({"prompt": "changed", "image": {"base64": encoded}})
    assert bench.core.values()["prompt"] == "changed"
    assert "sha256" in bench.core.values()["image"]


async def test_an_interrupt_while_a_queue_waits_for_its_image_means_it_too(bench: Bench) -> None:
    async with on_its_way(bench) as (slow, _, _task):
        queued = asyncio.create_task(bench.queue())
        await asyncio.sleep(0)
        await bench.core.interrupt(requests.Interrupt())
        slow.go.set()
        answer = await queued
        document = bench.core.job(requests.parse(requests.JobRequest, {"id": answer["prompt_ids"][0]}))
        await until(lambda: not bench.runner._tasks.running)
        assert (await document)["status"] == "interrupted"
        assert await bench.jobs() == []


# Queue


async def test_a_job_is_a_snapshot(bench: Bench) -> None:
    await bench.text("first")
    await bench.queue()
    await bench.text("second")
    await bench.queue(values={"prompt": "this run only", "7.text": "x"})
    await bench.queue()
    texts = [graph["6"]["inputs"]["text"] for graph in await bench.graphs()]
    assert texts == ["first", "this run only", "second"]
    assert [graph["7"]["inputs"]["text"] for graph in await bench.graphs()] == ["blurry", "x", "blurry"]
    assert [job.values["prompt"] for job, _ in await bench.jobs()] == texts
    assert bench.core.values()["prompt"] == "second"


async def test_a_queue_of_another_workflow(bench: Bench) -> None:
    await bench.queue(workflow="photo")
    await bench.core.queue(requests.Queue(workflow="photo"))
    await bench.core.queue(requests.Queue(workflow="photo"), workflow="photo")
    assert {job.workflow for job, _ in await bench.jobs()} == {"photo"}
    assert await code_of(bench.core.queue(requests.Queue(workflow="fox"), workflow="photo")) == "bad_payload"
    assert await code_of(bench.queue(workflow="nonsense")) == "unknown_workflow"


async def test_a_count_counts_the_seed_up(bench: Bench) -> None:
    await bench.core.update_values({"seed": 7})
    answer = await bench.queue(count=3)
    assert len(set(answer["prompt_ids"])) == 3
    assert answer["batch_id"]
    jobs = await bench.jobs()
    assert [payload.graph["3"]["inputs"]["seed"] for _, payload in jobs] == [7, 8, 9]
    assert [job.values["seed"] for job, _ in jobs] == [7, 8, 9]
    assert {job.batch_id for job, _ in jobs} == {answer["batch_id"]}
    assert [job.id for job, _ in jobs] == answer["prompt_ids"]
    assert bench.core.values()["seed"] == 7


async def test_a_count_with_a_given_or_random_seed(bench: Bench) -> None:
    await bench.queue(count=3, values={"seed": 5})
    assert [graph["3"]["inputs"]["seed"] for graph in await bench.graphs()] == [5, 5, 5]
    await bench.core.update_values({"seed": "random"})
    await bench.queue(count=3)
    seeds = [graph["3"]["inputs"]["seed"] for graph in await bench.graphs()][3:]
    assert len(set(seeds)) == 3
    assert all(isinstance(seed, int) and 0 <= seed < 2**64 for seed in seeds)
    assert [job.values["seed"] for job, _ in await bench.jobs()][3:] == seeds
    assert bench.core.values()["seed"] == "random"


async def test_one_run_has_no_batch_and_the_seed_as_it_is(bench: Bench) -> None:
    answer = await bench.queue()
    assert "batch_id" not in answer
    ((job, payload),) = await bench.jobs()
    assert payload.graph["3"]["inputs"]["seed"] == 42
    assert job.values["seed"] == 42


async def test_the_largest_seed_counts_on(bench: Bench) -> None:
    await bench.core.update_values({"seed": 2**64 - 1})
    await bench.queue(count=2)
    seeds = [graph["3"]["inputs"]["seed"] for graph in await bench.graphs()]
    assert seeds[0] == 2**64 - 1
    assert 0 <= seeds[1] < 2**64


async def test_limits(folder: Path, clock: Clock) -> None:
    async with opened(folder, clock, jobs={"max_waiting": 3, "max_batch": 5}) as bench:
        assert await code_of(bench.queue(count=6)) == "bad_value"
        assert await code_of(bench.queue(count=4)) == "queue_full"
        assert await bench.jobs() == []
        await bench.queue(count=3)
        assert await code_of(bench.queue()) == "queue_full"


@pytest.mark.parametrize(
    "fields",
    [{"values": []}, {"grid": {"seed": []}}, {"values": [{}, {"seed": "x"}]}, {"grid": {"x": [1]}}],
)
async def test_nothing_or_something_wrong_to_run_is_refused_as_a_whole(bench: Bench, fields: dict[str, Any]) -> None:
    assert await code_of(bench.queue(**fields)) in {"bad_payload", "bad_value", "unknown_parameter"}
    assert await bench.jobs() == []


async def test_a_time_that_is_over_is_refused(bench: Bench) -> None:
    assert await code_of(bench.queue(expires_at=bench.clock.now - 1)) == "expired"
    assert await code_of(bench.queue(expires_at="2001-01-01T00:00:00Z")) == "expired"
    assert await code_of(bench.queue(expires_at=0)) == "expired"
    await bench.queue(expires_at=bench.clock.now + 60)
    ((job, _),) = await bench.jobs()
    assert job.expires_at == bench.clock.now + 60


async def test_a_status_for_each_job_at_once_with_its_position(bench: Bench) -> None:
    await bench.queue(count=2)
    await bench.queue(priority=5)
    statuses = [one for one in bench.happened if isinstance(one, events.JobStatus)]
    assert [one.document["position"] for one in statuses] == [1, 2, 1]
    assert {one.document["status"] for one in statuses} == {"queued"}
    state = bench.core.queue_state()
    assert [one["position"] for one in state["waiting"]] == [1, 2, 3]
    assert state["waiting"][0]["id"] == statuses[2].job_id
    assert (state["running"], state["waiting_count"]) == ([], 3)


async def test_a_link_is_never_overwritten_in_the_graph(bench: Bench) -> None:
    await bench.core.update_values({"prompt": "x", "seed": 1})
    await bench.queue()
    (graph,) = await bench.graphs()
    links = {key: value for key, value in graph["3"]["inputs"].items() if isinstance(value, list)}
    assert links == {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}


# Interrupt


def ended(bench: Bench) -> list[str]:
    return [one.job_id for one in bench.happened if isinstance(one, events.JobStatus) and one.final]


async def test_one_waiting_job_is_interrupted(bench: Bench) -> None:
    answer = await bench.queue(count=3)
    first, second, third = answer["prompt_ids"]
    assert await bench.core.interrupt(requests.Interrupt(prompt_id=second)) == {"prompt_ids": [second]}
    await until(lambda: ended(bench) == [second])
    assert [job.id for job, _ in await bench.jobs()] == [first, third]
    assert await code_of(bench.core.interrupt(requests.Interrupt(prompt_id=second))) == "already_over"
    assert await code_of(bench.core.interrupt(requests.Interrupt(prompt_id="nonsense"))) == "unknown_prompt"
    assert await code_of(bench.core.interrupt(requests.Interrupt(batch_id="nonsense"))) == "unknown_prompt"


@pytest.mark.parametrize(
    ("which", "stays"),
    [
        (lambda _: requests.Interrupt(), []),
        (lambda batch: requests.Interrupt(batch_id=batch), ["fox", "photo"]),
        (lambda batch: requests.Interrupt(prompt_id=batch), ["fox", "photo"]),
    ],
)
async def test_many_waiting_jobs_are_interrupted(
    bench: Bench, which: Callable[[str], requests.Interrupt], stays: list[str]
) -> None:
    await bench.queue()
    batch = (await bench.queue(count=2))["batch_id"]
    await bench.queue(workflow="photo")
    answer = await bench.core.interrupt(which(batch))
    assert len(answer["prompt_ids"]) == 4 - len(stays)
    await until(lambda: sorted(ended(bench)) == sorted(answer["prompt_ids"]))
    assert [job.workflow for job, _ in await bench.jobs()] == stays
    results = [one.document for one in bench.happened if isinstance(one, events.JobResult)]
    assert {one["status"] for one in results} == {"interrupted"}
    assert {one["error"]["code"] for one in results} == {"interrupted"}


async def test_a_batch_that_has_ended_is_over(bench: Bench) -> None:
    batch = (await bench.queue(count=2))["batch_id"]
    await bench.core.interrupt(requests.Interrupt(batch_id=batch))
    await until(lambda: len(ended(bench)) == 2)
    assert await code_of(bench.core.interrupt(requests.Interrupt(batch_id=batch))) == "already_over"


async def test_a_name_in_place_of_an_image_is_told_how_it_is_given(bench: Bench) -> None:
    with pytest.raises(BridgeError, match=r'not an image but a text.*\{"filename": "…"\}') as caught:
        await bench.core.update_image_bytes(None, b"example.png", workflow="photo")
    assert caught.value.code == "bad_value"


async def test_what_is_wrong_about_an_image_names_its_parameter(bench: Bench) -> None:
    with pytest.raises(BridgeError, match=r"'image\.filname' is not a field.*did you mean 'filename'"):
        await bench.core.update_values({"image": {"filname": "x"}}, workflow="photo")


async def test_a_sentence_does_not_repeat_a_whole_payload(bench: Bench) -> None:
    with pytest.raises(BridgeError, match=r"^there is no job 'A+ … A+'$") as caught:
        await bench.core.interrupt(requests.Interrupt(prompt_id="A" * 100_000))
    assert len(caught.value.message) < 2_100


async def test_an_interrupt_of_a_workflow_leaves_the_others(bench: Bench) -> None:
    await bench.queue()
    await bench.queue(workflow="photo")
    assert len((await bench.core.interrupt(requests.Interrupt(), workflow="photo"))["prompt_ids"]) == 1
    await until(lambda: len(ended(bench)) == 1)
    assert [job.workflow for job, _ in await bench.jobs()] == ["fox"]
    assert (await bench.core.interrupt(requests.Interrupt(), workflow="photo"))["prompt_ids"] == []


async def test_an_interrupt_of_an_unknown_workflow_is_an_error(bench: Bench) -> None:
    coroutine = bench.core.interrupt(requests.Interrupt(), workflow="nonsense")
    assert await code_of(coroutine) == "unknown_workflow"  # defect 15


async def test_nothing_to_interrupt_is_no_error(bench: Bench) -> None:
    assert await bench.core.interrupt(requests.Interrupt()) == {"prompt_ids": []}


# Requests


async def test_jobs_waiting_and_ended(bench: Bench) -> None:
    answer = await bench.queue(count=2)
    first, second = answer["prompt_ids"]
    await bench.core.interrupt(requests.Interrupt(prompt_id=first))
    await until(lambda: ended(bench) == [first])
    document = await bench.core.jobs(requests.JobsRequest(limit=10))
    assert [one["id"] for one in document["finished"]] == [first]
    assert [one["id"] for one in document["waiting"]] == [second]
    assert (await bench.core.job(requests.parse(requests.JobRequest, {"id": first})))["status"] == "interrupted"
    waiting = await bench.core.job(requests.parse(requests.JobRequest, {"id": second}))
    assert (waiting["status"], waiting["position"]) == ("queued", 1)  # defect 16
    assert await code_of(bench.core.job(requests.parse(requests.JobRequest, {"id": "x"}))) == "unknown_prompt"


async def test_health_and_info_are_json_without_secrets(folder: Path, clock: Clock) -> None:
    url = f"http://me:hunter2@127.0.0.1:{free_port()}"
    async with opened(folder, clock, comfyui={"urls": [url]}, mqtt={"password": "hunter2"}) as bench:
        bench.core.health_parts["part"] = lambda: {"fine": True}
        health = await bench.core.health()
        assert health["status"] == "degraded"
        assert health["part"] == {"fine": True}
        (backend,) = health["backends"].values()
        assert backend["state"] == "offline"
        for document in (health, bench.core.info(), bench.core.workflows(), bench.core.queue_state()):
            assert "hunter2" not in json.dumps(document)
        assert bench.core.backend_names() == list(health["backends"])
        assert not bench.core.online()


async def test_free_without_a_backend(bench: Bench) -> None:
    assert await code_of(bench.core.free(requests.Free())) == "backend_offline"


async def test_the_log_level(bench: Bench) -> None:
    import logging

    before = logging.getLogger("bridge").level
    try:
        assert await bench.core.log_level(requests.LogLevel(level="error")) == {"level": "error"}
        assert logging.getLogger("bridge").level == logging.ERROR
    finally:
        logging.getLogger("bridge").setLevel(before)


async def test_a_store_that_is_full_is_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> None:
        raise errors.StoreError("the disk is full")

    monkeypatch.setattr(bench.store, "add", full)
    assert await code_of(bench.queue()) == "store"
    assert bench.core.queue_state()["waiting_count"] == 0


async def test_a_job_whose_graph_cannot_be_read_just_now_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (job_id,) = (await bench.queue())["prompt_ids"]
    bench.runner._payloads.clear()  # as for a job far back in the queue
    monkeypatch.setattr(bench.runner.pool, "free", lambda: True)

    async def full(_: str) -> None:
        raise errors.StoreError("the disk is full")

    monkeypatch.setattr(bench.store, "payload", full)
    assert not await bench.runner._dispatch_one()
    assert (await bench.core.job(requests.parse(requests.JobRequest, {"id": job_id})))["status"] == "queued"


# Prompts


async def test_which_workflows_a_prompt_is_for_and_how_they_want_it(folder: Path, clock: Clock) -> None:
    flux = txt2img()  # with a negative prompt that counts for nothing, as ComfyUI's own template has it
    flux["5"] = node("EmptySD3LatentImage", width=512, height=512, batch_size=1)
    lone = txt2img()
    lone["3"]["inputs"]["negative"] = ["6", 0]
    del lone["7"]
    for name, graph in (("flux", flux), ("lone", lone)):
        (folder / "workflows" / f"{name}.json").write_text(json.dumps(graph), encoding="utf-8")
    (folder / "chains").mkdir()
    for name, first in (("phrases", "fox"), ("sentences", "flux")):
        chain = f"""
            [parameters]
            prompt = "draw.prompt"
            negative = "draw.negative"
            [[steps]]
            name = "draw"
            workflow = "{first}"
            [[steps]]
            name = "again"
            workflow = "photo"
            values = {{ image = {{ step = "draw", output = 0 }} }}
            """
        (folder / "chains" / f"{name}.toml").write_text(chain, encoding="utf-8")
    async with opened(folder, clock) as bench:
        told = {
            name: bench.core.check_then(requests.Then(workflow=name))[1:]
            for name in ("fox", "flux", "lone", "phrases", "sentences")
        }
        assert told == {
            "fox": (True, False),
            "flux": (True, True),
            "lone": (False, True),
            "phrases": (True, False),
            "sentences": (True, True),
        }


async def test_what_comfyui_tells_is_no_change_of_a_file(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = bench.core._shelf
    read = shelf._folders.read
    limits = {"KSampler": {"input": {"required": {"steps": ["INT", {"default": 20, "min": 1, "max": 77}]}}}}

    def slow() -> None:
        shelf.learn(limits)
        read()

    monkeypatch.setattr(shelf._folders, "read", slow)
    with caplog.at_level("INFO"):
        await bench.core.refresh()
        assert not caplog.records
        monkeypatch.undo()
        (folder / "workflows" / "new.json").write_text(json.dumps(txt2img()), encoding="utf-8")
        await bench.core.refresh()
    assert caplog.messages == ["the workflow new is new"]
    assert next(one for one in bench.core.workflow("fox").parameters if one.name == "steps").max == 77

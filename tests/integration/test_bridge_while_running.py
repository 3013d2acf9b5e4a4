"""Commands while a job runs: it works on its snapshot, and commands take effect in the order of their coming."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from tests.integration.test_bridge_images import LOOPBACK, loaded, web_server
from tests.support.bridge_process import house
from tests.support.graphs import picture, txt2img


async def test_a_job_works_on_its_snapshot(tmp_path: Path, broker_port: int) -> None:
    graphs = {"fox": txt2img(steps=20)}
    async with house(tmp_path, broker_port, step_delay=0.05, workflows=graphs, more={"comfyui": {"depth": 1}}) as here:
        await here.eye.done("update/text", "first")
        first, second = await here.eye.queue(), await here.eye.queue()
        await here.eye.progress(first)
        await here.eye.done("update/text", "later")
        third = await here.eye.queue()
        await here.eye.done("update/text", "latest")
        here.comfy.settings.step_delay = 0
        for prompt_id, text in ((first, "first"), (second, "first"), (third, "later")):
            result = await here.eye.over(prompt_id)
            assert result["values"]["prompt"] == text
            assert here.graph(prompt_id)["6"]["inputs"]["text"] == text
        assert here.eye.last("workflow/fox/values").json["prompt"] == "latest"


async def test_a_waiting_jobs_workflow_file_may_change(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep", more={"comfyui": {"depth": 1}}) as here:
        running = await here.eye.queue()
        waiting = await here.eye.queue(workflow="plain")
        (tmp_path / "workflows" / "plain.json").unlink()
        await here.eye.done("bridge/request/reload")
        await here.eye.refused("workflow/plain/queue", "", "unknown_workflow")
        await here.eye.done("interrupt", running)
        assert (await here.eye.over(waiting))["status"] == "completed"


async def test_queue_sees_the_image_that_came_before_it(tmp_path: Path, broker_port: int) -> None:
    names = ["red", "green", "blue", "white"]
    async with house(tmp_path, broker_port, loaded="img") as here:
        for name in names:  # nobody waits for an answer
            await here.eye.send("update/image/10", picture(color=name, size=(400, 300)))
            await here.eye.send("queue", "")
        await here.eye.until(lambda: len(here.eye.of("response/queue")) == len(names))
        ids = here.eye.prompt_ids()
        for name, prompt_id in zip(names, ids, strict=True):
            await here.eye.over(prompt_id)
            assert loaded(here, prompt_id) == picture(color=name, size=(400, 300))


async def test_a_slow_image_holds_up_nobody_else(tmp_path: Path, broker_port: int) -> None:
    go = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await go.wait()
        return web.Response(body=picture(color="red"))

    async with web_server(handler) as url, house(tmp_path, broker_port, loaded="img", more=LOOPBACK) as here:
        await here.eye.send("update/image", {"node_id": 10, "url": url})
        await here.eye.send("queue", "")  # wants the image that is on its way
        # Everything else is answered, and other workflows run.
        await here.eye.done("bridge/request/health")
        await here.eye.done("workflow/fox/set/prompt", "meanwhile")
        fox = await here.run(workflow="fox")
        assert here.graph(fox)["6"]["inputs"]["text"] == "meanwhile"
        assert here.eye.of("response/update/image") == []
        assert here.eye.of("response/queue")[:-1] == []
        # A later image does not change what the first queue sees.
        await here.eye.done("update/image/10", picture(color="blue"))
        go.set()
        reply = (await here.eye.first("response/queue", lambda one: one.json["data"].get("workflow") == "img")).json
        (prompt_id,) = reply["data"]["prompt_ids"]
        await here.eye.over(prompt_id)
        assert loaded(here, prompt_id) == picture(color="red")
        assert (await here.eye.first("response/update/image", lambda one: one.json["status"] == "ok")).json
        # And the later one stays, though the earlier one came after it.
        assert loaded(here, await here.run()) == picture(color="blue")


async def test_an_image_that_fails_leaves_what_was_there(tmp_path: Path, broker_port: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        raise web.HTTPNotFound

    async with web_server(handler) as url, house(tmp_path, broker_port, loaded="img", more=LOOPBACK) as here:
        await here.eye.done("update/image/10", picture(color="green"))
        asked = asyncio.create_task(here.eye.ask("update/image", {"node_id": 10, "url": url}))
        await asyncio.sleep(0)
        prompt_id = await here.run()
        assert (await asked)["code"] == "file_missing"
        assert loaded(here, prompt_id) == picture(color="green")


async def test_an_interrupt_means_a_queue_that_still_waits_for_its_image(tmp_path: Path, broker_port: int) -> None:
    go = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await go.wait()
        return web.Response(body=picture())

    async with web_server(handler) as url, house(tmp_path, broker_port, loaded="img", more=LOOPBACK) as here:
        queued = asyncio.create_task(here.eye.ask("queue", {"values": {"image": {"url": url}}}))
        await here.eye.first("queue")
        await here.eye.done("interrupt")
        go.set()
        (prompt_id,) = (await queued)["data"]["prompt_ids"]
        assert (await here.eye.over(prompt_id))["status"] == "interrupted"


async def test_expired_before_it_could_start(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep", more={"comfyui": {"depth": 1}}) as here:
        running = await here.eye.queue()
        health = await here.eye.done("bridge/request/health")
        del health
        late = await here.eye.queue({"workflow": "plain", "expires_at": _soon(0.5)})
        far = await here.eye.queue({"workflow": "plain", "expires_at": "2100-01-01T00:00:00Z"})
        result = await here.eye.over(late)
        assert (result["status"], result["error"]["code"]) == ("failed", "expired")
        await here.eye.done("interrupt", running)
        assert (await here.eye.over(far))["status"] == "completed"


async def test_priority_goes_first(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep", more={"comfyui": {"depth": 1}}) as here:
        running = await here.eye.queue()
        await here.eye.progress(running)
        low = await here.eye.queue({"workflow": "plain", "priority": -1})
        middle = await here.eye.queue({"workflow": "plain"})
        high = await here.eye.queue({"workflow": "plain", "priority": 5})
        assert here.eye.of(f"prompt/{high}/status")[0].json["position"] == 1
        await here.eye.done("interrupt", running)
        await asyncio.gather(*(here.eye.over(one) for one in (low, middle, high)))
        assert list(here.comfy.stats.started) == [running, high, middle, low]


def _soon(seconds: float) -> float:
    import time

    return time.time() + seconds

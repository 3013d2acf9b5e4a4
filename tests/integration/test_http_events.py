"""Server-sent events: their order, their end, coming back after a loss, slow and absent readers."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx

from tests.support.graphs import plain, sleep, txt2img
from tests.support.http_house import HttpHouse, Told, http_house, told


async def read(here: HttpHouse, path: str, *, last: str | None = None, until: str | None = None) -> list[Told]:
    """Read a stream to its end, or to an event of a name."""
    headers = {"Last-Event-ID": last} if last is not None else {}
    found = []
    async with asyncio.timeout(20), here.http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for event in told(answer):
            found.append(event)
            if event.event == until:
                break
    return found


async def test_a_job_tells_its_life_and_ends_with_the_result(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.02) as here:
        job = (await here.http.post("/api/jobs", json={"prompt": txt2img(steps=10)})).json()
        events = await read(here, f"/api/jobs/{job['id']}/events")
        kinds = [event.event for event in events]
        assert kinds[0] == "status"
        assert kinds[-2:] == ["status", "result"]
        assert {"progress", "preview", "output"} <= set(kinds)
        percents = [event.data["percent"] for event in events if event.event in {"status", "progress"}]
        assert percents == sorted(percents)
        ids = [int((event.id or "").partition("-")[2]) for event in events]
        assert ids == sorted(set(ids))
        preview = next(event.data for event in events if event.event == "preview")
        assert preview["url"] == f"{here.url}/api/jobs/{job['id']}/preview"
        assert "image" not in preview
        result = events[-1].data
        assert (result["status"], result["id"]) == ("completed", job["id"])
        later = await here.job(job["id"])
        assert {**later, "seq": 0} == {**result, "seq": 0}


async def test_previews_as_data(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.02) as here:
        job = (await here.http.post("/api/jobs", json={"prompt": txt2img(steps=10)})).json()
        events = await read(here, f"/api/jobs/{job['id']}/events?previews=data")
        previews = [event.data for event in events if event.event == "preview"]
        assert previews
        assert all(base64.b64decode(preview["image"])[:2] == b"\xff\xd8" for preview in previews)
        assert not any("url" in preview for preview in previews)


async def test_a_reader_that_comes_back_misses_nothing_and_gets_nothing_twice(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.02) as here:
        job = (await here.http.post("/api/jobs", json={"prompt": txt2img(steps=10)})).json()
        path = f"/api/jobs/{job['id']}/events"
        first = await read(here, path, until="preview")
        await here.becomes(job["id"], "completed")
        rest = await read(here, path, last=first[-1].id)
        ids = [event.id for event in first + rest]
        assert len(ids) == len(set(ids))
        assert [event.event for event in rest][-3:] == ["output", "status", "result"]
        again = await here.http.get(path, headers={"Last-Event-ID": rest[-1].id or ""})
        assert again.status_code == 204  # or a browser would come back for ever
        whole = await read(here, path)
        assert whole[-1].data == rest[-1].data
        other_run = await read(here, path, last="1234abcd-3")
        assert other_run[-1].event == "result"


async def test_a_job_of_an_earlier_run_has_its_result(tmp_path: Path) -> None:
    async with http_house(tmp_path) as here:
        job = await here.run("plain", wait=20)
        plan = here.plan
    more: dict[str, Any] = {"mqtt": {"base_topic": plan.base}, "store": plan.overrides()["store"]}
    async with http_house(tmp_path, **more) as here:
        events = await read(here, f"/api/jobs/{job['id']}/events")
        assert [event.event for event in events] == ["status", "result"]
        assert events[-1].data["id"] == job["id"]
        back = await here.http.get(f"/api/jobs/{job['id']}/events", headers={"Last-Event-ID": events[-1].id or ""})
        assert back.status_code == 204


async def test_a_waiting_job_is_told_of_too(tmp_path: Path) -> None:
    async with http_house(tmp_path, comfyui={"depth": 1}) as here:
        first = (await here.http.post("/api/jobs", json={"prompt": sleep(30, 300)})).json()
        second = (await here.http.post("/api/jobs", json={"prompt": plain()})).json()
        reading = asyncio.create_task(read(here, f"/api/jobs/{second['id']}/events"))
        await here.becomes(first["id"], "running")
        await here.http.delete(f"/api/jobs/{first['id']}")
        statuses = [event.data["status"] for event in await reading if event.event == "status"]
        assert statuses[0] in {"queued", "preparing"}
        assert statuses[-1] == "completed"


async def test_everything_begins_with_a_snapshot(tmp_path: Path) -> None:
    async with http_house(tmp_path) as here:
        async with asyncio.timeout(20), here.http.stream("GET", "/api/events") as answer:
            events = told(answer)
            snapshot = await anext(events)
            assert snapshot.event == "snapshot"
            assert {"queue", "backends", "workflows", "values"} <= snapshot.data.keys()
            job = await here.run("plain")
            await here.http.patch("/api/workflows/fox", json={"steps": 9})
            seen: dict[str, dict[str, Any]] = {}
            async for event in events:
                seen[event.event] = event.data
                if "result" in seen and "values" in seen:
                    break
            place = event.id
        assert seen["result"]["id"] == job["id"]
        assert seen["values"]["values"]["steps"] == 9
        later = await here.run("plain", wait=20)
        back = await read(here, "/api/events", last=place, until="result")
        assert back[0].event != "snapshot"
        assert back[-1].data["id"] == later["id"]


async def test_many_jobs_and_a_reader_that_does_not_read_slow_nobody(tmp_path: Path) -> None:
    async with http_house(tmp_path) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port, limit=1024)
        writer.write(b"GET /api/events?previews=data HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await writer.drain()
        async with asyncio.timeout(60):
            for _ in range(20):
                answers = await asyncio.gather(*(here.run("plain", wait=30) for _ in range(10)))
                assert {job["status"] for job in answers} == {"completed"}
        writer.close()
        del reader


async def test_keep_alives_come_while_nothing_happens(tmp_path: Path) -> None:
    from bridge.http import context

    async with http_house(tmp_path) as here:
        assert context.KEEP_ALIVE <= 30
        with_lines = here.http.stream("GET", "/api/events")
        async with with_lines as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "retry: 2000"


async def test_a_stream_that_the_reader_closes_is_forgotten(tmp_path: Path) -> None:
    async with http_house(tmp_path) as here:
        for _ in range(5):
            async with httpx.AsyncClient(base_url=here.url) as http, http.stream("GET", "/api/events") as answer:
                await anext(told(answer))
        job = await here.run("plain", wait=20)
        assert job["status"] == "completed"

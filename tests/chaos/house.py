"""A whole run: the processes, the jobs, the faults, the end, the judgement."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import STALL, Injector, schedule
from tests.chaos.processes import BridgeChild, Broker, Server
from tests.chaos.recorder import FILTERS, FINAL, Recorder
from tests.chaos.verdict import Evidence, Picture, Report, judge
from tests.support.graphs import Graph, node

PICTURE = "9"
"""The node that saves; its prefix names the job, so that each picture shows whose it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run. Two of the same plan draw the same jobs and the same faults."""

    seed: int
    jobs: int = 60
    faults: int = 16
    servers: int = 2
    broker: str = "nats"
    mean_pause: float = 1.0
    """Seconds between faults."""
    longest: float = 3.5
    """Seconds of the longest fault."""
    job_seconds: float = 0.25
    patience: float = 60.0
    """Seconds from the last fault to the last final status."""


@dataclass(slots=True)
class House:
    """The processes."""

    folder: Path
    broker: Broker
    servers: list[Server]
    bridge: BridgeChild
    recorder: Recorder
    asked: set[str] = field(default_factory=set)
    """Jobs whose end was asked for."""
    accepted: dict[str, str] = field(default_factory=dict)

    async def queue(self, name: str, document: Mapping[str, Any] | None = None) -> str:
        """Queue a job under a name of its own; return its prompt id."""
        document = {"workflow": "quick", **(document or {})}
        values = {**document.get("values", {}), f"{PICTURE}.filename_prefix": name}
        reply = await self.recorder.ask("queue", {**document, "values": values}, name)
        assert reply["status"] == "ok", f"{name}: {reply}"
        (self.accepted[name],) = reply["data"]["prompt_ids"]
        return self.accepted[name]

    async def over(self, *, within: float) -> None:
        """Wait until every accepted job has its final status."""
        await self.recorder.until(
            lambda: not self.waited_for(), within=within, what=f"the end of {len(self.accepted)} jobs"
        )

    def waited_for(self) -> set[str]:
        return set(self.accepted.values()) - self.recorder.finals().keys()

    def evidence(self) -> Evidence:
        return Evidence(
            accepted=self.accepted,
            interrupted=frozenset(self.asked),
            replies={key: replies for key, replies in self.recorder.replies.items() if key in self.accepted},
            notes=self.recorder.notes,
            pictures=[Picture(name, one.backend, at) for one in self.servers for name, at in one.pictures()],
            outages={"bridge": self.bridge.outages, **{one.backend: one.outages for one in self.servers}},
            kills={one.backend: one.kills for one in self.servers},
        )

    def ended_in_store(self) -> set[str]:
        """The jobs whose end the bridge has written."""
        return {row[0] for row in self._rows("SELECT id FROM jobs WHERE final = 1")}

    def unfinished(self) -> int:
        """How many jobs of the store are not over."""
        return len(self._rows("SELECT id FROM jobs WHERE final = 0"))

    def unpublished(self) -> int:
        """How many ends the bridge believes to be untold."""
        return len(self._rows("SELECT id FROM jobs WHERE final = 1 AND published = 0"))

    def _rows(self, sql: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.folder / "bridge.db")) as db:
            return db.execute(sql).fetchall()


def graphs(job_seconds: float) -> dict[str, Graph]:
    """Two workflows that are never answered from a cache: each run makes a picture of its own."""
    sleep = node("StandInSleep", "Sleep", seconds=job_seconds, steps=5)
    return {
        "quick": {"1": sleep, PICTURE: node("SaveImage", "Picture", filename_prefix="x", images=["1", 0])},
        "sampler": {
            "1": node("StandInSleep", "Sleep", seconds=job_seconds / 5, steps=1),
            "2": node("CheckpointLoaderSimple", ckpt_name="dreamshaper_8.safetensors"),
            "8": node("ImageScale", image=["1", 0], upscale_method="bilinear", width=64, height=64, crop="disabled"),
            "3": node("VAEEncode", pixels=["8", 0], vae=["2", 2]),
            "4": node("CLIPTextEncode", "Positive Prompt", text="a lighthouse", clip=["2", 1]),
            "5": node("CLIPTextEncode", "Negative Prompt", text="blurry", clip=["2", 1]),
            "6": node(
                "KSampler",
                seed=1,
                steps=4,
                cfg=7.0,
                sampler_name="euler",
                scheduler="normal",
                denoise=1.0,
                model=["2", 0],
                positive=["4", 0],
                negative=["5", 0],
                latent_image=["3", 0],
            ),
            "7": node("VAEDecode", samples=["6", 0], vae=["2", 2]),
            PICTURE: node("SaveImage", "Picture", filename_prefix="x", images=["7", 0]),
        },
    }


@contextlib.asynccontextmanager
async def house(
    folder: Path,
    *,
    servers: int | list[Server] = 1,
    broker: str = "nats",
    job_seconds: float = 0.25,
    workflows: Mapping[str, Graph] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    filters: Sequence[str] = FILTERS,
) -> AsyncIterator[House]:
    """Everything, started and online; gone afterwards whatever happens."""
    workflow_folder = folder / "workflows"
    workflow_folder.mkdir(parents=True, exist_ok=True)
    for name, graph in (graphs(job_seconds) if workflows is None else workflows).items():
        (workflow_folder / f"{name}.json").write_text(json.dumps(graph), encoding="utf-8")
    if isinstance(servers, int):
        servers = [Server(folder, f"comfy{n}", step_delay=0.03) for n in range(servers)]
    mqtt = Broker(folder, broker)
    told: dict[str, dict[str, Any]] = {
        "comfyui": {"urls": [one.url for one in servers], "stall_timeout": STALL},
        "mqtt": {"url": mqtt.url, "protocol": "3.1.1", "keepalive": 5},
        "workflows": {"dir": str(workflow_folder)},
        "store": {"url": f"sqlite:///{folder / 'bridge.db'}"},
        "http": {"port": 0},
        "relay": {"port": 0},
    }
    for section, keys in (settings or {}).items():
        told[section] = {**told.get(section, {}), **keys}
    bridge = BridgeChild(folder, told)
    with contextlib.ExitStack() as stack:
        for child in (mqtt, *servers, bridge):
            stack.callback(child.close)
        await asyncio.gather(mqtt.start(), *(one.start() for one in servers))
        async with Recorder(mqtt.mqtt_port, filters=filters) as recorder:
            await bridge.start()
            await bridge.booted()
            try:
                await recorder.online()
            except AssertionError as error:
                raise AssertionError(f"{error}; the bridge said: {bridge.words()}") from None
            yield House(folder, mqtt, servers, bridge, recorder)


async def run(plan: Plan, folder: Path) -> Report:
    """Do a run and judge it."""
    faults = schedule(
        random.Random(plan.seed),
        count=plan.faults,
        servers=plan.servers,
        mean_pause=plan.mean_pause,
        longest=plan.longest,
    )
    async with house(folder, servers=plan.servers, broker=plan.broker, job_seconds=plan.job_seconds) as made:
        injector = Injector(made.bridge, made.broker, made.servers)
        async with asyncio.TaskGroup() as group:
            group.create_task(injector.run(faults), name="faults")
            group.create_task(_send(made, plan, sum(fault.pause for fault in faults)), name="jobs")
        with contextlib.suppress(AssertionError):  # the judgement says which are not over
            await made.over(within=plan.patience)
        state = await _end(made)
        report = judge(made.evidence())
        report.problems += state
        write_story(made, injector, folder / "story.txt")
        return report


async def _send(made: House, plan: Plan, seconds: float) -> None:
    """Send the jobs over the time of the faults, a few at once."""
    rng = random.Random(plan.seed + 1)
    room = asyncio.Semaphore(20)

    async def one(number: int, *, workflow: str, priority: int, interrupt: bool) -> None:
        async with room:
            name = f"job{number:04}"
            prompt_id = await made.queue(name, {"workflow": workflow, "priority": priority})
        if interrupt:
            made.asked.add(name)
            made.recorder.send("interrupt", prompt_id)

    async with asyncio.TaskGroup() as group:
        for number in range(plan.jobs):
            group.create_task(
                one(
                    number,
                    workflow=rng.choice(("quick", "sampler")),
                    priority=rng.choice((0, 0, 0, 1)),
                    interrupt=rng.random() < 0.04,
                )
            )
            await asyncio.sleep(rng.uniform(0.0, 2.0) * 0.8 * seconds / plan.jobs)


async def _end(made: House) -> list[str]:
    """End the bridge politely; tell what is wrong with that, and with what it leaves in its store."""
    problems = []
    if not made.bridge.alive:
        return [f"the bridge is gone: {made.bridge.words()}"]
    began = time.monotonic()
    code = await made.bridge.stop()
    if code != 0:
        problems.append(f"the bridge ended with {code}: {made.bridge.words()}")
    if time.monotonic() - began > 10.0:
        problems.append(f"the bridge took {time.monotonic() - began:.1f} s to end")
    if any(made.bridge.codes):
        problems.append(f"exit codes of the bridge: {made.bridge.codes}")
    if left := made.unfinished():
        problems.append(f"{left} jobs in the store are not over")
    if unpublished := made.unpublished():
        problems.append(f"{unpublished} jobs in the store count as not published")
    return problems


def write_story(made: House, injector: Injector, file: Path) -> None:
    """All that happened, by time: the evidence for a defect."""
    lines: list[tuple[float, str]] = []
    lines += [(at, f"FAULT {fault.kind} server={fault.server} {fault.seconds:.2f}s") for at, fault in injector.done]
    for child in (made.bridge, made.broker, *made.servers):
        for outage in child.outages:
            lines.append((outage.start, f"OUTAGE {child.name} {outage.what}"))
            lines.append((outage.end or time.time(), f"OUTAGE {child.name} {outage.what} over"))
    lines += [(at, f"PICTURE {name} {one.backend}") for one in made.servers for name, at in one.pictures()]
    names = {prompt_id: name for name, prompt_id in made.accepted.items()}
    for note in made.recorder.notes:
        part = note.topic.split("/")
        if part[0] != "prompt":
            lines.append((note.at, f"{note.topic} {note.payload[:120]!r}"))
            continue
        words = str(note.payload[:20]) if part[2] == "output" else note.payload.decode()
        if part[2] != "status" or note.document["status"] in FINAL | {"queued", "preparing"}:
            lines.append((note.at, f"{names.get(part[1], '?')} {note.topic} {words}"))
    file.write_text("\n".join(f"{at:.3f} {words}" for at, words in sorted(lines)), encoding="utf-8")

"""Waiting for the end of jobs, and the bytes of outputs that are stored nowhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge import events, requests
from bridge.core import Core
from bridge.jobs.lifecycle import WEBSOCKET


@dataclass(slots=True, eq=False)
class Watch:
    """A job that somebody waits for. `over` gives the job in full once it has ended."""

    job_id: str
    over: asyncio.Future[dict[str, Any]]
    keep: bool
    outputs: dict[int, bytes] = field(default_factory=dict)
    """The bytes of its outputs by n, where `keep` asked for them and they came while it was watched."""
    answer: int | None = None
    """Which output stands for the whole job."""
    result: Mapping[str, Any] = field(default_factory=dict)


class Ends:
    """Tells those who wait that a job has ended. `listen` is for the hub."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._watches: dict[str, list[Watch]] = {}

    def listen(self, event: events.Event) -> None:
        """Take an event."""
        match event:
            case events.JobOutput():
                for watch in self._watches.get(event.job_id, ()):
                    if watch.keep:
                        watch.outputs[int(event.document["n"])] = event.data
                    if event.answer:
                        watch.answer = int(event.document["n"])
            case events.JobResult():
                for watch in self._watches.get(event.job_id, ()):
                    watch.result = event.document
            case events.JobStatus(final=True):
                for watch in self._watches.get(event.job_id, ()):
                    if not watch.over.done():
                        watch.over.set_result({**watch.result, **event.document})

    @contextlib.contextmanager
    def watching(self, job_ids: Sequence[str], *, keep: bool = False) -> Iterator[list[Watch]]:
        """Watch jobs within the block; keep: hold the bytes of their outputs."""
        loop = asyncio.get_running_loop()
        watches = [Watch(job_id, loop.create_future(), keep) for job_id in job_ids]
        for watch in watches:
            self._watches.setdefault(watch.job_id, []).append(watch)
        try:
            yield watches
        finally:
            for watch in watches:
                watch.over.cancel()
                others = self._watches[watch.job_id]
                others.remove(watch)
                if not others:
                    del self._watches[watch.job_id]

    async def wait(self, watches: Sequence[Watch], seconds: float, *leave: asyncio.Future[Any]) -> bool:
        """Wait until the watched jobs have ended, and tell whether they have.

        Gives up after `seconds`, or as soon as one of `leave` is done. Raises UnknownPrompt.
        """
        for watch in watches:
            document = await self._core.job(requests.JobRequest(prompt_id=watch.job_id))
            # One that ended before it was watched says so; one that ends just now says so by its events.
            if document["finished_at"] is not None and not watch.over.done() and not watch.result:
                watch.over.set_result(document)
        pending = {watch.over for watch in watches if not watch.over.done()}
        if not pending:
            return True
        everything = asyncio.get_running_loop().create_task(asyncio.wait(pending))
        try:
            await asyncio.wait({everything, *leave}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return all(watch.over.done() for watch in watches)
        finally:
            everything.cancel()


class Kept:
    """The outputs that ComfyUI sent and did not store (SaveImageWebsocket), the newest of them. `listen`: the hub."""

    def __init__(self, core: Core, *, max_bytes: int) -> None:
        self._core = core
        self._max_bytes = max_bytes
        self._size = 0
        self._outputs: OrderedDict[tuple[str, int], tuple[Mapping[str, Any], bytes]] = OrderedDict()

    def listen(self, event: events.Event) -> None:
        """Take an event."""
        if isinstance(event, events.JobOutput) and event.document["type"] == WEBSOCKET:
            key = (event.job_id, int(event.document["n"]))
            known = self._outputs.pop(key, None)
            self._size += len(event.data) - (len(known[1]) if known else 0)
            self._outputs[key] = (event.document, event.data)
            while self._size > self._max_bytes:
                self._size -= len(self._outputs.popitem(last=False)[1][1])

    def get(self, job_id: str, n: int) -> tuple[Mapping[str, Any], bytes] | None:
        """Return an output's entry in the result and its bytes; None if it is not here, or no longer."""
        return self._outputs.get((job_id, n))

    async def output(self, job_id: str, n: int) -> tuple[Mapping[str, Any], bytes]:
        """Return the same, from the ComfyUI that has it where it is not here. Raises as `Core.output`."""
        kept = self.get(job_id, n)
        if kept is not None:
            return kept
        output, data = await self._core.output(requests.OutputRequest(prompt_id=job_id, n=n))
        return output.to_json(), data

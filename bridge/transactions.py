"""Commands that are run once: the answer to a repeated transaction is given again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bridge.errors import Internal, StoreError
from bridge.jobs.model import CHAIN, Job
from bridge.jobs.store import TRANSACTION_AGE, Store

logger = logging.getLogger(__name__)

Reply = dict[str, Any]


def accepted(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the `data` of the answer to a `queue` that made these jobs."""
    data: dict[str, Any] = {"workflow": jobs[0].workflow, "prompt_ids": [job.id for job in jobs]}
    batch_id = jobs[0].batch_id or (jobs[0].id if jobs[0].kind == CHAIN else None)
    return data | ({"batch_id": batch_id} if batch_id else {})


class Transactions:
    """Remembers the answers of ten minutes, over restarts too."""

    def __init__(
        self, store: Store, *, clock: Callable[[], float], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._replies: dict[tuple[str, str], tuple[float, asyncio.Future[Reply]]] = {}

    async def load(self) -> None:
        """Take up what the store remembers."""
        known = {(command, key): (at, reply) for command, key, at, reply in await self._store.transactions()}
        # A crash may have come between the writing of the jobs and that of the answer.
        jobs: dict[tuple[str, str], list[Job]] = {}
        for job in await self._store.recent_transactions():
            if job.transaction is not None and job.transaction not in known:
                jobs.setdefault(job.transaction, []).append(job)
        for transaction, made in jobs.items():
            known[transaction] = (made[0].created_at, {"status": "ok", "data": accepted(made)})
        for transaction, (at, reply) in sorted(known.items(), key=lambda item: item[1][0]):
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            future.set_result(reply)
            age = min(max(0.0, self._clock() - at), TRANSACTION_AGE)
            self._replies[transaction] = (self._monotonic() - age, future)

    async def once(self, command: str, key: str, run: Callable[[], Awaitable[Reply]]) -> Reply:
        """Run a command, or return the answer that it had; one that still runs is waited for.

        A refusal changed nothing and is not remembered: who sends the command again means it.
        """
        self._forget()
        known = self._replies.get((command, key))
        if known is not None:
            return await asyncio.shield(known[1])
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[command, key] = (self._monotonic(), future)
        try:
            reply = await run()
        except BaseException:
            del self._replies[command, key]
            future.cancel()
            raise
        future.set_result(reply)
        if reply["status"] != "ok" and reply.get("code") != Internal.code:
            del self._replies[command, key]
            return reply
        try:
            await self._store.add_transaction(command, key, reply)
        except StoreError as error:
            logger.warning("a transaction is not remembered over a restart: %s", error.message)
        return reply

    def _forget(self) -> None:
        # In the order of their coming, so that only the old ones are looked at.
        # By a clock that never jumps; a computer without one of its own sets the wall clock late.
        limit = self._monotonic() - TRANSACTION_AGE
        for key, (at, future) in list(self._replies.items()):
            if at > limit:
                break
            if future.done():
                del self._replies[key]

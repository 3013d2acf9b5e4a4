from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import StoreError
from bridge.jobs.model import Job, Payload
from bridge.jobs.store import TRANSACTION_AGE, Store
from bridge.transactions import Transactions


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """A command that counts its runs and waits until it may end."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self) -> dict[str, Any]:
        self.runs += 1
        n = self.runs
        await self.may_end.wait()
        return {"status": "ok", "data": {"n": n}}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'x.db'}"


@pytest.fixture
async def store(url: str, clock: Clock) -> AsyncIterator[Store]:
    async with Store(url, keep=1e6, clock=clock) as opened:
        yield opened


async def loaded(store: Store, clock: Clock) -> Transactions:
    transactions = Transactions(store, clock=clock, monotonic=clock)
    await transactions.load()
    return transactions


async def test_a_repeated_transaction_is_answered_and_not_run(store: Store, clock: Clock) -> None:
    transactions, run = await loaded(store, clock), Counting()
    first = await transactions.once("queue", "t", run)
    assert await transactions.once("queue", "t", run) == first
    assert run.runs == 1


async def test_another_key_and_another_command_are_run(store: Store, clock: Clock) -> None:
    transactions, run = await loaded(store, clock), Counting()
    for command, key in (("queue", "t"), ("queue", "u"), ("load", "t")):
        await transactions.once(command, key, run)
    assert run.runs == 3


async def test_one_that_still_runs_is_waited_for(store: Store, clock: Clock) -> None:
    transactions, run = await loaded(store, clock), Counting()
    run.may_end.clear()
    tasks = [asyncio.create_task(transactions.once("queue", "t", run)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    run.may_end.set()
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(second, asyncio.CancelledError)
    assert first == third
    assert run.runs == 1


async def test_a_refusal_is_not_remembered(store: Store, clock: Clock) -> None:
    transactions, run = await loaded(store, clock), Counting()

    async def refused() -> dict[str, Any]:
        return {"status": "error", "code": "queue_full", "error": "…", "data": {}}

    async def broken() -> dict[str, Any]:
        return {"status": "error", "code": "internal", "error": "…", "data": {}}

    assert (await transactions.once("queue", "t", refused))["code"] == "queue_full"
    assert (await (await loaded(store, clock)).once("queue", "t", run))["status"] == "ok"
    assert (await transactions.once("queue", "t", run))["status"] == "ok"
    # What a defect has left nobody knows.
    assert (await transactions.once("queue", "u", broken))["code"] == "internal"
    assert (await transactions.once("queue", "u", run))["code"] == "internal"


async def test_it_outlives_a_restart(url: str, clock: Clock) -> None:
    run = Counting()
    async with Store(url, keep=1e6, clock=clock) as opened:
        first = await (await loaded(opened, clock)).once("queue", "t", run)
    async with Store(url, keep=1e6, clock=clock) as opened:
        assert await (await loaded(opened, clock)).once("queue", "t", run) == first
    assert run.runs == 1


async def test_it_is_forgotten_after_ten_minutes(store: Store, clock: Clock) -> None:
    transactions, run = await loaded(store, clock), Counting()
    await transactions.once("queue", "old", run)
    clock.now += TRANSACTION_AGE - 1
    await transactions.once("queue", "young", run)
    await transactions.once("queue", "old", run)
    assert run.runs == 2
    clock.now += 2
    await transactions.once("queue", "old", run)
    await transactions.once("queue", "young", run)
    assert run.runs == 3


async def test_one_that_hangs_does_not_keep_the_others(store: Store, clock: Clock) -> None:
    transactions, hanging, run = await loaded(store, clock), Counting(), Counting()
    hanging.may_end.clear()
    task = asyncio.create_task(transactions.once("update/image", "hangs", hanging))
    await asyncio.sleep(0)
    for n in range(100):
        await transactions.once("queue", f"{n}", run)
    clock.now += TRANSACTION_AGE + 1
    await transactions.once("queue", "new", run)
    assert len(transactions._replies) == 2
    hanging.may_end.set()
    await task


async def test_one_that_breaks_may_be_tried_again(store: Store, clock: Clock) -> None:
    transactions, run = await loaded(store, clock), Counting()

    async def breaks() -> dict[str, Any]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        await transactions.once("queue", "t", breaks)
    assert (await transactions.once("queue", "t", run))["status"] == "ok"


async def test_a_store_that_cannot_be_written_is_no_reason_to_give_no_answer(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions, run = await loaded(store, clock), Counting()

    def full(*_: Any) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(StoreError("the disk is full"))
        return future

    monkeypatch.setattr(store, "add_transaction", full)
    first = await transactions.once("queue", "t", run)
    assert await transactions.once("queue", "t", run) == first


async def test_jobs_that_were_written_before_a_crash_answer_for_their_command(store: Store, clock: Clock) -> None:
    jobs = [
        Job(name, "fox", {}, clock.now, batch_id="b", transaction=("workflow/fox/queue", "t")) for name in ("j1", "j2")
    ]
    await store.add([(job, Payload({}).dump()) for job in jobs])
    run = Counting()
    reply = await (await loaded(store, clock)).once("workflow/fox/queue", "t", run)
    assert run.runs == 0
    assert reply == {"status": "ok", "data": {"workflow": "fox", "prompt_ids": ["j1", "j2"], "batch_id": "b"}}

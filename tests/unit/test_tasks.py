"""Work that nobody awaits: it is ended with its owner, and what fails is logged."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import StoreError
from bridge.tasks import Tasks, log_failure
from tests.support.brokers import until


async def test_a_defect_is_logged_with_where_it_happened(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise KeyError("lost")

    tasks = Tasks()
    tasks.spawn(broken(), "the errand")
    await until(lambda: not tasks.running)
    (record,) = caplog.records
    assert record.getMessage() == "the errand failed inside the bridge"
    assert record.exc_info is not None


async def test_what_a_sentence_explains_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    async def full() -> None:
        raise StoreError("the disk is full")

    tasks = Tasks()
    tasks.spawn(full(), "the errand")
    await until(lambda: not tasks.running)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), record.exc_info) == ("WARNING", "the errand: the disk is full", None)


async def test_the_end_of_the_owner_ends_them_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    task = tasks.spawn(asyncio.sleep(3600), "the errand")
    await tasks.close()
    assert task.cancelled()
    await until(lambda: not tasks.running)
    assert not caplog.records


async def test_a_write_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(log_failure)
    future.set_exception(StoreError("the disk is full"))
    await until(lambda: bool(caplog.records))
    assert caplog.messages == ["the disk is full"]

"""Work that must not end in silence: it ends with its owner or begins again, and what fails is logged."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import BridgeError, SettingsError, StoreError
from bridge.tasks import Tasks, log_failure, supervise
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


async def test_a_part_that_fails_is_begun_again_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    begun = 0

    async def part() -> None:
        nonlocal begun
        begun += 1
        if begun < 4:
            raise ZeroDivisionError

    await supervise("the part", part, first_pause=0.001)
    assert begun == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"the part failed; it is started again in {pause} s" for pause in ("0.001", "0.002", "0.004")
    ]


@pytest.mark.parametrize("error", [SettingsError("wrong"), StoreError("broken")])
async def test_what_a_person_has_to_mend_ends_it_all(error: BridgeError) -> None:
    async def part() -> None:
        raise error

    with pytest.raises(type(error)):
        await supervise("the part", part)

"""The store on a real file: what was acknowledged is there, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import FileMissing, SettingsError, StoreError, StoreFull, StoreInUse
from bridge.jobs.database import Database
from bridge.jobs.model import ImageValue, Job, Output, Payload, Status
from bridge.jobs.store import TRANSACTION_AGE, Store

DAY = 86400.0
GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {}}}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'bridge.db'}"


def store(url: str, clock: Clock) -> Store:
    return Store(url, keep=7 * DAY, clock=clock)


def job(name: str, at: float = 0.0, **fields: Any) -> Job:
    return Job(name, "w", {"seed": 1}, at, **fields)


def entry(one: Job) -> tuple[Job, bytes]:
    return one, Payload(GRAPH).dump()


def ended(one: Job, at: float, status: Status = Status.COMPLETED) -> Job:
    one.status, one.finished_at = status, at
    return one


# Jobs


async def test_a_job_outlives_the_store(url: str, clock: Clock) -> None:
    one = job("a", 1.5, priority=3, expires_at=9.0, batch_id="b")
    one.durations = {"queued": 0.5}
    one.error = {"code": "lost", "message": "m"}
    one.outputs = (Output(0, "9", "x.png", "", "output", "image/png", "http://x", bytes=1, width=2, height=3),)
    one.text = ({"node": "1", "text": "héllo \U0001f98a"},)
    payload = Payload(GRAPH, (("1", "image", ImageValue("a.png", "0" * 64)),), "9")
    async with store(url, clock) as opened:
        await opened.add([(one, payload.dump())])
        one.status = Status.RUNNING
        await opened.save(one)
    async with store(url, clock) as opened:
        assert await opened.job("a") == one
        assert await opened.unfinished() == [one]
        assert await opened.payload("a") == payload
        assert await opened.job("b") is None


async def test_unfinished_jobs_come_in_the_order_of_their_acceptance(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        await opened.add([entry(job(name, at)) for name, at in (("z", 3.0), ("a", 2.0))])
        await opened.add([entry(job("m", 1.0))])
    async with store(url, clock) as opened:
        await opened.add([entry(job("b", 0.0))])
        assert [one.id for one in await opened.unfinished()] == ["z", "a", "m", "b"]


async def test_jobs_are_added_all_or_none(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        await opened.add([entry(job("a"))])
        with pytest.raises(StoreError):
            await opened.add([entry(job("b")), entry(job("a"))])
        assert [one.id for one in await opened.unfinished()] == ["a"]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.INTERRUPTED])
async def test_the_snapshot_goes_when_the_job_has_ended(url: str, clock: Clock, status: Status) -> None:
    async with store(url, clock) as opened:
        one = job("a")
        await opened.add([entry(one)])
        await opened.save(ended(one, clock.now, status))
        with pytest.raises(FileMissing):
            await opened.payload("a")
        with pytest.raises(FileMissing):
            await opened.payload("unknown")
        assert await opened.unfinished() == []
        assert (await opened.job("a")) == one


async def test_what_the_broker_did_not_take_is_unpublished(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        jobs = [job(name) for name in ("a", "b", "c")]
        await opened.add([entry(one) for one in jobs])
        for n, one in enumerate(jobs[:2]):
            await opened.save(ended(one, clock.now - n))
        assert [one.id for one in await opened.unpublished()] == ["b", "a"]
        await opened.mark_published(["a"])
    async with store(url, clock) as opened:
        assert [one.id for one in await opened.unpublished()] == ["b"]


async def test_finished_jobs_come_newest_first(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        jobs = [job(f"j{n}") for n in range(5)]
        await opened.add([entry(one) for one in jobs])
        for n, one in enumerate(jobs[:4]):
            await opened.save(ended(one, clock.now + n))
        assert [one.id for one in await opened.finished(3)] == ["j3", "j2", "j1"]


# Deliveries


async def test_what_is_owed_is_written_with_the_job_and_nowhere_else(url: str, clock: Clock) -> None:
    one, other = job("a", owed={"secret": "hidden"}), job("b")
    async with store(url, clock) as first:
        await first.add([entry(one), entry(other)])
    async with store(url, clock) as second:
        assert await second.owed() == [("a", {"secret": "hidden"})]
        assert await second.delivery("b") is None
        assert "hidden" not in repr(one)
        assert (await second.unfinished())[0].owed is None
        await second.keep_delivery("a", {"url": "x"}, owed=False)
        assert await second.owed() == []
        assert await second.delivery("a") == {"url": "x"}


def written(url: str) -> bytes:
    return Path(url.removeprefix("sqlite:///")).read_bytes()


async def test_a_secret_is_gone_from_the_file_once_it_is_delivered(url: str, clock: Clock) -> None:
    async with store(url, clock) as first:
        await first.add([entry(job("a", owed={"secret": "hidden-key"}))])
        await first.keep_delivery("a", {}, owed=False)
    assert b"hidden-key" not in written(url)


async def test_what_was_delivered_goes_with_its_job(url: str, clock: Clock) -> None:
    async with store(url, clock) as first:
        await first.add([entry(job("old", owed={})), entry(job("waits", owed={}))])
        await first.keep_delivery("none", {}, owed=True)
        await first.save(ended(job("old"), clock.now))
        clock.now += 8 * DAY
        assert await first.prune(media_in_use=()) == 1
        assert await first.owed() == [("waits", {})]


def rights(folder: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="rights of files")
async def test_the_files_are_for_their_owner_alone(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path / 'bridge.db'}"
    for name in ("new", "opened before"):
        async with store(url, clock) as first:
            await first.add([entry(job(name))])
            assert rights(tmp_path) == {0o600}
        (tmp_path / "bridge.db").chmod(0o644)


# Facts, transactions, media, retained topics


async def test_facts(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        assert await opened.fact("x") is None
        assert await opened.fact("x", 3) == 3
        await opened.set_fact("values:a", [1, {"b": None}])
        await opened.set_fact("values:a", [2])
        await opened.set_fact("values:%", "percent")
        await opened.set_fact("valuesX", 1)
    async with store(url, clock) as opened:
        assert await opened.fact("values:a") == [2]
        assert await opened.facts("values:") == {"a": [2], "%": "percent"}


async def test_transactions_last_ten_minutes(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        await opened.add_transaction("queue", "t1", {"status": "ok"})
        clock.now += 10
        await opened.add_transaction("load", "t1", {"status": "error"})
    clock.now += TRANSACTION_AGE - 5
    async with store(url, clock) as opened:
        assert [(command, key) for command, key, _, _ in await opened.transactions()] == [("load", "t1")]
        assert (await opened.transactions())[0][3] == {"status": "error"}
        clock.now += 20
        assert await opened.transactions() == []


async def test_media_are_kept_once_by_their_hash(url: str, clock: Clock, tmp_path: Path) -> None:
    data = os.urandom(1000)
    async with store(url, clock) as opened:
        first = await opened.put_media(data)
        assert await opened.put_media(data) == first
        other = await opened.put_media(b"")
        assert other != first
    async with store(url, clock) as opened:
        assert await opened.media(first) == data
        assert await opened.media(other) == b""
        with pytest.raises(FileMissing, match="no longer in the store"):
            await opened.media("0" * 64)
    with sqlite3.connect(tmp_path / "deep" / "bridge.db") as db:
        assert db.execute("SELECT count(*) FROM media").fetchone() == (2,)
    db.close()


async def test_retained_topics(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        await opened.change_retained(added=["a", "b"])
        await opened.change_retained(added=["b", "c"], removed=["a"])
    async with store(url, clock) as opened:
        assert await opened.retained() == {"b", "c"}


async def test_pruning(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        old, young, waiting = job("old"), job("young"), job("waiting")
        await opened.add([entry(one) for one in (old, young, waiting)])
        await opened.save(ended(old, clock.now))
        in_use, unused, read = [await opened.put_media(data) for data in (b"in use", b"unused", b"read again")]
        await opened.add_transaction("queue", "t", {})
        clock.now += 6 * DAY
        await opened.save(ended(young, clock.now))
        await opened.media(read)
        clock.now += 2 * DAY
        assert await opened.prune(media_in_use={in_use}) == 1
        assert await opened.job("old") is None
        assert await opened.job("young") == young
        assert [one.id for one in await opened.unfinished()] == ["waiting"]
        assert await opened.media(in_use) == b"in use"
        assert await opened.media(read) == b"read again"
        with pytest.raises(FileMissing):
            await opened.media(unused)


async def test_pruning_leaves_the_media_of_jobs_that_wait(url: str, clock: Clock) -> None:
    async with store(url, clock) as opened:
        sha256 = await opened.put_media(b"waited for")
        payload = Payload(GRAPH, (("1", "image", ImageValue("a.png", sha256)),))
        await opened.add([(job("a"), payload.dump())])
        clock.now += 8 * DAY
        await opened.prune(media_in_use=set())
        assert await opened.media(sha256) == b"waited for"


# The database


async def test_another_version_is_refused_with_a_sentence(url: str, clock: Clock, tmp_path: Path) -> None:
    async with store(url, clock):
        pass
    with sqlite3.connect(tmp_path / "deep" / "bridge.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match=r"version 99.*store\.url"):
        async with store(url, clock):
            pass


async def test_a_disk_without_room_for_the_store_is_told_apart(url: str, clock: Clock, monkeypatch: Any) -> None:
    def full(_: Database) -> sqlite3.Connection:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            db.execute("PRAGMA max_page_count = 1")
            db.execute("CREATE TABLE t (x)")
        raise AssertionError("there was room")

    monkeypatch.setattr(Database, "_connect", full)
    with pytest.raises(StoreFull, match=r"full.*store\.url"):
        async with store(url, clock):
            pass
    monkeypatch.undo()
    async with store(url, clock):
        pass


async def test_a_file_that_is_no_store_is_refused(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "x.db"
    file.write_bytes(b"this is a text and no database " * 100)
    with pytest.raises(StoreError, match=r"cannot be opened.*store\.url"):
        async with store(f"sqlite:///{file}", clock):
            pass
    assert file.read_bytes().startswith(b"this is a text")


async def test_a_foreign_database_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "photos.db"
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE photos (name TEXT)")
    db.close()
    with pytest.raises(StoreError):
        async with store(f"sqlite:///{file}", clock):
            pass
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("photos",)]
    db.close()


async def test_a_directory_is_refused(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(StoreError):
        async with store(f"sqlite:///{tmp_path}", clock):
            pass


async def test_another_kind_of_store_is_refused(clock: Clock) -> None:
    with pytest.raises(SettingsError, match="sqlite:///"):
        async with store("nats://127.0.0.1", clock):
            pass


async def test_a_damaged_file_is_an_error_and_no_crash(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "x.db"
    url = f"sqlite:///{file}"
    async with store(url, clock) as opened:
        await opened.add([entry(job(f"j{n}")) for n in range(200)])
    data = bytearray(file.read_bytes())
    data[4096 * 3 :] = os.urandom(len(data) - 4096 * 3)
    file.write_bytes(data)

    async def use() -> None:
        async with store(url, clock) as opened:
            await opened.unfinished()
            await opened.add([entry(job("new"))])

    with pytest.raises(StoreError):
        await use()


async def test_a_failing_function_takes_back_only_itself(tmp_path: Path) -> None:
    async with Database(
        str(tmp_path / "x.db"), "CREATE TABLE IF NOT EXISTS t (n INTEGER UNIQUE)", version=1
    ) as database:

        def insert(n: int) -> Any:
            return lambda db: db.execute("INSERT INTO t VALUES (?)", (n,)).rowcount

        def raising(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO t VALUES (100)")
            raise ValueError("mine")

        futures: list[asyncio.Future[Any]] = [database.start(insert(n)) for n in (1, 2)]
        futures.append(database.start(raising))
        futures.append(database.start(insert(1)))
        futures.append(database.start(insert(3)))
        one, two, wrong, twice, three = await asyncio.gather(*futures, return_exceptions=True)
        assert (one, two, three) == (1, 1, 1)
        assert isinstance(wrong, ValueError)
        assert isinstance(twice, StoreError)
        rows = await database.run(lambda db: db.execute("SELECT n FROM t ORDER BY n").fetchall())
        assert rows == [(1,), (2,), (3,)]


async def test_many_writes_are_committed_together_and_in_order(tmp_path: Path) -> None:
    async with Database(str(tmp_path / "x.db"), "CREATE TABLE IF NOT EXISTS t (n INTEGER)", version=1) as database:
        before = await database.run(lambda db: db.execute("PRAGMA data_version").fetchone())
        futures = [
            database.start(lambda db, n=n: db.execute("INSERT INTO t VALUES (?)", (n,)).lastrowid)  # type: ignore[misc]
            for n in range(3000)
        ]
        assert await asyncio.gather(*futures) == list(range(1, 3001))
        assert await database.run(lambda db: db.execute("PRAGMA data_version").fetchone()) == before
        rows = await database.run(lambda db: db.execute("SELECT n FROM t ORDER BY rowid").fetchall())
        assert [row[0] for row in rows] == list(range(3000))


async def test_what_is_in_the_queue_is_written_before_the_store_closes(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    schema = "CREATE TABLE IF NOT EXISTS t (n INTEGER)"
    async with Database(path, schema, version=1) as database:
        futures = [database.start(lambda db: db.execute("INSERT INTO t VALUES (1)").rowcount) for _ in range(50)]
    assert await asyncio.gather(*futures) == [1] * 50
    with pytest.raises(StoreError, match="closed"):
        await database.run(lambda db: db.execute("SELECT 1").fetchone())


async def test_a_caller_that_is_cancelled_harms_nobody(tmp_path: Path) -> None:
    async with Database(str(tmp_path / "x.db"), "CREATE TABLE IF NOT EXISTS t (n INTEGER)", version=1) as database:
        task = asyncio.create_task(database.run(lambda db: db.execute("INSERT INTO t VALUES (1)").rowcount))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await database.run(lambda db: db.execute("SELECT 1").fetchone()) == (1,)


async def test_a_full_disk_is_an_error_and_passes(tmp_path: Path, clock: Clock) -> None:
    async with store(f"sqlite:///{tmp_path / 'x.db'}", clock) as opened:
        await opened.add([entry(job("before"))])
        pages = await opened._database.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await opened._database.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 5}").fetchone())
        with pytest.raises(StoreError, match="full"):
            await opened.put_media(bytes(1_000_000))
        with pytest.raises(StoreError, match="full"):
            await opened.add([(job(f"big{n}"), bytes(10_000)) for n in range(100)])
        big, small = opened._database.start(_big), opened.set_fact("small", 1)
        results = await asyncio.gather(big, small, return_exceptions=True)
        assert isinstance(results[0], StoreError)
        assert [one.id for one in await opened.unfinished()] == ["before"]
        await opened._database.run(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchone())
        await opened.add([entry(job("after"))])
        assert [one.id for one in await opened.unfinished()] == ["before", "after"]


def _big(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO media VALUES ('x', 0, ?)", (bytes(1_000_000),))


_WRITER = """
import asyncio, sys
from bridge.jobs.model import Job, Payload
from bridge.jobs.store import Store

async def main():
    async with Store(sys.argv[1], keep=1e9) as store:
        n = 0
        while True:
            await store.add([(Job(f"j{n}", "w", {}, float(n)), Payload({}).dump())])
            await store.set_fact("n", n)
            print(n, flush=True)
            n += 1

asyncio.run(main())
"""


async def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITER, url, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    last = -1
    async with asyncio.timeout(30):
        while last < 200:
            last = int(await process.stdout.readline())
        process.kill()
        rest = (await process.stdout.read()).split()
        await process.wait()
    if rest:
        last = int(rest[-1])
    async with store(url, clock) as opened:
        found = [one.id for one in await opened.unfinished()]
        assert found[: last + 1] == [f"j{n}" for n in range(last + 1)]
        assert len(found) in {last + 1, last + 2}
        assert await opened.fact("n") in {last, last + 1}


async def test_a_store_is_of_one_bridge_at_a_time(url: str, clock: Clock) -> None:
    async with store(url, clock):
        with pytest.raises(StoreInUse, match=r"another bridge runs on the store .*store\.url"):
            async with store(url, clock):
                pass
    async with store(url, clock):
        pass

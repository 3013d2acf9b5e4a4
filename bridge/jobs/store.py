"""What outlives the process: jobs and results, what is owed, values, media, transactions, retained topics."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Self

from bridge.errors import FileMissing, SettingsError
from bridge.jobs.database import Database
from bridge.jobs.model import Job, Output, Payload, Status

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, position INTEGER, final INTEGER NOT NULL, created_at REAL NOT NULL,
    finished_at REAL, batch_id TEXT, state TEXT NOT NULL, payload BLOB, published INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (position) WHERE final = 0;
CREATE INDEX IF NOT EXISTS jobs_unpublished ON jobs (finished_at) WHERE final = 1 AND published = 0;
CREATE INDEX IF NOT EXISTS jobs_finished ON jobs (finished_at) WHERE final = 1;
CREATE INDEX IF NOT EXISTS jobs_batch ON jobs (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_created ON jobs (created_at);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transactions (
    command TEXT, key TEXT, at REAL NOT NULL, reply TEXT NOT NULL, PRIMARY KEY (command, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS media (sha256 TEXT PRIMARY KEY, used_at REAL NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
    id TEXT PRIMARY KEY, at REAL NOT NULL, owed INTEGER NOT NULL, note TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_owed ON deliveries (at) WHERE owed = 1;
CREATE TABLE IF NOT EXISTS retained (topic TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_VERSION = 1
_KEEP = "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?)"
_FIELDS = tuple(field.name for field in dataclasses.fields(Job) if field.name != "owed")
TRANSACTION_AGE = 600.0


class Store:
    """The SQLite store. Times are given by `clock`, in seconds since the epoch."""

    def __init__(self, url: str, *, keep: float, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._keep = keep
        self._clock = clock
        self._position = 0

    async def __aenter__(self) -> Self:
        scheme, _, path = self._url.partition("://")
        if scheme != "sqlite":
            raise SettingsError(f"store.url {self._url!r} is not supported yet; use sqlite:///FILE")
        self._database = Database(path.removeprefix("/"), _SCHEMA, version=_VERSION)
        await self._database.__aenter__()
        self._position = await self._database.run(
            lambda db: db.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()[0]
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._database.__aexit__(*exc_info)

    # Jobs

    async def add(self, jobs: Sequence[tuple[Job, bytes]]) -> None:
        """Write new jobs, each with its dumped Payload and what is owed, all or none; on the disk when this returns.

        A job without an `order` gets the next one.
        """
        rows = []
        owed = [(job.id, self._clock(), 1, json.dumps(job.owed)) for job, _ in jobs if job.owed is not None]
        for job, payload in jobs:
            self._position += 1
            job.order = job.order or self._position
            rows.append((job.id, self._position, job.created_at, job.batch_id, _dump(job), payload))
        sql = (
            "INSERT INTO jobs (id, position, final, created_at, batch_id, state, payload) VALUES (?, ?, 0, ?, ?, ?, ?)"
        )

        def write(db: sqlite3.Connection) -> None:
            db.executemany(sql, rows)
            db.executemany(_KEEP, owed)

        await self._database.run(write, durable=True)

    def save(self, job: Job) -> asyncio.Future[None]:
        """Write where a job stands; awaiting the future is waiting for the commit."""
        state, final = _dump(job), job.status.final
        # The snapshot is of no more use once the job has ended, and it is the bulk of the row.
        payload = ", payload = NULL" if final else ""
        sql = f"UPDATE jobs SET state = ?, final = ?, finished_at = ?{payload} WHERE id = ?"  # noqa: S608  constants
        values = (state, int(final), job.finished_at, job.id)

        def write(db: sqlite3.Connection) -> None:
            db.execute(sql, values)

        return self._database.start(write)

    def mark_published(self, job_ids: Collection[str]) -> asyncio.Future[None]:
        """Note that the broker has the final statuses."""
        rows = [(job_id,) for job_id in job_ids]

        def write(db: sqlite3.Connection) -> None:
            db.executemany("UPDATE jobs SET published = 1 WHERE id = ?", rows)

        return self._database.start(write)

    async def unfinished(self) -> list[Job]:
        """Return the jobs that have not ended, in the order of their acceptance."""
        rows = await self._rows("SELECT state FROM jobs WHERE final = 0 ORDER BY position")
        return [_load(row[0]) for row in rows]

    async def unfinished_chains(self) -> list[Job]:
        """Return the chains that have not ended."""
        sql = "SELECT state FROM jobs WHERE final = 0 AND json_extract(state, '$.kind') = 'chain' ORDER BY position"
        return [_load(row[0]) for row in await self._rows(sql)]

    async def aliases(self) -> list[tuple[str, str]]:
        """Return the names that callers chose, each with its job's id, in the order of acceptance."""
        sql = "SELECT json_extract(state, '$.alias') AS alias, id FROM jobs WHERE alias IS NOT NULL ORDER BY position"
        return [(alias, job_id) for alias, job_id in await self._rows(sql)]

    async def unpublished(self) -> list[Job]:
        """Return the jobs that have ended and whose final status the broker never acknowledged."""
        rows = await self._rows("SELECT state FROM jobs WHERE final = 1 AND published = 0 ORDER BY finished_at")
        return [_load(row[0]) for row in rows]

    async def payload(self, job_id: str) -> Payload:
        """Return what a job runs. FileMissing for a job that has ended."""
        return Payload.load(await self.raw_payload(job_id))

    async def raw_payload(self, job_id: str) -> bytes:
        """Return the payload as it was given to `add`. FileMissing for a job that has ended."""
        rows = await self._rows("SELECT payload FROM jobs WHERE id = ?", job_id)
        if not rows or rows[0][0] is None:
            raise FileMissing(f"the store has no graph for the job {job_id}")
        return bytes(rows[0][0])

    async def job(self, job_id: str) -> Job | None:
        """Return a job by id, ended or not."""
        rows = await self._rows("SELECT state FROM jobs WHERE id = ?", job_id)
        return _load(rows[0][0]) if rows else None

    async def finished(self, limit: int) -> list[Job]:
        """Return the jobs that ended last, newest first."""
        rows = await self._rows("SELECT state FROM jobs WHERE final = 1 ORDER BY finished_at DESC LIMIT ?", limit)
        return [_load(row[0]) for row in rows]

    async def open_batches(self) -> list[str]:
        """Return the batches of which a job has not ended, or its end was never acknowledged."""
        sql = "SELECT DISTINCT batch_id FROM jobs WHERE batch_id IS NOT NULL AND (final = 0 OR published = 0)"
        return [row[0] for row in await self._rows(sql)]

    async def batch(self, batch_id: str) -> list[Job]:
        """Return the jobs of a batch, in the order of their acceptance."""
        rows = await self._rows("SELECT state FROM jobs WHERE batch_id = ? ORDER BY position", batch_id)
        return [_load(row[0]) for row in rows]

    async def recent_transactions(self) -> list[Job]:
        """Return the jobs of transactions that were accepted in the last ten minutes, in that order."""
        sql = (
            "SELECT state FROM jobs WHERE created_at > ? "
            "AND json_extract(state, '$.transaction') IS NOT NULL ORDER BY position"
        )
        return [_load(row[0]) for row in await self._rows(sql, self._clock() - TRANSACTION_AGE)]

    # Facts: single values by key

    async def fact(self, key: str, default: Any = None) -> Any:
        """Return the JSON value kept under a key."""
        rows = await self._rows("SELECT value FROM facts WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else default

    async def facts(self, prefix: str) -> dict[str, Any]:
        """Return the values of all keys that begin with `prefix`, by the rest of the key."""
        rows = await self._rows("SELECT key, value FROM facts WHERE substr(key, 1, ?) = ?", len(prefix), prefix)
        return {key[len(prefix) :]: json.loads(value) for key, value in rows}

    def set_fact(self, key: str, value: Any) -> asyncio.Future[None]:
        """Keep a JSON value under a key."""
        text = json.dumps(value)

        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, text))

        return self._database.start(write)

    # Deliveries: what is sent to others at the end of a job, as its face wrote it down

    async def owed(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what is not delivered yet, the oldest first: the job's id (or another one of its own), the note."""
        rows = await self._rows("SELECT id, note FROM deliveries WHERE owed = 1 ORDER BY at")
        return [(delivery_id, json.loads(note)) for delivery_id, note in rows]

    async def delivery(self, delivery_id: str) -> dict[str, Any] | None:
        """Return the note of one, delivered or not."""
        rows = await self._rows("SELECT note FROM deliveries WHERE id = ?", delivery_id)
        return json.loads(rows[0][0]) if rows else None

    async def keep_delivery(self, delivery_id: str, note: Mapping[str, Any], *, owed: bool) -> None:
        """Keep a note instead of the one before; one that is not owed goes with its job."""
        row = (delivery_id, self._clock(), int(owed), json.dumps(note))

        def write(db: sqlite3.Connection) -> None:
            db.execute(_KEEP, row)

        await self._database.run(write)

    # Transactions

    async def transactions(self) -> list[tuple[str, str, float, dict[str, Any]]]:
        """Return the answered transactions of the last ten minutes: command, key, time, reply."""
        rows = await self._rows(
            "SELECT command, key, at, reply FROM transactions WHERE at > ?", self._clock() - TRANSACTION_AGE
        )
        return [(command, key, at, json.loads(reply)) for command, key, at, reply in rows]

    def add_transaction(self, command: str, key: str, reply: Mapping[str, Any]) -> asyncio.Future[None]:
        """Keep the answer of a transaction."""
        row = (command, key, self._clock(), json.dumps(reply))

        def write(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO transactions VALUES (?, ?, ?, ?)", row)

        return self._database.start(write)

    # Media

    async def put_media(self, data: bytes) -> str:
        """Keep bytes; their SHA-256 in hex names them. The same bytes are kept once."""
        digest = hashlib.sha256(data).hexdigest()
        now = self._clock()
        sql = "INSERT INTO media VALUES (?, ?, ?) ON CONFLICT (sha256) DO UPDATE SET used_at = excluded.used_at"

        def write(db: sqlite3.Connection) -> None:
            db.execute(sql, (digest, now, data))

        await self._database.run(write, durable=True)
        return digest

    async def media(self, sha256: str) -> bytes:
        """Return the bytes of that name. FileMissing if they are gone."""
        now = self._clock()

        def read(db: sqlite3.Connection) -> Any:
            db.execute("UPDATE media SET used_at = ? WHERE sha256 = ?", (now, sha256))
            return db.execute("SELECT data FROM media WHERE sha256 = ?", (sha256,)).fetchone()

        row = await self._database.run(read)
        if row is None:
            raise FileMissing(f"the image {sha256[:12]}… is no longer in the store; set it again")
        return bytes(row[0])

    # Retained topics

    async def retained(self) -> set[str]:
        """Return the topics that were published retained and not cleared since."""
        return {row[0] for row in await self._rows("SELECT topic FROM retained")}

    def change_retained(self, added: Iterable[str] = (), removed: Iterable[str] = ()) -> asyncio.Future[None]:
        """Note topics that are published retained, and topics that were cleared."""
        new, gone = [(topic,) for topic in added], [(topic,) for topic in removed]

        def write(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR IGNORE INTO retained VALUES (?)", new)
            db.executemany("DELETE FROM retained WHERE topic = ?", gone)

        return self._database.start(write)

    async def prune(self, *, media_in_use: Collection[str]) -> int:
        """Delete what ended, or was used last, more than `keep` seconds ago; return how many jobs went."""
        now = self._clock()
        cutoff = now - self._keep

        def write(db: sqlite3.Connection) -> int:
            keep = json.dumps(sorted({*media_in_use, *_media_of_jobs(db, cutoff)}))
            gone = db.execute("DELETE FROM jobs WHERE final = 1 AND finished_at < ?", (cutoff,)).rowcount
            db.execute("DELETE FROM deliveries WHERE at < ? AND id NOT IN (SELECT id FROM jobs)", (cutoff,))
            db.execute("DELETE FROM transactions WHERE at < ?", (now - TRANSACTION_AGE,))
            db.execute(
                "DELETE FROM media WHERE used_at < ? AND sha256 NOT IN (SELECT value FROM json_each(?))", (cutoff, keep)
            )
            return gone

        return await self._database.run(write)

    async def _rows(self, sql: str, *values: Any) -> list[Any]:
        return await self._database.run(lambda db: db.execute(sql, values).fetchall())


def _media_of_jobs(db: sqlite3.Connection, cutoff: float) -> set[str]:
    """Return the bytes that jobs need that have waited since before `cutoff`."""
    rows = db.execute("SELECT payload FROM jobs WHERE final = 0 AND created_at < ?", (cutoff,))
    return {sha for row in rows for sha in re.findall(r'"(?:sha256|mask)": "([0-9a-f]{64})"', row[0].decode())}


def _dump(job: Job) -> str:
    # Not dataclasses.asdict, which copies everything down to the last list.
    state = {name: getattr(job, name) for name in _FIELDS}
    state["outputs"] = [dataclasses.asdict(output) for output in job.outputs]
    return json.dumps(state)


def _load(text: str) -> Job:
    state = json.loads(text)
    state["status"] = Status(state["status"])
    state["outputs"] = tuple(Output(**output) for output in state["outputs"])
    state["text"] = tuple(state["text"])
    state["parts"] = tuple(state["parts"])
    state["transaction"] = tuple(state["transaction"]) if state["transaction"] else None
    return Job(**state)

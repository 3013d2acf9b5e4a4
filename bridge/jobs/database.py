"""SQLite behind one thread that owns the connection and commits in groups.

Callers hand in functions; what has gathered while a transaction was being written is written in the next one
together, which makes thousands of small durable writes a second possible (WAL mode). A function that fails takes
back its own changes only; the others may then be called a second time. Reads go the same way, so that everybody
sees what was written before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from bridge.errors import StoreError, StoreFull, StoreInUse
from bridge.locks import take_lock

logger = logging.getLogger(__name__)

T = TypeVar("T")
_GROUP = 500


@dataclass(slots=True)
class _Operation:
    function: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    durable: bool
    outcome: Any = None
    error: BaseException | None = None


class Database:
    """A SQLite file, of this process alone. `async with Database(path, schema) as database: await database.run(f)`.

    Raises StoreError on entering if the file cannot be opened, or holds something else, and StoreInUse if another
    process has it: two bridges on one store would run each other's jobs.
    """

    def __init__(self, path: str, schema: str, *, version: int) -> None:
        self._path = path
        self._schema = schema
        self._version = version
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._level = ""
        """What `synchronous` is set to."""
        self._lock: IO[bytes] | None = None

    async def __aenter__(self) -> Self:
        connection = await asyncio.to_thread(self._open)
        work = connection, asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, args=work, name="store", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        self._give_up()

    async def run(self, function: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Run `function` inside a transaction and return its result once that is committed.

        durable: on the disk itself (fsync), so that it outlives a power cut; else it outlives the process.
        Raises StoreError if the database cannot be written, a full disk for instance.
        """
        future = self.start(function, durable=durable)
        result: T = await future
        return result

    def start(self, function: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> asyncio.Future[T]:
        """Like `run`, without waiting: the order of calls is the order of writes."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._thread is None:
            future.set_exception(StoreError("the store is closed"))
        else:
            self._queue.put(_Operation(function, future, durable))
        return future

    def _open(self) -> sqlite3.Connection:
        try:
            if self._path != ":memory:":
                self._claim()
            return self._connect()
        except BaseException as error:
            self._give_up()
            if isinstance(error, sqlite3.Error | OSError):
                words = f"the store {self._path} cannot be opened: {error}; see store.url"
                raise (StoreFull if _is_full(error) else StoreError)(words) from error
            raise

    def _claim(self) -> None:
        """See to it that the file is there, for its owner alone, and this process the only one that has it."""
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        # Whatever the umask; SQLite gives the same rights to the files beside it.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = take_lock(Path(f"{self._path}.lock"))
        if self._lock is None:
            raise StoreInUse(
                f"another bridge runs on the store {self._path}: end that one, or give this one its own store.url"
            )

    def _give_up(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            self._check(connection)
            self._make_private()
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA journal_size_limit=16000000")
            connection.execute("PRAGMA secure_delete=FAST")  # what was a secret is zeros once it is deleted
            # One transaction: a crash in between must not leave tables without a version.
            connection.executescript(f"BEGIN;{self._schema};PRAGMA user_version={self._version};COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == self._version:
            return
        if found == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            return
        what = f"of version {found}, and this bridge needs {self._version}" if found else "a database of something else"
        raise StoreError(f"the store {self._path} is {what}; move the file away, or name another one in store.url")

    def _make_private(self) -> None:
        if os.name != "posix" or self._path == ":memory:":
            return
        for ending in ("", "-wal", "-shm"):
            # One that somebody else owns is theirs to open or close; some file systems know no rights.
            with contextlib.suppress(OSError):
                Path(self._path + ending).chmod(0o600)

    def _work(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.closing(connection):
            while True:
                operations, more = self._gather()
                if operations:
                    self._transact(connection, operations)
                    # The loop may be gone when a daemon is torn down: then nobody waits for the answers.
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(_resolve, operations)
                if not more:
                    return

    def _gather(self) -> tuple[list[_Operation], bool]:
        operations: list[_Operation] = []
        operation = self._queue.get()
        while operation is not None:
            operations.append(operation)
            if len(operations) == _GROUP:
                return operations, True
            try:
                operation = self._queue.get_nowait()
            except queue.Empty:
                return operations, True
        return operations, False

    def _transact(self, connection: sqlite3.Connection, operations: list[_Operation]) -> None:
        """Write all in one transaction; if that fails, each in its own, so that none suffers from another."""
        try:
            self._begin(connection, durable=any(operation.durable for operation in operations))
        except sqlite3.Error as error:  # somebody else holds the file: waiting again for each would take for ever
            for operation in operations:
                operation.error = StoreError(f"the store cannot be written: {error}")
            return
        try:
            for operation in operations:
                operation.outcome = operation.function(connection)
                if isinstance(operation.outcome, sqlite3.Cursor):
                    # Freed in the caller's thread, it would reset a statement that this thread is using.
                    raise TypeError("an operation must not return its cursor")
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  it is raised where it was asked for
            if connection.in_transaction:  # a full disk has ended it
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if len(operations) > 1:
                for operation in operations:
                    self._transact(connection, [operation])
            elif isinstance(error, sqlite3.Error):
                operations[0].error = StoreError(f"the store cannot be written: {error}")
            else:
                operations[0].error = error

    def _begin(self, connection: sqlite3.Connection, *, durable: bool) -> None:
        level = "FULL" if durable else "NORMAL"
        if level != self._level:
            connection.execute(f"PRAGMA synchronous={level}")
            self._level = level
        connection.execute("BEGIN IMMEDIATE")


def _is_full(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _resolve(operations: list[_Operation]) -> None:
    for operation in operations:
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.outcome)

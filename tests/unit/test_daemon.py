"""The start of the daemon, where it does not go as it should."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from bridge import daemon
from bridge.jobs.database import Database
from bridge.jobs.store import Store


async def test_a_store_whose_disk_is_full_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connect, tries = Database._connect, 0

    def full_at_first(database: Database) -> sqlite3.Connection:
        nonlocal tries
        tries += 1
        if tries > 2:
            return connect(database)
        error: Any = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(Database, "_connect", full_at_first)
    monkeypatch.setattr(daemon, "_FULL_PAUSE", 0.0)
    async with daemon._opened(Store(f"sqlite:///{tmp_path / 'bridge.db'}", keep=1000.0)) as store:
        await store.set_fact("x", 1)
    assert tries == 3
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "disk is full" in caplog.text

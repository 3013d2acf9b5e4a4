"""The folder of the workflows is watched."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge import watching
from bridge.watching import fingerprint, watch_folder
from tests.support.brokers import until


@contextlib.asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[list[Any]]:
    """The fingerprints at each call."""
    seen: list[Any] = []

    async def changed() -> None:
        seen.append(fingerprint(folder))

    task = asyncio.create_task(watch_folder(folder, changed))
    try:
        await until(lambda: seen or task.done(), 10)
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def names(state: Any) -> set[str]:
    return set() if state is None else {Path(one[0]).name for one in state}


async def test_files_that_come_change_and_go(tmp_path: Path) -> None:
    async with watched(tmp_path) as seen:
        assert len(seen) == 1
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a.json").write_text("{}", encoding="utf-8")
        await until(lambda: names(seen[-1]) == {"a.json"}, 10)
        before = seen[-1]
        (tmp_path / "sub" / "a.json").write_text("{ }", encoding="utf-8")
        await until(lambda: seen[-1] != before, 10)
        (tmp_path / "b.toml").write_text("", encoding="utf-8")
        (tmp_path / "c.py").write_text("", encoding="utf-8")
        await until(lambda: names(seen[-1]) == {"a.json", "b.toml", "c.py"}, 10)
        shutil.rmtree(tmp_path / "sub")
        await until(lambda: names(seen[-1]) == {"b.toml", "c.py"}, 10)
        calls = len(seen)
        for name in ("notes.txt", ".hidden.json", "_helper.py"):
            (tmp_path / name).write_text("x", encoding="utf-8")
        (tmp_path / "last.json").write_text("{}", encoding="utf-8")
        await until(lambda: "last.json" in names(seen[-1]), 10)
        assert len(seen) == calls + 1


async def test_a_folder_that_comes_later_goes_and_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    async with watched(folder) as seen:
        assert seen == [None]
        folder.mkdir()
        (folder / "a.json").write_text("{}", encoding="utf-8")
        await until(lambda: names(seen[-1]) == {"a.json"}, 10)
        folder.rename(tmp_path / "away")
        await until(lambda: seen[-1] is None, 10)
        other = tmp_path / "other"
        other.mkdir()
        (other / "b.json").write_text("{}", encoding="utf-8")
        other.rename(folder)
        await until(lambda: names(seen[-1]) == {"b.json"}, 10)
        (folder / "c.json").write_text("{}", encoding="utf-8")
        await until(lambda: names(seen[-1]) == {"b.json", "c.json"}, 10)


async def test_where_the_system_tells_nothing_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_: Any, rust_timeout: int, **__: Any) -> AsyncIterator[set[Any]]:
        while True:
            await asyncio.sleep(rust_timeout / 1000)
            yield set()

    monkeypatch.setattr(watching, "awatch", silent)
    async with watched(tmp_path) as seen:
        (tmp_path / "a.json").write_text("{}", encoding="utf-8")
        await until(lambda: names(seen[-1]) == {"a.json"}, 10)


async def test_where_it_cannot_be_watched_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refusing(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        yield set()
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watching, "awatch", refusing)
    with caplog.at_level(logging.WARNING):
        async with watched(tmp_path) as seen:
            (tmp_path / "a.json").write_text("{}", encoding="utf-8")
            await until(lambda: names(seen[-1]) == {"a.json"}, 10)
    assert "watch limit" in caplog.text

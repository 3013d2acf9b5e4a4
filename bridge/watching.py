"""Watching the folder of the workflows."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from watchfiles import awatch

from bridge.library import is_workflow_file

logger = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds between two looks of our own: of network drives and some containers the system tells nothing."""
_LOOKING = 0.02
"""The most of the time that such looks may take, where the folder is large or slow."""
_QUIET = 0.1
"""Seconds without a change before one counts: editors and copies write in several steps."""
_LONGEST_NOISE = 0.4

Fingerprint: TypeAlias = frozenset[tuple[str, int, int, int]]


async def watch_folder(folder: Path, changed: Callable[[], Awaitable[object]]) -> None:
    """Call `changed` at the start and each time that a file of a workflow came, changed or went; until cancelled.

    At once where the system tells of changes, else within about a second. The folder may come later, go, and be
    replaced by another.
    """
    look = _Look(folder, changed)
    told = True
    while True:
        identity = await look()
        if identity is None or not told:
            await asyncio.sleep(look.pause)
            continue
        try:
            async for _ in awatch(
                folder,
                watch_filter=None,
                debounce=int(_LONGEST_NOISE * 1000),
                step=int(_QUIET * 1000),
                rust_timeout=int(look.pause * 1000),
                yield_on_timeout=True,
                ignore_permission_denied=True,
            ):
                if await look() != identity:
                    break  # another folder is there, or none
        except (OSError, RuntimeError) as error:
            if await asyncio.to_thread(_identity, folder) == identity:
                told = False
                logger.warning("%s cannot be watched (%s): it is looked at every %g s", folder, error, look.pause)


class _Look:
    """A look at the folder, which calls `changed` when it is not as it was; returns which folder it is."""

    def __init__(self, folder: Path, changed: Callable[[], Awaitable[object]]) -> None:
        self.pause = _LOOK_EVERY
        self._folder = folder
        self._changed = changed
        self._seen: Fingerprint | None = frozenset({("", 0, 0, 0)})

    async def __call__(self) -> tuple[int, int] | None:
        began = time.perf_counter()
        identity, now = await asyncio.to_thread(lambda: (_identity(self._folder), fingerprint(self._folder)))
        self.pause = max(_LOOK_EVERY, (time.perf_counter() - began) / _LOOKING)
        if now != self._seen:
            self._seen = now
            await self._changed()
        return identity


def fingerprint(folder: Path) -> Fingerprint | None:
    """What tells one state of the files of workflows from another, without reading them; None without a folder."""
    found: set[tuple[str, int, int, int]] = set()
    if _identity(folder) is None:
        return None
    for where, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        for file in files:
            if is_workflow_file(file):
                path = os.path.join(where, file)  # noqa: PTH118  many files, twice a second
                try:
                    stat = os.stat(path)  # noqa: PTH116
                except OSError:
                    found.add((path, -1, -1, -1))
                else:
                    found.add((path, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return frozenset(found)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino) if folder.is_dir() else None

"""Locks on files, against a second process that would take the same thing for its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def take_lock(path: Path) -> IO[bytes] | None:
    """Hold a lock until the file is closed or the process ends, however it ends; None if another holds it.

    Raises OSError if the file cannot be made.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        _lock(file)
    except OSError:
        file.close()
        return None
    return file

"""The three folders of a ComfyUI (input, output, temp): safe paths, names with counters, uploads."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from bridge.testing.drawing import example_image

KINDS = ("output", "input", "temp")
EXAMPLE = "example.png"
"""The picture that ComfyUI ships in its input folder."""


class Escape(Exception):
    """A path that would leave its folder."""


class Folders:
    """The files of one server below `root`; `create` makes the folders and empties temp."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._next: dict[Path, int] = {}

    def create(self) -> None:
        """Make the folders; temp is emptied, as the real server does at start-up."""
        for kind in KINDS:
            (self.root / kind).mkdir(parents=True, exist_ok=True)
        example = self.root / "input" / EXAMPLE
        if not example.exists():
            example.write_bytes(example_image())
        for left in (self.root / "temp").iterdir():
            if left.is_file():
                left.unlink()

    def kind(self, name: str | None) -> Path | None:
        """The folder for a `type` value; None if there is no such type."""
        return self.root / name if name in KINDS else None

    @staticmethod
    def within(folder: Path, *parts: str) -> Path:
        """The path below `folder`; raises Escape if the parts lead out of it."""
        path = os.path.abspath(os.path.join(folder, *parts))  # noqa: PTH100, PTH118 - no symlink resolving wanted
        base = os.path.abspath(folder)  # noqa: PTH100
        if path != base and not path.startswith(base + os.sep):
            raise Escape(path)
        return Path(path)

    def annotated(self, name: str) -> tuple[str, Path | None]:
        """Split the notation "name [input]" into the name and its folder."""
        for kind in KINDS:
            if name.endswith(f"[{kind}]"):
                return name[: -len(kind) - 3], self.root / kind
        return name, None

    def load_path(self, name: str) -> Path:
        """The path that LoadImage would open for `name`; raises Escape."""
        plain, folder = self.annotated(name)
        return self.within(folder or self.root / "input", plain)

    def input_names(self) -> list[str]:
        """The files that LoadImage offers."""
        return sorted(path.name for path in (self.root / "input").iterdir() if path.is_file())

    def reserve(self, kind: str, prefix: str, width: int, height: int) -> tuple[Path, str, str, int]:
        """The folder, name, subfolder and first free counter for files with `prefix`.

        Raises Escape when the prefix leads out of the folder.
        """
        now = time.localtime()
        for key, value in {
            "%width%": str(width),
            "%height%": str(height),
            "%year%": str(now.tm_year),
            "%month%": f"{now.tm_mon:02d}",
            "%day%": f"{now.tm_mday:02d}",
            "%hour%": f"{now.tm_hour:02d}",
            "%minute%": f"{now.tm_min:02d}",
            "%second%": f"{now.tm_sec:02d}",
        }.items():
            prefix = prefix.replace(key, value)
        normal = os.path.normpath(prefix)
        subfolder, name = os.path.split(normal)
        folder = self.within(self.root / kind, subfolder)
        subfolder = subfolder.replace(os.sep, "/")
        counter = self._next.get(folder / name)
        if counter is None:
            folder.mkdir(parents=True, exist_ok=True)
            counter = 1 + max(self._counters(folder, name), default=0)
        return folder, name, subfolder, counter

    def used(self, folder: Path, name: str, counter: int) -> None:
        """Remember that `counter` and all below it are taken."""
        self._next[folder / name] = counter + 1

    @staticmethod
    def _counters(folder: Path, name: str) -> list[int]:
        pattern = re.compile(re.escape(name) + r"_(\d+)(?:_|\.|$)", re.IGNORECASE)
        return [int(match[1]) for path in folder.iterdir() if (match := pattern.match(path.name))]

    def store(
        self,
        folder: Path,
        subfolder: str,
        filename: str,
        data: bytes,
        *,
        overwrite: bool,
        write: Callable[[Path], None],
    ) -> str:
        """Keep an upload and give back the name it got; raises Escape or OSError.

        The same name with the same bytes is not written again, with other bytes it becomes "name (1).ext".
        """
        target = self.within(folder, os.path.normpath(subfolder), filename)
        self.within(folder, os.path.normpath(subfolder)).mkdir(parents=True, exist_ok=True)
        stem, suffix = os.path.splitext(filename)  # noqa: PTH122 - the name may hold slashes, which must stay
        digest = hashlib.sha256(data).digest()
        number = 1
        while not overwrite and target.exists():
            if hashlib.sha256(target.read_bytes()).digest() == digest:
                return filename
            filename = f"{stem} ({number}){suffix}"
            target = self.within(folder, os.path.normpath(subfolder), filename)
            number += 1
        write(target)
        return filename

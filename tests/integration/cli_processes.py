"""`comfy-bridge` as a process of its own, as a person starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Cli:
    """A running command; its output is read as it comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""
        self.err = ""
        self._news = asyncio.Event()
        self._readers = [asyncio.create_task(self._read("out")), asyncio.create_task(self._read("err"))]
        for reader in self._readers:
            reader.add_done_callback(lambda _: self._news.set())

    async def _read(self, name: str) -> None:
        stream = self.process.stdout if name == "out" else self.process.stderr
        assert stream
        while line := await stream.readline():
            setattr(self, name, getattr(self, name) + line.decode())
            self._news.set()

    async def says(self, words: str, *, within: float = PATIENCE) -> None:
        """Wait until the words were written to standard output or standard error."""
        try:
            async with asyncio.timeout(within):
                while words not in self.out + self.err and not all(reader.done() for reader in self._readers):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        assert words in self.out + self.err, f"{words!r} was not said; out: {self.out} err: {self.err}"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self, *, within: float = PATIENCE) -> Done:
        try:
            async with asyncio.timeout(within):
                code = await self.process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            raise AssertionError(f"it did not end; out: {self.out} err: {self.err}") from None
        assert "Traceback" not in self.err, self.err
        assert "Traceback" not in self.out, self.out
        return Done(code, self.out, self.err)


# Many bridges run on one machine here; a test that means their ports names free ones.
_NO_HTTP = {"BRIDGE_HTTP__PORT": "0", "BRIDGE_RELAY__PORT": "0"}


@contextlib.asynccontextmanager
async def started(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[Cli]:
    """Run it in a folder that is there, without the settings of this environment; gone afterwards."""
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("BRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", *arguments),
        cwd=folder,
        env={**clean, **_NO_HTTP, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    cli = Cli(process)
    try:
        yield cli
    finally:
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            # Not killed if it can be helped: a demo would leave its broker behind.
            process.terminate()
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def run(folder: Path, *arguments: str, **environment: str) -> Done:
    """Run it to its end."""
    async with started(folder, *arguments, **environment) as cli:
        return await cli.ends()

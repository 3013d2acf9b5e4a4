"""The stand-in ComfyUI of the demo, in a process of its own.

`python -m bridge.cli.standin ARGUMENTS` is `python -m bridge.testing ARGUMENTS` that ends with its standard input: so
it goes when the demo goes, even when the demo is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bridge.cli.terminal import Failure

_START = 20.0
_STOP = 2.0


@asynccontextmanager
async def standin(data: Path, *, step_delay: float) -> AsyncIterator[str]:
    """Run the stand-in within the block; gives its address. Raises Failure."""
    arguments = ("--port", "0", "--step-delay", str(step_delay), "--data", str(data))
    process = subprocess.Popen(  # noqa: ASYNC220, S603 - it returns at once; asyncio's own needs another loop on Windows
        [sys.executable, "-m", "bridge.cli.standin", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        # Ctrl-C is for the demo, which interrupts nothing that still has to be told.
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        yield await _address(process)
    finally:
        await asyncio.shield(asyncio.to_thread(_stop, process))


async def _address(process: subprocess.Popen[str]) -> str:
    output, errors = process.stdout, process.stderr
    if output is None or errors is None:
        raise Failure("the stand-in ComfyUI has no output")
    try:
        async with asyncio.timeout(_START):
            line = await _in_thread(output.readline)
    except TimeoutError:
        raise Failure(f"the stand-in ComfyUI did not start within {_START:g} s") from None
    found = re.search(r"http://\S+", line)
    if found is None:
        said = (await _in_thread(errors.read)).strip().rpartition("\n")[2]
        raise Failure(f"the stand-in ComfyUI does not start: {said or line.strip() or 'it says nothing'}")
    # It writes next to nothing; what it writes must not fill the pipe.
    threading.Thread(target=errors.read, name="stand-in errors", daemon=True).start()
    return found[0]


async def _in_thread(read: Callable[[], str]) -> str:
    """Read in a thread of its own: one of the pool would keep the process from ending when we are cancelled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()

    def done(text: str) -> None:
        if not future.done():
            future.set_result(text)

    def work() -> None:
        text = read()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done, text)

    threading.Thread(target=work, name="stand-in", daemon=True).start()
    return await future


def _stop(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_with_input() -> None:
    # Not sys.stdin: its lock would be in the way of an end for another reason.
    while os.read(0, 1024):
        pass
    os._exit(0)


def main() -> int:
    """Be the stand-in."""
    from bridge.testing.__main__ import main as serve  # noqa: PLC0415 - only the child needs a web server

    threading.Thread(target=_end_with_input, name="end", daemon=True).start()
    return serve()


if __name__ == "__main__":
    sys.exit(main())

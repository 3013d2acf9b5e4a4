"""ComfyUI as a child of the bridge (`comfyui.command`): started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from bridge.command_line import split
from bridge.errors import SettingsError

logger = logging.getLogger(__name__)

_WATCH = 0.25
_STOP = 15.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_LIVED = 120.0
"""Seconds after which a process counts as one that works, and the pauses start anew."""


class ComfyProcess:
    """Runs a command while `run` runs.

    name: the backend's. answers: tells whether something answers at its address.

    A ComfyUI that answers already, such as one that an earlier bridge left when it was killed, is used as it is;
    the command is run once it answers no more.
    """

    def __init__(self, name: str, command: str, answers: Callable[[], Awaitable[bool]]) -> None:
        self._name = name
        self._command = command
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    async def run(self) -> NoReturn:
        """Keep it running until cancelled, which stops it. Raises SettingsError if the command cannot be run."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        try:
            while True:
                while self._process is None and await self._answers():  # noqa: ASYNC110  nobody would set an event
                    await asyncio.sleep(_FIRST_PAUSE)
                began = loop.time()
                self._process = self._start()
                while self._process.poll() is None:  # noqa: ASYNC110  works on every system and loop
                    await asyncio.sleep(_WATCH)
                code, self._process = self._process.returncode, None
                if loop.time() - began > _LIVED:
                    pause = _FIRST_PAUSE
                logger.error("ComfyUI %s ended with code %s; it is started again in %g s", self._name, code, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            process, self._process = self._process, None
            if process is not None:
                await asyncio.shield(asyncio.to_thread(_stop, process))

    async def restart(self) -> bool:
        """End a process that is stuck; `run` starts the next one. False if it is not a child of ours."""
        if self._process is None:
            return False
        await asyncio.to_thread(_stop, self._process)
        return True

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = split(self._command, setting="comfyui.command")
        logger.info("starting ComfyUI %s: %s", self._name, arguments[0])  # the rest may hold a secret
        try:
            return subprocess.Popen(  # noqa: S603  the command is the user's
                arguments,
                stdin=subprocess.DEVNULL,
                # A session of its own: Ctrl-C must reach the bridge first, which then stops it.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except (OSError, ValueError) as error:
            raise SettingsError(f"comfyui.command cannot be run: {error}") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it, and what it has started: the shell of a script does not pass a signal on."""
    _send(process, "SIGTERM")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP)
    _send(process, "SIGKILL")
    process.wait()


def _send(process: subprocess.Popen[bytes], name: str) -> None:
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, signal.Signals[name])

"""The command line, `comfy-bridge`.

This module and `arguments` import next to nothing, so that `--help` and `--version` answer at once; what a command
needs is imported with its module. Exit codes: 0, 1 failed, 2 wrong usage or settings, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from bridge.cli.arguments import Options, parse
from bridge.cli.terminal import Failure, complain
from bridge.errors import BridgeError, SettingsError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the one of the process) and return the exit code; exits by itself on wrong usage.

    The module `bridge.cli.<command>` has a function `main(options)`, which returns the exit code and may raise
    BridgeError or Failure: their sentence is shown.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something else, in tests for instance
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console may lack letters
    options = parse(arguments)
    try:
        return _command(options)(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); the interpreter would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Failure, BridgeError) as error:
        return _failed(error)
    except BaseExceptionGroup as group:
        told = next((error for error in _leaves(group) if isinstance(error, Failure | BridgeError)), None)
        if told is None:
            raise
        return _failed(told)


def _command(options: Options) -> Callable[[Options], int]:
    command: Callable[[Options], int] = importlib.import_module(f"bridge.cli.{options.command}").main
    return command


def _failed(error: Failure | BridgeError) -> int:
    complain(f"comfy-bridge: {error}")
    return 2 if isinstance(error, SettingsError) else 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error

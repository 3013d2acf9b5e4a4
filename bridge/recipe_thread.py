"""The code of recipes, in a thread of its own with a time limit."""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bridge.errors import BridgeError, RecipeError

T = TypeVar("T")


def finished(path: str, made: Any, limit: float) -> Any:
    """What a function has made, waited for if that is a coroutine; for the thread, which has no loop."""
    return asyncio.run(_limited(path, made, limit)) if inspect.isawaitable(made) else made


async def _limited(path: str, awaitable: Any, limit: float) -> Any:
    try:
        async with asyncio.timeout(limit) as scope:
            return await awaitable
    except TimeoutError:
        if scope.expired():
            raise _too_slow(path, limit) from None
        raise


async def in_thread(path: str, work: Callable[[], T], limit: float) -> T:
    """Run the code of a recipe in a thread of its own, which is given up when the limit (seconds) is over.

    Raises BridgeErrors of the work as they are, anything else as a `RecipeError`.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only where T is

    def run() -> None:
        result, error = _caught(path, work)
        try:
            loop.call_soon_threadsafe(finish, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits

    thread = threading.Thread(target=run, name=f"recipe {path}", daemon=True)
    thread.start()
    try:
        # The work's own limit, for a coroutine, comes first.
        return await asyncio.wait_for(done, limit + 0.5)
    except TimeoutError:
        _give_up(thread)
        raise _too_slow(path, limit) from None


def in_thread_blocking(path: str, work: Callable[[], T], limit: float) -> T:
    """As `in_thread`, for a thread that may wait."""
    found: list[tuple[T | None, BridgeError | None]] = []
    thread = threading.Thread(target=lambda: found.append(_caught(path, work)), name=f"recipe {path}", daemon=True)
    thread.start()
    thread.join(limit)
    if not found:
        _give_up(thread)
        raise _too_slow(path, limit)
    result, error = found[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where T is


def _give_up(thread: threading.Thread) -> None:
    """End the Python code of a thread, so that an endless loop takes no time from the rest for ever.

    One that waits inside a function in C ends when that returns.
    """
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def _caught(path: str, work: Callable[[], T]) -> tuple[T | None, BridgeError | None]:
    try:
        return work(), None
    except BridgeError as error:
        return None, error
    except BaseException as error:  # noqa: BLE001  sys.exit() in a recipe must not end anything
        return None, _failure(path, error)


def _too_slow(path: str, limit: float) -> RecipeError:
    return RecipeError(f"{path} was not done within {limit:g} s; a recipe builds a graph and does no work itself.")


def _failure(path: str, error: BaseException) -> RecipeError:
    """What the code of a recipe raised, in one sentence with its line."""
    file = Path(path).name
    line = error.lineno if isinstance(error, SyntaxError) else None
    try:
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).name == file:
                line = frame.lineno
        words = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:  # noqa: BLE001  an exception of a recipe may fail to describe itself
        words = ""
    words = " ".join(words.encode("utf-8", "replace").decode("utf-8").split())
    kind = type(error).__name__
    at = f"{path}, line {line}" if line is not None else path
    details: dict[str, Any] = {"file": path, "exception": kind}
    if line is not None:
        details["line"] = line
    return RecipeError(f"{at}: {kind}{f': {words[:500]}' if words else ''}", details=details)

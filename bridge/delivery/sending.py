"""Bytes sent to an address, again where that may help."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import stamina

from bridge.errors import BackendOffline, BadValue, BridgeError, NotAllowed
from bridge.media.guard import Guard

_LATER = frozenset({408, 425, 429})
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")
"""Why S3 did not take something, such as NoSuchBucket."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often something is tried. Pauses are seconds; each is twice the one before, up to `longest`."""

    attempts: int
    pause: float = 1.0
    longest: float = 60.0


async def persist(send_once: Callable[[], Awaitable[None]], patience: Patience) -> None:
    """Send until it is taken.

    Raises what `send_once` raises: BackendOffline, after the last attempt, says how many there were.
    """
    retries = stamina.retry_context(
        on=BackendOffline,
        attempts=patience.attempts,
        timeout=None,
        wait_initial=patience.pause,
        wait_max=patience.longest,
        wait_jitter=patience.pause / 2,
    )
    try:
        async for attempt in retries:
            with attempt:
                await send_once()
    except BackendOffline as error:
        raise BackendOffline(f"{error.message}, {patience.attempts} times") from None


async def send(
    guard: Guard, method: str, address: str, data: bytes, *, headers: Mapping[str, str], time_limit: float
) -> None:
    """Send bytes once; time_limit: seconds.

    Raises BackendOffline where it may help to send them again (nobody answers, or 408, 425, 429, 5xx), and BadValue
    and NotAllowed where it does not.
    """
    try:
        status, begins = await guard.send(method, address, data, headers=headers, time_limit=time_limit)
    except (BadValue, NotAllowed):
        raise
    except BridgeError as error:
        raise BackendOffline(error.message) from None
    if 200 <= status < 300:
        return
    code = _CODE.search(begins)
    words = f"the address answered {status}" + (f" {code[1].decode()}" if code else "")
    raise BackendOffline(words) if status >= 500 or status in _LATER else BadValue(words)

"""Bytes sent to an address, again where that may help."""

from __future__ import annotations

from collections.abc import Mapping

import stamina

from bridge.errors import BackendOffline, BadValue, BridgeError, NotAllowed
from bridge.media.guard import Guard

_LATER = frozenset({408, 425, 429})


class _AgainError(Exception):
    """The address may take it later."""


async def send(
    guard: Guard,
    method: str,
    address: str,
    data: bytes,
    *,
    headers: Mapping[str, str],
    time_limit: float,
    attempts: int,
    pause: float,
) -> None:
    """Send bytes until they are taken: again, after growing pauses, if nobody answers, or 408, 425, 429 or 5xx.

    time_limit: seconds for one attempt; pause: seconds before the second one.
    Raises BadValue (no address, or refused), NotAllowed, and BackendOffline after the last attempt.
    """
    retries = stamina.retry_context(
        on=_AgainError, attempts=attempts, timeout=None, wait_initial=pause, wait_jitter=pause / 2
    )
    try:
        async for attempt in retries:
            with attempt:
                await _try(guard, method, address, data, headers, time_limit)
    except _AgainError as error:
        raise BackendOffline(f"{error}, {attempts} times") from None


async def _try(
    guard: Guard, method: str, address: str, data: bytes, headers: Mapping[str, str], time_limit: float
) -> None:
    try:
        status = await guard.send(method, address, data, headers=headers, time_limit=time_limit)
    except (BadValue, NotAllowed):
        raise
    except BridgeError as error:
        raise _AgainError(error.message) from None
    if status >= 500 or status in _LATER:
        raise _AgainError(f"the address answered {status}")
    if not 200 <= status < 300:
        raise BadValue(f"the address answered {status}")

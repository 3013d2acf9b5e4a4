"""Webhooks: a result, sent to an address with a signature."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from pydantic import SecretStr

from bridge.delivery.sending import Patience, persist, send
from bridge.errors import BridgeError
from bridge.media.guard import Guard

logger = logging.getLogger(__name__)

SIGNATURE = "X-Webhook-Signature"
PATIENCE = Patience(attempts=16, longest=3600.0)
"""The sixteenth attempt comes some four hours after the first."""
_AT_ONCE = 4
"""Webhooks under way to one host: each holds a result, perhaps with pictures in it."""


class Webhooks:
    """Sends webhooks. A host that is slow holds up its own only."""

    def __init__(self, guard: Guard, *, patience: Patience = PATIENCE) -> None:
        self._guard = guard
        self._patience = patience
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def send(
        self,
        address: str,
        make: Callable[[], Awaitable[bytes]],
        *,
        secret: SecretStr | None,
        time_limit: float = 30.0,
        within: float | None = None,
    ) -> bool:
        """POST a JSON body until it is taken, and tell whether it was.

        make: makes the body for each attempt, so that none is held while it waits for the next one. time_limit:
        seconds for one attempt; within: seconds for all.
        """
        host = "/".join(address.split("/")[:3])
        turn = self._hosts.setdefault(host, asyncio.Semaphore(_AT_ONCE))

        async def post() -> None:
            async with turn:
                body = await make()
                headers = {"Content-Type": "application/json"}
                if secret is not None and secret.get_secret_value():
                    headers[SIGNATURE] = signature(secret, body)
                await send(self._guard, "POST", address, body, headers=headers, time_limit=time_limit)

        try:
            async with asyncio.timeout(within):
                await persist(post, self._patience)
        except BridgeError as error:
            logger.warning("a webhook was not taken: %s", error.message)
            return False
        except TimeoutError:
            logger.warning("a webhook was not taken: its time is over")
            return False
        return True


def signature(secret: SecretStr, body: bytes) -> str:
    """Return `sha256=<hex>`: the HMAC of just these bytes."""
    return "sha256=" + hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest()

"""Webhooks: a result, sent to an address with a signature."""

from __future__ import annotations

import hashlib
import hmac
import logging

from pydantic import SecretStr

from bridge.delivery.sending import send
from bridge.errors import BridgeError
from bridge.media.guard import Guard

logger = logging.getLogger(__name__)

ATTEMPTS = 4
SIGNATURE = "X-Webhook-Signature"


class Webhooks:
    """Sends webhooks. pause: seconds before the second attempt; it grows."""

    def __init__(self, guard: Guard, *, pause: float = 1.0) -> None:
        self._guard = guard
        self._pause = pause

    async def send(self, address: str, body: bytes, *, secret: SecretStr | None, time_limit: float = 30.0) -> bool:
        """POST a JSON body, up to four times, always the same bytes, and tell whether it was taken."""
        headers = {"Content-Type": "application/json"}
        if secret is not None and secret.get_secret_value():
            headers[SIGNATURE] = signature(secret, body)
        try:
            await send(
                self._guard,
                "POST",
                address,
                body,
                headers=headers,
                time_limit=time_limit,
                attempts=ATTEMPTS,
                pause=self._pause,
            )
        except BridgeError as error:
            logger.warning("a webhook was not taken: %s", error.message)
            return False
        return True


def signature(secret: SecretStr, body: bytes) -> str:
    """Return `sha256=<hex>`: the HMAC of just these bytes."""
    return "sha256=" + hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest()

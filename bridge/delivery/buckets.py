"""Outputs put into a bucket of S3 or of what speaks as it does.

The address is signed here and the bytes go through the guard: an endpoint that came with a request is an address from
outside like any other.
"""

from __future__ import annotations

import importlib.util
from datetime import timedelta
from typing import Any

from pydantic import SecretStr

from bridge.delivery.sending import Patience, persist, send
from bridge.errors import BadValue, Unsupported
from bridge.media.guard import Guard

_PUT = timedelta(minutes=15)
SHARED = timedelta(days=7)
"""How long the address of an output is good: as long as S3 allows."""
_PATIENCE = Patience(attempts=3)
_SLOWEST = 100_000
"""Bytes a second that an upload must do at least."""


def check_available() -> None:
    """Raise Unsupported without the extra `storage`."""
    if importlib.util.find_spec("obstore") is None:
        raise Unsupported("s3 needs the extra storage: pip install 'comfy-bridge[storage]'")


class Bucket:
    """A bucket; `check_available` first. time_limit: seconds to begin with, beside those that the bytes take."""

    def __init__(
        self,
        guard: Guard,
        *,
        name: str,
        key_id: str,
        secret: SecretStr,
        endpoint: str | None = None,
        region: str | None = None,
        time_limit: float = 60.0,
        patience: Patience = _PATIENCE,
    ) -> None:
        self._guard = guard
        self._name = name
        self._key_id = key_id
        self._secret = secret
        self._endpoint = endpoint
        self._region = region or "us-east-1"
        self._time_limit = time_limit
        self._patience = patience

    async def put(self, key: str, data: bytes, *, content_type: str) -> str:
        """Put bytes, and return an address that gives them to anybody for seven days.

        Raises BadValue (no such endpoint, or refused), NotAllowed, BackendOffline.
        """
        headers = {"Content-Type": content_type}
        time_limit = self._time_limit + len(data) / _SLOWEST

        async def put() -> None:
            await send(self._guard, "PUT", self._signed("PUT", key, _PUT), data, headers=headers, time_limit=time_limit)

        await persist(put, self._patience)
        return self._signed("GET", key, SHARED)

    def _signed(self, method: Any, key: str, good_for: timedelta) -> str:
        import obstore  # noqa: PLC0415  an extra
        from obstore.exceptions import BaseError  # noqa: PLC0415
        from obstore.store import S3Store  # noqa: PLC0415

        endpoint: dict[str, Any] = {} if self._endpoint is None else {"endpoint": self._endpoint}
        try:
            store = S3Store(
                self._name,
                access_key_id=self._key_id,
                secret_access_key=self._secret.get_secret_value(),
                region=self._region,
                virtual_hosted_style_request=False,
                client_options={"allow_http": True},
                **endpoint,
            )
            return obstore.sign(store, method, key, good_for)
        except (BaseError, ValueError) as error:
            raise BadValue(f"s3: nothing can be signed for the bucket {self._name[:100]!r}: {error}"[:300]) from None

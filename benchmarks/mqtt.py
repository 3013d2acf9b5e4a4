"""A small MQTT 3.1.1 client that costs as little as possible, so that what is measured is not the measuring client.

It knows what the benchmarks need: CONNECT, SUBSCRIBE, PUBLISH with QoS 0 and 1. Nothing is copied on the way in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_ROOM = 1 << 20
"""Free bytes behind what was received, at least."""
_PATIENCE = 10.0

OnMessage = Callable[[str, memoryview], None]
"""Gets topic and payload; the payload may only be looked at during the call."""


class Client(asyncio.BufferedProtocol):
    """One connection; `connected` makes it."""

    def __init__(self, on_message: OnMessage) -> None:
        self._on_message = on_message
        self._buffer = bytearray(2 * _ROOM)
        self._begin = self._end = 0
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bytes] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    async def open(self, name: str) -> None:
        """Log in with this client id."""
        self._send(0x10, b"\x00\x04MQTT\x04\x02\x00\x00" + _text(name))
        await self._accepted()

    async def subscribe(self, *filters: str, qos: int) -> None:
        """Subscribe and wait for the broker's answer."""
        self._answer = self._loop.create_future()
        self._send(0x82, b"\x00\x01" + b"".join(_text(one) + bytes([qos]) for one in filters))
        await self._accepted()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1."""
        self._send(0x32, _text(topic) + b"\x00\x02" + payload)

    def close(self) -> None:
        """Say goodbye."""
        self._send(0xE0, b"")
        self._transport.close()

    async def _accepted(self) -> None:
        codes = await asyncio.wait_for(self._answer, _PATIENCE)
        if max(codes) > 2:
            raise ConnectionRefusedError(f"the broker answered {codes.hex()}")

    def _send(self, head: int, body: bytes) -> None:
        packet, size = bytearray([head]), len(body)
        while size > 127:
            packet.append(size & 127 | 128)
            size >>= 7
        packet.append(size)
        self._transport.write(bytes(packet) + body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio."""
        if not self.lost.done():
            self.lost.set_result(None)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """See asyncio."""
        if len(self._buffer) - self._end < _ROOM:
            rest = self._buffer[self._begin : self._end]
            if self._begin == 0:  # a packet that is larger than the buffer
                self._buffer = bytearray(2 * len(self._buffer))
            self._buffer[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        self._end += nbytes
        with memoryview(self._buffer) as view:
            while self._take(view):
                pass
        if self._begin == self._end:
            self._begin = self._end = 0

    def _take(self, view: memoryview) -> bool:
        """Take one packet; False if it is not complete."""
        position, size, shift = self._begin + 1, 0, 0
        while True:
            if position >= self._end:
                return False
            byte = view[position]
            position += 1
            size |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if position + size > self._end:
            return False
        head, self._begin = view[self._begin], position + size
        self._packet(head, view[position : position + size])
        return True

    def _packet(self, head: int, body: memoryview) -> None:
        kind = head & 0xF0
        if kind == 0x30:
            start = 2 + int.from_bytes(body[:2], "big")
            topic = str(body[2:start], "utf-8")
            if head & 0x06:
                self._transport.write(b"\x40\x02" + body[start : start + 2])
                start += 2
            self._on_message(topic, body[start:])
        elif kind == 0x20:  # session present, return code
            self._answer.set_result(bytes(body[1:]))
        elif kind == 0x90:  # packet id, a code for each filter
            self._answer.set_result(bytes(body[2:]))


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


@asynccontextmanager
async def connected(port: int, name: str, on_message: OnMessage) -> AsyncIterator[Client]:
    """Connect to a broker on this machine."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(on_message), "127.0.0.1", port)
    try:
        await client.open(name)
        yield client
    finally:
        client.close()
        await client.lost

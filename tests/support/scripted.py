"""An MQTT server that does what brokers do when things are wrong: each packet gets the bytes that a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 12, 14
CONNACK_5 = b"\x20\x03\x00\x00\x00"
CONNACK_311 = b"\x20\x02\x00\x00"


@dataclass
class Packet:
    """What came: the packet type, its flags and everything after the length."""

    kind: int
    flags: int
    body: bytes
    connection: int
    """The number of the connection, from 0."""

    @property
    def level(self) -> int:
        """Of a CONNECT: 4 is MQTT 3.1.1, 5 is 5."""
        return self.body[6]

    @property
    def topic(self) -> str:
        """Of a PUBLISH."""
        return self.body[2 : 2 + int.from_bytes(self.body[:2])].decode()

    @property
    def identifier(self) -> bytes:
        """Of a PUBLISH with QoS 1, or a SUBSCRIBE."""
        start = 2 + int.from_bytes(self.body[:2]) if self.kind == PUBLISH else 0
        return self.body[start : start + 2]


Script = Callable[[Packet], bytes | None]
"""The answer to a packet; None closes the connection."""


@dataclass
class Scripted:
    """The running server, and every packet it got."""

    script: Script
    port: int = 0
    connections: int = 0
    packets: list[Packet] = field(default_factory=list)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def of(self, kind: int) -> list[Packet]:
        return [packet for packet in self.packets if packet.kind == kind]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        self.writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readexactly(1))[0]
                length = shift = 0
                while True:
                    byte = (await reader.readexactly(1))[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if not byte & 128:
                        break
                packet = Packet(head >> 4, head & 15, await reader.readexactly(length), number)
                self.packets.append(packet)
                answer = self.script(packet)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        self.writers.discard(writer)
        writer.close()


def obliging(packet: Packet) -> bytes:
    """A broker to which everything is right, for MQTT 5."""
    if packet.kind == CONNECT:
        return CONNACK_5
    if packet.kind == SUBSCRIBE:
        return b"\x90\x04" + packet.identifier + b"\x00\x02"
    if packet.kind == PUBLISH and packet.flags & 6:
        return b"\x40\x02" + packet.identifier
    return b"\xd0\x00" if packet.kind == PINGREQ else b""


def obliging_311(packet: Packet) -> bytes:
    """The same for MQTT 3.1.1."""
    if packet.kind == CONNECT:
        return CONNACK_311
    if packet.kind == SUBSCRIBE:
        return b"\x90\x03" + packet.identifier + b"\x02"
    return obliging(packet)


@contextlib.asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Scripted]:
    """A running `Scripted`."""
    made = Scripted(script)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=2**26)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for writer in list(made.writers):
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)

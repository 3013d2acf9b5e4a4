"""Non-blocking byte streams to a broker: TCP, TLS, and websockets over either.

paho-mqtt has sockets of its own, which block while they connect, and a websocket that loses packets when
the network takes only a part of one and masks byte by byte in Python. So paho is given these.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from bridge.mqtt.options import Address, ConnectionOptions
from bridge.mqtt.packets import Packets

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_GATHERS = hasattr(socket.socket, "sendmsg")  # not on Windows
_PIECES = 64
"""Written at once: a small message and a large one are two pieces each. IOV_MAX is 1024 on Linux and macOS."""
_CHUNK = 256 * 1024
"""Read at once, so that a large message does not hold up everything else."""

_UNSENT = 256 * 1024
"""What the kernel may hold beyond what is under way, where it says so: what waits there cannot be replaced."""


class Stream:
    """A connected socket with buffers before and behind it, in the shape that paho expects of a socket.

    `send` and `recv` never touch the socket: `flush` and `fill` do, when the event loop says that it is ready.
    `fill` and `flush` raise `OSError` (`ssl.SSLError` is one) when the connection is broken. What is received is
    cut into `packets`; those that are paho's are given back by `hand_over`, for it to `recv`.
    """

    def __init__(self, sock: socket.socket, websocket: ClientProtocol | None) -> None:
        self._sock = sock
        self._websocket = websocket
        self.packets = Packets()
        self._handed = b""
        self._position = 0
        self._out: deque[bytes | bytearray | memoryview] = deque()
        self.received_eof = False
        """Nothing more can be received."""
        self.closed_by_peer = False
        self.unsent = 0
        """Bytes accepted by `send` that the kernel has not taken."""

    @property
    def unread(self) -> bool:
        """Whether something was received that nobody has taken; the end of the stream counts."""
        return bool(self.packets) or self.received_eof

    def fileno(self) -> int:
        """The socket's file descriptor, -1 when closed."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - a socket's signature
        """Nothing: it never blocks."""

    def pending(self) -> int:
        """Bytes that were decrypted and not yet filled in, which the event loop cannot see."""
        return self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0

    def _confirm(self) -> None:
        """Have the system confirm at once what was received.

        mosquitto, unless told otherwise, holds small packets back until the one before is confirmed, which a system
        puts off by 40 ms: a window of unacknowledged messages then takes that long. Linux forgets it with each read.
        """
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def hand_over(self, packet: bytes) -> None:
        """Have `recv` give this packet."""
        self._handed, self._position = packet, 0

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes of the packet that was handed over; empty at the end of the stream.

        Raises `BlockingIOError` if there are none.
        """
        data = self._handed[self._position : self._position + size]
        self._position += len(data)
        if not data and not self.received_eof:
            raise BlockingIOError
        return data

    def send(self, *pieces: bytes | bytearray) -> int:
        """Take all of the data, to be written by `flush`; return its length."""
        size = sum(map(len, pieces))
        if self._websocket is None:
            self._out.extend(piece for piece in pieces if piece)
            self.unsent += size
        elif self._websocket.state is State.OPEN:
            self._websocket.send_binary(b"".join(pieces))
            self._collect()
        return size

    def fill(self) -> None:
        """Read what there is, up to a quarter of a megabyte."""
        size = 0
        while size < _CHUNK:
            try:
                data = self._sock.recv(_CHUNK)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            if not data:
                self.end()
                return
            size += len(data)
            self._receive(data)
            self._confirm()
            if len(data) < _CHUNK and not isinstance(self._sock, ssl.SSLSocket):
                return

    def flush(self) -> int:
        """Write what the kernel takes, up to a megabyte, and return how many bytes that was."""
        written = 0
        while self._out and written < 4 * _CHUNK:
            try:
                count = self._write()
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            written += count
            self._written(count)
        return written

    def end(self) -> None:
        """The peer closed: what was received can still be read, then the stream ends."""
        self.received_eof = self.closed_by_peer = True

    def close(self) -> None:
        """Close the socket at once; what was not written is lost."""
        self.received_eof = True
        self._out.clear()
        self.unsent = 0
        self._sock.close()

    def _write(self) -> int:
        """Write what comes first; large pieces are not copied where the system can gather them."""
        if _GATHERS and not isinstance(self._sock, ssl.SSLSocket):
            return self._sock.sendmsg(itertools.islice(self._out, _PIECES))
        pieces, size = [], 0
        while self._out and size < _CHUNK // 4:
            pieces.append(self._out.popleft())
            size += len(pieces[-1])
        # TLS wants the same bytes again when it could not write them.
        self._out.appendleft(b"".join(pieces) if len(pieces) > 1 else pieces[0])
        return self._sock.send(self._out[0])

    def _written(self, count: int) -> None:
        self.unsent -= count
        while count:
            first = self._out[0]
            if count < len(first):
                self._out[0] = memoryview(first)[count:]
                return
            count -= len(first)
            self._out.popleft()

    def _receive(self, data: bytes) -> None:
        if self._websocket is None:
            self.packets.feed(data)
            return
        self._websocket.receive_data(data)
        for event in self._websocket.events_received():
            if isinstance(event, Frame):
                if event.opcode in {Opcode.BINARY, Opcode.CONT} and event.data:
                    self.packets.feed(bytes(event.data))
                elif event.opcode is Opcode.CLOSE:
                    self.end()
        self._collect()
        if self._websocket.close_expected():
            self.end()

    def _collect(self) -> None:
        """Take over what the websocket wants to write: frames, pongs, the answer to a close."""
        if self._websocket is not None:
            for data in self._websocket.data_to_send():
                if data:
                    self._out.append(data)
                    self.unsent += len(data)


def tls_context(options: ConnectionOptions) -> ssl.SSLContext:
    """The TLS settings; reads the files (blocking). Raises `OSError` that names the setting and the file."""
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
    except OSError as error:
        raise OSError(f"mqtt.tls_ca ({options.tls_ca}) cannot be read: {_words(error)}") from error
    if options.tls_cert:
        try:
            # An encrypted key would ask for its password on the terminal: it gets an empty one and fails.
            context.load_cert_chain(options.tls_cert, options.tls_key, password="")
        except OSError as error:
            files = " and ".join(str(name) for name in (options.tls_cert, options.tls_key) if name)
            raise OSError(f"mqtt.tls_cert and mqtt.tls_key ({files}) cannot be used: {_words(error)}") from error
    return context


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "it holds no PEM certificate" if error.reason in {"NO_START_LINE", None} else str(error.reason)
    return error.strerror or str(error)


async def open_stream(address: Address, context: ssl.SSLContext | None) -> Stream:
    """Connect, with TLS and the websocket's handshake as the address says.

    Raises `OSError` with a sentence. It has no time limit of its own; cancelling it closes what it opened.
    """
    sock = await _connect(address)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        if context is not None:
            sock = await _shake_hands(sock, context, address)
        if not address.websocket:
            return Stream(sock, None)
        return await _upgrade(sock, address)
    except BaseException:
        sock.close()
        raise


async def _connect(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OSError(f"the name {address.host} is not known ({reason})") from None
    errors = []
    for index, (family, kind, protocol, _, target) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(0)
            # A host whose first address leads nowhere (IPv6 without a route) must not use up all the time.
            async with asyncio.timeout(3 if index < len(found) - 1 else None):
                await loop.sock_connect(sock, target)
        except OSError as error:  # TimeoutError is one
            sock.close()
            errors.append("no answer" if error.errno is None else os.strerror(error.errno).lower())
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise OSError("; ".join(dict.fromkeys(errors)))


async def _shake_hands(sock: socket.socket, context: ssl.SSLContext, address: Address) -> ssl.SSLSocket:
    secure = context.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                await _ready(secure, "read")
            except ssl.SSLWantWriteError:
                await _ready(secure, "write")
            else:
                return secure
    except ssl.SSLCertVerificationError as error:
        secure.close()
        raise OSError(
            f"the broker's certificate is not trusted ({error.verify_message}): mqtt.tls_ca must be the file "
            f"of the authority that signed it, and mqtt.url must have the name that stands in it"
        ) from error
    except ssl.SSLError as error:
        secure.close()
        if error.reason in {"WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "RECORD_LAYER_FAILURE"}:
            raise OSError(f"port {address.port} does not speak TLS ({error.reason})") from error
        raise OSError(f"TLS failed: {error.reason or error}") from error
    except ConnectionError as error:
        secure.close()
        raise OSError(f"port {address.port} does not speak TLS (it closed the connection)") from error
    except BaseException:
        secure.close()
        raise


async def _upgrade(sock: socket.socket, address: Address) -> Stream:
    protocol = ClientProtocol(parse_uri(str(address)), subprotocols=[Subprotocol("mqtt")], max_size=None)
    protocol.debug = False  # it would log frames, and the first holds the password
    protocol.send_request(protocol.connect())
    stream = Stream(sock, protocol)
    stream._collect()  # noqa: SLF001
    while protocol.state is State.CONNECTING:
        with contextlib.suppress(ConnectionError):
            stream.flush()
        if stream.unsent:
            await _ready(sock, "write")
            continue
        try:
            stream.fill()
        except ConnectionError:
            stream.end()
        if stream.unread and protocol.state is State.CONNECTING:
            protocol.receive_eof()
        if protocol.handshake_exc is not None:
            raise OSError(
                f"no websocket for MQTT at {address.path}: {protocol.handshake_exc}"
            ) from protocol.handshake_exc
        if protocol.state is State.CONNECTING:
            await _ready(sock, "read")
    return stream


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _ready(sock: socket.socket, direction: str) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add: Callable[..., None] = loop.add_reader if direction == "read" else loop.add_writer
    remove: Callable[[socket.socket], bool] = loop.remove_reader if direction == "read" else loop.remove_writer
    add(sock, _resolve, ready)
    try:
        await ready
    finally:
        remove(sock)

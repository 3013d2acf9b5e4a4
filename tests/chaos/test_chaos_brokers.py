"""Brokers and subscribers that misbehave."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from pathlib import Path

from tests.chaos.house import house
from tests.chaos.processes import BridgeChild, Broker, Server, eventually
from tests.chaos.recorder import Recorder


def _subscribe_to_all(port: int) -> socket.socket:
    """An MQTT 3.1.1 client, by hand, that subscribes to everything and then never reads; its buffer is small."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    name = b"deaf"
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(name)) + name
    sock.sendall(b"\x10" + bytes([len(body)]) + body)
    body = b"\x00\x01\x00\x01#\x01"
    sock.sendall(b"\x82" + bytes([len(body)]) + body)
    return sock


async def test_a_subscriber_that_never_reads_holds_up_nobody(tmp_path: Path) -> None:
    async with house(tmp_path / "house", job_seconds=0.05, settings={"mqtt": {"keepalive": 30}}) as made:
        with _subscribe_to_all(made.broker.mqtt_port):
            for number in range(20):
                await made.queue(f"job{number}", {"workflow": "sampler"})
            await made.over(within=30.0)
            assert made.bridge.alive
            results = [note.document for note in made.recorder.notes if note.topic.endswith("/result")]
            assert [result["status"] for result in results] == ["completed"] * 20
        assert await made.bridge.stop() == 0


async def test_a_broker_that_accepts_and_never_answers(tmp_path: Path) -> None:
    """The bridge starts, takes care of what it has, ends when asked to; and is there once the broker is a real one."""
    folder = tmp_path / "house"
    folder.mkdir()
    deaf: list[asyncio.StreamWriter] = []
    ended: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        deaf.append(writer)

    async def is_up() -> bool:
        return bool(deaf) and (await comfy.stats())["sockets"] == 1

    broker, comfy = Broker(folder, "mosquitto"), Server(folder, "comfy")
    workflows = folder / "workflows"
    workflows.mkdir()
    bridge = BridgeChild(
        folder,
        {
            "comfyui": {"urls": [comfy.url]},
            "mqtt": {"url": broker.url},
            "workflows": {"dir": str(workflows)},
            "store": {"url": f"sqlite:///{folder / 'bridge.db'}"},
            "http": {"port": 0},
            "relay": {"port": 0},
        },
    )
    try:
        await comfy.start()
        async with await asyncio.start_server(accept, "127.0.0.1", broker.port):
            await bridge.start()
            await eventually(is_up, within=20.0, what="the bridge at the broker and at ComfyUI")
            began = time.monotonic()
            assert await bridge.stop() == 0, bridge.words()
            assert time.monotonic() - began < 15.0
            ended, deaf = deaf, []
            await bridge.start()
            await eventually(is_up, within=20.0, what="the bridge at the broker and at ComfyUI")
        for writer in (*ended, *deaf):
            writer.transport.abort()
            await asyncio.wait({asyncio.ensure_future(writer.wait_closed())})
        await broker.start()
        async with Recorder(broker.mqtt_port) as recorder:
            await recorder.online()
        assert await bridge.stop() == 0, bridge.words()
    finally:
        for child in (bridge, comfy, broker):
            child.close()

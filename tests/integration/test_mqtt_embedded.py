"""The embedded broker: nats-server and mosquitto as children, seen by mosquitto's clients and our connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import sysconfig
from pathlib import Path

import aiomqtt
import pytest

from bridge.errors import SettingsError, Unsupported
from bridge.mqtt import brokers
from bridge.mqtt.embedded import BrokerOptions, EmbeddedBroker, find_nats_server
from bridge.mqtt.outbox import Limits
from tests.support.bridge_side import peer, side, watching
from tests.support.brokers import MOSQUITTO, free_port, nats, until


async def pub(port: int, topic: str, *arguments: str, payload: bytes | None = None) -> None:
    """mosquitto_pub, with the payload from its standard input unless the arguments say something else."""
    words = ["-p", str(port), "-t", topic, *(["-s"] if payload is not None else []), *arguments]
    process = await asyncio.create_subprocess_exec("mosquitto_pub", *words, stdin=asyncio.subprocess.PIPE)
    await process.communicate(payload)
    assert process.returncode == 0


async def sub(port: int, *arguments: str) -> list[str]:
    """The lines of mosquitto_sub until it ends by itself."""
    process = await asyncio.create_subprocess_exec(
        "mosquitto_sub", "-p", str(port), *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode().splitlines()


async def retained(port: int, filters: str) -> list[str]:
    """What a new subscriber gets at once.

    nats-server reads what is retained when the first client of a start comes, who may be faster, and once in some
    hundred starts the second one too: whoever asks again gets it.
    """
    for _ in range(10):
        found = await sub(port, "-t", filters, "-C", "1", "-W", "1")
        if found:
            return found
    return []


@pytest.fixture(params=[None, "mosquitto"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> BrokerOptions:
    """nats-server and mosquitto."""
    return BrokerOptions(tmp_path / "a broker", free_port(), command=request.param)


async def test_retained_messages_are_there_for_late_comers_by_wildcards(options: BrokerOptions) -> None:
    async with EmbeddedBroker(options):
        await pub(options.port, "comfyui/bridge/state", "-r", "-q", "1", "-m", "online")
        await pub(options.port, "comfyui/workflow/fox.v1/values", "-r", "-m", "{}")
        await pub(options.port, "other/x", "-r", "-m", "no")
        assert sorted(await sub(options.port, "-v", "-t", "comfyui/#", "-C", "2", "-W", "5")) == [
            "comfyui/bridge/state online",
            "comfyui/workflow/fox.v1/values {}",
        ]
        assert await sub(options.port, "-t", "comfyui/+/state", "-C", "1", "-W", "5") == ["online"]


async def test_the_will_of_a_client_that_dies_is_published(options: BrokerOptions) -> None:
    async with EmbeddedBroker(options) as broker, watching(options.port, "bridge/state", protocol="3.1.1") as watcher:
        async with side(broker.url) as bridge:
            await until(lambda: watcher.payloads("bridge/state") == [b"online"])
            await bridge.cancel()
        await until(lambda: watcher.payloads("bridge/state") == [b"online", b"offline"])


async def test_twenty_megabytes_go_both_ways(options: BrokerOptions) -> None:
    large = bytes(range(256)) * 80_000
    async with (
        EmbeddedBroker(options) as broker,
        side(broker.url) as bridge,
        watching(options.port, "out/#", protocol="3.1.1") as watcher,
    ):
        bridge.keep("out/large", large, retain=True)
        assert await bridge.connection.drain(20)
        await until(lambda: watcher.messages)
        assert watcher.payloads("out/large") == [large]
        await pub(options.port, "in/large", "-q", "1", payload=large)
        await until(lambda: bridge.received)
        assert bridge.received[0].payload == large
        async with watching(options.port, "out/#", protocol="3.1.1") as late:
            await until(lambda: late.messages)
            assert late.payloads("out/large") == [large]


async def test_a_broker_without_mqtt_5_is_spoken_to_in_311(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with nats(tmp_path) as broker, side(broker.url) as bridge:
        assert bridge.connection.protocol == "3.1.1"
        assert "does not speak MQTT 5: using MQTT 3.1.1" in caplog.text
        assert "WARNING" not in caplog.text


async def test_a_message_that_the_broker_does_not_take_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """nats-server takes at most 64 MB, and closes the connection at more."""
    # Within the bound of what is kept: else it might be dropped for that, while it waits for a new connection.
    limits = Limits(keep_bytes=2**27)
    async with nats(tmp_path) as broker, side(broker.url, limits=limits) as bridge:
        bridge.keep("out/huge", bytes(65 * 2**20))
        bridge.keep("out/after", b"after")
        assert await bridge.connection.drain(20)
        assert bridge.acknowledged == [b"after"]
        assert "gave up a message of 68157440 bytes on out/huge" in caplog.text


async def test_sessions_and_retained_messages_outlive_a_kill(tmp_path: Path) -> None:
    """nats-server is killed; what was acknowledged is there when `run` has started it again."""
    async with EmbeddedBroker(BrokerOptions(tmp_path, free_port())) as broker:
        port = int(broker.url.rpartition(":")[2])
        supervisor = asyncio.create_task(broker.run())
        await sub(port, "-t", "in/#", "-q", "1", "-c", "-i", "sleeper", "-E")
        async with side(broker.url) as bridge:
            bridge.keep("kept/state", b"retained", retain=True)
            for number in range(20):
                bridge.keep("in/n", str(number).encode())
            assert await bridge.connection.drain(10)
            first = broker.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda: broker.pid not in {None, first})
            bridge.keep("in/n", b"20")
            assert await bridge.connection.drain(20)
        received = await sub(port, "-t", "in/#", "-q", "1", "-c", "-i", "sleeper", "-C", "21", "-W", "20")
        assert received == [str(number) for number in range(21)]
        assert await retained(port, "kept/#") == ["retained"]
        supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervisor


async def test_it_ends_with_its_context_and_keeps_its_data(options: BrokerOptions) -> None:
    for turn in range(2):
        async with EmbeddedBroker(options) as broker:
            pid = broker.pid
            assert pid is not None
            if turn == 0:
                await pub(options.port, "kept/x", "-r", "-q", "1", "-m", "still here")
            else:
                assert await retained(options.port, "kept/#") == ["still here"]
        assert broker.pid is None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_taken_port_is_told(options: BrokerOptions) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", options.port))
        other.listen()
        with pytest.raises(SettingsError, match=r"mqtt\.embedded_port"):
            await EmbeddedBroker(options).__aenter__()


async def test_a_user_name_and_password_are_asked_for(options: BrokerOptions) -> None:
    guarded = BrokerOptions(
        options.data, options.port, command=options.command, username="us er", password='p"ä$s #{s\\'
    )
    async with EmbeddedBroker(guarded) as broker:
        async with side(broker.url, username="us er", password='p"ä$s #{s\\') as bridge:
            assert bridge.connection.connected
        for password in (None, "wrong"):
            with pytest.raises(aiomqtt.MqttError):
                async with peer(guarded.port, "3.1.1", username="us er", password=password):
                    pass
        files = [path for path in guarded.data.iterdir() if path.suffix in {".conf", ".passwords"}]
        assert files
        assert all(path.stat().st_mode & 0o077 == 0 for path in files)


BRIDGE = """
import asyncio, sys
from pathlib import Path
from bridge.mqtt.embedded import BrokerOptions, EmbeddedBroker
async def main():
    options = BrokerOptions(Path(sys.argv[1]), int(sys.argv[2]), command=sys.argv[3] or None)
    async with EmbeddedBroker(options) as broker:
        print(broker.pid, flush=True)
        await broker.run()
asyncio.run(main())
"""


async def test_a_broker_that_a_killed_bridge_left_is_ended_and_one_in_use_is_not(options: BrokerOptions) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BRIDGE,
        str(options.data),
        str(options.port),
        options.command or "",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    left = int(await process.stdout.readline())
    try:
        with pytest.raises(SettingsError, match="another bridge"):
            await EmbeddedBroker(options).__aenter__()
        process.kill()
        await process.wait()
        assert await sub(options.port, "-t", "x", "-E") == []  # the broker serves on
        async with EmbeddedBroker(options) as broker:
            assert broker.pid not in {None, left}
            await pub(options.port, "x", "-m", "y")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


async def test_a_process_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """The record names a process id that meanwhile belongs to somebody else."""
    process = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        (tmp_path / "broker.json").write_text(
            json.dumps({"pid": process.pid, "arguments": ["sleep", "61"]}), encoding="utf-8"
        )
        async with nats(tmp_path):
            assert process.returncode is None
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"pid": "x", "arguments": 1}', '{"pid": -1, "arguments": []}'])
async def test_a_damaged_record_is_ignored(tmp_path: Path, record: str) -> None:
    (tmp_path / "broker.json").write_text(record, encoding="utf-8")
    async with nats(tmp_path):
        pass


async def test_a_command_of_ones_own(tmp_path: Path) -> None:
    command = f"{MOSQUITTO} -p {{port}}"
    async with EmbeddedBroker(BrokerOptions(tmp_path, port := free_port(), command=command)):
        await pub(port, "x", "-m", "y")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "broker_command is empty"),
        ("/no/such/program {port}", "cannot be run"),
        ("sleep 1", "{port}"),
        (f"{sys.executable} -c print('oops,{{port}}')", "does not start .*oops"),
    ],
)
async def test_a_command_that_does_not_serve_is_told(tmp_path: Path, command: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        await EmbeddedBroker(BrokerOptions(tmp_path, free_port(), command=command)).__aenter__()


async def test_a_broker_that_cannot_start_again_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with nats(tmp_path) as broker:
        supervisor = asyncio.create_task(broker.run())
        port = int(broker.url.rpartition(":")[2])
        first = broker.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: broker.pid is None)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            await until(lambda: "could not be started again" in caplog.text)
        await until(lambda: broker.pid is not None)
        supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervisor


def test_a_missing_program_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_nats_server().is_file()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match=r"comfy-bridge\[broker\]"):
        find_nats_server()
    monkeypatch.setattr(brokers, "_SYSTEM_DIRECTORIES", ())
    with pytest.raises(Unsupported, match="mosquitto"):
        brokers.launch(BrokerOptions(tmp_path, command="mosquitto"))
    assert shutil.which("mosquitto") is None

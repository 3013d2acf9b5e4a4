"""Other brokers and other ways to them: the embedded one, TLS, passwords, client certificates, websockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.testing import StandIn
from tests.support.bridge_process import Plan, bridge
from tests.support.brokers import Certificates, free_port, mosquitto, until
from tests.support.graphs import picture, txt2img
from tests.support.mqtt_eye import PATIENCE, watching


class Listener:
    """mosquitto_sub, line by line as JSON (`-F %j`), of one filter."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> tuple[str, bytes, bool]:
        """Topic, payload, retained."""
        assert self._process.stdout
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        topic, retained, payload = line.decode().rstrip("\n").split(" ")
        return topic, bytes.fromhex(payload), retained == "1"

    async def until(self, topic: str, *words: bytes) -> list[tuple[str, bytes, bool]]:
        """Everything up to a message on a topic that has these words."""
        seen: list[tuple[str, bytes, bool]] = []
        while not seen or seen[-1][0] != topic or any(word not in seen[-1][1] for word in words):
            seen.append(await self.line())
        return seen


@asynccontextmanager
async def listening(port: int, topic: str) -> AsyncIterator[Listener]:
    process = await asyncio.create_subprocess_exec(
        "mosquitto_sub",
        *("-V", "mqttv311", "-h", "127.0.0.1", "-p", str(port), "-t", topic, "-F", "%t %r %x"),
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    try:
        yield Listener(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def publish(port: int, topic: str, *payload: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "mosquitto_pub", *("-V", "mqttv311", "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", topic, *payload)
    )
    assert await process.wait() == 0


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


async def test_the_embedded_broker_from_start_to_end(tmp_path: Path) -> None:
    port = free_port()
    async with StandIn(step_delay=0.02) as comfy:
        plan = Plan(tmp_path, "embedded", comfy.url, more={"mqtt": {"embedded_port": port}})
        base = plan.base
        async with bridge(plan), listening(port, f"{base}/#") as early:
            await early.until(f"{base}/bridge/state", b"online")
            await publish(port, f"{base}/update/text/6", "-m", "an owl")
            await early.until(f"{base}/response/update/text", b'"ok"')
            await publish(port, f"{base}/queue", "-n")
            seen = await early.until(f"{base}/response/queue", b'"ok"')
            (prompt_id,) = json.loads(seen[-1][1])["data"]["prompt_ids"]
            seen += await early.until(f"{base}/prompt/{prompt_id}/status", b'"completed"')
            topics = [topic.removeprefix(f"{base}/prompt/{prompt_id}/") for topic, _, _ in seen]
            assert topics.index("status") < topics.index("event/execution_start") < topics.index("preview")
            assert topics.index("preview") < topics.index("output/0") < topics.index("result")
            made = next(payload for topic, payload, _ in seen if topic.endswith("/output/0"))
            assert made[:4] == b"\x89PNG"
            graph = comfy.queue.history[prompt_id]["prompt"][2]
            assert graph["6"]["inputs"]["text"] == "an owl"

            async with listening(port, f"{base}/workflow/fox/#") as late:
                found: dict[str, bytes] = {}
                while not {"image", "result", "status", "values", "state"} <= found.keys():
                    topic, payload, retained = await late.line()
                    assert retained
                    found[topic.rsplit("/", 1)[1]] = payload
                assert found["image"] == made
                assert json.loads(found["result"])["id"] == prompt_id


async def test_the_embedded_broker_keeps_what_is_retained_over_a_restart(tmp_path: Path) -> None:
    more = {"mqtt": {"embedded_port": free_port()}}
    port = more["mqtt"]["embedded_port"]
    async with StandIn() as comfy:
        plan = Plan(tmp_path, "embedded", comfy.url, more=more)
        async with bridge(plan), watching(port, plan.base, version="3.1.1") as eye:
            await eye.payload("bridge/state", "online")
            prompt_id = await eye.queue()
            await eye.over(prompt_id)
        async with bridge(plan), watching(port, plan.base, version="3.1.1") as eye:
            await eye.payload("bridge/state", "online")
            assert (await eye.first("workflow/fox/result")).json["id"] == prompt_id
            assert (await eye.first("workflow/fox/image")).payload[:4] == b"\x89PNG"
            await eye.over(await eye.queue())


async def test_a_mosquitto_may_serve_as_embedded_broker(tmp_path: Path) -> None:
    port = free_port()
    async with StandIn() as comfy:
        more = {"mqtt": {"embedded_port": port, "broker_command": "mosquitto"}}
        plan = Plan(tmp_path, "embedded", comfy.url, more=more)
        async with bridge(plan), watching(port, plan.base) as eye:
            await eye.payload("bridge/state", "online")
            assert (await eye.over(await eye.queue()))["status"] == "completed"


@pytest.mark.parametrize("websocket", [False, True], ids=["tcp", "websocket"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_tls_with_a_password_and_a_client_certificate(tmp_path: Path, version: str, websocket: bool) -> None:
    tls = Certificates.make(tmp_path / "certificates")
    beside = free_port()  # for the observer: mosquitto sends only some ten messages a second to a websocket
    async with (
        mosquitto(
            tmp_path / "broker",
            tls=tls,
            password=("bridge", "secret"),
            client_certificates=True,
            websocket=websocket,
            lines=[f"listener {beside} 127.0.0.1"],
        ) as broker,
        StandIn(step_delay=0.01) as comfy,
    ):
        more = {
            "mqtt": {
                "protocol": version,
                "username": "bridge",
                "password": "secret",
                "tls_ca": str(tls.ca),
                "tls_cert": str(tls.client_cert),
                "tls_key": str(tls.client_key),
            }
        }
        plan = Plan(tmp_path, broker.url, comfy.url, workflows={"fox": txt2img()}, more=more)
        await until(lambda: is_open(beside))
        async with (
            watching(beside, plan.base, version=version, username="bridge", password="secret") as eye,
            bridge(plan),
        ):
            await eye.payload("bridge/state", "online")
            await eye.done("update/text", "in secret")
            prompt_id = await eye.queue()
            assert (await eye.over(prompt_id))["values"]["prompt"] == "in secret"
            assert eye.outputs(prompt_id)[0][:4] == b"\x89PNG"
            await eye.refused("update/image/6", picture(), "no_such_input", "6")
            eye.check_prompts()


async def test_a_wrong_password_is_waited_out(tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path / "broker", password=("bridge", "secret")) as broker,
        StandIn() as comfy,
    ):
        more = {"mqtt": {"username": "bridge", "password": "wrong"}}
        plan = Plan(tmp_path, broker.url, comfy.url, more=more)
        async with bridge(plan) as task:
            await until(lambda: "not authorised" in broker.log.read_text(encoding="utf-8"), PATIENCE)
            assert not task.done()

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import httpx

from bridge.mqtt.embedded import BrokerOptions, EmbeddedBroker
from bridge.testing import StandIn
from tests.integration.cli_processes import Cli, run, started
from tests.support.bridge_process import Plan, bridge
from tests.support.brokers import free_port, mosquitto, until
from tests.support.mqtt_eye import watching

QUICK = ("--step-delay", "0.01")


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "demo-data" / "pictures").glob("*.png"))


def standin_of(cli: Cli) -> str:
    found = re.search(r"ComfyUI (http://\S+) \(a stand-in\)", cli.out)
    assert found, cli.out
    return found[1]


async def answers(url: str) -> bool:
    async with httpx.AsyncClient() as http:
        with contextlib.suppress(httpx.TransportError):
            return (await http.get(f"{url}/system_stats")).status_code == 200
    return False


async def test_the_demo_draws_prints_what_to_type_and_ends_cleanly(tmp_path: Path) -> None:
    port = free_port()
    async with started(tmp_path, "demo", "--port", str(port), *QUICK) as cli:
        await cli.says("txt2img_00001_.png")
        assert pictures(tmp_path)[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert "(built in)" in cli.out
        url = standin_of(cli)
        assert await answers(url)

        # What it prints can be typed.
        commands = [line.strip() for line in cli.out.splitlines() if line.strip().startswith("mosquitto_")]
        assert [shlex.split(command)[0] for command in commands] == ["mosquitto_sub", "mosquitto_pub", "mosquitto_pub"]
        async with watching(port, "comfyui", version="3.1.1") as eye:
            for command in commands[1:]:
                await asyncio.to_thread(subprocess.run, shlex.split(command), check=True, timeout=20)
            await cli.says("txt2img_00002_.png")
            result = (await eye.first("workflow/txt2img/result", lambda one: "a fox" in one.text)).json
            assert result["values"]["prompt"] == "a fox in the snow"
        look = await asyncio.to_thread(
            subprocess.run, [*shlex.split(commands[0]), "-W", "1"], capture_output=True, check=False, timeout=20
        )
        assert b"comfyui/bridge/state online" in look.stdout
        assert b"\x89PNG" not in look.stdout

        loop = asyncio.get_running_loop()
        began = loop.time()
        cli.send(signal.SIGINT)
        done = await cli.ends()
        assert loop.time() - began < 5
        assert done.code == 130
        assert done.err == ""
    assert not is_open(port)
    assert not await answers(url)


async def test_a_second_start_keeps_what_was_edited(tmp_path: Path) -> None:
    port = str(free_port())
    for number in (1, 2):
        async with started(tmp_path, "demo", "--port", port, "--data", "d", *QUICK) as cli:
            await cli.says(f"txt2img_0000{number}_.png")
            cli.send(signal.SIGTERM)
            assert (await cli.ends()).code == 0
        (tmp_path / "d" / "workflows" / "hello.json").write_text("{}", encoding="utf-8")
    assert (tmp_path / "d" / "workflows" / "hello.json").read_text(encoding="utf-8") == "{}"
    assert len(list((tmp_path / "d" / "pictures").iterdir())) == 2


async def test_a_broker_that_is_there_is_used_and_left_alone(tmp_path: Path, broker_port: int) -> None:
    arguments = ("--port", str(broker_port), "--base-topic", "demo1")
    async with started(tmp_path, "demo", *arguments, *QUICK) as cli:
        await cli.says("txt2img_00001_.png")
        assert "(was there)" in cli.out
        second = await run(tmp_path, "demo", *arguments, "--data", "other")
        assert second.code == 1
        assert "a bridge runs already" in second.err
        cli.send(signal.SIGINT)
        await cli.ends()
    assert is_open(broker_port)


async def test_a_bridge_that_is_no_more_does_not_keep_the_demo_away(tmp_path: Path, broker_port: int) -> None:
    async with watching(broker_port, "demo2") as eye:
        await eye.client.publish("demo2/bridge/state", "online", qos=1, retain=True)
    arguments = ("--port", str(broker_port), "--base-topic", "demo2")
    async with started(tmp_path, "demo", *arguments, *QUICK) as cli:
        await cli.says("txt2img_00001_.png")


async def test_a_port_with_something_else_is_told(tmp_path: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        done = await run(tmp_path, "demo", "--port", str(port))
    assert done.code == 1
    assert f"at mqtt://127.0.0.1:{port} there is no MQTT broker" in done.err
    assert "--port" in done.err


async def test_a_broker_with_passwords_is_told(tmp_path: Path) -> None:
    async with mosquitto(tmp_path / "mosquitto", password=("me", "secret")) as broker:
        done = await run(tmp_path, "demo", "--port", str(broker.port))
        assert done.code == 1
        assert "mqtt.username" in done.err
        more = ("-o", "mqtt.username=me", "-o", "mqtt.password=secret")
        async with started(tmp_path, "demo", "--port", str(broker.port), *more, *QUICK) as cli:
            await cli.says("txt2img_00001_.png")
            assert "-u me -P PASSWORD" in cli.out
            assert "secret" not in cli.out + cli.err


async def test_after_a_kill_nothing_stays_for_ever(tmp_path: Path) -> None:
    port = free_port()
    async with started(tmp_path, "demo", "--port", str(port), *QUICK) as cli:
        await cli.says("txt2img_00001_.png")
        url = standin_of(cli)
        cli.send(signal.SIGKILL)
        await cli.process.wait()
    deadline = asyncio.get_running_loop().time() + 10
    while await answers(url):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)
    # The next demo takes the broker over, and ends it.
    async with started(tmp_path, "demo", "--port", str(port), *QUICK) as cli:
        await cli.says("txt2img_00002_.png")
        cli.send(signal.SIGINT)
        await cli.ends()
    await until(lambda: not is_open(port))


async def test_a_comfyui_of_ones_own_draws_what_it_can(tmp_path: Path) -> None:
    async with (
        StandIn(data=tmp_path / "mine", without=["CheckpointLoaderSimple"]) as comfy,
        started(tmp_path, "demo", "--port", str(free_port()), "--comfyui-url", comfy.url) as cli,
    ):
        await cli.says("hello: ")
        assert f"{comfy.url} (yours)" in cli.out
        cli.send(signal.SIGINT)
        await cli.ends()


async def test_the_settings_of_an_installation_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[mqtt]\nurl = "mqtt://nowhere.invalid"\n', encoding="utf-8")
    async with started(tmp_path, "demo", "--port", str(free_port()), *QUICK) as cli:
        await cli.says("txt2img_00001_.png")


async def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = await run(tmp_path, "demo", "--data", "file/data", "--port", str(free_port()))
    assert done.code == 1
    assert "file/data" in done.err
    assert "--data" in done.err


async def test_a_broker_of_another_demo_is_not_taken_over(tmp_path: Path) -> None:
    port = free_port()
    async with started(tmp_path, "demo", "--port", str(port), *QUICK) as cli:
        await cli.says("txt2img_00001_.png")
        cli.send(signal.SIGINT)
        await cli.ends()
    # The folder has had a broker; the one at the port is somebody else's.
    async with EmbeddedBroker(BrokerOptions(tmp_path / "theirs", port)) as theirs:
        pid = theirs.pid
        async with started(tmp_path, "demo", "--port", str(port), *QUICK) as cli:
            await cli.says("txt2img_00002_.png")
            assert "(was there)" in cli.out
            cli.send(signal.SIGINT)
            await cli.ends()
        assert theirs.pid == pid


async def test_submit_and_watch_find_a_bridge_with_an_embedded_broker(tmp_path: Path) -> None:
    async with StandIn(data=tmp_path / "comfy") as comfy:
        port = free_port()
        plan = Plan(tmp_path, "embedded", comfy.url, more={"mqtt": {"embedded_port": port}})
        async with bridge(plan):
            embedded = ("--mqtt-url", "embedded", "-o", f"mqtt.embedded_port={port}", "--base-topic", plan.base)
            done = await run(tmp_path, "submit", "fox", *embedded)
            assert done.code == 0, done

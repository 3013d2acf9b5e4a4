"""`submit` and `watch`: clients of a bridge that runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.integration.cli_processes import run, started
from tests.support.bridge_process import House, Plan, bridge, house
from tests.support.brokers import free_port, mosquitto, nats, until
from tests.support.graphs import picture, txt2img
from tests.support.mqtt_eye import watching
from tests.support.scripted import CONNECT, obliging, scripted


def at(made: House) -> tuple[str, ...]:
    return ("--mqtt-url", made.plan.broker, "--base-topic", made.base)


async def test_submit_writes_the_picture_and_says_where(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made:
        done = await run(
            tmp_path, "submit", "fox", "--set", "prompt=an owl", "--set", "seed=7", "--out", "o", *at(made)
        )
        assert done.code == 0, done
        (prompt_id,) = made.eye.prompt_ids()
        (path,) = done.out.splitlines()
        assert (tmp_path / path).read_bytes() == made.eye.outputs(prompt_id)[0]
        assert Path(path).parent == Path("o")
        assert made.graph(prompt_id)["6"]["inputs"]["text"] == "an owl"
        assert made.graph(prompt_id)["3"]["inputs"]["seed"] == 7
        assert "completed" in done.err


async def test_submit_overwrites_nothing_and_may_answer_in_json(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made:
        for name in ("fox_00001_.png", "fox_00002_.png"):
            (tmp_path / name).write_bytes(b"mine")
        done = await run(tmp_path, "submit", "fox", "--count", "3", "--json", *at(made))
        results = [json.loads(line) for line in done.out.splitlines()]
        assert [result["status"] for result in results] == ["completed"] * 3
        seeds = sorted(result["values"]["seed"] for result in results)
        assert seeds == [42, 43, 44]
        for result in results:
            assert (tmp_path / result["files"][0]).read_bytes() == made.eye.outputs(result["id"])[0]
        assert (tmp_path / "fox_00001_.png").read_bytes() == b"mine"


async def test_submit_sends_files(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made:
        (tmp_path / "me.png").write_bytes(picture())
        (tmp_path / "idea.txt").write_text("from a file\n", encoding="utf-8")
        done = await run(tmp_path, "submit", "img", "--set", "image=@me.png", *at(made))
        assert done.code == 0, done
        name = made.graph(made.eye.prompt_ids()[0])["10"]["inputs"]["image"]
        assert (tmp_path / "comfy" / "input" / name).read_bytes() == picture()
        done = await run(tmp_path, "submit", "fox", "--set", "prompt=@idea.txt", "--set", "negative=@@me", *at(made))
        assert done.code == 0, done
        graph = made.graph(made.eye.prompt_ids()[1])
        assert graph["6"]["inputs"]["text"] == "from a file"
        assert graph["7"]["inputs"]["text"] == "@me"
        done = await run(tmp_path, "submit", "fox", "--set", "prompt=@nowhere", *at(made))
        assert done.code == 1
        assert "nowhere cannot be read" in done.err


async def test_submit_fetches_what_is_too_large_for_mqtt(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, more={"mqtt": {"max_output": 10}}) as made:
        done = await run(tmp_path, "submit", "fox", *at(made))
        assert done.code == 0, done
        assert not made.eye.outputs(made.eye.prompt_ids()[0])
        (file,) = (tmp_path / "comfy" / "output").iterdir()
        assert (tmp_path / done.out.strip()).read_bytes() == file.read_bytes()


async def test_submit_tells_what_the_bridge_refuses(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made:
        done = await run(tmp_path, "submit", "fix", *at(made))
        assert (done.code, done.out) == (1, "")
        assert "fox" in done.err
        done = await run(tmp_path, "submit", "fox", "--set", "stepps=3", *at(made))
        assert done.code == 1
        assert "steps" in done.err
        assert made.eye.prompt_ids() == []


async def test_submit_fails_with_the_job(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made:
        done = await run(tmp_path, "submit", "fox", "--set", "4.ckpt_name=gone.safetensors", *at(made))
        assert (done.code, done.out) == (1, "")
        assert "gone.safetensors" in done.err


async def test_ctrl_c_interrupts_the_job(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made, started(tmp_path, "submit", "sleep", *at(made)) as cli:
        await cli.says("running")
        (prompt_id,) = await made.eye.until(made.eye.prompt_ids)
        cli.send(signal.SIGINT)
        done = await cli.ends()
        assert (done.code, done.err.splitlines()[-1]) == (130, "sleep: interrupted")
        assert (await made.eye.over(prompt_id))["status"] == "interrupted"


async def test_the_end_of_the_time_interrupts_the_job(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made:
        done = await run(tmp_path, "submit", "sleep", "--timeout", "1.5", *at(made))
        assert done.code == 1
        assert "not finished within 1.5 s" in done.err
        assert (await made.eye.over(made.eye.prompt_ids()[0]))["status"] == "interrupted"


async def test_submit_needs_a_bridge_and_a_broker(tmp_path: Path, broker_port: int) -> None:
    done = await run(tmp_path, "submit", "fox", "--mqtt-url", f"mqtt://127.0.0.1:{broker_port}", "--base-topic", "none")
    assert done.code == 1
    assert "comfy-bridge run" in done.err
    done = await run(tmp_path, "submit", "fox", "--mqtt-url", f"mqtt://127.0.0.1:{free_port()}")
    assert done.code == 1
    assert "connection refused" in done.err


async def test_submit_lives_through_a_broker_that_goes(tmp_path: Path) -> None:
    async with mosquitto(tmp_path / "mosquitto") as broker:
        workflows = {"fox": txt2img(steps=30)}
        async with house(tmp_path, broker.port, step_delay=0.1, check=False, workflows=workflows) as made:
            async with started(tmp_path, "submit", "fox", *at(made)) as cli:
                await cli.says("running")
                await broker.kill()
                await cli.says("lost the broker")
                await until(lambda: made.comfy.stats.executed)
                await broker.start()
                done = await cli.ends()
            assert done.code == 0, done
            (file,) = (tmp_path / "comfy" / "output").iterdir()
            assert (tmp_path / done.out.strip()).read_bytes() == file.read_bytes()


async def test_submit_over_a_broker_of_3_1_1(tmp_path: Path) -> None:
    port = free_port()
    async with nats(tmp_path / "nats", port=port), house(tmp_path, port, version="3.1.1") as made:
        done = await run(tmp_path, "submit", "fox", *at(made))
        assert done.code == 0, done
        assert (tmp_path / done.out.strip()).exists()


async def test_watch_shows_what_happens(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made, started(tmp_path, "watch", *at(made)) as cli:
        await cli.says("bridge online")
        await cli.says(f"backend {made.backend} online")
        prompt_id = await made.run(workflow="fox")
        await cli.says(f"fox {prompt_id[:8]} completed")
        await cli.says("fox_00001_.png")
        await made.eye.refused("load", "nothing", "unknown_workflow")
        await cli.says("load refused")
        assert "preview" not in cli.out
        cli.send(signal.SIGINT)
        assert (await cli.ends()).code == 130


async def test_watch_all_shows_every_message(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made, started(tmp_path, "watch", "--all", *at(made)) as cli:
        await cli.says("bridge online")
        prompt_id = await made.run({"values": {"prompt": "an owl"}}, workflow="fox")
        await cli.says(f"prompt/{prompt_id}/output/0 <image/png")
        await cli.says("workflow/fox/queue {")
        await cli.says(f"prompt/{prompt_id}/event/executing {{")
        assert "\x89PNG" not in cli.out
        cli.send(signal.SIGTERM)
        assert (await cli.ends()).code == 130


async def test_watch_sees_a_bridge_come_and_go(tmp_path: Path, broker_port: int) -> None:
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", "http://127.0.0.1:1")
    arguments = ("--mqtt-url", plan.broker, "--base-topic", plan.base)
    async with watching(broker_port, plan.base) as eye, started(tmp_path, "watch", *arguments) as cli:
        await cli.says("watching")
        await cli.says("nothing is known of a bridge here")
        async with bridge(plan):
            await eye.payload("bridge/state", "online")
            await cli.says("bridge online")
        await cli.says("bridge offline")


async def test_clients_leave_no_will(tmp_path: Path) -> None:
    async with scripted(obliging) as broker, started(tmp_path, "watch", "--mqtt-url", broker.url) as cli:
        await cli.says("watching")
        await until(lambda: len(broker.of(CONNECT)) == 2)
        flags = [packet.body[7] for packet in broker.of(CONNECT)]
        assert not any(flag & 0b100 for flag in flags)
        identifiers = {packet.body[13:] for packet in broker.of(CONNECT)}
        assert all(b"comfy-bridge-watch-" in identifier for identifier in identifiers)

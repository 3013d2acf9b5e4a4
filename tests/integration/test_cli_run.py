from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from bridge.testing import StandIn
from tests.integration.cli_processes import run, started
from tests.support.bridge_process import Plan
from tests.support.brokers import free_port
from tests.support.graphs import txt2img
from tests.support.mqtt_eye import watching


def options(plan: Plan) -> tuple[str, ...]:
    made = plan.overrides()
    return (
        *("--mqtt-url", plan.broker, "--base-topic", plan.base, "--comfyui-url", plan.comfy),
        *("--workflows", made["workflows"]["dir"], "--store-url", made["store"]["url"]),
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_run_serves_and_says_goodbye(tmp_path: Path, broker_port: int, number: signal.Signals, code: int) -> None:
    async with StandIn(data=tmp_path / "comfy") as comfy:
        plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", comfy.url)
        async with (
            watching(broker_port, plan.base) as eye,
            started(tmp_path, "run", *options(plan), "-o", "workflows.loaded=fox") as cli,
        ):
            await eye.payload("bridge/state", "online")
            await eye.over(await eye.queue())
            cli.send(number)
            assert (await cli.ends()).code == code
            await eye.payload("bridge/state", "offline")


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    # A broker that takes connections and never answers keeps the goodbye waiting.
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{free_port()}", "http://127.0.0.1:1")
    async with started(tmp_path, "run", *options(plan)) as cli:
        await cli.says("connection refused")
        cli.send(signal.SIGINT)
        cli.send(signal.SIGINT)
        assert (await cli.ends(within=5)).code in {130, -signal.SIGINT}


async def test_the_log_can_be_json_and_quiet(tmp_path: Path) -> None:
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{free_port()}", "http://127.0.0.1:1")
    async with started(tmp_path, "run", *options(plan), "-o", "log.format=json", "--log-level", "warning") as cli:
        await cli.says("connection refused")
        cli.send(signal.SIGTERM)
        done = await cli.ends()
    entries = [json.loads(line) for line in done.err.splitlines()]
    assert {entry["level"] for entry in entries} == {"warning"}
    assert all(entry.keys() == {"time", "level", "logger", "message"} for entry in entries)
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--store-url", "nats://x"), 2, "store.url"),
        (("--store-url", "sqlite:///file/x.db"), 1, "file/x.db"),
        (("--mqtt-url", "mqtt://127.0.0.1:99999"), 2, "mqtt.url"),
        (("-o", "mqtt.tls_ca=ca.crt"), 2, "mqtts"),
        (
            ("--mqtt-url", "embedded", "-o", "mqtt.broker_command=no-such-broker {port}"),
            2,
            "no-such-broker",
        ),
    ],
)
async def test_what_is_fatal_is_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = await run(tmp_path, "run", "--log-level", "error", *arguments)
    assert done.code == code, done
    assert words in done.err
    assert len(done.err.splitlines()) == 1


async def test_chains_are_listed_shown_and_checked_too(tmp_path: Path) -> None:
    Plan(tmp_path, "embedded", "http://127.0.0.1:1", workflows={"fox": txt2img()}).overrides()
    folder = tmp_path / "flows" / "chains"
    folder.mkdir(parents=True)
    (folder / "twice.toml").write_text('[[steps]]\nname = "once"\nworkflow = "fox"\n[[steps]]\nworkflow = "fox"\n')
    (folder / "lost.toml").write_text('[[steps]]\nname = "one"\nworkflow = "nowhere"\n')
    done = await run(tmp_path, "workflows")
    assert [line.split()[0] for line in done.out.splitlines()] == ["name", "fox", "twice"]
    assert "step 'one': there is no workflow 'nowhere'" in done.err
    done = await run(tmp_path, "workflows", "show", "twice")
    assert "Steps: once (fox), step2 (fox)" in done.out
    assert "once.prompt" in done.out
    for name, words in (("twise", "'twice'"), ("lost", "nowhere")):
        done = await run(tmp_path, "workflows", "show", name)
        assert (done.code, done.out) == (1, "")
        assert words in done.err
    assert "twice: prompt, negative, seed" in (await run(tmp_path, "check")).out


async def test_workflows_are_listed_and_shown(tmp_path: Path) -> None:
    plan = Plan(tmp_path, "embedded", "http://127.0.0.1:1", workflows={"fox": txt2img(), "broken": "{"})
    plan.overrides()
    done = await run(tmp_path, "workflows")
    assert done.code == 0
    assert done.out.splitlines()[1].startswith("fox   fox.json  prompt, negative, seed")
    assert "broken.json" in done.err
    done = await run(tmp_path, "workflows", "show", "fox")
    assert "3.steps" in done.out
    assert "comfy-bridge submit fox --set prompt=" in done.out
    done = await run(tmp_path, "workflows", "show", "fox", "--json")
    assert json.loads(done.out)["parameters"][0]["targets"] == [{"node": "6", "input": "text"}]
    done = await run(tmp_path, "workflows", "list", "--json")
    assert [one["path"] for one in json.loads(done.out)["problems"]] == ["broken.json"]
    for name, words in (("fix", "fox"), ("broken", "not JSON")):
        done = await run(tmp_path, "workflows", "show", name)
        assert (done.code, done.out) == (1, "")
        assert words in done.err
    done = await run(tmp_path, "workflows", "--workflows", "nowhere")
    assert done.code == 1

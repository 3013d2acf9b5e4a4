from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from bridge.testing import StandIn
from bridge.testing.ollama import OllamaStandIn
from tests.integration.cli_processes import Done, run
from tests.support.bridge_process import Plan, house
from tests.support.brokers import Certificates, free_port, mosquitto, nats
from tests.support.graphs import node, txt2img
from tests.support.web import serving

pytestmark = pytest.mark.timeout(60)


def options(plan: Plan) -> tuple[str, ...]:
    plan.overrides()
    return (
        *("--mqtt-url", plan.broker, "--base-topic", plan.base, "--comfyui-url", plan.comfy),
        *("--workflows", str(plan.folder / "workflows"), "--store-url", f"sqlite:///{plan.folder / 'check.db'}"),
    )


def lines(done: Done, part: str) -> list[str]:
    return [line for line in done.out.splitlines() if line.split()[1] == part]


async def test_all_is_well_beside_a_running_bridge_which_is_not_disturbed(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as made:
        before = len(made.eye.of("bridge/state"))
        done = await run(tmp_path, "check", *options(made.plan))
        assert done.code == 0, done
        assert "FAIL" not in done.out
        assert "MQTT 5" in done.out
        assert "0.3.64" in done.out
        assert [line for line in lines(done, "workflow") if line.startswith("ok")]
        assert len(made.eye.of("bridge/state")) == before
        assert made.eye.below("response/") == []
        assert not [one for one in made.eye.below("bridge/check") if one.retain]
        await made.run(workflow="fox")
    assert not (tmp_path / "check.db").exists()


async def test_everything_is_away(tmp_path: Path) -> None:
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}")
    done = await run(tmp_path, "check", *options(plan))
    assert done.code == 1
    assert lines(done, "broker")[0].startswith("FAIL")
    assert "connection refused; is it started? (mqtt.url)" in lines(done, "broker")[0]
    assert lines(done, "ComfyUI")[0].startswith("FAIL")
    assert all(line.startswith("ok") for line in [*lines(done, "workflow"), *lines(done, "store")])


async def test_who_can_reach_http(tmp_path: Path) -> None:
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}")

    async def told(*more: str) -> str:
        done = await run(tmp_path, "check", *options(plan), *(word for one in more for word in ("-o", one)))
        (line,) = lines(done, "HTTP")
        return line

    both = await told("http.port=8189", "relay.port=8190")
    assert both.endswith("http://127.0.0.1:8189 and ws://127.0.0.1:8190, without a token")
    assert (await told("http.port=8189", "http.token=secret")).endswith("http://127.0.0.1:8189, with a token")
    assert (await told("http.port=0", "relay.port=0")).endswith("switched off")
    open_to_all = await told("http.port=8189", "http.host=0.0.0.0")
    assert open_to_all.startswith("FAIL")
    assert "http.token is not set" in open_to_all


async def test_what_to_do_about_a_broker_says_nothing_that_is_not_so(tmp_path: Path) -> None:
    plan = Plan(tmp_path, "mqtt://127.0.0.1:1", "http://127.0.0.1:1")
    ours, strange = Certificates.make(tmp_path / "ours"), Certificates.make(tmp_path / "strange")

    async def broker_line(url: str, **tls: Path) -> str:
        settings = [word for key, path in tls.items() for word in ("-o", f"mqtt.{key}={path}")]
        done = await run(tmp_path, "check", *options(plan), "--mqtt-url", url, *settings)
        (line,) = lines(done, "broker")
        assert line.startswith("FAIL")
        return line

    async with mosquitto(tmp_path / "m", tls=ours, client_certificates=True) as broker:
        said = {
            "plain": await broker_line(broker.url.replace("mqtts:", "mqtt:")),
            "no authority": await broker_line(broker.url, tls_ca=strange.ca),
            "no certificate": await broker_line(broker.url, tls_ca=ours.ca),
            "strange certificate": await broker_line(
                broker.url, tls_ca=ours.ca, tls_cert=strange.client_cert, tls_key=strange.client_key
            ),
        }
    said["unknown name"] = await broker_line("mqtt://nobody.invalid")
    assert not [line for line in said.values() if "is it started?" in line]
    assert "does it want TLS (mqtts://)?" in said["plain"]
    assert "mqtt.tls_ca must be the file of the authority" in said["no authority"]
    assert "a client certificate" in said["no certificate"]
    assert "accept our certificate" in said["strange certificate"]
    assert "the name nobody.invalid is not known" in said["unknown name"]


async def test_a_broker_that_takes_only_small_messages(tmp_path: Path) -> None:
    async with mosquitto(tmp_path / "m", lines=["max_packet_size 100000"]) as broker:
        done = await run(tmp_path, "check", *options(Plan(tmp_path, broker.url, "http://127.0.0.1:1")))
    assert "warn  broker     it takes at most 100 kB: outputs above that are not published, only told" in done.out


async def test_what_is_wrong_with_workflows(tmp_path: Path, broker_port: int) -> None:
    lacking = txt2img()
    lacking["4"]["inputs"]["ckpt_name"] = "mine.safetensors"
    workflows = {
        "good": txt2img(),
        "lacking": lacking,
        "fancy": {"1": node("FancyNode")},
        "broken": "{",
        "ui": json.dumps({"nodes": [], "links": []}),
    }
    async with StandIn(data=tmp_path / "comfy") as comfy:
        plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", comfy.url, workflows=workflows)
        done = await run(tmp_path, "check", *options(plan))
        assert done.code == 0, done
        told = {line.split()[2].rstrip(":"): line for line in lines(done, "workflow")}
        assert told["good"].startswith("ok")
        assert "mine.safetensors" in told["lacking"]
        assert "the node class FancyNode" in told["fancy"]
        assert "not JSON" in told["broken.json"]
        assert "editor" in told["ui.json"]
        done = await run(tmp_path, "check", *options(plan), "-o", "workflows.loaded=ui")
        assert done.code == 1
        assert "workflows.loaded" in done.out


async def test_who_writes_prompts(tmp_path: Path, broker_port: int) -> None:
    async with (
        StandIn(data=tmp_path / "comfy") as comfy,
        OllamaStandIn(models=("llama3.2:latest", "llava:latest")) as ollama,
        OllamaStandIn(models=()) as empty,
    ):
        plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", comfy.url)

        async def told(*more: str) -> list[str]:
            done = await run(tmp_path, "check", *options(plan), *(word for one in more for word in ("-o", one)))
            found = lines(done, "prompts")
            assert done.code == any(line.startswith("FAIL") for line in found), done
            return found

        here = f"ollama.url={ollama.url}"
        (line,) = await told(here, "ollama.model=llava")
        assert line.startswith("ok")
        assert f"Ollama at {ollama.url}, with llama3.2:latest, llava:latest" in line
        model, vision = await told(here, "ollama.model=qwen2.5:7b", "ollama.vision_model=gemma3:4b")
        assert model.startswith("warn")
        assert "ollama.model" in model
        assert "ollama pull qwen2.5:7b" in model
        assert "ollama pull gemma3:4b" in vision
        (line,) = await told(f"ollama.url={empty.url}")
        assert line.startswith("warn")
        assert "ollama pull llama3.2" in line
        (line,) = await told(f"ollama.url=http://127.0.0.1:{free_port()}")
        assert line.startswith("warn")
        assert "cannot be reached: connection refused; start it" in line.lower()
        (line,) = await told(f"ollama.url={comfy.url}")
        assert line.startswith("warn")
        (line,) = await told("ollama.profile=nowhere")
        assert line.startswith("FAIL")
        assert "nowhere" in line
        assert "comfy" in (await told("prompting.writer=mqtt"))[0]
        assert (await told("prompting.writer=http://127.0.0.1:9/x"))[0].startswith("ok")


async def test_a_user_who_may_not_publish(tmp_path: Path) -> None:
    access = tmp_path / "acl"
    access.write_text("user me\ntopic read comfyui/#\n", encoding="utf-8")
    async with (
        mosquitto(tmp_path / "mosquitto", password=("me", "secret"), lines=[f"acl_file {access}"]) as broker,
        StandIn(data=tmp_path / "comfy") as comfy,
    ):
        plan = Plan(tmp_path, broker.url, comfy.url, base="comfyui")
        done = await run(tmp_path, "check", *options(plan))
        assert done.code == 1
        assert "mqtt.username" in lines(done, "broker")[0]
        for version in ("5", "3.1.1"):
            more = {"BRIDGE_MQTT__USERNAME": "me", "BRIDGE_MQTT__PASSWORD": "secret", "BRIDGE_MQTT__PROTOCOL": version}
            done = await run(tmp_path, "check", *options(plan), **more)
            assert done.code == 1
            ok, failed = lines(done, "broker")
            assert ok.startswith("ok")
            assert f"MQTT {version}" in ok
            assert "access list" in failed


async def test_a_broker_of_3_1_1_and_the_built_in_one(tmp_path: Path) -> None:
    port = free_port()
    async with StandIn(data=tmp_path / "comfy") as comfy:
        plan = Plan(tmp_path, "embedded", comfy.url)
        embedded = (*options(plan), "-o", f"mqtt.embedded_port={port}")
        done = await run(tmp_path, "check", *embedded)
        assert done.code == 0, done
        assert "will be started" in lines(done, "broker")[0]
        taken = urlsplit(comfy.url).port
        done = await run(tmp_path, "check", *options(plan), "-o", f"mqtt.embedded_port={taken}")
        assert done.code == 1, done
        assert f"port {taken} is taken by another program" in lines(done, "broker")[0]
        async with nats(tmp_path / "nats", port=port):
            done = await run(tmp_path, "check", *embedded)
            assert done.code == 0, done
            assert "MQTT 3.1.1" in done.out


async def test_a_server_that_is_no_comfyui(tmp_path: Path, broker_port: int) -> None:
    async def hello(_: web.Request) -> web.StreamResponse:
        return web.Response(text="hello")

    async with serving(hello) as server:
        plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", server.url(""))
        done = await run(tmp_path, "check", *options(plan))
    assert done.code == 1
    assert "does not look like ComfyUI" in lines(done, "ComfyUI")[0]


async def test_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{free_port()}", "http://127.0.0.1:1")
    (tmp_path / "check.db").write_bytes(b"this is no database, whatever its name says" * 100)
    done = await run(tmp_path, "check", *options(plan))
    assert lines(done, "store")[0].startswith("FAIL")
    (tmp_path / "file").write_bytes(b"")
    done = await run(tmp_path, "check", *options(plan), "--store-url", "sqlite:///file/x.db")
    assert lines(done, "store")[0].startswith("FAIL")


async def test_wrong_settings_are_a_line(tmp_path: Path) -> None:
    done = await run(tmp_path, "check", "-o", "mqtt.urll=x", "-o", "jobs.attempts=0")
    assert done.code == 1
    assert len(lines(done, "settings")) == 2
    assert "did you mean 'url'" in done.out

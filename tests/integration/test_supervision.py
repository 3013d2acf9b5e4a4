"""ComfyUI as the bridge's child: started, started again, stopped with it; and the warm-up before it is online."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.comfyui.process import ComfyProcess
from tests.support.bridge_process import Plan, bridge
from tests.support.brokers import free_port, until
from tests.support.mqtt_eye import Eye, watching


@contextlib.asynccontextmanager
async def supervised(tmp_path: Path, broker_port: int, **comfyui: Any) -> AsyncIterator[tuple[Eye, str, int]]:
    """A bridge that runs its own stand-in ComfyUI: what an observer sees, the backend's name and its port."""
    port = free_port()
    command = [sys.executable, "-m", "bridge.testing", "--port", str(port), "--data", str(tmp_path / "comfy")]
    plan = Plan(
        tmp_path,
        f"mqtt://127.0.0.1:{broker_port}",
        f"http://127.0.0.1:{port}",
        loaded="plain",
        more={"comfyui": {"command": shlex.join(command), **comfyui}},
    )
    async with watching(broker_port, plan.base) as eye, bridge(plan):
        yield eye, f"127-0-0-1-{port}", port


async def stats(port: int) -> dict[str, Any]:
    async with httpx.AsyncClient() as http:
        return dict((await http.get(f"http://127.0.0.1:{port}/standin/stats")).json())


async def test_it_is_started_and_runs_jobs_and_ends_with_the_bridge(tmp_path: Path, broker_port: int) -> None:
    async with supervised(tmp_path, broker_port) as (eye, backend, port):
        await eye.payload(f"backend/{backend}/state", "online")
        result = await eye.over(await eye.queue())
        assert result["status"] == "completed"
    async with httpx.AsyncClient() as http:
        with contextlib.suppress(httpx.TransportError):
            await http.get(f"http://127.0.0.1:{port}/prompt")
            raise AssertionError("the child outlived the bridge")


async def test_one_that_dies_is_started_again_and_its_job_is_run_again(tmp_path: Path, broker_port: int) -> None:
    async with supervised(tmp_path, broker_port) as (eye, backend, port):
        await eye.payload(f"backend/{backend}/state", "online")
        prompt_id = await eye.queue({"workflow": "sleep", "values": {"1.seconds": 1.0, "1.steps": 10}})
        await eye.first(f"prompt/{prompt_id}/event/execution_start")
        async with httpx.AsyncClient() as http:
            with contextlib.suppress(httpx.TransportError):
                await http.post(f"http://127.0.0.1:{port}/standin/faults", json={"die": True})
        result = await eye.over(prompt_id)
        assert result["status"] == "completed"
        assert result["attempts"] == 2
        assert list((await stats(port))["executed"].values()) == [1]


async def test_one_that_is_stuck_is_started_again(tmp_path: Path, broker_port: int) -> None:
    async with supervised(tmp_path, broker_port, stall_timeout=1.5) as (eye, backend, port):
        await eye.payload(f"backend/{backend}/state", "online")
        async with httpx.AsyncClient() as http:
            await http.post(f"http://127.0.0.1:{port}/standin/faults", json={"kill_worker": True})
        # The dead worker takes the prompt and never runs it: only a new process helps.
        prompt_id = await eye.queue()
        result = await eye.over(prompt_id)
        assert result["status"] == "completed"


async def test_the_warm_up_comes_before_online(tmp_path: Path, broker_port: int) -> None:
    async with supervised(tmp_path, broker_port, warmup="plain") as (eye, backend, port):
        await eye.payload(f"backend/{backend}/state", "online")
        assert len((await stats(port))["executed"]) == 1
        result = await eye.over(await eye.queue())
        assert result["status"] == "completed"


async def test_one_that_died_in_mid_run_is_warmed_up_before_its_job_comes_back(
    tmp_path: Path, broker_port: int
) -> None:
    async with supervised(tmp_path, broker_port, warmup="plain") as (eye, backend, port):
        await eye.payload(f"backend/{backend}/state", "online")
        prompt_id = await eye.queue({"workflow": "sleep", "values": {"1.seconds": 1.0, "1.steps": 10}})
        await eye.first(f"prompt/{prompt_id}/event/execution_start")
        async with httpx.AsyncClient() as http:
            with contextlib.suppress(httpx.TransportError):
                await http.post(f"http://127.0.0.1:{port}/standin/faults", json={"die": True})
        assert (await eye.over(prompt_id))["status"] == "completed"
        ran = list((await stats(port))["executed"])
        assert len(ran) == 2
        assert ran[1] == prompt_id


async def test_one_for_each_address_that_is_ours(tmp_path: Path, broker_port: int) -> None:
    mine, other, foreign = free_port(), free_port(), free_port()

    def command(port: int) -> str:
        return shlex.join([sys.executable, "-m", "bridge.testing", "--port", str(port)])

    urls = [f"http://127.0.0.1:{port}" for port in (mine, foreign, other)]
    commands = [command(mine), "", command(other)]
    plan = Plan(
        tmp_path, f"mqtt://127.0.0.1:{broker_port}", urls[0], more={"comfyui": {"urls": urls, "command": commands}}
    )
    async with watching(broker_port, plan.base) as eye, bridge(plan):
        for port in (mine, other):
            await eye.payload(f"backend/127-0-0-1-{port}/state", "online")
        assert eye.last(f"backend/127-0-0-1-{foreign}/state").payload == b"offline"
    for port in (mine, other):
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
async def test_what_a_script_has_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    process = ComfyProcess("mine", f"sh -c 'sleep 100 & echo $! > {note}; wait'", _never)
    task = asyncio.create_task(process.run())
    await until(lambda: note.exists() and note.read_text())
    pid = int(note.read_text())
    task.cancel()
    await asyncio.wait([task])
    await until(lambda: not _runs(pid))


async def _never() -> bool:
    return False


def _runs(pid: int) -> bool:
    """Whether it does; a zombie that nobody reaps does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


async def test_one_that_runs_already_is_used_and_left_alone(tmp_path: Path, broker_port: int) -> None:
    port = free_port()
    arguments = ["-m", "bridge.testing", "--port", str(port)]
    other = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert other.stdout
    try:
        await other.stdout.readline()
        plan = Plan(
            tmp_path,
            f"mqtt://127.0.0.1:{broker_port}",
            f"http://127.0.0.1:{port}",
            more={"comfyui": {"command": f"{shlex.quote(sys.executable)} -c 'raise SystemExit(3)'"}},
        )
        async with watching(broker_port, plan.base) as eye, bridge(plan):
            await eye.payload(f"backend/127-0-0-1-{port}/state", "online")
        assert other.returncode is None
        os.kill(other.pid, 0)
    finally:
        other.send_signal(signal.SIGTERM)
        await other.wait()


async def test_a_command_that_cannot_be_run_is_fatal(tmp_path: Path, broker_port: int) -> None:
    plan = Plan(
        tmp_path,
        f"mqtt://127.0.0.1:{broker_port}",
        f"http://127.0.0.1:{free_port()}",
        more={"comfyui": {"command": "/nowhere/comfyui"}},
    )
    problem: list[BaseException] = []
    try:
        async with bridge(plan) as task:
            await until(task.done)
    except BaseException as error:  # noqa: BLE001
        problem.append(error)
    assert problem, "the bridge went on"
    assert "comfyui.command" in json.dumps([str(one) for one in _leaves(problem[0])])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]

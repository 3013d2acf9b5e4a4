"""Who may ask what: tokens, hosts, origins, sizes, ports; and how it ends."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
import time
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bridge import daemon, settings
from bridge.errors import SettingsError
from bridge.http import protocols, security
from tests.support.bridge_process import Plan, bridge
from tests.support.brokers import free_port, until
from tests.support.graphs import plain, sleep
from tests.support.http_house import http_house, told


async def test_a_token_is_asked_of_everything_but_health(tmp_path: Path) -> None:
    async with http_house(tmp_path, headers={"Authorization": "Bearer s3cret"}, http={"token": "s3cret"}) as here:
        async with httpx.AsyncClient(base_url=here.url) as http:
            assert (await http.get("/health")).status_code == 200
            for path in ("/api/jobs", "/ready", "/metrics", "/docs", "/openapi.json", "/api/events", "/nothing"):
                answer = await http.get(path)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"
            assert (await http.get("/docs/static/swagger-ui.css")).status_code == 200
            for wrong in ("wrong", "s3cret ä", "s3cre"):
                answer = await http.get("/api/jobs", headers={b"Authorization": f"Bearer {wrong}".encode()})
                assert answer.status_code == 401
            assert (await http.get("/api/jobs", params={"token": "s3cret"})).status_code == 200
            posted = await http.post("/api/jobs", params={"token": "s3cret"}, json={"prompt": plain()})
            assert posted.status_code == 401  # an address ends up in logs and histories
        assert (await here.http.get("/api/jobs")).status_code == 200


async def test_the_token_is_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": "Bearer s3cret-t0ken"}
    async with http_house(tmp_path, headers=headers, http={"token": "s3cret-t0ken"}) as here:
        caplog.clear()
        async with connect(f"ws://127.0.0.1:{here.relay}/?token=s3cret-t0ken"):
            await here.http.get("/api/jobs?token=s3cret-t0ken")
            job = await here.run("plain", wait=20)
        said = [record.getMessage() for record in caplog.records if record.name.startswith(("bridge", "uvicorn"))]
        assert not [line for line in said if "s3cret" in line]
        line = next(line for line in said if line.startswith("POST /api/workflows/plain/run: 200"))
        assert job["id"] in line


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8189", "[::1]evil", "localhost.evil.example", "", "127.0.0.1.evil"]
)
async def test_a_name_that_is_not_ours_is_refused(tmp_path: Path, host: str) -> None:
    async with http_house(tmp_path, online=False) as here:
        answer = await here.http.get("/api/queue", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
        assert "http.hosts" in answer.json()["error"]


async def test_names_that_are_ours_are_answered(tmp_path: Path) -> None:
    more = {"hosts": ["bridge.lan"], "public_url": "https://pictures.example.org/comfy"}
    async with http_house(tmp_path, online=False, http=more) as here:
        for host in (
            "localhost",
            "127.0.0.1:99",
            "[::1]:8189",
            "192.168.1.7",
            "bridge.lan",
            "BRIDGE.LAN.",
            "pictures.example.org",
        ):
            assert (await here.http.get("/api/queue", headers={"Host": host})).status_code == 200, host


async def test_pages_of_other_sites_change_nothing(tmp_path: Path) -> None:
    async with http_house(tmp_path, online=False, http={"cors": ["https://ok.example"]}) as here:
        for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
            answer = await here.http.post("/api/interrupt", headers={"Origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), origin
            assert "access-control-allow-origin" not in answer.headers
        allowed = await here.http.post("/api/interrupt", headers={"Origin": "https://ok.example"})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://ok.example")
        asked = {"Origin": "https://ok.example", "Access-Control-Request-Method": "PATCH"}
        preflight = await here.http.options("/api/workflows/fox", headers=asked)
        assert preflight.status_code == 200
        assert "PATCH" in preflight.headers["access-control-allow-methods"]


async def test_too_much_is_refused(tmp_path: Path) -> None:
    async with http_house(tmp_path, online=False, http={"max_body": 1000}) as here:
        answer = await here.http.post("/api/jobs", content=b"x" * 1001)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")

        async def chunks() -> object:
            for _ in range(20):
                yield b"x" * 100

        answer = await here.http.post("/api/jobs", content=chunks())  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        lying = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n"
        assert b" 413 " in await raw(here.port, lying) or b" 400 " in await raw(here.port, lying)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /api/queue HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /api/queue HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: abcdefgh\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET /api/queue HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["long header", "many headers", "long address", "noise", "negative length"],
)
async def test_heads_without_end_are_refused(tmp_path: Path, head: bytes) -> None:
    async with http_house(tmp_path, online=False) as here:
        said = await raw(here.port, head)
        # Which of them it is depends on the parser that is installed.
        assert said == b"" or said.split(b" ", 2)[1] in {b"400", b"413", b"431"}, said[:200]
        assert (await here.http.get("/health")).status_code == 200


async def test_a_head_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.5)
    async with http_house(tmp_path, online=False) as here, connect(f"ws://127.0.0.1:{here.relay}") as relay:
        assert await raw(here.port, b"") == b""
        assert await raw(here.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A:") == b""
        said = await raw(here.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nX-A:")
        assert said.count(b"200 OK") == 1
        async with here.http.stream("GET", "/api/events") as events:
            await anext(events.aiter_bytes())
            await asyncio.sleep(0.6)  # longer than a head may take: what was asked in time is left alone
            await (await relay.ping())
            assert (await here.http.get("/health")).status_code == 200


@pytest.mark.parametrize("parser", ["httptools", "h11"])
async def test_either_parser_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parser: str) -> None:
    found = importlib.util.find_spec("httptools") if parser == "httptools" else None
    monkeypatch.setattr("importlib.util.find_spec", lambda _: found)
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.3)
    async with http_house(tmp_path, online=False) as here:
        assert await raw(here.port, b"GET /health HTTP/1.1\r\nX-A:") == b""
        assert (await here.http.get("/health")).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_SECONDS", 0.3)
    async with http_house(tmp_path, online=False) as here:
        said = await raw(
            here.port, b'POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"prompt"'
        )
        assert b" 408 " in said
        assert b"bad_payload" in said


async def test_hanging_up_in_mid_body_is_no_defect_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with http_house(tmp_path, online=False) as here:
        for path in ("/api/jobs", "/generate", "/api/workflows/img/run"):
            _, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{{".encode())
            await writer.drain()
            writer.close()
            await until(lambda line=f"POST {path}: 499": line in caplog.text)  # type: ignore[misc]
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


async def test_a_refused_websocket_is_told_why_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with http_house(tmp_path, online=False, http={"token": "t"}, headers={"Authorization": "Bearer t"}) as here:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(f"ws://127.0.0.1:{here.port}/ws"):
                raise AssertionError
        assert caught.value.response.status_code == 401
        assert b"a token is needed" in caught.value.response.body
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


async def raw(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read(10_000)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "bridge.lan"])  # noqa: S104  it must be refused
async def test_without_a_token_nobody_else_is_let_in(tmp_path: Path, host: str) -> None:
    made = settings.load(
        environ={},
        overrides={
            "http": {"host": host, "port": free_port()},
            "workflows": {"dir": str(tmp_path)},
            "store": {"url": f"sqlite:///{tmp_path}/a.db"},
        },
    )
    with pytest.raises(SettingsError, match=r"http\.token.*http\.allow_anonymous"):
        await daemon.run(made)


async def test_by_name_it_can_be_open_to_all(tmp_path: Path) -> None:
    http = {"host": "0.0.0.0", "allow_anonymous": True}  # noqa: S104  what is tested
    async with http_house(tmp_path, online=False, http=http) as here:
        assert (await here.http.get("/api/queue")).status_code == 200
        base = (await here.http.get("/api/info")).json()["addresses"]["http"]
        assert "0.0.0.0" not in base  # noqa: S104


async def test_a_port_that_is_taken_is_a_wrong_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for section in ("http", "relay"):
            ports = {"http": {"port": free_port()}, "relay": {"port": free_port()}} | {section: {"port": port}}
            made = settings.load(
                environ={},
                overrides={
                    **ports,
                    "workflows": {"dir": str(tmp_path)},
                    "store": {"url": f"sqlite:///{tmp_path}/{section}.db"},
                },
            )
            with pytest.raises(SettingsError, match=rf"{section}\.port.*{port}.*another program"):
                await daemon.run(made)


async def test_a_predecessor_may_take_a_moment_to_go(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    asyncio.get_running_loop().call_later(0.5, taken.close)
    async with http_house(tmp_path, online=False, http={"port": taken.getsockname()[1]}) as here:
        url = f"http://127.0.0.1:{here.plan.more['http']['port']}/health"
        async with httpx.AsyncClient() as http:
            assert (await http.get(url)).status_code == 200


async def test_it_stops_at_once_with_open_streams(tmp_path: Path) -> None:
    async with http_house(tmp_path) as here:
        job = (await here.http.post("/api/jobs", json={"prompt": sleep(60, 600)})).json()
        await here.becomes(job["id"], "running")
        waiting = asyncio.create_task(here.http.get(f"/api/jobs/{job['id']}", params={"wait": 60}))
        streams = [
            asyncio.create_task(_drained(here.url + path)) for path in (f"/api/jobs/{job['id']}/events", "/api/events")
        ]
        idle = await asyncio.open_connection("127.0.0.1", here.port)
        half = await asyncio.open_connection("127.0.0.1", here.port)
        half[1].write(b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        async with connect(f"ws://127.0.0.1:{here.relay}") as client:
            await asyncio.gather(*(_opened(task) for task in streams))
            began = time.monotonic()
            here.task.cancel()
            await asyncio.wait({here.task})
            took = time.monotonic() - began
            await client.wait_closed()
            assert client.close_code in {1001, 1012}
        assert took < 3
        answer = await waiting
        assert (answer.status_code, answer.json()["id"]) == (202, job["id"])
        for task in streams:
            assert (await task)[-1] in {"status", "progress", "preview", "queue", "snapshot"}
        for _, writer in (idle, half):
            writer.close()
        with socket.create_server(("127.0.0.1", here.port)):
            pass


async def _drained(url: str) -> list[str]:
    async with httpx.AsyncClient(timeout=30) as http, http.stream("GET", url) as answer:
        return [event.event async for event in told(answer)]


async def _opened(task: asyncio.Task[list[str]]) -> None:
    # What a stream says first is on its way once another request has been answered.
    del task
    await asyncio.sleep(0.2)


async def test_the_relay_alone(tmp_path: Path) -> None:
    async with http_house(tmp_path, online=False) as here:
        ports = {"http": {"port": 0}, "relay": {"port": free_port()}}
        alone = Plan(tmp_path / "alone", here.plan.broker, here.comfy.url, more=ports)
        async with bridge(alone), connect(f"ws://127.0.0.1:{ports['relay']['port']}"):
            pass

"""What follows a wrapper's request: webhooks and uploads to a real S3 server, over restarts and crashes too."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import io
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from bridge.jobs.store import Store
from tests.support.bridge_process import BridgeProcess, ComfyProcess, Plan, bridge, ended
from tests.support.brokers import free_port, until
from tests.support.graphs import fails, plain, sleep
from tests.support.http_house import NO_BROKER, HttpHouse, http_house
from tests.support.receivers import PATIENCE, S3, Hooked, s3_server
from tests.support.web import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
LAN = {"allowed_hosts": ["127.0.0.1"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpHouse]:
    async with http_house(tmp_path_factory.mktemp("deliveries"), security=LAN) as house:
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3]:
    async with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


async def sync(house: HttpHouse, given: dict[str, Any]) -> dict[str, Any]:
    answer = await house.http.post("/generate/sync", json={"input": given})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def post(http: httpx.AsyncClient, given: dict[str, Any]) -> dict[str, Any]:
    return dict((await http.post("/generate", json={"input": given})).json())


# Webhooks


async def hooked(house: HttpHouse, hook: Hooked, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    async with serving(hook.answer) as site:
        await post(house.http, {**given, "webhook": {"url": site.url("/hook"), **more}})
        return await hook.document()


async def test_a_webhook_has_the_result_and_a_signature(here: HttpHouse) -> None:
    hook = Hooked()
    given = {"workflow_json": plain(prefix="hook"), "return_outputs_as_base64": True, "request_id": "hook"}
    document = await hooked(here, hook, given, secret="shh", extra_params={"order": 7})
    assert set(document) == {"id", "status", "message", "output", "timings", "extra"}
    assert (document["id"], document["status"], document["extra"]) == ("hook", "completed", {"order": 7})
    assert document["output"][0]["data"]
    expected = hmac.new(b"shh", hook.bodies[0], hashlib.sha256).hexdigest()
    assert hook.signatures == [f"sha256={expected}"]


async def test_a_webhook_is_tried_again(here: HttpHouse) -> None:
    hook = Hooked(503)
    document = await hooked(here, hook, {"workflow_json": plain(prefix="retry")})
    assert len(hook.bodies) == 2
    assert hook.bodies[0] == hook.bodies[1]
    assert hook.signatures == [None, None]
    assert "extra" not in document


@pytest.mark.parametrize(
    ("given", "status"),
    [({"workflow_json": fails("no")}, "failed"), ({"modifier": "Nobody"}, "failed")],
    ids=["job", "no job"],
)
async def test_a_webhook_tells_every_outcome(here: HttpHouse, given: dict[str, Any], status: str) -> None:
    assert (await hooked(here, Hooked(), given))["status"] == status


async def test_the_secret_of_the_settings_signs_too(tmp_path: Path) -> None:
    async with http_house(tmp_path, security=LAN, webhooks={"secret": "ours"}) as house:
        hook = Hooked()
        await hooked(house, hook, {"workflow_json": plain()})
        expected = hmac.new(b"ours", hook.bodies[0], hashlib.sha256).hexdigest()
        assert hook.signatures == [f"sha256={expected}"]


async def test_a_webhook_to_the_inner_network_is_refused(tmp_path: Path) -> None:
    async with http_house(tmp_path) as house:
        hook = Hooked()
        async with serving(hook.answer) as site:
            given = {"workflow_json": plain(), "webhook": {"url": site.url("/hook")}, "request_id": "inner"}
            await sync(house, given)
            await settled(house.plan)
        assert site.asked == []


# Buckets


async def test_outputs_go_to_a_bucket(here: HttpHouse, s3: S3) -> None:
    result = await sync(
        here, {"workflow_json": plain(size=64, prefix="stored é+"), "request_id": "../stored", "s3": s3.block()}
    )
    output = result["output"][0]
    assert "upload_error" not in output
    assert result["timings"]["postprocess_ms"] >= 0
    stored = s3.objects()[f"___stored/{output['filename']}"]
    got = await here.http.get(output["url"])
    assert (got.status_code, got.headers["content-type"], got.content) == (200, "image/png", stored)
    assert Image.open(io.BytesIO(stored)).size == (64, 64)
    altered = await here.http.get(output["url"].replace("X-Amz-Signature=", "X-Amz-Signature=0"))
    assert altered.status_code == 403
    assert (await here.http.get("/result/..%2Fstored")).json()["output"] == result["output"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"secret_access_key": "wrong"}, "the address answered 403 SignatureDoesNotMatch"),
        ({"bucket_name": "absent"}, "the address answered 404 NoSuchBucket"),
    ],
)
async def test_an_upload_that_fails_is_told_of_its_output(
    here: HttpHouse, s3: S3, wrong: dict[str, Any], reason: str
) -> None:
    result = await sync(here, {"workflow_json": plain(prefix="unstored"), "s3": s3.block(**wrong)})
    assert result["status"] == "completed"
    assert result["output"][0]["upload_error"] == reason
    assert result["output"][0]["url"].startswith(here.url)
    assert "hidden" not in json.dumps(result)


async def test_a_bucket_in_the_inner_network_is_refused(tmp_path: Path, s3: S3) -> None:
    async with http_house(tmp_path) as house:
        result = await sync(house, {"workflow_json": plain(prefix="inner"), "s3": s3.block()})
        assert "security.allowed_hosts" in result["output"][0]["upload_error"]
    assert not [name for name in s3.objects() if "inner" in name]


# Over restarts


def database(plan: Plan) -> Path:
    return plan.folder / "data" / f"{plan.base}.db"


def notes(plan: Plan) -> list[tuple[int, str]]:
    """Whether something is owed, and the note, of each delivery in the store."""
    with contextlib.closing(sqlite3.connect(database(plan))) as db:
        return list(db.execute("SELECT owed, note FROM deliveries ORDER BY at"))


async def settled(plan: Plan) -> list[str]:
    """Wait until nothing is owed, and return the notes."""
    await until(lambda: not any(owed for owed, _ in notes(plan)), within=PATIENCE)
    return [note for _, note in notes(plan)]


async def stop(house: HttpHouse) -> None:
    house.task.cancel()
    await asyncio.wait({house.task})


async def test_a_webhook_that_was_not_taken_is_sent_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    hook = Hooked(503)
    async with http_house(tmp_path, security=LAN) as house, serving(hook.answer) as site:
        webhook = {"url": site.url("/hook/hidden-path"), "secret": "hidden", "extra_params": {"order": 7}}
        await post(house.http, {"workflow_json": plain(), "request_id": "late", "webhook": webhook})
        async with asyncio.timeout(PATIENCE):
            await hook.asked.wait()
        assert (await house.http.get("/api/health")).json()["deliveries"] == {"owed": 1}
        await stop(house)
        assert database(house.plan).stat().st_mode & 0o777 == 0o600
        assert [owed for owed, _ in notes(house.plan)] == [1]
        async with bridge(house.plan):
            document = await hook.document()
            assert (document["id"], document["status"], document["extra"]) == ("late", "completed", {"order": 7})
            expected = hmac.new(b"hidden", hook.bodies[-1], hashlib.sha256).hexdigest()
            assert hook.signatures[-1] == f"sha256={expected}"
            assert "hidden" not in "".join(await settled(house.plan))
        async with bridge(house.plan):
            await house.http.get("/result/late")
            assert (await house.http.get("/api/health")).json()["deliveries"] == {"owed": 0}
        assert len(hook.bodies) == 2
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("bridge", "stamina"))]
    assert any("webhook" in line or "stamina" in line for line in ours)
    assert "hidden" not in "".join(ours)


async def test_what_a_running_job_is_owed_outlives_a_crash(tmp_path: Path, s3: S3) -> None:
    hook, port = Hooked(), free_port()
    comfy = ComfyProcess(tmp_path)
    plan = Plan(tmp_path, NO_BROKER, comfy.url, more={"http": {"port": port}, "security": LAN})
    process = BridgeProcess(plan)
    async with serving(hook.answer) as site, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        with ended(process, comfy):
            await comfy.up()
            process.start()
            await answers(http)
            given = {"workflow_json": sleep(1.5, 5), "return_outputs_as_base64": True}
            webhook = {"url": site.url(), "secret": "hidden"}
            asked = await post(http, {**given, "request_id": "crashed", "s3": s3.block(), "webhook": webhook})
            assert asked["status"] == "pending"
            process.kill()
            process.start()
            document = await hook.document()
            assert (document["id"], document["status"]) == ("crashed", "completed")
            output = document["output"][-1]
            assert output["data"]
            assert s3.objects()[f"crashed/{output['filename']}"] == (await http.get(output["url"])).content
            assert "hidden" not in "".join(await settled(plan))
            process.stop()
            process.start()
            await answers(http)
            kept = (await http.get("/result/crashed")).json()
            assert (kept["status"], kept["output"][-1]["url"]) == ("completed", output["url"])
            process.stop()
    assert "hidden" not in process.log.read_text(encoding="utf-8")


async def answers(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await http.get("/health")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_pictures_wait_for_their_comfyui(tmp_path: Path) -> None:
    hook, port = Hooked(503), free_port()
    comfy = ComfyProcess(tmp_path)
    plan = Plan(tmp_path, NO_BROKER, comfy.url, more={"http": {"port": port}, "security": LAN})
    async with serving(hook.answer) as site, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        with ended(comfy):
            await comfy.up()
            async with bridge(plan):
                given = {"workflow_json": plain(), "return_outputs_as_base64": True, "webhook": {"url": site.url()}}
                await post(http, given)
                async with asyncio.timeout(PATIENCE):
                    await hook.asked.wait()
            comfy.kill()
            async with bridge(plan):
                await http.get("/health")
                await comfy.up()
                assert (await hook.document())["output"][0]["data"]


async def test_one_that_became_no_job_is_told_of_after_a_restart(tmp_path: Path) -> None:
    hook = Hooked(503)
    async with http_house(tmp_path, security=LAN) as house, serving(hook.answer) as site:
        await post(house.http, {"modifier": "Nobody", "request_id": "none", "webhook": {"url": site.url()}})
        async with asyncio.timeout(PATIENCE):
            await hook.asked.wait()
        await stop(house)
        async with bridge(house.plan):
            document = await hook.document()
            assert (document["id"], document["status"]) == ("none", "failed")
            assert "Unknown modifier: Nobody" in document["message"]
            await settled(house.plan)


async def test_what_is_more_than_a_day_old_is_given_up(tmp_path: Path) -> None:
    hook = Hooked()
    async with http_house(tmp_path, security=LAN) as house, serving(hook.answer) as site:
        await post(house.http, {"modifier": "Nobody", "webhook": {"url": site.url("/hook")}})
        await hook.document()
        note = json.loads((await settled(house.plan))[0])
        await stop(house)
        webhook = {"url": site.url("/old"), "secret": "hidden"}
        async with Store(f"sqlite:///{database(house.plan)}", keep=7 * 86400.0) as store:
            old = {**note, "queued_at": note["queued_at"] - 86401, "webhook": webhook}
            await store.keep_delivery("old", old, owed=True)
        async with bridge(house.plan):
            assert "hidden" not in "".join(await settled(house.plan))
        assert site.asked == ["/hook"]

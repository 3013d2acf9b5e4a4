"""Images set by commands: kept, uploaded to the ComfyUI that runs the job, and used by the name it gave."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from PIL import Image

from tests.support.bridge_process import House, house
from tests.support.graphs import img2img, picture
from tests.support.mqtt_eye import watching

LOOPBACK = {"security": {"allowed_hosts": ["127.0.0.1"]}}


def loaded(here: House, prompt_id: str) -> bytes:
    """The bytes of the file that the LoadImage of a prompt named."""
    name = here.graph(prompt_id)["10"]["inputs"]["image"]
    return here.comfy.folders.load_path(name).read_bytes()


def color(data: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    with Image.open(io.BytesIO(data)) as image:
        pixel = image.convert("RGB").getpixel(at)
    assert isinstance(pixel, tuple)
    return pixel


@asynccontextmanager
async def web_server(handler: object) -> AsyncIterator[str]:
    """A web server on loopback with one handler for every path."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_bytes_of_an_image_as_they_are(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="img") as here:
        for kind in ("PNG", "JPEG", "WEBP"):
            sent = picture(color="red", kind=kind)
            await here.eye.done("update/image/10", sent)
            prompt_id = await here.run()
            assert loaded(here, prompt_id) == sent
            # The graph inverts it: the picture that comes back was made from the one that was sent.
            result = here.eye.last(f"prompt/{prompt_id}/result").json
            (made,) = [one["n"] for one in result["outputs"] if one["node"] == "12"]
            red, green, blue = color(here.eye.outputs(prompt_id)[made])
            assert (red < 10, green > 245, blue > 245) == (True, True, True)


async def test_bytes_without_a_node_or_by_its_name(tmp_path: Path, broker_port: int) -> None:
    commands = {"update/image": "blue", "update/image/source": "red", "update/image/LoadImage": "white"}
    async with house(tmp_path, broker_port, loaded="img") as here:
        for command, name in commands.items():
            await here.eye.done(command, picture(color=name))
            assert loaded(here, await here.run()) == picture(color=name)


async def test_bytes_for_a_parameter_of_a_named_workflow(tmp_path: Path, broker_port: int) -> None:
    sent = picture(color="green")
    async with house(tmp_path, broker_port) as here:
        await here.eye.done("workflow/img/set/image", sent)
        assert loaded(here, await here.run(workflow="img")) == sent


async def test_base64_and_data_urls(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="img") as here:
        for name, before in (("red", ""), ("blue", "data:image/png;base64,")):
            sent = picture(color=name)
            text = before + base64.b64encode(sent).decode()
            await here.eye.done("update/image", {"node_id": 10, "base64": text})
            assert loaded(here, await here.run()) == sent
        once = picture(color="white")
        values = {"image": {"base64": base64.b64encode(once).decode()}}
        assert loaded(here, await here.run({"values": values})) == once
        assert loaded(here, await here.run()) == picture(color="blue")


async def test_a_file_that_comfyui_has(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="img") as here:
        folder = here.comfy.folders.root / "input"
        (folder / "sub").mkdir()
        (folder / "mine.png").write_bytes(picture(color="red"))
        (folder / "sub" / "other.png").write_bytes(picture(color="blue"))
        for name in ("mine.png", "sub/other.png"):
            await here.eye.done("update/image", {"node_id": 10, "filename": name})
            prompt_id = await here.run()
            assert here.graph(prompt_id)["10"]["inputs"]["image"] == name
        assert here.comfy.stats.uploads == 0


async def test_a_url_that_is_allowed(tmp_path: Path, broker_port: int) -> None:
    sent = picture(color="purple", kind="JPEG")

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/redirect":
            raise web.HTTPFound("/picture.jpg")
        return web.Response(body=sent, content_type="image/jpeg")

    async with web_server(handler) as url, house(tmp_path, broker_port, loaded="img", more=LOOPBACK) as here:
        for path in ("/picture.jpg", "/redirect"):
            await here.eye.done("update/image", {"node": "Source", "url": url + path})
            assert loaded(here, await here.run()) == sent


async def test_urls_that_are_refused(tmp_path: Path, broker_port: int) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=picture())

    async with web_server(handler) as url, house(tmp_path, broker_port, loaded="img") as here:
        port = url.rsplit(":", 1)[1]
        for address in (url, f"http://localhost:{port}/x", f"http://[::1]:{port}/", "http://169.254.169.254/latest"):
            await here.eye.refused(
                "update/image", {"node_id": 10, "url": address}, "not_allowed", "security.allowed_hosts"
            )
        for address in ("file:///etc/passwd", "ftp://example.org/a.png", "nonsense"):
            await here.eye.refused("update/image", {"node_id": 10, "url": address}, "bad_value", "http")
        assert asked == []


async def test_urls_that_give_no_image(tmp_path: Path, broker_port: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/page":
                return web.Response(text="<html>not an image</html>", content_type="text/html")
            case "/large":
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(40):
                    await response.write(bytes(100_000))
                return response
            case "/hang":
                await asyncio.sleep(60)
            case "/loop":
                raise web.HTTPFound("/loop")
        raise web.HTTPNotFound

    more = {**LOOPBACK, "media": {"fetch_timeout": 0.5, "max_input": 1_000_000}}
    async with web_server(handler) as url, house(tmp_path, broker_port, loaded="img", more=more) as here:
        for path, code in (
            ("/page", "bad_value"),
            ("/missing", "file_missing"),
            ("/large", "too_large"),
            ("/hang", "timeout"),
            ("/loop", "file_missing"),
        ):
            await here.eye.refused("update/image", {"node_id": 10, "url": url + path}, code)
        # Nothing of it was set.
        assert here.eye.last("workflow/img/values").json["image"] == "example.png"


async def test_a_mask_goes_with_its_image(tmp_path: Path, broker_port: int) -> None:
    mask = Image.new("L", (24, 16), 0)
    mask.paste(255, (0, 0, 12, 16))  # white, the left half, is what is masked
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    async with house(tmp_path, broker_port, loaded="img") as here:
        image = base64.b64encode(picture(color="red")).decode()
        document = {"node_id": 10, "base64": image, "mask": {"base64": base64.b64encode(buffer.getvalue()).decode()}}
        await here.eye.done("update/image", document)
        prompt_id = await here.run()
        with Image.open(io.BytesIO(loaded(here, prompt_id))) as used:
            alpha = used.convert("RGBA").getchannel("A")
            assert color(loaded(here, prompt_id), (20, 0)) == (255, 0, 0)
        assert (alpha.getpixel((2, 2)), alpha.getpixel((20, 2))) == (0, 255)
        result = here.eye.last(f"prompt/{prompt_id}/result").json
        (preview,) = [one["n"] for one in result["outputs"] if one["node"] == "13"]
        shown = here.eye.outputs(prompt_id)[preview]
        assert (color(shown, (2, 2)), color(shown, (20, 2))) == ((255, 255, 255), (0, 0, 0))


async def test_an_image_that_is_not_told_right(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="img") as here:
        await here.eye.refused("update/image", {"node_id": 10}, "bad_payload", "filename", "url", "base64")
        await here.eye.refused(
            "update/image", {"node_id": 10, "filename": "a.png", "url": "http://x"}, "bad_payload", "filename", "url"
        )
        await here.eye.refused(
            "update/image", {"node_id": 10, "filename": "missing.png"}, "file_missing", "missing.png"
        )
        await here.eye.refused("update/image", {"node_id": 10, "base64": "%%%"}, "bad_value", "base64")
        await here.eye.refused("update/image", {"node_id": 10, "filename": "a.png", "mask": "x"}, "bad_payload", "mask")
        await here.eye.refused("update/image/10", b"", "bad_value", "empty")
        await here.eye.refused("update/image", "", "bad_value", "empty")
        await here.eye.refused("update/image", "a.png", "bad_value", "PNG")


async def test_the_same_image_is_uploaded_once(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="img") as here:
        names = []
        for _ in range(3):
            await here.eye.done("update/image/10", picture(color="red"))
            names.append(here.graph(await here.run())["10"]["inputs"]["image"])
        assert len(set(names)) == 1
        assert here.comfy.stats.uploads == 1
        await here.eye.done("update/image/10", picture(color="blue"))
        assert here.graph(await here.run())["10"]["inputs"]["image"] != names[0]


async def test_the_name_that_comfyui_gave_is_the_one_that_is_used(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="img") as here:
        await here.eye.done("update/image/10", picture(color="red"))
        name = here.graph(await here.run())["10"]["inputs"]["image"]
        # Somebody has put another file under that name, and the bridge starts anew.
        (here.comfy.folders.root / "input" / name).write_bytes(picture(color="blue"))
        here.comfy.sockets.drop_all()
        await here.eye.until(lambda: len(here.eye.of(f"backend/{here.backend}/state")) >= 2)
        await here.eye.payload(f"backend/{here.backend}/state", "online")
        prompt_id = await here.run()
        assert here.graph(prompt_id)["10"]["inputs"]["image"] != name
        assert loaded(here, prompt_id) == picture(color="red")


async def test_an_image_outlives_a_restart_and_a_comfyui_that_forgot_it(tmp_path: Path, broker_port: int) -> None:
    sent = picture(color="orange")
    async with house(tmp_path, broker_port, loaded="img", base="keeps") as here:
        await here.eye.done("update/image/10", sent)
        assert loaded(here, await here.run()) == sent
        for file in (here.comfy.folders.root / "input").iterdir():
            file.unlink()
    async with house(tmp_path, broker_port, loaded="img", base="keeps") as here:
        assert loaded(here, await here.run()) == sent


async def test_a_large_image_comes_through(tmp_path: Path, broker_port: int) -> None:
    sent = picture(size=(8, 8)) + bytes(20_000_000)  # bytes after the end of a PNG are legal
    async with house(tmp_path, broker_port, loaded="img") as here:
        await here.eye.done("update/image/10", sent)
        assert loaded(here, await here.run()) == sent


async def test_images_from_mosquitto_pub(tmp_path: Path, broker_port: int) -> None:
    file = tmp_path / "sent.jpg"
    file.write_bytes(picture(color="yellow", kind="JPEG"))
    async with house(tmp_path, broker_port, loaded="img") as here:
        for version in ("mqttv5", "mqttv311"):
            before = len(here.eye.of("response/update/image"))
            process = await asyncio.create_subprocess_exec(
                "mosquitto_pub",
                *("-V", version, "-h", "127.0.0.1", "-p", str(broker_port)),
                *("-t", f"{here.base}/update/image/10", "-f", str(file)),
            )
            assert await process.wait() == 0
            answer = await here.eye.count("response/update/image", before + 1)
            assert answer.json["status"] == "ok"
            assert loaded(here, await here.run()) == file.read_bytes()


async def test_no_workflow_needs_the_default_image_of_its_file(tmp_path: Path, broker_port: int) -> None:
    graph = img2img()
    graph["10"]["inputs"]["image"] = "not-on-this-machine.png"
    async with house(tmp_path, broker_port, workflows={"img": graph}, loaded="img") as here:
        prompt_id = await here.eye.queue()
        result = await here.eye.over(prompt_id)
        assert (result["status"], result["error"]["code"]) == ("failed", "node_errors")
        assert "not-on-this-machine.png" in result["error"]["message"]
        await here.eye.done("update/image/10", picture())
        await here.run()
        async with watching(broker_port, here.base) as late:
            assert (await late.first("workflow/img/image")).content_type == "image/png"

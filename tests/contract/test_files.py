from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from tests.contract.peer import Peer, Server, save_graph, unused_name


def picture(colour: str = "red", size: tuple[int, int] = (40, 20), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


async def _output(peer: Peer, **fields: object) -> dict[str, str]:
    _, events = await peer.run(save_graph(size=48, colour=0x336699, prefix=unused_name("contract")), **fields)
    (output,) = [event.data["output"] for event in events if event.kind == "executed"]
    image = output["images"][0]
    assert isinstance(image, dict)
    return image


async def test_an_upload_gets_a_name(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        stem = unused_name("up")
        first, second = picture("red"), picture("blue")
        answers = [await peer.upload(f"{stem}.png", data) for data in (first, first, second)]
        assert [answer.json()["name"] for answer in answers] == [f"{stem}.png", f"{stem}.png", f"{stem} (1).png"]
        assert answers[0].json() == {"name": f"{stem}.png", "subfolder": "", "type": "input"}
        shouted = await peer.upload(f"{stem}.png", picture("green"), overwrite="True")
        assert shouted.json()["name"] == f"{stem} (2).png"
        for spelling in ("true", "1"):
            answer = await peer.upload(f"{stem}.png", picture("white"), overwrite=spelling)
            assert answer.json()["name"] == f"{stem}.png"
        seen = await peer.http.get("/view", params={"filename": f"{stem}.png", "type": "input"})
        assert seen.content == picture("white")


async def test_an_upload_may_go_elsewhere(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        name = unused_name("ü #1") + ".png"
        answer = await peer.upload(name, picture(), subfolder="contract/deep", type="temp")
        assert answer.json() == {"name": name, "subfolder": "contract/deep", "type": "temp"}
        where = {"filename": name, "subfolder": "contract/deep", "type": "temp"}
        assert (await peer.http.get("/view", params=where)).content == picture()


async def test_wrong_uploads(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        name = unused_name("up") + ".png"
        assert (await peer.upload(name, picture(), subfolder="../x")).status_code == 400
        assert (await peer.upload("../" + name, picture())).status_code == 400
        assert (await peer.upload(unused_name("no") + "/" + name, picture())).status_code == 500
        assert (await peer.upload(name, picture(), type="bogus")).status_code == 500
        other = await peer.http.post("/upload/image", files={"file": (name, picture(), "image/png")})
        assert other.status_code == 400
        assert (await peer.http.post("/upload/image", content=b"")).status_code == 400


async def test_a_mask_becomes_the_alpha_of_the_original(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        original = (await peer.upload(unused_name("original") + ".png", picture("red"))).json()
        buffer = io.BytesIO()
        Image.new("RGBA", (40, 20), (0, 0, 0, 77)).save(buffer, "PNG")
        files = {"image": (unused_name("masked") + ".png", buffer.getvalue(), "image/png")}
        reference = {"filename": original["name"], "subfolder": "", "type": "input"}
        answer = await peer.http.post("/upload/mask", files=files, data={"original_ref": json.dumps(reference)})
        where = {"filename": answer.json()["name"], "type": "input"}
        assert opened((await peer.http.get("/view", params=where)).content).getpixel((3, 3)) == (255, 0, 0, 77)
        alpha = await peer.http.get("/view", params={**where, "channel": "a"})
        assert opened(alpha.content).convert("RGBA").getpixel((3, 3))[3] == 77  # type: ignore[index]  # four bands
        assert (await peer.http.post("/upload/mask", files=files)).status_code == 500


async def test_a_saved_picture_can_be_viewed(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        where = await _output(peer, extra_data={"extra_pnginfo": {"workflow": {"a": 1}}})
        answer = await peer.http.get("/view", params=where)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-disposition"] == f'filename="{where["filename"]}"'
        image = opened(answer.content)
        assert (image.size, image.getpixel((5, 5))) == ((48, 48), (0x33, 0x66, 0x99))
        assert json.loads(image.info["prompt"])["2"]["class_type"] == "SaveImage"
        assert json.loads(image.info["workflow"]) == {"a": 1}
        head = await peer.http.head("/view", params=where)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))
        part = await peer.http.get("/view", params=where, headers={"Range": "bytes=0-9"})
        assert (part.status_code, part.content) == (206, answer.content[:10])


@pytest.mark.parametrize(
    ("wanted", "kind"), [("webp;90", "webp"), ("jpeg;60", "jpeg"), ("png", "webp"), ("webp", "webp")]
)
async def test_previews_of_files(comfyui: Server, wanted: str, kind: str) -> None:
    async with comfyui.peer() as peer:
        where = await _output(peer)
        answer = await peer.http.get("/view", params={**where, "preview": wanted})
        assert answer.headers["content-type"] == f"image/{kind}"
        assert opened(answer.content).format == kind.upper()


async def test_what_cannot_be_viewed(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        text = (await peer.upload(unused_name("x") + ".txt", b"hello")).json()["name"]
        cases = [
            ({"filename": "nope.png", "type": "input"}, 404),
            ({}, 404),
            ({"filename": ""}, 400),
            ({"filename": "../up.png", "type": "input"}, 400),
            ({"filename": "/etc/passwd"}, 400),
            ({"filename": "passwd", "subfolder": "../../../../etc", "type": "input"}, 403),
            ({"filename": "up.png", "type": "bogus"}, 400),
            ({"filename": text, "type": "input", "preview": "webp"}, 500),
        ]
        for params, status in cases:
            assert (await peer.http.get("/view", params=params)).status_code == status, params
        noted = await peer.http.get("/view", params={"filename": f"{text} [input]"})
        assert (noted.content, noted.headers["content-type"]) == (b"hello", "text/plain")


async def test_file_names_count_and_expand(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        stem = unused_name("k")
        names = []
        for _ in range(2):
            _, events = await peer.run(save_graph(prefix=f"contract/{stem}_%width%x%height%"))
            (output,) = [event.data["output"] for event in events if event.kind == "executed"]
            names.append(output["images"][0])
        assert names == [
            {"filename": f"{stem}_64x64_{number:05}_.png", "subfolder": "contract", "type": "output"}
            for number in (1, 2)
        ]


async def test_a_prefix_outside_of_the_folder_is_a_run_time_error(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        _, events = await peer.run(save_graph(prefix="../../escape"))
        assert events[-2].kind == "execution_error"
        assert events[-2].data["node_id"] == "2"
        assert "outside the output folder" in events[-2].data["exception_message"]


async def test_an_uploaded_picture_can_be_used(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        name = (await peer.upload(unused_name("used") + ".png", picture("white", (64, 32)))).json()["name"]
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "3": {
                "class_type": "ImageScale",
                "inputs": {
                    "image": ["2", 0],
                    "upscale_method": "nearest-exact",
                    "width": 32,
                    "height": 32,
                    "crop": "center",
                },
            },
            "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        }
        _, events = await peer.run(graph)
        (output,) = [event.data["output"] for event in events if event.kind == "executed"]
        where = output["images"][0]
        assert where["type"] == "temp"
        assert where["filename"].startswith("ComfyUI_temp_")
        image = opened((await peer.http.get("/view", params=where)).content)
        assert (image.size, image.getpixel((5, 5))) == ((32, 32), (0, 0, 0))


async def test_sound_and_animations(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        sound = {
            "1": {"class_type": "EmptyAudio", "inputs": {"duration": 0.5, "sample_rate": 44100, "channels": 2}},
            "2": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": unused_name("audio/n")}},
        }
        _, events = await peer.run(sound)
        (output,) = [event.data["output"] for event in events if event.kind == "executed"]
        answer = await peer.http.get("/view", params=output["audio"][0])
        assert answer.headers["content-type"] in {"audio/flac", "audio/x-flac"}
        assert answer.content.startswith(b"fLaC")
        film = save_graph(batch=3)
        film["2"] = {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {
                "images": ["1", 0],
                "filename_prefix": unused_name("film"),
                "fps": 6.0,
                "lossless": True,
                "quality": 80,
                "method": "default",
            },
        }
        _, events = await peer.run(film)
        (output,) = [event.data["output"] for event in events if event.kind == "executed"]
        assert output["animated"] == [True]
        answer = await peer.http.get("/view", params=output["images"][0])
        assert answer.headers["content-type"] == "image/webp"

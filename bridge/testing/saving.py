"""The nodes that give results: files and frames."""

from __future__ import annotations

import random
import string
from typing import Any

from PIL import Image

from bridge.testing import audio, drawing
from bridge.testing.folders import Escape
from bridge.testing.values import SMALL, Arguments, Audio, Context, Images, Result


def _texts(run: Context) -> dict[str, Any]:
    extra = run.extra_data.get("extra_pnginfo")
    return {"prompt": run.graph, **(extra if isinstance(extra, dict) else {})}


def _reserve(run: Context, kind: str, prefix: str, size: tuple[int, int]) -> tuple[Any, str, str, int]:
    try:
        return run.folders.reserve(kind, prefix, *size)
    except Escape:
        raise Exception("**** ERROR: Saving image outside the output folder is not allowed.") from None  # noqa: TRY002


async def _save_frames(run: Context, images: Images, kind: str, prefix: str) -> Result:
    texts = _texts(run)
    folder, name, subfolder, counter = _reserve(run, kind, prefix, images.size)
    saved = []
    encoded: dict[int, bytes] = {}
    for index, image in enumerate(images.frames):
        if id(image) not in encoded:
            small = image.width * image.height <= SMALL
            encoded[id(image)] = drawing.png(image, texts) if small else await run.draw(drawing.png, image, texts)
        filename = f"{name.replace('%batch_num%', str(index))}_{counter:05}_.png"
        (folder / filename).write_bytes(encoded[id(image)])
        run.folders.used(folder, name, counter)
        counter += 1
        run.wrote(subfolder, filename)
        saved.append({"filename": filename, "subfolder": subfolder, "type": kind})
        run.check()
    return (), {"images": saved}


async def save_image(run: Context, given: Arguments) -> Result:
    """SaveImage: files in the output folder."""
    return await _save_frames(run, given["images"], "output", given["filename_prefix"])


def _temp_prefix() -> str:
    return "ComfyUI_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))


async def preview_image(run: Context, given: Arguments) -> Result:
    """PreviewImage: files in the temp folder."""
    return await _save_frames(run, given["images"], "temp", _temp_prefix())


async def preview_mask(run: Context, given: Arguments) -> Result:
    """MaskPreview: the mask as a picture in the temp folder."""
    return await _save_frames(run, Images((given["mask"].convert("RGB"),)), "temp", _temp_prefix())


async def save_to_socket(run: Context, given: Arguments) -> Result:
    """SaveImageWebsocket: full pictures as frames, no files."""
    frames = given["images"].frames
    for index, image in enumerate(frames):
        run.tick(index, len(frames), await run.draw(drawing.png, image, {}), 2)
    return (), None


def _write_animation(path: Any, frames: tuple[Image.Image, ...], options: dict[str, Any]) -> None:
    # Copies: writers tell frames apart by identity, and a batch may hold one picture many times.
    first, *rest = [frame.copy() for frame in frames]
    first.save(path, save_all=True, append_images=rest, **options)


async def _animation(run: Context, given: Arguments, suffix: str, options: dict[str, Any]) -> Result:
    images: Images = given["images"]
    folder, name, subfolder, counter = _reserve(run, "output", given["filename_prefix"], images.size)
    filename = f"{name}_{counter:05}_.{suffix}"
    options["duration"] = int(1000 / given["fps"])
    await run.draw(_write_animation, folder / filename, images.frames, options)
    run.folders.used(folder, name, counter)
    run.wrote(subfolder, filename)
    shown = {"filename": filename, "subfolder": subfolder, "type": "output"}
    return (), {"images": [shown], "animated": [True]}


async def animated_webp(run: Context, given: Arguments) -> Result:
    """SaveAnimatedWEBP."""
    return await _animation(run, given, "webp", {"lossless": given["lossless"], "quality": given["quality"]})


async def animated_png(run: Context, given: Arguments) -> Result:
    """SaveAnimatedPNG."""
    return await _animation(run, given, "png", {"compress_level": given["compress_level"]})


async def _save_audio_as(run: Context, sound: Audio, kind: str, prefix: str) -> Result:
    folder, name, subfolder, counter = _reserve(run, kind, prefix, (0, 0))
    filename = f"{name.replace('%batch_num%', '0')}_{counter:05}_.flac"
    data = await run.draw(audio.silent_flac, sound.duration, sound.rate, sound.channels)
    (folder / filename).write_bytes(data)
    run.folders.used(folder, name, counter)
    run.wrote(subfolder, filename)
    return (), {"audio": [{"filename": filename, "subfolder": subfolder, "type": kind}]}


async def save_audio(run: Context, given: Arguments) -> Result:
    """SaveAudio: a FLAC file in the output folder."""
    return await _save_audio_as(run, given["audio"], "output", given["filename_prefix"])


async def preview_audio(run: Context, given: Arguments) -> Result:
    """PreviewAudio: a FLAC file in the temp folder."""
    return await _save_audio_as(run, given["audio"], "temp", _temp_prefix())

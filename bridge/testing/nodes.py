"""What each node class does; those that save are in `saving`."""

from __future__ import annotations

import dataclasses
import json
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from PIL import Image, ImageChops, ImageFilter, ImageOps

from bridge.testing import drawing, saving
from bridge.testing.drawing import Scene
from bridge.testing.values import SMALL, Arguments, Audio, Context, Images, Latent, Result, pause

_RESAMPLING = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


async def _checkpoint(_: Context, given: Arguments) -> Result:
    return (given["ckpt_name"],) * 3, None


async def _first_given(_: Context, given: Arguments) -> Result:
    return (next(iter(given.values())),), None


async def _lora(_: Context, given: Arguments) -> Result:
    return (given["model"], given["clip"]), None


async def _encode_text(_: Context, given: Arguments) -> Result:
    if given["clip"] is None:
        raise RuntimeError("ERROR: clip input is invalid: None")
    return (given["text"],), None


async def _empty_latent(_: Context, given: Arguments) -> Result:
    drawing.check_size(given["width"], given["height"])
    return (Latent(Scene(given["width"] // 8 * 8, given["height"] // 8 * 8), given["batch_size"]),), None


async def _encode_image(_: Context, given: Arguments) -> Result:
    pixels: Images = given["pixels"]
    width, height = (edge // 8 * 8 for edge in pixels.size)
    return (Latent(Scene(width, height, source=pixels.frames[0]), len(pixels.frames), picture=pixels.frames[0]),), None


async def _same_samples(_: Context, given: Arguments) -> Result:
    return (given["samples"],), None


async def _sample(run: Context, given: Arguments) -> Result:
    first, last = 0, given["steps"]
    if "start_at_step" in given:
        first, last = min(given["start_at_step"], last), min(given["end_at_step"], last)
    latent: Latent = given["latent_image"]
    seed = given.get("seed", given.get("noise_seed", 0))
    scene = dataclasses.replace(
        latent.scene,
        source=latent.picture or latent.scene.source,
        seed=seed,
        text=str(given["positive"]),
        note=f"seed {seed}   {given['steps']} steps   cfg {given['cfg']:g}   {given['sampler_name']}",
        denoise=given.get("denoise", 1.0),
    )
    picture = await run.draw(drawing.render, scene)
    settings = run.settings
    clear = await run.draw(drawing.fitted, picture, settings.preview_size) if settings.previews else None
    total = max(0, last - first)
    due = time.monotonic()
    for step in range(1, total + 1):
        shown = None
        if clear is not None:
            shown = await run.draw(drawing.preview, clear, step, total, seed, settings.preview_bytes)
        due += settings.step_delay
        await pause(due)
        run.tick(step, total, shown)
    return (Latent(scene, latent.count, sampled=True, picture=picture),), None


async def _decode(run: Context, given: Arguments) -> Result:
    latent: Latent = given["samples"]
    picture = latent.picture
    if picture is None:
        picture = await run.draw(drawing.render, latent.scene)
    frames = [picture]
    for index in range(1, latent.count):
        if not latent.sampled:
            frames.append(frames[0])
            continue
        note = f"{latent.scene.note}   picture {index + 1} of {latent.count}"
        other = dataclasses.replace(latent.scene, seed=latent.scene.seed + index, note=note)
        frames.append(await run.draw(drawing.render, other))
        run.check()
    return (Images(tuple(frames)),), None


def _open(path: Any) -> tuple[Image.Image, Image.Image]:
    with Image.open(path) as opened:
        opened.load()
        image = ImageOps.exif_transpose(opened)
        mask = image.getchannel("A").point(lambda value: 255 - value) if "A" in image.getbands() else None
        return image.convert("RGB"), mask or Image.new("L", (64, 64), 0)


async def _load(run: Context, given: Arguments) -> Result:
    image, mask = await run.draw(_open, run.folders.load_path(given["image"]))
    return (Images((image,)), mask), None


def _open_channel(path: Any, channel: str) -> Image.Image:
    with Image.open(path) as opened:
        image = opened.convert("RGBA").getchannel({"alpha": "A", "red": "R", "green": "G", "blue": "B"}[channel])
    return ImageOps.invert(image) if channel == "alpha" else image


async def _load_mask(run: Context, given: Arguments) -> Result:
    return (await run.draw(_open_channel, run.folders.load_path(given["image"]), given["channel"]),), None


async def _empty_image(_: Context, given: Arguments) -> Result:
    drawing.check_size(given["width"], given["height"])
    colour = given["color"]
    image = Image.new("RGB", (given["width"], given["height"]), (colour >> 16, (colour >> 8) & 255, colour & 255))
    return (Images((image,) * given["batch_size"]),), None


async def _each(run: Context, images: Images, change: Callable[[Image.Image], Image.Image]) -> Result:
    changed: dict[int, Image.Image] = {}
    for image in images.frames:
        if id(image) not in changed:
            work = run.draw(change, image) if image.width * image.height > SMALL else None
            changed[id(image)] = change(image) if work is None else await work
        run.check()
    return (Images(tuple(changed[id(image)] for image in images.frames)),), None


async def _scale(run: Context, given: Arguments) -> Result:
    images: Images = given["image"]
    width, height = given["width"], given["height"]
    if width == height == 0:
        return (images,), None
    old_width, old_height = images.size
    width = width or max(1, round(old_width * height / old_height))
    height = height or max(1, round(old_height * width / old_width))
    drawing.check_size(width, height)
    method = _RESAMPLING[given["upscale_method"]]
    if given["crop"] == "center":
        return await _each(run, images, lambda image: ImageOps.fit(image, (width, height), method))
    return await _each(run, images, lambda image: image.resize((width, height), method))


async def _scale_by(run: Context, given: Arguments) -> Result:
    images: Images = given["image"]
    width, height = (max(1, round(edge * given["scale_by"])) for edge in images.size)
    drawing.check_size(width, height)
    method = _RESAMPLING[given["upscale_method"]]
    return await _each(run, images, lambda image: image.resize((width, height), method))


async def _upscale(run: Context, given: Arguments) -> Result:
    images: Images = given["image"]
    width, height = (edge * 4 for edge in images.size)
    drawing.check_size(width, height)
    # The real node counts the tiles it has done.
    tiles = max(1, -(-images.size[0] // 512)) * max(1, -(-images.size[1] // 512))
    due = time.monotonic()
    for tile in range(1, tiles + 1):
        due += run.settings.step_delay
        await pause(due)
        run.tick(tile, tiles)
    return await _each(run, images, lambda image: image.resize((width, height), Image.Resampling.BICUBIC))


async def _invert(run: Context, given: Arguments) -> Result:
    return await _each(run, given["image"], ImageOps.invert)


async def _blend(run: Context, given: Arguments) -> Result:
    base: Images = given["image1"]
    other = given["image2"].frames[0].resize(base.size)
    modes: dict[str, Callable[[Image.Image, Image.Image], Image.Image]] = {
        "normal": lambda _, second: second,
        "multiply": ImageChops.multiply,
        "screen": ImageChops.screen,
        "overlay": ImageChops.overlay,
        "soft_light": ImageChops.soft_light,
        "difference": ImageChops.difference,
    }
    mix = modes[given["blend_mode"]]
    return await _each(run, base, lambda image: Image.blend(image, mix(image, other), given["blend_factor"]))


async def _size(run: Context, given: Arguments) -> Result:
    images: Images = given["image"]
    width, height = images.size
    run.sockets.text(run.node_id, f"width: {width}, height: {height}\n batch size: {len(images.frames)}")
    return (width, height, len(images.frames)), None


async def _preview_any(_: Context, given: Arguments) -> Result:
    source = given["source"]
    if isinstance(source, dict | list):
        source = json.dumps(source)
    return (), {"text": [str(source)]}


async def _concatenate(_: Context, given: Arguments) -> Result:
    return (given["delimiter"].join((given["string_a"], given["string_b"])),), None


async def _solid_mask(_: Context, given: Arguments) -> Result:
    drawing.check_size(given["width"], given["height"])
    return (Image.new("L", (given["width"], given["height"]), round(255 * given["value"])),), None


async def _batch(run: Context, given: Arguments) -> Result:
    first: Images = given["image1"]
    ((second,), _) = await _each(run, given["image2"], lambda image: ImageOps.fit(image, first.size))
    return (Images((*first.frames, *second.frames)),), None


async def _blur(run: Context, given: Arguments) -> Result:
    return await _each(run, given["image"], lambda image: image.filter(ImageFilter.GaussianBlur(given["sigma"])))


async def _sharpen(run: Context, given: Arguments) -> Result:
    strength = round(100 * given["alpha"])
    return await _each(
        run, given["image"], lambda image: image.filter(ImageFilter.UnsharpMask(given["sigma"], strength, 0))
    )


async def _invert_mask(_: Context, given: Arguments) -> Result:
    return (ImageOps.invert(given["mask"]),), None


async def _mask_to_image(_: Context, given: Arguments) -> Result:
    return (Images((given["mask"].convert("RGB"),)),), None


async def _image_to_mask(_: Context, given: Arguments) -> Result:
    channel = {"red": "R", "green": "G", "blue": "B", "alpha": "A"}[given["channel"]]
    return (given["image"].frames[0].convert("RGBA").getchannel(channel),), None


async def _empty_audio(_: Context, given: Arguments) -> Result:
    return (Audio(given["duration"], given["sample_rate"], given["channels"]),), None


def _resized(latent: Latent, width: int, height: int) -> Latent:
    width, height = max(8, width // 8 * 8), max(8, height // 8 * 8)
    drawing.check_size(width, height)
    # What has been sampled already is the input picture of a second pass.
    source = latent.picture or latent.scene.source
    scene = dataclasses.replace(latent.scene, width=width, height=height, source=source)
    picture = None if latent.picture is None else latent.picture.resize((width, height))
    return dataclasses.replace(latent, scene=scene, picture=picture)


async def _scale_latent(_: Context, given: Arguments) -> Result:
    latent: Latent = given["samples"]
    width, height = given["width"], given["height"]
    if width == height == 0:
        return (latent,), None
    width = width or round(latent.scene.width * height / latent.scene.height)
    height = height or round(latent.scene.height * width / latent.scene.width)
    return (_resized(latent, width, height),), None


async def _scale_latent_by(_: Context, given: Arguments) -> Result:
    latent: Latent = given["samples"]
    factor = given["scale_by"]
    return (_resized(latent, round(latent.scene.width * factor), round(latent.scene.height * factor)),), None


async def _repeat_latent(_: Context, given: Arguments) -> Result:
    latent: Latent = given["samples"]
    return (dataclasses.replace(latent, count=latent.count * given["amount"]),), None


async def _fail(_: Context, given: Arguments) -> Result:
    raise MemoryError(given["message"]) if given.get("oom") else RuntimeError(given["message"])


async def _sleep(run: Context, given: Arguments) -> Result:
    due = time.monotonic()
    for step in range(1, given["steps"] + 1):
        due += given["seconds"] / given["steps"]
        await pause(due)
        run.tick(step, given["steps"])
    return (Images((Image.new("RGB", (8, 8)),)),), None


async def _frames(run: Context, given: Arguments) -> Result:
    count, size, rate = given["count"], given["bytes"], given["rate"]
    body = drawing.padded(drawing.tiny_jpeg(), max(0, size - 8))[: max(0, size - 8)]
    due = time.monotonic()
    for index in range(1, count + 1):
        if rate:
            due += 1 / rate
            await pause(due)
        run.check()
        run.preview(body + struct.pack(">d", time.time()))
        if given.get("progress"):
            run.tick(index, count)
        if not rate:
            await run.sockets.drained()
    return (), None


NODES: Mapping[str, Callable[[Context, Arguments], Awaitable[Result]]] = {
    "KSampler": _sample,
    "KSamplerAdvanced": _sample,
    "CheckpointLoaderSimple": _checkpoint,
    "CLIPTextEncode": _encode_text,
    "CLIPSetLastLayer": _first_given,
    "VAELoader": _first_given,
    "LoraLoader": _lora,
    "LoraLoaderModelOnly": _first_given,
    "EmptyLatentImage": _empty_latent,
    "VAEDecode": _decode,
    "VAEEncode": _encode_image,
    "VAEEncodeForInpaint": _encode_image,
    "SetLatentNoiseMask": _same_samples,
    "LoadImage": _load,
    "LoadImageMask": _load_mask,
    "SaveImage": saving.save_image,
    "PreviewImage": saving.preview_image,
    "SaveImageWebsocket": saving.save_to_socket,
    "EmptyImage": _empty_image,
    "ImageScale": _scale,
    "ImageScaleBy": _scale_by,
    "ImageInvert": _invert,
    "ImageBlend": _blend,
    "UpscaleModelLoader": _first_given,
    "ImageUpscaleWithModel": _upscale,
    "GetImageSize": _size,
    "PreviewAny": _preview_any,
    "PrimitiveString": _first_given,
    "PrimitiveStringMultiline": _first_given,
    "PrimitiveInt": _first_given,
    "PrimitiveFloat": _first_given,
    "PrimitiveBoolean": _first_given,
    "StringConcatenate": _concatenate,
    "SolidMask": _solid_mask,
    "MaskPreview": saving.preview_mask,
    "SaveAnimatedWEBP": saving.animated_webp,
    "SaveAnimatedPNG": saving.animated_png,
    "EmptyAudio": _empty_audio,
    "SaveAudio": saving.save_audio,
    "PreviewAudio": saving.preview_audio,
    "StandInFail": _fail,
    "StandInSleep": _sleep,
    "StandInFrames": _frames,
    "LatentUpscale": _scale_latent,
    "LatentUpscaleBy": _scale_latent_by,
    "RepeatLatentBatch": _repeat_latent,
    "ConditioningZeroOut": _first_given,
    "ImageBatch": _batch,
    "ImageBlur": _blur,
    "ImageSharpen": _sharpen,
    "InvertMask": _invert_mask,
    "MaskToImage": _mask_to_image,
    "ImageToMask": _image_to_mask,
}

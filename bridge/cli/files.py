"""The files that a job made, written where nothing is overwritten."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.cli.terminal import Failure
from bridge.cli.wire import outputs_of
from bridge.comfyui.address import parse_address
from bridge.comfyui.transport import HttpTransport, TimeLimits
from bridge.errors import BridgeError

_FORBIDDEN = frozenset('<>:"/\\|?*')
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))})
_LONGEST = 200
"""Bytes of a name; file systems take 255, and a number may be added."""


def safe_name(filename: str, *, n: int, content_type: str = "") -> str:
    """Return a name that every system takes, without folders: what comes over the wire may be anything."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    name = "".join("_" if c in _FORBIDDEN or not c.isprintable() else c for c in name).strip(" .")
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem, ending = name, ""
    if not stem.strip("_ ."):
        return f"output-{n}{mimetypes.guess_extension(content_type) or '.bin'}"
    if stem.partition(".")[0].lower() in _RESERVED:
        stem = f"_{stem}"
    ending = f".{ending}" if dot else ""
    if len(ending.encode()) > 20:
        stem, ending = stem + ending, ""
    room = _LONGEST - len(ending.encode())
    return stem.encode()[:room].decode(errors="ignore") + ending


def check_folder(folder: Path) -> None:
    """See whether files could be written there, making nothing. Raises Failure."""
    there = next((one for one in (folder, *folder.absolute().parents) if one.exists()), folder)
    if not there.is_dir():
        raise Failure(f"{there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Failure(f"nothing can be written to {folder}: permission denied; --out names another folder")


def write_new(folder: Path, name: str, data: bytes) -> Path:
    """Write a file under a name that is free: `name`, else with a number before its ending. Raises Failure."""
    plain = Path(name)
    number = 1
    while True:
        path = folder / (name if number == 1 else f"{plain.stem}-{number}{plain.suffix}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                try:
                    file.write(data)
                    file.flush()
                except OSError:
                    path.unlink(missing_ok=True)
                    raise
        except FileExistsError as error:
            if not folder.is_dir():
                raise Failure(f"{folder} is no folder") from error
            number += 1
        except OSError as error:
            raise Failure(f"{path} cannot be written: {error.strerror or error}") from error
        else:
            return path


async def bytes_of(output: Mapping[str, Any], received: bytes | None, *, max_bytes: int) -> bytes:
    """Return an output's bytes: those received by MQTT, else from its address. Raises Failure."""
    if received is not None:
        return received
    name, url = output.get("filename"), output.get("url")
    error = output.get("error")
    if isinstance(error, Mapping):
        raise Failure(f"{name} was made, and the bridge could not fetch it: {error.get('message')}")
    if not isinstance(url, str):
        raise Failure(f"{name} was made, and neither its bytes nor an address came")
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    try:
        transport = HttpTransport(parse_address(f"{scheme}://{host}"), TimeLimits())
        await transport.open()
        try:
            answer = await transport.request("GET", slash + path, max_bytes=max_bytes)
        finally:
            await transport.close()
    except BridgeError as failure:
        raise Failure(f"{name} came without its bytes, and {url} cannot be had: {failure.message}") from None
    if answer.status != 200 or answer.is_cut:
        why = f"has more than {max_bytes} bytes" if answer.is_cut else f"was answered with {answer.status}"
        raise Failure(f"{name} came without its bytes, and {url} {why}")
    return answer.body


async def write_outputs(
    folder: Path, result: Mapping[str, Any], received: Mapping[int, bytes], *, max_bytes: int
) -> tuple[list[Path], list[str]]:
    """Write the files of a result; return their paths, and a sentence for each that could not be had."""
    written: list[Path] = []
    problems: list[str] = []
    for n, output in enumerate(outputs_of(result)):
        number = output.get("n", n)
        try:
            data = await bytes_of(output, received.get(number), max_bytes=max_bytes)
            content_type = str(output.get("content_type") or "")
            name = safe_name(str(output.get("filename") or ""), n=n, content_type=content_type)
            written.append(write_new(folder, name, data))
        except Failure as problem:
            problems.append(str(problem))
    return written, problems

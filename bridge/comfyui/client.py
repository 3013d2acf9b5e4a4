"""The HTTP interface of one ComfyUI. The only module that knows its routes.

Every method raises `BackendOffline` if ComfyUI cannot be reached, refuses access, or is something else than ComfyUI,
and `TimedOut` if it was asked and takes too long; both name its address without credentials. A connection that breaks
after the request went out is `ConnectionLost`, a kind of `BackendOffline`: as after `TimedOut`, whether ComfyUI did
what was asked is then unknown.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode

import aiohttp

from bridge import errors
from bridge.comfyui.address import parse_address
from bridge.comfyui.failures import rejection
from bridge.comfyui.protocol import as_id, sniff_image
from bridge.comfyui.shapes import (
    FileRef,
    HistoryEntry,
    QueueState,
    parse_file,
    parse_history_entry,
    parse_queue,
)
from bridge.comfyui.transport import ConnectionLost, HttpTransport, Response, TimeLimits

__all__ = ["ComfyClient", "ConnectionLost", "Fetched", "Submitted", "TimeLimits"]

_JSON = {"Content-Type": "application/json"}
_FOLDERS = ("input", "output", "temp")


@dataclass(frozen=True, slots=True)
class Submitted:
    """What ComfyUI took. `node_errors` is empty, or names the nodes whose outputs it skips (`refused_nodes`)."""

    prompt_id: str
    number: float
    node_errors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file and its content type, as the server names it."""

    data: bytes
    content_type: str


class ComfyClient:
    """One ComfyUI over HTTP: `async with ComfyClient("http://127.0.0.1:8188") as client`.

    The address may have a path prefix, and `user:password@` for a proxy that asks for it. One client serves any
    number of tasks at once.
    """

    def __init__(self, url: str, *, limits: TimeLimits | None = None) -> None:
        self._address = parse_address(url)
        self._http = HttpTransport(self._address, limits or TimeLimits())

    @property
    def url(self) -> str:
        """The address without credentials."""
        return self._address.url

    async def __aenter__(self) -> Self:
        await self._http.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.close()

    async def submit(
        self,
        graph: Mapping[str, Any],
        *,
        prompt_id: str,
        client_id: str,
        extra_data: Mapping[str, Any] | None = None,
    ) -> Submitted:
        """Queue a graph in API format. Never tried twice.

        `NodeErrors`, `InvalidGraph` or `TooLarge` if it is refused (`failures.rejection`). After `TimedOut` or
        `ConnectionLost` (a proxy's 502, 503 or 504 too), and even after a 500, ComfyUI may or may not have queued it:
        only its queue and history tell. The prompt id in the answer counts; servers from before 2025-07 choose their
        own.
        """
        body = _prompt_body(graph, prompt_id, client_id, extra_data)
        answer = await self._http.request("POST", "/prompt", data=body, headers=_JSON)
        if answer.status in (400, 413, 500):
            raise rejection(answer.status, answer.body)
        if answer.status > 500:
            raise ConnectionLost(f"A proxy before ComfyUI at {self.url} answered {answer.status} to a prompt.")
        document = self._object(answer, "POST /prompt")
        taken_id, number = as_id(document.get("prompt_id")), document.get("number")
        if taken_id is None or not isinstance(number, int | float):
            raise self._stranger("POST /prompt")
        node_errors = document.get("node_errors")
        return Submitted(taken_id, number, node_errors if isinstance(node_errors, dict) else {})

    async def queue(self) -> QueueState:
        """Tell what runs and what waits, the latter in the order in which it will run."""
        state = parse_queue(self._json(await self._http.request("GET", "/queue"), "GET /queue"))
        if state is None:
            raise self._stranger("GET /queue")
        return state

    async def delete_pending(self, *prompt_ids: str) -> None:
        """Take prompts off the queue. ComfyUI says nothing about unknown or running ones: ask `queue` afterwards."""
        if prompt_ids:
            await self._post("/queue", {"delete": list(prompt_ids)})

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupt this prompt if it runs; no effect on others. Servers from before 2025-09 interrupt any prompt."""
        await self._post("/interrupt", {"prompt_id": prompt_id})

    async def history(self, prompt_id: str) -> HistoryEntry | None:
        """Tell how a prompt ended; None if it is unknown, or has not ended."""
        answer = await self._http.request("GET", f"/history/{_segment(prompt_id)}")
        document = self._object(answer, "GET /history")
        if prompt_id not in document:
            return None
        entry = parse_history_entry(prompt_id, document[prompt_id])
        if entry is None:
            raise self._stranger("GET /history")
        return entry

    async def knows(self, prompt_id: str) -> bool:
        """Tell whether a prompt waits, runs or is in the history."""
        # In this order: it goes from the one to the other under one lock.
        queue = await self.queue()
        if any(item.prompt_id == prompt_id for item in (*queue.running, *queue.pending)):
            return True
        return await self.history(prompt_id) is not None

    async def delete_history(self, *prompt_ids: str) -> None:
        """Make ComfyUI forget prompts that are over."""
        if prompt_ids:
            await self._post("/history", {"delete": list(prompt_ids)})

    async def view(self, file: FileRef, *, max_bytes: int) -> Fetched:
        """Fetch a file. `FileMissing` if it is not there, `TooLarge` as soon as it shows to be above the limit."""
        answer = await self._http.request("GET", _view_path(file), max_bytes=max_bytes)
        if answer.status in (400, 403, 404):
            raise errors.FileMissing(f"ComfyUI at {self.url} has no file {_name_of(file)}.")
        if answer.is_cut:
            raise errors.TooLarge(f"The file {_name_of(file)} has more than the {max_bytes} bytes that are allowed.")
        self._check(answer, "GET /view")
        content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        return Fetched(answer.body, content_type or "application/octet-stream")

    def view_url(self, file: FileRef) -> str:
        """Return the address of a file, without credentials."""
        return self.url + _view_path(file)

    async def exists(self, file: FileRef) -> bool | None:
        """Tell whether the file is there; None if the server cannot tell."""
        answer = await self._http.request("HEAD", _view_path(file))
        if answer.status in (400, 404):
            return False
        return True if answer.status == 200 else None

    async def upload_image(
        self,
        data: bytes,
        filename: str,
        *,
        content_type: str | None = None,
        subfolder: str = "",
        type: Literal["input", "output", "temp"] = "input",  # noqa: A002  ComfyUI's word, as in FileRef
        overwrite: bool = False,
    ) -> FileRef:
        """Put a file into a folder of ComfyUI and return where it really is: the name may have been changed.

        The same bytes under the same name are not stored twice. Characters that a file name must not have are
        replaced. `BadValue` if ComfyUI refuses the place, `TooLarge` above its `--max-upload-size`.
        """
        if type not in _FOLDERS:
            raise errors.BadValue(f"The type of an upload must be one of {', '.join(_FOLDERS)}.")
        fields = {"type": type, "subfolder": subfolder, "overwrite": "true" if overwrite else "false"}
        answer = await self._upload("/upload/image", fields, data, filename, content_type)
        return self._uploaded(answer, "POST /upload/image", filename)

    async def upload_mask(self, data: bytes, filename: str, *, original: FileRef) -> FileRef:
        """Store a copy of `original` that has the alpha channel of the image in `data`; return where it really is.

        `FileMissing` if the original is not there (ComfyUI itself would answer as if all were well), `BadValue` if
        `data` is no image of that size.
        """
        if await self.exists(original) is False:
            raise errors.FileMissing(f"ComfyUI at {self.url} has no file {_name_of(original)} to put a mask on.")
        fields = {"type": "input", "subfolder": "", "original_ref": json.dumps(_file_params(original))}
        answer = await self._upload("/upload/mask", fields, data, filename, None)
        if answer.status == 500:
            raise errors.BadValue(
                f"ComfyUI could not put the mask on {_name_of(original)}: "
                "it must be a PNG with an alpha channel and of the same width and height."
            )
        return self._uploaded(answer, "POST /upload/mask", filename)

    async def object_info(self) -> dict[str, Any]:
        """Describe all node classes: `{class: {"input": …, "output": …}}`."""
        return self._object(await self._http.request("GET", "/object_info"), "GET /object_info")

    async def system_stats(self) -> dict[str, Any]:
        """Describe the server: `{"system": {"comfyui_version", "ram_total", …}, "devices": [{"vram_total", …}]}`."""
        document = self._object(await self._http.request("GET", "/system_stats"), "GET /system_stats")
        if not isinstance(document.get("system"), dict):
            raise self._stranger("GET /system_stats")
        return document

    async def free(self, *, unload_models: bool, free_memory: bool) -> None:
        """Free memory before the next prompt; `free_memory` also drops the cached results."""
        await self._post("/free", {"unload_models": unload_models, "free_memory": free_memory})

    async def _post(self, path: str, document: Mapping[str, Any]) -> None:
        answer = await self._http.request(
            "POST", path, data=json.dumps(document).encode(), headers=_JSON, idempotent=True
        )
        self._check(answer, f"POST {path}")

    async def _upload(
        self, path: str, fields: dict[str, str], data: bytes, filename: str, content_type: str | None
    ) -> Response:
        if any(value.encode(errors="replace").decode() != value for value in fields.values()):
            raise errors.BadValue(f"A part of the place for {filename} is not text that can be sent.")
        form = aiohttp.FormData(fields, quote_fields=False)  # ComfyUI would keep the quotes as a part of the name
        kind = content_type or sniff_image(data)
        form.add_field("image", io.BytesIO(data), filename=_clean_name(filename), content_type=kind)
        return await self._http.request("POST", path, data=form)

    def _uploaded(self, answer: Response, call: str, filename: str) -> FileRef:
        if answer.status == 413:
            raise errors.TooLarge(
                f"{filename} is larger than ComfyUI accepts (100 MB, unless --max-upload-size says otherwise)."
            )
        if answer.status in (400, 403):
            raise errors.BadValue(f"ComfyUI at {self.url} refuses to store {filename} in that place.")
        document = self._object(answer, call)
        file = parse_file({**document, "filename": document.get("name")})
        if file is None:
            raise self._stranger(call)
        return file

    def _check(self, answer: Response, call: str) -> None:
        if answer.status == 200:
            return
        if answer.status in (401, 403, 407):
            raise errors.BackendOffline(
                f"ComfyUI at {self.url} refuses access ({call} was answered {answer.status}): "
                "if a proxy before it asks for a password, write it as http://user:password@host."
            )
        if answer.status >= 500:
            raise errors.BackendOffline(f"ComfyUI at {self.url} is not well: {call} was answered {answer.status}.")
        raise self._stranger(call, f" with {answer.status}")

    def _json(self, answer: Response, call: str) -> Any:
        self._check(answer, call)
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError):
            raise self._stranger(call) from None

    def _object(self, answer: Response, call: str) -> dict[str, Any]:
        document = self._json(answer, call)
        if not isinstance(document, dict):
            raise self._stranger(call)
        return document

    def _stranger(self, call: str, how: str = "") -> errors.BackendOffline:
        return errors.BackendOffline(
            f"The server at {self.url} does not look like ComfyUI: {call} was answered{how or ' in another shape'}."
        )


def _prompt_body(
    graph: Mapping[str, Any], prompt_id: str, client_id: str, extra_data: Mapping[str, Any] | None
) -> bytes:
    """Write the body of a prompt without anything that is known to end ComfyUI's worker or process.

    `inputs` that are no object end the worker when the node is off the validated path, `extra_data` that is none
    does so always, and a `client_id` that is no string ends the process, inside `extra_data` too.
    """
    nodes: dict[str, Any] = {}
    for node, content in graph.items():
        if not isinstance(content, Mapping):
            raise errors.InvalidGraph(f"Node {node} must be an object with class_type and inputs.", node=str(node))
        inputs = content.get("inputs")
        if inputs is not None and not isinstance(inputs, Mapping):
            raise errors.InvalidGraph(f"Node {node}: its inputs must be an object.", node=str(node))
        nodes[node] = content if inputs is not None else {**content, "inputs": {}}
    document: dict[str, Any] = {"prompt": nodes, "prompt_id": str(prompt_id), "client_id": str(client_id)}
    if extra_data:
        document["extra_data"] = {key: value for key, value in extra_data.items() if key != "client_id"}
    try:
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.InvalidGraph(f"The graph cannot be written as JSON: {error}.") from error


def _file_params(file: FileRef) -> dict[str, str]:
    return {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}


def _view_path(file: FileRef) -> str:
    return f"/view?{urlencode(_file_params(file), errors='replace')}"


def _segment(name: str) -> str:
    """Write a name as one part of a path; dots alone would be taken for a way up, even if escaped."""
    if name in ("", ".", ".."):
        raise errors.BadValue(f"{name!r} is not a name that ComfyUI could know.")
    return quote(name, safe="", errors="replace")


def _name_of(file: FileRef) -> str:
    return f"{file.subfolder}/{file.filename}" if file.subfolder else file.filename


def _clean_name(filename: str) -> str:
    """A slash would mean a folder that may be missing there (500), quotes and line ends break the form."""
    name = filename.replace("\\", "/").rpartition("/")[2].encode(errors="replace").decode()
    name = "".join("_" if character in '"*:<>?|' or not character.isprintable() else character for character in name)
    return name.strip(" .") or "upload"

"""Running one prompt: what is cached, which node comes next, and the events in the measured order."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from bridge.testing.catalogue import CLASSES
from bridge.testing.faults import Settings, Stats
from bridge.testing.folders import Escape, Folders
from bridge.testing.nodes import NODES
from bridge.testing.queue import Item
from bridge.testing.values import Ui
from bridge.testing.websocket import Sockets

_log = logging.getLogger(__name__)
_OOM_TIP = (
    "This error means you ran out of memory on your GPU.\n\n"
    "TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number."
)
P = ParamSpec("P")
T = TypeVar("T")


class Interrupted(Exception):
    """Somebody asked for the running prompt to stop."""


class Executor:
    """Runs prompts one at a time and keeps the outputs of the last one's nodes."""

    def __init__(self, sockets: Sockets, folders: Folders, settings: Settings, stats: Stats) -> None:
        self.sockets = sockets
        self.folders = folders
        self.settings = settings
        self.stats = stats
        self.interrupted = False
        self._cache: dict[str, tuple[tuple[Any, ...], Ui]] = {}

    def forget(self) -> None:
        """Drop the cached outputs."""
        self._cache.clear()

    async def execute(self, item: Item) -> dict[str, Any]:
        """Run a prompt; gives its history entry without the prompt itself. Never raises for a failing node."""
        self.interrupted = False
        return await _Run(self, item).run()

    def signatures(self, graph: dict[str, Any]) -> dict[str, str]:
        """What each node of the graph computes, as a digest of its class, inputs and ancestors."""
        known: dict[str, str] = {}

        def digest(node_id: str) -> str:
            if node_id in known:
                return known[node_id]
            known[node_id] = "cycle"
            node = graph[node_id]
            parts: list[Any] = [node["class_type"]]
            node_class = CLASSES[node["class_type"]]
            if node_class.fresh:
                parts.append(time.monotonic_ns())
            if node_class.hidden and "unique_id" in node_class.hidden:
                parts.append(node_id)
            if node_class.loads:
                parts.append(self._file_digest(node["inputs"].get(node_class.loads)))
            for name, value in sorted(node["inputs"].items()):
                if is_link(value):
                    parts.append([name, digest(value[0]) if value[0] in graph else None, value[1]])
                else:
                    parts.append([name, value])
            known[node_id] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
            return known[node_id]

        for node_id in graph:
            digest(node_id)
        return known

    def _file_digest(self, name: Any) -> str | None:
        try:
            return hashlib.sha256(self.folders.load_path(name).read_bytes()).hexdigest()
        except (OSError, Escape, TypeError, AttributeError):
            return None

    def cached(self, signature: str) -> tuple[tuple[Any, ...], Ui] | None:
        """The outputs of a node that ran in this or the last prompt."""
        return self._cache.get(signature)

    def keep(self, signature: str, result: tuple[tuple[Any, ...], Ui]) -> None:
        """Cache the outputs of a node."""
        self._cache[signature] = result

    def keep_only(self, signatures: set[str]) -> None:
        """Drop what the prompt that starts now cannot use."""
        self._cache = {key: value for key, value in self._cache.items() if key in signatures}


def is_link(value: Any) -> bool:
    """Whether an input's value names another node's output."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float)
    )


class _Run:
    """One run of one prompt. Its public methods are what a node may use."""

    def __init__(self, executor: Executor, item: Item) -> None:
        self._executor = executor
        self._sockets = executor.sockets
        self._number, self.prompt_id, self.graph, self.extra_data, self._outputs = item
        self.settings = executor.settings
        self.folders = executor.folders
        self.sockets = executor.sockets
        self.node_id = ""
        self._messages: list[tuple[str, dict[str, Any]]] = []
        self._progress: dict[str, dict[str, Any]] = {}
        self._executed: list[str] = []
        self._ui: dict[str, Any] = {}
        self._meta: dict[str, Any] = {}
        self._signatures: dict[str, str] = {}

    async def run(self) -> dict[str, Any]:
        # Outside of any handler, as in the real server: extra data that is no container ends the worker.
        self._sockets.client_id = self.extra_data["client_id"] if "client_id" in self.extra_data else None  # noqa: SIM401
        self._message("execution_start", {"prompt_id": self.prompt_id})
        signatures = self._signatures = self._executor.signatures(self.graph)
        self._executor.keep_only(set(signatures.values()))
        held = [node_id for node_id in self.graph if self._hit(node_id) is not None]
        self._message("execution_cached", {"nodes": held, "prompt_id": self.prompt_id})
        success = True
        for node_id in self._order():
            success = await self._node(node_id)
            if not success:
                break
            # Lets the publishing loop and HTTP run between nodes.
            await asyncio.sleep(0)
        else:
            self._message("execution_success", {"prompt_id": self.prompt_id})
        self._sockets.last_node = None
        return {
            "outputs": self._ui,
            "status": {
                "status_str": "success" if success else "error",
                "completed": success,
                "messages": [list(message) for message in self._messages],
            },
            "meta": self._meta,
        }

    def _hit(self, node_id: str) -> tuple[tuple[Any, ...], Ui] | None:
        return self._executor.cached(self._signatures[node_id])

    def _message(self, kind: str, data: dict[str, Any], *, broadcast: bool = False) -> None:
        data = {**data, "timestamp": int(time.time() * 1000)}
        self._messages.append((kind, data))
        if self._sockets.client_id is not None or broadcast:
            self._sockets.event(kind, data, self._sockets.client_id)

    def _order(self) -> list[str]:
        blockers: dict[str, set[str]] = {}

        def add(node_id: str) -> None:
            if node_id in blockers:
                return
            blockers[node_id] = set()
            if self._hit(node_id) is not None:
                return
            inputs = self.graph[node_id]["inputs"]
            node_class = CLASSES[self.graph[node_id]["class_type"]]
            for name in (*node_class.required, *(node_class.optional or {})):
                value = inputs.get(name)
                if is_link(value) and self._hit(value[0]) is None:
                    blockers[node_id].add(value[0])
                    add(value[0])

        for output in self._outputs:
            add(output)
        order: list[str] = []
        while blockers:
            ready = [node_id for node_id, needs in blockers.items() if not needs]
            chosen = self._choose(ready, blockers)
            order.append(chosen)
            del blockers[chosen]
            for needs in blockers.values():
                needs.discard(chosen)
        return order

    def _choose(self, ready: list[str], blockers: dict[str, set[str]]) -> str:
        # Output nodes first, then what leads to one soonest: results show as early as they can.
        def is_output(node_id: str) -> bool:
            return CLASSES[self.graph[node_id]["class_type"]].is_output

        def blocked_by(node_id: str) -> list[str]:
            return [other for other, needs in blockers.items() if node_id in needs]

        for node_id in ready:
            if is_output(node_id):
                return node_id
        for node_id in ready:
            if any(is_output(after) for after in blocked_by(node_id)):
                return node_id
        for node_id in ready:
            if any(is_output(last) for after in blocked_by(node_id) for last in blocked_by(after)):
                return node_id
        return ready[0]

    async def _node(self, node_id: str) -> bool:
        self.node_id = node_id
        hit = self._hit(node_id)
        if hit is not None:
            if self._sockets.client_id is not None:
                self._send_executed(hit[1])
            if hit[1] is not None:
                self._keep_ui(hit[1])
            self._set_progress(1, 1, "finished")
            return True
        node_class = CLASSES[self.graph[node_id]["class_type"]]
        arguments: dict[str, Any] = {}
        try:
            for name in (*node_class.required, *(node_class.optional or {})):
                if name in self.graph[node_id]["inputs"]:
                    arguments[name] = self._argument(self.graph[node_id]["inputs"][name])
            self._set_progress(0.0, 1.0, "running")
            if self._sockets.client_id is not None:
                self._sockets.last_node = node_id
                data = {"node": node_id, "display_node": node_id, "prompt_id": self.prompt_id}
                self._sockets.event("executing", data, self._sockets.client_id)
            self.check()
            outputs, ui = await NODES[node_class.name](self, arguments)
        except Interrupted:
            data = {"prompt_id": self.prompt_id, "node_id": node_id, "node_type": node_class.name}
            self._message("execution_interrupted", {**data, "executed": list(self._executed)}, broadcast=True)
            return False
        except Exception as problem:  # noqa: BLE001 - a node may raise anything
            self._failed(problem, node_class.name, arguments)
            return False
        self._executor.keep(self._signatures[node_id], (outputs, ui))
        self._executed.append(node_id)
        if ui is not None:
            self._keep_ui(ui)
            if self._sockets.client_id is not None:
                self._send_executed(ui)
        total = self._progress[node_id]["max"]
        self._set_progress(total, total, "finished")
        return True

    def _argument(self, value: Any) -> Any:
        if not is_link(value):
            return value
        hit = self._hit(value[0])
        return None if hit is None else hit[0][value[1]]

    def _failed(self, problem: Exception, node_type: str, arguments: dict[str, Any]) -> None:
        out_of_memory = isinstance(problem, MemoryError)
        data = {
            "prompt_id": self.prompt_id,
            "node_id": self.node_id,
            "node_type": node_type,
            "executed": list(self._executed),
            "exception_message": f"{problem}\n{_OOM_TIP if out_of_memory else ''}",
            "exception_type": "torch.OutOfMemoryError" if out_of_memory else type(problem).__name__,
            "traceback": traceback.format_tb(problem.__traceback__),
            "current_inputs": {
                name: [value if isinstance(value, str | int | float | bool | None) else str(value)]
                for name, value in arguments.items()
            },
            "current_outputs": list(self.graph),
        }
        self._message("execution_error", data)

    def _send_executed(self, ui: Ui) -> None:
        data = {"node": self.node_id, "display_node": self.node_id, "output": ui, "prompt_id": self.prompt_id}
        self._sockets.event("executed", data, self._sockets.client_id)

    def _keep_ui(self, ui: dict[str, Any]) -> None:
        self._ui[self.node_id] = ui
        self._meta[self.node_id] = {
            "node_id": self.node_id,
            "display_node": self.node_id,
            "parent_node": None,
            "real_node_id": self.node_id,
        }

    def _identity(self) -> dict[str, Any]:
        return {
            "node_id": self.node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": self.node_id,
            "parent_node_id": None,
            "real_node_id": self.node_id,
        }

    def _set_progress(self, value: float, total: float, state: str) -> None:
        self._progress[self.node_id] = {"value": value, "max": total, "state": state, **self._identity()}
        data = {"prompt_id": self.prompt_id, "nodes": self._progress}
        self._sockets.event("progress_state", data, self._sockets.client_id)

    def check(self) -> None:
        """Raise Interrupted if somebody asked for it."""
        if self._executor.interrupted:
            raise Interrupted

    def tick(self, value: float, total: float, image: bytes | None = None, image_format: int = 1) -> None:
        """Report progress, with a preview if there is one; raises Interrupted."""
        self.check()
        self._set_progress(value, total, "running")
        metadata = self._identity() if self._sockets.takes_metadata() else None
        if image is not None and metadata is not None:
            self._sockets.preview(image, image_format, metadata)
        data = {"value": value, "max": total, "prompt_id": self.prompt_id, "node": self.node_id}
        self._sockets.event("progress", data, self._sockets.client_id)
        if image is not None and metadata is None:
            self._sockets.preview(image, image_format, None)

    def preview(self, image: bytes) -> None:
        """Send a JPEG preview without any progress."""
        self._sockets.preview(image, 1, self._identity() if self._sockets.takes_metadata() else None)

    def wrote(self, subfolder: str, filename: str) -> None:
        """Count an output file."""
        self._executor.stats.pictures[f"{subfolder}/{filename}" if subfolder else filename] = self.prompt_id

    @staticmethod
    async def draw(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do slow picture work in a thread."""
        return await asyncio.to_thread(function, *args, **kwargs)

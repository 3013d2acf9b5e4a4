"""The life of one prompt inside ComfyUI, as a state machine: messages in, what changed out. Pure.

It holds what the websocket said of one submission: which node is at work and how far, which files and texts were
made, and how it ended. Rules (measured on ComfyUI 0.3.64): `executing` with node null is the last frame of a prompt,
whatever its end; whether it succeeded is told by the frame before (`execution_success`, `execution_error`,
`execution_interrupted`), or, where that was missed, by the history. A cached output node announces its old files by
`executed`. SaveImageWebsocket sends its images as binary frames and announces nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Any

from bridge.comfyui import protocol
from bridge.comfyui.failures import execution_error
from bridge.comfyui.shapes import FileRef, HistoryEntry, output_files, output_texts
from bridge.errors import BridgeError
from bridge.workflow.graph import title

WEBSOCKET_OUTPUT = "SaveImageWebsocket"
WEBSOCKET = "websocket"
"""The type of files that ComfyUI sent and did not store."""


class Change(Flag):
    """What a message changed."""

    NONE = 0
    STARTED = auto()
    NODE = auto()
    PROGRESS = auto()
    OUTPUT = auto()
    OVER = auto()


class End(Enum):
    """How a prompt ended in ComfyUI."""

    SUCCESS = auto()
    ERROR = auto()
    INTERRUPTED = auto()


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a node made: its name in ComfyUI, or, of SaveImageWebsocket, the bytes themselves."""

    node: str
    file: FileRef
    data: bytes | None = None
    content_type: str | None = None


class Lifecycle:
    """One submission of a graph. What nodes besides `outputs` give is left out, when there are such.

    `found` and `texts` are in the order of their making; `end` is None while it runs, and also once it is `over`
    if the frame that tells the end was missed: then the history must be asked (`learn`).
    """

    def __init__(
        self, prompt_id: str, graph: Mapping[str, Mapping[str, Any]], *, outputs: Collection[str] = ()
    ) -> None:
        self.prompt_id = prompt_id
        self.started = False
        self.over = False
        self.end: End | None = None
        self.error: BridgeError | None = None
        self.node: str | None = None
        self.found: list[Found] = []
        self.texts: list[dict[str, str]] = []
        self.preview_count = 0
        self._graph = graph
        self._outputs = outputs
        # A sampler's steps are what takes the time: they weigh as much as so many plain nodes.
        self._weights = {node: _weight(entry) for node, entry in graph.items()}
        self._done: dict[str, float] = dict.fromkeys(graph, 0.0)
        self._percent = 0.0
        self._seen: set[tuple[str, FileRef]] = set()
        self._told: set[str] = set()

    @property
    def percent(self) -> float:
        """How far it is, 0 to 100; it never goes back."""
        return round(self._percent, 1)

    @property
    def node_title(self) -> str | None:
        """The title, else the class, of the node at work."""
        entry = self._graph.get(self.node or "")
        return None if entry is None else title(entry) or entry.get("class_type")

    def feed(self, message: protocol.Message) -> Change:
        """Take a message of this prompt, or one that names no prompt while this one runs."""
        if self.over:
            return Change.NONE
        match message:
            case protocol.ExecutionStart():
                return self._start()
            case protocol.ExecutionCached(nodes=nodes):
                for node in nodes:
                    self._done[node] = 1.0
                return self._start() | self._progressed()
            case protocol.Executing(node=None, prompt_id=prompt_id):
                return self._finish() if prompt_id is not None else Change.NONE
            case protocol.Executing(node=str(node)):
                return self._start() | self._enter(node)
            case protocol.Progress(node=node, value=value, max=maximum):
                return self._start() | self._step(node or self.node, value, maximum)
            case protocol.ProgressState(nodes=nodes):
                for node, state in nodes.items():
                    self._note(node, 1.0 if state.state == "finished" else _share(state.value, state.max), state.max)
                return self._start() | self._progressed()
            case protocol.Executed(node=node, output=output):
                self._done[node] = 1.0
                return self._start() | self._output(node, output or {})
            case protocol.TextFrame(node=node, text=text):
                return self._text(node, text) if self.started else Change.NONE
            case protocol.PreviewImage():
                return self._preview(message)
            case protocol.ExecutionSuccess() if self.end is None:
                self.end = End.SUCCESS
                self._percent = 100.0
                return self._start() | Change.PROGRESS
            case protocol.ExecutionError() if self.end is None:
                self.error = execution_error(message)
                if not message.blocked:  # else one branch ends and the prompt goes on
                    self.end = End.ERROR
                return self._start()
            case protocol.ExecutionInterrupted() if self.end is None:
                self.end = End.INTERRUPTED
                return self._start()
            case _:
                return Change.NONE

    def learn(self, entry: HistoryEntry) -> Change:
        """Take the history's word: how it ended, and the outputs whose announcement was missed."""
        change = self._start() | self._finish()
        if entry.interrupted:
            self.end = End.INTERRUPTED
        elif entry.error is not None:
            self.end, self.error = End.ERROR, execution_error(entry.error)
        elif entry.status_str == "error":
            self.end = End.ERROR
        else:
            self.end = End.SUCCESS
            self._percent = 100.0
        for node, output in entry.outputs.items():
            change |= self._output(node, output)
        return change

    def _start(self) -> Change:
        if self.started:
            return Change.NONE
        self.started = True
        return Change.STARTED

    def _finish(self) -> Change:
        if self.over:
            return Change.NONE
        self.over = True
        self.node = None
        return Change.OVER

    def _enter(self, node: str) -> Change:
        if node == self.node:
            return Change.NONE
        if self.node is not None:
            self._done[self.node] = 1.0
        self.node = node
        return Change.NODE | self._progressed()

    def _step(self, node: str | None, value: float, maximum: float) -> Change:
        if node is None:
            return Change.NONE
        self._note(node, _share(value, maximum), maximum)
        return self._progressed()

    def _note(self, node: str, share: float, maximum: float) -> None:
        if maximum > 1:
            self._weights[node] = maximum
        self._done[node] = share

    def _progressed(self) -> Change:
        whole = sum(self._weights.get(node, 1.0) for node in self._done)
        part = sum(self._weights.get(node, 1.0) * share for node, share in self._done.items())
        # 100 is for the end alone.
        percent = min(99.0, 100.0 * part / whole) if whole else 0.0
        if percent <= self._percent:
            return Change.NONE
        self._percent = percent
        return Change.PROGRESS

    def _output(self, node: str, output: Mapping[str, Any]) -> Change:
        change = Change.NONE
        if self._outputs and node not in self._outputs:
            return change
        for file in output_files(output):
            if (node, file) not in self._seen:
                self._seen.add((node, file))
                self.found.append(Found(node, file))
                change = Change.OUTPUT
        texts = output_texts(output)
        if texts and node not in self._told:
            self._told.add(node)
            # What a node sent as text frames it may announce again.
            framed = [entry["text"] for entry in self.texts if entry["node"] == node]
            for text in texts:
                if text in framed:
                    framed.remove(text)
                else:
                    self.texts.append({"node": node, "text": text})
                    change = Change.OUTPUT
        return change

    def _text(self, node: str, text: str) -> Change:
        # A text frame goes to every client, whosever prompt it is: only nodes of ours can have sent it to us.
        if node not in self._graph or (self._outputs and node not in self._outputs):
            return Change.NONE
        self.texts.append({"node": node, "text": text})
        return Change.OUTPUT

    def _preview(self, message: protocol.PreviewImage) -> Change:
        self.preview_count += 1
        node = message.node or self.node
        if node is None or self._graph.get(node, {}).get("class_type") != WEBSOCKET_OUTPUT:
            return Change.NONE
        if self._outputs and node not in self._outputs:
            return Change.NONE
        ending = message.content_type.rsplit("/", 1)[-1].replace("jpeg", "jpg")
        count = sum(found.node == node for found in self.found)
        file = FileRef(f"websocket_{node.replace(':', '-')}_{count:05}.{ending}", "", WEBSOCKET)
        self.found.append(Found(node, file, message.image, message.content_type))
        return Change.OUTPUT


def _weight(node: Mapping[str, Any]) -> float:
    inputs = node.get("inputs")
    steps = inputs.get("steps") if isinstance(inputs, Mapping) else None
    return float(min(steps, 1000)) if isinstance(steps, int) and steps > 1 else 1.0


def _share(value: float, maximum: float) -> float:
    return max(0.0, min(1.0, value / maximum)) if maximum > 0 else 0.0

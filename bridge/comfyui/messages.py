"""What ComfyUI's websocket says, a class for each kind of frame.

Each message keeps its frame in `raw`, verbatim, so that it can be passed on unchanged. Node ids and prompt ids are
strings, whatever JSON type they had. `prompt_id` is None where a message names no prompt. Messages of text frames,
and `TextFrame`, have ComfyUI's word for them in `event_type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias


@dataclass(frozen=True, slots=True)
class Status:
    """How many prompts are pending or running. `sid`, the client id, is there in the first frame only."""

    queue_remaining: int
    sid: str | None
    raw: str = ""

    event_type: ClassVar[str] = "status"
    prompt_id: ClassVar[None] = None


@dataclass(frozen=True, slots=True)
class ExecutionStart:
    """The prompt left the queue. `timestamp` is in milliseconds since 1970."""

    prompt_id: str
    timestamp: int | None = None
    raw: str = ""

    event_type: ClassVar[str] = "execution_start"


@dataclass(frozen=True, slots=True)
class ExecutionCached:
    """The nodes whose results are taken from an earlier prompt; always sent, often with none."""

    prompt_id: str
    nodes: tuple[str, ...]
    raw: str = ""

    event_type: ClassVar[str] = "execution_cached"


@dataclass(frozen=True, slots=True)
class Executing:
    """A node starts; or, with `node` None, the prompt is over, whatever its end.

    Without a `prompt_id` it is the answer to a reconnect: the node that runs just now.
    """

    prompt_id: str | None
    node: str | None
    display_node: str | None = None
    raw: str = ""

    event_type: ClassVar[str] = "executing"


@dataclass(frozen=True, slots=True)
class Progress:
    """A node's steps."""

    prompt_id: str | None
    node: str | None
    value: float
    max: float
    raw: str = ""

    event_type: ClassVar[str] = "progress"


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """One node of a `ProgressState`; `state` is `running` or `finished`, in theory `pending` or `error` too."""

    value: float
    max: float
    state: str
    display_node_id: str | None = None


@dataclass(frozen=True, slots=True)
class ProgressState:
    """All nodes that were touched so far, by id. An entry that is not usable is left out."""

    prompt_id: str
    nodes: Mapping[str, NodeProgress]
    raw: str = ""

    event_type: ClassVar[str] = "progress_state"


@dataclass(frozen=True, slots=True)
class Executed:
    """A node has something to show (`bridge.comfyui.shapes`). A cached output node sends its old output again."""

    prompt_id: str
    node: str
    display_node: str | None
    output: Mapping[str, Any] | None
    raw: str = ""

    event_type: ClassVar[str] = "executed"


@dataclass(frozen=True, slots=True)
class ExecutionSuccess:
    """Every node is done. The history may lag behind this by some milliseconds."""

    prompt_id: str
    timestamp: int | None = None
    raw: str = ""

    event_type: ClassVar[str] = "execution_success"


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """A node raised. `traceback` and `raw` hold paths of the server: not for strangers."""

    prompt_id: str
    node_id: str | None
    node_type: str | None
    exception_message: str
    exception_type: str
    traceback: tuple[str, ...] = ()
    executed: tuple[str, ...] = ()
    raw: str = ""

    event_type: ClassVar[str] = "execution_error"

    @property
    def blocked(self) -> bool:
        """A node was told by another not to run: this branch ends, the prompt goes on."""
        return self.exception_type == "ExecutionBlocked"


@dataclass(frozen=True, slots=True)
class ExecutionInterrupted:
    """The prompt was interrupted while this node ran."""

    prompt_id: str
    node_id: str | None
    node_type: str | None
    executed: tuple[str, ...] = ()
    raw: str = ""

    event_type: ClassVar[str] = "execution_interrupted"


@dataclass(frozen=True, slots=True)
class FeatureFlags:
    """The server's answer to ours; `max_upload_size` is in bytes."""

    data: Mapping[str, Any]
    raw: str = ""

    event_type: ClassVar[str] = "feature_flags"
    prompt_id: ClassVar[None] = None


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """Any other JSON object with a type: of an add-on, of a newer server, or of a known type with odd data."""

    event_type: str
    data: Any
    prompt_id: str | None
    raw: str = ""


@dataclass(frozen=True, slots=True)
class PreviewImage:
    """A preview, or an image of SaveImageWebsocket. Without metadata it belongs to the node that ran last."""

    image: bytes
    content_type: str
    node: str | None = None
    prompt_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class TextFrame:
    """A text of a node. It goes to every client and names no prompt."""

    node: str
    text: str
    raw: bytes = b""

    event_type: ClassVar[str] = "text"
    prompt_id: ClassVar[None] = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A frame that is none of ComfyUI's."""

    reason: str
    raw: str | bytes = b""

    prompt_id: ClassVar[None] = None


TextMessage: TypeAlias = (
    Status
    | ExecutionStart
    | ExecutionCached
    | Executing
    | Progress
    | ProgressState
    | Executed
    | ExecutionSuccess
    | ExecutionError
    | ExecutionInterrupted
    | FeatureFlags
    | OtherEvent
)
Message: TypeAlias = TextMessage | PreviewImage | TextFrame | Malformed

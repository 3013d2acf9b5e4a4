"""The errors that users meet, each with the `code` that it has on every wire.

BridgeError
 +- RequestError             what was asked cannot be done; the answer to a command carries it
 |   +- BadPayload           `bad_payload`        not JSON, a field that is missing, unknown or of a wrong type
 |   +- BadValue             `bad_value`          a field is well-formed and its value is not acceptable
 |   +- RetainedCommand      `retained`           a command with MQTT's retain flag
 |   +- UnknownCommand       `unknown_command`
 |   +- UnknownWorkflow      `unknown_workflow`
 |   +- UnknownNode          `unknown_node`
 |   +- UnknownParameter     `unknown_parameter`
 |   +- NoSuchInput          `no_such_input`      the node has no such input
 |   +- IsLink               `is_link`            a value would overwrite a link between nodes
 |   +- UnknownPrompt        `unknown_prompt`
 |   +- AlreadyOver          `already_over`       the job has ended
 |   +- UnknownModel         `unknown_model`      the prompt writer does not have the model
 |   +- UnknownIdea          `unknown_idea`       no idea of that id waits or is being written
 |   +- FileMissing          `file_missing`       a file that ComfyUI, the address or the store does not have
 |   +- TooLarge             `too_large`
 |   +- UiFormat             `ui_format`          a workflow saved for the editor, not exported for the API
 |   +- InvalidGraph         `invalid_graph`
 |   +- RecipeError          `recipe_error`       the code of a recipe failed
 |   +- Unsupported          `unsupported`
 |   +- QueueFull            `queue_full`
 |   +- Unauthorized         `unauthorized`
 |   +- NotAllowed           `not_allowed`        an address or a path that the settings do not allow
 +- JobError                 why a job ended; its final status and result carry it
 |   +- NodeErrors           `node_errors`        ComfyUI's validation refused the graph, or a part of it
 |   +- Expired              `expired`
 |   +- Lost                 `lost`               ComfyUI forgot the prompt
 |   +- Stuck                `stuck`
 |   +- DeletedElsewhere     `deleted_elsewhere`  somebody else deleted or interrupted it in ComfyUI
 |   +- ExecutionError       `execution_error`    a node raised
 |   +- StepError            that of the step     a step of a chain failed
 |   +- OutOfMemory          `out_of_memory`
 +- PromptError              why an idea became no prompt; its result carries it
 |   +- WriterOffline        `writer_offline`     the prompt writer does not answer
 |   +- WriterFailed         `writer_failed`      the prompt writer answered with an error, or with nothing
 |   +- NotJson              `not_json`           the prompt writer did not answer in JSON, not even when asked again
 |   +- Cancelled            `cancelled`          somebody cancelled it
 +- BackendOffline           `backend_offline`    ComfyUI does not answer
 +- TimedOut                 `timeout`
 +- Internal                 `internal`           a defect of the bridge
 +- SettingsError            `settings`           fatal at the start
 +- StoreError               `store`              fatal at the start
     +- StoreInUse           `store`              by another bridge
     +- StoreFull            `store`              waited for at the start
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

_LONGEST = 2_000


class BridgeError(Exception):
    """An error with a stable code.

    `message` is a sentence for a person that says what would be right; `node` is the id of the node
    that it is about; `details` is a JSON object for programs.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, node: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.details = details

    def to_json(self) -> dict[str, Any]:
        """The shape that errors have everywhere: `{"code", "message", "node"?, "details"?}`."""
        document: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.node is not None:
            document["node"] = self.node
        if self.details:
            document["details"] = dict(self.details)
        return document

    def to_answer(self) -> dict[str, Any]:
        """The shape that answers to commands have: `{"code", "error", "details"?}`, the node among the details."""
        document: dict[str, Any] = {"code": self.code, "error": self.message}
        details = {**({"node": self.node} if self.node is not None else {}), **(self.details or {})}
        return document | ({"details": details} if details else {})


class RequestError(BridgeError):
    """What was asked cannot be done as asked. A message that quotes more than a person reads is cut in its middle."""

    code = "bad_payload"

    def __init__(self, message: str, *, node: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        half = _LONGEST // 2
        short = message if len(message) <= _LONGEST else f"{message[:half]} … {message[-half:]}"
        super().__init__(short, node=node, details=details)


class BadPayload(RequestError):
    """The payload is not well-formed, or a field is missing, unknown or of a wrong type."""

    code = "bad_payload"


class BadValue(RequestError):
    """A field is well-formed and its value is not acceptable."""

    code = "bad_value"


class RetainedCommand(RequestError):
    """A command came with MQTT's retain flag: it would run again at each connect."""

    code = "retained"


class UnknownCommand(RequestError):
    """There is no such command."""

    code = "unknown_command"


class UnknownWorkflow(RequestError):
    """There is no workflow of that name."""

    code = "unknown_workflow"


class UnknownNode(RequestError):
    """The workflow has no such node, or several that answer to the name."""

    code = "unknown_node"


class UnknownParameter(RequestError):
    """The workflow has no parameter of that name."""

    code = "unknown_parameter"


class NoSuchInput(RequestError):
    """The node has no input of that name or kind."""

    code = "no_such_input"


class IsLink(RequestError):
    """The input is fed by another node; a value would cut the link."""

    code = "is_link"


class UnknownPrompt(RequestError):
    """There is no job of that id."""

    code = "unknown_prompt"


class AlreadyOver(RequestError):
    """The job has already ended."""

    code = "already_over"


class UnknownModel(RequestError):
    """The prompt writer does not have the model."""

    code = "unknown_model"


class UnknownIdea(RequestError):
    """No idea of that id waits or is being written."""

    code = "unknown_idea"


class FileMissing(RequestError):
    """A file that should be there is not."""

    code = "file_missing"


class TooLarge(RequestError):
    """More bytes than a limit of the settings allows."""

    code = "too_large"


class UiFormat(RequestError):
    """A workflow saved for ComfyUI's editor where one exported for its API is needed."""

    code = "ui_format"


class InvalidGraph(RequestError):
    """Not a graph that ComfyUI could run."""

    code = "invalid_graph"


class RecipeError(RequestError):
    """The code of a recipe failed, or is none; the message names file and line."""

    code = "recipe_error"


class Unsupported(RequestError):
    """The bridge, or the ComfyUI behind it, cannot do this."""

    code = "unsupported"


class QueueFull(RequestError):
    """As many jobs wait as the settings allow."""

    code = "queue_full"


class Unauthorized(RequestError):
    """A token is missing or wrong."""

    code = "unauthorized"


class NotAllowed(RequestError):
    """An address or a path that the settings do not allow."""

    code = "not_allowed"


class JobError(BridgeError):
    """Why a job ended."""

    code = "execution_error"


class NodeErrors(JobError):
    """ComfyUI's validation refused the graph, or an output of it (`details.node_errors`)."""

    code = "node_errors"


class Expired(JobError):
    """The job's `expires_at` passed before it could start."""

    code = "expired"


class Lost(JobError):
    """ComfyUI no longer knows the prompt."""

    code = "lost"


class Stuck(JobError):
    """ComfyUI holds the prompt and shows no sign of life."""

    code = "stuck"


class DeletedElsewhere(JobError):
    """Somebody else deleted or interrupted the prompt in ComfyUI."""

    code = "deleted_elsewhere"


class ExecutionError(JobError):
    """A node raised an exception."""

    code = "execution_error"


class StepError(JobError):
    """What ended a step, and the chain with it; its code is that of the step's own error."""

    def __init__(self, message: str, step_code: str, details: Mapping[str, Any]) -> None:
        super().__init__(message, details=details)
        self.step_code = step_code

    def to_json(self) -> dict[str, Any]:
        """The usual shape, with the step's code."""
        return {**super().to_json(), "code": self.step_code}


class OutOfMemory(JobError):
    """A node ran out of memory."""

    code = "out_of_memory"


class PromptError(BridgeError):
    """Why an idea became no prompt."""

    code = "writer_failed"


class WriterOffline(PromptError):
    """The prompt writer does not answer."""

    code = "writer_offline"


class WriterFailed(PromptError):
    """The prompt writer answered with an error, or with nothing."""

    code = "writer_failed"


class NotJson(PromptError):
    """The prompt writer did not answer in JSON, not even when asked again: its text was taken as the prompt."""

    code = "not_json"


class Cancelled(PromptError):
    """Somebody cancelled it."""

    code = "cancelled"


class BackendOffline(BridgeError):
    """ComfyUI does not answer."""

    code = "backend_offline"


class TimedOut(BridgeError):
    """Something took longer than its limit."""

    code = "timeout"


class Internal(BridgeError):
    """A defect of the bridge; the log holds more."""

    code = "internal"


class SettingsError(BridgeError):
    """A setting is wrong; the daemon does not start."""

    code = "settings"


class StoreError(BridgeError):
    """The store cannot be opened; the daemon does not start."""

    code = "store"


class StoreInUse(StoreError):
    """Another bridge runs on the store."""


class StoreFull(StoreError):
    """The disk of the store has no room to open it."""

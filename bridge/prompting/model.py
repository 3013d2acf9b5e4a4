"""What a prompt writer is asked and what it answers; the interface that all writers share. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "description": "the prompt for the image model"},
        "negative": {"type": "string", "description": "what the picture must not show; empty if nothing"},
        "title": {"type": "string", "description": "a title of two to five words"},
    },
    "required": ["prompt", "negative", "title"],
    "additionalProperties": False,
}
"""The JSON schema of an answer. `prompt` comes first, since models write the keys in this order."""


@dataclass(frozen=True, slots=True)
class Question:
    """An idea on its way to a writer.

    system: the finished system prompt. images: the bytes of JPEG, PNG or WebP pictures. description: the
    `image_description` object that the idea came as, if it did. model: None leaves the choice to the writer.
    """

    id: str
    idea: str
    system: str
    profile: str
    style: str = ""
    images: tuple[bytes, ...] = ()
    description: Mapping[str, str] | None = None
    model: str | None = None
    temperature: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    think: bool | str | None = None

    def text(self) -> str:
        """Return the idea as a chat's user says it."""
        lines = [f"Idea: {self.idea}" if self.idea else "Idea: what the picture shows."]
        if self.style:
            lines.append(f"Style: {self.style}")
        if self.images:
            count = "A picture is" if len(self.images) == 1 else f"{len(self.images)} pictures are"
            lines.append(f"{count} attached.")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Written:
    """A finished prompt.

    is_plain: the writer did not answer in JSON, and `prompt` is its text as it is.
    """

    prompt: str
    negative: str = ""
    title: str = ""
    model: str | None = None
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that a writer has. `size` in bytes, 0 if it is not told."""

    name: str
    size: int = 0
    family: str = ""
    parameters: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as an entry of `ollama/models`."""
        document: dict[str, Any] = {"name": self.name}
        if self.size:
            document["size"] = self.size
        if self.family:
            document["family"] = self.family
        if self.parameters:
            document["parameters"] = self.parameters
        return document


OnText = Callable[[str], None]
"""Called with each piece of text as it comes."""


class Writer(Protocol):
    """Somebody who writes prompts."""

    name: str
    """`ollama`, `mqtt`, `http` or `openai`."""

    @property
    def where(self) -> str:
        """Who is asked, as in a sentence: `Ollama at http://127.0.0.1:11434`."""

    async def open(self) -> None:
        """Get ready. Connections come with the questions."""

    async def close(self) -> None:
        """Close all connections."""

    async def write(self, question: Question, on_text: OnText) -> Written:
        """Answer a question; cancelling ends the work at the other side too, where that can be told.

        Raises WriterOffline, UnknownModel, WriterFailed.
        """

    async def models(self) -> tuple[ModelInfo, ...] | None:
        """Return the models that there are; None if this writer cannot tell. Raises WriterOffline, WriterFailed.

        It is also the question whether the writer is there at all.
        """

    async def settle(self, model: str | None) -> None:
        """Wait, for a bounded time, until the memory of the graphics card that the answer took is free again."""

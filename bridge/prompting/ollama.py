"""Ollama: its HTTP API as its documentation has it (docs/api.md of ollama/ollama), and the writer that uses it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from bridge import errors
from bridge.prompting.chat import MAX_TEXT, Said, write_by_chat
from bridge.prompting.model import SCHEMA, ModelInfo, OnText, Question, Written
from bridge.prompting.web import Web

logger = logging.getLogger(__name__)

_QUICK = 5.0
_PULL_QUIET = 600.0
_UNLOAD_PATIENCE = 15.0
_UNLOAD_ASKED_EVERY = 0.1
SUGGESTED, SUGGESTED_VISION = "llama3.2", "llava"
"""Models for those who have none yet."""


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a download is. Bytes; 0 while they are not known. `digest` names the layer that they are of."""

    status: str
    digest: str = ""
    completed: int = 0
    total: int = 0


class OllamaWriter:
    """Prompts by Ollama.

    keep_alive: seconds or a duration, how long the model stays loaded; None leaves it to Ollama. settles: wait after
    an answer until the model left the memory.
    """

    name = "ollama"

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        vision_model: str | None = None,
        keep_alive: float | str | None = None,
        settles: bool = False,
    ) -> None:
        self._web = Web(url, name="Ollama")
        self._pulls = Web(url, name="Ollama", quiet=_PULL_QUIET)
        self._model = model
        self._vision_model = vision_model
        self._keep_alive = keep_alive
        self._settles = settles
        self._sees: dict[str, bool | None] = {}

    async def open(self) -> None:
        """Make the pools; connections come with the questions."""
        await self._web.open()
        await self._pulls.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._web.close()
        await self._pulls.close()

    @property
    def where(self) -> str:
        """Who is asked, and at what address."""
        return self._web.name

    # Asking

    async def write(self, question: Question, on_text: OnText) -> Written:
        """Answer a question (`/api/chat`, streaming). Closing the connection makes Ollama stop."""
        model = await self._choose(question)

        async def complete(messages: list[Said], on_text: OnText) -> str:
            return await self._chat(model, question, messages, on_text)

        return replace(await write_by_chat(question, complete, on_text), model=model)

    async def _chat(self, model: str, question: Question, messages: list[Said], on_text: OnText) -> str:
        options = dict(question.options)
        if question.temperature is not None:
            options["temperature"] = question.temperature
        body: dict[str, Any] = {
            "model": model,
            "messages": [_message(one) for one in messages],
            "stream": True,
            "format": SCHEMA,
            "options": options,
        }
        if question.think is not None:
            body["think"] = question.think
        if self._keep_alive is not None:
            whole = isinstance(self._keep_alive, float) and self._keep_alive.is_integer()
            body["keep_alive"] = int(self._keep_alive) if whole else self._keep_alive
        said: list[str] = []
        length = 0
        try:
            async with aclosing(self._documents("/api/chat", body, self._web)) as documents:
                async for document in documents:
                    message = document.get("message")
                    text = message.get("content") if isinstance(message, Mapping) else None
                    if isinstance(text, str) and text:
                        said.append(text)
                        length += len(text)
                        on_text(text)
                    if document.get("done") is True or length > MAX_TEXT:
                        return "".join(said)
        except errors.WriterFailed as error:
            raise self._explained(error, model) from None
        raise errors.WriterFailed(f"{self._web.name} broke off in the middle of its answer")

    async def _documents(self, path: str, body: object, web: Web) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the objects of a streamed answer. Raises WriterFailed for one that is an error."""
        async with aclosing(web.lines(path, body)) as lines:
            async for line in lines:
                try:
                    document = json.loads(line)
                except (ValueError, RecursionError):
                    document = None
                if not isinstance(document, dict):
                    raise errors.WriterFailed(f"{web.name} sent a line that is not a JSON object: {line[:80]!r}")
                if isinstance(document.get("error"), str):
                    raise errors.WriterFailed(f"{web.name} failed: {document['error'][:300]}")
                yield document

    def _explained(self, error: errors.WriterFailed, model: str) -> errors.BridgeError:
        details = error.details or {}
        body = str(details.get("body", ""))
        if details.get("status") == 404 and "model" in body and "not found" in body:
            return self._missing(model)
        if details.get("status") in {404, 405}:
            return errors.WriterOffline(f"{self._web.name} has no /api/chat: this does not look like Ollama")
        return error

    def _missing(self, model: str) -> errors.UnknownModel:
        return errors.UnknownModel(
            f"{self._web.name} does not have the model {model!r}: send {model} to ollama/pull, "
            f"or run: ollama pull {model}",
            details={"model": model},
        )

    # Models

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return the models that are there (`/api/tags`)."""
        document = await self._web.document("GET", "/api/tags", time_limit=_QUICK)
        listed = document.get("models") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise errors.WriterOffline(f"{self._web.name} does not look like Ollama: /api/tags lists no models")
        return tuple(model for model in map(_model_info, listed) if model is not None)

    async def _choose(self, question: Question) -> str:
        if question.images:
            chosen = self._vision_model or question.model or self._model
        else:
            chosen = question.model or self._model
        if chosen is not None:
            return chosen
        models = [model for model in await self.models() if not _only_embeds(model)]
        if question.images:
            seeing = {model.name: await self._can_see(model.name) for model in models}
            for wanted in (True, None):  # better one of which nothing is known than none
                for name, sees in seeing.items():
                    if sees is wanted:
                        return name
            raise errors.UnknownModel(
                f"{self._web.name} has no model that reads pictures: send {SUGGESTED_VISION} to ollama/pull, "
                f"or run: ollama pull {SUGGESTED_VISION}; or name one in ollama.vision_model"
            )
        if not models:
            raise errors.UnknownModel(
                f"{self._web.name} has no model yet: send {SUGGESTED} to ollama/pull, "
                f"or run: ollama pull {SUGGESTED}; or name one in ollama.model"
            )
        return models[0].name

    async def _can_see(self, model: str) -> bool | None:
        """Tell whether a model reads pictures (`/api/show`); None if Ollama does not tell."""
        if model not in self._sees:
            try:
                document = await self._web.document("POST", "/api/show", {"model": model}, time_limit=_QUICK)
            except errors.WriterFailed:
                return None
            self._sees[model] = _sees(document) if isinstance(document, dict) else None
        return self._sees[model]

    async def pull(self, model: str) -> AsyncGenerator[PullProgress, None]:
        """Download a model (`/api/pull`), and yield how far that is; it is complete when this ends.

        Raises WriterOffline, and UnknownModel for what the library does not have.
        """
        status = ""
        try:
            async with aclosing(self._documents("/api/pull", {"model": model}, self._pulls)) as documents:
                async for document in documents:
                    status = str(document.get("status", ""))
                    yield PullProgress(
                        status,
                        str(document.get("digest") or ""),
                        *(_bytes(document, key) for key in ("completed", "total")),
                    )
        except errors.WriterFailed as error:
            if "manifest" in error.message and ("does not exist" in error.message or "not found" in error.message):
                raise errors.UnknownModel(
                    f"Ollama's library has no model {model!r}", details={"model": model}
                ) from None
            raise
        if status != "success":
            raise errors.WriterFailed(f"{self._web.name} broke off the download of {model!r} after {status!r}")

    # Memory

    async def settle(self, model: str | None) -> None:
        """Wait until the model left the memory (`/api/ps`), where it is told to; for so long as is bearable."""
        if model is None or not self._settles:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _UNLOAD_PATIENCE
        try:
            while await self._is_loaded(model):
                if loop.time() > deadline:
                    logger.warning("Ollama still holds %s in memory after %g s", model, _UNLOAD_PATIENCE)
                    return
                await asyncio.sleep(_UNLOAD_ASKED_EVERY)
        except errors.BridgeError as error:
            logger.warning("whether Ollama freed its memory is not known: %s", error.message)

    async def _is_loaded(self, model: str) -> bool:
        document = await self._web.document("GET", "/api/ps", time_limit=_QUICK)
        loaded = document.get("models") if isinstance(document, dict) else None
        names = {str(one.get(key)) for one in loaded or () if isinstance(one, dict) for key in ("name", "model")}
        return model in names or f"{model}:latest" in names


def _message(said: Said) -> dict[str, Any]:
    message: dict[str, Any] = {"role": said.role, "content": said.text}
    return message | ({"images": list(said.images)} if said.images else {})


def _model_info(entry: object) -> ModelInfo | None:
    if not isinstance(entry, dict):
        return None
    name = entry.get("name") or entry.get("model")
    if not isinstance(name, str):
        return None
    details = entry.get("details")
    details = details if isinstance(details, dict) else {}
    return ModelInfo(
        name, _bytes(entry, "size"), str(details.get("family") or ""), str(details.get("parameter_size") or "")
    )


def _only_embeds(model: ModelInfo) -> bool:
    return "bert" in model.family or "embed" in model.name


def _sees(document: Mapping[str, Any]) -> bool | None:
    capabilities = document.get("capabilities")
    if isinstance(capabilities, list):
        return "vision" in capabilities
    # Before version 0.6.4 the part that sees shows only as a projector or a family.
    details = document.get("details")
    families = details.get("families") if isinstance(details, dict) else None
    return True if document.get("projector_info") or {"clip", "mllama"} & set(families or ()) else None


def _bytes(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

"""Any server with OpenAI's chat API (`/v1/chat/completions`): llama.cpp, LM Studio, vLLM, LocalAI, OpenAI itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from bridge import errors
from bridge.media.kinds import image_type
from bridge.prompting.chat import MAX_TEXT, Said, write_by_chat
from bridge.prompting.model import SCHEMA, ModelInfo, OnText, Question, Written
from bridge.prompting.web import Web

_QUICK = 5.0
# Of a profile's options, which are Ollama's, those that mean the same here.
_OPTIONS = {
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "num_predict": "max_tokens",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}


# What not every server, or not every model of it, takes; and the words of those that refuse it.
_OPTIONAL = {
    "response_format": ("response_format", "response format", "json_schema"),
    "temperature": ("temperature",),
}
_REFUSALS = {400, 422}


class OpenAIWriter:
    """Prompts by an OpenAI-compatible server.

    url: with or without the `/v1` at its end. key: sent as bearer token.
    """

    name = "openai"

    def __init__(self, url: str, *, model: str | None = None, key: str | None = None) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._web = Web(url if url.endswith("/v1") else f"{url}/v1", name="the prompt writer", headers=headers)
        self._model = model
        self._refused: dict[str, set[str]] = {}
        """What is left out, by model, since it was refused before."""

    @property
    def where(self) -> str:
        """Who is asked, and at what address."""
        return self._web.name

    async def open(self) -> None:
        """Make the pool; connections come with the questions."""
        await self._web.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._web.close()

    async def write(self, question: Question, on_text: OnText) -> Written:
        """Answer a question, streaming; closing the connection makes the server stop."""
        model = question.model or self._model or await self._first()

        async def complete(messages: list[Said], on_text: OnText) -> str:
            refused = self._refused.setdefault(model, set())
            while True:
                try:
                    return await self._chat(model, question, messages, on_text, refused)
                except errors.WriterFailed as error:
                    named = _refused(error) - refused
                    if not named:
                        raise self._explained(error, model) from None
                    refused |= named

        return replace(await write_by_chat(question, complete, on_text), model=model)

    async def _chat(
        self, model: str, question: Question, messages: list[Said], on_text: OnText, refused: set[str]
    ) -> str:
        body: dict[str, Any] = {
            "model": model,
            "messages": [_message(one) for one in messages],
            "stream": True,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "image_prompt", "strict": True, "schema": SCHEMA},
            },
            **{_OPTIONS[key]: value for key, value in question.options.items() if key in _OPTIONS},
        }
        if question.temperature is not None:
            body["temperature"] = question.temperature
        body = {name: value for name, value in body.items() if name not in refused}
        said: list[str] = []
        length = 0
        async with aclosing(self._web.lines("/chat/completions", body)) as lines:
            async for line in lines:
                if not line.startswith("{") and not line.startswith("data:"):
                    continue  # other fields of server-sent events
                data = line.removeprefix("data:").strip()
                text, is_over = ("", True) if data == "[DONE]" else self._read(data)
                if text:
                    said.append(text)
                    length += len(text)
                    on_text(text)
                if is_over or length > MAX_TEXT:
                    return "".join(said)
        raise errors.WriterFailed(f"{self._web.name} broke off in the middle of its answer")

    def _read(self, data: str) -> tuple[str, bool]:
        """Return the text of one piece of the stream, or of a whole answer, and whether it is the last."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise errors.WriterFailed(f"{self._web.name} sent what is not a JSON object: {data[:80]!r}")
        error = document.get("error")
        if error:
            words = error.get("message") if isinstance(error, Mapping) else error
            raise errors.WriterFailed(f"{self._web.name} failed: {str(words)[:300]}")
        choices = document.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return "", False
        message = choice.get("delta", choice.get("message"))
        text = message.get("content") if isinstance(message, Mapping) else None
        return (text if isinstance(text, str) else ""), choice.get("finish_reason") is not None

    def _explained(self, error: errors.WriterFailed, model: str) -> errors.BridgeError:
        details = error.details or {}
        if details.get("status") == 404 and "model" in str(details.get("body")):
            return errors.UnknownModel(f"{self._web.name} does not have the model {model!r}", details={"model": model})
        if details.get("status") in {401, 403}:
            return errors.WriterFailed(f"{self._web.name} refuses us: set prompting.api_key", details=details)
        return error

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return the models that are there (`/v1/models`)."""
        document = await self._web.document("GET", "/models", time_limit=_QUICK)
        listed = document.get("data") if isinstance(document, dict) else None
        names = [one.get("id") for one in listed or () if isinstance(one, dict)]
        return tuple(ModelInfo(name) for name in names if isinstance(name, str))

    async def _first(self) -> str:
        models = await self.models()
        if not models:
            raise errors.UnknownModel(f"{self._web.name} lists no model: name one in prompting.model")
        return models[0].name

    async def settle(self, model: str | None) -> None:
        """Return at once: this API says nothing of memory."""


def _refused(error: errors.WriterFailed) -> set[str]:
    """Return which of the optional fields an error is about."""
    details = error.details or {}
    if details.get("status") not in _REFUSALS:
        return set()
    body = str(details.get("body")).lower()
    return {name for name, words in _OPTIONAL.items() if any(word in body for word in words)}


def _message(said: Said) -> dict[str, Any]:
    if not said.images:
        return {"role": said.role, "content": said.text}
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in said.images]
    return {"role": said.role, "content": [{"type": "text", "text": said.text}, *pictures]}


def _data_url(image: str) -> str:
    """Return a picture in base64 as a `data:` address; its first bytes tell its kind."""
    kind = image_type(base64.b64decode(image[:64])) or "image/jpeg"
    return f"data:{kind};base64,{image}"

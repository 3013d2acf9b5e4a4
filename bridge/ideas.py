"""An idea: checked when it comes, put as a question to a writer, and told as a result."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from bridge import errors, requests
from bridge.media.guard import Guard
from bridge.media.inputs import check_image, decode_base64
from bridge.prompting.answers import joined
from bridge.prompting.model import Question, Written
from bridge.prompting.profiles import FLUX_LIKE, SD_LIKE, Profile, Profiles
from bridge.settings import Settings

Document = dict[str, Any]
Outcome = tuple[Document, errors.BridgeError | None]
"""What a result says, and the error that it tells of."""


class Painter(NamedTuple):
    """The workflow that a prompt is for."""

    name: str
    takes_negative: bool
    """It has a negative prompt."""
    reads_sentences: bool
    """Its text encoder wants sentences, as that of Flux does, not phrases."""


class Pictures(Protocol):
    """The part of the core that makes pictures."""

    def check_then(self, request: requests.Then) -> Painter:
        """Return the workflow that a prompt would go to. Raises what `queue` would raise for it."""

    async def queue(
        self, request: requests.Queue, *, workflow: str | None = None, transaction: tuple[str, str] | None = None
    ) -> Document:
        """Run a workflow."""

    async def free_for_writer(self) -> None:
        """Have ComfyUI leave the memory of the graphics card."""


@dataclass(slots=True, eq=False)
class Idea:
    """An idea that was accepted. `is_over` once nothing can stop it any more; `done` gets its result.

    `told`: the caller has been told of it, so that nobody hears of its result first.
    """

    id: str
    text: str
    style: str
    profile: Profile
    images: tuple[requests.Picture | bytes, ...]
    description: Mapping[str, str] | None
    then: requests.Then | None
    takes_negative: bool
    transaction: tuple[str, str] | None
    done: asyncio.Future[Outcome]
    told: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    is_cancelled: bool = False
    is_over: bool = False
    said: str = ""
    so_far: str = ""

    def about(self) -> Document:
        """Return what every result says of the idea itself."""
        document: Document = {"idea": self.text, "profile": self.profile.name}
        return document | ({"transaction": self.transaction[1]} if self.transaction is not None else {})

    def run(self, then: requests.Then, written: Document) -> requests.Queue:
        """Return the run that `then` asks for, with what was written; a negative that `then` has itself wins."""
        values: Document = {"negative": written["negative"]} if self.takes_negative and "negative" in written else {}
        return requests.Queue(workflow=then.workflow, values={**values, **then.values, "prompt": written["prompt"]})


class Intake:
    """Makes ideas of requests, and questions of ideas."""

    def __init__(self, settings: Settings, pictures: Pictures) -> None:
        self.profiles = Profiles(settings.ollama)
        self._pictures = pictures
        self._limit = settings.media.max_input
        self._guard = Guard(settings.security.allowed_hosts, time_limit=settings.media.fetch_timeout)

    def idea(
        self,
        request: requests.WritePrompt,
        values: Mapping[str, str],
        *,
        image: bytes | None,
        transaction: tuple[str, str] | None,
    ) -> Idea:
        """Return the idea of a request; `values` are for what it leaves out.

        Raises BadPayload, BadValue, TooLarge, and for `then` what `queue` would raise.
        """
        text, description = _text(request, values["idea"])
        images: list[requests.Picture | bytes] = [self._checked(picture) for picture in request.images]
        if image is not None:
            images.insert(0, self._check(image, "the payload"))
        if not text and not images:
            raise errors.BadPayload("idea is missing: give one, or set one with ollama/set/idea")
        then = request.then
        if not request.says_then() and values["workflow"]:
            then = requests.Then(workflow=values["workflow"])
        painter = Painter("", takes_negative=True, reads_sentences=False)
        if then is not None:
            painter = self._pictures.check_then(then)
            then = requests.Then(workflow=painter.name, values=then.values)
        profile = self.profiles.choose(
            request.profile or values["profile"] or None, suggested=FLUX_LIKE if painter.reads_sentences else SD_LIKE
        )
        return Idea(
            id=str(uuid.uuid4()),
            text=text,
            style=(values["style"] or profile.style) if request.style is None else request.style.strip(),
            profile=profile,
            images=tuple(images),
            description=description,
            then=then,
            takes_negative=painter.takes_negative,
            transaction=transaction,
            done=asyncio.get_running_loop().create_future(),
        )

    async def question(self, idea: Idea) -> Question:
        """Return an idea as a question; pictures given by address are fetched. Raises what `Guard.fetch` raises."""
        profile = idea.profile
        images = [await self._bytes(image) for image in idea.images]
        system = self.profiles.system(
            profile, idea=idea.text, style=idea.style, negative=profile.negative, images=len(images)
        )
        return Question(
            id=idea.id,
            idea=idea.text,
            system=system,
            profile=profile.name,
            style=idea.style,
            images=tuple(images),
            description=idea.description,
            model=profile.model,
            temperature=profile.temperature,
            options=profile.options,
            think=profile.think,
        )

    def _checked(self, picture: requests.Picture) -> requests.Picture | bytes:
        """Return a picture's bytes where they are given, and its address where that is."""
        kind, value = picture.given()
        if kind == "url":
            return picture
        return self._check(decode_base64(value, field="images", max_bytes=self._limit), "images")

    def _check(self, data: bytes, name: str) -> bytes:
        check_image(data, field=name, max_bytes=self._limit)
        return data

    async def _bytes(self, image: requests.Picture | bytes) -> bytes:
        if isinstance(image, bytes):
            return image
        _, address = image.given()
        return self._check((await self._guard.fetch(address, max_bytes=self._limit)).data, "images")


def result(idea: Idea, written: Written) -> Document:
    """Return what a result says of what was written; to an `image_description` also as the runner says it."""
    document: Document = {"prompt": written.prompt}
    negative = joined(idea.profile.negative, written.negative)
    if negative:
        document["negative"] = negative
    if written.title:
        document["title"] = written.title
    if written.is_plain:
        error = errors.NotJson("the model did not answer in JSON, not even when asked again; its text is the prompt")
        document |= {"code": error.code, "warning": error.message}
    if idea.description is not None:
        document |= {"STATUS": "success", "positive_prompt": written.prompt, "negative_prompt": negative}
    return document | {"model": written.model}


def _text(request: requests.WritePrompt, as_set: str) -> tuple[str, Mapping[str, str] | None]:
    """Return the idea in words, and the description that it came as."""
    given = request.image_description
    if given is None:
        return (as_set if request.idea is None else request.idea).strip(), None
    if request.idea is not None:
        raise errors.BadPayload("just one of idea and image_description is possible")
    lines = [
        given.description.strip(),
        f"To be seen: {given.visualCue.strip()}" if given.visualCue.strip() else "",
        f"Mood: {given.moodCue.strip()}" if given.moodCue.strip() else "",
    ]
    return "\n".join(line for line in lines if line), given.model_dump()

"""Ideas on their way to prompts: accepted, written one after the other, and handed on to a workflow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import AsyncExitStack

from bridge import errors, events, requests
from bridge.ideas import Document, Idea, Intake, Outcome, Pictures, result
from bridge.jobs.store import Store
from bridge.prompting.answers import prompt_so_far
from bridge.prompting.model import Writer
from bridge.prompting.ollama import OllamaWriter
from bridge.prompting.profiles import SD_LIKE
from bridge.prompting.pulls import Pulls
from bridge.prompting.writers import make_writer
from bridge.settings import Settings

logger = logging.getLogger(__name__)

POLL_EVERY = 30.0
"""Seconds between two looks whether the writer is there."""
_VALUES, _WAITING = "prompting:values", "prompting:waiting"
_NAMES = ("idea", "style", "profile", "workflow")
_READ = 4_000
"""Characters that are read for the prompt so far, each time anew: no prompt is longer but that of a model gone wild."""
_ENDED = 256
"""Ideas whose end is remembered, for those who ask for it once more."""


class Prompts:
    """The prompt step. `load` first; `run` does the work."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        hub: events.Hub,
        pictures: Pictures,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._hub = hub
        self._pictures = pictures
        self._clock = clock
        self._writer = make_writer(settings)
        self._intake = Intake(settings, pictures)
        self._waiting: deque[Idea] = deque()
        self._current: Idea | None = None
        self._ended: OrderedDict[str, Outcome] = OrderedDict()
        self._news = asyncio.Event()
        self._look = asyncio.Event()
        self._pulls = Pulls(hub, self._look.set)
        self._online: bool | None = None
        self._tells = False
        """Whether the writer can be asked if it is there."""
        self._models: Document | None = None
        self._lost: list[Document] = []
        self._set: dict[str, str] = dict.fromkeys(_NAMES, "")

    def use(self, writer: Writer) -> None:
        """Take another writer: the one that asks an MQTT topic."""
        self._writer = writer

    async def load(self) -> None:
        """Check the profiles, and take up what the store remembers. Raises SettingsError."""
        self._intake.profiles.check()
        if self._writer is not None:
            await self._writer.open()  # what is wrong with its address shows now
            await self._writer.close()
        stored = await self._store.fact(_VALUES, {})
        self._set.update({name: str(stored[name]) for name in _NAMES if name in stored})
        self._lost = list(await self._store.fact(_WAITING, []))

    # Commands

    async def accept(
        self,
        request: requests.WritePrompt,
        *,
        image: bytes | None = None,
        transaction: tuple[str, str] | None = None,
    ) -> Document:
        """Take an idea; the answer names it. What becomes of it comes as events: PromptText, one PromptWritten.

        `outcome` waits for it. image: the bytes of a picture that it is about. transaction: command and key, which the
        jobs get as well.

        Raises BadPayload, BadValue, TooLarge, QueueFull, and for `then` what `queue` would raise.
        """
        idea, position = self._accept(request, image, transaction)
        try:
            await self._remember()
        finally:
            idea.told.set()
        return {"id": idea.id, "position": position}

    def outcome(self, idea_id: str) -> asyncio.Future[Outcome]:
        """Return what becomes of an idea, to be waited for: the result, and the error that it tells of.

        Cancelling it cancels no writing; it is cancelled when the bridge ends first. Raises UnknownIdea for an idea
        that is not among those that wait or ended last.
        """
        found = next((idea for idea in self._under_way() if idea.id == idea_id), None)
        if found is not None:
            return asyncio.shield(found.done)
        if idea_id not in self._ended:
            raise errors.UnknownIdea(f"what became of the idea {idea_id!r} is not known any more")
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        ended.set_result(self._ended[idea_id])
        return ended

    async def cancel(self, request: requests.CancelPrompt) -> Document:
        """Stop the writing of an idea or of all, or the download of a model."""
        if request.model is not None:
            if not self._pulls.cancel(request.model):
                raise errors.UnknownModel(f"no download of {request.model!r} runs")
            return {"model": request.model}
        ideas = [idea for idea in self._under_way() if not idea.is_over]  # that one is only put away yet
        if request.id is not None:
            ideas = [idea for idea in ideas if idea.id == request.id]
            if not ideas:
                raise errors.UnknownIdea(f"no idea with the id {request.id!r} waits or is being written")
        ids = [idea.id for idea in ideas if self._cancel(idea)]
        await self._remember()
        return {"ids": ids}

    async def pull(self, request: requests.PullModel) -> Document:
        """Have Ollama download a model; how far it is comes as ModelPull. A download that runs is left to run."""
        writer = self._writer
        if not isinstance(writer, OllamaWriter):
            raise errors.Unsupported("only Ollama downloads models, and prompting.writer is another")
        self._pulls.start(request.model, writer.pull)
        return {"model": request.model}

    async def set(self, request: requests.PromptValues) -> Document:
        """Set what ideas have that do not say it themselves. Raises BadValue for a profile that there is not."""
        given = {name: getattr(request, name) for name in _NAMES if getattr(request, name) is not None}
        if given.get("profile"):
            self._intake.profiles.choose(given["profile"], suggested=SD_LIKE)
        if given.get("workflow"):
            self._pictures.check_then(requests.Then(workflow=given["workflow"]))
        self._set.update(given)
        self._hub.publish(events.PromptValuesChanged(self.values()))
        await self._store.set_fact(_VALUES, dict(self._set))
        return self.values()

    # What is

    def about(self) -> Document:
        """Return the writer and how it is, its models, and what was set."""
        return {**self.health(), **(self._models or {"models": []}), "values": self.values()}

    def values(self) -> Document:
        """Return `ollama/values`: what ideas have that do not say it themselves, and which profiles there are."""
        return {**self._set, "profiles": self._intake.profiles.names()}

    def health(self) -> Document:
        """Return the entry of `bridge/health`."""
        return {
            "writer": self._writer.name if self._writer is not None else "mqtt",
            "state": "online" if self._online else "offline",
            "waiting": len(self._waiting) + (self._current is not None),
        }

    # Work

    async def run(self) -> None:
        """Look after the writer and write, until cancelled."""
        self._hub.publish(events.PromptValuesChanged(self.values()))
        for document in self._lost:
            error = errors.Cancelled("the bridge ended before it was written")
            whole = {**document, "status": "error", **error.to_answer()}
            self._ended[document["id"]] = (whole, error)
            self._hub.publish(events.PromptWritten(document["id"], whole))
        self._lost = []
        writer = self._writer
        if writer is None:
            raise errors.SettingsError('prompting.writer is "mqtt", and there is no MQTT')
        async with AsyncExitStack() as stack:
            await writer.open()
            stack.push_async_callback(writer.close)
            stack.push_async_callback(self._pulls.close)
            await self._remember()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(writer), name="watch the prompt writer")
                group.create_task(self._write_all(writer), name="write prompts")

    async def _watch(self, writer: Writer) -> None:
        while True:
            self._look.clear()
            try:
                models = await writer.models()
            except errors.BridgeError as error:
                self._say(online=False, reason=error.message)
            else:
                self._say(online=True)
                self._tells = models is not None
                document = {"models": [model.to_json() for model in models or ()]}
                if document != self._models:
                    self._models = document
                    self._hub.publish(events.WriterModels(document))
            try:
                async with asyncio.timeout(POLL_EVERY):
                    await self._look.wait()
            except TimeoutError:
                continue

    def _say(self, *, online: bool, reason: str | None = None) -> None:
        if online == self._online:
            return
        # At the start an absent writer is no news: many never use one.
        if online or self._online:
            logger.info("the prompt writer is %s%s", "there" if online else "away", f": {reason}" if reason else "")
        self._online = online
        self._hub.publish(events.WriterState(online, reason))

    async def _write_all(self, writer: Writer) -> None:
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            idea = self._current = self._waiting.popleft()
            idea.task = asyncio.get_running_loop().create_task(self._write(idea, writer), name=f"idea {idea.id}")
            try:
                await asyncio.wait({idea.task})
            finally:
                if not idea.task.done():  # we are to end
                    idea.task.cancel()
                    await asyncio.wait({idea.task})
                    idea.done.cancel()
                self._current = None
            if not idea.is_over:  # cancelled before its first step
                self._end(idea, {}, errors.Cancelled("the writing was cancelled"))
            await self._remember()

    async def _write(self, idea: Idea, writer: Writer) -> None:
        """Write one, and say what became of it."""
        began = self._clock()
        document: Document = {}
        error: errors.BridgeError | None = None
        try:
            await self._make(idea, writer, document, began)
        except asyncio.CancelledError:
            if not idea.is_cancelled:
                raise
            error = errors.Cancelled("the writing was cancelled")
        except errors.BridgeError as one:
            error = one
        except Exception:
            logger.exception("an idea failed inside the bridge")
            error = errors.Internal("the bridge failed on this idea; its log holds more")
        if isinstance(error, errors.WriterOffline):
            self._say(online=False, reason=error.message)
            if self._tells:  # perhaps just this connection broke
                self._look.set()
        if error is not None:
            document.setdefault("duration", round(self._clock() - began, 3))
        self._end(idea, document, error)

    async def _make(self, idea: Idea, writer: Writer, document: Document, began: float) -> None:
        """Fill in the result step by step, so that what was written is told even if a later step fails."""
        await idea.told.wait()
        question = await self._intake.question(idea)
        if self._settings.ollama.free_comfyui:
            await self._pictures.free_for_writer()
        limit = self._settings.prompting.timeout
        try:
            async with asyncio.timeout(limit):
                written = await writer.write(question, lambda text: self._heard(idea, text))
        except TimeoutError:
            raise errors.TimedOut(f"the prompt was not written within {limit:g} s (prompting.timeout)") from None
        self._say(online=True)
        document |= result(idea, written) | {"duration": round(self._clock() - began, 3)}
        if idea.then is None:
            return
        await writer.settle(written.model)
        idea.is_over = True
        data = await self._pictures.queue(idea.run(idea.then, document), transaction=idea.transaction)
        document |= {"prompt_id": data["prompt_ids"][0], "workflow": data["workflow"]}

    def _heard(self, idea: Idea, text: str) -> None:
        if len(idea.said) < _READ:
            idea.said += text
            idea.so_far = prompt_so_far(idea.said) if "{" in idea.said else idea.said
        self._hub.publish(events.PromptText(idea.id, text, idea.so_far))

    def _end(self, idea: Idea, document: Document, error: errors.BridgeError | None) -> None:
        idea.is_over = True
        whole = {"id": idea.id, "status": "ok", **document, **idea.about()}
        if error is not None:
            whole |= {"status": "error", **error.to_answer()}
            if idea.description is not None:
                whole["STATUS"] = f"generation failed - {error.message}"
            logger.info("an idea came to nothing: %s", error.message)
        self._ended[idea.id] = (whole, error)
        if len(self._ended) > _ENDED:
            self._ended.popitem(last=False)
        if not idea.done.done():
            idea.done.set_result((whole, error))
        self._hub.publish(events.PromptWritten(idea.id, whole))

    def _under_way(self) -> list[Idea]:
        return [*([self._current] if self._current is not None else []), *self._waiting]

    def _accept(
        self, request: requests.WritePrompt, image: bytes | None, transaction: tuple[str, str] | None
    ) -> tuple[Idea, int]:
        waiting = len(self._waiting) + (self._current is not None)
        if waiting >= self._settings.prompting.max_waiting:
            raise errors.QueueFull(f"{waiting} ideas wait and no more may (prompting.max_waiting)")
        idea = self._intake.idea(request, self._set, image=image, transaction=transaction)
        self._waiting.append(idea)
        self._news.set()
        return idea, waiting + 1

    def _cancel(self, idea: Idea) -> bool:
        if idea.is_over:
            return False
        idea.is_cancelled = True
        if idea.task is not None:
            idea.task.cancel()
            return True
        self._waiting.remove(idea)
        self._end(idea, {}, errors.Cancelled("the idea was cancelled while it waited"))
        return True

    async def _remember(self) -> None:
        """Keep which ideas are on their way, so that the next start can say of each that it was lost."""
        ideas = self._under_way()
        try:
            await self._store.set_fact(_WAITING, [{"id": idea.id, **idea.about()} for idea in ideas])
        except errors.StoreError as error:
            logger.warning("the ideas that wait are not remembered over a restart: %s", error.message)

"""What happens, as MQTT messages: every event of the hub on its topics, and the retained state after each connect."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge import events
from bridge.core import Core
from bridge.jobs import documents
from bridge.jobs.model import Job
from bridge.jobs.store import Store
from bridge.mqtt import payloads
from bridge.mqtt.foremost import Foremost
from bridge.mqtt.message import Message
from bridge.mqtt.outbox import Policy
from bridge.mqtt.retained import Retained, Send
from bridge.mqtt.throttle import Throttle
from bridge.mqtt.topics import Topics
from bridge.settings import MqttSettings
from bridge.tasks import log_failure

logger = logging.getLogger(__name__)

ONLINE = b"online"
OFFLINE = b"offline"

_LASTING_EVENTS = frozenset(
    {"execution_start", "executed", "execution_success", "execution_error", "execution_interrupted"}
)
_EVENT_TYPES = {
    "queued": "queued",
    "running": "started",
    "completed": "completed",
    "failed": "failed",
    "interrupted": "interrupted",
}
_LOOKED_THROUGH = 2_000
"""Jobs of earlier starts, for the last one of each workflow."""

_QUEUE_PER_SECOND = 4.0
_SO_FAR = "stream/prompt"


class Publisher:
    """Listens to the hub (`listen`) and publishes; never waits.

    elsewhere: tells whether a topic outside of the base topic is to stay retained.
    """

    def __init__(
        self,
        core: Core,
        store: Store,
        topics: Topics,
        settings: MqttSettings,
        send: Send,
        *,
        elsewhere: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._core = core
        self._store = store
        self._topics = topics
        self._settings = settings
        self._send = send
        self._retained = Retained(core, store, topics, send, elsewhere)
        self._ended: dict[str, Job] = {}
        """By workflow, the last job of the earlier starts."""
        self._unnoted: set[str] = set()
        """Jobs whose end the broker has, and the store has not noted it yet."""
        self._noting = False
        self._greeted = False
        self._progress: Throttle[events.Document] = Throttle(settings.progress_per_second, self._send_progress)
        self._foremost = Foremost()
        self._latest: Throttle[events.Document] = Throttle(settings.progress_per_second, self._send_latest)
        self._previews: Throttle[events.PromptPreview] = Throttle(settings.previews_per_second, self._send_preview)
        self._batches: Throttle[events.BatchStatus] = Throttle(
            settings.progress_per_second,
            lambda topic, event: self._send(_json(topic, payloads.dump(event.document), qos=1), policy=Policy.LATEST),
        )
        self._texts: Throttle[Message] = Throttle(
            settings.progress_per_second, lambda _, message: self._send(message, policy=Policy.LATEST)
        )
        self._pulls: Throttle[Message] = Throttle(
            settings.progress_per_second, lambda _, message: self._send(message, policy=Policy.DROP)
        )
        self._queue: Throttle[None] = Throttle(_QUEUE_PER_SECOND, lambda *_: self._send_queue())

    # The connection's life

    async def start(self) -> None:
        """Take up which topics are retained at the broker, and how the last job of each workflow ended."""
        await self._retained.start()
        for job in await self._store.finished(_LOOKED_THROUGH):
            if job.workflow is not None:
                self._ended.setdefault(job.workflow, job)

    def greet(self) -> None:
        """Publish all that the broker should hold, but for `bridge/state`: called after each connect."""
        self._greeted = True
        self._retained.greet()
        self._retained.put_document(self._topics.bridge("info"), self._core.info())
        self._publish_workflows()
        self._send_queue()
        for backend in self._core.backends():
            topic = self._topics.backend(str(backend["name"]), "state")
            self._retained.put(topic, ONLINE if backend["online"] else OFFLINE)
        self.publish_workflow_states()

    def say_online(self) -> None:
        """Publish that the bridge is there, unless it has said goodbye since it greeted."""
        if self._greeted:
            self._send(self.state(online=True), policy=Policy.KEEP)

    def state(self, *, online: bool) -> Message:
        """Return `bridge/state`; offline, it is the will."""
        return Message(self._topics.bridge("state"), ONLINE if online else OFFLINE, qos=1, retain=True, text=True)

    def say_goodbye(self) -> None:
        """Publish that the bridge ends."""
        self._greeted = False
        for throttle in (
            self._progress,
            self._latest,
            self._previews,
            self._batches,
            self._texts,
            self._pulls,
            self._queue,
        ):
            throttle.close()
        self._send(self.state(online=False), policy=Policy.KEEP)

    # Events

    def listen(self, event: events.Event) -> None:
        """Publish an event of the hub."""
        match event:
            case events.PromptEvent():
                self._on_prompt_event(event)
            case events.PromptPreview():
                self._on_preview(event)
            case events.JobProgress():
                self._on_progress(event)
            case events.JobStatus():
                self._on_status(event)
            case events.JobOutput():
                self._on_output(event)
            case events.JobResult():
                self._on_result(event)
            case events.BatchStatus():
                self._on_batch(event)
            case events.BatchResult():
                topic = self._topics.batch(event.batch_id, "result")
                self._send(_json(topic, payloads.dump(event.document), qos=1), policy=Policy.KEEP)
            case events.QueueChanged():
                self._queue.put("", None)
            case events.BackendEvent():
                topic = self._topics.backend_event(event.backend, event.event_type)
                self._send(_json(topic, event.raw.encode(errors="replace")), policy=Policy.DROP)
            case events.BackendState():
                self._retained.put(self._topics.backend(event.backend, "state"), ONLINE if event.online else OFFLINE)
                self.publish_workflow_states()
            case events.WorkflowsChanged():
                self._retained.clear_stale()
                self._publish_workflows()
            case events.ValuesChanged():
                self._publish_values(event.workflow)
            case events.PromptText():
                self._on_prompt_text(event)
            case events.PromptWritten():
                self._on_prompt_written(event)
            case events.WriterState():
                self._retained.put(self._topics.ollama("state"), ONLINE if event.online else OFFLINE)
            case events.WriterModels():
                self._retained.put_document(self._topics.ollama("models"), event.document)
            case events.ModelPull():
                self._on_pull(event)
            case events.PromptValuesChanged():
                self._retained.put_document(self._topics.ollama("values"), event.document)

    def log(self, document: Mapping[str, Any]) -> None:
        """Publish an entry of the log."""
        self._send(_json(self._topics.bridge("log"), payloads.dump(document)), policy=Policy.DROP)

    def publish_health(self, document: Mapping[str, Any]) -> None:
        """Publish `bridge/health`."""
        self._retained.put_document(self._topics.bridge("health"), document)

    def publish_workflow_states(self) -> None:
        """Publish of each workflow whether some backend that can run it is up."""
        payload = ONLINE if self._core.online() else OFFLINE
        for name in self._core.workflow_names():
            self._retained.put(self._topics.workflow(name, "state"), payload)

    def _on_prompt_event(self, event: events.PromptEvent) -> None:
        topic = self._topics.prompt_event(event.job_id, event.event_type)
        lasting = event.event_type in _LASTING_EVENTS
        message = _json(topic, event.raw.encode(errors="replace"), qos=int(lasting))
        self._send(message, policy=Policy.KEEP if lasting else Policy.DROP)

    def _on_preview(self, event: events.PromptPreview) -> None:
        topic = self._topics.prompt(event.job_id, "preview")
        user = (("node", event.node or ""), ("seq", str(event.seq)))
        self._send(Message(topic, event.image, content_type=event.content_type, user=user), policy=Policy.LATEST)
        if event.workflow is not None:
            self._previews.put(event.workflow, event)

    def _send_preview(self, workflow: str, event: events.PromptPreview) -> None:
        topic = self._topics.workflow(workflow, "preview")
        user = (("prompt_id", event.job_id), ("node", event.node or ""), ("seq", str(event.seq)))
        self._send(Message(topic, event.image, content_type=event.content_type, user=user), policy=Policy.LATEST)

    def _on_progress(self, event: events.JobProgress) -> None:
        self._progress.put(event.job_id, event.document)
        if event.workflow is not None:
            self._tell_latest(event.workflow, event.document)

    def _tell_latest(self, workflow: str, document: events.Document, *, ended: bool = False) -> None:
        for one in self._foremost.take(workflow, document):
            # Many short jobs one after the other are no news for whoever wants the latest; an end never waits.
            self._latest.put(workflow, one, urgent=ended and one is document)

    def _send_progress(self, job_id: str, document: events.Document) -> None:
        message = _json(self._topics.prompt(job_id, "status"), payloads.dump(document), qos=1)
        self._send(message, policy=Policy.LATEST)

    def _send_latest(self, workflow: str, document: events.Document) -> None:
        payload = payloads.dump(document)
        self._send(_json(self._topics.workflow(workflow, "progress"), payload), policy=Policy.LATEST)
        self._retained.put(self._topics.workflow(workflow, "status"), payload, content_type=payloads.JSON)

    def _on_status(self, event: events.JobStatus) -> None:
        self._progress.drop(event.job_id)
        payload = payloads.dump(event.document)
        status = str(event.document["status"])
        if event.workflow is not None:
            self._tell_latest(event.workflow, event.document, ended=event.final)
            if status in _EVENT_TYPES:
                document = {"event_type": _EVENT_TYPES[status], **event.document}
                topic = self._topics.workflow(event.workflow, "event")
                self._send(_json(topic, payloads.dump(document), qos=1), policy=Policy.KEEP)
        acknowledged = None
        if event.final:
            self._progress.forget(event.job_id)
            acknowledged = functools.partial(self._published, event.job_id)
        topic = self._topics.prompt(event.job_id, "status")
        self._send(_json(topic, payload, qos=1), policy=Policy.KEEP, on_acknowledged=acknowledged)

    def _published(self, job_id: str) -> None:
        self._unnoted.add(job_id)
        if not self._noting:
            self._note()

    def _note(self) -> None:
        self._noting = True
        jobs = frozenset(self._unnoted)
        self._store.mark_published(jobs).add_done_callback(functools.partial(self._noted, jobs))

    def _noted(self, jobs: frozenset[str], future: asyncio.Future[None]) -> None:
        self._noting = False
        if future.cancelled() or future.exception() is not None:
            log_failure(future)  # the disk may be full: they are noted with the next
            return
        self._unnoted -= jobs
        if self._unnoted:
            self._note()

    def _on_output(self, event: events.JobOutput) -> None:
        document, data = event.document, event.data
        content_type = str(document["content_type"])
        user = (("filename", str(document["filename"])), ("node", str(document["node"] or "")))
        if len(data) <= self._settings.max_output:
            topic = self._topics.output(event.job_id, int(document["n"]))
            message = Message(topic, data, qos=1, content_type=content_type, user=user)
            self._send(message, policy=Policy.KEEP, bulky=True)
        else:
            logger.warning(
                "output %s of %s has %d bytes, more than mqtt.max_output: only its address is published",
                document["n"],
                event.job_id,
                len(data),
            )
        is_picture = event.answer and content_type.startswith("image/")
        if event.workflow is not None and is_picture and len(data) <= self._settings.max_retained_image:
            self._retained.put(
                self._topics.workflow(event.workflow, "image"),
                data,
                content_type=content_type,
                user=(("prompt_id", event.job_id), *user),
            )

    def _on_batch(self, event: events.BatchStatus) -> None:
        topic = self._topics.batch(event.batch_id, "status")
        if not event.final:
            self._batches.put(topic, event)
            return
        self._batches.forget(topic)
        self._send(_json(topic, payloads.dump(event.document), qos=1), policy=Policy.KEEP)

    def _on_result(self, event: events.JobResult) -> None:
        payload = payloads.dump(event.document)
        self._send(_json(self._topics.prompt(event.job_id, "result"), payload, qos=1), policy=Policy.KEEP)
        if event.workflow is not None:
            self._previews.drop(event.workflow)
            self._retained.put(self._topics.workflow(event.workflow, "result"), payload, content_type=payloads.JSON)

    def _on_prompt_text(self, event: events.PromptText) -> None:
        user = (("id", event.idea_id),)
        message = Message(self._topics.ollama("stream"), event.text.encode(errors="replace"), user=user, text=True)
        self._send(message, policy=Policy.DROP)
        if event.so_far:
            so_far = event.so_far.encode(errors="replace")
            self._texts.put(_SO_FAR, Message(self._topics.ollama(_SO_FAR), so_far, user=user, text=True))

    def _on_prompt_written(self, event: events.PromptWritten) -> None:
        self._texts.forget(_SO_FAR)
        if "prompt" in event.document:
            prompt = str(event.document["prompt"]).encode(errors="replace")
            message = Message(self._topics.ollama(_SO_FAR), prompt, user=(("id", event.idea_id),), text=True)
            self._send(message, policy=Policy.LATEST)
        message = _json(self._topics.ollama("result"), payloads.dump(event.document), qos=1)
        self._send(message, policy=Policy.KEEP)

    def _on_pull(self, event: events.ModelPull) -> None:
        message = _json(self._topics.ollama("pull/progress"), payloads.dump(event.document), qos=int(event.final))
        if event.final:
            self._pulls.forget(event.model)
            self._send(message, policy=Policy.KEEP)
        else:
            self._pulls.put(event.model, message)

    # Retained state

    def retain(self, topic: str, document: Mapping[str, Any]) -> None:
        """Publish a document that the broker is to hold from now on."""
        self._retained.put_document(topic, document)

    def say(self, topic: str, payload: bytes) -> None:
        """Publish something that the broker is not to hold."""
        self._send(Message(topic, payload, qos=1, text=True), policy=Policy.KEEP)

    def repeat(self, topics: Iterable[str]) -> None:
        """Publish again what is retained on these topics."""
        self._retained.repeat(topics)

    def _publish_workflows(self) -> None:
        self._retained.put_document(self._topics.bridge("workflows"), self._core.workflows())
        for name in self._core.workflow_names():
            self._publish_values(name)
            self._publish_status_before(name)
        self.publish_workflow_states()

    def _publish_status_before(self, workflow: str) -> None:
        """Publish a workflow's status of the earlier starts: a broker that lost power holds an older one, or none."""
        topic = self._topics.workflow(workflow, "status")
        if self._retained.holds(topic):
            return
        job = self._ended.pop(workflow, None)
        if job is not None:
            self._retained.put_document(topic, documents.status(job))
        elif not self._retained.knows(self._topics.workflow(workflow, "result")):
            self._retained.put_document(topic, {"id": None, "status": "idle", "workflow": workflow, "percent": 0.0})

    def _publish_values(self, workflow: str) -> None:
        self._retained.put_document(self._topics.workflow(workflow, "values"), self._core.values(workflow))

    def _send_queue(self) -> None:
        self._retained.put_document(self._topics.queue_state(), self._core.queue_state())


def _json(topic: str, payload: bytes, *, qos: int = 0) -> Message:
    return Message(topic, payload, qos=qos, content_type=payloads.JSON, text=True)

"""What Home Assistant is told of the bridge: a device for it, and one below it for each workflow. Pure.

Device-based discovery as Home Assistant 2026.2 takes it: a document is retained on
`<prefix>/device/<object id>/config` and holds `device`, `origin`, `availability` and `components`, a table
`{key: {"platform", "unique_id", …}}`. A component that is left out of a later document stays as a ghost; one that is
reduced to its platform is removed (`with_removals`). An empty payload removes the device.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bridge.mqtt.entities import (
    MAX_CHOICES,
    Document,
    Entity,
    as_attributes,
    as_entity_id,
    entity,
    one_of,
    setting_keys,
    settings,
    sliced,
)
from bridge.mqtt.idea_entities import idea_entities
from bridge.mqtt.topics import Topics

Components = dict[str, Document]

IDLE = "idle"
"""The status of a workflow that has not run yet."""

STATUSES = (IDLE, "queued", "preparing", "running", "finishing", "completed", "failed", "interrupted")
EVENTS = ("queued", "started", "completed", "failed", "interrupted")

_USUAL_BASE = "comfyui"
_MAKER = "comfy-bridge"


class Discovery:
    """Makes the documents of one bridge; its base topic is in every id, so that several can share a broker.

    prefix: the topic below which Home Assistant looks. version: the bridge's.
    """

    def __init__(self, topics: Topics, *, prefix: str, version: str) -> None:
        self._topics = topics
        self._prefix = prefix
        self._version = version
        fit = re.sub(r"[^A-Za-z0-9_-]+", "-", topics.base)
        # Bases that differ only in what an id cannot hold must not get the same id.
        mark = "" if fit == topics.base else f"-{zlib.crc32(topics.base.encode()):08x}"
        self._id = f"{_MAKER}_{fit}{mark}"

    @property
    def birth(self) -> str:
        """The topic on which Home Assistant says that it has started."""
        return f"{self._prefix}/status"

    def topic(self, workflow: str | None = None) -> str:
        """Return where the device of a workflow, or the bridge's own, is announced."""
        return f"{self._prefix}/device/{self._object_id(workflow)}/config"

    def owner(self, topic: str) -> str | None:
        """Return the workflow that a topic announces, "" for the bridge itself, None for any other topic."""
        before, after = f"{self._prefix}/device/{self._id}", "/config"
        if not topic.startswith(before) or not topic.endswith(after):
            return None
        name = topic.removeprefix(before).removesuffix(after)
        return name.removeprefix("__") if not name or name.startswith("__") else None

    def bridge(self, backends: Sequence[str], workflows: Sequence[str], *, painters: Sequence[str]) -> Document:
        """Return the bridge's own device. backends, workflows: their names. painters: workflows that take a prompt."""
        entities = [*self._of_bridge(workflows)]
        there = self._with(self._topics.ollama("state"))
        entities += idea_entities(self._topics, painters, there)
        for name in backends:
            entities += self._of_backend(name, "" if len(backends) == 1 else f" {name}")
        return self._document(None, {"name": self._named("ComfyUI bridge"), "model": "Bridge"}, entities)

    def workflow(self, described: Mapping[str, Any], before: Mapping[str, Document] | None = None) -> Document:
        """Return the device of a workflow, from its entry in `bridge/workflows`.

        before: the components that were announced last. Parameters that have some keep them: while no ComfyUI has
        told its nodes, less is known of types and choices than was then.
        """
        name, parameters = str(described["name"]), described["parameters"]
        kept: Components = {}
        entities = [*self._controls(name)]
        for parameter in parameters:
            if parameter.get("hidden"):
                continue
            keys = [key for key in setting_keys(str(parameter["name"])) if before and len(before.get(key, {})) > 1]
            if before and keys:
                kept |= {key: before[key] for key in keys}
            else:
                entities += settings(self._topics, name, parameter)
        entities += self._state(name)
        entities += self._results(name, parameters, {one["type"] for one in described["outputs"]})
        device = {
            "name": self._named(str(described["title"])),
            "model": f"ComfyUI {described['kind']}",
            "via_device": self._object_id(None),
        }
        document = self._document(name, device, entities)
        document["components"] |= kept
        return document

    @staticmethod
    def gone(topic: str, components: Mapping[str, Document]) -> Document:
        """Return as much of a device that went as Home Assistant needs to remove it when it is told to."""
        object_id = topic.split("/")[-2]
        return {
            "device": {"identifiers": [object_id], "name": object_id},
            "origin": {"name": _MAKER},
            "components": dict(components),
        }

    def _object_id(self, workflow: str | None) -> str:
        return self._id if workflow is None else f"{self._id}__{workflow}"

    def _named(self, title: str) -> str:
        return title if self._topics.base == _USUAL_BASE else f"{title} ({self._topics.base})"

    def _document(self, workflow: str | None, device: Document, entities: Sequence[Entity]) -> Document:
        object_id = self._object_id(workflow)
        prefix = as_entity_id(f"{self._topics.base} {workflow or ''}")
        about = {"identifiers": [object_id], "manufacturer": _MAKER, "sw_version": self._version}
        return {
            "device": about | device,
            "origin": {"name": _MAKER, "sw_version": self._version},
            "availability": [_there(self._topics.bridge("state"))],
            "components": {one.key: one.to_json(object_id, prefix) for one in entities},
        }

    def _with_backend(self, workflow: str) -> Document:
        """Return the availability of what needs a ComfyUI just now, besides the bridge."""
        return self._with(self._topics.workflow(workflow, "state"))

    def _with(self, state: str) -> Document:
        """Return the availability of what needs, besides the bridge, whatever has this topic for its state."""
        topics = (self._topics.bridge("state"), state)
        return {"availability": [_there(topic) for topic in topics], "availability_mode": "all"}

    # The bridge

    def _of_bridge(self, workflows: Sequence[str]) -> Iterator[Entity]:
        yield entity(
            "button",
            "free_memory",
            "Free memory",
            command_topic=self._topics.command("bridge/request/free"),
            entity_category="config",
            icon="mdi:memory",
        )
        yield entity(
            "button",
            "cancel_all",
            "Cancel all",
            command_topic=self._topics.command("interrupt"),
            icon="mdi:stop-circle-outline",
        )
        yield entity(
            "sensor",
            "queue",
            "Queue",
            state_topic=self._topics.queue_state(),
            value_template="{{ value_json.waiting_count }}",
            unit_of_measurement="jobs",
            state_class="measurement",
            icon="mdi:tray-full",
        )
        yield entity(
            "sensor",
            "version",
            "Version",
            state_topic=self._topics.bridge("info"),
            value_template="{{ value_json.version }}",
            entity_category="diagnostic",
            icon="mdi:tag",
        )
        if 0 < len(workflows) <= MAX_CHOICES:
            yield entity(
                "select",
                "loaded_workflow",
                "Loaded workflow",
                state_topic=self._topics.bridge("workflows"),
                value_template=one_of("value_json.loaded", workflows),
                command_topic=self._topics.command("load"),
                options=list(workflows),
                entity_category="config",
                icon="mdi:graph",
            )

    def _of_backend(self, backend: str, ending: str) -> Iterator[Entity]:
        yield entity(
            "binary_sensor",
            f"backend_{backend}",
            f"ComfyUI{ending}",
            state_topic=self._topics.backend(backend, "state"),
            payload_on="online",
            payload_off="offline",
            device_class="connectivity",
            entity_category="diagnostic",
        )
        devices = f"(value_json.backends[{json.dumps(backend)}] | default({{}})).devices | default([])"
        yield entity(
            "sensor",
            f"vram_free_{backend}",
            f"VRAM free{ending}",
            state_topic=self._topics.bridge("health"),
            # A backend that is away tells no devices.
            value_template=f"{{% set devices = {devices} %}}"
            "{% set free = devices[0].vram_free if devices else none %}"
            "{{ (free / 1e9) | round(2) if free is number else 'None' }}",
            unit_of_measurement="GB",
            device_class="data_size",
            state_class="measurement",
            suggested_display_precision=1,
            entity_category="diagnostic",
            icon="mdi:expansion-card",
        )

    # A workflow

    def _controls(self, workflow: str) -> Iterator[Entity]:
        yield entity(
            "button",
            "generate",
            "Generate",
            command_topic=self._topics.workflow(workflow, "queue"),
            icon="mdi:creation",
            **self._with_backend(workflow),
        )
        yield entity(
            "button",
            "cancel",
            "Cancel",
            command_topic=self._topics.workflow(workflow, "interrupt"),
            icon="mdi:stop",
        )

    def _state(self, workflow: str) -> Iterator[Entity]:
        status = self._topics.workflow(workflow, "status")
        told = {name: f"value_json.{name} | default(none)" for name in ("id", "position", "error")}
        yield entity(
            "sensor",
            "status",
            "Status",
            state_topic=status,
            value_template="{{ value_json.status }}",
            json_attributes_topic=status,
            json_attributes_template=as_attributes(told),
            device_class="enum",
            options=list(STATUSES),
            icon="mdi:list-status",
        )
        yield entity(
            "sensor",
            "progress",
            "Progress",
            state_topic=status,
            # Whole percents: each change is a row in Home Assistant's history.
            value_template="{{ value_json.percent | default(0) | round | int }}",
            unit_of_measurement="%",
            icon="mdi:progress-helper",
            **self._with_backend(workflow),
        )
        yield entity(
            "binary_sensor",
            "running",
            "Running",
            state_topic=status,
            value_template="{{ 'ON' if value_json.status in ('preparing', 'running', 'finishing') else 'OFF' }}",
            payload_on="ON",
            payload_off="OFF",
            device_class="running",
            **self._with_backend(workflow),
        )
        yield entity(
            "event",
            "job",
            "Job",
            state_topic=self._topics.workflow(workflow, "event"),
            event_types=list(EVENTS),
            icon="mdi:bell-ring",
        )
        yield entity(
            "camera",
            "preview",
            "Preview",
            topic=self._topics.workflow(workflow, "preview"),
            icon="mdi:image-refresh",
            **self._with_backend(workflow),
        )

    def _results(self, workflow: str, parameters: Sequence[Mapping[str, Any]], outputs: set[str]) -> Iterator[Entity]:
        result = self._topics.workflow(workflow, "result")
        spent = " + ".join(f"t.{status} | default(0)" for status in ("preparing", "running", "finishing"))
        yield entity(
            "sensor",
            "duration",
            "Duration",
            state_topic=result,
            value_template=f"{{% set t = value_json.timings %}}{{{{ ({spent}) | round(1) }}}}",
            unit_of_measurement="s",
            device_class="duration",
            suggested_display_precision=1,
            entity_category="diagnostic",
        )
        prompt = next((one["name"] for one in parameters if one["type"] == "text"), None)
        if prompt is not None:
            yield entity(
                "sensor",
                "last_prompt",
                "Last prompt",
                state_topic=result,
                value_template=sliced(f"value_json['values'][{json.dumps(prompt)}]"),
                json_attributes_topic=result,
                json_attributes_template="{{ value_json['values'] | tojson }}",
                icon="mdi:message-text-clock",
            )
        if "text" in outputs:
            texts = "(value_json.text | map(attribute='text') | join('\\n'))"
            yield entity(
                "sensor",
                "text",
                "Text",
                state_topic=result,
                value_template=sliced(texts),
                json_attributes_topic=result,
                json_attributes_template=as_attributes({"text": texts}),
                icon="mdi:text-box",
            )
        if not outputs or outputs & {"image", "file"}:
            yield entity(
                "image",
                "result",
                "Result",
                image_topic=self._topics.workflow(workflow, "image"),
                # One type for all pictures is all that can be said here; ComfyUI's own nodes save PNG.
                content_type="image/png",
                icon="mdi:image",
            )


def with_removals(components: Mapping[str, Document], before: Mapping[str, Document]) -> Components:
    """Return the components with those that went reduced to their platform, which removes them.

    They stay in every later document: Home Assistant may have been away when they came first.
    """
    gone = {key: {"platform": one["platform"]} for key, one in before.items() if key not in components}
    return gone | dict(components)


def _there(topic: str) -> Document:
    return {"topic": topic, "payload_available": "online", "payload_not_available": "offline"}

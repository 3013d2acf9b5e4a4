"""As much of Home Assistant as its MQTT devices need: what it accepts, and what it makes of the messages.

The schema is what 2026.2.3 was seen to take. Templates run in jinja2 alone, and strictly: what Home Assistant would
write into its log as a warning is an error here.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jsonschema import Draft202012Validator

from tests.support.brokers import until
from tests.support.mqtt_eye import PATIENCE

Json = dict[str, Any]

LONGEST_STATE = 255
UNKNOWN = "unknown"

TEXT = {"type": "string", "minLength": 1}
TOPIC = {"type": "string", "pattern": r"^[^+#\x00\s]+$"}
TEMPLATE = {"type": "string", "pattern": r"\{\{.*\}\}"}
NUMBER = {"type": "number"}
WORDS = {"type": "array", "minItems": 1, "items": {"type": "string"}, "uniqueItems": True}
STATE = {"state_topic": TOPIC, "value_template": TEMPLATE}
COMMAND = {"command_topic": TOPIC, "command_template": TEMPLATE}

PLATFORMS: dict[str, tuple[set[str], Json]] = {
    "text": (
        {"command_topic"},
        {
            **STATE,
            **COMMAND,
            "min": {"type": "integer", "minimum": 0},
            "max": {"type": "integer", "maximum": LONGEST_STATE},
            "mode": {"enum": ["text", "password"]},
            "pattern": TEXT,
        },
    ),
    "notify": ({"command_topic"}, COMMAND),
    "button": (
        {"command_topic"},
        {**COMMAND, "payload_press": TEXT, "device_class": {"enum": ["identify", "restart", "update"]}},
    ),
    "number": (
        {"command_topic"},
        {
            **STATE,
            **COMMAND,
            "min": NUMBER,
            "max": NUMBER,
            "step": {"type": "number", "minimum": 0.001},
            "mode": {"enum": ["box", "slider", "auto"]},
            "unit_of_measurement": TEXT,
            "payload_reset": TEXT,
        },
    ),
    "select": ({"command_topic", "options"}, {**STATE, **COMMAND, "options": WORDS}),
    "switch": (
        {"command_topic"},
        {**STATE, **COMMAND, "payload_on": TEXT, "payload_off": TEXT, "state_on": TEXT, "state_off": TEXT},
    ),
    "sensor": (
        {"state_topic"},
        {
            **STATE,
            "device_class": {"enum": ["enum", "duration", "data_size"]},
            "options": WORDS,
            "state_class": {"enum": ["measurement", "total", "total_increasing"]},
            "unit_of_measurement": TEXT,
            "suggested_display_precision": {"type": "integer", "minimum": 0},
            "expire_after": {"type": "integer", "minimum": 0},
        },
    ),
    "binary_sensor": (
        {"state_topic"},
        {
            **STATE,
            "payload_on": TEXT,
            "payload_off": TEXT,
            "device_class": {"enum": ["connectivity", "running", "problem"]},
            "off_delay": {"type": "integer", "minimum": 0},
            "expire_after": {"type": "integer", "minimum": 0},
        },
    ),
    "image": (
        {"image_topic"},
        {
            "image_topic": TOPIC,
            "content_type": {"enum": ["image/png", "image/jpeg"]},
            "image_encoding": {"const": "b64"},
        },
    ),
    "camera": ({"topic"}, {"topic": TOPIC, "image_encoding": {"const": "b64"}}),
    "event": ({"state_topic", "event_types"}, {**STATE, "event_types": WORDS}),
}
AVAILABILITY = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["topic"],
        "properties": {"topic": TOPIC, "payload_available": TEXT, "payload_not_available": TEXT},
        "additionalProperties": False,
    },
}
SHARED = {"availability": AVAILABILITY, "availability_mode": {"enum": ["all", "any", "latest"]}}


def component_schema(platform: str) -> Json:
    required, own = PLATFORMS[platform]
    common = {
        "platform": {"const": platform},
        "unique_id": TEXT,
        "default_entity_id": {"type": "string", "pattern": rf"^{platform}\.[a-z0-9]+(_[a-z0-9]+)*$"},
        "name": TEXT,
        "icon": {"type": "string", "pattern": "^mdi:[a-z0-9-]+$"},
        "qos": {"enum": [0, 1, 2]},
        # Sensors of either kind cannot be settings.
        "entity_category": {"enum": ["diagnostic"] if "sensor" in platform else ["config", "diagnostic"]},
        "enabled_by_default": {"type": "boolean"},
        "json_attributes_topic": TOPIC,
        "json_attributes_template": TEMPLATE,
    }
    return {
        "type": "object",
        "required": ["platform", "unique_id", "default_entity_id", "name", *sorted(required)],
        "properties": {**common, **SHARED, **own},
        "additionalProperties": False,
    }


def removal_schema(platform: str) -> Json:
    return {"properties": {"platform": {"const": platform}}, "required": ["platform"], "additionalProperties": False}


ABOUT_DEVICE = {
    "type": "object",
    "required": ["identifiers", "name"],
    "properties": {
        "identifiers": {"type": "array", "minItems": 1, "items": TEXT},
        **dict.fromkeys(("name", "manufacturer", "model", "sw_version", "via_device"), TEXT),
    },
    "additionalProperties": False,
}
DEVICE = {
    "type": "object",
    "required": ["device", "origin", "components"],
    "properties": {
        "device": ABOUT_DEVICE,
        "origin": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": TEXT, "sw_version": TEXT, "support_url": TEXT},
            "additionalProperties": False,
        },
        **SHARED,
        "components": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[a-zA-Z0-9_-]+$"},
            "additionalProperties": {
                "anyOf": [schema(platform) for platform in PLATFORMS for schema in (component_schema, removal_schema)]
            },
        },
    },
    "additionalProperties": False,
}
TOPIC_OF_DEVICE = re.compile(r"device/([a-zA-Z0-9_-]+)/config")


def check(document: Json) -> None:
    """Hold a discovery document to what Home Assistant takes."""
    for key, component in document["components"].items():
        platform = component["platform"]
        schema = removal_schema(platform) if len(component) == 1 else component_schema(platform)
        problems = [f"{key}: {one.message}" for one in Draft202012Validator(schema).iter_errors(component)]
        assert not problems, problems
        if "options" in component and platform == "sensor":
            assert component["device_class"] == "enum"
            assert not {"unit_of_measurement", "state_class"} & set(component)
        if "min" in component and "max" in component:
            assert component["min"] <= component["max"]
        for name, template in component.items():
            if name.endswith("_template"):
                environment.parse(template)
    Draft202012Validator(DEVICE).validate(document)


environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


def render(template: str, payload: bytes) -> str:
    """What a value template makes of a payload."""
    text = payload.decode()
    variables: Json = {"value": text}
    with contextlib.suppress(ValueError):
        variables["value_json"] = json.loads(text)
    return environment.from_string(template).render(variables).strip()


@dataclass
class Entity:
    """An entity, and what its messages made of it. `state` is a text, a number, bytes of a picture, or `UNKNOWN`."""

    config: Json
    state: Any = UNKNOWN
    attributes: Json = field(default_factory=dict)
    history: list[Any] = field(default_factory=list)

    @property
    def platform(self) -> str:
        return str(self.config["platform"])

    @property
    def id(self) -> str:
        return str(self.config["default_entity_id"])

    def topics(self) -> set[str]:
        names = ("state_topic", "json_attributes_topic", "image_topic", "topic")
        return {self.config[name] for name in names if name in self.config}

    def take(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Take a message as the platform does. AssertionError for what would be an error in Home Assistant's log."""
        if topic == self.config.get("json_attributes_topic"):
            attributes = json.loads(render(self.config["json_attributes_template"], payload))
            assert isinstance(attributes, dict)
            self.attributes = attributes
        if topic in {self.config.get("image_topic"), self.config.get("topic")}:
            self._change(payload)
        if topic == self.config.get("state_topic") and not (self.platform == "event" and retain):
            template = self.config.get("value_template")
            self._take_state(payload.decode() if template is None else render(template, payload))

    def _take_state(self, text: str) -> None:
        config = self.config
        if self.platform == "event":
            document = json.loads(text)
            assert document["event_type"] in config["event_types"]
            self.attributes = document
            self._change(document["event_type"])
            return
        assert len(text) <= LONGEST_STATE, f"{self.id}: too long"
        if text == "None" and self.platform != "text":
            self._change(UNKNOWN)
        elif self.platform in {"select", "sensor"} and "options" in config:
            assert text in config["options"], f"{self.id}: {text!r} is no option"
            self._change(text)
        elif self.platform == "number" or "unit_of_measurement" in config:
            number = float(text)
            assert config.get("min", number) <= number <= config.get("max", number), f"{self.id}: {text}"
            self._change(number)
        elif self.platform in {"switch", "binary_sensor"}:
            prefix = "state" if self.platform == "switch" else "payload"
            words = {config[f"{prefix}_on"]: "on", config[f"{prefix}_off"]: "off"}
            assert text in words, f"{self.id}: {text!r}"
            self._change(words[text])
        else:
            self._change(text)

    def _change(self, state: Any) -> None:
        self.state = state
        self.history.append(state)

    def command(self, value: str | float | bool | None = None) -> tuple[str, str]:
        """Topic and payload of what a person does with the entity."""
        config = self.config
        if self.platform == "button":
            payload = config.get("payload_press", "PRESS")
        elif self.platform == "switch":
            payload = config["payload_on" if value else "payload_off"]
        elif self.platform == "number":
            assert isinstance(value, (int, float))
            assert config["min"] <= value <= config["max"]
            payload = str(int(value)) if float(value).is_integer() else str(value)
        else:
            assert isinstance(value, str)
            if self.platform == "select":
                assert value in config["options"]
            elif self.platform == "text":
                assert config["min"] <= len(value) <= config["max"]
            payload = value
        if "command_template" in config:
            payload = environment.from_string(config["command_template"]).render(value=payload)
        return str(config["command_topic"]), payload


class Home:
    """A Home Assistant that knows the devices of one base topic. `complaints` is what its log would hold."""

    def __init__(self, client: aiomqtt.Client, object_id: str, prefix: str) -> None:
        self.client = client
        self.prefix = prefix
        self.object_id = object_id
        self.devices: dict[str, Json] = {}
        self.entities: dict[str, Entity] = {}
        self.documents: list[tuple[str, Json | None, bool]] = []
        """Every announcement: object id, document or None, and whether it was retained from before."""
        self.complaints: list[str] = []
        self._held: dict[str, bytes] = {}

    def __getitem__(self, entity_id: str) -> Entity:
        return self.entities[entity_id]

    def state(self, entity_id: str) -> Any:
        """The state; "unavailable" and None (for an entity that is not there) too."""
        if entity_id not in self.entities:
            return None
        return self[entity_id].state if self.available(entity_id) else "unavailable"

    def available(self, entity_id: str) -> bool:
        config = self[entity_id].config
        there = [self._held.get(one["topic"]) == one["payload_available"].encode() for one in config["availability"]]
        assert len(there) == 1 or config["availability_mode"] == "all"
        return all(there)

    async def until(self, condition: Callable[[], object], within: float = PATIENCE) -> None:
        await until(lambda: condition() or self.complaints, within)
        assert not self.complaints, self.complaints

    async def shows(self, entity_id: str, state: Any) -> None:
        """Wait until an entity has this state; None: until it is gone."""
        try:
            await self.until(lambda: self.state(entity_id) == state)
        except AssertionError:
            raise AssertionError(
                f"{entity_id} is {self.state(entity_id)!r}, not {state!r}: {self.complaints}"
            ) from None

    async def do(self, entity_id: str, value: str | float | bool | None = None) -> None:
        """Press it, set it, or send it a message."""
        topic, payload = self[entity_id].command(value)
        await self.client.publish(topic, payload, qos=self[entity_id].config["qos"])

    async def say(self, payload: str, *, retain: bool = False) -> None:
        """Say `online` or `offline`, as at start and end."""
        await self.client.publish(f"{self.prefix}/status", payload, retain=retain)

    async def read(self) -> None:
        async for message in self.client.messages:
            topic, payload = message.topic.value, bytes(message.payload)
            try:
                self._take(topic, payload, retain=bool(message.retain))
            except Exception as error:  # noqa: BLE001 - any at all is a complaint
                self.complaints.append(f"{topic} {payload[:200]!r}: {type(error).__name__}: {error}")

    def _take(self, topic: str, payload: bytes, *, retain: bool) -> None:
        match = TOPIC_OF_DEVICE.fullmatch(topic.removeprefix(f"{self.prefix}/"))
        if match is None:
            self._held[topic] = payload
            for entity in self.entities.values():
                if topic in entity.topics():
                    entity.take(topic, payload, retain=retain)
        elif re.fullmatch(rf"{re.escape(self.object_id)}(__.*)?", match[1]):
            document = json.loads(payload) if payload else None
            self.documents.append((match[1], copy.deepcopy(document), retain))
            self._discover(match[1], document)

    def _discover(self, object_id: str, document: Json | None) -> None:
        if document is None:
            components = self.devices.pop(object_id, {}).get("components", {})
            for component in components.values():
                self.entities.pop(component.get("default_entity_id", ""), None)
            return
        check(document)
        before = self.devices.get(object_id, {}).get("components", {})
        for key, component in document["components"].items():
            old = before.get(key, {}).get("default_entity_id")
            if len(component) == 1:
                self.entities.pop(old, None)
                continue
            shared = {name: document[name] for name in SHARED if name in document}
            config = shared | component
            if old is not None and old in self.entities:
                self.entities[old].config = config
            else:
                assert config["default_entity_id"] not in self.entities, f"two {config['default_entity_id']}"
                entity = self.entities[config["default_entity_id"]] = Entity(config)
                for topic in entity.topics() & self._held.keys():  # a subscription brings what is retained
                    entity.take(topic, self._held[topic], retain=True)
        ghosts = {key for key, one in before.items() if len(one) > 1} - document["components"].keys()
        assert not ghosts, f"left out instead of removed: {ghosts}"
        self.devices[object_id] = document


@contextlib.asynccontextmanager
async def home(port: int, base: str, *, prefix: str = "homeassistant") -> AsyncIterator[Home]:
    """A connected `Home`; it must have had no complaints at the end."""
    async with aiomqtt.Client("127.0.0.1", port, max_queued_incoming_messages=0) as client:
        made = Home(client, f"comfy-bridge_{base}", prefix)
        reading = asyncio.create_task(made.read())
        # What has no retained state only counts while it is listened to: states before devices do no harm.
        for one in (f"{base}/#", f"{prefix}/device/+/config"):
            await client.subscribe(one, qos=1)
        try:
            yield made
            assert not made.complaints, made.complaints
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await reading

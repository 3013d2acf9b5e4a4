"""The entities of the prompt step on the bridge's own device: an idea in, a prompt out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bridge.mqtt.entities import (
    LONGEST_STATE,
    MAX_CHOICES,
    Document,
    Entity,
    as_attributes,
    entity,
    one_of,
    sliced,
)
from bridge.mqtt.topics import Topics

PROMPT_ONLY = "(prompt only)"
"""The choice of no workflow: Home Assistant has no empty option, and no workflow's name holds a bracket."""

_TOLD = ("prompt", "negative", "title", "model", "error", "code", "prompt_id", "workflow", "id")


def idea_entities(topics: Topics, workflows: Sequence[str], there: Document) -> Iterator[Entity]:
    """Return them. workflows: those that a prompt can go to. there: the availability of what needs the writer."""
    values, command = topics.ollama("values"), topics.command("ollama/set/idea")
    yield entity(
        "text",
        "idea",
        "Idea",
        state_topic=values,
        command_topic=command,
        value_template=sliced("value_json.idea"),
        json_attributes_topic=values,
        json_attributes_template=as_attributes({"text": "value_json.idea"}),
        min=0,
        max=LONGEST_STATE,
        icon="mdi:lightbulb-on-outline",
    )
    long = {"command_topic": command, "icon": "mdi:lightbulb-on-outline"}
    yield Entity("notify", "idea_notify", "Idea (long)", long, ending="idea")
    yield entity(
        "button",
        "write_prompt",
        "Write prompt",
        command_topic=topics.command("ollama/generate"),
        icon="mdi:creation",
        **there,
    )
    yield entity(
        "button",
        "cancel_writing",
        "Cancel writing",
        command_topic=topics.command("ollama/cancel"),
        icon="mdi:stop",
    )
    if len(workflows) < MAX_CHOICES:
        options = [PROMPT_ONLY, *workflows]
        yield entity(
            "select",
            "idea_workflow",
            "Picture of the idea",
            state_topic=values,
            value_template=one_of(f"(value_json.workflow or '{PROMPT_ONLY}')", options),
            command_topic=topics.command("ollama/set/workflow"),
            command_template=f"{{{{ '' if value == '{PROMPT_ONLY}' else value }}}}",
            options=options,
            entity_category="config",
            icon="mdi:graph",
        )
    result = topics.ollama("result")
    yield entity(
        "sensor",
        "written_prompt",
        "Written prompt",
        state_topic=result,
        # An idea that came to nothing leaves it unknown; the attributes say why.
        value_template=sliced("(value_json.prompt | default('None'))"),
        json_attributes_topic=result,
        json_attributes_template=as_attributes({name: f"value_json.{name} | default(none)" for name in _TOLD}),
        icon="mdi:message-text-clock",
    )
    yield entity(
        "binary_sensor",
        "prompt_writer",
        "Prompt writer",
        state_topic=topics.ollama("state"),
        payload_on="online",
        payload_off="offline",
        device_class="connectivity",
        entity_category="diagnostic",
    )

"""Entities of Home Assistant, and which of them a parameter becomes. Pure.

What Home Assistant accepts, and what it makes of a state that does not fit, is measured with 2026.2. A state `None` is
"unknown" on every platform used here; anything else that does not fit is an error in its log, at each message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.mqtt.topics import Topics
from bridge.workflow.kinds import MEDIA_TYPES, RANDOM, SEED_INPUTS

Document = dict[str, Any]

MAX_CHOICES = 200
"""More choices than these become a text: nobody finds a file in a list of thousands."""

LONGEST_STATE = 255
EXACT = 2**53 - 1
"""Numbers of Home Assistant are floats: larger whole ones would change on the way."""

_FINEST_STEP = 0.001
_SLIDER_POSITIONS = 1000
_SETTING_PLATFORMS = ("text", "notify", "number", "select", "switch")

_ICONS = {
    "prompt": "mdi:message-text",
    "negative": "mdi:message-off",
    "seed": "mdi:dice-multiple",
    "steps": "mdi:stairs",
    "cfg": "mdi:compass",
    "denoise": "mdi:blur",
    "width": "mdi:arrow-expand-horizontal",
    "height": "mdi:arrow-expand-vertical",
    "batch": "mdi:image-multiple",
    "checkpoint": "mdi:brain",
    "lora": "mdi:puzzle",
}
_ICONS_OF_PLATFORMS = {
    "text": "mdi:form-textbox",
    "notify": "mdi:message-text",
    "number": "mdi:tune",
    "select": "mdi:format-list-bulleted",
    "switch": "mdi:toggle-switch",
}


@dataclass(frozen=True, slots=True)
class Entity:
    """One component of a device, by its key; `ending` is what its entity id ends with."""

    platform: str
    key: str
    name: str
    fields: Document
    ending: str

    def to_json(self, object_id: str, entity_prefix: str) -> Document:
        """Its entry in the discovery document of the device `object_id`."""
        return {
            "platform": self.platform,
            "unique_id": f"{object_id}/{self.key}",
            "default_entity_id": f"{self.platform}.{as_entity_id(f'{entity_prefix} {self.ending}')}",
            "name": self.name,
            "qos": 1,
            **self.fields,
        }


def entity(platform: str, key: str, name: str, **fields: Any) -> Entity:
    """Return an entity whose entity id ends with its key."""
    return Entity(platform, key, name, fields, key)


def as_entity_id(text: str) -> str:
    """Return a text as a part of an entity id."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def setting_keys(name: str) -> tuple[str, ...]:
    """Return the keys that the entities of a parameter may have.

    They end with the platform: Home Assistant does not move a key from one to another.
    """
    return tuple(f"set_{name}_{platform}" for platform in _SETTING_PLATFORMS)


def settings(topics: Topics, workflow: str, parameter: Mapping[str, Any]) -> Iterator[Entity]:
    """Return the entities that set a parameter, from its entry in `bridge/workflows`."""
    name, kind = str(parameter["name"]), parameter["type"]
    title = str(parameter.get("title") or name)
    value = f"value_json[{json.dumps(name)}]"
    values = topics.workflow(workflow, "values")
    command = topics.workflow(workflow, f"set/{name}")
    both = {"state_topic": values, "command_topic": command}

    def setting(platform: str, named: str, *, ending: str = name, **fields: Any) -> Entity:
        fields["icon"] = _ICONS.get(re.sub(r"_[0-9]+$", "", name), _ICONS_OF_PLATFORMS[platform])
        if platform in {"number", "select", "switch"}:
            fields["entity_category"] = "config"
        return Entity(platform, f"set_{name}_{platform}", named, fields, ending)

    choices = list(dict.fromkeys(str(one) for one in parameter.get("choices", ())))
    if kind in {"integer", "number"}:
        yield setting("number", title, **both, **_number(parameter, value))
        if _is_seed(parameter):
            named = f"Random {title[:1].lower()}{title[1:]}"
            yield setting("switch", named, ending=f"random_{name}", **both, **_random(parameter, value))
    elif kind == "boolean":
        template = f"{{{{ 'ON' if {value} | default(false) else 'OFF' }}}}"
        words = {"payload_on": "ON", "payload_off": "OFF", "state_on": "ON", "state_off": "OFF"}
        yield setting("switch", title, **both, **words, value_template=template)
    elif kind == "choice" and 0 < len(choices) <= MAX_CHOICES:
        yield setting("select", title, **both, value_template=one_of(value, choices), options=choices)
    elif kind in MEDIA_TYPES:
        both["command_topic"] = topics.workflow(workflow, "set")
        yield setting("text", title, **both, **_file(name, value))
    else:
        whole = {
            "json_attributes_topic": values,
            "json_attributes_template": as_attributes({"text": f"{value} | default('')"}),
        }
        yield setting("text", title, **both, **whole, min=0, max=LONGEST_STATE, value_template=sliced(value))
        if kind == "text":
            yield setting("notify", f"{title} (long)", command_topic=command)


def sliced(value: str) -> str:
    """Return the template of a text that is cut where the states of Home Assistant end."""
    return f"{{{{ ({value} | default('', true) | string)[:{LONGEST_STATE}] }}}}"


def one_of(value: str, options: Sequence[str]) -> str:
    """Return the template of a choice, which is unknown when it is none of the options."""
    listed = json.dumps(list(options), ensure_ascii=False)
    return f"{{% set v = {value} | default('') | string %}}{{{{ v if v in {listed} else 'None' }}}}"


def as_attributes(values: Mapping[str, str]) -> str:
    """Return the template of attributes: expressions by name."""
    inner = ", ".join(f"{json.dumps(name)}: {value}" for name, value in values.items())
    return f"{{{{ {{{inner}}} | tojson }}}}"


def _number(parameter: Mapping[str, Any], value: str) -> Document:
    low = max(parameter.get("min", -EXACT), -EXACT)
    high = min(parameter.get("max", EXACT), EXACT)
    if low > high:
        low, high = -EXACT, EXACT
    step = max(parameter.get("step") or (1 if parameter["type"] == "integer" else 0.01), _FINEST_STEP)
    return {
        # A seed may be `random`, and a graph may hold anything.
        "value_template": f"{{% set v = {value} %}}"
        f"{{{{ v if v is number and v is not boolean and {low} <= v <= {high} else 'None' }}}}",
        "min": low,
        "max": high,
        "step": step,
        "mode": "slider" if (high - low) / step <= _SLIDER_POSITIONS else "box",
    }


def _random(parameter: Mapping[str, Any], value: str) -> Document:
    low, default = parameter.get("min", 0), parameter.get("default")
    fixed = default if isinstance(default, int) and low <= default <= EXACT else low
    return {
        "value_template": f"{{{{ 'ON' if {value} | default('') == '{RANDOM}' else 'OFF' }}}}",
        "payload_on": RANDOM,
        "payload_off": str(fixed),
        "state_on": "ON",
        "state_off": "OFF",
    }


def _file(name: str, value: str) -> Document:
    """Return what makes a text of a picture or another file: its name in ComfyUI; also its address, to set it."""
    source = "{'url': value} if value.startswith(('http://', 'https://')) else value"
    return {
        "command_template": as_attributes({name: f"({source})"}),
        "value_template": f"{{% set v = {value} | default('') %}}" + sliced("(v['filename'] if v is mapping else v)"),
        "min": 0,
        "max": LONGEST_STATE,
    }


def _is_seed(parameter: Mapping[str, Any]) -> bool:
    """Tell whether a parameter takes `random`."""
    inputs = {target["input"] for target in parameter.get("targets", ())}
    named = re.fullmatch(r"seed(_[0-9]+)?", str(parameter["name"])) is not None
    return parameter["type"] == "integer" and (
        named or parameter.get("default") == RANDOM or not inputs.isdisjoint(SEED_INPUTS)
    )

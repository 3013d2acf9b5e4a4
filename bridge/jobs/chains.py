"""Chains: steps one after another, each a workflow, whose values may take an earlier step's output. Pure.

The form, as TOML in `flows/chains/<name>.toml` or as JSON in a command:

    title = "Draw, then enlarge"

    [parameters]                      # optional: what is shown, and which step's parameter it sets
    prompt = "base.prompt"

    [[steps]]
    name = "base"
    workflow = "txt2img"
    values = { steps = 30 }

    [[steps]]
    name = "large"
    workflow = "upscale"
    values = { image = { step = "base", output = 0 } }
    retry = 1
    when = { step = "base", status = "completed" }
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.errors import BadValue
from bridge.jobs.model import Status
from bridge.workflow.graph import slug
from bridge.workflow.words import did_you_mean, listed, shown

MAX_STEPS = 50
MAX_RETRY = 10
SKIPPED = "skipped"

_CHAIN = ("title", "description", "parameters", "steps")
_STEP = ("name", "workflow", "values", "retry", "when")
_WHEN = ("step", "status", "text")
_ENDS = (Status.COMPLETED.value, Status.FAILED.value, Status.INTERRUPTED.value, SKIPPED)


@dataclass(frozen=True, slots=True)
class Reference:
    """An output (its number) or a text (its number) of an earlier step; neither: the output that stands for it."""

    step: str
    output: int | None = None
    text: int | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """A step runs only if an earlier one ended so, or said a text that holds these words."""

    step: str
    status: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A workflow with values; tried `retry` times more if it fails. Without `when` the steps before must succeed."""

    name: str
    workflow: str
    values: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, Reference] = field(default_factory=dict)
    retry: int = 0
    when: Condition | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """What a chain file says. parameters: by shown name, the step and its parameter; None: all that can be set."""

    title: str
    description: str
    steps: tuple[Step, ...]
    parameters: Mapping[str, tuple[str, str]] | None = None

    def to_json(self) -> dict[str, Any]:
        """As `read_chain` takes it."""
        document: dict[str, Any] = {"title": self.title, "description": self.description}
        if self.parameters is not None:
            document["parameters"] = {name: ".".join(target) for name, target in self.parameters.items()}
        document["steps"] = [_step_json(step) for step in self.steps]
        return document


@dataclass(frozen=True, slots=True)
class Part:
    """How far a step is: the job of its last try."""

    step: str
    status: str
    job_id: str | None = None
    tries: int = 0


def read_chain(document: object, *, where: str) -> Chain:
    """Read the form above. Raises BadValue that names the step and what would be right; `where` begins the sentence."""
    table = _table(document, _CHAIN, where)
    entries = table.get("steps")
    if not isinstance(entries, list) or not entries:
        raise BadValue(f"{where}: steps must be a list of at least one step")
    if len(entries) > MAX_STEPS:
        raise BadValue(f"{where}: there are {len(entries)} steps; at most {MAX_STEPS} are taken")
    steps: list[Step] = []
    for number, entry in enumerate(entries, 1):
        steps.append(_step(entry, number, [step.name for step in steps], where))
    parameters = table.get("parameters")
    return Chain(
        title=_text(table, "title", where, default=""),
        description=_text(table, "description", where, default=""),
        steps=tuple(steps),
        parameters=None if parameters is None else dict(_parameters(parameters, [one.name for one in steps], where)),
    )


def applies(condition: Condition | None, parts: Mapping[str, Part], texts: Mapping[str, str]) -> bool:
    """Tell whether a step runs, by how the earlier ones ended and what they said."""
    if condition is None:
        return all(part.status in {Status.COMPLETED.value, SKIPPED} for part in parts.values())
    part = parts.get(condition.step)
    if part is None:
        return False
    wanted = condition.status or (Status.COMPLETED.value if condition.text is not None else None)
    return (wanted is None or part.status == wanted) and (
        condition.text is None or condition.text.casefold() in texts.get(condition.step, "").casefold()
    )


def _step(entry: object, number: int, earlier: list[str], where: str) -> Step:
    place = f"{where}: step {number}"
    table = _table(entry, _STEP, place)
    name = _text(table, "name", place, default=f"step{number}")
    if slug(name) != name:
        raise BadValue(f"{place}: name {shown(name)} must be of letters a-z, digits, - and _ ({shown(slug(name))})")
    if name in earlier:
        raise BadValue(f"{place}: there is a step {shown(name)} already; names are unique")
    place = f"{where}: step {shown(name)}"
    workflow = _text(table, "workflow", place)
    values = _table(table.get("values", {}), None, f"{place}: values")
    retry = table.get("retry", 0)
    if isinstance(retry, bool) or not isinstance(retry, int) or not 0 <= retry <= MAX_RETRY:
        raise BadValue(f"{place}: retry must be a whole number from 0 to {MAX_RETRY}, not {shown(retry)}")
    references = {
        key: _reference(value, earlier, f"{place}: values.{key}")
        for key, value in values.items()
        if isinstance(value, dict) and "step" in value
    }
    plain = {key: value for key, value in values.items() if key not in references}
    when = None if "when" not in table else _condition(table["when"], earlier, f"{place}: when")
    return Step(name, workflow, plain, references, retry, when)


def _reference(value: Mapping[str, Any], earlier: list[str], place: str) -> Reference:
    table = _table(value, ("step", "output", "text"), place)
    step = _earlier(table, earlier, place)
    numbers = {key: table[key] for key in ("output", "text") if key in table}
    if len(numbers) > 1:
        raise BadValue(f"{place}: just one of output and text is possible")
    for key, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise BadValue(f"{place}: {key} must be a number from 0, not {shown(number)}")
    return Reference(step, **numbers)


def _condition(value: object, earlier: list[str], place: str) -> Condition:
    table = _table(value, _WHEN, place)
    step = _earlier(table, earlier, place)
    status = _text(table, "status", place, default="")
    if status and status not in _ENDS:
        raise BadValue(f"{place}: status {shown(status)} is none of {listed(_ENDS)}")
    text = _text(table, "text", place, default="")
    if not status and not text:
        raise BadValue(f"{place}: a status or a text is needed")
    return Condition(step, status or None, text or None)


def _earlier(table: Mapping[str, Any], earlier: list[str], place: str) -> str:
    step = _text(table, "step", place)
    if step not in earlier:
        before = f"; before it come {listed(earlier)}" if earlier else "; it is the first one"
        raise BadValue(f"{place}: {shown(step)} is no earlier step{before}")
    return step


def _parameters(value: object, steps: list[str], where: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, target in _table(value, None, f"{where}: parameters").items():
        step, dot, parameter = target.partition(".") if isinstance(target, str) else ("", "", "")
        if not dot or not parameter or step not in steps:
            raise BadValue(f"{where}: parameters.{name} must be '<step>.<parameter>' with a step of {listed(steps)}")
        if slug(name) != name:
            raise BadValue(f"{where}: parameters.{name} must be of letters a-z, digits, - and _")
        yield name, (step, parameter)


def _table(value: object, keys: tuple[str, ...] | None, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadValue(f"{place} must be a table")
    for key in value:
        if not isinstance(key, str) or (keys is not None and key not in keys):
            near = did_you_mean(str(key), keys or ())
            raise BadValue(f"{place}: {shown(key)} is not known.{near or f' There may be {listed(keys or ())}.'}")
    return value


def _text(table: Mapping[str, Any], key: str, place: str, *, default: str | None = None) -> str:
    value = table.get(key, default)
    if value is None:
        raise BadValue(f"{place}: {key} is missing")
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise BadValue(f"{place}: {key} must be a text")
    return value


def _step_json(step: Step) -> dict[str, Any]:
    values: dict[str, Any] = dict(step.values)
    for key, reference in step.references.items():
        numbers = {"output": reference.output, "text": reference.text}
        values[key] = {"step": reference.step, **{what: n for what, n in numbers.items() if n is not None}}
    document: dict[str, Any] = {"name": step.name, "workflow": step.workflow, "values": values, "retry": step.retry}
    if step.when is not None:
        when = {"step": step.when.step, "status": step.when.status, "text": step.when.text}
        document["when"] = {key: value for key, value in when.items() if value is not None}
    return document

"""What the faces ask of the core, as checked models. Pure.

`parse` turns a JSON document into one of them; what is wrong is a `BadPayload` that names the field.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bridge.complaints import complaint
from bridge.errors import BadPayload, BadValue
from bridge.jobs.model import Status
from bridge.workflow.words import shown

M = TypeVar("M", bound=BaseModel)

_LEVELS = ("debug", "info", "warning", "error")
_NEAR = 0.6
_LAST_MOMENT = 253_402_300_799
"""The end of the year 9999."""


def _node(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("must be a node's id (a number or a text), or its title")
    return value


def _moment(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("must be a time in ISO 8601 such as 2030-01-31T18:00:00Z, or seconds since 1970")
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("must be a time in ISO 8601 such as 2030-01-31T18:00:00Z") from None
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= value <= _LAST_MOMENT:  # milliseconds, for instance
        raise ValueError("must be a time between 1970 and 9999, in ISO 8601 or in seconds since 1970")
    return value


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


def _level(value: str) -> str:
    level = value.strip().lower()
    if level not in _LEVELS:
        raise ValueError(f"must be {', '.join(_LEVELS[:-1])} or {_LEVELS[-1]}, not {shown(value)}")
    return level


def _one_word(value: str) -> str:
    if len(value.split()) != 1 or value != value.strip():
        raise ValueError(f"must be a name without blanks, such as llama3.2, not {shown(value)}")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _without_controls(value: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError("must not hold control characters")
    return value


def _run_values(value: object) -> object:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("must be an object of values, or a list of them")
    return value


RunValues = Annotated[Mapping[str, Any] | list[Mapping[str, Any]], BeforeValidator(_run_values)]
Node = Annotated[int | str, BeforeValidator(_node)]
Moment = Annotated[float, BeforeValidator(_moment)]
Whole = Annotated[int, BeforeValidator(_whole)]
Name = Annotated[str, AfterValidator(_not_blank)]


class Request(BaseModel):
    """A request; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Load(Request):
    """Make a workflow the loaded one."""

    workflow: Name


class UpdateText(Request):
    """Set a text; without a node, the one text of the workflow."""

    text: str
    node: Node | None = Field(None, validation_alias=AliasChoices("node_id", "node"))


class ImageSource(Request):
    """Where an image comes from: just one of the three."""

    filename: Name | None = None
    url: Name | None = None
    base64: Name | None = None

    def given(self) -> str:
        """Return which of the three is given. Raises BadPayload unless it is just one."""
        given = [name for name in ("filename", "url", "base64") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"not {' and '.join(given)}" if given else "and none is there"
            raise BadPayload(f"just one of filename, url and base64 is needed, {found}")
        return given[0]


class UpdateImage(ImageSource):
    """Set an image, a mask for it, or both; without a node, the one image of the workflow."""

    node: Node | None = Field(None, validation_alias=AliasChoices("node_id", "node"))
    mask: ImageSource | None = None


class Queue(Request):
    """Run a workflow: once, `count` times, once for each of a list of values, or for each point of a grid."""

    workflow: Name | None = None
    values: RunValues = {}
    count: Whole = Field(1, ge=1)
    priority: Whole = Field(0, ge=-1_000_000, le=1_000_000)
    expires_at: Moment | None = None
    grid: Mapping[str, list[Any]] | None = None
    steps: list[Any] | None = None
    """A chain of its own, as `jobs.chains.read_chain` takes its steps."""
    deliver: Any = None

    def runs(self, limit: int) -> list[Mapping[str, Any]]:
        """Return the values of each run. Raises BadPayload, and BadValue for more runs than `limit`."""
        several = [isinstance(self.values, list), self.grid is not None, self.count > 1]
        if sum(several) > 1:
            raise BadPayload("just one of a list of values, grid and count above 1 is possible")
        if isinstance(self.values, list):
            size, what = len(self.values), "values"
        elif self.grid is not None:
            size, what = math.prod(len(choices) for choices in self.grid.values()), "grid"
        else:
            size, what = self.count, "count"
        if size == 0:
            raise BadPayload(f"{what} is empty; at least one run is needed")
        if size > limit:
            raise BadValue(f"{what} makes {size} runs; at most {limit} are taken (jobs.max_batch)")
        if isinstance(self.values, list):
            return self.values
        if self.grid is None:
            return [self.values] * self.count
        points = itertools.product(*self.grid.values())
        return [{**self.values, **dict(zip(self.grid, point, strict=True))} for point in points]


class RunGraph(Request):
    """Run a whole graph, as it is. `prompt` is checked by `workflow.graph.read_graph`."""

    prompt: Any
    id: Annotated[Name, Field(max_length=200), AfterValidator(_without_controls)] | None = None
    """A name that the caller chooses for the job, beside its id; of two jobs of one name the newer one is meant."""
    priority: Whole = Field(0, ge=-1_000_000, le=1_000_000)
    expires_at: Moment | None = None
    deliver: Any = None


class Interrupt(Request):
    """End jobs: one, those of a batch, or all."""

    prompt_id: Name | None = None
    batch_id: Name | None = None

    @model_validator(mode="after")
    def _just_one(self) -> Self:
        if self.prompt_id is not None and self.batch_id is not None:
            raise ValueError("just one of prompt_id and batch_id is possible")
        return self


class JobRequest(Request):
    """Ask for one job. A blank id is one that no job has."""

    prompt_id: str = Field(validation_alias=AliasChoices("prompt_id", "id"))


class JobsRequest(Request):
    """Ask for the jobs: all that wait and run, and the last that ended."""

    limit: Whole = Field(100, ge=1, le=10_000)


class JobList(Request):
    """Ask for jobs, newest first; the filters are joined by and."""

    status: Status | None = None
    workflow: Name | None = None
    batch_id: Name | None = None
    limit: Whole = Field(100, ge=1, le=1_000)


class OutputRequest(Request):
    """Ask for the bytes of an output."""

    prompt_id: str
    n: Whole = Field(ge=0)


class Free(Request):
    """Free the memory of the backends."""

    unload_models: bool = True
    free_memory: bool = True


class LogLevel(Request):
    """Change what is logged."""

    level: Annotated[str, AfterValidator(_level)]


class Picture(Request):
    """A picture for a model that can see: just one of the two."""

    url: Name | None = None
    base64: Name | None = None

    def given(self) -> tuple[str, str]:
        """Return which of the two is given, and what. Raises BadPayload unless it is just one."""
        given = [(key, value) for key, value in (("url", self.url), ("base64", self.base64)) if value is not None]
        if len(given) != 1:
            raise BadPayload("a picture needs just one of url and base64")
        return given[0]


def _pictures(value: object) -> object:
    entries = value if isinstance(value, list) else [value]
    return [_picture(entry) for entry in entries]


def _picture(entry: object) -> object:
    if not isinstance(entry, str):
        return entry
    return {"url" if entry.lstrip().lower().startswith(("http://", "https://")) else "base64": entry}


class Then(Request):
    """What is run with a prompt as soon as it is written: a workflow, or the loaded one."""

    workflow: Name | None = None
    values: Mapping[str, Any] = {}


class ImageDescription(BaseModel):
    """The form in which flows made for the runner describe a picture."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    description: str = ""
    visualCue: str = ""  # noqa: N815  the runner's names
    moodCue: str = ""  # noqa: N815


class WritePrompt(Request):
    """Have a prompt written for an idea; what is left out is as it was set."""

    idea: Annotated[str, Field(max_length=20_000)] | None = None
    images: Annotated[list[Picture], BeforeValidator(_pictures), Field(max_length=8)] = []
    style: Annotated[str, Field(max_length=2_000)] | None = None
    profile: Name | None = None
    then: Then | None = None
    image_description: ImageDescription | None = None

    def says_then(self) -> bool:
        """Tell whether `then` is given, be it null."""
        return "then" in self.model_fields_set


class WritePromptForImage(WritePrompt):
    """The same, with the picture beside the other fields."""

    url: Name | None = None
    base64: Name | None = None

    def whole(self) -> WritePrompt:
        """Return it with that picture among the others."""
        picture = {key: value for key, value in (("url", self.url), ("base64", self.base64)) if value is not None}
        rest = self.model_dump(exclude_unset=True, exclude={"url", "base64", "images"})
        pictures = [*([Picture(**picture)] if picture else []), *self.images]
        return WritePrompt(**rest, images=pictures)


class CancelPrompt(Request):
    """Stop the writing of prompts: of one idea or all; or the download of a model."""

    id: Name | None = None
    model: Name | None = None


class PullModel(Request):
    """Have Ollama download a model."""

    model: Annotated[str, Field(max_length=300), AfterValidator(_one_word)]


class PromptValues(Request):
    """Set what ideas have that do not say it themselves; an empty text is none."""

    idea: Annotated[str, Field(max_length=20_000)] | None = None
    style: Annotated[str, Field(max_length=2_000)] | None = None
    profile: str | None = None
    workflow: str | None = None


class Nothing(Request):
    """A request without fields."""


def parse(model: type[M], document: object, *, field: str | None = None) -> M:
    """Check a JSON document, or that in a field of one.

    Raises BadPayload that names the field and says what would be right.
    """
    if not isinstance(document, dict):
        raise BadPayload(f"{field or 'the payload'} must be {_form(model)}")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise BadPayload("; ".join(_sentence(model, one, field) for one in error.errors())) from None


def _sentence(model: type[BaseModel], error: ErrorDetails, field: str | None) -> str:
    location = error["loc"]
    name = ".".join(str(part) for part in (*([field] if field else []), *location))
    match error["type"]:
        case "extra_forbidden":
            return f"{shown(name)} is not a field of this command; {_instead(model, str(location[-1]))}"
        case "missing":
            return f"{name} is missing"
    words = complaint(error, shown=shown)
    return f"{name}: {words}" if name else words


def _instead(model: type[BaseModel], name: str) -> str:
    """Return what is right instead of a field that there is not."""
    names = _names(model)
    if name in names:  # the second name of one that is given
        return f"it is the same as {' and '.join(_names_beside(model, name))}, which is given too"
    near = difflib.get_close_matches(name, names, n=1, cutoff=_NEAR)
    if near:
        return f"did you mean {near[0]!r}?"
    values = '; parameters go into values: {"values": {"…": …}}' if "values" in names else ""
    return f"it takes {_fields(model)}{values}"


def _names_of(field: str, info: FieldInfo) -> list[str]:
    alias = info.validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [field]


def _names(model: type[BaseModel]) -> list[str]:
    return [name for field, info in model.model_fields.items() for name in _names_of(field, info)]


def _names_beside(model: type[BaseModel], name: str) -> list[str]:
    """Return the other names of a field."""
    each = (_names_of(field, info) for field, info in model.model_fields.items())
    return [other for names in each if name in names for other in names if other != name]


def _form(model: type[BaseModel]) -> str:
    return f"a JSON object with {_fields(model)}" if model.model_fields else "empty: this command takes no fields"


def _fields(model: type[BaseModel]) -> str:
    return ", ".join(_names(model)) or "no fields"

"""Recipes: workflows whose graph a Python function builds.

A file in the directory of the workflows with two names at its top level:

    class Input(BaseModel):                     # pydantic: the parameters
        prompt: str = "a red fox"
        steps: int = Field(20, ge=1, le=100)
        source: Image = "example.png"

    def build(input: Input) -> dict: ...        # or async: the graph in API format

A recipe is code that the owner of the folder put there: it runs with all rights of the bridge. It runs in a thread of
its own with a time limit, so that one that hangs or fails is an answer and not an outage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PydanticUserError, ValidationError

from bridge.complaints import complaint
from bridge.errors import BadValue, BridgeError, NoSuchInput, RecipeError, UnknownParameter
from bridge.jobs.model import ImageValue, Payload
from bridge.recipe_thread import finished, in_thread, in_thread_blocking
from bridge.workflow import values as given
from bridge.workflow.declared import chosen_outputs, with_declarations
from bridge.workflow.graph import Graph, Target, is_json, is_link, read_graph, slug
from bridge.workflow.kinds import MEDIA_TYPES, RANDOM, SEED_MAX, Type
from bridge.workflow.parameters import RESERVED, Parameter
from bridge.workflow.sidecar import Sidecar
from bridge.workflow.words import did_you_mean, kind_of, listed, shown
from bridge.workflow.workflow import Workflow, title_of

__all__ = ["Audio", "File", "Image", "Recipe", "Seed", "Video", "read_recipe"]

Image = Annotated[str, Field(json_schema_extra={"format": "image"})]
"""A field that takes an image; the function gets the name to put into a LoadImage node."""
Video = Annotated[str, Field(json_schema_extra={"format": "video"})]
Audio = Annotated[str, Field(json_schema_extra={"format": "audio"})]
File = Annotated[str, Field(json_schema_extra={"format": "file"})]
Seed = Annotated[int, Field(ge=0, le=SEED_MAX, json_schema_extra={"format": "seed"})]
"""A field that takes a seed; with -1 as its default it is drawn anew for each run."""

TIME_LIMIT = 30.0
IMPORT_LIMIT = 10.0
"""Seconds that an import has: as long as it takes, the other files wait to be taken up."""
"""Seconds that a recipe may take to build its graph."""

_TYPES: Mapping[str, Type] = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
_OWN = ""
"""Stands for the recipe where an input names its node."""


@dataclass(frozen=True, slots=True)
class Recipe(Workflow):
    """A workflow of kind `recipe`. It has no nodes before it runs: `graph` is empty."""

    model: type[BaseModel] = BaseModel
    build: Callable[[Any], Any] = dict
    sidecar: Sidecar = field(default_factory=Sidecar)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The defaults that the sidecar has changed, by field."""
    time_limit: float = TIME_LIMIT

    def resolve(self, key: str) -> tuple[Target, ...]:
        """The input of a parameter. Raises `UnknownParameter`."""
        parameter = given.named_parameter(self.parameters, key)
        if parameter is None:
            raise self._no_node(key)
        return parameter.targets or Workflow.resolve(self, key)

    def text_targets(self, ref: str | int | None = None) -> tuple[Target, ...]:
        """The parameter that a text goes to. Raises `UnknownParameter`, `NoSuchInput`."""
        return self._only_parameters(ref, given.text_targets, ("text",))

    def image_targets(self, ref: str | int | None = None) -> tuple[Target, ...]:
        """The parameter that an image goes to. Raises `UnknownParameter`, `NoSuchInput`."""
        return self._only_parameters(ref, given.image_targets, tuple(sorted(MEDIA_TYPES)))

    async def instantiate(self, values: Mapping[Target, Any]) -> Payload:
        """Have the model check the values and the function build the graph.

        An image is handed over as a name of its own; where the graph holds that name it is uploaded. Raises `BadValue`
        naming the field, `RecipeError` for what the function raises, `InvalidGraph` for what is no graph.
        """
        set_here = {target.input: value for target, value in values.items() if target.node == _OWN}
        fields = {**self.defaults, **set_here}
        names = {key: _stand_in(value) for key, value in fields.items() if isinstance(value, ImageValue)}
        images = {name: fields[key] for key, name in names.items()}
        document = await in_thread(self.path, lambda: self._build({**fields, **names}), self.time_limit)
        if not isinstance(document, dict):
            raise RecipeError(
                f"{self.path}: build gives {kind_of(document)}; it should be a graph, an object of nodes."
            )
        graph = read_graph(document, where=f"the graph of the recipe {self.name}")
        uploads = tuple(
            (node_id, name, images[value])
            for node_id, node in graph.items()
            for name, value in node["inputs"].items()
            if isinstance(value, str) and value in images
        )
        wrong: list[BridgeError] = []
        outputs = chosen_outputs(graph, self.sidecar, wrong)
        if wrong:
            raise wrong[0]
        return Payload(graph, uploads, outputs[0] if outputs else None, outputs, self.stall_timeout)

    def _build(self, fields: Mapping[str, Any]) -> Any:
        try:
            checked = self.model.model_validate(fields)
        except ValidationError as error:
            raise BadValue("; ".join(_field_error(one) for one in error.errors())) from None
        made = self.build(checked)
        return finished(self.path, made, self.time_limit)

    def _only_parameters(
        self, ref: str | int | None, find: Callable[..., tuple[Target, ...]], types: tuple[str, ...]
    ) -> tuple[Target, ...]:
        if ref is None:
            return find(self.graph, self.parameters)
        parameter = given.named_parameter(self.parameters, ref)
        if parameter is None:
            raise self._no_node(ref)
        if parameter.type not in types:
            raise NoSuchInput(f"{parameter.name} is a parameter of type {parameter.type}; it takes no such value.")
        return parameter.targets

    def _no_node(self, ref: object) -> UnknownParameter:
        names = [parameter.name for parameter in self.parameters]
        near = did_you_mean(ref, names) if isinstance(ref, str) else ""
        have = f"its parameters are {listed(names)}" if names else "it has no parameters"
        return UnknownParameter(
            f"{self.name} is a recipe and has no parameter {shown(ref)}, nor nodes before it runs; {have}.{near}"
        )

    def assign(self, values: Mapping[str, Any]) -> dict[Target, Any]:
        """Every value, checked, under its input: all, or the first error."""
        for key in values:
            self.resolve(key)
        return Workflow.assign(self, values)

    def form(self) -> Graph:
        """The fields as the inputs of one node that stands for the recipe."""
        inputs = {target.input: one.default for one in self.parameters for target in one.targets}
        return {_OWN: {"class_type": "recipe", "inputs": inputs}}


def read_recipe(
    name: str,
    path: str,
    file: Path,
    source: bytes,
    *,
    time_limit: float = TIME_LIMIT,
    import_limit: float = IMPORT_LIMIT,
) -> Recipe:
    """Import a recipe afresh. `path` is for sentences; blocks up to `import_limit`.

    Raises `RecipeError` for what its code raises or lacks.
    """
    module = types.ModuleType(f"bridge_recipes.{name}")
    module.__file__ = str(file)
    # pydantic looks there for the names in annotations.
    sys.modules[module.__name__] = module

    def execute() -> Recipe:
        # The same origin as a file that Python imports: tracebacks show its lines.
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  a trusted folder
        return _recipe(name, path, module)

    return dataclasses.replace(in_thread_blocking(path, execute, import_limit), time_limit=time_limit)


def with_sidecar(recipe: Recipe, sidecar: Sidecar) -> tuple[Recipe, tuple[BridgeError, ...]]:
    """The recipe with what is declared beside it, and what of that is wrong."""
    errors: list[BridgeError] = []
    placed = [one.name for one in sidecar.parameters if one.places]
    errors += [
        BadValue(f"{sidecar.where}: parameters.{name} names a node; a recipe has none before it runs.")
        for name in placed
    ]
    usable = dataclasses.replace(sidecar, parameters=tuple(one for one in sidecar.parameters if not one.places))
    parameters, wrong = with_declarations(recipe.parameters, usable, recipe.form())
    before = {target: one.default for one in recipe.parameters for target in one.targets}
    changed = {
        target.input: one.default
        for one in parameters
        for target in one.targets
        if one.default not in (before.get(target), RANDOM)
    }
    made = dataclasses.replace(
        recipe,
        title=sidecar.title or recipe.title,
        description=sidecar.description or recipe.description,
        stall_timeout=sidecar.stall_timeout,
        parameters=parameters,
        sidecar=sidecar,
        defaults=changed,
    )
    return made, (*errors, *wrong)


def _recipe(name: str, path: str, module: types.ModuleType) -> Recipe:
    model, build = getattr(module, "Input", None), getattr(module, "build", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise RecipeError(f"{path} has no class Input(BaseModel) of pydantic, which names its parameters.")
    if not callable(build):
        raise RecipeError(f"{path} has no function build(input), which gives the graph.")
    try:
        inspect.signature(build).bind(None)
    except TypeError:
        raise RecipeError(f"{path}: build should take one argument, the input.") from None
    except ValueError:
        pass  # a callable without a signature
    try:
        model.model_rebuild()
        schema = model.model_json_schema()
    except PydanticUserError as error:
        raise RecipeError(f"{path}: Input has a field that cannot be described: {error.message}") from None
    title = getattr(module, "TITLE", None)
    return Recipe(
        name=name,
        path=path,
        title=title if isinstance(title, str) and title.strip() else title_of(path),
        graph={},
        parameters=_parameters(path, schema),
        outputs=(),
        kind="recipe",
        description=inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].replace("\n", " "),
        model=model,
        build=build,
    )


def _parameters(path: str, schema: Mapping[str, Any]) -> tuple[Parameter, ...]:
    found: dict[str, Parameter] = {}
    required = set(schema.get("required", ()))
    for key, entry in schema.get("properties", {}).items():
        name = slug(key)
        if not name or name in RESERVED or name in found:
            raise RecipeError(f"{path}: the field {shown(key)} of Input cannot be the name of a parameter; rename it.")
        parameter = _parameter(name, key, _flat(entry, schema.get("$defs", {})))
        if parameter is not None:
            found[name] = parameter
        elif key in required:
            raise RecipeError(
                f"{path}: the field {shown(key)} of Input is no text, number, boolean or choice; give it a default."
            )
    return tuple(found.values())


def _flat(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a field without references, and without the `null` of an optional one."""
    flat = dict(entry)
    for _ in range(10):
        options = [one for one in flat.get("anyOf", ()) if one.get("type") != "null"]
        if len(options) == 1:
            flat = {**options[0], **{key: value for key, value in flat.items() if key != "anyOf"}}
        elif "$ref" in flat:
            named = definitions.get(str(flat["$ref"]).rpartition("/")[2], {})
            flat = {**named, **{key: value for key, value in flat.items() if key != "$ref"}}
        else:
            break
    return flat


def _parameter(name: str, key: str, entry: Mapping[str, Any]) -> Parameter | None:
    choices = tuple(entry.get("enum", (entry["const"],) if "const" in entry else ()))
    shape = entry.get("format")
    kind: Type | None = _TYPES.get(str(entry.get("type")))
    if choices and all(isinstance(choice, (str, int, float)) for choice in choices):
        kind = "choice"
    elif kind == "text" and shape in MEDIA_TYPES:
        kind = shape
    if kind is None:
        return None
    low, high, default = entry.get("minimum"), entry.get("maximum"), entry.get("default")
    if kind == "integer":
        low = entry["exclusiveMinimum"] + 1 if "exclusiveMinimum" in entry else low
        high = entry["exclusiveMaximum"] - 1 if "exclusiveMaximum" in entry else high
    seed = kind == "integer" and (shape == "seed" or name == "seed" or name.startswith("seed_"))
    if seed:
        low, high = (0 if low is None else low), (SEED_MAX if high is None else high)
    return Parameter(
        name=name,
        title=str(entry.get("title") or name),
        type=kind,
        default=RANDOM if seed and default == -1 else None if is_json(default) or is_link(default) else default,
        targets=(Target(_OWN, key),),
        min=low,
        max=high,
        step=entry.get("multipleOf"),
        choices=choices if kind == "choice" else (),
        description=str(entry.get("description", "")),
        seed=seed,
    )


def _stand_in(image: ImageValue) -> str:
    """A file name that no graph holds by chance."""
    content = f"{image.filename}\0{image.sha256}\0{image.mask}".encode()
    ending = Path(image.filename).suffix
    return f"bridge-{hashlib.sha256(content).hexdigest()[:32]}{ending}"


def _field_error(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "the input"
    if error["type"] == "missing":
        return f"{name} is not set, and has no default"
    message = complaint(error)
    value = error["input"]
    got = f", and got {kind_of(value) if isinstance(value, (list, dict)) else shown(value)}" if error["loc"] else ""
    return f"{name}: {message[:1].lower()}{message[1:]}{got}"

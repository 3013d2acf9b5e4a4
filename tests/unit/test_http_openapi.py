"""Each workflow as an operation with typed values."""

from __future__ import annotations

import jsonschema
import pytest

from bridge.http.openapi import run_operation, schema_of
from bridge.library import Workflow
from bridge.workflow.graph import Target
from bridge.workflow.kinds import SEED_MAX
from bridge.workflow.parameters import Parameter, derive, outputs
from tests.support.graphs import img2img, txt2img

AT = (Target("1", "x"),)


def workflow(name: str, graph: dict[str, dict[str, object]]) -> Workflow:
    return Workflow(name, f"{name}.json", name, graph, derive(graph), outputs(graph))


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        (Parameter("prompt", "Prompt", "text", "a", AT), ["", "b"], [1, None]),
        (Parameter("steps", "Steps", "integer", 20, AT, min=1, max=100), [1, 100], [0, 101, 1.5, "1"]),
        (Parameter("cfg", "CFG", "number", 7.0, AT, min=0.0), [0, 2.5], [-1, "x"]),
        (Parameter("tiled", "Tiled", "boolean", False, AT), [True], [1, "on"]),
        (Parameter("sampler", "Sampler", "choice", "euler", AT, choices=("euler", "ddim")), ["ddim"], ["x", 1]),
        (Parameter("sampler", "Sampler", "choice", "euler", AT), ["anything"], [1]),
        (Parameter("image", "Image", "image", "a.png", AT), ["b.png", {"url": "http://x"}], [1]),
        (
            Parameter("seed", "Seed", "integer", 1, (Target("1", "seed"),), min=0, max=SEED_MAX),
            [0, SEED_MAX, "random"],
            [-1, "other"],
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Parameter) else "",
)
def test_a_parameter_is_a_schema(parameter: Parameter, good: list[object], bad: list[object]) -> None:
    schema = schema_of(parameter)
    check = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert all(check.is_valid(value) for value in good)
    assert not any(check.is_valid(value) for value in bad)
    assert schema["title"] == parameter.title


def test_a_workflow_is_a_form() -> None:
    operation = run_operation(workflow("sdxl-fox", txt2img()))
    content = operation["requestBody"]["content"]
    assert set(content) == {"application/json"}
    schema, example = content["application/json"]["schema"], content["application/json"]["example"]
    jsonschema.validate(example, schema)
    assert example["values"]["prompt"] == "a lighthouse"
    assert operation["operationId"] == "run_sdxl_fox"


def test_pictures_are_files_of_a_form() -> None:
    content = run_operation(workflow("img", img2img()))["requestBody"]["content"]
    fields = content["multipart/form-data"]["schema"]["properties"]
    assert fields["image"] == {"type": "string", "format": "binary", "description": fields["image"]["description"]}

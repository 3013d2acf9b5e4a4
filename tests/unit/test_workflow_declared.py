"""Parameters from a sidecar, from node_mappings, from titles and from the graph, in this order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.errors import BadValue, BridgeError, UnknownNode
from bridge.workflow.declared import Described, describe
from bridge.workflow.graph import Graph, Target
from bridge.workflow.sidecar import read_sidecar
from bridge.workflow.workflow import Workflow, from_graph
from tests.unit import workflow_graphs as graphs
from tests.unit.workflow_graphs import graph_of, node, recorded

OBJECT_INFO = recorded("l_http/object_info_samples.json")


def described(graph: Graph, text: str = "", mappings: dict[str, str] | None = None, info: Any = None) -> Described:
    sidecar, errors = read_sidecar(text, "fox.toml")
    assert errors == ()
    return describe(graph, mappings or {}, info, sidecar)


def workflow(graph: Graph, text: str = "") -> Workflow:
    sidecar, errors = read_sidecar(text, "fox.toml")
    assert errors == ()
    found = describe(graph, {}, None, sidecar)
    assert found.errors == ()
    return from_graph("fox", "fox.json", found, sidecar)


def names(found: Described) -> list[str]:
    return [one.name for one in found.parameters]


def parameter(found: Described | Workflow, name: str) -> Any:
    return next(one for one in found.parameters if one.name == name)


def test_a_declared_parameter_takes_its_input_from_the_others() -> None:
    found = described(graphs.txt2img(), '[parameters.idea]\nnode = "Positive Prompt"', {"tries": "3.steps"})
    assert found.errors == ()
    assert "prompt" not in names(found)
    assert parameter(found, "idea").targets == (Target("6", "text"),)
    assert parameter(found, "tries").targets == (Target("3", "steps"),)
    assert "negative" in names(found)
    # The sidecar comes before node_mappings.
    found = described(graphs.txt2img(), "[parameters.idea]\nnode = 6", {"idea": "7", "again": "6"})
    assert parameter(found, "idea").targets == (Target("6", "text"),)


@pytest.mark.parametrize(
    ("place", "targets"),
    [
        ("node = 3\ninput = 'steps'", ["3.steps"]),
        ("node = '3.steps'", ["3.steps"]),
        ("node = 'Sampler'\ninput = 'steps'", ["3.steps"]),
        ("node = 'KSampler'\ninput = 'steps'", ["3.steps"]),
        ("targets = ['3.steps', {node = 5, input = 'width'}]", ["3.steps", "5.width"]),
        ("node = 3\ninput = 'steps'\ntargets = ['5.width']", ["3.steps", "5.width"]),
    ],
)
def test_how_inputs_are_named(place: str, targets: list[str]) -> None:
    found = described(graphs.txt2img(), f"[parameters.x]\n{place}")
    assert found.errors == ()
    assert [f"{one.node}.{one.input}" for one in parameter(found, "x").targets] == targets


def test_more_about_a_parameter_that_is_found_anyway() -> None:
    text = """
    [parameters.steps]
    title = "Tries"
    description = "More is finer"
    min = 2
    max = 50
    default = 25
    [parameters.negative]
    hidden = true
    [parameters.sampler]
    choices = ["euler", "heun"]
    [parameters.seed]
    default = "random"
    """
    found = described(graphs.txt2img(), text)
    assert found.errors == ()
    steps = parameter(found, "steps")
    assert (steps.title, steps.min, steps.max, steps.default) == ("Tries", 2, 50, 25)
    assert found.graph["3"]["inputs"]["steps"] == 25
    assert parameter(found, "sampler").choices == ("euler", "heun")
    assert parameter(found, "seed").default == "random"
    assert found.graph["3"]["inputs"]["seed"] == 42
    entry = parameter(found, "negative").to_json()
    assert entry["hidden"] is True
    assert steps.to_json()["description"] == "More is finer"
    assert json.dumps([one.to_json() for one in found.parameters])


def test_limits_are_the_narrower_ones_and_types_are_those_of_comfyui() -> None:
    found = described(graphs.txt2img(), "[parameters.steps]\nmin = 0\nmax = 90000", info=OBJECT_INFO)
    assert (parameter(found, "steps").min, parameter(found, "steps").max) == (1, 10000)
    found = described(graphs.txt2img(), "[parameters.steps]\nmax = 30", info=OBJECT_INFO)
    assert (parameter(found, "steps").min, parameter(found, "steps").max) == (1, 30)
    found = described(graphs.txt2img(), "[parameters.steps]\nmin = 20000\nmax = 30000", info=OBJECT_INFO)
    assert "its node takes 1 to 10000" in found.errors[0].message
    assert parameter(found, "steps").max == 10000


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[parameters.x]\nnode = 99", UnknownNode, "parameters.x: .*'99'"),
        ("[parameters.x]\nnode = 3\ninput = 'stesp'", BridgeError, "parameters.x: .*'stesp'.*'steps'"),
        ("[parameters.x]\nnode = 3\ninput = 'model'", BridgeError, "parameters.x: .*is fed by"),
        ("[parameters.x]\nnode = 3", BridgeError, "parameters.x: .*inputs that could be meant"),
        ("[parameters.x]\nnode = 6\ntype = 'integer'", BadValue, "type is integer, and text of node 6 .*a red fox"),
        ("[parameters.x]\nnode = '3.steps'\ntype = 'text'", BadValue, "type is text, and steps of node 3 .*20"),
        ("[parameters.a]\nnode = 6\n[parameters.b]\nnode = 6", BadValue, "parameters.b: 6.text belongs to a already"),
        ("[parameters.stesp]\nmax = 3", BadValue, "parameters.stesp is found nowhere.*'steps'"),
        ("[parameters.prompt]\nmax = 3", BadValue, "parameters.prompt: min, max and step are for numbers.*text"),
        ("[parameters.steps]\nmax = 3", BadValue, "parameters.steps: the graph's own value.*at most 3, and got 20"),
        ("[parameters.steps]\nmax = 3\ndefault = 4", BadValue, "parameters.steps: default steps is at most 3.*got 4"),
        ("[parameters.steps]\ntype='integer'\nchoices = [1, 20]", BadValue, "choices are for the type choice"),
        ("[parameters.sampler]\nchoices = ['heun']", BadValue, "parameters.sampler: the graph's own value.*'euler'"),
        ("[parameters.prompt]\ntype = 'boolean'", BadValue, "parameters.prompt: type is boolean"),
        ("[presets.seed.a]\nsteps = 3", BadValue, "presets.seed has the name of a parameter"),
        ("[presets.quality.a]\nstesp = 3", BadValue, "presets.quality.a.stesp: there is no such parameter.*'steps'"),
        ("[presets.quality.a]\nsteps = 'x'", BadValue, "presets.quality.a.steps: steps is a whole number"),
        ("outputs = ['Svae Image']", UnknownNode, "fox.toml: outputs: .*'Svae Image'.*'Save Image'"),
    ],
)
def test_a_wrong_entry_is_told_and_left_out(text: str, error: type[BridgeError], words: str) -> None:
    found = described(graphs.txt2img(), text)
    (told,) = found.errors
    assert isinstance(told, error)
    with pytest.raises(error, match=words):
        raise told
    assert told.message.startswith("fox.toml: ")
    plain = names(described(graphs.txt2img()))
    assert set(names(found)) in (set(plain), {*plain, "a"} - {"prompt"})
    assert found.graph == graphs.txt2img()


def test_a_preset_sets_several_parameters() -> None:
    text = """
    [presets.quality]
    title = "Quality"
    [presets.quality.draft]
    steps = 8
    cfg = 4
    [presets.quality.normal]
    steps = 20
    cfg = 8.0
    """
    fox = workflow(graphs.txt2img(), text)
    quality = parameter(fox, "quality")
    assert (quality.type, quality.choices, quality.default, quality.targets) == (
        "choice",
        ("draft", "normal"),
        "normal",
        (),
    )
    assert quality.to_json()["presets"]["draft"] == {"steps": 8, "cfg": 4.0}
    assert fox.assign({"quality": "draft"}) == {Target("3", "steps"): 8, Target("3", "cfg"): 4.0}
    # What is given beside it wins, whatever the order and the name.
    assert fox.assign({"steps": 3, "quality": "draft"})[Target("3", "steps")] == 3
    assert fox.assign({"quality": "draft", "Sampler.steps": "3"})[Target("3", "steps")] == 3
    assert fox.shown({})["quality"] == "normal"
    assert fox.shown(fox.assign({"quality": "draft"}))["quality"] == "draft"
    assert fox.shown({Target("3", "steps"): 9})["quality"] is None
    with pytest.raises(BadValue, match=r"quality is one of 2 choices.*draft, normal"):
        fox.assign({"quality": "best"})


def test_a_presets_default_sets_the_graph() -> None:
    fox = workflow(graphs.txt2img(), "[presets.quality]\ndefault = 'draft'\n[presets.quality.draft]\nsteps = 8")
    assert parameter(fox, "steps").default == 8
    assert fox.graph["3"]["inputs"]["steps"] == 8


async def test_outputs_are_chosen_and_ordered() -> None:
    graph = graphs.txt2img()
    graph["10"] = node("PreviewImage", "Look", images=["8", 0])
    graph["11"] = node("SaveImage", "Second", filename_prefix="y", images=["8", 0])
    fox = workflow(graph, "outputs = ['Second', 9]\nstall_timeout = 5")
    assert [one.node for one in fox.outputs] == ["11", "9"]
    assert fox.answer == "11"
    payload = await fox.instantiate({})
    assert (payload.answer_node, payload.output_nodes, payload.stall_timeout) == ("11", ("11", "9"), 5.0)
    assert type(payload).load(payload.dump()) == payload
    plain = await workflow(graph).instantiate({})
    assert plain.output_nodes == ()


def test_titles_with_a_prefix() -> None:
    graph = graph_of(
        n1=node("CheckpointLoaderSimple", "MODEL_base", ckpt_name="a.safetensors"),
        n2=node("LoraLoader", "LORA", lora_name="l", strength_model=1, model=["1", 0], clip=["1", 1]),
        n3=node(
            "KSampler",
            "SEED",
            seed=5,
            steps=20,
            cfg=8,
            sampler_name="euler",
            scheduler="normal",
            denoise=1,
            model=["2", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        n5=node("VAEEncode", None, pixels=["10", 0], vae=["1", 2]),
        n6=node("CLIPTextEncode", "TEXT_positive", text="a red fox", clip=["2", 1]),
        n7=node("CLIPTextEncode", "TEXT_Bad Things", text="blurry", clip=["2", 1]),
        n8=node("VAEDecode", None, samples=["3", 0], vae=["1", 2]),
        n9=node("SaveImage", "IMAGE_result", filename_prefix="x", images=["8", 0]),
        n10=node("LoadImage", "IMAGE_source", image="a.png"),
        n11=node("ImpactSwitch", "SWITCH_1", select=1, input1=["8", 0]),
        n12=node("PrimitiveFloat", "FLOAT_strength", value=1),
        n13=node("PrimitiveInt", "NUMBER_tries", value=4),
        n17=node("Blur", "INT_radius", radius=4, times=2),
        n14=node("CustomCombo", "CHOICE_style", choice="anime"),
        n15=node("PrimitiveBoolean", "SWITCH_soft", value=True),
        n16=node("CLIPTextEncode", "TEXT_positive", text="a red fox", clip=["1", 1]),
    )
    found = described(graph)
    assert found.errors == ()
    kinds = {one.name: (one.type, [target.node for target in one.targets]) for one in found.parameters}
    assert kinds["positive"] == ("text", ["6", "16"])
    assert kinds["bad-things"] == ("text", ["7"])
    assert kinds["seed"] == ("integer", ["3"])
    assert kinds["base"] == ("choice", ["1"])
    assert kinds["lora"] == ("choice", ["2"])
    assert kinds["source"] == ("image", ["10"])
    assert kinds["switch_1"] == ("integer", ["11"])
    assert kinds["strength"] == ("number", ["12"])
    assert kinds["tries"] == ("integer", ["13"])
    assert kinds["style"] == ("choice", ["14"])
    assert kinds["soft"] == ("boolean", ["15"])
    assert parameter(found, "radius").targets == (Target("17", "radius"),)
    assert kinds["steps"] == ("integer", ["3"])
    assert "result" not in kinds
    assert parameter(found, "bad-things").title == "Bad Things"
    fox = workflow(graph)
    assert fox.text_targets() == (Target("6", "text"), Target("16", "text"))
    assert fox.resolve("prompt") == fox.resolve("positive")


def test_titles_that_cannot_be_are_told() -> None:
    graph = graphs.txt2img()
    graph["8"]["_meta"] = {"title": "IMAGE_x"}
    graph["3"]["_meta"] = {"title": "INT_steps_or_so"}
    graph["5"]["_meta"] = {"title": "TEXT_a"}
    graph["6"]["_meta"] = {"title": "TEXT_transaction"}
    found = described(graph)
    told = " ".join(error.message for error in found.errors)
    for words in ("'IMAGE_x'", "'INT_steps_or_so'", "'TEXT_transaction'", "a sidecar can name one"):
        assert words in told
    assert "prompt" in names(found)
    # A sidecar that says which input is meant silences it.
    assert "'TEXT_a'" in told
    found = described(graph, "[parameters.wide]\nnode = 'TEXT_a'\ninput = 'width'")
    assert "'TEXT_a'" not in " ".join(error.message for error in found.errors)


@pytest.mark.parametrize(
    ("change", "default"),
    [
        ({"seed": -1}, "random"),
        ({"control_after_generate": "randomize"}, "random"),
        ({"control_after_generate": "fixed"}, 42),
        ({}, 42),
    ],
)
def test_a_seed_is_random_where_the_graph_says_so(change: dict[str, Any], default: Any) -> None:
    graph = graphs.txt2img()
    graph["3"]["inputs"].update(change)
    assert parameter(described(graph), "seed").default == default
    graph = graphs.txt2img()
    graph["3"]["_meta"] = {"title": "Sampler", "control_after_generate": "randomize"}
    assert parameter(described(graph), "seed").default == "random"


def test_a_graph_exported_again_keeps_what_is_named_by_title() -> None:
    again = json.loads(json.dumps(graphs.txt2img()).replace('"6"', '"106"').replace('"3"', '"103"'))
    for text in ("[parameters.idea]\nnode = 'Positive Prompt'", ""):
        before, after = described(graphs.txt2img(), text), described(again, text)
        assert names(before) == names(after)
        assert after.errors == ()


CLASSES = [
    ("KSampler.steps", ["3", "13"]),
    ("SWITCH_.select", ["20", "21"]),
    ("Sampler.steps", ["3"]),
    ("3.steps", ["3"]),
]


@pytest.mark.parametrize(("key", "nodes"), CLASSES)
def test_a_class_or_the_beginning_of_titles_means_every_node(key: str, nodes: list[str]) -> None:
    graph = graphs.txt2img()
    graph["13"] = {**graph["3"], "inputs": {**graph["3"]["inputs"], "latent_image": ["3", 0]}, "_meta": {"title": "B"}}
    graph["14"] = {**graph["3"], "inputs": {**graph["3"]["inputs"], "steps": ["15", 0]}, "_meta": {"title": "C"}}
    graph["15"] = node("PrimitiveInt", "D", value=3)
    graph["20"] = node("ImpactSwitch", "SWITCH_a", select=1)
    graph["21"] = node("ImpactSwitch", "SWITCH_b", select=1)
    graph["22"] = node("Other", "SWITCH_c", value=1)
    fox = workflow(graph)
    assert [one.node for one in fox.resolve(key)] == nodes
    assert set(fox.assign({key: 2}).values()) == {2}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("VAEDecode.samples", "is fed by"),
        ("KSampler.stesp", "'stesp'.*'steps'"),
        ("NOTHING_.select", "NOTHING_"),
    ],
)
def test_a_class_without_such_an_input_is_told(key: str, words: str) -> None:
    with pytest.raises(BridgeError, match=words):
        workflow(graphs.txt2img()).resolve(key)

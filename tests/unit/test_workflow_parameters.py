from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadValue, BridgeError, IsLink, NoSuchInput, UnknownNode
from bridge.workflow.graph import Graph, is_link, read_graph
from bridge.workflow.outputs import answer_node
from bridge.workflow.parameters import STANDARD, Parameter, derive, outputs
from tests.unit import workflow_graphs as graphs
from tests.unit.workflow_graphs import graph_of, node, recorded, recorded_graphs


def table(parameters: tuple[Parameter, ...]) -> dict[str, list[str]]:
    return {one.name: [f"{target.node}.{target.input}" for target in one.targets] for one in parameters}


def by_name(parameters: tuple[Parameter, ...]) -> dict[str, Parameter]:
    return {one.name: one for one in parameters}


def test_txt2img() -> None:
    found = derive(graphs.txt2img())
    assert table(found) == {
        "prompt": ["6.text"],
        "negative": ["7.text"],
        "seed": ["3.seed"],
        "steps": ["3.steps"],
        "cfg": ["3.cfg"],
        "sampler": ["3.sampler_name"],
        "scheduler": ["3.scheduler"],
        "denoise": ["3.denoise"],
        "width": ["5.width"],
        "height": ["5.height"],
        "batch": ["5.batch_size"],
        "checkpoint": ["4.ckpt_name"],
    }
    assert [one.name for one in found] == [name for name in STANDARD if name not in ("image", "mask", "lora")]
    types = {one.name: one.type for one in found}
    assert types == {
        "prompt": "text",
        "negative": "text",
        "seed": "integer",
        "steps": "integer",
        "cfg": "number",  # the file says 8, not 8.0
        "sampler": "choice",
        "scheduler": "choice",
        "denoise": "number",
        "width": "integer",
        "height": "integer",
        "batch": "integer",
        "checkpoint": "choice",
    }
    assert by_name(found)["seed"].to_json() == {
        "name": "seed",
        "title": "Seed",
        "type": "integer",
        "default": 42,
        "min": 0,
        "max": 2**64 - 1,
        "targets": [{"node": "3", "input": "seed"}],
    }


def test_swapped_links_swap_the_texts() -> None:
    graph = graphs.txt2img()
    graph["3"]["inputs"] |= {"positive": ["7", 0], "negative": ["6", 0]}
    assert table(derive(graph))["prompt"] == ["7.text"]
    assert table(derive(graph))["negative"] == ["6.text"]


def test_sdxl_base_and_refiner() -> None:
    found = table(derive(graphs.sdxl_refiner()))
    assert found["prompt"] == ["6.text", "15.text"]
    assert found["negative"] == ["7.text", "16.text"]
    assert found["seed"] == ["10.noise_seed"]  # the refiner adds no noise
    assert found["steps"] == ["10.steps", "11.steps"]  # both count the same schedule
    assert found["cfg"] == ["10.cfg", "11.cfg"]
    assert (found["checkpoint"], found["checkpoint_2"]) == (["4.ckpt_name"], ["12.ckpt_name"])
    assert found["width"] == ["5.width"]
    assert not {"seed_2", "prompt_2", "width_2", "denoise"} & found.keys()


def test_stages_keep_their_order_when_the_nodes_are_numbered_anew() -> None:
    numbers = dict(zip(graphs.sdxl_refiner(), reversed(graphs.sdxl_refiner()), strict=True))

    def renamed(value: Any) -> Any:
        return [numbers[value[0]], value[1]] if isinstance(value, list) else value

    graph = read_graph(
        {
            numbers[node_id]: {**entry, "inputs": {name: renamed(value) for name, value in entry["inputs"].items()}}
            for node_id, entry in sorted(graphs.sdxl_refiner().items(), key=lambda item: numbers[item[0]])
        }
    )
    found = by_name(derive(graph))
    assert found["checkpoint"].default == "sd_xl_base_1.0.safetensors"
    assert found["checkpoint_2"].default == "sd_xl_refiner_1.0.safetensors"
    assert found["seed"].default == 721897303308196


def test_flux_with_guider_noise_and_sigmas() -> None:
    assert table(derive(graphs.flux_dev())) == {
        "prompt": ["6.text"],
        "seed": ["25.noise_seed"],
        "steps": ["17.steps"],
        "cfg": ["26.guidance"],
        "sampler": ["16.sampler_name"],
        "scheduler": ["17.scheduler"],
        "denoise": ["17.denoise"],
        "width": ["5.width", "30.width"],
        "height": ["5.height", "30.height"],
        "batch": ["5.batch_size"],
        "checkpoint": ["12.unet_name"],
    }
    assert by_name(derive(graphs.flux_dev()))["cfg"].type == "number"


def test_cfg_guider() -> None:
    graph = graphs.flux_dev()
    graph["7"] = node("CLIPTextEncode", None, text="bad", clip=["11", 0])
    graph["22"] = node("CFGGuider", None, model=["30", 0], positive=["26", 0], negative=["7", 0], cfg=4)
    found = table(derive(graph))
    assert found["prompt"] == ["6.text"]
    assert found["negative"] == ["7.text"]
    assert found["cfg"] == ["22.cfg"]
    assert "cfg_2" not in found


def test_controlnet_and_loras() -> None:
    found = table(derive(graphs.controlnet_lora()))
    assert found["prompt"] == ["4.text"]
    assert found["negative"] == ["5.text"]
    assert found["image"] == ["6.image"]
    assert (found["lora"], found["lora_2"]) == (["2.lora_name"], ["3.lora_name"])
    assert by_name(derive(graphs.controlnet_lora()))["batch"].default == 4


def test_conditioning_is_followed_through_nodes_that_combine_it() -> None:
    graph = graphs.txt2img()
    graph["20"] = node("CLIPTextEncode", None, text="in the snow", clip=["4", 1])
    graph["21"] = node("ConditioningCombine", None, conditioning_1=["6", 0], conditioning_2=["20", 0])
    graph["22"] = node("ControlNetApply", None, conditioning=["21", 0], strength=1)
    graph["3"]["inputs"]["positive"] = ["22", 0]
    found = table(derive(graph))
    assert (found["prompt"], found["prompt_2"]) == (["6.text"], ["20.text"])


def test_one_encoder_for_two_samplers_is_one_parameter() -> None:
    graph = graphs.txt2img()
    graph["20"] = node(
        "LatentUpscale", None, samples=["3", 0], width=1024, height=1536, upscale_method="area", crop="disabled"
    )
    graph["21"] = {**graph["3"], "inputs": {**graph["3"]["inputs"], "latent_image": ["20", 0], "denoise": 0.5}}
    graph["8"]["inputs"]["samples"] = ["21", 0]
    found = table(derive(graph))
    assert found["prompt"] == ["6.text"]
    assert (found["seed"], found["seed_2"]) == (["3.seed"], ["21.seed"])
    assert (found["steps"], found["steps_2"]) == (["3.steps"], ["21.steps"])
    assert (found["width"], found["width_2"]) == (["5.width"], ["20.width"])


def test_inpaint_tells_the_mask_from_the_image() -> None:
    found = table(derive(graphs.inpaint()))
    assert found["image"] == ["2.image"]
    assert found["mask"] == ["3.image"]
    assert (found["prompt"], found["negative"]) == (["4.text"], ["5.text"])
    assert by_name(derive(graphs.inpaint()))["mask"].type == "image"


def test_image_to_video() -> None:
    found = table(derive(graphs.wan_image_to_video()))
    assert (found["prompt"], found["negative"]) == (["6.text"], ["7.text"])
    assert (found["width"], found["height"]) == (["50.width"], ["50.height"])
    assert found["image"] == ["52.image"]


def test_texts_seed_and_size_behind_links() -> None:
    found = table(derive(graphs.linked_texts()))
    assert found["prompt"] == ["1.value"]
    assert "negative" not in found  # zeroed out
    assert found["seed"] == ["3.value"]
    assert found["width"] == ["4.value"]
    assert "height" not in found  # the same input cannot be two parameters
    seed = by_name(derive(graphs.linked_texts()))["seed"]
    assert (seed.min, seed.max) == (0, 2**64 - 1)


def test_two_texts_of_an_encoder() -> None:
    assert table(derive(graphs.sdxl_texts()))["prompt"] == ["6.text_g", "6.text_l"]
    different = table(derive(graphs.sdxl_texts("a moat")))
    assert (different["prompt"], different["prompt_2"]) == (["6.text_g"], ["6.text_l"])


def test_texts_held_by_a_loader_as_strings() -> None:
    graph = graph_of(
        n1=node("Efficient Loader", None, ckpt_name="a", positive="a dog", negative="bad", lora_name="None"),
        n2=node(
            "KSampler (Efficient)",
            None,
            seed=1,
            steps=2,
            cfg=3,
            positive=["1", 1],
            negative=["1", 2],
            latent_image=["1", 3],
        ),
        n3=node("SaveImage", None, images=["2", 5]),
    )
    found = table(derive(graph))
    assert (found["prompt"], found["negative"]) == (["1.positive"], ["1.negative"])


def test_without_a_sampler_the_texts_are_told_by_name_and_title() -> None:
    api = graph_of(
        n1=node("StabilityStableImageSD_3_5Node", None, prompt="a hat", negative_prompt="rain", seed=3, cfg_scale=4.0),
        n2=node("SaveImage", None, images=["1", 0], filename_prefix="x"),
    )
    assert table(derive(api)) == {"prompt": ["1.prompt"], "negative": ["1.negative_prompt"], "seed": ["1.seed"]}
    lone = graph_of(n1=node("PrimitiveString", None, value="hi"), n2=node("PreviewAny", None, source=["1", 0]))
    assert table(derive(lone)) == {"prompt": ["1.value"]}
    titled = graph_of(
        n1=node("CLIPTextEncode", "Negative", text="a"),
        n2=node("CLIPTextEncode", "Scene", text="b"),
        n3=node("Unknown", None, a=["1", 0], b=["2", 0]),
    )
    assert table(derive(titled)) == {"prompt": ["2.text"], "negative": ["1.text"]}


def test_without_a_model() -> None:
    found = table(derive(read_graph(recorded("j_prompt_fields/graph.json"))))
    assert found == {"width": ["1.width"], "height": ["1.height"], "batch": ["1.batch_size"], "color": ["1.color"]}


def test_what_no_output_depends_on_is_no_parameter() -> None:
    graph = graphs.txt2img()
    graph["30"] = node("KSampler", None, **{**graph["3"]["inputs"], "seed": 99})
    info = {"KSampler": {"output_node": False, "input": {}}, "SaveImage": {"output_node": True, "input": {}}}
    assert "seed_2" not in table(derive(graph, {}, info))


@pytest.mark.parametrize("name", recorded_graphs())
def test_every_recorded_graph_gives_parameters_of_literals(name: str) -> None:
    graph = read_graph(recorded_graphs()[name])
    found = derive(graph)
    assert len({one.name for one in found}) == len(found)
    targets = [target for one in found for target in one.targets]
    assert len(set(targets)) == len(targets)
    for one in found:
        assert graph[one.targets[0].node]["inputs"][one.targets[0].input] == one.default
    assert outputs(graph)


def test_mappings_name_inputs_and_take_them_from_what_was_found() -> None:
    mappings = {
        "positive": "6",
        "Film look": "3.cfg",
        "save_image": "9",
        "seed": "3.seed",
        "from_title": "Empty Latent Image.width",
    }
    found = derive(graphs.txt2img(), mappings)
    names = table(found)
    assert names["positive"] == ["6.text"]
    assert "prompt" not in names
    assert names["film-look"] == ["3.cfg"]
    assert "cfg" not in names
    assert names["from_title"] == ["5.width"]
    assert "save_image" not in names
    assert by_name(found)["seed"].max == 2**64 - 1
    assert by_name(found)["film-look"].title == "Film look"
    assert by_name(found)["film-look"].type == "number"


def test_a_mapping_of_a_standard_name_moves_the_found_one_on() -> None:
    found = table(derive(graphs.txt2img(), {"prompt": "7"}))
    assert (found["prompt"], found["prompt_2"]) == (["7.text"], ["6.text"])
    assert "negative" not in found


def test_a_mapping_takes_one_of_several_targets() -> None:
    found = table(derive(graphs.sdxl_refiner(), {"refined": "15"}))
    assert found["prompt"] == ["6.text"]
    assert found["refined"] == ["15.text"]


@pytest.mark.parametrize(
    ("value", "expected"), [("10", "10.image"), ("Bool", "20.value"), ("21", "21.amount"), ("21.amount", "21.amount")]
)
def test_a_mapping_to_a_node_takes_its_text_its_image_or_its_only_literal(value: str, expected: str) -> None:
    graph = graph_of(
        n10=node("LoadImage", None, image="a.png"),
        n20=node("PrimitiveBoolean", "Bool", value=True),
        n21=node("Mix", None, amount=0.5, first=["10", 0], on=["20", 0]),
        n22=node("SaveImage", None, images=["21", 0]),
    )
    assert table(derive(graph, {"mine": value}))["mine"] == [expected]


@pytest.mark.parametrize(
    ("mappings", "error", "words"),
    [
        ({"fox": "99"}, UnknownNode, r"node_mappings\.fox.*'99'"),
        ({"fox": "3.step"}, NoSuchInput, r"node_mappings\.fox.*'step'.*'steps'"),
        ({"fox": "3.model"}, IsLink, r"node_mappings\.fox.*'model'.*node 4"),
        ({"fox": "8"}, NoSuchInput, r"node_mappings\.fox.*node 8"),
        ({"fox": "5"}, NoSuchInput, r"node_mappings\.fox.*'5\.width'"),
        ({"transaction": "6"}, BadValue, r"node_mappings\.transaction"),
        ({"!": "6"}, BadValue, r"node_mappings\.!"),
        ({"a b": "6", "a-b": "7"}, BadValue, r"node_mappings\.a-b and node_mappings\.a b"),
    ],
)
def test_a_mapping_that_cannot_be_is_named(mappings: dict[str, str], error: type[BridgeError], words: str) -> None:
    with pytest.raises(error, match=words):
        derive(graphs.txt2img(), mappings)


def test_types_and_limits_of_a_real_object_info() -> None:
    info = recorded("l_http/object_info_samples.json")
    graph = graphs.txt2img()
    graph["20"] = node("LoadImage", None, image="mine.png")
    graph["21"] = node("PreviewImage", None, images=["20", 0])
    found = by_name(derive(graph, {}, info))
    steps, cfg, sampler = found["steps"], found["cfg"], found["sampler"]
    assert (steps.type, steps.min, steps.max) == ("integer", 1, 10000)
    assert (cfg.type, cfg.min, cfg.max, cfg.step) == ("number", 0.0, 100.0, 0.1)
    assert sampler.type == "choice"
    assert "dpmpp_2m" in sampler.choices
    assert sampler.to_json()["choices"][0] == "euler"
    assert found["image"].type == "image"
    assert found["image"].choices == ()  # that list is stale as soon as something is uploaded
    assert found["seed"].max == 2**64 - 1
    assert found["width"].type == "integer"


def test_new_combos_uploads_of_custom_nodes_and_nonsense_in_object_info() -> None:
    graph = graph_of(
        n1=node("Loader9", None, picture="a.png", mode="fast", amount=1, flag=True, odd=3),
        n2=node("Sink", None, x=["1", 0]),
    )
    info: dict[str, Any] = {
        "Loader9": {
            "input": {
                "required": {
                    "picture": ["COMBO", {"options": ["a.png"], "image_upload": True}],
                    "mode": ["COMBO", {"options": ["fast", "good"]}],
                    "amount": ["FLOAT", {"min": -1, "max": float("inf"), "step": "x"}],
                },
                "optional": {"flag": ["BOOLEAN"], "odd": "INT"},
            }
        },
        "Sink": {"output_node": True},
    }
    mappings = {"mode": "1.mode", "amount": "1.amount", "flag": "1.flag", "odd": "1.odd"}
    found = by_name(derive(graph, mappings, info))
    assert found["image"].targets[0].input == "picture"
    assert (found["mode"].type, found["mode"].choices) == ("choice", ("fast", "good"))
    assert (found["amount"].type, found["amount"].min, found["amount"].max) == ("number", -1, None)
    assert found["flag"].type == "boolean"
    assert found["odd"].type == "integer"
    wrong: tuple[Any, ...] = (None, {"input": []}, {"input": {"required": {"mode": []}}})
    for broken in ({"Loader9": one} for one in wrong):
        assert by_name(derive(graph, mappings, broken))["mode"].type == "text"


def test_a_parameter_of_several_inputs_has_the_narrowest_limits() -> None:
    info = {
        name: {"input": {"required": {"width": ["INT", {"min": low, "max": high}]}}, "output_node": False}
        for name, low, high in (("EmptySD3LatentImage", 16, 16384), ("ModelSamplingFlux", 32, 8192))
    }
    width = by_name(derive(graphs.flux_dev(), {}, info))["width"]
    assert (width.min, width.max) == (32, 8192)


@pytest.mark.parametrize(
    ("class_type", "expected"),
    [
        ("SaveImage", "image"),
        ("PreviewImage", "image"),
        ("SaveImageWebsocket", "image"),
        ("MaskPreview", "image"),
        ("SaveAnimatedWEBP", "image"),
        ("SaveWEBM", "video"),
        ("SaveVideo", "video"),
        ("VHS_VideoCombine", "video"),
        ("SaveAudio", "audio"),
        ("SaveAudioMP3", "audio"),
        ("PreviewAudio", "audio"),
        ("PreviewAny", "text"),
        ("SaveLatent", "file"),
        ("VAESave", "file"),
        ("SaveGLB", "file"),
    ],
)
def test_known_outputs(class_type: str, expected: str) -> None:
    graph = graph_of(n1=node("A"), n2=node(class_type, "Out", x=["1", 0]), n3=node("B", None, x=["1", 0]))
    assert [one.to_json() for one in outputs(graph)] == [{"node": "2", "title": "Out", "type": expected}]


def test_outputs_by_object_info_and_as_the_ends_of_the_graph() -> None:
    graph: Graph = graph_of(n1=node("A"), n2=node("Sender", None, images=["1", 0]), n3=node("Mine", None, x=["1", 0]))
    assert [(one.node, one.type) for one in outputs(graph)] == [("2", "image"), ("3", "file")]
    assert [one.node for one in outputs(graph, {"Mine": {"output_node": True}})] == ["3"]


def test_the_answer_comes_first() -> None:
    graph = graphs.wan_image_to_video()
    assert [one.node for one in outputs(graph)] == ["28", "47"]
    assert [one.node for one in outputs(graph, mappings={"save_image": "SaveWEBM"})] == ["47", "28"]
    assert answer_node(graph, {"save_image": "47"}) == "47"
    assert answer_node(graph, {}) is None
    with pytest.raises(UnknownNode, match=r"node_mappings\.save_image.*'99'"):
        outputs(graph, mappings={"save_image": "99"})


NAMES = st.sampled_from(
    [
        *("positive", "negative", "conditioning", "text", "text_g", "clip", "seed", "steps", "cfg", "latent_image"),
        *("guider", "sigmas", "samples", "pixels", "width", "height", "batch_size", "image", "value", "string_a", ""),
        *("model", "lora_name", "add_noise"),
    ]
)
CLASSES = st.sampled_from(
    [
        *("KSampler", "KSamplerAdvanced", "CLIPTextEncode", "BasicGuider", "ModelSamplingFlux", "ConditioningZeroOut"),
        *("LoadImage", "EmptyLatentImage", "EmptyImage", "PrimitiveInt", "PrimitiveString", "SaveImage", "Reroute"),
        *("ImageToMask", "LoadImageMask"),
    ]
)
LITERALS: st.SearchStrategy[Any] = st.sampled_from([0, 1, 2**64, -1.5, "", "a", None, True, [], {"a": 1}])


@st.composite
def any_graph(draw: st.DrawFn) -> Graph:
    nodes: dict[str, dict[str, Any]] = {}
    for number in range(draw(st.integers(1, 8))):
        inputs = draw(st.dictionaries(NAMES, LITERALS, max_size=6))
        if nodes:
            links = st.tuples(st.sampled_from(sorted(nodes)), st.integers(0, 2)).map(list)
            inputs |= draw(st.dictionaries(NAMES, links, max_size=4))
        nodes[str(number)] = node(draw(CLASSES), None, **inputs)
    return read_graph(dict(draw(st.permutations(list(nodes.items())))))


@given(any_graph(), st.booleans())
def test_any_graph_gives_parameters_and_outputs(graph: Graph, known: bool) -> None:
    found = derive(graph, {}, recorded("l_http/object_info_samples.json") if known else None)
    targets = [target for one in found for target in one.targets]
    assert len(set(targets)) == len(targets)
    assert len({one.name for one in found}) == len(found)
    assert all(target.input in graph[target.node]["inputs"] for target in targets)
    assert not any(is_link(graph[target.node]["inputs"][target.input]) for target in targets)
    assert outputs(graph)
    json.dumps([one.to_json() for one in found])


def sampler(**inputs: Any) -> dict[str, Any]:
    given = {"seed": 1, "steps": 20, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    return node("KSampler", **{**given, "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], **inputs})


POSITIVE = node("CLIPTextEncode", text="a fox")
NEGATIVE = node("CLIPTextEncode", text="blurry")
LATENT = node("EmptyLatentImage", width=512, height=512, batch_size=1)
SAVE = node("SaveImage", images=["3", 0], filename_prefix="out")


def test_sides_come_from_the_links_whatever_slots_a_node_gives_them_in() -> None:
    # InstantID, BrushNet, attention couple: the model is output 0, the sides are 1 and 2.
    graph = graph_of(
        n3=sampler(positive=["8", 1], negative=["8", 2]),
        n5=LATENT,
        n6=POSITIVE,
        n7=NEGATIVE,
        n8=node("ApplyInstantID", weight=0.8, positive=["6", 0], negative=["7", 0]),
        n9=SAVE,
    )
    assert (table(derive(graph))["prompt"], table(derive(graph))["negative"]) == (["6.text"], ["7.text"])


def test_short_names_of_sides() -> None:
    graph = graph_of(
        n3=node("XlabsSampler", noise_seed=1, steps=20, conditioning=["6", 0], neg_conditioning=["7", 0]),
        n6=POSITIVE,
        n7=NEGATIVE,
        n9=SAVE,
    )
    assert (table(derive(graph))["prompt"], table(derive(graph))["negative"]) == (["6.text"], ["7.text"])


def test_short_names_of_texts() -> None:
    graph = graph_of(
        n3=sampler(positive=["6", 0], negative=["6", 1]),
        n5=LATENT,
        n6=node("SomeEncoder", pos_prompt="a fox", neg_prompt="blurry", style="photo"),
        n9=SAVE,
    )
    assert (table(derive(graph))["prompt"], table(derive(graph))["negative"]) == (["6.pos_prompt"], ["6.neg_prompt"])


def test_pipes_lead_to_the_texts_and_the_size() -> None:
    graph = graph_of(
        n1=node(
            *("easy fullLoader",),
            ckpt_name="a.safetensors",
            lora_name="None",
            positive="a fox",
            negative="blurry",
            empty_latent_width=640,
            empty_latent_height=480,
            batch_size=1,
            clip_skip=-1,
        ),
        n2=node("easy preSampling", steps=20, cfg=8.0, sampler_name="euler", seed=7, denoise=1.0, pipe=["1", 0]),
        n3=node("easy kSampler", pipe=["2", 0], image_output="Preview", save_prefix="ComfyUI"),
    )
    found = by_name(derive(graph))
    assert (found["prompt"].default, found["negative"].default) == ("a fox", "blurry")
    assert (found["width"].default, found["height"].default, found["seed"].default) == (640, 480, 7)


def test_parts_of_a_pipe_that_are_edited_on_the_way() -> None:
    graph = graph_of(
        n1=node("ToBasicPipe", positive=["6", 0], negative=["7", 0]),
        n2=node("EditBasicPipe", basic_pipe=["1", 0]),
        n3=node("ImpactKSamplerBasicPipe", basic_pipe=["2", 0], latent_image=["5", 0], seed=1, steps=9, cfg=5.0),
        n5=LATENT,
        n6=POSITIVE,
        n7=NEGATIVE,
        n9=SAVE,
    )
    assert (table(derive(graph))["prompt"], table(derive(graph))["negative"]) == (["6.text"], ["7.text"])


def test_a_text_is_followed_through_switches_joins_and_shows() -> None:
    graph = graph_of(
        n3=sampler(),
        n5=LATENT,
        n6=node("CLIPTextEncode", text=["10", 0]),
        n7=node("CLIPTextEncode", text=["14", 0]),
        n9=SAVE,
        n10=node("easy showAnything", text="what was shown last", anything=["11", 0]),
        n11=node("ComfySwitchNode", switch=False, on_false=["12", 0], on_true=["13", 0]),
        n12=node("PrimitiveStringMultiline", "Prompt", value="a fox"),
        n13=node("StringConcatenate", string_a=["12", 0], string_b="in the style of Monet", delimiter=" "),
        n14=node("ImpactWildcardProcessor", wildcard_text="blurry", populated_text="blurry", mode="populate", seed=1),
    )
    assert table(derive(graph))["prompt"] == ["12.value"]
    assert table(derive(graph))["negative"] == ["14.wildcard_text"]


def test_a_text_that_a_model_writes_leaves_what_stands_beside_it() -> None:
    graph = graph_of(
        n3=sampler(),
        n5=LATENT,
        n6=node("CLIPTextEncode", text=["10", 0]),
        n7=NEGATIVE,
        n9=SAVE,
        n10=node("StringConcatenate", string_a="photo of", string_b=["11", 2], delimiter=" "),
        n11=node("Florence2Run", task="caption", image=["12", 0]),
        n12=node("LoadImage", image="a.png"),
    )
    assert table(derive(graph))["prompt"] == ["10.string_a"]


def test_an_encoder_of_an_unknown_make_gives_its_prompt() -> None:
    graph = graph_of(
        n3=sampler(positive=["6", 1], negative=["7", 0]),
        n5=LATENT,
        n6=node("LTXDirector", global_prompt="a fox runs", start_second=["8", 0], frame_rate=24.0),
        n7=NEGATIVE,
        n8=node("PrimitiveFloat", value=0),
        n9=SAVE,
    )
    assert table(derive(graph))["prompt"] == ["6.global_prompt"]


def test_a_prompt_in_pieces_and_models_in_one_loader() -> None:
    graph = graph_of(
        n1=node(
            "Eff. Loader SDXL",
            base_ckpt_name="base.safetensors",
            refiner_ckpt_name="None",
            positive=["2", 0],
            negative=["2", 1],
            empty_latent_width=1024,
            empty_latent_height=768,
        ),
        n2=node("PortraitMaster", prompt_start=["6", 0], prompt_additional="", prompt_end="", negative_prompt=["7", 0]),
        n3=node("KSampler SDXL (Eff.)", noise_seed=1, steps=20, sdxl_tuple=["1", 0], latent_image=["1", 1]),
        n6=node("CR Prompt Text", prompt="a fox"),
        n7=node("CR Prompt Text", prompt="blurry"),
        n9=SAVE,
    )
    found = table(derive(graph))
    assert (found["prompt"], found["negative"]) == (["6.prompt"], ["7.prompt"])
    assert (found["checkpoint"], found["height"]) == (["1.base_ckpt_name"], ["1.empty_latent_height"])
    assert not {"prompt_2", "checkpoint_2"} & found.keys()


def test_without_a_sampler_no_formula_no_prefix_and_nothing_shown_is_a_prompt() -> None:
    graph = graph_of(
        n1=node("LoadImage", image="a.png"),
        n2=node("SimpleMath+", value="a*b", a=2, b=3),
        n3=node("ImageScale", image=["1", 0], width=["2", 0], height=512),
        n4=node("ShowText|pysssss", text="shown", source=["2", 0]),
        n5=node("Image Saver Metadata", positive="unknown", negative="unknown", images=["3", 0]),
        n6=node("SaveImage", images=["3", 0], filename_prefix="out"),
    )
    assert list(table(derive(graph))) == ["image"]


def test_the_stages_of_one_sampling_share_what_is_the_same_for_both() -> None:
    two = {"positive": ["6", 0], "negative": ["7", 0], "steps": 20, "cfg": 3.5, "sampler_name": "euler"}
    graph = graph_of(
        n2=node("KSamplerAdvanced", noise_seed=1, start_at_step=0, latent_image=["5", 0], scheduler="simple", **two),
        n3=node("KSamplerAdvanced", noise_seed=0, start_at_step=9, latent_image=["2", 0], scheduler="beta", **two),
        n5=LATENT,
        n6=POSITIVE,
        n7=NEGATIVE,
        n9=SAVE,
    )
    found = table(derive(graph))
    assert (found["steps"], found["cfg"], found["sampler"]) == (
        *(["2.steps", "3.steps"], ["2.cfg", "3.cfg"]),
        ["2.sampler_name", "3.sampler_name"],
    )
    assert (found["scheduler"], found["scheduler_2"]) == (["2.scheduler"], ["3.scheduler"])  # not the same


def test_video() -> None:
    graph = graph_of(
        n3=sampler(latent_image=["5", 2], positive=["5", 0], negative=["5", 1]),
        n4=node("UNETLoader", unet_name="wan.safetensors"),
        n5=node(
            *("WanImageToVideo",),
            positive=["6", 0],
            negative=["7", 0],
            start_image=["1", 0],
            width=832,
            height=480,
            length=81,
            batch_size=1,
        ),
        n1=node("LoadImage", image="a.png"),
        n6=POSITIVE,
        n7=NEGATIVE,
        n8=node("CreateVideo", images=["3", 0], fps=16),
        n9=node("SaveVideo", video=["8", 0], filename_prefix="out"),
        n10=node("VHS_VideoCombine", images=["3", 0], frame_rate=16, filename_prefix="out"),
    )
    found = by_name(derive(graph))
    assert (found["frames"].default, found["frames"].type, found["fps"].type) == (81, "integer", "number")
    assert table(derive(graph))["fps"] == ["8.fps", "10.frame_rate"]
    told = {"VHS_VideoCombine": {"input": {"required": {"frame_rate": ["INT", {"min": 1, "max": 60}]}}}}
    told["CreateVideo"] = {"input": {"required": {"fps": ["FLOAT", {"min": 1.0, "max": 120.0}]}}}
    fps = by_name(derive(graph, object_info=told))["fps"]
    assert (fps.type, fps.min, fps.max) == ("integer", 1, 60)  # what both take


def test_video_of_a_wrapper_with_its_own_loaders() -> None:
    graph = graph_of(
        n1=node("WanVideoModelLoader", model="wan_high.safetensors", base_precision="bf16", lora=["2", 0]),
        n2=node("WanVideoLoraSelect", lora="fast.safetensors", strength=1.0),
        n4=node("WanVideoVAELoader", model_name="vae.safetensors"),
        n5=node("WanVideoEmptyEmbeds", width=832, height=480, num_frames=81),
        n6=node("WanVideoTextEncode", positive_prompt="a fox", negative_prompt="blurry"),
        n3=node(
            *("WanVideoSampler",),
            model=["1", 0],
            image_embeds=["5", 0],
            text_embeds=["6", 0],
            start_step=0,
            steps=6,
            cfg=1.0,
            seed=43,
            scheduler="dpm++_sde",
        ),
        n9=SAVE,
    )
    found = {one.name: one.default for one in derive(graph)}
    assert (found["checkpoint"], found["lora"]) == ("wan_high.safetensors", "fast.safetensors")
    assert (found["width"], found["frames"], found["prompt"], found["negative"]) == (832, 81, "a fox", "blurry")


def test_audio() -> None:
    graph = graph_of(
        n3=sampler(latent_image=["5", 0]),
        n5=node("EmptyAceStepLatentAudio", seconds=120, batch_size=1),
        n6=node("TextEncodeAceStepAudio", tags="rock, drums", lyrics="la la la", lyrics_strength=0.99),
        n7=node("ConditioningZeroOut", conditioning=["6", 0]),
        n9=node("SaveAudio", audio=["3", 0], filename_prefix="out"),
    )
    found = by_name(derive(graph))
    assert (found["prompt"].default, found["lyrics"].default) == ("rock, drums", "la la la")
    assert (found["seconds"].default, found["seconds"].type) == (120, "number")
    assert "negative" not in found


def test_a_file_that_several_nodes_load_a_part_of_is_one_checkpoint() -> None:
    graph = graph_of(
        n1=node("CheckpointLoaderSimple", ckpt_name="ltx.safetensors"),
        n2=node("LTXVAudioVAELoader", ckpt_name="ltx.safetensors"),
        n3=sampler(model=["1", 0], vae=["2", 0]),
        n5=LATENT,
        n6=POSITIVE,
        n7=NEGATIVE,
        n9=SAVE,
    )
    assert table(derive(graph))["checkpoint"] == ["1.ckpt_name", "2.ckpt_name"]


def test_empty_places_of_a_stack_of_loras_are_no_parameters() -> None:
    stack = {"lora_01": "a.safetensors", "strength_01": 1.0, "lora_02": "None", "strength_02": 1.0}
    graph = graph_of(
        n3=sampler(model=["8", 0]),
        n5=LATENT,
        n6=POSITIVE,
        n7=NEGATIVE,
        n8=node("Lora Loader Stack (rgthree)", **stack),
        n9=SAVE,
    )
    assert table(derive(graph))["lora"] == ["8.lora_01"]
    assert "lora_2" not in table(derive(graph))


def test_a_size_behind_a_switch_and_values_under_other_names() -> None:
    graph = graph_of(
        n1=node("Input Parameters (Image Saver)", seed=5, steps=28, cfg=6.0, sampler="dpmpp_2m", scheduler="karras"),
        n3=sampler(latent_image=["8", 0], **{name: ["1", 0] for name in ("seed", "steps", "cfg", "sampler_name")}),
        n5=LATENT,
        n6=POSITIVE,
        n7=NEGATIVE,
        n8=node("ImpactSwitch", input1=["5", 0], select=1),
        n9=SAVE,
    )
    found = table(derive(graph))
    assert (found["width"], found["sampler"], found["steps"]) == (["5.width"], ["1.sampler"], ["1.steps"])

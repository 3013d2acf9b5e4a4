"""Files of ComfyUI's editor made into graphs in API format."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BridgeError, InvalidGraph, UiFormat
from bridge.workflow.convert import convert
from bridge.workflow.graph import read_graph

INT = ["INT", {"default": 1}]
LINK = {"model": ["MODEL"], "positive": ["CONDITIONING"], "latent_image": ["LATENT"]}
INFO: dict[str, Any] = {
    "KSampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "cfg": ["FLOAT", {"default": 8.0}],
                "sampler_name": [["euler", "heun"]],
                "positive": ["CONDITIONING"],
                "latent_image": ["LATENT"],
                "denoise": ["FLOAT", {"default": 1.0}],
            }
        },
        "display_name": "KSampler",
    },
    "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["a.safetensors"]]}}, "display_name": "Load it"},
    "LoraLoader": {
        "input": {"required": {"model": ["MODEL"], "clip": ["CLIP"], "lora_name": [["l"]], "strength": ["FLOAT", {}]}}
    },
    "CLIPTextEncode": {"input": {"required": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}}},
    "EmptyLatentImage": {"input": {"required": {"width": INT, "height": INT, "batch_size": INT}}},
    "VAEDecode": {"input": {"required": {"samples": ["LATENT"], "vae": ["VAE"]}}},
    "SaveImage": {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "C"}]}}},
    "LoadImage": {
        "input": {
            "required": {"image": [["a.png"], {"image_upload": True}]},
            "optional": {"mode": ["COMBO", {"options": ["x", "y"]}]},
        }
    },
}
SLOTS = {
    "CheckpointLoaderSimple": ["MODEL", "CLIP", "VAE"],
    "LoraLoader": ["MODEL", "CLIP"],
    "CLIPTextEncode": ["CONDITIONING"],
    "EmptyLatentImage": ["LATENT"],
    "KSampler": ["LATENT"],
    "VAEDecode": ["IMAGE"],
}


class Editor:
    """Puts nodes and links together as the editor's file has them."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.links: list[Any] = []
        self.definitions: list[dict[str, Any]] = []

    def node(self, node_id: int, kind: str, values: Any = (), mode: int = 0, **inputs: Any) -> Editor:
        """An input is `(node, slot)`, or None for one without a link; `_` in front of its name: a widget."""
        entries: list[dict[str, Any]] = []
        for name, source in inputs.items():
            entry: dict[str, Any] = {"name": name.lstrip("_"), "type": "*", "link": None}
            if name.startswith("_"):
                entry["widget"] = {"name": name.lstrip("_")}
            if source is not None:
                number = len(self.links) + 1
                origin = next((one for one in self.nodes if one["id"] == source[0]), None)
                slots = SLOTS.get(origin["type"], []) if origin else []
                entry["type"] = slots[source[1]] if source[1] < len(slots) else "*"
                entry["link"] = number
                self.links.append([number, source[0], source[1], node_id, len(entries), entry["type"]])
            entries.append(entry)
        outputs = [{"name": one, "type": one, "links": [0]} for one in SLOTS.get(kind, ["*"])]
        values = list(values) if isinstance(values, tuple) else values
        self.nodes.append(
            {"id": node_id, "type": kind, "mode": mode, "inputs": entries, "outputs": outputs, "widgets_values": values}
        )
        return self

    def file(self) -> dict[str, Any]:
        return {
            "nodes": self.nodes,
            "links": self.links,
            "definitions": {"subgraphs": self.definitions},
            "version": 0.4,
        }

    def graph(self) -> dict[str, Any]:
        return read_graph(convert(self.file(), INFO, where="x.json"), where="x.json")


def txt2img() -> Editor:
    return (
        Editor()
        .node(4, "CheckpointLoaderSimple", ("a.safetensors",))
        .node(5, "EmptyLatentImage", (512, 768, 1))
        .node(6, "CLIPTextEncode", ("a red fox",), clip=(4, 1))
        .node(
            3,
            "KSampler",
            (42, "randomize", 25, 7, "euler", 0.5),
            model=(4, 0),
            positive=(6, 0),
            latent_image=(5, 0),
        )
        .node(8, "VAEDecode", (), samples=(3, 0), vae=(4, 2))
        .node(9, "SaveImage", ("fox",), images=(8, 0))
    )


def test_widgets_get_their_names_and_links_their_nodes() -> None:
    graph = txt2img().graph()
    assert graph["3"]["inputs"] == {
        "seed": 42,
        "steps": 25,
        "cfg": 7,
        "sampler_name": "euler",
        "denoise": 0.5,
        "model": ["4", 0],
        "positive": ["6", 0],
        "latent_image": ["5", 0],
    }
    assert graph["3"]["_meta"] == {"title": "KSampler", "control_after_generate": "randomize"}
    assert graph["4"]["_meta"] == {"title": "Load it"}
    assert graph["9"]["inputs"] == {"filename_prefix": "fox", "images": ["8", 0]}
    assert graph["8"]["inputs"] == {"samples": ["3", 0], "vae": ["4", 2]}


@pytest.mark.parametrize(
    "values",
    [
        [42, "fixed", 25, 7, "euler", 0.5],
        [42, True, 25, 7, "euler", 0.5],
        [42, 25, 7, "euler", 0.5],
        {"seed": 42, "steps": 25, "cfg": 7, "sampler_name": "euler", "denoise": 0.5, "videopreview": {}},
    ],
)
def test_lists_of_all_times_and_objects(values: Any) -> None:
    editor = txt2img()
    editor.nodes[3]["widgets_values"] = values
    inputs = editor.graph()["3"]["inputs"]
    assert [inputs[name] for name in ("seed", "steps", "cfg", "sampler_name", "denoise")] == [42, 25, 7, "euler", 0.5]


def test_what_the_file_lacks_has_its_default() -> None:
    editor = txt2img()
    editor.nodes[3]["widgets_values"] = [42, "fixed", 25]
    inputs = editor.graph()["3"]["inputs"]
    assert (inputs["cfg"], inputs["sampler_name"], inputs["denoise"]) == (8.0, "euler", 1.0)
    editor.nodes[3]["widgets_values"] = None
    assert editor.graph()["3"]["inputs"]["steps"] == 20


def test_the_button_of_an_upload_is_no_value() -> None:
    editor = Editor().node(1, "LoadImage", ("b.png", "image", "y")).node(2, "SaveImage", ("x",), images=(1, 0))
    assert editor.graph()["1"]["inputs"] == {"image": "b.png", "mode": "y"}
    editor.nodes[0]["widgets_values"] = ["b.png", "image"]
    assert editor.graph()["1"]["inputs"]["image"] == "b.png"


def test_notes_and_decoration_are_dropped() -> None:
    editor = txt2img().node(20, "Note", ("hello",)).node(21, "MarkdownNote", ("# x",))
    editor.nodes.append({"id": 22, "type": "Label (rgthree)", "mode": 0, "widgets_values": []})
    assert not {"20", "21", "22"} & editor.graph().keys()


def test_reroutes_and_primitives_are_resolved() -> None:
    editor = txt2img()
    editor.node(30, "Reroute", (), x=(4, 0)).node(31, "Reroute", (), x=(30, 0))
    editor.node(32, "PrimitiveNode", (77, "increment"))
    editor.node(33, "SetNode", ("latent",), LATENT=(5, 0)).node(34, "GetNode", ("latent",))
    editor.node(
        40,
        "KSampler",
        (42, "fixed", 25, 7, "euler", 0.5),
        model=(31, 0),
        positive=(6, 0),
        latent_image=(34, 0),
        _seed=(32, 0),
    ).node(41, "VAEDecode", (), samples=(40, 0), vae=(4, 2)).node(42, "SaveImage", ("y",), images=(41, 0))
    graph = editor.graph()
    assert graph["40"]["inputs"]["model"] == ["4", 0]
    assert graph["40"]["inputs"]["latent_image"] == ["5", 0]
    assert graph["40"]["inputs"]["seed"] == 77
    assert graph["40"]["_meta"]["control_after_generate"] == "increment"
    assert not {"30", "31", "32", "33", "34"} & graph.keys()


def test_a_bypassed_node_hands_on_by_type_and_a_muted_one_nothing() -> None:
    editor = Editor().node(4, "CheckpointLoaderSimple", ("a.safetensors",))
    editor.node(10, "LoraLoader", ("l", 1.0), mode=4, clip=(4, 1), model=(4, 0))
    editor.node(6, "CLIPTextEncode", ("a",), clip=(10, 1)).node(5, "EmptyLatentImage", (64, 64, 1), mode=2)
    editor.node(3, "KSampler", (1, "fixed", 2, 3, "heun", 1), model=(10, 0), positive=(6, 0), latent_image=(5, 0))
    graph = editor.graph()
    assert graph["6"]["inputs"]["clip"] == ["4", 1]
    assert graph["3"]["inputs"]["model"] == ["4", 0]
    assert "latent_image" not in graph["3"]["inputs"]
    assert graph.keys() == {"4", "6", "3"}


def test_lists_are_no_links() -> None:
    editor = txt2img()
    editor.nodes[2]["widgets_values"] = [["4", 0]]
    assert editor.graph()["6"]["inputs"]["text"] == {"__value__": ["4", 0]}


def subgraphed(**instance: Any) -> Editor:
    """Text and sampler in a subgraph; its inputs are the model, the clip, the text and the steps."""
    inner = Editor()
    inner.nodes.append({"id": -10, "type": "inputs"})
    inner.node(6, "CLIPTextEncode", ("inner",), clip=(-10, 1), _text=(-10, 2))
    inner.node(5, "EmptyLatentImage", (64, 64, 1))
    inner.node(
        3,
        "KSampler",
        (42, "randomize", 25, 7, "euler", 0.5),
        model=(-10, 0),
        positive=(6, 0),
        latent_image=(5, 0),
        _steps=(-10, 3),
    )
    inner.nodes.pop(0)
    links = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), one, strict=True))
        for one in inner.links
    ]
    links.append({"id": 99, "origin_id": 3, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "LATENT"})
    editor = Editor()
    editor.definitions.append(
        {
            "id": "sub-1",
            "name": "Sampling",
            "inputs": [{"name": "model"}, {"name": "clip"}, {"name": "text"}, {"name": "steps"}],
            "outputs": [{"name": "LATENT"}],
            "nodes": inner.nodes,
            "links": links,
        }
    )
    editor.node(4, "CheckpointLoaderSimple", ("a.safetensors",))
    editor.node(12, "sub-1", (), model=(4, 0), clip=(4, 1), _text=None, _steps=None)
    editor.nodes[-1].update(instance)
    return editor.node(8, "VAEDecode", (), samples=(12, 0), vae=(4, 2)).node(9, "SaveImage", ("x",), images=(8, 0))


def test_subgraphs_are_laid_out_flat() -> None:
    graph = subgraphed().graph()
    assert graph.keys() == {"4", "12:6", "12:5", "12:3", "8", "9"}
    assert graph["8"]["inputs"]["samples"] == ["12:3", 0]
    assert graph["12:3"]["inputs"]["model"] == ["4", 0]
    assert graph["12:3"]["inputs"]["positive"] == ["12:6", 0]
    assert graph["12:6"]["inputs"] == {"text": "inner", "clip": ["4", 1]}
    assert graph["12:3"]["inputs"]["steps"] == 25


@pytest.mark.parametrize(
    "instance",
    [
        {"widgets_values": ["outer", 9]},
        {
            "widgets_values": ["outer", None, 9, None],
            "properties": {"proxyWidgets": [["-1", "text"], ["3", "seed"], ["-1", "steps"], ["3", "control"]]},
        },
        {
            "widgets_values": ["outer", 9],
            "properties": {"proxyWidgets": [["6", "text"], ["3", "steps"]]},
        },
    ],
)
def test_what_the_use_of_a_subgraph_sets_wins(instance: dict[str, Any]) -> None:
    graph = subgraphed(**instance).graph()
    assert graph["12:6"]["inputs"]["text"] == "outer"
    assert graph["12:3"]["inputs"]["steps"] == 9


def test_two_uses_of_a_subgraph_are_apart_and_one_in_another_too() -> None:
    editor = subgraphed(widgets_values=["first", 1])
    editor.node(13, "sub-1", ("second", 2), model=(4, 0), clip=(4, 1), _text=None, _steps=None)
    editor.node(14, "VAEDecode", (), samples=(13, 0), vae=(4, 2)).node(15, "SaveImage", ("y",), images=(14, 0))
    graph = editor.graph()
    assert [graph[one]["inputs"]["text"] for one in ("12:6", "13:6")] == ["first", "second"]
    outer: dict[str, Any] = {"id": "sub-2", "inputs": [], "outputs": [{"name": "IMAGE"}], "nodes": editor.nodes[:3]}
    outer["links"] = [*editor.links, [50, 8, 0, -20, 0, "IMAGE"]]
    around = Editor()
    around.definitions += [*editor.definitions, outer]
    graph = around.node(20, "sub-2").node(21, "SaveImage", ("z",), images=(20, 0)).graph()
    assert graph.keys() == {"20:4", "20:12:6", "20:12:5", "20:12:3", "20:8", "21"}
    assert graph["21"]["inputs"]["images"] == ["20:8", 0]
    assert graph["20:12:6"]["inputs"]["text"] == "first"


def test_a_bypassed_subgraph_and_a_muted_one() -> None:
    graph = subgraphed(mode=2).graph()
    assert graph.keys() == {"4", "8", "9"}
    assert "samples" not in graph["8"]["inputs"]


def test_a_choice_that_brings_inputs_of_its_own() -> None:
    info = {
        "Video": {
            "input": {
                "required": {
                    "model": [
                        "COMFY_DYNAMICCOMBO_V3",
                        {
                            "options": [
                                {"key": "small", "inputs": {"required": {"size": INT}}},
                                {"key": "large", "inputs": {"required": {"size": INT, "fps": INT}}},
                            ]
                        },
                    ],
                    "seed": ["INT", {}],
                }
            }
        }
    }
    file = {"nodes": [{"id": 1, "type": "Video", "widgets_values": ["large", 720, 24, 5, "fixed"]}], "links": []}
    assert convert(file, info, where="x")["1"]["inputs"] == {
        "model": "large",
        "model.size": 720,
        "model.fps": 24,
        "seed": 5,
    }


def test_without_object_info_or_with_unknown_classes_it_is_refused() -> None:
    with pytest.raises(UiFormat, match=r"x.json .*as soon as a ComfyUI is there.*Export \(API\)"):
        convert(txt2img().file(), {}, where="x.json")
    editor = txt2img().node(50, "Strange", (), images=(8, 0))
    with pytest.raises(UiFormat, match=r"'Strange'.*Export \(API\)") as caught:
        editor.graph()
    assert caught.value.details == {"classes": ["Strange"]}
    # One that does not run harms nothing.
    assert "50" not in txt2img().node(50, "Strange", (), 4, images=(8, 0)).graph()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("workflow>my group", ["group node 'my group'", "converted to nodes", "Export (API)"]),
        ("workflow/my group", ["group node 'my group'"]),
        ("Anything Everywhere", ["only the editor knows", "'Anything Everywhere'", "Export (API)"]),
    ],
)
def test_what_only_the_editor_can_is_refused_by_its_name(kind: str, words: list[str]) -> None:
    editor = txt2img()
    editor.node(30, kind, (), images=(8, 0))
    with pytest.raises(UiFormat) as caught:
        convert(editor.file(), {**INFO, "Anything Everywhere": {"input": {}}}, where="fox.json")
    assert all(word in caught.value.message for word in words), caught.value.message


def test_switches_of_the_editor_are_dropped_though_links_lead_to_them() -> None:
    editor = txt2img()
    before = convert(editor.file(), INFO, where="fox.json")
    editor.node(30, "Fast Muter (rgthree)", (), opt=(8, 0))
    assert convert(editor.file(), INFO, where="fox.json") == before


def test_circles_and_bombs_are_refused() -> None:
    editor = txt2img()
    editor.node(30, "Reroute", (), x=(30, 0)).node(31, "SaveImage", ("x",), images=(30, 0))
    with pytest.raises(InvalidGraph, match="circle"):
        editor.graph()
    loop = Editor().node(1, "sub-1")
    loop.definitions.append({"id": "sub-1", "nodes": [{"id": 1, "type": "sub-1"}], "links": []})
    with pytest.raises(InvalidGraph, match="deeper than"):
        loop.graph()
    loop.definitions[0]["nodes"] = [{"id": n, "type": "sub-1"} for n in range(30)]
    with pytest.raises(InvalidGraph, match=r"deeper than|more than"):
        loop.graph()
    with pytest.raises(InvalidGraph, match="no node that runs"):
        Editor().node(1, "Note").graph()


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-20, 60), st.floats(allow_nan=False), st.text(max_size=3))
_KEYS = st.sampled_from(
    [
        *("nodes", "links", "definitions", "subgraphs", "id", "type", "mode", "inputs", "outputs", "widgets_values"),
        *("properties", "proxyWidgets", "link", "name", "widget", "title", "origin_id", "target_id", "x"),
    ]
)
_VALUES = st.recursive(
    _SCALARS | st.sampled_from([*INFO, "Reroute", "PrimitiveNode", "GetNode", "sub-1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=15,
)
_NODE = st.fixed_dictionaries(
    {"id": st.integers(0, 6) | _VALUES, "type": st.sampled_from([*INFO, "Reroute", "PrimitiveNode", "sub-1"])},
    optional={"inputs": _VALUES, "widgets_values": _VALUES, "mode": _VALUES, "properties": _VALUES, "outputs": _VALUES},
)


@given(_VALUES, _VALUES)
def test_arbitrary_json_gives_a_graph_or_a_clear_error(nodes: Any, links: Any) -> None:
    _survives({"nodes": nodes, "links": links})


@given(st.lists(_NODE, max_size=4), _VALUES, st.lists(_NODE, max_size=3), st.data())
def test_nearly_right_files_too(nodes: Any, links: Any, inner: Any, data: st.DataObject) -> None:
    definition = {"id": "sub-1", "nodes": inner, "links": data.draw(_VALUES), "inputs": data.draw(_VALUES)}
    _survives({"nodes": nodes, "links": links, "definitions": {"subgraphs": [definition]}})


@given(_VALUES)
def test_arbitrary_object_info_too(info: Any) -> None:
    if isinstance(info, dict):
        _survives(txt2img().file(), info)
    _survives(txt2img().file(), {**INFO, "KSampler": {"input": {"required": {"seed": info, "steps": [info, info]}}}})


def _survives(document: Any, info: Any = INFO) -> None:
    with contextlib.suppress(BridgeError):
        assert read_graph(convert(document, info, where="x.json"), where="x.json")

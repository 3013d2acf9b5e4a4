"""Graphs as people export them, in API format, beside the recorded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridge.workflow.graph import Graph, read_graph

DATA = Path(__file__).parent.parent / "data" / "recordings"


def recorded(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def recorded_graphs() -> dict[str, Any]:
    """Every graph of the recordings by a readable name; some files hold several."""
    found: dict[str, Any] = {}
    for file in sorted(DATA.glob("*/graph*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        name = f"{file.parent.name}/{file.name}"
        if all(isinstance(node, dict) and "class_type" in node for node in document.values()):
            found[name] = document
        else:
            found.update({f"{name}:{key}": graph for key, graph in document.items()})
    return found


def node(class_type: str, title: str | None = None, /, **inputs: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    if title is not None:
        entry["_meta"] = {"title": title}
    return entry


def graph_of(**nodes: dict[str, Any]) -> Graph:
    """A graph whose ids are the names without their leading letter: `n6=…` is node 6."""
    return read_graph({name[1:]: entry for name, entry in nodes.items()})


def txt2img() -> Graph:
    return graph_of(
        n3=node(
            "KSampler",
            "Sampler",
            seed=42,
            steps=20,
            cfg=8,
            sampler_name="euler",
            scheduler="normal",
            denoise=1,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        n4=node("CheckpointLoaderSimple", "Load Checkpoint", ckpt_name="sd15.safetensors"),
        n5=node("EmptyLatentImage", "Empty Latent Image", width=512, height=768, batch_size=1),
        n6=node("CLIPTextEncode", "Positive Prompt", text="a red fox", clip=["4", 1]),
        n7=node("CLIPTextEncode", "Negative Prompt", text="blurry", clip=["4", 1]),
        n8=node("VAEDecode", None, samples=["3", 0], vae=["4", 2]),
        n9=node("SaveImage", "Save Image", filename_prefix="x", images=["8", 0]),
    )


def sdxl_refiner() -> Graph:
    """ComfyUI's example of base and refiner; its primitives are written into the inputs by the export."""
    return graph_of(
        n4=node("CheckpointLoaderSimple", "Load Checkpoint - BASE", ckpt_name="sd_xl_base_1.0.safetensors"),
        n5=node("EmptyLatentImage", None, width=1024, height=1024, batch_size=1),
        n6=node("CLIPTextEncode", "base +", text="evening sunset", clip=["4", 1]),
        n7=node("CLIPTextEncode", "base -", text="text, watermark", clip=["4", 1]),
        n10=node(
            "KSamplerAdvanced",
            "KSampler (Advanced) - BASE",
            add_noise="enable",
            noise_seed=721897303308196,
            steps=25,
            cfg=8,
            sampler_name="euler",
            scheduler="normal",
            start_at_step=0,
            end_at_step=20,
            return_with_leftover_noise="enable",
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        n11=node(
            "KSamplerAdvanced",
            "KSampler (Advanced) - REFINER",
            add_noise="disable",
            noise_seed=0,
            steps=25,
            cfg=8,
            sampler_name="euler",
            scheduler="normal",
            start_at_step=20,
            end_at_step=10000,
            return_with_leftover_noise="disable",
            model=["12", 0],
            positive=["15", 0],
            negative=["16", 0],
            latent_image=["10", 0],
        ),
        n12=node("CheckpointLoaderSimple", "Load Checkpoint - REFINER", ckpt_name="sd_xl_refiner_1.0.safetensors"),
        n15=node("CLIPTextEncode", "refiner +", text="evening sunset", clip=["12", 1]),
        n16=node("CLIPTextEncode", "refiner -", text="text, watermark", clip=["12", 1]),
        n17=node("VAEDecode", None, samples=["11", 0], vae=["12", 2]),
        n19=node("SaveImage", None, filename_prefix="ComfyUI", images=["17", 0]),
    )


def flux_dev() -> Graph:
    """ComfyUI's example for Flux dev: SamplerCustomAdvanced with a guider, noise, sigmas and a sampler."""
    return graph_of(
        n5=node("EmptySD3LatentImage", None, width=1024, height=768, batch_size=1),
        n6=node("CLIPTextEncode", "CLIP Text Encode (Positive Prompt)", text="cute anime girl", clip=["11", 0]),
        n8=node("VAEDecode", None, samples=["13", 0], vae=["10", 0]),
        n9=node("SaveImage", None, filename_prefix="ComfyUI", images=["8", 0]),
        n10=node("VAELoader", None, vae_name="ae.safetensors"),
        n11=node("DualCLIPLoader", None, clip_name1="t5xxl.safetensors", clip_name2="clip_l.safetensors", type="flux"),
        n12=node("UNETLoader", None, unet_name="flux1-dev.safetensors", weight_dtype="default"),
        n13=node(
            "SamplerCustomAdvanced",
            None,
            noise=["25", 0],
            guider=["22", 0],
            sampler=["16", 0],
            sigmas=["17", 0],
            latent_image=["5", 0],
        ),
        n16=node("KSamplerSelect", None, sampler_name="euler"),
        n17=node("BasicScheduler", None, scheduler="simple", steps=20, denoise=1, model=["30", 0]),
        n22=node("BasicGuider", None, model=["30", 0], conditioning=["26", 0]),
        n25=node("RandomNoise", None, noise_seed=219670278747233),
        n26=node("FluxGuidance", None, guidance=3.5, conditioning=["6", 0]),
        n30=node("ModelSamplingFlux", None, max_shift=1.15, base_shift=0.5, width=1024, height=768, model=["12", 0]),
    )


def controlnet_lora() -> Graph:
    return graph_of(
        n1=node("CheckpointLoaderSimple", None, ckpt_name="sd15.safetensors"),
        n2=node(
            "LoraLoader",
            None,
            lora_name="ink.safetensors",
            strength_model=1,
            strength_clip=1,
            model=["1", 0],
            clip=["1", 1],
        ),
        n3=node(
            "LoraLoader",
            None,
            lora_name="film.safetensors",
            strength_model=0.5,
            strength_clip=1,
            model=["2", 0],
            clip=["2", 1],
        ),
        n4=node("CLIPTextEncode", None, text="a house", clip=["3", 1]),
        n5=node("CLIPTextEncode", None, text="ugly", clip=["3", 1]),
        n6=node("LoadImage", "Pose", image="pose.png"),
        n7=node("ControlNetLoader", None, control_net_name="openpose.pth"),
        n8=node(
            "ControlNetApplyAdvanced",
            None,
            strength=1,
            start_percent=0,
            end_percent=1,
            positive=["4", 0],
            negative=["5", 0],
            control_net=["7", 0],
            image=["6", 0],
        ),
        n9=node("EmptyLatentImage", None, width=512, height=512, batch_size=4),
        n10=node(
            "KSampler",
            None,
            seed=1,
            steps=20,
            cfg=7.5,
            sampler_name="dpmpp_2m",
            scheduler="karras",
            denoise=1,
            model=["3", 0],
            positive=["8", 0],
            negative=["8", 1],
            latent_image=["9", 0],
        ),
        n11=node("VAEDecode", None, samples=["10", 0], vae=["1", 2]),
        n12=node("SaveImage", None, filename_prefix="cn", images=["11", 0]),
    )


def inpaint() -> Graph:
    return graph_of(
        n1=node("CheckpointLoaderSimple", None, ckpt_name="inpaint.safetensors"),
        n2=node("LoadImage", "Photo", image="photo.png"),
        n3=node("LoadImage", "Mask", image="mask.png"),
        n4=node("CLIPTextEncode", None, text="a cat", clip=["1", 1]),
        n5=node("CLIPTextEncode", None, text="", clip=["1", 1]),
        n6=node(
            "InpaintModelConditioning",
            None,
            positive=["4", 0],
            negative=["5", 0],
            vae=["1", 2],
            pixels=["2", 0],
            mask=["3", 1],
            noise_mask=True,
        ),
        n7=node(
            "KSampler",
            None,
            seed=7,
            steps=20,
            cfg=8,
            sampler_name="uni_pc_bh2",
            scheduler="normal",
            denoise=1,
            model=["1", 0],
            positive=["6", 0],
            negative=["6", 1],
            latent_image=["6", 2],
        ),
        n8=node("VAEDecode", None, samples=["7", 0], vae=["1", 2]),
        n9=node("PreviewImage", None, images=["8", 0]),
    )


def wan_image_to_video() -> Graph:
    return graph_of(
        n3=node(
            "KSampler",
            None,
            seed=9,
            steps=20,
            cfg=6,
            sampler_name="uni_pc",
            scheduler="simple",
            denoise=1,
            model=["54", 0],
            positive=["50", 0],
            negative=["50", 1],
            latent_image=["50", 2],
        ),
        n6=node("CLIPTextEncode", None, text="a cute fox turns its head", clip=["38", 0]),
        n7=node("CLIPTextEncode", None, text="static", clip=["38", 0]),
        n8=node("VAEDecode", None, samples=["3", 0], vae=["39", 0]),
        n28=node(
            "SaveAnimatedWEBP",
            None,
            filename_prefix="x",
            fps=16,
            lossless=False,
            quality=90,
            method="default",
            images=["8", 0],
        ),
        n37=node("UNETLoader", None, unet_name="wan2.1_i2v.safetensors", weight_dtype="default"),
        n38=node("CLIPLoader", None, clip_name="umt5.safetensors", type="wan"),
        n39=node("VAELoader", None, vae_name="wan.safetensors"),
        n47=node("SaveWEBM", None, filename_prefix="x", codec="vp9", fps=24, crf=32, images=["8", 0]),
        n50=node(
            "WanImageToVideo",
            None,
            width=832,
            height=480,
            length=33,
            batch_size=1,
            positive=["6", 0],
            negative=["7", 0],
            vae=["39", 0],
            start_image=["52", 0],
        ),
        n52=node("LoadImage", None, image="fox.png"),
        n54=node("ModelSamplingSD3", None, shift=8, model=["37", 0]),
    )


def linked_texts() -> Graph:
    """Texts, the seed and the size come from primitives; the editor gives the nodes of a subgraph ids with colons."""
    return graph_of(
        n1=node("PrimitiveStringMultiline", "Idea", value="a boat"),
        n2=node("StringConcatenate", None, string_a=["1", 0], string_b="best quality", delimiter=", "),
        n3=node("PrimitiveInt", "Seed", value=5),
        n4=node("PrimitiveInt", "Edge", value=640),
        n10=node("CheckpointLoaderSimple", None, ckpt_name="a.safetensors"),
        **{
            "n12:5": node("CLIPTextEncode", None, text=["2", 0], clip=["10", 1]),
            "n12:6": node("ConditioningZeroOut", None, conditioning=["12:5", 0]),
            "n12:7": node("EmptyLatentImage", None, width=["4", 0], height=["4", 0], batch_size=1),
            "n12:8": node(
                "KSampler",
                None,
                seed=["3", 0],
                steps=4,
                cfg=1,
                sampler_name="euler",
                scheduler="simple",
                denoise=1,
                model=["10", 0],
                positive=["12:5", 0],
                negative=["12:6", 0],
                latent_image=["12:7", 0],
            ),
        },
        n13=node("VAEDecode", None, samples=["12:8", 0], vae=["10", 2]),
        n14=node("SaveImage", None, filename_prefix="x", images=["13", 0]),
    )


def sdxl_texts(text_l: str = "a castle") -> Graph:
    nodes = txt2img()
    nodes["6"] = node(
        "CLIPTextEncodeSDXL", None, width=1024, height=1024, text_g="a castle", text_l=text_l, clip=["4", 1]
    )
    return read_graph(nodes)

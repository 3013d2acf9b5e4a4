from __future__ import annotations

from tests.contract.peer import Server


async def test_routes_exist_under_api_too(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        for prefix in ("", "/api"):
            for path in ("/prompt", "/queue", "/history", "/system_stats", "/features", "/embeddings", "/models"):
                assert (await peer.http.get(prefix + path)).status_code == 200, prefix + path
        assert (await peer.http.get("/api/features")).json()["supports_preview_metadata"] is True


async def test_wrong_methods_and_options(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        for method, path in (("PUT", "/prompt"), ("DELETE", "/queue")):
            answer = await peer.http.request(method, path)
            assert (answer.status_code, answer.text) == (405, "405: Method Not Allowed")
        answer = await peer.http.options("/prompt")
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await peer.http.get("/nope")).status_code == 404


async def test_too_large_a_body_is_refused(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        most = (await peer.http.get("/features")).json()["max_upload_size"]
        answer = await peer.http.post("/prompt", content=b" " * (most + 1))
        assert answer.status_code == 413
        assert answer.text.startswith("Maximum request body size")


async def test_node_classes_are_described(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        everything = (await peer.http.get("/object_info")).json()
        for name in ("KSampler", "SaveImage", "LoadImage", "EmptyImage", "GetImageSize", "PreviewAny"):
            one = (await peer.http.get(f"/object_info/{name}")).json()
            assert list(one) == [name]
            assert set(everything[name]) >= {"input", "input_order", "output", "output_name", "name", "output_node"}
        assert (await peer.http.get("/object_info/NoSuch")).json() == {}
        seed = everything["KSampler"]["input"]["required"]["seed"]
        assert seed[0] == "INT"
        assert seed[1]["max"] == 2**64 - 1
        assert len(everything["KSampler"]["input"]["required"]["sampler_name"][0]) > 20
        assert everything["SaveImage"]["output_node"] is True
        assert everything["GetImageSize"]["output_name"] == ["width", "height", "batch_size"]
        assert everything["LoadImage"]["input"]["required"]["image"][1]["image_upload"] is True


async def test_model_files_are_listed(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        kinds = (await peer.http.get("/models")).json()
        assert {"checkpoints", "loras", "vae", "upscale_models"} <= set(kinds)
        assert isinstance((await peer.http.get("/models/checkpoints")).json(), list)
        assert (await peer.http.get("/models/nope")).status_code == 404


async def test_system_stats(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        stats = (await peer.http.get("/system_stats")).json()
        assert isinstance(stats["system"]["comfyui_version"], str)
        assert {"name", "type", "vram_total", "vram_free"} <= set(stats["devices"][0])

from __future__ import annotations

import time

from tests.contract.peer import Server, broken_graph, sampler_graph, save_graph, shape, text_graph, unused_name

SAVED = [
    "execution_start",
    "execution_cached",
    "progress_state 1:running",
    "executing 1",
    "progress_state 1:finished",
    "progress_state 1:finished 2:running",
    "executing 2",
    "executed 2",
    "progress_state 1:finished 2:finished",
    "execution_success",
    "executing None",
]


async def test_a_prompt_tells_its_story_in_order(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        prompt_id, events = await peer.run(save_graph())
        assert shape(events) == SAVED
        assert all(event.data["prompt_id"] == prompt_id for event in events)
        by_kind = {event.kind: event.data for event in events}
        assert by_kind["execution_cached"]["nodes"] == []
        assert abs(by_kind["execution_start"]["timestamp"] / 1000 - time.time()) < 300
        assert "display_node" not in events[-1].data
        (image,) = by_kind["executed"]["output"]["images"]
        assert image["type"] == "output"
        assert image["filename"].endswith("_.png")


async def test_status_frames_count_the_queue(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        first = await peer.next()
        assert first.kind == "status"
        assert first.data["sid"] == peer.client_id
        await peer.idle()
        await peer.run(save_graph())
        counts = [event.data["status"]["exec_info"]["queue_remaining"] for event in peer.seen if event.kind == "status"]
        assert counts[-3:] == [1, 1, 0]
        assert all("sid" not in event.data for event in peer.seen[1:] if event.kind == "status")


async def test_the_same_prompt_again_is_answered_from_the_cache(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        graph = save_graph()
        _, first = await peer.run(graph)
        prompt_id, again = await peer.run(graph)
        assert shape(again) == [
            "execution_start",
            "execution_cached",
            "executed 2",
            "progress_state 2:finished",
            "execution_success",
            "executing None",
        ]
        assert sorted(again[1].data["nodes"]) == ["1", "2"]
        old = next(event.data["output"] for event in first if event.kind == "executed")
        assert again[2].data["output"] == old
        assert (await peer.history(prompt_id))["outputs"] == {"2": old}


async def test_only_the_previous_prompt_stays_cached(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        graph = save_graph()
        await peer.run(graph)
        await peer.run(text_graph(unused_name("other")))
        _, events = await peer.run(graph)
        assert shape(events) == SAVED


async def test_a_changed_end_runs_only_the_end(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        graph = save_graph()
        await peer.run(graph)
        graph["2"]["inputs"]["filename_prefix"] = unused_name("contract")
        _, events = await peer.run(graph)
        assert events[1].data["nodes"] == ["1"]
        assert [word for word in shape(events) if word.startswith("executing")] == ["executing 2", "executing None"]


async def test_history_holds_what_was_told(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        graph = save_graph()
        prompt_id, events = await peer.run(graph, extra_data={"note": "kept"})
        entry = await peer.history(prompt_id)
        number, its_id, its_graph, extra, outputs = entry["prompt"]
        assert isinstance(number, int | float)
        assert its_id == prompt_id
        assert its_graph == graph
        assert extra == {"note": "kept", "client_id": peer.client_id}
        assert outputs == ["2"]
        assert entry["outputs"] == {"2": next(event.data["output"] for event in events if event.kind == "executed")}
        assert entry["meta"] == {"2": {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}}
        status = entry["status"]
        assert (status["status_str"], status["completed"]) == ("success", True)
        told = [[event.kind, event.data] for event in events if event.kind.startswith("execution_")]
        assert status["messages"] == told


async def test_a_batch_is_one_event_with_many_files(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        _, events = await peer.run(save_graph(batch=3))
        (output,) = [event.data["output"] for event in events if event.kind == "executed"]
        assert len({image["filename"] for image in output["images"]}) == 3


async def test_text_outputs(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        said = unused_name("grüße, 世界")
        _, events = await peer.run(text_graph(said))
        (output,) = [event.data["output"] for event in events if event.kind == "executed"]
        assert output == {"text": [said]}
        _, events = await peer.run({"2": {"class_type": "PreviewAny", "inputs": {"source": 3.25}}})
        (output,) = [event.data["output"] for event in events if event.kind == "executed"]
        assert output == {"text": ["3.25"]}


async def test_text_frames_go_to_everybody(comfyui: Server) -> None:
    async with comfyui.peer() as peer, comfyui.peer() as watcher:
        graph = save_graph(batch=2)
        graph["3"] = {"class_type": "GetImageSize", "inputs": {"image": ["1", 0]}}
        graph["4"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}}
        _, events = await peer.run(graph)
        wanted = {"type": 3, "node": "3", "text": "width: 64, height: 64\n batch size: 2"}
        assert [event.data for event in events if event.kind == "binary"] == [wanted]
        await watcher.until("binary", **wanted)


async def test_a_bystander_hears_only_the_queue(comfyui: Server) -> None:
    async with comfyui.peer() as peer, comfyui.peer() as watcher:
        await watcher.next()
        await peer.run(save_graph())
        await watcher.idle()
        await watcher.until("status", status={"exec_info": {"queue_remaining": 0}})
        assert {event.kind for event in watcher.seen} == {"status"}


async def test_a_prompt_without_a_client_is_told_to_all_but_sparsely(comfyui: Server) -> None:
    async with comfyui.peer(flags=True) as watcher:
        answer = await watcher.http.post("/prompt", json={"prompt": save_graph()})
        prompt_id = answer.json()["prompt_id"]
        await watcher.until("progress_state", prompt_id=prompt_id)
        await watcher.idle()
        await watcher.until("status", status={"exec_info": {"queue_remaining": 0}})
        told = {event.kind for event in watcher.seen if event.kind not in {"status", "feature_flags"}}
        assert told == {"progress_state"}
        assert (await watcher.history(prompt_id))["status"]["status_str"] == "success"


async def test_a_failing_node_ends_the_prompt_with_an_error(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        name = (await peer.upload(unused_name("broken") + ".png", b"no picture at all")).json()["name"]
        graph = broken_graph(name)
        prompt_id, events = await peer.run(graph)
        assert shape(events) == [
            "execution_start",
            "execution_cached",
            "progress_state 10:running",
            "executing 10",
            "execution_error",
            "executing None",
        ]
        failure = events[-2].data
        assert (failure["node_id"], failure["node_type"], failure["executed"]) == ("10", "LoadImage", [])
        assert failure["exception_type"].endswith("UnidentifiedImageError")
        assert failure["exception_message"].endswith("\n")
        assert all(isinstance(line, str) for line in failure["traceback"])
        assert failure["current_inputs"] == {"image": [name]}
        entry = await peer.history(prompt_id)
        assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
        assert entry["status"]["messages"][-1] == ["execution_error", failure]
        assert entry["outputs"] == {}


async def test_a_picture_over_the_socket(comfyui: Server) -> None:
    graph = save_graph(batch=2)
    graph["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    async with comfyui.peer() as plain, comfyui.peer(flags=True) as flagged:
        prompt_id, events = await plain.run(graph)
        frames = [event.data for event in events if event.kind == "binary"]
        assert [(frame["type"], frame["format"], frame["image"][:4]) for frame in frames] == [(1, 2, b"\x89PNG")] * 2
        assert [event.data["value"] for event in events if event.kind == "progress"] == [0, 1]
        assert (await plain.history(prompt_id))["outputs"] == {}
        prompt_id, events = await flagged.run(graph)
        described = [event.data["metadata"] for event in events if event.kind == "binary"]
        assert (
            described
            == [
                {
                    "node_id": "2",
                    "prompt_id": prompt_id,
                    "display_node_id": "2",
                    "parent_node_id": None,
                    "real_node_id": "2",
                    "image_type": "image/png",
                }
            ]
            * 2
        )


async def test_sampling_reports_each_step(comfyui: Server) -> None:
    if comfyui.checkpoint is None:
        return
    async with comfyui.peer(flags=True) as flagged, comfyui.peer() as plain:
        for peer, kind in ((flagged, 4), (plain, 1)):
            prompt_id, events = await peer.run(sampler_graph(comfyui.checkpoint, steps=4))
            told = [event.data for event in events if event.kind == "progress"]
            assert told == [{"value": step, "max": 4, "prompt_id": prompt_id, "node": "3"} for step in range(1, 5)]
            words = shape(events)
            sampling = [word.split()[0] for word in words[words.index("executing 3") + 1 : words.index("executing 8")]]
            step = ["progress_state", "binary", "progress"] if kind == 4 else ["progress_state", "progress", "binary"]
            silent = ["progress_state", "progress"]
            # Previews are off by default in a real server.
            assert sampling in (step * 4 + ["progress_state"] * 2, silent * 4 + ["progress_state"] * 2)
            frames = [event.data for event in events if event.kind == "binary"]
            assert len(frames) == 4 or comfyui.kind == "real"
            assert all(frame["type"] == kind and frame["image"].startswith(b"\xff\xd8") for frame in frames)
            assert all(frame["metadata"]["prompt_id"] == prompt_id for frame in frames if kind == 4)

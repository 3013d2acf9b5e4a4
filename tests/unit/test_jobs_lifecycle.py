"""Every recorded scenario of a real ComfyUI, replayed: the statuses of each prompt and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.comfyui import protocol
from bridge.comfyui.shapes import parse_history_entry
from bridge.jobs.lifecycle import Change, End, Lifecycle
from tests.support.replay import Replayed, history, posts, replay
from tests.unit.recordings import names


@dataclass(frozen=True, slots=True)
class Ends:
    """What is expected of one prompt.

    end: its last status; `queued` if nothing of it came, `running` if its end was never told. nodes: in the order of
    their work. files: `node:name`, two spaces between. error: `code@node`. by_history: the end was asked for.
    """

    end: str
    nodes: str
    files: str = ""
    texts: tuple[str, ...] | None = ()
    error: str | None = None
    previews: int = 0
    by_history: bool = False


ANY_TEXT = None
"""PreviewAny of an image: nine kilobytes of numbers."""

# Scenario and the connections listened to; its accepted prompts in the order of their submission.
# INDEX.md beside the recordings says what each scenario is about.
EXPECTED: dict[tuple[str, str], list[Ends]] = {
    ("a_txt2img_no_flags", "A"): [
        Ends("completed", "4 5 7 6 3 8 9", files="9:scen_00001_.png", previews=8),
    ],
    ("b2_feature_flags_variants", "V7"): [
        Ends("completed", "3 8 9", files="9:scen_00003_.png", previews=2),
    ],
    ("b_txt2img_feature_flags", "A"): [
        Ends("completed", "3 8 9", files="9:scen_00002_.png", previews=8),
    ],
    ("c_all_cached", "A"): [
        Ends("completed", "3 8 9", files="9:scen_00004_.png", previews=8),
        Ends("completed", "", files="9:scen_00004_.png"),
        Ends("completed", "", files="9:scen_00004_.png"),
    ],
    ("d_seed_changed", "A"): [
        Ends("completed", "3 8 9", files="9:scen_00005_.png", previews=8),
        Ends("completed", "9", files="9:other_00001_.png"),
    ],
    ("e_validation", "A"): [
        Ends("running", ""),
        Ends("completed", "1 2", files="2:simple_00002_.png"),
        Ends("completed", "1 2", files="2:simple_00003_.png"),
        Ends("completed", "1 2", files="2:simple_00004_.png"),
    ],
    ("f2_partial_outputs_then_error", "A"): [
        Ends("failed", "b0 s0 x0", files="s0:part_00001_.png", error="execution_error@x0"),
        Ends("failed", "b1 s1 x1", files="s1:part_00002_.png", error="execution_error@x1"),
        Ends("failed", "b2 s2 x2", files="s2:part_00003_.png", error="execution_error@x2"),
        Ends("failed", "b3 s3 x3", files="s3:part_00004_.png", error="execution_error@x3"),
        Ends("failed", "b4 s4 x4", files="s4:part_00005_.png", error="execution_error@x4"),
        Ends("failed", "b5 s5 x5", files="s5:part_00006_.png", error="execution_error@x5"),
    ],
    ("f_runtime_error", "A"): [
        Ends("failed", "10", error="execution_error@10"),
        Ends("failed", "10", error="execution_error@10"),
        Ends("failed", "1 2 3", error="execution_error@3"),
        Ends("failed", "10", error="execution_error@10"),
        Ends("completed", "1 2", files="2:after_err_00001_.png"),
    ],
    ("g_interrupt_global", "A"): [
        Ends("interrupted", "4 5 7 6 3", previews=3),
    ],
    ("g_interrupt_no_effect", "A"): [
        Ends("completed", "3 8 9", files="9:int2_00001_.png", previews=20),
        Ends("completed", "1 2", files="2:simple_00005_.png"),
        Ends("completed", "1 2", files="2:simple_00006_.png"),
        Ends("interrupted", "4 5 7 6 3", previews=2),
        Ends("completed", "1 2", files="2:simple_00007_.png"),
    ],
    ("g_interrupt_targeted", "A"): [
        Ends("interrupted", "3", previews=3),
    ],
    ("h_queue", "A"): [
        Ends("completed", "4 5 7 6 3 8 9", files="9:q_00001_.png", previews=25),
        Ends("queued", ""),
        Ends("queued", ""),
        Ends("queued", ""),
        Ends("queued", ""),
    ],
    ("h_queue", "W"): [
        Ends("completed", "", files="9:q_00001_.png", by_history=True),
        Ends("queued", ""),
        Ends("queued", ""),
        Ends("queued", ""),
        Ends("queued", ""),
    ],
    ("i_no_client_id", "A"): [
        Ends("completed", "", files="9:i_00003_.png", previews=6, by_history=True),
        Ends("running", ""),
        Ends("failed", "", error="execution_error@10", by_history=True),
    ],
    ("i_no_client_id", "B"): [
        Ends("completed", "", files="9:i_00003_.png", previews=6, by_history=True),
        Ends("running", ""),
        Ends("failed", "", error="execution_error@10", by_history=True),
    ],
    ("i_reconnect_clean", "A A2"): [
        Ends("completed", "3 8 9", files="9:i_00005_.png", previews=27),
    ],
    ("i_reconnect_clean", "A"): [
        Ends("running", "3", previews=5),
    ],
    ("i_reconnect_clean", "A2"): [
        Ends("completed", "8 9", files="9:i_00005_.png", previews=22),
    ],
    ("i_reconnect_overlap", "A A2"): [
        Ends("running", "3", previews=8),
        Ends("queued", ""),
    ],
    ("i_two_clients", "A"): [
        Ends("completed", "3 8 9", files="9:i_00001_.png", previews=4),
        Ends("queued", ""),
    ],
    ("i_two_clients", "B"): [
        Ends("queued", ""),
        Ends("completed", "3 8 9", files="9:i_00002_.png", previews=4),
    ],
    ("i_unknown_client_id", "A"): [
        Ends("completed", "", files="9:i_00004_.png", by_history=True),
    ],
    ("j_prompt_fields", "A"): [
        Ends("completed", "1 2", files="2:j_00021_.png"),  # my-own-id-1
        Ends("completed", "1 2", files="2:j_00022_.png"),  # my-own-id-1
        Ends("completed", "1 2", files="2:j_00023_.png"),  # a/b c#ü
        Ends("completed", "1 2", files="2:j_00024_.png"),  # 17
        Ends("completed", "1 2", files="2:j_00025_.png"),  # None
        Ends("completed", "1 2", files="2:j_00026_.png"),
        Ends("completed", "1 2", files="2:j_00027_.png"),  # with-extra
        Ends("completed", "1 2", files="2:j_00028_.png"),  # cid-in-extra
        Ends("running", "", previews=25),
        Ends("queued", ""),
        Ends("completed", "4 5 7 6 3 8 9", files="9:j_00031_.png"),  # blocker
        Ends("completed", "1 2", files="2:j_00038_.png"),  # n1
        Ends("completed", "1 2", files="2:j_00039_.png"),  # n2
        Ends("completed", "1 2", files="2:j_00034_.png"),  # f1
        Ends("completed", "1 2", files="2:j_00033_.png"),  # f2
        Ends("completed", "1 2", files="2:j_00035_.png"),  # num0
        Ends("completed", "1 2", files="2:j_00032_.png"),  # numneg
        Ends("completed", "1 2", files="2:j_00041_.png"),  # numbig
        Ends("completed", "1 2", files="2:j_00037_.png"),  # numstr
        Ends("completed", "1 2", files="2:j_00036_.png"),  # num0b
        Ends("completed", "1 2", files="2:j_00040_.png"),  # n1
        Ends("completed", "1 3", files="3:pe2_00001_.png"),  # partial
    ],
    ("k_img2img", "A"): [
        Ends("completed", "10 12 11 3 8 9", files="9:i2i_00001_.png", previews=8),
    ],
    ("k_no_sampler", "A"): [
        Ends("completed", "1 2 3", files="3:k/sub/scaled_00001_.png"),  # k-scale_save
        Ends("completed", "3", files="3:ComfyUI_temp_cavtu_00001_.png [temp]"),  # k-preview
        Ends(
            "completed",
            "1 2",
            files="2:batch4_00001_.png  2:batch4_00002_.png  2:batch4_00003_.png  2:batch4_00004_.png",
        ),  # k-batch4
        Ends(
            "completed",
            "1 2 3 5 4",
            files="2:first_00001_.png  5:ComfyUI_temp_ptcej_00001_.png [temp]  4:second_00001_.png",
        ),  # k-two_saves
        Ends(
            "completed",
            "1 2",
            files="2:websocket_2_00000.png [websocket]  2:websocket_2_00001.png [websocket]",
            previews=2,
        ),  # k-ws_image
        Ends("completed", "1 2", files="2:v_64x64_2026_00001_.png"),  # k-prefix_vars
        Ends("failed", "1 2", error="execution_error@2"),  # k-bad_prefix
        Ends("queued", ""),  # k-ws_image-B
        Ends(
            "completed",
            "",
            files="9:batch4s_00001_.png  9:batch4s_00002_.png  9:batch4s_00003_.png  9:batch4s_00004_.png",
            by_history=True,
        ),  # k-batch4-sampler
    ],
    ("k_no_sampler", "B"): [
        Ends("completed", "", files="3:k/sub/scaled_00001_.png", by_history=True),  # k-scale_save
        Ends("completed", "", files="3:ComfyUI_temp_cavtu_00001_.png [temp]", by_history=True),  # k-preview
        Ends(
            "completed",
            "",
            files="2:batch4_00001_.png  2:batch4_00002_.png  2:batch4_00003_.png  2:batch4_00004_.png",
            by_history=True,
        ),  # k-batch4
        Ends(
            "completed",
            "",
            files="2:first_00001_.png  5:ComfyUI_temp_ptcej_00001_.png [temp]  4:second_00001_.png",
            by_history=True,
        ),  # k-two_saves
        Ends("completed", "", by_history=True),  # k-ws_image
        Ends("completed", "", files="2:v_64x64_2026_00001_.png", by_history=True),  # k-prefix_vars
        Ends("failed", "", error="execution_error@2", by_history=True),  # k-bad_prefix
        Ends(
            "completed",
            "1 2",
            files="2:websocket_2_00000.png [websocket]  2:websocket_2_00001.png [websocket]",
            previews=2,
        ),  # k-ws_image-B
        Ends(
            "completed",
            "4 5 7 6 3 8 9",
            files="9:batch4s_00001_.png  9:batch4s_00002_.png  9:batch4s_00003_.png  9:batch4s_00004_.png",
            previews=3,
        ),  # k-batch4-sampler
    ],
    ("l_http", "A"): [
        Ends("completed", "1 2", files="2:simple_00009_.png"),
    ],
    ("m_kill9", "A A2"): [
        Ends("completed", "1 2", files="2:m_00004_.png"),  # m-before
        Ends("completed", "1 2", files="2:ComfyUI_temp_turxx_00001_.png [temp]"),  # m-preview
        Ends("running", "4 5 7 6 3", previews=5),  # m-running
        Ends("queued", ""),  # m-pending
        Ends("completed", "1 2", files="2:simple_00011_.png"),
    ],
    ("n2_executed_output_null", "A"): [
        Ends("completed", "1 2"),
        Ends("completed", ""),
    ],
    ("n_other_outputs", "A"): [
        Ends("completed", "1 2", texts=("2:hello ünïcode",)),  # n-text_string
        Ends("completed", "2", texts=("2:3.25",)),  # n-text_literal
        Ends("completed", "1 2", texts=ANY_TEXT),  # n-text_of_image
        Ends(
            "completed",
            "2 3",
            texts=(
                "2:width: 64, height: 64\n batch size: 6",
                "3:64",
            ),
        ),  # n-binary_text_type3
        Ends("completed", "1 2", files="2:audio/n_00001_.flac"),  # n-audio_flac
        Ends("completed", "2", files="2:audio/n_00002_.mp3"),  # n-audio_mp3
        Ends("completed", "2", files="2:audio/n_00003_.opus"),  # n-audio_opus
        Ends("completed", "2", files="2:ComfyUI_temp_bpdxy_00001_.flac [temp]"),  # n-audio_preview
        Ends("completed", "1 2", files="2:n_00001_.webm"),  # n-video_webm
        Ends("completed", "2 3", files="3:video/n_00001_.mp4"),  # n-video_mp4
        Ends("completed", "2", files="2:n_00002_.webp"),  # n-animated_webp
        Ends("completed", "2", files="2:n_00003_.png"),  # n-animated_png
        Ends("completed", "1 2", files="2:latents/n_00001_.latent"),  # n-latent
        Ends("completed", "1 2", files="2:ComfyUI_temp_ppdpm_00001_.png [temp]"),  # n-mask_preview
        Ends("completed", "2"),  # n-preview3d
        Ends("completed", "1 2", texts=("2:7",)),  # n-string_list
    ],
    ("z_preview_method_none", "A"): [
        Ends("completed", "4 5 7 6 3 8 9", files="9:t2i_00001_.png"),
    ],
}

ALL = [
    pytest.param(scenario, conns, n, id=f"{scenario}-{conns.replace(' ', '+')}-{n}")
    for (scenario, conns), ends in EXPECTED.items()
    for n in range(len(ends))
]
SEQUENCES = {
    "queued": ["queued"],
    "running": ["queued", "running"],
    "completed": ["queued", "running", "completed"],
    "failed": ["queued", "running", "failed"],
    "interrupted": ["queued", "running", "interrupted"],
}


def test_every_scenario_and_every_prompt_is_expected() -> None:
    assert {scenario for scenario, _ in EXPECTED} == set(names())
    for (scenario, conns), ends in EXPECTED.items():
        assert len(ends) == len(posts(scenario)), (scenario, conns)


@pytest.mark.parametrize(("scenario", "conns", "n"), ALL)
def test_statuses_and_result(scenario: str, conns: str, n: int) -> None:
    expected, got = EXPECTED[scenario, conns][n], replay(scenario, conns)[n]
    assert got.statuses == SEQUENCES[expected.end]
    assert " ".join(got.nodes) == expected.nodes
    assert "  ".join(got.files) == expected.files
    if expected.texts is not ANY_TEXT:
        assert tuple(got.texts) == expected.texts
    else:
        assert len(got.texts) == 1
    assert got.error == expected.error
    assert got.life.preview_count == expected.previews
    assert got.by_history is expected.by_history


@pytest.mark.parametrize(("scenario", "conns", "n"), ALL)
def test_rules_of_every_life(scenario: str, conns: str, n: int) -> None:
    got = replay(scenario, conns)[n]
    assert all(before <= after for before, after in pairwise(got.percents))
    for percent, end in zip(got.percents, got.ends, strict=True):
        assert (percent == 100.0) == (end is End.SUCCESS)
    assert got.overs == (1 if got.life.over else 0)
    assert sum(Change.STARTED in change for change in got.changes) == (1 if got.life.started else 0)
    if got.changes:
        assert Change.STARTED in got.changes[0]
    if got.life.over:
        assert Change.OVER in got.changes[-1]
        assert got.life.node is None


@pytest.mark.parametrize(("scenario", "conns", "n"), ALL)
def test_the_history_tells_the_same_as_the_frames(scenario: str, conns: str, n: int) -> None:
    got = replay(scenario, conns)[n]
    entry = history(scenario).get(got.prompt_id)
    body = posts(scenario)[n][1]
    if entry is None or not got.life.over or got.by_history or entry["prompt"][0] != number(scenario, n):
        return
    files, texts, end, error = got.files, got.texts, got.life.end, got.error
    fresh = Replayed(got.prompt_id, Lifecycle(got.prompt_id, body["prompt"]))
    fresh.learn(entry)
    assert (fresh.life.end, fresh.error) == (end, error)
    assert sorted(fresh.files) == sorted(file for file in files if "[websocket]" not in file)
    # A text frame leaves no trace in the history.
    assert set(fresh.texts) <= set(texts)
    assert fresh.statuses[1] == "running"
    # Both together: nothing twice, nothing lost.
    parsed = parse_history_entry(got.prompt_id, entry)
    assert parsed is not None
    assert Change.OVER not in got.life.learn(parsed)
    assert (got.files, got.texts, got.life.end, got.error) == (files, texts, end, error)


def number(scenario: str, n: int) -> float:
    return float(json.loads(posts(scenario)[n][0].body or b"{}")["number"])


# What no scenario shows


GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {}, "_meta": {"title": "Paper"}},
    "2": {"class_type": "KSampler", "inputs": {"steps": 10, "model": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
}


def life() -> Lifecycle:
    return Lifecycle("p", GRAPH)


def over() -> protocol.Executing:
    return protocol.Executing("p", None)


def test_the_end_alone_is_over_and_waits_for_the_history() -> None:
    one = life()
    one.feed(protocol.ExecutionStart("p"))
    assert one.feed(over()) == Change.OVER
    assert one.over
    assert one.end is None
    assert one.percent < 100


def test_success_without_the_closing_frame_is_not_over_yet() -> None:
    one = life()
    one.feed(protocol.ExecutionStart("p"))
    one.feed(protocol.ExecutionSuccess("p"))
    assert one.end is End.SUCCESS
    assert not one.over
    assert one.percent == 100.0


def test_the_node_said_to_a_new_connection_is_no_end() -> None:
    one = life()
    one.feed(protocol.ExecutionStart("p"))
    assert one.feed(protocol.Executing(None, "2")) & Change.NODE
    assert one.node == "2"
    assert one.feed(protocol.Executing(None, None)) == Change.NONE
    assert not one.over


def test_nothing_changes_after_the_end() -> None:
    one = life()
    one.feed(protocol.ExecutionSuccess("p"))
    one.feed(over())
    for message in (
        protocol.ExecutionStart("p"),
        protocol.ExecutionInterrupted("p", "1", "X"),
        protocol.Executed("p", "3", "3", {"images": [{"filename": "late.png", "subfolder": "", "type": "output"}]}),
        over(),
    ):
        assert one.feed(message) == Change.NONE
    assert one.end is End.SUCCESS
    assert one.found == []


def test_a_blocked_branch_is_an_error_and_no_end() -> None:
    one = life()
    one.feed(protocol.ExecutionError("p", "3", "SaveImage", "Execution Blocked: no", "ExecutionBlocked"))
    assert one.end is None
    assert one.error is not None
    one.feed(protocol.ExecutionSuccess("p"))
    one.feed(over())
    assert one.end is End.SUCCESS
    assert one.error is not None


def test_titles_then_classes_name_the_node_at_work() -> None:
    one = life()
    assert one.node_title is None
    one.feed(protocol.Executing("p", "1", "1"))
    assert one.node_title == "Paper"
    one.feed(protocol.Executing("p", "2", "2"))
    assert one.node_title == "KSampler"


def test_a_node_made_while_running_counts_too() -> None:
    one = life()
    one.feed(protocol.Executing("p", "2.0.0.7", None))
    assert one.node == "2.0.0.7"
    assert one.node_title is None
    one.feed(protocol.Progress("p", "2.0.0.7", 5, 5))
    assert 0 < one.percent < 100


def test_steps_weigh_more_than_plain_nodes() -> None:
    one = life()
    one.feed(protocol.ExecutionCached("p", ("1",)))
    few = one.percent
    one.feed(protocol.Progress("p", "2", 5, 10))
    assert few < 15
    assert 40 < one.percent < 60


def test_texts_of_a_node_are_kept_as_often_as_they_stand() -> None:
    one = life()
    one.feed(protocol.Executed("p", "3", "3", {"text": ["same", "same"]}))
    assert [entry["text"] for entry in one.texts] == ["same", "same"]


def test_a_text_of_a_strangers_node_is_not_ours() -> None:
    one = life()
    assert one.feed(protocol.TextFrame("3", "too early")) == Change.NONE
    one.feed(protocol.ExecutionStart("p"))
    assert one.feed(protocol.TextFrame("99", "of another client")) == Change.NONE
    assert one.feed(protocol.TextFrame("3", "ours")) == Change.OUTPUT
    assert one.texts == [{"node": "3", "text": "ours"}]


def test_a_history_that_fails_without_a_reason_is_a_failure() -> None:
    entry = parse_history_entry("p", {"outputs": {}, "status": {"status_str": "error", "completed": False}})
    assert entry is not None
    one = life()
    assert one.learn(entry) == Change.STARTED | Change.OVER
    assert one.end is End.ERROR
    assert one.error is None
    assert one.percent < 100


ids = st.sampled_from(["1", "2", "3", "99"])
numbers = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-5, 50).map(float)
messages = st.one_of(
    st.builds(protocol.ExecutionStart, st.just("p")),
    st.builds(protocol.ExecutionCached, st.just("p"), st.lists(ids).map(tuple)),
    st.builds(protocol.Executing, st.sampled_from(["p", None]), ids | st.none()),
    st.builds(protocol.Progress, st.just("p"), ids | st.none(), numbers, numbers),
    st.builds(
        protocol.ProgressState,
        st.just("p"),
        st.dictionaries(
            ids, st.builds(protocol.NodeProgress, numbers, numbers, st.sampled_from(["running", "finished", "x"]))
        ),
    ),
    st.builds(
        protocol.Executed,
        st.just("p"),
        ids,
        ids,
        st.sampled_from([None, {}, {"images": [{"filename": "a.png"}, None, 3]}, {"text": ["t", 1]}, {"text": "t"}]),
    ),
    st.builds(protocol.ExecutionSuccess, st.just("p")),
    st.builds(
        protocol.ExecutionError,
        st.just("p"),
        ids,
        st.just("X"),
        st.just("no"),
        st.sampled_from(["ValueError", "ExecutionBlocked", "torch.OutOfMemoryError"]),
    ),
    st.builds(protocol.ExecutionInterrupted, st.just("p"), ids, st.just("X")),
    st.builds(protocol.PreviewImage, st.just(b"x"), st.just("image/png"), ids | st.none()),
    st.builds(protocol.TextFrame, ids, st.text(max_size=3)),
    st.builds(protocol.OtherEvent, st.just("odd"), st.none(), st.just("p")),
    st.builds(protocol.Malformed, st.just("odd")),
)


@given(st.lists(messages, max_size=40))
def test_whatever_comes_the_rules_hold(coming: list[protocol.Message]) -> None:
    one = Replayed("p", life())
    for message in coming:
        one.take(one.life.feed(message))
    assert one.overs <= 1
    assert one.overs == int(one.life.over)
    assert all(0 <= percent <= 100 for percent in one.percents)
    assert all(before <= after for before, after in pairwise(one.percents))
    assert one.statuses.count("running") <= 1
    for n, percent in enumerate(one.percents):
        assert percent < 100 or End.SUCCESS in one.ends[: n + 1]

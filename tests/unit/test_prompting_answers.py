"""What models answer, and what is made of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import WriterFailed
from bridge.prompting.address import answered
from bridge.prompting.answers import as_it_is, joined, prompt_so_far, read_answer, read_failure
from bridge.prompting.model import Written

FOX = '{"prompt": "a fox, snow", "negative": "text", "title": "Fox"}'


@pytest.mark.parametrize(
    "text",
    [
        FOX,
        f"  \n{FOX}\n",
        f"```json\n{FOX}\n```",
        f"Sure, here you are:\n\n{FOX}\n\nEnjoy!",
        f"<think>A fox {{maybe}} in snow?</think>{FOX}",
        f"a fox, said the template's own thoughts</think>\n{FOX}",
        f'{{"thoughts": "none"}} {FOX}',
        '{"positive_prompt": "a fox, snow", "negative_prompt": "text", "title": "Fox"}',
        '{"prompt": ["a fox", "snow"], "negative": ["text"], "title": "Fox"}',
        '{"prompt": "  a fox, snow ", "negative": "text", "title": "Fox", "seed": 4}',
        f'{{"answer": {FOX}}}',
        f"[{FOX}]",
        '{"prompt": "```\\na fox, snow\\n```", "negative": "text", "title": "Fox"}',
        '{"prompt": "\na fox, snow", "negative": "text", "title": "Fox"}',
    ],
)
def test_json_is_found_wherever_it_stands(text: str) -> None:
    assert read_answer(text) == Written("a fox, snow", "text", "Fox")


@pytest.mark.parametrize(
    "text",
    ["", "a fox", "{", '{"prompt": "a fo', '{"prompt": ""}', '{"prompt": 7}', '["prompt"]', "{}" * 200, "[" * 100_000],
)
def test_what_holds_no_prompt(text: str) -> None:
    assert read_answer(text) is None


def test_a_plain_text_is_taken_without_its_thoughts() -> None:
    assert as_it_is("<think>hm</think>\n a fox \n") == Written("a fox", is_plain=True)
    assert as_it_is("<think>hm</think> ") is None
    assert as_it_is("<think>and then it was cut o") is None


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("```\na fox\n```", "a fox"),
        ("Here is your prompt:\n\n```text\na fox\n```\n\nEnjoy!", "a fox"),
        ("Here is your prompt:\n```\na fox", "a fox"),
        ("```a fox``` or ```an owl```", "```a fox``` or ```an owl```"),
        ('"a fox"', "a fox"),
        ("a fox {in snow}", "a fox {in snow}"),
        ('{"prompt": "a fox, sno', "a fox, sno"),
        ('Sure! ```json\n{"prompt": "a fox, sno', "a fox, sno"),
    ],
)
def test_a_text_is_taken_out_of_what_is_around_it(text: str, prompt: str) -> None:
    assert as_it_is(text) == Written(prompt, is_plain=True)


@pytest.mark.parametrize("text", ["", "```\n```", "{}", '{"prompt": ""}', '```json\n{"prompt": ""}\n```', "[]"])
def test_json_without_a_prompt_is_none(text: str) -> None:
    assert as_it_is(text) is None


@given(st.text())
@example('{"prompt": "\\ud83d"}')
def test_any_answer_is_read_or_not_and_can_be_sent(text: str) -> None:
    for written in (read_answer(text), as_it_is(text.encode(errors="replace").decode())):
        if written is not None:
            assert written.prompt
            written.prompt.encode()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.integers(0, 200))
@example("\\u", 200)
@example("C:\\\\u12", 200)
def test_the_prompt_so_far_grows_to_the_whole(prompt: str, cut: int) -> None:
    text = json.dumps({"prompt": prompt, "negative": "n"})
    part = prompt_so_far(text[:cut])
    assert part == "" or len(part) <= len(prompt) + 1
    assert prompt_so_far(text) == prompt.strip()


def test_the_prompt_so_far_begins_with_its_first_word() -> None:
    assert prompt_so_far('{"pro') == ""
    assert prompt_so_far('{"prompt": "') == ""
    assert prompt_so_far('{"prompt": "a \\"red\\" fo') == 'a "red" fo'
    assert prompt_so_far('{"prompt": "gr\\u00fc') == "grü"
    assert prompt_so_far('{"prompt": "gr\\u00f') == "gr"
    assert prompt_so_far('{"prompt": "a fox", "negative": "b') == "a fox"


def test_lists_of_words_are_joined_without_repeating_any() -> None:
    assert joined("text, watermark", "Text, blurry,, ", "") == "text, watermark, blurry"
    assert joined("", "") == ""


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"error": "no model"}, "no model"),
        ({"error": {"message": "no key"}}, "no key"),
        ({"STATUS": "generation failed - tired"}, "generation failed - tired"),
        ({"prompt": ""}, None),
        (7, None),
    ],
)
def test_the_reason_of_a_failure(document: object, reason: str | None) -> None:
    assert read_failure(document) == reason


@pytest.mark.parametrize(
    ("answer", "prompt", "negative"),
    [
        ({"prompt": "a fox", "negative": "text"}, "a fox", "text"),
        ({"STATUS": "success", "positive_prompt": "a fox", "negative_prompt": "text"}, "a fox", "text"),
        ('{"STATUS": "success", "positive_prompt": "a fox", "negative_prompt": "text"}', "a fox", "text"),
        ("a fox", "a fox", ""),
        ('"a fox"', "a fox", ""),
    ],
)
def test_answers_of_flows(answer: object, prompt: str, negative: str) -> None:
    written = answered(answer, "the flow")
    assert (written.prompt, written.negative, written.is_plain) == (prompt, negative, False)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"STATUS": "generation failed - no Ollama"}, "no Ollama"),
        ('{"error": "tired"}', "tired"),
        ("", "without a prompt"),
        ("[]", "without a prompt"),
        ({}, "without a prompt"),
        (7, "without a prompt"),
    ],
)
def test_answers_of_flows_that_hold_no_prompt(answer: object, words: str) -> None:
    with pytest.raises(WriterFailed, match=words):
        answered(answer, "the flow")

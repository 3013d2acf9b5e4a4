"""The writers, against servers on a port: a stand-in Ollama, an OpenAI-compatible one, a flow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from bridge import errors
from bridge.mqtt.message import Message
from bridge.mqtt.topics import Topics
from bridge.mqtt.writer import MqttWriter
from bridge.prompting.address import AddressWriter
from bridge.prompting.model import OnText, Question, Writer, Written
from bridge.prompting.ollama import OllamaWriter
from bridge.prompting.openai import OpenAIWriter
from bridge.testing.ollama import OllamaStandIn
from tests.support.brokers import free_port, until
from tests.support.web import serving

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)
QUESTION = Question(id="q1", idea="a fox", system="You write prompts.", profile="sd", style="woodcut")


def question(**changes: Any) -> Question:
    fields = {name: getattr(QUESTION, name) for name in QUESTION.__dataclass_fields__}
    return Question(**{**fields, **changes})


def ignored(_: str) -> None:
    """A listener for tests that look at the result only."""


@asynccontextmanager
async def opened(writer: Writer) -> AsyncIterator[Callable[..., Any]]:
    async def write(asked: Question = QUESTION, on_text: OnText = ignored) -> Written:
        async with asyncio.timeout(10):
            return await writer.write(asked, on_text)

    await writer.open()
    try:
        yield write
    finally:
        await writer.close()


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaStandIn]:
    async with OllamaStandIn(models=("nomic-embed-text:latest", "llama3.2:latest", "llava:latest")) as standin:
        yield standin


# Ollama


async def test_a_prompt_is_streamed_and_read(ollama: OllamaStandIn) -> None:
    heard: list[str] = []
    async with opened(OllamaWriter(ollama.url, keep_alive=0.0)) as write:
        written = await write(question(temperature=0.3, options={"num_ctx": 9}, think=False), heard.append)
    assert written == Written(
        "a fox, detailed painting, soft light", "text, watermark", "A Fox", model="llama3.2:latest"
    )
    assert len(heard) > 3
    assert json.loads("".join(heard))["prompt"] == written.prompt
    (asked,) = ollama.stats.chats
    assert asked["stream"] is True
    assert asked["format"]["required"] == ["prompt", "negative", "title"]
    assert (asked["keep_alive"], asked["think"]) == (0, False)
    assert asked["options"] == {"num_ctx": 9, "temperature": 0.3}
    assert asked["messages"] == [
        {"role": "system", "content": "You write prompts."},
        {"role": "user", "content": "Idea: a fox\nStyle: woodcut"},
    ]


async def test_what_nobody_set_is_left_to_ollama(ollama: OllamaStandIn) -> None:
    async with opened(OllamaWriter(ollama.url)) as write:
        await write()
    assert not {"keep_alive", "think"} & set(ollama.stats.chats[0])
    assert ollama.loaded == ["llama3.2:latest"]


@pytest.mark.parametrize("said", ["question", "settings"])
async def test_the_model_that_is_named_is_asked(ollama: OllamaStandIn, said: str) -> None:
    ollama.names.append("qwen2.5:7b")
    async with opened(OllamaWriter(ollama.url, model="qwen2.5:7b" if said == "settings" else "llama3.2")) as write:
        written = await write(question(model="qwen2.5:7b" if said == "question" else None))
    assert written.model == ollama.stats.chats[0]["model"] == "qwen2.5:7b"


async def test_a_picture_goes_to_a_model_that_can_see(ollama: OllamaStandIn) -> None:
    async with opened(OllamaWriter(ollama.url)) as write:
        written = await write(question(idea="", images=(JPEG,)))
    assert written.model == "llava:latest"
    assert ollama.stats.chats[0]["messages"][1]["images"] == [len(JPEG)]
    async with opened(OllamaWriter(ollama.url, model="llama3.2", vision_model="llava")) as write:
        assert (await write(question(images=(JPEG,)))).model == "llava"
    ollama.names.remove("llava:latest")
    async with opened(OllamaWriter(ollama.url)) as write:
        with pytest.raises(errors.UnknownModel, match="ollama pull llava"):
            await write(question(images=(JPEG,)))


async def test_a_missing_model_names_the_command_to_pull_it(ollama: OllamaStandIn) -> None:
    async with opened(OllamaWriter(ollama.url, model="mistral")) as write:
        with pytest.raises(errors.UnknownModel, match="ollama pull mistral"):
            await write()
    ollama.names[:] = ["nomic-embed-text:latest"]
    async with opened(OllamaWriter(ollama.url)) as write:
        with pytest.raises(errors.UnknownModel, match=r"ollama pull llama3\.2"):
            await write()


async def test_an_answer_that_is_no_json_is_asked_for_once_more(ollama: OllamaStandIn) -> None:
    ollama.faults.broken_json = 1
    async with opened(OllamaWriter(ollama.url)) as write:
        written = await write()
        assert (written.prompt, written.is_plain) == ("a fox, detailed painting, soft light", False)
        again = ollama.stats.chats[1]["messages"]
        assert [one["role"] for one in again] == ["system", "user", "assistant", "user"]
        ollama.faults.broken_json = 9
        written = await write()
    assert written.is_plain
    assert written.prompt == "a fox, and so on"
    assert len(ollama.stats.chats) == 4


async def test_json_in_a_fence_and_behind_thoughts_is_read_at_once(ollama: OllamaStandIn) -> None:
    ollama.faults.fenced = True
    ollama.faults.think = 'Perhaps {"prompt": "a wolf"}?'
    async with opened(OllamaWriter(ollama.url)) as write:
        assert (await write()).prompt == "a fox, detailed painting, soft light"
    assert len(ollama.stats.chats) == 1


@pytest.mark.parametrize(
    ("fault", "value", "error", "words"),
    [
        ("error", "cuda out of memory", errors.WriterFailed, "500: cuda out of memory"),
        ("error_midway", "model runner crashed", errors.WriterFailed, "model runner crashed"),
        ("cut", True, errors.WriterOffline, "broke"),
        ("unfinished", True, errors.WriterFailed, "broke off"),
        ("empty", True, errors.WriterFailed, "nothing"),
        ("text", '{"prompt": "", "negative": "", "title": ""}', errors.WriterFailed, "without a prompt"),
    ],
)
async def test_what_goes_wrong_at_ollama_is_told(
    ollama: OllamaStandIn, fault: str, value: object, error: type[errors.BridgeError], words: str
) -> None:
    setattr(ollama.faults, fault, value)
    async with opened(OllamaWriter(ollama.url)) as write:
        with pytest.raises(error, match=words):
            await write()
        setattr(ollama.faults, fault, type(value)())
        assert (await write()).prompt  # the next one is not harmed


async def test_a_model_that_never_stops_is_stopped(ollama: OllamaStandIn) -> None:
    ollama.faults.text = "fox " * 20_000
    async with opened(OllamaWriter(ollama.url)) as write:
        written = await write()
    assert written.is_plain
    assert len(written.prompt) < 30_000


async def test_a_cancelled_question_ends_the_work_at_ollama(ollama: OllamaStandIn) -> None:
    ollama.faults.hang = True
    async with opened(OllamaWriter(ollama.url, keep_alive=0.0)) as write:
        task = asyncio.create_task(write())
        await until(lambda: ollama.stats.chats)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: ollama.stats.aborted == 1)
        await until(lambda: not ollama.loaded)


async def test_settling_waits_until_the_model_has_left(ollama: OllamaStandIn) -> None:
    ollama.faults.unload_delay = 0.4
    writer = OllamaWriter(ollama.url, model="llama3.2", keep_alive=0.0, settles=True)
    async with opened(writer) as write:
        written = await write()
        assert ollama.loaded
        await writer.settle(written.model)
        assert not ollama.loaded


async def test_settling_at_an_ollama_that_went_away_ends(ollama: OllamaStandIn) -> None:
    writer = OllamaWriter(f"http://127.0.0.1:{free_port()}", settles=True)
    async with opened(writer):
        await writer.settle("llama3.2")


async def test_an_absent_ollama_is_offline() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    writer = OllamaWriter(url, model="llama3.2")
    async with opened(writer) as write:
        with pytest.raises(errors.WriterOffline, match=f"Ollama at {url} cannot be reached"):
            await write()
        with pytest.raises(errors.WriterOffline):
            await writer.models()


async def test_another_server_in_its_place_is_told(ollama: OllamaStandIn) -> None:
    async def answer(request: web.Request) -> web.Response:
        return (
            web.Response(status=404, text="<html>nginx</html>") if request.method == "POST" else web.json_response([])
        )

    async with serving(answer) as other:
        writer = OllamaWriter(f"http://user:secret@127.0.0.1:{other.port}", model="llama3.2")
        async with opened(writer) as write:
            with pytest.raises(errors.WriterOffline, match="does not look like Ollama") as caught:
                await write()
            assert "secret" not in caught.value.message
            with pytest.raises(errors.WriterOffline, match="does not look like Ollama"):
                await writer.models()


async def test_lines_may_come_in_any_pieces() -> None:
    text = json.dumps({"prompt": "grüner Fuchs", "negative": "", "title": "Fuchs"}, ensure_ascii=False)
    stream = (
        b"".join(
            json.dumps({"message": {"content": part}, "done": False}, ensure_ascii=False).encode() + b"\r\n\n"
            for part in (text[:15], text[15:])
        )
        + b'{"message": {"content": ""}, "done": true}'
    )

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(len(stream)):
            await response.write(stream[start : start + 1])
        return response

    async with serving(answer) as server, opened(OllamaWriter(server.url(""), model="m")) as write:
        assert (await write()).prompt == "grüner Fuchs"


@pytest.mark.parametrize("line", ["nonsense", "[1]", '"text"', "x" * 1_100_000, "[" * 100_000])
async def test_lines_that_are_none_are_told(line: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=line + "\n")

    async with serving(answer) as server, opened(OllamaWriter(server.url(""), model="m")) as write:
        with pytest.raises(errors.WriterFailed):
            await write()


async def test_a_download_tells_how_far_it_is(ollama: OllamaStandIn) -> None:
    writer = OllamaWriter(ollama.url)
    async with opened(writer):
        steps = [step async for step in writer.pull("qwen2.5:7b")]
        assert [round(step.completed / step.total, 2) for step in steps if step.total] == [0, 0.25, 0.5, 0.75, 1]
        assert steps[-1].status == "success"
        assert "qwen2.5:7b" in [model.name for model in await writer.models()]
        with pytest.raises(errors.UnknownModel, match="library has no model 'nothing'"):
            [step async for step in writer.pull("nothing")]


# OpenAI-compatible servers


class Compatible:
    """As much of such a server as is needed."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.pieces = ['{"prompt": "a fox", ', '"negative": "text", "title": "Fox"}']
        self.plain = False
        self.refusal: tuple[int, Any] | None = None
        self.refuses: dict[str, str] = {}
        self.end = "data: [DONE]\n\n"

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization"))
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "qwen"}, {"id": "other"}]})
        if request.path != "/v1/chat/completions":
            return web.Response(status=404)
        self.asked.append(await request.json())
        for name, words in self.refuses.items():
            if name in self.asked[-1]:
                return web.json_response({"error": {"message": words, "code": 400}}, status=400)
        if self.refusal is not None:
            return web.json_response(self.refusal[1], status=self.refusal[0])
        if self.plain:
            message = {"role": "assistant", "content": "".join(self.pieces)}
            return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b': a comment\n\nevent: message\ndata: {"choices": []}\n\n')
        for piece in self.pieces:
            chunk = {"choices": [{"delta": {"content": piece}, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(self.end.encode())
        return response


@asynccontextmanager
async def compatible(**options: Any) -> AsyncIterator[tuple[Compatible, OpenAIWriter, Callable[..., Any]]]:
    server = Compatible()
    async with serving(server) as found:
        writer = OpenAIWriter(found.url(options.pop("path", "")), **options)
        async with opened(writer) as write:
            yield server, writer, write


@pytest.mark.parametrize("path", ["", "/v1"])
async def test_an_openai_compatible_server_is_asked(path: str) -> None:
    heard: list[str] = []
    async with compatible(path=path, key="k") as (server, _, write):
        written = await write(
            question(temperature=0.5, options={"num_predict": 9, "num_ctx": 1}, images=(JPEG,)), heard.append
        )
    assert written == Written("a fox", "text", "Fox", model="qwen")
    assert heard == server.pieces
    (asked,) = server.asked
    assert asked["response_format"]["json_schema"]["schema"]["required"] == ["prompt", "negative", "title"]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("qwen", 0.5, 9)
    assert "num_ctx" not in asked
    said, picture = asked["messages"][1]["content"]
    assert said["text"].startswith("Idea: a fox")
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert set(server.keys) == {"Bearer k"}


async def test_a_server_that_does_not_stream_is_read_too() -> None:
    async with compatible(model="other") as (server, _, write):
        server.plain = True
        assert (await write()).model == "other"


@pytest.mark.parametrize(
    ("refusal", "error", "words"),
    [
        ((404, {"error": {"message": "The model `x` does not exist"}}), errors.UnknownModel, "'x'"),
        ((401, {"error": {"message": "no key"}}), errors.WriterFailed, r"prompting\.api_key"),
        ((500, {"error": "out of memory"}), errors.WriterFailed, "500: out of memory"),
    ],
)
async def test_refusals_of_a_compatible_server(
    refusal: tuple[int, Any], error: type[errors.BridgeError], words: str
) -> None:
    async with compatible(model="x") as (server, _, write):
        server.refusal = refusal
        with pytest.raises(error, match=words):
            await write()


async def test_what_a_compatible_server_does_not_take_is_left_out() -> None:
    async with compatible(model="x") as (server, _, write):
        server.refuses = {
            "response_format": "This model does not support response format `json_schema`",
            "temperature": "Unsupported value: 'temperature' does not support 0.7 with this model.",
        }
        for _ in range(2):
            assert (await write(question(temperature=0.7))).prompt == "a fox"
        took = [{"response_format", "temperature"} & set(asked) for asked in server.asked]
        assert took == [{"response_format", "temperature"}, {"temperature"}, set(), set()]
        server.refuses = {"messages": "temperature is fine, messages are not"}
        with pytest.raises(errors.WriterFailed, match="messages are not"):
            await write(question(temperature=0.7))


@pytest.mark.parametrize(
    ("end", "words"),
    [("", "broke off"), ('data: {"error": {"message": "tired"}}\n\n', "tired"), ("data: {\n\n", "not a JSON object")],
)
async def test_a_compatible_stream_that_ends_badly(end: str, words: str) -> None:
    async with compatible(model="x") as (server, _, write):
        server.end = end
        with pytest.raises(errors.WriterFailed, match=words):
            await write()


async def test_a_compatible_server_is_asked_again_for_json() -> None:
    async with compatible(model="x") as (server, writer, write):
        server.pieces = ["a fox in ", "the snow"]
        written = await write()
        assert (written.prompt, written.is_plain) == ("a fox in the snow", True)
        assert len(server.asked) == 2
        assert [model.name for model in await writer.models()] == ["qwen", "other"]


# An address


@pytest.mark.parametrize(
    ("answer", "negative"),
    [
        ('{"prompt": "a fox", "negative": "text"}', "text"),
        ('{\n  "STATUS": "success",\n  "positive_prompt": "a fox",\n  "negative_prompt": "text"\n}', "text"),
        ("a fox", ""),
    ],
)
async def test_an_address_is_asked_in_both_shapes(answer: str, negative: str) -> None:
    asked: list[Any] = []

    async def flow(request: web.Request) -> web.Response:
        asked.append((request.path_qs, request.headers.get("Authorization"), await request.json()))
        return web.Response(text=answer)

    heard: list[str] = []
    async with serving(flow) as server, opened(AddressWriter(server.url("/prompt?a=b"), key="k")) as write:
        written = await write(question(images=(JPEG,)), heard.append)
    assert (written.prompt, written.negative, heard) == ("a fox", negative, ["a fox"])
    ((path, key, body),) = asked
    assert (path, key) == ("/prompt?a=b", "Bearer k")
    assert (body["id"], body["idea"], body["style"], body["profile"]) == ("q1", "a fox", "woodcut", "sd")
    assert body["image_description"] == {"description": "a fox", "visualCue": "woodcut", "moodCue": ""}
    assert body["images"][0].startswith("/9j/")


async def test_an_address_that_fails_is_told() -> None:
    async def flow(request: web.Request) -> web.Response:
        return web.json_response({"STATUS": "generation failed - no Ollama"}, status=int(request.query["status"]))

    async def elsewhere(request: web.Request) -> web.Response:
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/page"}, text="Moved")
        return web.Response(text="<!DOCTYPE html><html>Node-RED</html>", content_type="text/html")

    async with serving(flow) as server:
        for status in (200, 500):
            async with opened(AddressWriter(server.url(f"/?status={status}"))) as write:
                with pytest.raises(errors.WriterFailed, match="no Ollama"):
                    await write()
    async with serving(elsewhere) as server:
        for path, words in (("/moved", "302"), ("/page", "web page")):
            async with opened(AddressWriter(server.url(path))) as write:
                with pytest.raises(errors.WriterFailed, match=words):
                    await write()
    async with opened(AddressWriter(f"http://127.0.0.1:{free_port()}/")) as write:
        with pytest.raises(errors.WriterOffline, match="cannot be reached"):
            await write()


# A topic


async def test_a_flow_is_not_asked_while_the_broker_is_away() -> None:
    sent: list[Message] = []
    writer = MqttWriter(
        Topics("comfyui"), lambda message, _: sent.append(message), connected=lambda: bool(sent), time_limit=1.0
    )
    async with opened(writer) as write:
        with pytest.raises(errors.WriterOffline, match="broker"):
            await write()
    assert not sent


async def test_an_answer_that_comes_too_late_is_told() -> None:
    sent: list[Message] = []
    writer = MqttWriter(
        Topics("comfyui"), lambda message, _: sent.append(message), connected=lambda: True, time_limit=1.0
    )
    async with opened(writer) as write:
        task = asyncio.create_task(write())
        await until(lambda: sent)
        (asked,) = sent
        assert asked.response_topic == "comfyui/prompting/response/q1"
        assert asked.correlation == b"q1"
        assert await writer.answer("q1", b'{"prompt": "a fox"}') == {"id": "q1"}
        with pytest.raises(errors.UnknownIdea, match="q1"):
            await writer.answer("q1", b"an owl")
        assert (await task).prompt == "a fox"
        for answer in (b"\xff", b'{"prompt"'):
            with pytest.raises(errors.BadPayload):
                await writer.answer("q1", answer)

"""`comfy-bridge submit`: run a workflow on the running bridge, see it progress, write its files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from pathlib import Path
from typing import Any

from bridge.cli import process
from bridge.cli.arguments import Options
from bridge.cli.files import check_folder, write_outputs
from bridge.cli.progress import Display
from bridge.cli.remote import Disconnected, Reconnected, Remote, remote
from bridge.cli.submission import Run, Submission, subscriptions
from bridge.cli.terminal import Failure, complain, printable
from bridge.cli.wire import outputs_of, why
from bridge.media import kinds
from bridge.settings import Settings
from bridge.workflow.graph import slug

_ONLINE = 3.0
"""Seconds in which a running bridge has said that it is online: its state is retained."""
_ANSWER = 30.0
_GOODBYE = 3.0


def main(options: Options) -> int:
    """Queue the workflow, wait, write."""
    settings = process.settings_of(options)
    process.set_up_client_log(options, settings.log)
    workflow = slug(options.name.removesuffix(".json").replace("/", "-").replace("\\", "-"))
    if not workflow:
        raise Failure(f"{options.name!r} is not the name of a workflow")
    check_folder(options.out)
    command: dict[str, Any] = {"values": {key: _value(key, text) for key, text in options.values}}
    if options.count > 1:
        command["count"] = options.count
    return process.run(_Submit(options, settings, workflow, command).run())


def _value(key: str, text: str) -> Any:
    """Return what a `--set` sends: the text, or what `@FILE` holds."""
    if not text.startswith("@"):
        return text  # the bridge reads numbers and switches in texts
    if text.startswith("@@"):
        return text[1:]
    try:
        data = Path(text[1:]).read_bytes()
    except OSError as error:
        raise Failure(f"--set {key}: {text[1:]} cannot be read: {error.strerror or error}") from None
    if kinds.image_type(data) is not None:
        return {"base64": base64.b64encode(data).decode()}
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise Failure(f"--set {key}: {text[1:]} is neither a picture nor text in UTF-8") from None


class _Submit:
    """One submission from its command to its files."""

    def __init__(self, options: Options, settings: Settings, workflow: str, command: dict[str, Any]) -> None:
        self._out: Path = options.out
        self._timeout: float | None = options.timeout
        self._as_json: bool = options.json
        self._settings = settings
        self._transaction = f"submit-{secrets.token_hex(8)}"
        self._command = {**command, "transaction": self._transaction}
        self._workflow = workflow
        self._submission = Submission(settings.mqtt.base_topic, workflow, self._transaction)
        self._written: set[str] = set()
        self._failed = False
        self._questions = 0
        self._sent = False

    async def run(self) -> int:
        """Return the exit code. Raises Failure."""
        async with remote(self._settings.mqtt, "submit", subscriptions(self._workflow)) as bridge:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._online(bridge)
                    self._send(bridge)
                    await self._answered(bridge)
                    with Display(self._workflow) as display:
                        await self._ended(bridge, display)
            except TimeoutError:
                await self._interrupt(bridge)
                raise Failure(f"not finished within {self._timeout:g} s: interrupted") from None
            except asyncio.CancelledError:
                if await self._interrupt(bridge):
                    complain(f"{self._workflow}: interrupted")
                raise
        return 1 if self._failed else 0

    async def _online(self, bridge: Remote) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ONLINE):
                while not self._submission.online:
                    await self._next(bridge)
                return
        said = "is not there" if self._submission.online is None else "is offline"
        raise Failure(
            f"the bridge {said} at {bridge.where}: start it with `comfy-bridge run` (or `demo`), "
            "or name its broker with --mqtt-url"
        )

    def _send(self, bridge: Remote) -> None:
        self._sent = True
        bridge.send(f"workflow/{self._workflow}/queue", self._command)

    async def _answered(self, bridge: Remote) -> None:
        await bridge.sent(_ANSWER)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER):
                while not self._submission.answered:
                    await self._next(bridge)
        refusal = self._submission.refusal
        if refusal is not None:
            raise Failure(printable(str(refusal.get("error") or "the bridge refused the command without a reason")))
        if not self._submission.answered:
            raise Failure(
                f"the bridge at {bridge.where} did not answer; may this user publish commands and read answers?"
            )

    async def _ended(self, bridge: Remote, display: Display) -> None:
        for run in self._submission.runs.values():
            display.show(run, self._submission)
        while True:
            for run in list(self._submission.runs.values()):
                if run.result is not None and run.id not in self._written:
                    self._written.add(run.id)
                    await self._write(run, display)
            if not self._submission.open:
                return
            run_or_none = await self._next(bridge, display)
            if run_or_none is not None:
                display.show(run_or_none, self._submission)

    async def _next(self, bridge: Remote, display: Display | None = None) -> Run | None:
        happening = await bridge.next()
        was_online = self._submission.online
        if isinstance(happening, Disconnected):
            if display is not None:
                display.note(f"lost the broker: {happening.reason}; waiting for it")
            return None
        if isinstance(happening, Reconnected):
            self._ask(bridge)
            return None
        run = self._submission.feed(happening)
        if was_online is not self._submission.online:
            if self._submission.online:
                self._ask(bridge)
            elif display is not None and was_online:
                display.note("the bridge is offline; waiting for it")
        return run

    def _ask(self, bridge: Remote) -> None:
        """After an absence: what was published meanwhile did not come, so how the jobs stand is asked."""
        if self._sent and not self._submission.answered:
            self._send(bridge)  # the transaction keeps it from being run twice
        for run in self._submission.open:
            self._questions += 1
            transaction = f"{self._transaction}/{run.id}/{self._questions}"
            bridge.send("bridge/request/job", {"prompt_id": run.id, "transaction": transaction})

    async def _write(self, run: Run, display: Display) -> None:
        result = run.result or {}
        limit = self._settings.media.max_output
        paths, problems = await write_outputs(self._out, result, run.outputs, max_bytes=limit)
        run.outputs.clear()
        reason = why(result)
        if run.status != "completed":
            self._failed = True
            problems.insert(0, f"{run.status}{': ' if reason else ''}{reason}")
        elif reason:
            problems.insert(0, reason)
        self._failed = self._failed or len(paths) < len(outputs_of(result))
        for problem in problems:
            display.note(f"{self._workflow} {run.id[:8]}: {problem}")
        if self._as_json:
            display.out(json.dumps({**result, "files": [str(path) for path in paths]}, ensure_ascii=False))
            return
        for entry in result.get("text") or ():
            if isinstance(entry, dict):
                display.out(str(entry.get("text", "")))
        for path in paths:
            display.out(str(path))

    async def _interrupt(self, bridge: Remote) -> bool:
        """End what we have started, and tell whether there was anything.

        An answer that is on its way is waited for, since it names the jobs.
        """
        if self._submission.refusal is not None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                while not self._submission.answered and self._submission.online:
                    await self._next(bridge)
        for run in self._submission.open:
            bridge.send("interrupt", {"prompt_id": run.id})
        if self._submission.open and not await bridge.sent(_GOODBYE):
            complain("the interrupt did not get through: the jobs go on")
            return False
        return bool(self._submission.open)

"""How a submission goes on, shown on standard error: bars on a terminal, else a line for each change."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from bridge.cli.submission import Run, Submission
from bridge.cli.terminal import complain, printable, say


class Display:
    """Within the block: one bar for the node at work and one for all. What is for scripts goes to standard output."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(stderr=True)
        self._last: dict[str, str] = {}
        self._bars: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                console=self._console,
                redirect_stdout=False,
            )
            self._node = self._bars.add_task("", total=None)
            self._all = self._bars.add_task(title, total=100.0)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, run: Run, submission: Submission) -> None:
        """Show where a job stands."""
        if self._bars is None:
            if self._last.get(run.id) != run.status:
                self._last[run.id] = run.status
                complain(f"{self._title} {run.id[:8]}: {run.status}")
            return
        count, done = len(submission.runs), len(submission.runs) - len(submission.open)
        title = self._title if count == 1 else f"{self._title} {done}/{count}"
        self._bars.update(self._all, description=title, completed=submission.percent)
        if run.result is None:
            words = run.node if run.node and run.status == "running" else run.status
            if run.status == "queued" and run.position is not None:
                words = f"queued, position {run.position}"
            known = run.steps > 0
            self._bars.update(
                self._node,
                description=printable(words),
                total=run.steps if known else None,
                completed=run.step if known else 0,
            )
        elif not submission.open:
            self._bars.update(self._node, description=run.status, total=1, completed=1, refresh=True)

    def note(self, text: str) -> None:
        """Say something to the person."""
        if self._bars is None:
            complain(printable(text))
        else:
            self._console.print(Text(printable(text)), soft_wrap=True)

    def out(self, text: str) -> None:
        """Write a line to standard output, above the bars where both are on the same terminal."""
        if self._bars is not None and sys.stdout.isatty():
            self._console.print(Text(printable(text)), soft_wrap=True)
        else:
            say(text)

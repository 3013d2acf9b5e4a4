"""What the command line writes: lines, columns, and nothing that could change the terminal. Imports next to nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence


class Failure(Exception):
    """A command failed; the message is a sentence for the person who typed it."""


def say(text: str = "") -> None:
    """Write a line to standard output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """Return a text from outside without control characters, which could do things to a terminal, in one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines of aligned columns; the last column is as wide as it likes."""
    table = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]) - 1)] if table else []
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in table
    ]


def size(count: int) -> str:
    """Return a number of bytes for people: `912 bytes`, `41 kB`, `3.2 MB`."""
    if count < 1000:
        return f"{count} bytes"
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1_000_000:.1f} MB"

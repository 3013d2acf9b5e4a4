"""The text of ideas that are being written, for server-sent events."""

from __future__ import annotations

import asyncio

from bridge import events


class Reader:
    """Takes the pieces of one idea from its opening on; until `idea` is known, those of any."""

    def __init__(self) -> None:
        self.idea: str | None = None
        self._pieces: list[tuple[str, str]] = []
        self._so_far: dict[str, str] = {}
        self._news = asyncio.Event()

    def put(self, event: events.PromptText) -> None:
        """Take a piece."""
        if self.idea in {None, event.idea_id}:
            self._pieces.append((event.idea_id, event.text))
            self._so_far[event.idea_id] = event.so_far
            self._news.set()

    def take(self) -> tuple[str, str] | None:
        """Return what came since the last call, joined, and the prompt so far; None for nothing.

        So a slow reader gets fewer and longer pieces, and what is held is bounded by what a model may write.
        """
        texts = [text for idea, text in self._pieces if idea == self.idea]
        self._pieces.clear()
        self._news.clear()
        return ("".join(texts), self._so_far[self.idea]) if texts and self.idea is not None else None

    async def wait(self) -> None:
        """Wait until there is something to take."""
        await self._news.wait()


class Texts:
    """Hands the pieces to the readers. `listen` is for the hub."""

    def __init__(self) -> None:
        self._readers: set[Reader] = set()

    def opened(self) -> Reader:
        """Return a reader; `close` it."""
        reader = Reader()
        self._readers.add(reader)
        return reader

    def close(self, reader: Reader) -> None:
        """Give it no more."""
        self._readers.discard(reader)

    def listen(self, event: events.Event) -> None:
        """Take an event."""
        if isinstance(event, events.PromptText):
            for reader in self._readers:
                reader.put(event)

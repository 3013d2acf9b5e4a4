"""What the log of the process lets through."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from bridge.cli.process import set_up_log
from bridge.settings import LogSettings

NAMES = ("", "bridge", "httpcore", "httpx", "stamina")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    handlers, levels = logging.root.handlers[:], {name: logging.getLogger(name).level for name in NAMES}
    yield
    logging.root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    ("level", "spoken"),
    [
        ("info", {"bridge.core": "INFO", "watchfiles.main": "WARNING", "httpx": "WARNING", "stamina": "ERROR"}),
        ("debug", {"bridge.core": "DEBUG", "watchfiles.main": "INFO", "httpx": "WARNING", "stamina": "ERROR"}),
        ("error", {"bridge.core": "ERROR", "watchfiles.main": "ERROR", "httpx": "ERROR", "stamina": "ERROR"}),
    ],
)
def test_of_libraries_only_what_they_warn_of(level: str, spoken: dict[str, str]) -> None:
    set_up_log(LogSettings.model_validate({"level": level}))
    for name, least in spoken.items():
        assert logging.getLevelName(logging.getLogger(name).getEffectiveLevel()) == least, name

"""The words of a command that the settings name."""

from __future__ import annotations

import sys

import pytest

from bridge.command_line import split
from bridge.errors import SettingsError


@pytest.mark.skipif(sys.platform == "win32", reason="quotes are another matter there")
def test_quotes_hold_words_together() -> None:
    assert split("python 'my main.py' --port 8188", setting="x") == ["python", "my main.py", "--port", "8188"]


def test_on_windows_a_backslash_parts_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    words = split(r'"C:\Program Files\ComfyUI\python.exe" -s main.py', setting="x")
    assert words == [r"C:\Program Files\ComfyUI\python.exe", "-s", "main.py"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python 'main.py", "x is no command line: no closing quotation"),
        (" ", "x is empty"),
    ],
)
def test_what_is_none_is_told_by_the_name_of_the_setting(command: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        split(command, setting="x")

"""Commands that the settings name (`comfyui.command`, `mqtt.broker_command`), as the words to run."""

from __future__ import annotations

import shlex
import sys

from bridge.errors import SettingsError


def split(command: str, *, setting: str) -> list[str]:
    """Return the words of a command line, at least one, quoted as the system's shell has it. Raises SettingsError."""
    try:
        if sys.platform == "win32":  # a backslash parts folders there
            words = [word.strip('"') for word in shlex.split(command, posix=False)]
        else:
            words = shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"{setting} is no command line: {str(error).lower()}") from None
    if not words:
        raise SettingsError(f"{setting} is empty; leave it out, or name a command")
    return words

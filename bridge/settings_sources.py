"""Where settings come from besides the command line, and what is said of wrong ones.

A wrong key or value makes one line, and an unknown key is answered with the nearest right one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource

from bridge.complaints import complaint
from bridge.errors import SettingsError

_PREFIX = "BRIDGE_"
_SECRETS = ("password", "token", "secret", "api_key")


def read_file(config: Path | None) -> dict[str, Any]:
    """Return what a TOML file says; None: `config.toml` in the working directory, if there. Raises SettingsError."""
    path = config or Path("config.toml")
    try:
        text = path.read_text(encoding="utf-8-sig")  # an editor of Windows may begin a file with a mark
    except FileNotFoundError:
        if config is None:
            return {}
        raise SettingsError(f"the settings file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of the environment, from a given mapping."""

    def __init__(self, settings: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str]:
        return {key.lower(): value for key, value in self._environ.items()}


def read_environment(settings: type[BaseSettings], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what the variables `BRIDGE_<SECTION>__<KEY>` say, nested as in the file. Raises SettingsError.

    An empty one says nothing: what starts programs often passes on variables that nobody has set.
    """
    # pydantic-settings ignores a variable whose section or key it does not know: a typing error would go unseen.
    unknown = []
    for name in environ:
        if not name.upper().startswith(_PREFIX):
            continue
        section, _, key = name[len(_PREFIX) :].lower().partition("__")
        if section not in settings.model_fields:
            near = _nearest(section, settings.model_fields)
            unknown.append(f"{name}: there is no section {section!r}{near}; the form is BRIDGE_<SECTION>__<KEY>")
        elif not key:
            unknown.append(f"{name}: the form is BRIDGE_{section.upper()}__<KEY>")
    if unknown:
        raise SettingsError("\n".join(unknown))
    return dict(_Environment(settings, {name: value for name, value in environ.items() if value})())


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay `over` over `base`, table by table; `over` stays as it is."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def sentence(settings: type[BaseSettings], error: ErrorDetails) -> str:
    """Return the line about a wrong key: which, why, and its value where that can be no secret."""
    path = [str(part) for part in error["loc"]]
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such setting{_nearest(path[-1], _keys_beside(settings, path))}"
    message = complaint(error)
    # A whole table may hold a password, and so may an address.
    is_table = isinstance(error["input"], (list, tuple, dict))
    if is_table or any(word in part for part in path for word in _SECRETS):
        return f"{where}: {message}"
    shown = re.sub(r"//[^/\s]*@", "//…@", repr(error["input"]))
    return f"{where}: {message} (it is {shown})"


def _keys_beside(settings: type[BaseSettings], path: Sequence[str]) -> Iterable[str]:
    fields = settings.model_fields
    table: type[BaseModel] | None = None
    for part in path[:-1]:
        if table is not None:  # the name of an entry, chosen by the user
            fields, table = table.model_fields, None
            continue
        annotation = fields[part].annotation if part in fields else None
        if get_origin(annotation) is dict:
            table = get_args(annotation)[1]
            continue
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ()
        fields = annotation.model_fields
    return fields


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""

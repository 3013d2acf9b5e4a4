"""Profiles: ways of asking a writer, built in (`sd`, `flux`) and from the settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bridge.errors import BadValue, SettingsError
from bridge.prompting.systems import FLUX, SD
from bridge.settings import OllamaProfile, OllamaSettings

if TYPE_CHECKING:
    from jinja2 import Template

SD_LIKE, FLUX_LIKE = "sd", "flux"


@dataclass(frozen=True, slots=True)
class Profile:
    """A way of asking.

    system: a jinja2 template; it knows `idea`, `style`, `negative`, `images` (how many) and `profile`. negative: words
    that every negative prompt of it holds. options: Ollama's. None leaves a thing to the writer.
    """

    name: str
    system: str
    model: str | None = None
    temperature: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    style: str = ""
    negative: str = ""
    think: bool | str | None = None


_BUILT_IN = {
    SD_LIKE: Profile(SD_LIKE, SD, temperature=0.7),
    FLUX_LIKE: Profile(FLUX_LIKE, FLUX, temperature=0.7),
}


class Profiles:
    """Every profile by its name. `check` first: a template that is wrong shows there."""

    def __init__(self, settings: OllamaSettings) -> None:
        self._own_system = settings.system
        self._default = settings.profile
        self._profiles = dict(_BUILT_IN)
        for name, given in settings.profiles.items():
            self._profiles[name] = _profile(name, given, _BUILT_IN.get(name), settings.system)
        self._templates: dict[str, Template] = {}

    def names(self) -> list[str]:
        """Return the names of all profiles."""
        return sorted(self._profiles)

    def check(self) -> None:
        """Raise SettingsError for a default that is not there, and for a template that cannot be filled in."""
        if self._default is not None and self._default not in self._profiles:
            raise SettingsError(f"ollama.profile: there is no profile {self._default!r}; {self._choice()}")
        built_in = {profile.system for profile in _BUILT_IN.values()}
        for profile in (*self._profiles.values(), self.choose(None, suggested=SD_LIKE)):
            if profile.system in built_in:  # these are tested; most starts need no template at all
                continue
            try:
                self.system(profile, idea="a fox", style="", negative="", images=0)
            except BadValue as error:
                raise SettingsError(f"ollama.profiles.{profile.name}.system: {error.message}") from None

    def choose(self, name: str | None, *, suggested: str) -> Profile:
        """Return a profile; without a name that of the settings, and without one there the suggested.

        Raises BadValue for a name that there is not.
        """
        if name is not None:
            if name not in self._profiles:
                raise BadValue(f"profile: there is no profile {name!r}; {self._choice()}")
            return self._profiles[name]
        profile = self._profiles[self._default or suggested]
        if self._own_system is not None and profile.system == getattr(_BUILT_IN.get(profile.name), "system", None):
            return replace(profile, system=self._own_system)
        return profile

    def system(self, profile: Profile, *, idea: str, style: str, negative: str, images: int) -> str:
        """Return the finished system prompt. Raises BadValue if the template fails."""
        from jinja2 import StrictUndefined, TemplateError  # noqa: PLC0415  30 ms at a start that may need no prompt
        from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415

        try:
            template = self._templates.get(profile.system)
            if template is None:
                # The template is for a model, not for a page: nothing is to be escaped.
                environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=False, autoescape=False)
                template = self._templates[profile.system] = environment.from_string(profile.system)
            return template.render(
                idea=idea, style=style, negative=negative, images=images, profile=profile.name
            ).strip()
        except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise BadValue(f"the template fails: {str(error) or type(error).__name__}; it knows {_VARIABLES}") from None

    def _choice(self) -> str:
        return f"there are {', '.join(self.names())}"


_VARIABLES = "idea, style, negative, images and profile"


def _profile(name: str, given: OllamaProfile, built_in: Profile | None, own_system: str | None) -> Profile:
    """Return a profile of the settings: over the built-in one of its name, or else over `sd`."""
    base = built_in or replace(_BUILT_IN[SD_LIKE], name=name, system=own_system or SD)
    changes: dict[str, Any] = {
        key: value
        for key, value in (
            ("system", given.system),
            ("model", given.model),
            ("temperature", given.temperature),
            ("style", given.style),
            ("negative", given.negative),
            ("think", given.think),
        )
        if value is not None
    }
    return replace(base, **changes, options={**base.options, **given.options})

"""Every setting, once: defaults, then `config.toml`, then environment `BRIDGE_<SECTION>__<KEY>`, then the command line.

`load()` is the one way in.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.errors import SettingsError
from bridge.settings_sources import merge, read_environment, read_file, sentence

MEGABYTE = 1_000_000


def _http_url(value: str) -> str:
    if not re.match(r"https?://[^/\s]+", value):
        raise ValueError("must be an address such as http://127.0.0.1:8188")
    return value.rstrip("/")


def _different(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("must be different addresses; one stands here twice")
    return value


def _mqtt_url(value: str) -> str:
    if value != "embedded" and not re.match(r"(mqtts?|wss?)://[^/\s]+", value):
        raise ValueError('must be an address such as mqtt://127.0.0.1:1883 (mqtts://, ws://, wss://), or "embedded"')
    return value


def _base_topic(value: str) -> str:
    value = value.strip("/")
    if not value or re.search(r"[+#\s\x00]|//", value):
        raise ValueError("must be a topic without spaces, wildcards (+ #) and empty levels")
    return value


def _writer(value: str) -> str:
    if value in {"ollama", "mqtt"}:
        return value
    if not re.match(r"(openai:)?https?://[^/\s]+", value):
        raise ValueError('must be "ollama", "mqtt", an address (http://…), or "openai:" before an address')
    return value.rstrip("/")


def _duration(value: object) -> object:
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            return float(text)
        if not re.fullmatch(r"-?(\d+(\.\d+)?(ms|s|m|h))+", text):
            raise ValueError("must be seconds, or a text such as 5m, 1h30m or -1")
        return text
    return value


def _words(value: object) -> object:
    return ", ".join(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value


def _listed(value: object) -> object:
    """A list in the environment: `a,b` or JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _commands(value: object) -> object:
    """One command, or a list; in the environment a list is JSON."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else (value,)


def _not_empty(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().strip():
        raise ValueError("must not be empty; leave it out to have none")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
HttpUrls = Annotated[tuple[HttpUrl, ...], BeforeValidator(_listed), AfterValidator(_different)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Key = Annotated[SecretStr, AfterValidator(_not_empty)]
"""What lets somebody in: an empty one would let in everybody."""
Words = Annotated[str, BeforeValidator(_words)]
"""Words parted by commas; a list is taken too."""


class Section(BaseModel):
    """A table of the settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ComfyUISettings(Section):
    """The ComfyUI servers."""

    urls: HttpUrls = Field(("http://127.0.0.1:8188",), min_length=1)
    stall_timeout: float = Field(600.0, gt=0)
    """Seconds without any sign of life of a running prompt."""
    depth: int = Field(2, ge=1)
    """Prompts of ours inside one server."""
    previews: bool = True
    command: Annotated[tuple[str, ...], BeforeValidator(_commands)] = ()
    """Start and watch ComfyUI with this command: one for each of `urls`, in that order; empty: not ours to start."""
    warmup: str | None = None
    """Name of a workflow that runs once before `online`."""
    models_dir: Path | None = None
    input_dir: Path | None = None

    @field_validator("command")
    @classmethod
    def _one_for_each_url(cls, command: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        urls = info.data.get("urls", command)
        if len(command) > len(urls):
            raise ValueError(f"must be at most one for each of comfyui.urls: {len(command)}, and of those {len(urls)}")
        return command


class MqttSettings(Section):
    """The broker, and how we speak to it."""

    url: Annotated[str, AfterValidator(_mqtt_url)] = "mqtt://127.0.0.1:1883"
    embedded_port: int = Field(1883, ge=1, le=65535)
    embedded_host: str = "127.0.0.1"
    broker_command: str | None = None
    """What serves as embedded broker instead of the built-in one: `mosquitto`, or a command with {port} and {data}."""
    base_topic: Annotated[str, AfterValidator(_base_topic)] = "comfyui"
    client_id: str | None = None
    """Default: comfy-bridge-<host>-<base topic>."""
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password: SecretStr | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    session: Literal["clean", "durable"] = "clean"
    keepalive: int = Field(30, ge=2, le=65535)
    outbox_bytes: int = Field(64 * MEGABYTE, ge=MEGABYTE)
    """What waits for a broker that is away; beyond it the oldest output bytes are dropped, never a status or result."""
    max_output: int = Field(64 * MEGABYTE, ge=0)
    """Outputs above this size are not published as bytes (their address is in the result)."""
    max_retained_image: int = Field(8 * MEGABYTE, ge=0)
    """Upper size of the retained `workflow/<w>/image`."""
    previews_per_second: float = Field(4.0, gt=0)
    """Upper rate of `workflow/<w>/preview`; `prompt/<id>/preview` has none."""
    progress_per_second: float = Field(5.0, gt=0)
    """Upper rate of `workflow/<w>/progress`."""


class WorkflowSettings(Section):
    """The folder of workflows."""

    dir: Path = Path("workflows")
    chains: Path = Path("flows/chains")
    """The folder of chains."""
    loaded: str | None = None
    """The workflow that bare commands act on; none: the one that was loaded last, else the first by name."""
    watch: bool = True


class JobSettings(Section):
    """The queue."""

    attempts: int = Field(3, ge=1)
    max_waiting: int = Field(10_000, ge=1)
    max_batch: int = Field(1_000, ge=1)


class HttpSettings(Section):
    """The HTTP face."""

    host: str = "127.0.0.1"
    port: int = Field(8189, ge=0, le=65535)
    token: Key | None = None
    """Asked of every request but `/health`; needed as soon as `host` is not loopback."""
    allow_anonymous: bool = False
    """Listen beyond loopback without a token."""
    public_url: HttpUrl | None = None
    """What others reach us under: the addresses of outputs begin with it. Default: http://<host>:<port>."""
    hosts: Names = ()
    """Names that requests may come under besides loopback, `host` and addresses in numbers; `*`: any."""
    cors: Names = ()
    """Origins (`https://example.org`) whose pages may call us; `*`: any."""
    max_body: int = Field(100 * MEGABYTE, ge=1)
    """Upper size of a request."""
    runner_timeout: float = Field(300.0, gt=0)
    """Seconds that the runner's `GET /queue` waits for its picture."""
    wrapper_max_inline: int = Field(10 * 1024 * 1024, ge=0)
    """Larger outputs are not put into the wrapper's results as base64; their address is there."""


class RelaySettings(Section):
    """The websocket relay."""

    port: int = Field(8190, ge=0, le=65535)


class StoreSettings(Section):
    """Where jobs, values and media are kept."""

    url: str = Field("sqlite:///comfy-bridge.db", pattern=r"^(sqlite:///.+|nats://.+)$")
    keep: float = Field(7 * 86400.0, gt=0)
    """Seconds that results and rows stay."""


class OllamaProfile(Section):
    """A way of asking a prompt writer; what is left out comes from the built-in profile of the name, or from `sd`."""

    model: str | None = None
    system: str | None = None
    """A jinja2 template; it knows idea, style, negative, images (how many) and profile."""
    temperature: float | None = None
    options: dict[str, Any] = {}
    """Ollama's options, such as num_ctx."""
    style: Words | None = None
    """Style words for an idea that brings none of its own."""
    negative: Words | None = None
    """What every negative prompt of this profile holds."""
    think: bool | Literal["low", "medium", "high"] | None = None
    """Whether a model that can think before it answers does; none: as the model is made."""


class OllamaSettings(Section):
    """The Ollama server."""

    url: HttpUrl = "http://127.0.0.1:11434"
    model: str | None = None
    """None: the first that Ollama lists."""
    vision_model: str | None = None
    """The model for ideas with pictures. None: `model`, else the first that Ollama lists as able to see."""
    keep_alive: Annotated[float | str, BeforeValidator(_duration)] = 0.0
    """How long the model stays loaded, in seconds or as `5m`. Left out, it is 0 where ComfyUI may be on the same
    machine, and otherwise Ollama's own."""
    profile: str | None = None
    """The profile of ideas that name none. None: `flux` for a workflow that reads sentences, else `sd`."""
    system: str | None = None
    """The system prompt of profiles that have none of their own."""
    free_comfyui: bool = False
    """Have ComfyUI unload its models before Ollama is asked."""
    profiles: dict[str, OllamaProfile] = {}


class PromptingSettings(Section):
    """Who writes prompts."""

    writer: Annotated[str, AfterValidator(_writer)] = "ollama"
    """`ollama`; `mqtt`, a flow that answers `prompting/request`; `http://…`, an address that takes POST; or
    `openai:http://…`, a server with /v1/chat/completions."""
    timeout: float = Field(60.0, gt=0)
    """Seconds that the writing of one prompt may take, with the loading of the model."""
    max_waiting: int = Field(100, ge=1)
    """How many ideas may wait."""
    model: str | None = None
    """The model of an OpenAI-compatible server. None: the first that it lists."""
    api_key: Key | None = None
    """Sent to an OpenAI-compatible server, or to the http address, as bearer token."""


class HomeAssistantSettings(Section):
    """MQTT discovery."""

    discovery: bool = True
    prefix: Annotated[str, AfterValidator(_base_topic)] = "homeassistant"
    """The topic below which Home Assistant looks."""


class WebhookSettings(Section):
    """Messages to addresses of others."""

    secret: SecretStr | None = None


class SecuritySettings(Section):
    """What addresses from outside may point to."""

    allowed_hosts: Names = ()
    """Host names, addresses and networks (192.168.1.0/24) besides public ones."""


class MediaSettings(Section):
    """Images and files on their way in and out."""

    max_input: int = Field(50 * MEGABYTE, ge=1)
    """Upper size of an image that is set."""
    max_output: int = Field(512 * MEGABYTE, ge=1)
    """Upper size of an output that is fetched."""
    fetch_timeout: float = Field(30.0, gt=0)
    """Seconds for the download of an address."""


class DeliverySettings(Section):
    """Where outputs go besides the faces."""


class LogSettings(Section):
    """The log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(BaseSettings):
    """Every setting of the bridge. Build it with `load`."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="BRIDGE_", env_nested_delimiter="__", enable_decoding=False
    )

    comfyui: ComfyUISettings = ComfyUISettings()
    mqtt: MqttSettings = MqttSettings()
    workflows: WorkflowSettings = WorkflowSettings()
    node_mappings: dict[str, str | int | dict[str, str | int]] = {}
    jobs: JobSettings = JobSettings()
    http: HttpSettings = HttpSettings()
    relay: RelaySettings = RelaySettings()
    store: StoreSettings = StoreSettings()
    ollama: OllamaSettings = OllamaSettings()
    prompting: PromptingSettings = PromptingSettings()
    homeassistant: HomeAssistantSettings = HomeAssistantSettings()
    webhooks: WebhookSettings = WebhookSettings()
    security: SecuritySettings = SecuritySettings()
    media: MediaSettings = MediaSettings()
    delivery: DeliverySettings = DeliverySettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep to one source: `load` has merged the others, so that their order is in one place."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    def mappings_for(self, workflow: str, *, loaded: bool) -> dict[str, str]:
        """`node_mappings` of a workflow: its own table, over the plain keys when it is the loaded one."""
        merged: dict[str, str] = {}
        if loaded:
            merged |= {key: str(value) for key, value in self.node_mappings.items() if not isinstance(value, dict)}
        table = self.node_mappings.get(workflow)
        if isinstance(table, dict):
            merged |= {key: str(value) for key, value in table.items()}
        return merged


def load(
    *,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings: file, environment, overrides (nested like the file; the command line's); later wins.

    config: a TOML file that must exist; None: `config.toml` in the working directory, if there.
    Raises SettingsError with a line for each wrong key.
    """
    merged = read_file(config)
    merge(merged, read_environment(Settings, os.environ if environ is None else environ))
    merge(merged, overrides or {})
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError("\n".join(sentence(Settings, one) for one in error.errors())) from None

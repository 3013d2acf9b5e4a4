"""The files around the package say what is true: settings, dependencies, compose file, documents, scripts."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from bridge import errors
from bridge.http.app import ROUTERS
from bridge.mqtt.topics import Topics
from bridge.settings import Settings, load

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return table


def requirements() -> list[Requirement]:
    extras = [line for lines in project()["optional-dependencies"].values() for line in lines]
    found = [Requirement(line) for line in [*project()["dependencies"], *extras]]
    return [one for one in found if one.name != project()["name"]]


# config.example.toml


def settings_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from settings_keys(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.get_default(call_default_factory=True)


def uncommented_example(folder: Path) -> Path:
    """The example with the # taken from every setting, as a person would."""
    path = folder / "config.toml"
    text = re.sub(r"^# (?=\[[a-z_.0-9]+\]$|[a-z_]+ = )", "", read("config.example.toml"), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_settings_change_nothing_as_they_are() -> None:
    assert load(config=ROOT / "config.example.toml", environ={}) == Settings()


def test_the_example_settings_show_every_key_with_its_default(tmp_path: Path) -> None:
    path = uncommented_example(tmp_path)
    loaded = load(config=path, environ={})
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    for key, default in settings_keys(Settings):
        shown: Any = document
        actual: Any = loaded
        for part in key.split("."):
            assert part in shown, f"config.example.toml lacks {key}"
            shown = shown[part]
            actual = getattr(actual, part)
        if default not in (None, {}):
            assert actual == default, f"config.example.toml shows another default of {key}"


# constraints.txt, docs/dependencies.md


def test_constraints_pin_every_dependency_within_its_range() -> None:
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    pins = {}
    for line in lines:
        name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line).groups()  # type: ignore[union-attr]
        pins[canonicalize_name(name)] = version
    for requirement in requirements():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_every_dependency_has_its_reason() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in read("docs/dependencies.md").splitlines()]
    explained = [row[0] for row in rows if len(row) > 1 and re.fullmatch(r"[a-z0-9-]*[a-z0-9]", row[0])]
    explained = [name for name in explained if name != "package"]
    declared = {canonicalize_name(one.name) for one in requirements()} | {"hatchling"}
    assert sorted(explained) == sorted(declared)
    assert all(row[-2] for row in rows if row and row[0] in declared)


# Types that are part of the other package's interface, and come with it.
THROUGH = {"multidict": "aiohttp", "pydantic-core": "pydantic", "starlette": "fastapi", "yarl": "aiohttp"}


def test_the_package_imports_only_what_it_declares() -> None:
    extras = project()["optional-dependencies"]
    declared = {
        canonicalize_name(Requirement(line).name)
        for line in [*project()["dependencies"], *extras["broker"], *extras["speed"], *extras["storage"]]
    }
    distributions = importlib.metadata.packages_distributions()
    for file in (ROOT / "bridge").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in {one.split(".")[0] for one in names} - sys.stdlib_module_names - {"bridge"}:
                packages = {canonicalize_name(one) for one in distributions.get(name, [name.replace("_", "-")])}
                assert packages & declared or {THROUGH.get(one) for one in packages} & declared, f"{file}: {name}"


def test_recipes_are_told_that_the_package_has_types() -> None:
    assert "Typing :: Typed" in project()["classifiers"]
    assert (ROOT / "bridge" / "py.typed").exists()


# .importlinter


def test_every_module_has_its_place_in_the_layers() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", encoding="utf-8")
    placed = set(re.findall(r"bridge[\w.]*", contracts["importlinter:contract:layers"]["layers"]))
    missing = []
    for file in sorted((ROOT / "bridge").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        names = {".".join(parts[:length]) for length in range(2, len(parts) + 1)}
        if parts[-1] != "__init__" and not names & placed:
            missing.append(".".join(parts))
    assert not missing, "each of these belongs into one line of the layers in .importlinter"


# docker-compose.yml, Dockerfile


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """What compose makes of ${NAME}, ${NAME:-default} and ${NAME:?words}."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if environment.get(name):
            return environment[name]
        assert kind == ":-", f"{name} has no default: {rest}"
        return str(rest)

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text).replace("$$", "$")


PASSWORDS = {f"MQTT_{role}_PASSWORD": f"secret-{role}" for role in ("BRIDGE", "COMMANDER", "WATCHER")}


@pytest.fixture
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(interpolated(read("docker-compose.yml"), PASSWORDS))
    return document


def test_compose_has_the_whole_house(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"passwords", "mosquitto", "bridge", "nodered", "ollama", "comfyui"}
    assert [name for name, service in services.items() if "profiles" in service] == ["comfyui"]
    for name, service in services.items():
        assert service.get("image"), name
        if service["restart"] == "no":
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        for port in service.get("ports", []):
            assert re.fullmatch(r"(?:127\.0\.0\.1:)?\d+:\d+", port), port


def test_compose_waits_only_for_services_that_are_always_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            assert "profiles" not in services[name]
            wanted = "service_completed_successfully" if services[name]["restart"] == "no" else "service_healthy"
            assert how["condition"] == wanted


def test_compose_mounts_what_exists(compose: dict[str, Any]) -> None:
    used = set()
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert volume.endswith(":ro"), volume
            else:
                used.add(source)
    assert used == set(compose["volumes"])


def test_compose_gives_the_bridge_real_settings(compose: dict[str, Any]) -> None:
    environment = compose["services"]["bridge"]["environment"]
    settings = load(environ={name: value for name, value in environment.items() if name.startswith("BRIDGE_")})
    assert settings.mqtt.url == "mqtt://mosquitto:1883"
    assert settings.mqtt.username == "bridge"
    assert settings.mqtt.password is not None
    assert settings.mqtt.password.get_secret_value() == "secret-BRIDGE"
    assert settings.comfyui.urls == ("http://host.docker.internal:8188",)
    mounts = [volume.split(":")[1] for volume in compose["services"]["bridge"]["volumes"]]
    assert settings.workflows.dir.as_posix() in mounts
    assert settings.workflows.chains.as_posix() in mounts
    assert settings.store.url.removeprefix("sqlite:///").rpartition("/")[0] in mounts


def test_compose_asks_for_the_passwords_and_says_how_to_make_them() -> None:
    for name in PASSWORDS:
        assert re.search(rf"\$\{{{name}:\?[^}}]*mosquitto/make-passwords\.sh --env", read("docker-compose.yml"))


def test_the_env_example_shows_every_variable_with_its_default() -> None:
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", read("docker-compose.yml")))
    shown = dict(re.findall(r"^#(\w+)=(.*)$", read(".env.example"), re.MULTILINE))
    assert shown == defaults
    assert not re.search(r"^[^#\n]", read(".env.example"), re.MULTILINE)


def test_the_image_is_built_from_what_its_context_holds() -> None:
    allowed = re.findall(r"^!(\S+)$", read(".dockerignore"), re.MULTILINE)
    for line in re.findall(r"^COPY (.*) \S+$", read("Dockerfile"), re.MULTILINE):
        for source in line.split():
            assert source in allowed, source
            assert (ROOT / source).exists(), source
    build = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {
        source
        for line in re.findall(r"^COPY (.*) \./?\S*$", read("Dockerfile"), re.MULTILINE)
        for source in line.split()
    }
    assert {*build["packages"], *build["force-include"], project()["readme"], *project()["license-files"]} <= copied
    for variable in re.findall(r"(BRIDGE_\w+)=(\S+)", read("Dockerfile").partition("FROM")[2]):
        load(environ=dict([variable]))


# README.md, docs/

DOCUMENTS = [
    "README.md",
    "CHANGELOG.md",
    "flows/README.md",
    "benchmarks/README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)", read(name)):
        if target.startswith("https://"):
            continue
        file, _, place = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if place else []
        assert not place or place in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, target


def test_every_setting_that_is_named_exists() -> None:
    """In the pages, and in the sentences that the code says: `(mqtt.url)`."""
    known = {key for key, _ in settings_keys(Settings)}
    sections = "|".join(name for name in Settings.model_fields if name != "node_mappings")
    named = [(name, *one) for name in DOCUMENTS for one in re.findall(rf"`(({sections})\.[a-z_]+)`", read(name))]
    for path in (ROOT / "bridge").rglob("*.py"):
        found = re.findall(rf"\((({sections})\.[a-z_]+)\)", path.read_text(encoding="utf-8"))
        named += [(path.name, *one) for one in found if path.name != "settings.py"]
    assert len(named) > 50
    for where, key, _ in named:
        assert key in known or key.endswith((".py", ".md")), f"{where}: {key}"


def test_what_is_there_to_copy_is_a_command() -> None:
    sent = {name: re.findall(r"mosquitto_(?:pub|rr -V 5) -t (comfyui/[^\s`]+)", read(name)) for name in DOCUMENTS}
    assert sent["README.md"]
    assert sent["docs/mqtt.md"]
    for name, topics in sent.items():
        for topic in topics:
            command = Topics("comfyui").parse(topic)
            assert command is not None, f"{name}: {topic}"
            assert command.kind != "unknown", f"{name}: {topic}"


def said_in_code(*names: str) -> set[str]:
    """What stands between backquotes, slashes parted."""
    spans = [span for name in names for span in re.findall(r"`([^`\n]+)`", read(name))]
    return {part for span in spans for part in (span, *re.split(r"[ /…]+", span))}


def test_every_topic_that_is_spoken_on_is_documented() -> None:
    said = said_in_code("docs/mqtt.md", "docs/prompting.md")
    calls = r"_topics\.(bridge|backend|batch|ollama|prompt|workflow)\((?:[^\"]+, )?\"([a-z/]+)\"\)"
    spoken = {
        found for path in (ROOT / "bridge/mqtt").glob("*.py") for found in re.findall(calls, path.read_text("utf-8"))
    }
    assert len(spoken) > 15
    for kind, what in spoken:
        assert {f"comfyui/{kind}/{what}", f"comfyui/{kind}/<id>/{what}"} & said or set(what.split("/")) <= said, (
            kind,
            what,
        )
    for topic in Topics("comfyui").filters():
        level = topic.removeprefix("comfyui/").replace("/+/", "/<w>/").removesuffix("/#")
        assert any(span.startswith(f"comfyui/{level}") for span in said), topic


def test_every_route_is_documented() -> None:
    written = re.sub(r"\{[a-z_]+\}", "{}", read("docs/http.md") + read("docs/peers.md"))
    for make in ROUTERS:
        for route in make(MagicMock()).routes:
            path = re.sub(r"\{[a-z_:]+\}", "{}", route.path)  # type: ignore[attr-defined]
            if route.include_in_schema:  # type: ignore[attr-defined]
                assert f"{path}`" in written or f"…/{path.rpartition('/')[2]}`" in written or f"{path}," in written, (
                    path
                )


def test_the_commander_may_send_the_commands_and_nothing_else() -> None:
    role = read("mosquitto/acl").partition("user commander")[2].partition("\nuser ")[0]
    allowed = set(re.findall(r"^topic write (\S+)$", role, re.MULTILINE))
    assert allowed == {*Topics("comfyui").filters(), "homeassistant/status"}


@pytest.mark.parametrize("page", ["docs/mqtt.md", "docs/debugging.md"])
def test_every_code_on_the_wire_is_explained(page: str) -> None:
    first = "\n".join(re.findall(r"^\|([^|]*)\|", read(page), re.MULTILINE))
    explained = set(re.findall(r"`([a-z_]+)`", first))

    def codes(kind: type[errors.BridgeError]) -> Iterator[str]:
        yield kind.code
        for child in kind.__subclasses__():
            yield from codes(child)

    # These two end the program at its start; nobody hears them on the wire.
    assert set(codes(errors.BridgeError)) - {"settings", "store"} <= explained


# Makefile, scripts/, .ci/run


def run(*command: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the project's own scripts
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_make_alone_lists_every_target() -> None:
    make = shutil.which("make")
    assert make
    shown = run(make, PATH=os.environ["PATH"])
    assert shown.returncode == 0
    targets = re.findall(r"\w+", read("Makefile").partition(".PHONY:")[2].splitlines()[0])
    assert set(re.findall(r"^make (\w+) ", shown.stdout, re.MULTILINE)) == set(targets) - {"help"}


def test_scripts_are_executable_and_well_formed() -> None:
    for name in (".ci/run", "scripts/setup.sh", "scripts/check.sh", "mosquitto/make-passwords.sh"):
        assert os.access(ROOT / name, os.X_OK), name
        shell = "bash" if "bash" in read(name).splitlines()[0] else "sh"
        path = shutil.which(shell)
        assert path
        assert run(path, "-n", name).stderr == "", name


class Checkout:
    """A checkout with the set-up script alone, and a virtual environment whose python only takes notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
        (folder / "pyproject.toml").touch()
        (folder / "constraints.txt").touch()
        self.environment = folder / "environment"
        self.log = folder / "log"
        self.program(
            "environment/bin/python",
            f'case "$*" in -c*exit*) exit 0 ;; -c*) echo 3.11.0 ;; *" install "*) echo "$*" >>"{self.log}" ;; esac',
        )

    def program(self, name: str, body: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def setup(self, what: str, **environment: str) -> subprocess.CompletedProcess[str]:
        full = {"PATH": os.environ["PATH"]} | environment
        return run("/bin/sh", "scripts/setup.sh", what, folder=self.folder, **full)

    def installed(self, what: str, environment: Path | None = None) -> str:
        """The extras that pip installs when asked for `what`; empty when there is nothing to do."""
        self.log.unlink(missing_ok=True)
        chosen = environment or self.environment
        done = self.setup(what, VIRTUAL_ENV=str(chosen))
        assert done.stdout == f"{chosen}/bin\n", done.stderr
        found = re.search(r"--editable \.\[(\w+)\]", self.log.read_text(encoding="utf-8") if self.log.exists() else "")
        return found[1] if found else ""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a checkout")


def test_set_up_installs_when_something_is_new_and_only_then(checkout: Checkout, tmp_path: Path) -> None:
    assert [checkout.installed("demo"), checkout.installed("demo")] == ["broker", ""]
    assert [checkout.installed("check"), checkout.installed("check")] == ["dev", ""]
    assert checkout.installed("demo") == ""  # dev includes it

    stamp = checkout.environment / ".comfy-bridge-setup"
    for name in ("pyproject.toml", "constraints.txt"):
        later = stamp.stat().st_mtime + 10
        os.utime(checkout.folder / name, (later, later))
        assert checkout.installed("check") == "dev"
        os.utime(stamp, (later + 10, later + 10))
        assert checkout.installed("check") == ""

    other = Checkout(tmp_path / "other")
    checkout.log.unlink(missing_ok=True)
    other.setup("check", VIRTUAL_ENV=str(checkout.environment))
    assert checkout.log.exists()
    assert checkout.installed("check") == "dev"


def test_set_up_says_that_python_is_too_old(checkout: Checkout) -> None:
    old = checkout.program("old", 'case "$*" in *exit*) exit 1 ;; *) echo 3.9.2 ;; esac')
    done = checkout.setup("demo", PYTHON=str(old))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Python 3.11 or newer is needed; {old} is 3.9.2" in done.stderr

    checkout.program("environment/bin/python", 'case "$*" in *exit*) exit 1 ;; *) echo 3.9.2 ;; esac')
    done = checkout.setup("demo", VIRTUAL_ENV=str(checkout.environment))
    assert (done.returncode, done.stdout) == (1, "")
    assert "it is 3.9.2" in done.stderr
    assert "deactivate" in done.stderr


def test_set_up_says_what_debian_needs_for_venv(checkout: Checkout) -> None:
    bare = checkout.program(
        "bare", 'case "$*" in *venv*) mkdir .venv; echo no ensurepip; exit 1 ;; *exit*) ;; *) echo 3.11.2 ;; esac'
    )
    done = checkout.setup("demo", PYTHON=str(bare))
    assert done.returncode == 1
    assert "no ensurepip" in done.stderr
    assert "apt-get install python3-venv" in done.stderr
    assert not (checkout.folder / ".venv").exists()


def tools(checkout: Checkout, *names: str) -> str:
    """A PATH with only these programs."""
    folder = checkout.folder / "tools"
    folder.mkdir()
    for name in names:
        path = shutil.which(name)
        assert path
        (folder / name).symlink_to(path)
    # The script looks into the folders of servers too, where mosquitto may be.
    script = checkout.folder / "scripts" / "setup.sh"
    script.write_text(script.read_text(encoding="utf-8").replace("/usr/local/sbin:/usr/sbin", ""), encoding="utf-8")
    return str(folder)


def test_set_up_of_the_tests_installs_programs(checkout: Checkout) -> None:
    path = tools(checkout, "dirname", "cat", "find", "env", "id")
    log = checkout.folder / "apt"
    # Fails until the index was updated, as in a fresh image; as somebody else than root it comes through sudo.
    checkout.program(
        "tools/apt-get", f'echo "$*" >>"{log}"; case "$*" in *update*) exit 0 ;; esac; grep -q update "{log}"'
    )
    (checkout.folder / "tools" / "grep").symlink_to(shutil.which("grep") or "")
    checkout.program("tools/sudo", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
    done = checkout.setup("test", PATH=path, VIRTUAL_ENV=str(checkout.environment))
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in log.read_text(encoding="utf-8").splitlines()] == [
        "install",
        "update",
        "install",
    ]
    assert "mosquitto mosquitto-clients nodejs npm chromium" in log.read_text(encoding="utf-8")

    (checkout.folder / "tools" / "apt-get").unlink()
    done = checkout.setup("test", PATH=path, VIRTUAL_ENV=str(checkout.environment))
    assert done.returncode == 1
    assert "there is no apt-get here" in done.stderr


def test_set_up_of_the_tests_installs_node_red_when_its_version_is_new(checkout: Checkout) -> None:
    programs = ("mosquitto", "mosquitto_pub", "mosquitto_passwd", "chromium")
    path = tools(checkout, "dirname", "cat", "find", "env", "id", "touch", "mkdir")
    for name in programs:
        checkout.program(f"tools/{name}", "")
    log = checkout.folder / "npm"
    checkout.program("tools/node", "")
    checkout.program("tools/npm", f'mkdir -p node_modules; echo "$PWD $*" >>"{log}"')
    package = checkout.folder / "flows" / "package.json"
    package.parent.mkdir()
    package.touch()

    def runs() -> int:
        done = checkout.setup("test", PATH=path, VIRTUAL_ENV=str(checkout.environment))
        assert done.returncode == 0, done.stderr
        return len(log.read_text(encoding="utf-8").splitlines())

    assert [runs(), runs()] == [1, 1]
    assert log.read_text(encoding="utf-8").startswith(f"{package.parent} install --no-package-lock")
    later = (package.parent / "node_modules" / ".comfy-bridge-setup").stat().st_mtime + 10
    os.utime(package, (later, later))
    assert runs() == 2

    checkout.program("tools/node", 'case "$*" in --version) echo v16.20.0 ;; *) exit 1 ;; esac')
    done = checkout.setup("test", PATH=path, VIRTUAL_ENV=str(checkout.environment))
    assert done.returncode == 1
    assert "Node-RED needs Node.js 18.5 or newer; node here is v16.20.0" in done.stderr

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli.files import bytes_of, check_folder, safe_name, write_new, write_outputs
from bridge.cli.samples import copy_samples, samples
from bridge.cli.terminal import Failure


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("fox_00001_.png", "fox_00001_.png"),
        ("ein Fuchs im Schnee 狐.png", "ein Fuchs im Schnee 狐.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("/absolute.png", "absolute.png"),
        ("C:evil.png", "C_evil.png"),
        (".bashrc", "bashrc"),
        ("a\x1b[2J\nb.png", "a__2J_b.png".replace("__2J", "_[2J")),
        ("con.png", "_con.png"),
        ("NUL", "_NUL"),
        ("dots. . .", "dots"),
        ("", "output-3.png"),
        ("..", "output-3.png"),
        ("...png", "png"),
        ("?*.png", "output-3.png"),
    ],
)
def test_names_are_made_harmless(filename: str, name: str) -> None:
    assert safe_name(filename, n=3, content_type="image/png") == name


@given(st.text(max_size=600), st.sampled_from(["image/png", "", "x/y"]))
def test_every_name_is_one_plain_file(filename: str, content_type: str) -> None:
    name = safe_name(filename, n=0, content_type=content_type)
    assert name == Path(name).name
    assert name not in {"", ".", ".."}
    assert not name.startswith(".")
    assert not set(name) & set('<>:"/\\|?*\0')
    assert name.isprintable()
    assert len(name.encode(errors="surrogatepass")) <= 240


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    paths = [write_new(tmp_path / "new" / "folder", "fox.png", data) for data in (b"1", b"2", b"3")]
    assert [path.name for path in paths] == ["fox.png", "fox-2.png", "fox-3.png"]
    assert [path.read_bytes() for path in paths] == [b"1", b"2", b"3"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fox.png").symlink_to(precious)
    assert write_new(tmp_path / "out", "fox.png", b"x").name == "fox-2.png"
    assert precious.read_bytes() == b"mine"


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(Failure, match="out"):
        write_new(tmp_path / "out", "fox.png", b"x")


def test_a_folder_is_looked_at_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    check_folder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    with pytest.raises(Failure, match="file is no folder"):
        check_folder(tmp_path / "file" / "folder")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may do everything
    with pytest.raises(Failure, match=r"nothing can be written to .*new: permission denied; --out names another"):
        check_folder(tmp_path / "new")


async def test_what_cannot_be_had_is_told_and_the_rest_is_written(tmp_path: Path) -> None:
    result = {
        "outputs": [
            {"n": 0, "filename": "a.png", "url": None},
            {"n": 1, "filename": "b.png", "url": "http://127.0.0.1:1/view?filename=b.png"},
            {"n": 2, "filename": "c.png", "error": {"code": "file_missing", "message": "it is gone"}},
            {"n": 3, "filename": "d.png", "url": "file:///etc/passwd"},
            {"n": 4, "filename": "../e.png"},
            "nonsense",
        ]
    }
    paths, problems = await write_outputs(tmp_path, result, {4: b"bytes"}, max_bytes=1000)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["e.png"]
    assert len(problems) == 4
    assert [any(name in problem for problem in problems) for name in ("a.png", "b.png", "c.png", "d.png")] == [True] * 4


async def test_an_empty_file_is_a_file() -> None:
    assert await bytes_of({"filename": "a"}, b"", max_bytes=1) == b""


def test_samples_are_copied_once_and_never_over_what_is_there(tmp_path: Path) -> None:
    copy_samples(samples(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {path.name for path in samples().glob("*.json")}
    assert (tmp_path / "txt2img.json").exists()
    (tmp_path / "txt2img.json").write_text("mine", encoding="utf-8")
    copy_samples(samples(), tmp_path)
    assert (tmp_path / "txt2img.json").read_text(encoding="utf-8") == "mine"

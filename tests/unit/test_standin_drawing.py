"""The stand-in's pictures: what was asked for is to be seen in them."""

from __future__ import annotations

import time

from PIL import ImageChops

from bridge.testing.drawing import Scene, render


def differ(one: Scene, other: Scene) -> bool:
    return ImageChops.difference(render(one), render(other)).getbbox() is not None


def test_text_and_note_are_to_be_seen() -> None:
    plain = Scene(256, 256, seed=1)
    assert differ(plain, Scene(256, 256, seed=1, text="a fox"))
    assert differ(plain, Scene(256, 256, seed=1, note="seed 1"))
    assert differ(plain, Scene(256, 256, seed=2))


def test_letters_with_marks_are_drawn_without_them() -> None:
    assert not differ(Scene(256, 256, seed=1, text="Füchse, déjà vu"), Scene(256, 256, seed=1, text="Fuchse, deja vu"))


def test_a_novel_takes_no_longer_than_what_fits() -> None:
    begun = time.process_time()
    render(Scene(256, 256, seed=1, text="many words " * 300_000))
    assert time.process_time() - begun < 1

"""The text of an idea, for those who read it as it comes."""

from __future__ import annotations

from bridge import events
from bridge.http.texts import Texts


def test_a_reader_gets_what_came_before_its_idea_was_known_and_of_no_other() -> None:
    texts = Texts()
    reader = texts.opened()
    texts.listen(events.PromptText("other", "{", ""))
    texts.listen(events.PromptText("mine", '{"prompt": "a', "a"))
    reader.idea = "mine"
    texts.listen(events.PromptText("other", "}", ""))
    texts.listen(events.PromptText("mine", " fox", "a fox"))
    assert reader.take() == ('{"prompt": "a fox', "a fox")
    assert reader.take() is None
    texts.listen(events.PromptText("mine", '"}', "a fox"))
    assert reader.take() == ('"}', "a fox")
    texts.close(reader)
    texts.listen(events.PromptText("mine", "!", "a fox"))
    assert reader.take() is None

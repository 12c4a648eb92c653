"""Blocks that say only what is new: what is sent, and what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from tests.loops import Loop
from ui.blocks import QuietBlocks, TabState, keep_less

SILENCE = {"__type__": "update"}


class Page:
    """A page of one event with three outputs, in one session."""

    def __init__(self, runner: Loop) -> None:
        self.runner = runner
        runner.run(self.build())

    async def build(self) -> None:
        """In a running loop, as Gradio else makes loops of its own and leaves them behind."""
        with QuietBlocks() as self.demo:
            self.name = gr.Textbox("", info="what it is called")
            self.state = gr.State(None)
            self.words, self.other = gr.HTML(""), gr.HTML("")
            gr.Button("Go").click(dict, None, [self.name, self.state, self.words])
        self.session = TabState(self.demo)

    def sent(self, news: Any) -> list[Any]:
        """What the browser is sent when a handler answers so."""
        return self.runner.run(self.demo.postprocess_data(self.demo.fns[0], news, self.session))


@pytest.fixture
def page() -> Iterator[Page]:
    with Loop() as runner:
        yield Page(runner)


def test_what_a_handler_is_silent_about_stays_as_it_is(page: Page) -> None:
    assert page.sent({page.words: "<p>new</p>"}) == [SILENCE, None, "<p>new</p>"]


def test_an_update_is_sent_once(page: Page) -> None:
    news = {page.name: gr.update(info="its name", visible=True), page.words: ""}
    assert page.sent(dict(news))[0] == {"info": "its name", "visible": True, **SILENCE}
    assert page.sent(dict(news))[0] == SILENCE
    assert page.sent({page.name: gr.update(info="other", visible=True), page.words: ""})[0]["info"] == "other"


def test_what_one_session_knows_another_does_not(page: Page) -> None:
    page.sent({page.name: gr.update(info="its name"), page.words: ""})
    page.session = TabState(page.demo)
    assert page.sent({page.name: gr.update(info="its name"), page.words: ""})[0]["info"] == "its name"


def test_a_value_is_sent_every_time_since_the_person_may_have_changed_it(page: Page) -> None:
    for _ in range(2):
        assert page.sent({page.name: gr.update(value="a"), page.words: "b"}) == [{"value": "a", **SILENCE}, None, "b"]
        assert page.sent({page.name: "a", page.words: "b"}) == ["a", None, "b"]


def test_a_state_is_kept_and_never_sent(page: Page) -> None:
    assert page.sent({page.state: ["mine"]}) == [SILENCE, None, SILENCE]
    assert page.session[page.state._id] == ["mine"]
    assert page.sent({page.state: None}) == [SILENCE, None, SILENCE]
    assert page.session[page.state._id] is None


def test_a_single_piece_of_news_and_none_at_all_are_taken_as_well(page: Page) -> None:
    assert page.sent({page.words: {"any": "value"}})[2] == {"any": "value"}
    assert page.sent({page.words: gr.skip()}) == [SILENCE, None, SILENCE]


def test_news_for_what_is_no_output_is_refused(page: Page) -> None:
    with pytest.raises(ValueError, match="not specified as output"):
        page.sent({page.words: "", page.other: ""})


def test_a_session_is_gradios_without_a_second_config(page: Page) -> None:
    theirs, ours = SessionState(page.demo), TabState(page.demo)
    assert vars(ours).keys() == vars(theirs).keys() and list(theirs.components)
    page.sent({page.name: gr.update(info="its name"), page.words: "b"})
    for session in (ours, page.session):
        assert list(session.components) == []
    same = ("state_data", "_state_ttl", "is_closed", "STATE_TTL_WHEN_CLOSED")
    assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
    assert ours.blocks_config.blocks == theirs.blocks_config.blocks


def test_beyond_so_many_tabs_the_oldest_is_given_up(page: Page) -> None:
    class App:
        state_holder: Any = None

    page.demo.state_session_capacity = 2
    keep_less(App, page.demo)  # type: ignore[arg-type]
    holder = App.state_holder
    first = holder["a"]
    assert isinstance(first, TabState) and holder["a"] is first
    for name in "bc":
        holder[name]
    assert "a" not in holder and "b" in holder and "c" in holder

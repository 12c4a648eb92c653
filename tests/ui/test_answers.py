from __future__ import annotations

import logging
from collections.abc import Iterator

import gradio as gr
import pytest

from core.errors import UserError
from tests.ui.stand_in import XSS
from ui.answers import News, tells


@pytest.fixture
def banner() -> gr.HTML:
    return gr.HTML("")


def test_success_clears_an_older_error_unless_nobody_clicked(banner: gr.HTML) -> None:
    assert tells(banner)(dict)() == {banner: ""}
    assert tells(banner, clears=False)(dict)() == {banner: gr.skip()}


def test_a_mistake_the_person_can_mend_is_told_with_its_hint_and_nothing_else_changes(banner: gr.HTML) -> None:
    def handler() -> News:
        raise UserError(f"Row {XSS} is empty", "line 3", "Remove it")

    news = tells(banner)(handler)()
    assert list(news) == [banner]
    assert "Remove it." in news[banner] and "<img" not in news[banner]


def test_our_own_mistake_is_logged_and_told_without_its_traceback(
    banner: gr.HTML, caplog: pytest.LogCaptureFixture
) -> None:
    def handler() -> News:
        raise ZeroDivisionError("secret detail")

    with caplog.at_level(logging.ERROR):
        news = tells(banner)(handler)()
    assert "on our side" in news[banner] and "secret" not in news[banner]
    assert caplog.records[0].exc_info


def test_a_stream_that_breaks_keeps_what_had_come(banner: gr.HTML) -> None:
    def handler() -> Iterator[News]:
        yield {"slot": "half"}
        raise UserError("The model went away")

    first, half, last = tells(banner)(handler)()
    assert (first, half) == ({banner: ""}, {"slot": "half"})
    assert "went away" in last[banner]

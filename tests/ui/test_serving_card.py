from __future__ import annotations

import ast
import html
import re

from tests.ui.stand_in import adapter
from ui.pages.serving_card import use_from_program


def lines(card: str) -> str:
    found = re.search(r"<code>(.*?)</code></pre>", card, flags=re.DOTALL)
    assert found
    return html.unescape(re.sub(r"<[^>]*>", "", found[1]))


def test_the_lines_are_a_program_that_names_this_adapter() -> None:
    shown = adapter(name='Zoë\'s "best" <b>')
    card = use_from_program(shown)
    calls = [node for node in ast.walk(ast.parse(lines(card))) if isinstance(node, ast.Call)]
    values = {word.arg: ast.literal_eval(word.value) for call in calls for word in call.keywords if word.arg}
    assert values["model"] == f"{shown.name}#{shown.fingerprint}"
    assert values["base_url"].endswith("/v1") and values["messages"][0]["role"] == "user"
    assert "<b>" not in card and f'data-copy="#serving-{shown.id}"' in card


def test_what_has_no_words_to_answer_with_offers_nothing() -> None:
    assert use_from_program(adapter(task="classification")) == ""

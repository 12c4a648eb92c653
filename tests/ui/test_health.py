"""The list of what is wrong with a dataset: every state of it, and nothing of a file that is taken for markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from core.data.health.report import KINDS, Finding, Health
from ui.markup import esc
from ui.pages import health as page

HOSTILE = "<img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    """Counts the tags, and fails on those that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def health(*kinds: str, count: int = 30) -> Health:
    rows = tuple(range(1, min(count, 12) + 1))
    findings = tuple(Finding(kind=kind, count=count, first=rows) for kind in kinds)
    return Health(rows=1000, records=990, findings=findings, checked=tuple(KINDS))


def test_each_kind_has_a_line_with_words_and_its_rows() -> None:
    html = page.ready(health(*KINDS))

    assert Tags(html).seen.count("li") == len(KINDS)
    for key, kind in KINDS.items():
        assert f'id="health-{key}"' in html and esc(f"30 {kind.title}") in html
    assert html.count('href="#row-7"') == len(KINDS)
    assert set(re.findall(r'aria-label="([^"]+)">[✕▲ℹ]', html)) == {"Problem", "Look at this", "Note"}


def test_nothing_wrong_is_said_to_be_so() -> None:
    html = page.ready(health())

    assert "no fault found" in html and "<li" not in html


def test_repeated_rows_name_the_row_that_they_are_like() -> None:
    found = Finding(kind="duplicates", count=1, first=(12,), of=(3,))

    html = page.line(found)

    assert 'href="#row-12"' in html and 'href="#row-3"' in html and "like" in html


def test_what_comes_from_a_file_is_never_markup() -> None:
    finding = Finding(kind="unreadable", count=2, first=(1, 2), samples=((1, HOSTILE),))
    whole = Health(rows=9, records=7, findings=(finding,), labels=((HOSTILE, 5), ("b", 1)), classes=2)

    html = page.ready(whole)

    assert "img" not in Tags(html).seen and "&lt;img" in html


@pytest.mark.parametrize(
    ("kind", "count", "words"),
    [("keys", 1, "Remove this row"), ("keys", 1200, "Remove these 1,200 rows"), ("unreadable", 5, "")],
)
def test_the_button_says_how_many_rows_go(kind: str, count: int, words: str) -> None:
    assert page.button_words(Finding(kind=kind, count=count, first=(1,))) == words


def test_a_kind_is_removed_or_kept_with_a_click_and_what_is_kept_can_be_looked_at_again() -> None:
    open_one, kept = (page.ready(health("keys"), kept=kept) for kept in ((), ("keys",)))

    assert 'id="health-remove-keys"' in open_one and "Remove these 30 rows" in open_one
    assert 'data-act="keep" data-kind="keys"' in open_one and ">Keep<" in open_one
    assert 'id="health-remove-keys"' not in kept and "Look at it again" in kept
    assert 'id="health-remove-unreadable"' not in page.ready(health("unreadable"))


def test_what_was_not_looked_for_is_named() -> None:
    html = page.ready(replace(health(), checked=("duplicates",)))

    assert "Not looked for in this dataset: near-duplicates" in html and "under Tokens" in html
    assert "Not looked for" not in page.ready(replace(health(), checked=("near_duplicates",)))


def test_a_kind_that_is_kept_is_marked() -> None:
    assert "kept" in page.ready(health("keys"), kept=["keys"]) and 'class="kept"' not in page.ready(health("keys"))


def test_classes_out_of_balance_are_told() -> None:
    uneven = replace(health(), labels=(("ham", 900), ("spam", 9)), classes=2)
    even = replace(uneven, labels=(("ham", 500), ("spam", 490)))

    assert "favor" in page.classes(uneven) and "favor" not in page.classes(even)
    assert "too many" in page.classes(replace(health(), classes=10_001))


def test_empty_and_searching_say_what_happens() -> None:
    assert "Choose a dataset" in page.empty()
    assert 'role="status"' in page.searching("Looking for near-duplicates", 0.25) and "25%" in page.searching("x", 0.25)

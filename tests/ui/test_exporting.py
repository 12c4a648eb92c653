"""The panel of exports: what it says in each state, and what a click asks of the service."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.export.verdict import Verdict
from jobs.export_forms import FORMS
from jobs.service import FormView, PushView
from tests.ui.stand_in import XSS, adapter
from tests.ui.test_train_page import Names
from ui.pages import exporting, exporting_view
from ui.pages.exporting import ExportPanel

VERDICT = Verdict(reader="peft 1", difference=1e-6, bound=1e-4, agreed=64, tokens=64)


def view(form: str = "merged", **values: Any) -> FormView:
    return FormView(form=FORMS[form], **({"state": "absent"} | values))


def shown(*views: FormView) -> str:
    return exporting_view.forms_html(adapter(), views)


def test_every_state_has_its_words_and_its_one_action() -> None:
    absent = shown(view())
    assert "base and adapter as one" in absent and 'data-do="make"' in absent and "download" not in absent
    going = shown(view(state="going on", phase="checking"))
    assert "Reading it back in another process" in going and 'data-do="stop"' in going
    assert "Waits for another export" in shown(view(state="waiting", phase="starting"))
    done = shown(view(state="done", path=Path("/x"), bytes=2_000_000, verdict=VERDICT))
    assert VERDICT.sentence in done and "?to=merged" in done and "2.0 MB" in done and "data-do" not in done
    failed = shown(view(state="failed", sentence="The disk is full."))
    assert "The disk is full." in failed and "Try again" in failed


def test_what_others_say_is_text() -> None:
    html = shown(view(state="failed", sentence=XSS), view(state="going on", phase=XSS))
    html += exporting_view.push_html(PushView(state="failed", sentence=XSS))
    html += exporting_view.push_html(PushView(state="going on", repo_id=XSS))
    html += exporting_view.push_html(PushView(state="done", url=XSS))
    assert "<img" not in html and html.count("&lt;img") >= 5


class Asked:
    """A service that has one adapter, and notes what is asked of its exports."""

    def __init__(self) -> None:
        self.exports, self.calls, self.state = self, [], "absent"

    def adapter(self, adapter_id: str) -> Any:
        return adapter(id=adapter_id)

    def forms(self, adapter_id: str) -> tuple[FormView, ...]:
        return (view("peft", state=self.state), view())

    def pushed(self, adapter_id: str) -> PushView:
        return PushView(state="absent")

    def start(self, *args: Any) -> None:
        self.calls.append(("start", *args))
        self.state = "going on"

    def stop(self, *args: Any) -> None:
        self.calls.append(("stop", *args))

    def push(self, *args: Any) -> None:
        self.calls.append(("push", *args))


@pytest.fixture
def panel() -> ExportPanel:
    return ExportPanel(Asked(), Names())  # type: ignore[arg-type]


def test_it_opens_for_the_adapter_that_was_clicked_and_looks_again_while_something_goes_on(panel: ExportPanel) -> None:
    news = panel.open(SimpleNamespace(id="a1"))  # type: ignore[arg-type]
    assert news["panel"]["visible"] and news["chosen"] == "a1" and "captain-r8" in news["name"]
    assert [key for _, key in news["form"]["choices"]] == ["peft", "merged"] and not news["timer"]["active"]
    news = panel.make("a1", SimpleNamespace(form="peft"))  # type: ignore[arg-type]
    assert news["timer"]["active"] and panel.service.calls == [("start", "a1", "peft")]  # type: ignore[attr-defined]
    assert panel.look("") == {"timer": news["timer"] | {"active": False}}
    panel.halt("a1", SimpleNamespace(form="peft"))  # type: ignore[arg-type]
    panel.push("a1", "me/x", "peft", True)
    calls = panel.service.calls  # type: ignore[attr-defined]
    assert calls[1:] == [("stop", "a1", "peft"), ("push", "a1", "me/x", "peft", True)]


def test_a_whole_model_has_no_other_forms() -> None:
    assert exporting.button(adapter(method="full")) == "" and "formats" in exporting.button(adapter(method="bitfit"))

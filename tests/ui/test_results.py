"""Results that are no adapter for chat: a whole model becomes a base, a classifier is not asked to talk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import NotFound
from jobs.service import Adapter
from tests.ui.stand_in import NOW, adapter, run, run_config
from tests.ui.test_train_page import Names
from ui.pages.runs import RunsPage

MODEL = adapter(id="m1", name="captain-full", method="full", path=Path("/home/runs/r9/adapter"), rank=0, targets=())
PIRATE = adapter(id="a1")


class Results:
    """A service that knows these results, and what it was asked to chat with."""

    def adapters(self) -> tuple[Adapter, ...]:
        return (PIRATE,)

    def trained_models(self) -> tuple[Adapter, ...]:
        return (MODEL, adapter(id="m2", method="full", task="classification", path=Path("/x")))

    def adapter(self, adapter_id: str) -> Adapter:
        return next(one for one in (*self.adapters(), *self.trained_models()) if one.id == adapter_id)


@pytest.mark.parametrize(
    ("values", "compare", "as_base", "word"),
    [
        ({}, "/playground?adapters=a1", False, "adapter"),
        ({"method": "full"}, "/playground?base=a1", True, "model"),
        ({"task": "classification"}, None, False, "adapter"),
        ({"method": "full", "task": "classification"}, None, True, "model"),
    ],
)
def test_a_run_offers_what_its_result_can_do(
    values: dict[str, Any], compare: str | None, as_base: bool, word: str
) -> None:
    page = RunsPage(None, None, Names())  # type: ignore[arg-type]
    done = run(config=run_config(**values), state="finished", ended_at=NOW, adapter_id="a1")
    news = page.one.state_news(done)
    assert news["compare"]["visible"] == (compare is not None)
    assert compare is None or news["compare"]["link"] == compare
    assert news["as_base"]["visible"] == as_base and news["as_base"]["link"] == "/?base=a1"
    assert news["download"]["visible"] and news["download"]["value"] == f"Download {word}"
    going = page.one.state_news(run(config=run_config(**values)))
    assert not any(going[name]["visible"] for name in ("compare", "as_base", "download"))


def test_the_train_page_takes_a_whole_model_as_its_base_and_no_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    from ui.pages.train import TrainPage

    page = TrainPage(Results(), Names())  # type: ignore[arg-type]
    monkeypatch.setattr(page.model, "choose", lambda kind, ref, targets=(): {"model": (kind, ref)})
    news = page.model.trained_here(MODEL)
    assert news["model"] == ("folder", str(MODEL.path)) and news["kind"] == "folder"
    assert news["ref"]["value"] == str(MODEL.path)
    with pytest.raises(NotFound, match="no base model"):
        page.model.trained_here(PIRATE)

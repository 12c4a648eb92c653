"""Adapters on their way into the library, each by a process of its own (`jobs.adapter_maker`), and what came of them.

As with files that become datasets: what is being made is known here alone, and an app that ends takes it with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from core.adapters.spectrum import Spectrum
from core.errors import UserError
from jobs.children import Told
from jobs.errands import Errand, Errands
from jobs.home import Home
from jobs.ids import new_id
from jobs.views import RunProblem

State: TypeAlias = Literal["making", "refused", "done"]
Publish: TypeAlias = Callable[[Path, Told], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """One order as it stands: being carried out (`phase`, and where known `share_done`), refused (`problem`), or done:
    with the new adapter's id or, where one was only weighed, its `spectra`.
    """

    id: str
    name: str
    state: State = "making"
    phase: str = "starting"
    share_done: float | None = None
    problem: RunProblem | None = None
    adapter_id: str | None = None
    spectra: tuple[Spectrum, ...] = ()


class Makings:
    """What is being made for one home."""

    def __init__(self, home: Home, environment: Mapping[str, str]) -> None:
        self._home, self._environment = home, environment
        self._makers: Errands[_Maker] = Errands("That is no longer being made", "Begin again")

    def begin(self, order: dict[str, Any], name: str, publish: Publish) -> Making:
        """Start to carry out `order`, as `jobs.adapter_maker` takes it; `publish` registers the draft that it made and
        gives the new adapter's id.
        """
        making = Making(id=new_id(), name=name)
        maker = _Maker(making, self._home.adapters / f".{making.id}", publish)
        self._makers.add(making.id, maker)
        maker.start(order, self._environment)
        return maker.making

    def look(self, making_id: str, wait_seconds: float = 0.0) -> Making:
        """How it stands; where it goes on, after up to `wait_seconds`.

        Raises:
            NotFound: there is no such making: it was stopped, or the app has been started anew.
        """
        maker = self._makers[making_id]
        maker.wait(wait_seconds)
        return maker.making

    def stop(self, making_id: str) -> None:
        """Give it up; nothing of it stays."""
        self._makers.stop(making_id)

    def close(self) -> None:
        """Give up all that is not done."""
        self._makers.stop_all()


class _Maker(Errand):
    """One order, and what its child has told."""

    def __init__(self, making: Making, draft: Path, publish: Publish) -> None:
        super().__init__()
        self.making = making
        self._draft, self._publish = draft, publish

    def start(self, order: dict[str, Any], environment: Mapping[str, str]) -> None:
        self.begin("jobs.adapter_maker", [orjson.dumps(order).decode(), str(self._draft)], environment)

    def hear(self, told: Told) -> None:
        _HEARD[told["kind"]](self, told)

    def clear(self) -> None:
        shutil.rmtree(self._draft, ignore_errors=True)

    def _progress(self, told: Told) -> None:
        self.making = replace(self.making, phase=told["phase"], share_done=told["share_done"])

    def _made(self, told: Told) -> None:
        try:
            adapter_id = self._publish(self._draft, told)
        except UserError as error:
            self._refused({"problem": {"title": error.title, "detail": error.detail, "hint": error.hint}})
        else:
            self.making = replace(self.making, state="done", adapter_id=adapter_id)

    def _weighed(self, told: Told) -> None:
        spectra = tuple(
            Spectrum(squares=tuple(module["squares"]), features=module["features"]) for module in told["modules"]
        )
        self.making = replace(self.making, state="done", spectra=spectra)

    def _refused(self, told: Told) -> None:
        self.clear()
        self.making = replace(self.making, state="refused", problem=RunProblem(**told["problem"]))

    def _gone(self, told: Told) -> None:
        if self.making.state == "making":
            title = f"{self.making.name} was not made: its process ended with status {told['status']}"
            self._refused({"problem": {"title": title, "hint": "Try again; the app's log may say more"}})


_HEARD: dict[str, Callable[[_Maker, Told], None]] = {
    "progress": _Maker._progress,
    "made": _Maker._made,
    "weighed": _Maker._weighed,
    "refused": _Maker._refused,
    "gone": _Maker._gone,
}

"""Base models as a person chooses among them: what there is, and what is known of one before it is trained on.

What lies on this machine is read from its files; of a hub model that does not, the hub is asked. Answers of the hub are
kept for a while, and trees for as long as their files are what they were, since a page asks again with each change of
its form.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from core.config import STARTER, Task
from core.durable import flush
from core.errors import ModelError, RunError
from core.models.catalogue import STARTER_UPSTREAM, ModelSource, cached_models, find, local_models
from core.models.hub_info import HubFacts, ask_hub
from core.models.shapes import Stamp, parameter_count, stamp_of, weight_files
from jobs.bases import inspect_model
from jobs.blueprint import read_blueprint, with_layers
from jobs.home import Home
from jobs.module_tree import Node, module_tree
from jobs.store import Store
from jobs.views import ModelCard, Run

Group = Literal["starter", "recent", "trained", "folder", "hub"]


MOST_RECENT = 8
MOST_FOLDERS = 20
MOST_TREES = 8
FRESH_SECONDS = 120.0
RETRY_SECONDS = 10.0  # after an answer that did not come
STARTER_PARAMETERS = 134_515_008
STARTER_LICENCE = "apache-2.0"
STARTER_ARCHITECTURE = "LlamaForCausalLM"
STARTER_DOWNLOAD_BYTES = 92_900_000
_CARD_BYTES = 20_000
_LICENCE = re.compile(r"^license(?P<own>_name)?:\s*[\"']?(?P<name>[^\s\"'#]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """One base model that a person may choose: what it is called in a config (`ref`), and why it is offered. A recent
    one was used by the run `run_name`; `problem` says why it cannot be used any more, if it cannot.
    """

    ref: str
    title: str
    group: Group
    is_here: bool
    used_at: datetime | None = None
    run_name: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a base model; empty or None where nobody says. `bytes` is the size of its weights where it is on
    this machine, else of what has to be downloaded. `problem` is why it cannot be used and what to do about that,
    `remark` what one should know beside.
    """

    source: ModelSource
    parameters: int | None = None
    bytes: int | None = None
    licence: str = ""
    architecture: str = ""
    is_gated: bool = False
    url: str = ""
    problem: ModelError | None = None
    remark: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.source.folder is not None


class Models:
    """The base models of one workbench.

    Args:
        ask: asks the hub about an id. clock: seconds that only ever grow.
    """

    def __init__(
        self,
        home: Home,
        store: Store,
        models_root: Path,
        ask: Callable[[str], HubFacts] = ask_hub,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._store = store
        self._models_root = models_root
        self._ask = ask
        self._clock = clock
        self._answers: dict[str, tuple[float, HubFacts]] = {}
        self._trees: dict[tuple[Path, bool], tuple[Stamp, Node]] = {}
        self._writing = threading.Lock()

    def choices(self) -> tuple[ModelChoice, ...]:
        """What can be chosen without typing, each model once: the starter, those of earlier runs (newest first), whole
        models that were trained here, folders, and what the hub's cache holds completely.
        """
        found: dict[str, ModelChoice] = {}
        for choice, folder in self._all():
            key = str(folder.resolve()) if folder is not None else choice.ref
            found.setdefault(key, choice)
        return tuple(found.values())

    def describe(self, ref: str) -> ModelFacts:
        """What is known of the base model `ref`. Of a hub model that is not here, the hub is asked, for a few seconds
        at most; that it cannot be reached or does not let us in is said in the answer.

        Raises:
            ModelError: `ref` names no model, or the files of one are broken.
        """
        source = _called(find(ref, self._models_root), self._trained())
        if source.folder is not None:
            return _read(source, source.folder)
        if source.kind == "starter":
            return _starter(source)
        facts = self._hub_facts(ref)
        return ModelFacts(
            source=source,
            parameters=facts.parameters,
            bytes=facts.download_bytes,
            licence=facts.licence,
            architecture=facts.architecture,
            is_gated=facts.is_gated,
            url=facts.url,
            problem=facts.problem,
            remark=facts.remark,
        )

    def card(self, ref: str) -> ModelCard:
        """What can be adapted in the base model `ref`; without numbers while it is not on this machine. One that was
        trained here goes by the name of its run.

        Raises:
            ModelError: there is no such model, or its files are broken.
        """
        card = with_layers(inspect_model(ref, self._models_root))
        return replace(card, source=_called(card.source, self._trained()))

    def tree(self, ref: str, task: Task = "chat") -> Node | None:
        """The modules of the base model `ref`, for what can be adapted in it; None while it is not on this machine.

        Raises:
            ModelError: as `describe`.
        """
        folder = find(ref, self._models_root).folder
        if folder is None:
            return None
        key, stamp = (folder, task == "chat"), stamp_of(folder)
        known = self._trees.get(key)
        if known is None or known[0] != stamp:
            known = stamp, module_tree(read_blueprint(folder), has_head=task == "chat")
            self._trees = {**dict(list(self._trees.items())[-MOST_TREES:]), key: known}
        return known[1]

    def remember(self, ref: str) -> None:
        """Offer the model folder `ref` from now on; the oldest of many is forgotten.

        Raises:
            ModelError: there is no model in it.
            RunError: nothing can be written.
        """
        source = find(ref, self._models_root)
        if source.kind == "folder":
            self._keep(lambda known: [str(source.folder), *(each for each in known if each != str(source.folder))])

    def forget(self, ref: str) -> None:
        """Offer that folder no longer; its files stay. Raises: RunError."""
        folder = os.path.realpath(os.path.expanduser(ref))
        self._keep(lambda known: [each for each in known if each not in (ref, folder)])

    # -- what there is -------------------------------------------------------------------------------------------

    def _all(self) -> Iterator[tuple[ModelChoice, Path | None]]:
        """Every choice with its folder, those before others that say more of the same model."""
        trained = self._trained()
        recent = list(self._recent(trained))
        starter = find(STARTER, self._models_root)
        used = next((choice for choice, _ in recent if choice.ref == STARTER), None)
        first = _choice(starter, "starter")
        yield (replace(first, used_at=used.used_at, run_name=used.run_name) if used else first), starter.folder
        yield from [(choice, folder) for choice, folder in recent if choice.ref != STARTER][:MOST_RECENT]
        for path, name in trained.items():
            yield ModelChoice(ref=str(path), title=name, group="trained", is_here=True), path
        for source in (*self._remembered(), *local_models(self._models_root)):
            yield _choice(source, "folder"), source.folder
        for source in cached_models():
            yield _choice(source, "hub"), source.folder

    def _recent(self, trained: Mapping[Path, str]) -> Iterator[tuple[ModelChoice, Path | None]]:
        """The base models of runs, each once."""
        newest: dict[str, Run] = {}
        for run in self._store.runs():
            newest.setdefault(run.config.base_model, run)
        for ref, run in newest.items():
            try:
                source = _called(find(ref, self._models_root), trained)
                choice, folder = _choice(source, "recent"), source.folder
            except ModelError as error:
                gone = ModelChoice(ref=ref, title=Path(ref).name or ref, group="recent", is_here=False)
                choice, folder = replace(gone, problem=error.title), None
            yield replace(choice, used_at=run.created_at, run_name=run.name), folder

    def _trained(self) -> dict[Path, str]:
        """The names of the whole models that were trained here, by their folders."""
        models = [model for model in self._store.adapters() if model.method == "full"]
        return {model.path.resolve(): model.name for model in models if (model.path / "config.json").is_file()}

    def _hub_facts(self, hub_id: str) -> HubFacts:
        now = self._clock()
        asked_at, known = self._answers.get(hub_id, (0.0, None))
        if known is not None and now - asked_at < (FRESH_SECONDS if known.is_known else RETRY_SECONDS):
            return known
        facts = self._ask(hub_id)
        fresh = {name: answer for name, answer in self._answers.items() if now - answer[0] < FRESH_SECONDS}
        self._answers = {**fresh, hub_id: (now, facts)}
        return facts

    # -- folders that were given ---------------------------------------------------------------------------------

    def _remembered(self) -> Iterator[ModelSource]:
        for folder in self._folders():
            try:
                yield find(folder, self._models_root)
            except ModelError:  # moved or deleted; it may come back, as on a disk that is not plugged in
                continue

    def _folders(self) -> list[str]:
        try:
            known = json.loads(self._home.model_folders.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except ValueError:  # no more than a list of favorites: the next folder that is given begins it anew
            return []
        return [each for each in known if isinstance(each, str)] if isinstance(known, list) else []

    def _keep(self, change: Callable[[list[str]], list[str]]) -> None:
        path = self._home.model_folders
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        with self._writing:
            try:
                temporary.write_text(json.dumps(change(self._folders())[:MOST_FOLDERS]), encoding="utf-8")
                flush([temporary])
                os.replace(temporary, path)
            except OSError as error:
                temporary.unlink(missing_ok=True)
                why = error.strerror or str(error)
                raise RunError("The folder cannot be remembered", why, "Make room on the disk") from error


def _choice(source: ModelSource, group: Group) -> ModelChoice:
    return ModelChoice(ref=source.ref, title=source.title, group=group, is_here=source.folder is not None)


def _called(source: ModelSource, trained: Mapping[Path, str]) -> ModelSource:
    """A model that was trained here goes by the name of its run."""
    return replace(source, title=trained.get(source.folder or Path(), source.title))


def _read(source: ModelSource, folder: Path) -> ModelFacts:
    """What a model's own files say."""
    config = read_blueprint(folder).config
    kinds = config.get("architectures") or [config.get("model_type") or ""]
    return ModelFacts(
        source=source,
        parameters=parameter_count(folder),
        bytes=sum(path.stat().st_size for path in weight_files(folder)),
        licence=STARTER_LICENCE if source.kind == "starter" else _licence(folder),
        architecture=str(kinds[0]),
    )


def _starter(source: ModelSource) -> ModelFacts:
    return ModelFacts(
        source=source,
        parameters=STARTER_PARAMETERS,
        bytes=STARTER_DOWNLOAD_BYTES,
        licence=STARTER_LICENCE,
        architecture=STARTER_ARCHITECTURE,
        remark=f"It is {STARTER_UPSTREAM}, fetched from the package index of Python; no hub is needed",
    )


def _licence(folder: Path) -> str:
    """As the model card that lies beside the weights begins with it."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    with card.open(encoding="utf-8", errors="replace") as file:
        head, _, rest = file.read(_CARD_BYTES).partition("---")
    said = {
        bool(match["own"]): match["name"] for match in _LICENCE.finditer("" if head.strip() else rest.split("\n---")[0])
    }
    name = said.get(False, "")
    return said.get(True, name) if name == "other" else name

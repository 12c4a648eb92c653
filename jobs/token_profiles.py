"""Token profiles of datasets: which there are, and a process of its own for each that is being made.

A profile depends on the rows, the tokenizer of the base model, the template, and what is trained: a key is made of
these, and names the profile's folder among the dataset's files. The token limit is not among them: one profile answers
for each. It is written beside that folder and moved there when it is whole; until then the page reads what is there.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import orjson
from tokenizers import Tokenizer

from core.config import DataConfig, Task
from core.data.tokens.profile import ProfileSettings, TokenProfile
from core.data.tokens.view import Piece, read_tokenizer, row_pieces
from core.errors import ModelError, NotFound
from core.models.catalogue import find
from jobs.children import Child, Told
from jobs.home import Home
from jobs.room import require_room
from jobs.store import Store

State: TypeAlias = Literal["absent", "no model", "counting", "ready", "failed"]

MODULE = "jobs.token_profiler"
_REMEMBERED = 4  # profiles that are kept in memory, 16 bytes a row
# Whatever of a model's folder has a say in how a text becomes tokens, or a conversation a text.
_TOKENIZER_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model",
    "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenProfileView:
    """Where a profile stands. `share_done` is from 0 to 1; `sentence` says why there is none, where that is so;
    `profile` has the rows that are counted by now, and is None before there are any.
    """

    state: State
    share_done: float = 0.0
    sentence: str = ""
    profile: TokenProfile | None = None


@dataclass(slots=True)
class _Work:
    """A profile that is being made, or that failed to be."""

    child: Child | None = None
    failure: str = ""

    def hear(self, told: Told) -> None:
        """Take in what the child tells, in a thread of its own."""
        if told["kind"] == "failed":
            self.failure = told["sentence"]
        elif told["kind"] == "gone" and told["status"] and not self.failure:
            how = f"by signal {-told['status']}" if told["status"] < 0 else f"with status {told['status']}"
            self.failure = f"The process that counts the tokens ended {how} before it was done; begin again."


@dataclass(frozen=True, slots=True)
class _Place:
    """What a profile is made of, and where it goes."""

    records: Path
    base: Path
    settings: ProfileSettings
    folder: Path

    @property
    def draft(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}")


@dataclass(slots=True)
class TokenProfiles:
    """The profiles of one home's datasets. Any thread may ask."""

    home: Home
    store: Store
    models_root: Path
    environment: Mapping[str, str]
    _works: dict[Path, _Work] = field(default_factory=dict)
    _profiles: dict[Path, TokenProfile] = field(default_factory=dict)
    _tokenizer: tuple[str, Tokenizer] | None = None
    _digests: dict[tuple[object, ...], str] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def of(self, data: DataConfig, base_model: str, task: Task) -> TokenProfileView:
        """Where the profile stands that a run with these settings needs. Nothing is started.

        Raises:
            NotFound: there is no such dataset.
        """
        with self._lock:
            place = self._place(data, base_model, task)
            return place if isinstance(place, TokenProfileView) else self._look(place, data.dataset_id)

    def begin(self, data: DataConfig, base_model: str, task: Task) -> TokenProfileView:
        """As `of`, and started where there is none yet, or where it failed before.

        Raises:
            NotFound: there is no such dataset.
            RunError: there is no room for it.
        """
        with self._lock:
            place = self._place(data, base_model, task)
            if isinstance(place, TokenProfileView):
                return place
            if self._look(place, data.dataset_id).state in ("absent", "failed"):
                self._start(place)
            return self._look(place, data.dataset_id)

    def stop(self, data: DataConfig, base_model: str, task: Task) -> None:
        """Give up counting, if that goes on; nothing of it stays.

        Raises:
            NotFound: there is no such dataset.
        """
        with self._lock:
            place = self._place(data, base_model, task)
            if isinstance(place, _Place):
                self._end(place.folder)

    def pieces(
        self, data: DataConfig, base_model: str, task: Task, number: int, *, first_tokens: int | None = None
    ) -> list[Piece]:
        """Row `number` (from 0) as the model sees it, marked where the token limit of `data` cuts it off.

        Args:
            first_tokens: show no more than so many.

        Raises:
            NotFound: there is no such dataset, or the row is not counted yet.
            ModelError: the tokenizer has no file.
        """
        profile = self.of(data, base_model, task).profile
        if profile is None or not 0 <= number < profile.rows_done:
            raise NotFound(f"Row {number + 1} has not been tokenized", hint="Wait until its tokens are counted")
        limit = profile.limit(data.max_tokens) if task == "chat" else None
        return row_pieces(profile.row(number).first(first_tokens), self._read_tokenizer(profile.folder), limit)

    def close(self) -> None:
        """End all that goes on; it begins anew another time."""
        with self._lock:
            for folder in tuple(self._works):
                self._end(folder)

    def _place(self, data: DataConfig, base_model: str, task: Task) -> _Place | TokenProfileView:
        """Where the profile goes; a view of none where the base model is not there."""
        dataset = self.store.dataset(data.dataset_id)
        try:
            source = find(base_model, self.models_root)
        except ModelError as error:
            return TokenProfileView(state="no model", sentence=str(error))
        if source.folder is None:
            sentence = f"{source.title} is not on this machine yet; its tokens can be counted once it has been fetched."
            return TokenProfileView(state="no model", sentence=sentence)
        settings = ProfileSettings(task=task)
        if task == "chat":
            settings = ProfileSettings(task=task, train_on=data.train_on, template=data.template)
        records = self.home.records(dataset.id)
        status = records.stat()
        parts = [status.st_size, status.st_mtime_ns, self._digest(source.folder), asdict(settings)]
        key = hashlib.sha256(orjson.dumps(parts)).hexdigest()[:16]
        return _Place(records, source.folder, settings, self.home.dataset(dataset.id).tokens / key)

    def _digest(self, base: Path) -> str:
        """What is the same for folders that make the same tokens of a text; read again when a file has changed."""
        files = [path for name in _TOKENIZER_FILES if (path := base / name).is_file()]
        stamp = (base, *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files))
        if stamp not in self._digests:
            whole = hashlib.sha256()
            for path in files:
                whole.update(hashlib.sha256(path.name.encode() + path.read_bytes()).digest())
            self._digests[stamp] = whole.hexdigest()
        return self._digests[stamp]

    def _look(self, place: _Place, dataset_id: str) -> TokenProfileView:
        whole = self._read(place.folder)
        if whole is not None:
            self._works.pop(place.folder, None)
            return TokenProfileView(state="ready", share_done=1.0, profile=whole)
        work = self._works.get(place.folder)
        if work is None:
            return TokenProfileView(state="absent")
        if work.failure:
            return TokenProfileView(state="failed", sentence=work.failure)
        partial = _profile(place.draft)
        rows = partial.rows_done if partial is not None else 0
        share = rows / max(self.store.dataset(dataset_id).rows, 1)
        return TokenProfileView(state="counting", share_done=min(share, 1.0), profile=partial if rows else None)

    def _read(self, folder: Path) -> TokenProfile | None:
        """The whole profile in `folder`, from memory where it was asked for lately."""
        if not folder.is_dir():
            self._profiles.pop(folder, None)
            return None
        profile = self._profiles.pop(folder, None) or _profile(folder)
        if profile is not None:
            self._profiles[folder] = profile
            for oldest in [*self._profiles][:-_REMEMBERED]:
                del self._profiles[oldest]
        return profile

    def _read_tokenizer(self, profile: Path) -> Tokenizer:
        """The profile's tokenizer: most profiles have the same, and it is large, so the last is held."""
        with self._lock:
            digest = self._digest(profile)
            if self._tokenizer is None or self._tokenizer[0] != digest:
                self._tokenizer = digest, read_tokenizer(profile)
            return self._tokenizer[1]

    def _start(self, place: _Place) -> None:
        self._clear(place)
        require_room(self.home, "The tokens", place.records.stat().st_size)
        place.draft.mkdir(parents=True)
        arguments = [
            *map(str, (place.records, place.draft, place.folder)),
            orjson.dumps(asdict(place.settings)).decode(),
        ]
        work = self._works[place.folder] = _Work()
        work.child = Child(MODULE, [*arguments, "--base", str(place.base)], self.environment, work.hear)

    def _clear(self, place: _Place) -> None:
        """Remove a damaged profile, and what earlier processes have left unfinished beside it."""
        self._works.pop(place.folder, None)
        shutil.rmtree(place.folder, ignore_errors=True)
        mine = {f".{folder.name}" for folder in self._works}
        for left in place.folder.parent.glob(".*"):
            if left.name not in mine:
                shutil.rmtree(left, ignore_errors=True)

    def _end(self, folder: Path) -> None:
        work = self._works.pop(folder, None)
        if work is not None and work.child is not None:
            work.child.stop()
            shutil.rmtree(folder.with_name(f".{folder.name}"), ignore_errors=True)


def _profile(folder: Path) -> TokenProfile | None:
    """The profile in `folder`, as far as it is counted; None where it is not there, or cannot be read."""
    try:
        return TokenProfile(folder)
    except (OSError, ValueError, LookupError):  # it is being made or moved, or is damaged: counted anew when asked for
        return None

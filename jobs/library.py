"""The adapters of a home, as `service.library`: taken in, named, noted on, made of others, deleted and restored.

What comes from elsewhere, and what is made of adapters, is put together by a process of its own (`jobs.makings`), whose
draft becomes a folder here once it was read as the engine reads it. Whole models, which full fine-tuning makes, are
kept beside the adapters.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from core.adapters.spectrum import Kept, at_energy, at_rank
from core.adapters.ways import WAYS, Combination
from core.config import STARTER
from core.durable import flush, flush_all
from core.errors import AdapterError, ModelError
from core.models.catalogue import find, public_name
from jobs import bases
from jobs.children import Told
from jobs.combinations import check_combination, check_size, parents_of, require_lora
from jobs.fitting_bases import Base, fitting
from jobs.home import Home
from jobs.ids import new_id
from jobs.makings import Making, Makings
from jobs.models import Models
from jobs.names import LONGEST_NAME, LONGEST_NOTE, checked_name, checked_note, file_title
from jobs.origins import Origin
from jobs.room import require_room
from jobs.store import Store
from jobs.trash import Trash
from jobs.views import Adapter


class Library:
    """The adapters of one home; `makings` are those on their way, `trash` those that were deleted."""

    longest_note = LONGEST_NOTE

    def __init__(
        self, home: Home, store: Store, models: Models, models_root: Path, trash: Trash, environment: Mapping[str, str]
    ) -> None:
        self._home, self._shelf, self._models, self._models_root = home, store.shelf, models, models_root
        self.trash = trash
        self.makings = Makings(home, environment)

    def all(self) -> tuple[Adapter, ...]:
        """Adapters and whole models, newest first."""
        return self._shelf.all()

    def get(self, adapter_id: str) -> Adapter:
        """Raises: NotFound."""
        return self._shelf.get(adapter_id)

    def rename(self, adapter_id: str, name: str) -> None:
        """Raises: NotFound, ConfigError."""
        self._shelf.change(adapter_id, name=checked_name(name))

    def note(self, adapter_id: str, text: str) -> None:
        """Keep a note on an adapter, or none where `text` is blank.

        Raises:
            NotFound: there is no such adapter.
            ConfigError: the note is too long, or holds what cannot be kept.
        """
        self._shelf.change(adapter_id, note=checked_note(text))

    # -- base models ---------------------------------------------------------------------------------------------

    def base_state(self, adapter: Adapter) -> Base:
        """Whether the adapter's base model is here, can be fetched from the hub, or is not known."""
        try:
            return "here" if find(adapter.base_model, self._models_root).folder is not None else "hub"
        except ModelError:
            return "unknown"

    def fitting_bases(self, adapter_id: str) -> tuple[tuple[str, str], ...]:
        """The base models on this machine whose layers have the shapes that the adapter was trained beside: what each
        is called, and its reference. Raises: NotFound.
        """
        return fitting(self._shelf.get(adapter_id), self._models, self._models_root)

    def choose_base(self, adapter_id: str, ref: str) -> None:
        """Let the adapter stand on the base model `ref`.

        Raises:
            NotFound: there is no such adapter.
            AdapterError: the base is not on this machine, or has other shapes.
        """
        if ref not in {base for _, base in self.fitting_bases(adapter_id)}:
            name = self._shelf.get(adapter_id).name
            raise AdapterError(f"{ref} has no layers of the shapes that {name} needs", hint="Choose one of the list")
        self._shelf.change(adapter_id, base_model=ref)

    # -- from elsewhere ------------------------------------------------------------------------------------------

    def begin_upload(self, *paths: Path) -> Making:
        """Let a process take in the zip at a path, or the files of one adapter; ask `makings` how it goes.

        Raises:
            AdapterError: one cannot be read.
            RunError: there is no room for it.
        """
        for path in paths:
            _check_readable(path)
        require_room(self._home, "The adapter", sum(path.stat().st_size for path in paths))
        if len(paths) > 1:
            files = {path.name: str(path.resolve()) for path in paths}
            return self._begin_taking({"files": files}, "adapter", f"{len(paths)} files")
        name = file_title(paths[0])
        return self._begin_taking({"zip": str(paths[0].resolve()), "name": name}, name)

    def begin_elsewhere(self, place: str) -> Making:
        """Let a process take in the adapter in the folder or zip `place` or, where it is no path, of that id on Hugging
        Face.

        Raises:
            AdapterError: there is no such place.
            RunError: there is no room for it.
        """
        if not place.strip():
            raise AdapterError("No folder and no adapter's id is given", hint="Type one")
        if not place.isprintable():
            raise AdapterError("The place holds control characters", hint="Type it anew")
        if "/" in place.strip("/") and not place.startswith(("/", ".", "~")) and not os.path.exists(place):
            return self._begin_taking({"hub": place.strip()}, place.strip(), f"hub {place.strip()}")
        path = Path(place.strip()).expanduser()
        _check_readable(path)
        if path.is_dir():
            return self._begin_taking({"folder": str(path.resolve())}, file_title(path.resolve()))
        return self.begin_upload(path)

    # -- out of others -------------------------------------------------------------------------------------------

    def begin_combination(self, adapter_ids: Sequence[str], wanted: Combination, name: str) -> Making:
        """Let a process make one adapter of several.

        Raises:
            NotFound: there is no such adapter.
            AdapterError, ConfigError: they cannot be combined in that way.
        """
        parents = [self._shelf.get(adapter_id) for adapter_id in dict.fromkeys(adapter_ids)]
        check_combination(parents, wanted)
        self._check_one_base(parents)
        way = WAYS[wanted.how]
        if not way.has_rank:
            wanted = replace(wanted, rank=None)
        origin = Origin(
            kind="combined",
            parents=parents_of(parents, wanted.weights),
            how=wanted.how,
            rank=wanted.rank,
            density=wanted.density if way.has_density else None,
            seed=wanted.seed if way.has_seed else None,
        )
        order: dict[str, Any] = {
            "do": "combine",
            "folders": [str(parent.path) for parent in parents],
            "combination": asdict(wanted),
        }
        order["base"] = public_name(parents[0].base_model)
        return self._begin_making(order, parents, origin, name)

    def begin_shrinking(self, adapter_id: str, name: str, *, rank: int | None, energy: float | None) -> Making:
        """Let a process make the adapter smaller: to a rank, or to the lowest that keeps the share `energy`.

        Raises:
            NotFound: there is no such adapter.
            AdapterError, ConfigError: it cannot be shrunk so.
        """
        parent = self._shelf.get(adapter_id)
        require_lora([parent])
        check_size(rank, energy)
        origin = Origin(kind="shrunk", parents=parents_of([parent], (1.0,)), rank=rank, target_energy=energy)
        order: dict[str, Any] = {"do": "shrink", "folder": str(parent.path), "rank": rank, "energy": energy}
        return self._begin_making(order, [parent], origin, name)

    def begin_weighing(self, adapter_id: str) -> Making:
        """Let a process find out what each rank of the adapter keeps; `kept` then says so.

        Raises:
            NotFound: there is no such adapter.
            AdapterError: it is not one that can be shrunk.
        """
        adapter = self._shelf.get(adapter_id)
        require_lora([adapter])

        def publish(_draft: Path, _told: Told) -> str:
            raise AssertionError("weighing makes nothing")

        return self.makings.begin({"do": "weigh", "folder": str(adapter.path)}, adapter.name, publish)

    def kept(self, making_id: str, *, rank: int | None = None, energy: float | None = None) -> Kept | None:
        """What a rank, or the lowest rank that keeps the share `energy`, would leave of a weighed adapter; None until
        it has been weighed.

        Raises:
            NotFound: there is no such making.
            ConfigError: not just one of the two is given, or it is out of its range.
        """
        check_size(rank, energy)
        spectra = self.makings.look(making_id).spectra
        if not spectra:
            return None
        return at_rank(spectra, rank) if rank is not None else at_energy(spectra, energy or 0.0)

    def start(self) -> None:
        """Remove what an app that was killed left half made, and what was deleted long ago."""
        self.trash.clear_drafts()
        self.trash.expire()

    def close(self) -> None:
        """Give up what is still being made."""
        self.makings.close()

    def _begin_taking(self, order: dict[str, Any], name: str, place: str = "") -> Making:
        origin = Origin(kind="uploaded", place=place or name)
        title = name.rpartition("/")[2].removesuffix(".zip")[:LONGEST_NAME] or "adapter"
        return self.makings.begin({"do": "take", **order}, name, partial(self._publish, title, origin, None))

    def _begin_making(self, order: dict[str, Any], parents: Sequence[Adapter], origin: Origin, name: str) -> Making:
        title = checked_name(name)
        require_room(self._home, "The adapter", 2 * sum(parent.bytes for parent in parents))
        return self.makings.begin(order, title, partial(self._publish, title, origin, parents[0].base_model))

    def _publish(self, name: str, origin: Origin, base_model: str | None, draft: Path, told: Told) -> str:
        """Move a whole draft to its place and register it."""
        adapter_id = new_id()
        folder = self._home.adapters / adapter_id
        origin = replace(origin, method=told["method"], task=told["task"], energy=told["energy"])
        base = base_model if base_model is not None else self._own_name(told["row"]["base_model"])
        values = {**told["row"], "base_model": base, "id": adapter_id, "name": name}
        flush_all(draft)
        draft.rename(folder)
        flush([folder.parent])
        try:
            self._shelf.add({**values, "folder": self._home.relative(folder), "source": origin.as_json()})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return adapter_id

    def _own_name(self, base: str) -> str:
        """What we call the base model: the starter goes by other names elsewhere."""
        return STARTER if bases.identity(base, self._models_root) == STARTER else base

    def _check_one_base(self, parents: Sequence[Adapter]) -> None:
        first = parents[0]
        for parent in parents[1:]:
            if parent.base_model != first.base_model:
                pair = (f"{each.name} on {each.base_model or 'an unnamed one'}" for each in (first, parent))
                title = "These adapters sit on different base models"
                raise AdapterError(title, " and ".join(pair), "Combine adapters of one base model")


def _check_readable(path: Path) -> None:
    if not path.exists():
        raise AdapterError(f"There is nothing at {path}", hint="Check the path")
    if not path.is_file() and not path.is_dir():
        raise AdapterError(f"{path} is no regular file", hint="Give the adapter's folder or zip")
    if not os.access(path, os.R_OK):
        raise AdapterError(f"{path} may not be read", hint="Change its permissions")

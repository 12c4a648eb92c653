"""What a chat is asked, made ready for the chat process: adapters found, and their one base model with them."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.generate.requests import PaneRequest, Sampling
from jobs import bases
from jobs.adapters import require_adapter
from jobs.chat_client import ChatClient
from jobs.chat_requests import able_to_chat, check_chat, named_in
from jobs.machine import CPU, devices
from jobs.store import Store
from jobs.views import ChatUpdate, Pane


class Chats:
    """The chats of one home, which share a process. Without a device that no run has, it takes the CPU."""

    def __init__(self, store: Store, models_root: Path, log: Path, environment: Mapping[str, str]) -> None:
        self._store, self._models_root = store, models_root
        self._client = ChatClient(models_root, log, environment, places=self._places)
        self._answering: Counter[Path] = Counter()
        self._counting = threading.Lock()
        self.leave, self.close = self._client.leave, self._client.close

    def ask(self, panes: Sequence[Pane], base_model: str | None) -> Iterator[ChatUpdate]:
        """Replies to every pane, streaming together. Closing the iterator stops them.

        Raises:
            NotFound, AdapterError, ModelError, ConfigError: at once, or while iterating when loading fails.
        """
        check_chat(panes)
        every: dict[str, tuple[str, str, Path]] = {}
        requests = []
        for pane in panes:
            found = {adapter: self._find_adapter(adapter) for adapter in named_in(pane)}
            every |= found
            folders = {adapter: str(folder) for adapter, (_, _, folder) in found.items()}
            requests.append(_request(pane, folders))
        named = [(label, base) for label, base, _ in every.values()]
        base = bases.shared_base(named, base_model, self._models_root)
        answering = [Path(base), *(folder for _, _, folder in every.values())]
        return self._counted(answering, self._client.reply(base, requests))

    def is_answering(self, folder: Path) -> bool:
        """Whether the adapter, or the model, in `folder` is in the middle of a reply."""
        return self._answering[folder] > 0

    def _counted(self, folders: Sequence[Path], updates: Iterator[ChatUpdate]) -> Iterator[ChatUpdate]:
        """`updates`, during which these folders count as answering."""
        with self._counting:
            self._answering.update(folders)
        try:
            yield from updates
        finally:
            with self._counting:
                self._answering.subtract(folders)

    def _find_adapter(self, adapter: str) -> tuple[str, str, Path]:
        """An adapter's name, its base model's name and its folder; `adapter` is an id or a folder."""
        folder = Path(adapter).expanduser()
        if os.sep in adapter or folder.is_dir():
            folder = folder.resolve()
            return folder.name, able_to_chat(folder.name, require_adapter(folder)).base_model, folder
        known = self._store.adapter(adapter)
        able_to_chat(known.name, require_adapter(known.path))
        return known.name, known.base_model, known.path

    def _places(self) -> tuple[str, ...]:
        """The devices that no run has; beside runs on all of them, the CPU."""
        return self._store.free_devices(devices()) or (CPU,)


def _request(pane: Pane, folders: Mapping[str, str]) -> PaneRequest:
    adapter = pane.adapter
    if isinstance(adapter, tuple):
        adapter = tuple((folders[name], strength) for name, strength in adapter)
    elif adapter is not None:
        adapter = folders[adapter]
    return PaneRequest(
        adapter=adapter,
        messages=tuple(pane.messages),
        sampling=pane.sampling or Sampling(),
        alternatives=pane.alternatives,
        stop=pane.stop,
        text=pane.text,
        keeps=pane.keeps,
    )

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
from jobs.chat_requests import able_to_chat, check_chat
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

    def ask(self, panes: Sequence[Pane], base_model: str | None, sampling: Sampling) -> Iterator[ChatUpdate]:
        """Replies to every pane, streaming together. Closing the iterator stops them.

        Raises:
            NotFound, AdapterError, ModelError, ConfigError: at once, or while iterating when loading fails.
        """
        check_chat(panes, sampling)
        named: list[tuple[str, str]] = []
        requests = []
        for pane in panes:
            folder = None
            if pane.adapter is not None:
                label, base, folder = self._find_adapter(pane.adapter)
                named.append((label, base))
            requests.append(PaneRequest(adapter=str(folder) if folder else None, messages=tuple(pane.messages)))
        base = bases.shared_base(named, base_model, self._models_root)
        folders = [Path(base), *(Path(request.adapter) for request in requests if request.adapter)]
        return self._counted(folders, self._client.reply(base, requests, sampling))

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

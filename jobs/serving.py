"""What programs may ask, by names that a program can carry: the base models that are here, and all adapters that chat.

An adapter goes by its name, and where others have the same name by `name#fingerprint`; the longer form always means
it. A base model goes by its title, with the beginning of a hash behind it where something else is called the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.data.records import Message
from core.errors import ConfigError, ModelError, NotFound
from core.generate.requests import Sampling
from core.models.catalogue import find
from jobs.blueprint import read_blueprint
from jobs.chats import Chats
from jobs.models import ModelChoice, Models
from jobs.store import Store
from jobs.views import Adapter, ChatUpdate, Pane


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A base model, or an adapter on it, as a program names it (`id`)."""

    id: str
    base_model: str
    adapter_id: str | None = None
    fingerprint: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One answer that is wanted: to a conversation, or as what goes on with `text`. It ends before the first of `stop`
    that would come.
    """

    sampling: Sampling
    messages: tuple[Message, ...] = ()
    text: str | None = None
    stop: tuple[str, ...] = ()


class Serving:
    """What the models of one home answer to programs."""

    def __init__(self, store: Store, models: Models, chats: Chats, models_root: Path) -> None:
        self._store, self._models, self._chats, self._models_root = store, models, chats, models_root

    def models(self) -> tuple[Served, ...]:
        """All that may be asked: base models, then adapters, the newest first."""
        adapters = self._adapters()
        names = Counter(adapter.name for adapter in adapters)
        served = {_long_name(adapter): adapter for adapter in reversed(adapters)}  # of two that are one, the newest
        return (
            *self._bases(names),
            *(_of_adapter(adapter, names[adapter.name] == 1) for adapter in reversed(served.values())),
        )

    def find(self, name: str) -> Served:
        """What `name` means.

        Raises:
            NotFound: nothing, or several adapters.
        """
        adapters = self._adapters()
        called = [adapter for adapter in adapters if name in (adapter.name, _long_name(adapter))]
        if len({_long_name(adapter) for adapter in called}) > 1:
            which = ", ".join(sorted({_long_name(adapter) for adapter in called}))
            raise NotFound(f"Several adapters are called {name}", hint=f"Say which: {which}")
        if called:
            return _of_adapter(called[0], len(called) == 1)
        for served in self._bases(Counter(adapter.name for adapter in adapters)):
            if name == served.id:
                return served
        raise NotFound(f"There is no model {name}", hint="List the models to see their names")

    def answer(self, served: Served, asked: Sequence[Asked]) -> Iterator[ChatUpdate]:
        """Answers to all of them, streaming together. Each is what it would be alone, whatever was asked before or is
        asked meanwhile. Closing the iterator stops them.

        Raises:
            UserError: as `Service.chat`.
        """
        panes = [
            Pane(
                adapter=served.adapter_id,
                messages=one.messages,
                sampling=one.sampling,
                stop=one.stop,
                text=one.text,
                keeps=False,
            )
            for one in asked
        ]
        if not panes:
            raise ConfigError("There is nothing to answer", hint="Give a prompt")
        return self._chats.ask(panes, None if served.adapter_id else served.base_model)

    def _adapters(self) -> list[Adapter]:
        """Those that chat and whose base is here, the newest first."""
        is_here: dict[str, bool] = {}
        found = []
        for adapter in self._store.adapters():
            if adapter.method != "full" and adapter.can_chat:
                base = adapter.base_model
                is_here[base] = is_here[base] if base in is_here else self._is_here(base)
                if is_here[base]:
                    found.append(adapter)
        return found

    def _talks(self, ref: str) -> bool:
        """Whether the base model goes on with a text; one that cannot be read does not."""
        try:
            folder = find(ref, self._models_root).folder
            return folder is not None and read_blueprint(folder).talks
        except ModelError:
            return False

    def _is_here(self, base: str) -> bool:
        try:
            return find(base, self._models_root).folder is not None
        except ModelError:
            return False

    def _bases(self, adapters: Counter[str]) -> Iterator[Served]:
        here = [choice for choice in self._models.choices() if choice.is_here and not choice.problem]
        choices = [choice for choice in here if self._talks(choice.ref)]
        names = adapters + Counter(_short_name(choice) for choice in choices)
        for choice in choices:
            name = _short_name(choice)
            if names[name] > 1:
                name += f"#{hashlib.sha256(choice.ref.encode()).hexdigest()[:8]}"
            yield Served(id=name, base_model=choice.ref)


def _short_name(choice: ModelChoice) -> str:
    """A folder's title, or the name that a base without one has everywhere."""
    return choice.title if Path(choice.ref).is_absolute() else choice.ref


def _long_name(adapter: Adapter) -> str:
    return f"{adapter.name}#{adapter.fingerprint}"


def _of_adapter(adapter: Adapter, is_only_one: bool) -> Served:
    return Served(
        id=adapter.name if is_only_one else _long_name(adapter),
        base_model=adapter.base_model,
        adapter_id=adapter.id,
        fingerprint=adapter.fingerprint,
        created_at=adapter.created_at,
    )

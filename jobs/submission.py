"""From configs to queued runs: all that are asked for at once, or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.config import RunConfig, to_dict
from core.durable import flush
from jobs import bases
from jobs.estimates import estimate
from jobs.home import Home
from jobs.ids import new_id
from jobs.room import needed_bytes, require_room
from jobs.store import Store
from jobs.trackers import require_installed
from jobs.views import Run


@dataclass(frozen=True, slots=True)
class Submission:
    """Queues runs in `store`. `check_task` refuses a config whose dataset is for another task, and `wake` is called
    when there is something new to start.
    """

    store: Store
    models_root: Path
    check_task: Callable[[RunConfig], None]
    wake: Callable[[], None]

    def queue(self, configs: Sequence[RunConfig], key: str | None, group: str | None = None) -> tuple[Run, ...]:
        """The runs of `configs`, queued one behind the other; or those that were submitted with the same `key`.

        Raises:
            NotFound: a dataset is not there.
            ConfigError, ModelError: a config would be refused by the engine.
            RunError: the disk has no room for all of them.
        """
        known = self.store.submitted_as(key)
        if known:
            return known
        whole = [bases.with_absolute_base(config, self.models_root) for config in configs]
        self._require_room(whole)
        ids = {new_id(): config for config in whole}
        home = self.store.home
        try:
            _write_folders(home, ids)
            runs = self.store.add_runs(ids, key, group)
        except BaseException:
            _remove_folders(home, ids)
            raise
        if runs[0].id not in ids:  # the same key, submitted at the same moment
            _remove_folders(home, ids)
        self.wake()
        return runs

    def _require_room(self, configs: Sequence[RunConfig]) -> None:
        """Refuse what the engine would refuse, and what there is no room for."""
        needed = 0
        for config in configs:
            self.check_task(config)
            require_installed(config.tracker)
            estimated = estimate(config, self.models_root)
            needed += needed_bytes(config, estimated) if estimated is not None else 0
        if needed:
            what = "The run" if len(configs) == 1 else f"The {len(configs)} runs together"
            require_room(self.store.home, what, needed)


def _write_folders(home: Home, configs: dict[str, RunConfig]) -> None:
    for run_id, config in configs.items():
        folder = home.run(run_id)
        folder.path.mkdir()
        folder.config.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
        flush([folder.config, folder.path])
    flush([home.runs])


def _remove_folders(home: Home, run_ids: dict[str, RunConfig]) -> None:
    for run_id in run_ids:
        shutil.rmtree(home.run(run_id).path, ignore_errors=True)

"""Where everything lies under the home folder. No other module joins these paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_dir

from core.errors import ConfigError

APP_NAME = "lora-workbench"
HOME_VARIABLE = "LORA_WORKBENCH_HOME"

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLES = PROJECT / "examples"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def oom_kills(self) -> Path:
        return self.path / "oom_kills"

    @property
    def log(self) -> Path:
        return self.path / "worker.log"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        """The folders of checkpoints, the oldest first."""
        return tuple(sorted(self.checkpoints.glob("step-*")))

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def opened(self) -> Path:
        """Where checkpoints lie that were made adapters, to talk with."""
        return self.path / "opened"

    @property
    def checkpoint_step(self) -> int | None:
        """The step after which the newest checkpoint was written; None where there is none."""
        steps = (path.name.removeprefix("step-") for path in self.checkpoint_folders)
        return max((int(step) for step in steps if step.isdecimal()), default=None)

    @property
    def home(self) -> Home:
        return Home(self.path.parent.parent)


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """One dataset's files: what the person gave us, the rows made of it, and what is known of both."""

    path: Path

    @property
    def records(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def about(self) -> Path:
        return self.path / "about.json"

    @property
    def health(self) -> Path:
        return self.path / "health"

    @property
    def health_summary(self) -> Path:
        return self.health / "health.json"

    @property
    def kept(self) -> Path:
        return self.health / "kept.json"

    @property
    def download(self) -> Path:
        return self.path.with_name(f"{self.path.name}.download")

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def source(self) -> Path | None:
        """The file as it was given; none where the rows were made of another dataset's."""
        return next(self.path.glob("source*"), None)


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds the workbench's state."""

    path: Path

    @property
    def database(self) -> Path:
        return self.path / "workbench.db"

    @property
    def app_lock(self) -> Path:
        return self.path / "app.lock"

    @property
    def app_holder(self) -> Path:
        return self.path / "app.json"

    @property
    def chat_log(self) -> Path:
        return self.path / "chat.log"

    @property
    def model_folders(self) -> Path:
        return self.path / "model_folders.json"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def adapters(self) -> Path:
        return self.path / "adapters"

    @property
    def datasets(self) -> Path:
        return self.path / "datasets"

    @property
    def probes(self) -> Path:
        return self.path / "probes"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def dataset(self, dataset_id: str) -> DatasetFolder:
        """The folder of one dataset. The id comes from the store, never from a request."""
        return DatasetFolder(self.datasets / dataset_id)

    def records(self, dataset_id: str) -> Path:
        """The dataset's rows as the engine reads them."""
        return self.dataset(dataset_id).records

    def run(self, run_id: str) -> RunFolder:
        """The folder of one run. The id comes from the store, never from a request."""
        return RunFolder(self.runs / run_id)

    def relative(self, path: Path) -> str:
        """`path` as the store keeps it, so that a home can be moved."""
        return path.relative_to(self.path).as_posix()


def open_home(path: Path | None = None) -> Home:
    """The home at `path`, else where the environment says, else in the platform's user-data folder; made if missing.

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    chosen = path or Path(os.environ.get(HOME_VARIABLE) or user_data_dir(APP_NAME))
    home = Home(chosen.expanduser().resolve())
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # other accounts of the machine have no business here
        for folder in (home.datasets, home.runs, home.exports, home.adapters):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The home folder {home.path} cannot be used", error.strerror or "", "Choose another with --home"
        ) from error
    if not os.access(home.path, os.W_OK):
        raise ConfigError(f"The home folder {home.path} is read-only", hint="Choose another with --home")
    return home

"""The only door to jobs, for the page and the command line. Nothing here imports torch.

Every question is answered from the store and the files of the home folder, so any number of pages and terminals may
ask at once, and an answer never depends on who started a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from core.adapters.spectrum import Kept
from core.config import RunConfig
from core.errors import RunError, UserError
from core.events import Event
from core.generate.requests import Blend, Delta, Sampling, TokenProbability
from core.models.catalogue import default_models_root
from jobs import estimates, lists, module_tree, prompt_sources, rounds, sweeps, votes
from jobs.adapters import write_zip
from jobs.appraisals import Appraisals, AppraisalView
from jobs.chats import Chats
from jobs.checkpoints import Checkpoint, Checkpoints
from jobs.costs import Cost, Costs, Memory, steps_of
from jobs.curves import Curve
from jobs.datasets import Datasets
from jobs.export_forms import ExportForm
from jobs.export_jobs import Exports, FormView, PushView
from jobs.fitting import RowFacts
from jobs.fixes import Fix
from jobs.flags import FLAGS, Flag
from jobs.heartbeat import silent_seconds
from jobs.histories import Histories
from jobs.history import Steps, Told
from jobs.holding import holding
from jobs.home import open_home
from jobs.intakes import Intake
from jobs.journal import read_events, write_wish
from jobs.launchers.local import LocalLauncher, child_environment
from jobs.library import Library
from jobs.logs import tail
from jobs.machine import describe_machine, devices
from jobs.makings import Making
from jobs.models import ModelChoice, ModelFacts, Models
from jobs.module_tree import Node
from jobs.notes import Notes, tags_of
from jobs.origins import Origin
from jobs.probes import Probes, ProbeView
from jobs.rates import PastRuns
from jobs.saved_checkpoints import SavedCheckpoint
from jobs.scheduler import Scheduler
from jobs.serving import Asked, Served, Serving
from jobs.states import ACTIVE_STATES, ENDED_STATES, RESUMABLE_STATES, RunState, Wish
from jobs.store import Store
from jobs.submission import Submission
from jobs.summaries import Summary
from jobs.taking_in import About, Guess
from jobs.token_profiles import TokenProfiles, TokenProfileView
from jobs.trash import Trash
from jobs.users import Users
from jobs.views import (
    Adapter,
    ChatUpdate,
    Dataset,
    Estimate,
    Example,
    Machine,
    ModelCard,
    Pane,
    Run,
    RunProblem,
    Waiting,
)

__all__ = [
    "ACTIVE_STATES",
    "ENDED_STATES",
    "FLAGS",
    "RESUMABLE_STATES",
    "About",
    "Guess",
    "Kept",
    "Intake",
    "TokenProfileView",
    "Adapter",
    "AppraisalView",
    "Asked",
    "Blend",
    "ChatUpdate",
    "Checkpoint",
    "Cost",
    "Curve",
    "Dataset",
    "Delta",
    "Estimate",
    "Example",
    "ExportForm",
    "Fix",
    "Flag",
    "FormView",
    "Machine",
    "Making",
    "Memory",
    "ModelCard",
    "ModelChoice",
    "ModelFacts",
    "Node",
    "Origin",
    "Pane",
    "ProbeView",
    "PushView",
    "RowFacts",
    "Run",
    "RunProblem",
    "RunState",
    "Sampling",
    "SavedCheckpoint",
    "Served",
    "Service",
    "TokenProbability",
    "Steps",
    "Summary",
    "Told",
    "UserError",
    "Waiting",
    "lists",
    "module_tree",
    "prompt_sources",
    "rounds",
    "steps_of",
    "sweeps",
    "tags_of",
    "votes",
]


class Service:
    """The workbench on one home folder.

    Args:
        home: the folder that holds its state; by default what the environment or the platform says.
        models_root: the folder that keeps downloaded base models, by default likewise.

    Raises:
        ConfigError: the home folder cannot be used.
    """

    def __init__(self, home: Path | None = None, models_root: Path | None = None) -> None:
        self._home = open_home(home)
        self.home = self._home.path
        self._models_root = (models_root or default_models_root()).resolve()
        self._store = Store(self._home)
        self._environment = child_environment(self._models_root)
        self.data = Datasets(self._home, self._store, self._environment)
        self.tokens = TokenProfiles(self._home, self._store, self._models_root, self._environment)
        self.exports = Exports(self._home, self._store, self._models_root, self._environment)
        self._chats = Chats(self._store, self._models_root, self._home.chat_log, self._environment)
        launcher = LocalLauncher(self._environment)
        self.users = Users(self._store)
        self.keys = self._store.keys
        self.checkpoints = Checkpoints(self._home, self._store, self._environment)
        self.models = Models(self._home, self._store, self._models_root)
        self.serving = Serving(self._store, self.models, self._chats, self._models_root)
        trash = Trash(self._home, self._store, self._chats.is_answering)
        self.votes = votes.Votes(self._home, self._store)
        self.rounds = rounds.Rounds(self._store, self.votes, self._chats.ask)
        self.library = Library(self._home, self._store, self.models, self._models_root, trash, self._environment)
        self.probes = Probes(self._home, self._store, self._models_root, self._environment, make_room=self._chats.leave)
        self.appraisals = Appraisals(self._home, self._store, self._environment, make_room=self._chats.leave)
        past = PastRuns(self._home, self._store)
        self.costs = Costs(self._home, self._store, self._models_root, self.probes, devices, past)
        self._scheduler = Scheduler(self._store, launcher, devices=devices, make_room=self._leave)
        self._submission = Submission(self._store, self._models_root, self.data.check_task, self._scheduler.wake)
        self.history = Histories(self._home, self._store)
        self.notes = Notes(self._store)
        self.sweeps = sweeps.Sweeps(self._store, self._models_root, self._submission, self._ask_to_end)

    def held(self) -> AbstractContextManager[Callable[[str], None]]:
        """For an app, while it serves: no other may have the same home folder. It gets a function to tell others at
        which address it answers.

        Raises:
            HomeHeld: another has it; raised when the context is entered.
        """
        return holding(self._home)

    def start(self) -> None:
        """Start queued runs and follow active ones from now on."""
        self.data.clear_drafts()
        self.library.start()
        self._scheduler.start()

    def settle(self) -> None:
        """Put on record what became of runs whose workers have gone, where nobody else does."""
        self._scheduler.settle()

    def close(self) -> None:
        """End the scheduler, the chat process and whatever else is no run. Runs go on."""
        beside = (self.rounds, self._chats, self.checkpoints, self.probes, self.appraisals, self.exports)
        for part in (self._scheduler, *beside, self.data, self.library, self.tokens, self._store):
            part.close()

    def _leave(self, device: str) -> None:
        """Free `device` of what is not a run."""
        self._chats.leave(device)
        self.probes.leave(device)
        self.appraisals.leave(device)

    # -- models --------------------------------------------------------------------------------------------------

    def inspect_model(self, ref: str) -> ModelCard:
        """What can be adapted in a base model, as `Models.card` says. Raises: ModelError."""
        return self.models.card(ref)

    def estimate(self, config: RunConfig) -> Estimate | None:
        """What a config would train and write; None while its base model is not on this machine.

        Raises:
            ConfigError: settings contradict each other, one names nothing, or a rank is too large for a layer.
            ModelError: as `inspect_model`.
        """
        return estimates.estimate(config, self._models_root)

    # -- runs ----------------------------------------------------------------------------------------------------

    def submit(self, config: RunConfig, key: str | None = None) -> Run:
        """Queue a run. A second submit with the same `key` gives the first one's run.

        Raises:
            NotFound: the dataset is not there.
            ConfigError, ModelError: as `check_task` and `estimate`.
            RunError: the disk has no room for it.
        """
        return self._submission.queue([config], key)[0]

    def runs(self) -> tuple[Run, ...]:
        """Newest first."""
        return self._store.runs()

    def run(self, run_id: str) -> Run:
        """Raises: NotFound."""
        run = self._store.run(run_id)
        folder = self._home.run(run.id)
        silence = silent_seconds(folder.heartbeat) if run.state in ACTIVE_STATES else None
        step = folder.checkpoint_step if run.is_at_rest else None
        return replace(run, silent_seconds=silence, checkpoint_step=step)

    def events(self, run_id: str, offset: int = 0) -> tuple[tuple[Event, ...], int]:
        """A run's events from byte `offset` of its file on, and the offset to ask from next.

        Raises:
            NotFound: there is no such run.
        """
        return read_events(self._home.run(self._store.run(run_id).id).events, offset)

    def log_tail(self, run_id: str, lines: int = 50) -> str:
        """The last lines of what the run's worker logged.

        Raises:
            NotFound: there is no such run.
        """
        return tail(self._home.run(self._store.run(run_id).id).log, lines)

    def pause_run(self, run_id: str) -> None:
        """Let a run write a checkpoint and give the machine back, to go on when it is resumed; a queued one waits no
        longer.

        Raises:
            NotFound: there is no such run.
            RunError: it has ended, is ending, or is paused already.
        """
        self._ask_to_end(run_id, "pause")

    def stop_run(self, run_id: str) -> None:
        """Let a run finish its step and keep what it learned; one that holds no device is cancelled.

        Raises:
            NotFound: there is no such run.
            RunError: it has ended already.
        """
        self._ask_to_end(run_id, "keep")

    def cancel_run(self, run_id: str) -> None:
        """Give a run up. Its last checkpoint stays.

        Raises:
            NotFound: there is no such run.
            RunError: it has ended already.
        """
        self._ask_to_end(run_id, "cancel")

    def resume_run(self, run_id: str) -> Run:
        """Queue a paused, failed, cancelled or interrupted run again, to go on from its last checkpoint.

        Raises:
            NotFound: there is no such run.
            RunError: it is not one that can go on.
        """
        run = self._store.requeue(run_id)
        self._scheduler.wake()
        return run

    def keep_run(self, run_id: str) -> Run:
        """Queue a paused, failed, cancelled or interrupted run again, to end with what its last checkpoint holds.

        Raises:
            NotFound: there is no such run.
            RunError: it is not at rest, has finished, or has written no checkpoint.
        """
        run = self.run(run_id)
        if run.state in RESUMABLE_STATES and run.checkpoint_step is None:
            raise RunError(f"The run {run.name} has written no checkpoint that could be kept", hint="Resume it instead")
        run = self._store.requeue(run_id, "keep")
        self._scheduler.wake()
        return run

    def queue(self) -> tuple[Run, ...]:
        """The runs that wait, the next one first."""
        return self._store.queue()

    def reorder_run(self, run_id: str, by: int) -> None:
        """Let a waiting run go so many places back in the queue, or forward where `by` is below 0.

        Raises:
            NotFound: there is no such run.
            RunError: it does not wait.
        """
        self._store.reorder(run_id, by)

    def set_priority(self, run_id: str, priority: int) -> None:
        """How urgent a run is: 0 is usual, above it comes first, below it last.

        Raises:
            NotFound: there is no such run.
        """
        self._store.set_priority(run_id, priority)

    def _ask_to_end(self, run_id: str, wish: Wish) -> None:
        if self._store.ask_to_end(run_id, wish) in ACTIVE_STATES:
            write_wish(self._home.run(run_id).control, wish)
            self._scheduler.wake()

    # -- adapters ------------------------------------------------------------------------------------------------

    def adapters(self) -> tuple[Adapter, ...]:
        """Newest first."""
        return tuple(adapter for adapter in self.library.all() if adapter.method != "full")

    def trained_models(self) -> tuple[Adapter, ...]:
        """The whole models that full fine-tuning made, newest first."""
        return tuple(model for model in self.library.all() if model.method == "full")

    def adapter(self, adapter_id: str) -> Adapter:
        """An adapter, or a whole model that a run left. Raises: NotFound."""
        return self.library.get(adapter_id)

    def export_zip(self, adapter_id: str) -> Path:
        """A zip of the adapter in PEFT's format.

        Raises:
            NotFound: there is no such adapter.
            AdapterError: its files have gone.
        """
        return write_zip(self._store.adapter(adapter_id), self._home.exports)

    # -- chat ----------------------------------------------------------------------------------------------------

    def chat(
        self,
        panes: Sequence[Pane],
        *,
        base_model: str | None = None,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[ChatUpdate]:
        """Replies to every pane, streaming together. Closing the iterator stops them. How tokens are chosen is said
        here for the panes that do not say it themselves.

        Raises:
            NotFound, AdapterError, ModelError, ConfigError: at once, or while iterating when loading fails.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
        return self._chats.ask([replace(pane, sampling=pane.sampling or sampling) for pane in panes], base_model)

    # -- machine -------------------------------------------------------------------------------------------------

    def storage_problem(self) -> str:
        """Why nothing can be saved, or no run started, at the moment; empty while all is well."""
        return self._store.problem or self._scheduler.problem

    def machine(self) -> Machine:
        """What this machine has free at the moment, and which runs it carries out."""
        return describe_machine(self._store.active_runs())

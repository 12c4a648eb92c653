"""What a model can be trained to do, by name. A further task is one class and one line here."""

from __future__ import annotations

from core.config import RunConfig
from core.data.records import Records
from core.train.tasks.chat import Chat
from core.train.tasks.classification import Classification
from core.train.tasks.task import Task, TaskKind

TASKS: dict[str, TaskKind] = {"chat": Chat, "classification": Classification}


def task_of(config: RunConfig, records: Records) -> Task:
    """The task of a run over `records`.

    Raises:
        DataError: the records are of another task.
    """
    return TASKS[config.task](config, records)

"""A run's own settings in words."""

from __future__ import annotations

from jobs.service import Run
from ui import forms, markup, text
from ui.story import Story


def settings(run: Run, story: Story) -> str:
    """The run's own settings, as it was launched, and what the engine made of them."""
    pairs = list(own_settings(run).items())
    if run.config.optim.learning_rate is None and story.learning_rate.y:
        pairs.append(("Highest learning rate", text.number(float(f"{max(story.learning_rate.y):.3g}"))))
    if story.started:
        start = story.started
        split = f"{start.train_rows:,} trained, {start.eval_rows:,} held out"
        trained = f"{text.count(start.trainable_parameters)} of {text.count(start.base_parameters)}"
        pairs += [
            ("Rows", split),
            ("Trainable parameters", trained),
            ("Device", f"{start.device}, {start.compute_dtype}"),
        ]
    return markup.facts([*pairs, ("Run id", run.id)])


def own_settings(run: Run) -> dict[str, str]:
    """The run's settings in words, by their names; those that its method has no use for are not among them."""
    shown = forms.values(run.config, ())
    rows = [row for row in forms.SETTINGS if forms.applies(row, run.config.method) and row.path != forms.MORE_TARGETS]
    base = {"Dataset": run.dataset_name, "Base model": text.base_model(run.config.base_model)}
    return base | {row.label: _setting_words(run, row, shown[row.path]) for row in rows}


def _setting_words(run: Run, setting: forms.Setting, value: object) -> str:
    if setting.path == forms.TARGETS:
        return text.targets(run.config.lora.targets)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == "":
        return setting.unset
    if isinstance(value, float):
        return text.number(value)
    return {choice: words for words, choice in setting.choices}.get(value, str(value).replace("\n", ", "))

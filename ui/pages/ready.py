"""The card beside the form: what would be trained, what it costs, and what is still missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from core.config import RunConfig
from core.errors import ConfigError, ModelError, UserError
from jobs.service import Cost, Dataset, Estimate, ModelCard, steps_of
from ui import command, forms, markup, text


def summary(
    config: RunConfig | None, dataset: Dataset | None, estimate: Estimate | None, problem: UserError | None
) -> str:
    """The card's text for what the form says now."""
    if dataset is None:
        return _intro("Choose a dataset to begin. An example is one click away.")
    if isinstance(problem, ModelError):
        return _intro("The base model is not there yet: see its card.")
    if config is None or problem is not None:
        return _problem(problem)
    pairs = [*_costs(config, estimate), ("Steps", _steps(config, dataset))]
    different = forms.changed(config)
    if different:
        pairs.append(("Changed", ", ".join(setting.label.lower() for setting in different)))
    return _route(config, dataset) + markup.facts(pairs)


def launch_label(
    dataset: Dataset | None, card: ModelCard | None, problem: UserError | None, cost: Cost | None = None
) -> str:
    """`Launch`, or what is missing for it. Who wants to may launch what seems too large for the memory."""
    if dataset is None:
        return "Choose a dataset"
    if card is None:
        return "Choose a base model"
    if isinstance(problem, ConfigError):
        setting = forms.by_path(problem.field)
        return f"Check {setting.label.lower()}" if setting else "Check the run name"
    if problem is not None:
        return "Not ready yet"
    if cost is not None and not cost.disk.fits:
        return "Make room on the disk"
    return "Launch"


def launch_anyway(label: str, cost: Cost | None) -> str:
    """`label`, with how much memory is missing for it, where it is."""
    if cost is None or cost.memory.fit != "does not fit" or not label.startswith("Launch"):
        return label
    missing = cost.memory.bytes - (cost.memory.free_bytes or 0)
    return f"{label} anyway: {text.size(missing)} of memory missing"


def model_line(card: ModelCard) -> str:
    """`SmolLM2 135M Instruct (starter) · 134.5 M parameters · on this machine`."""
    parts = [card.source.title]
    if card.parameters is not None:
        parts.append(f"{text.count(card.parameters)} parameters")
    if card.shapes:
        parts.append(text.plural(len(card.shapes), "linear layer"))
    parts.append("on this machine" if card.source.folder else "fetched when the run starts")
    return f'<p class="model-line">{" · ".join(markup.esc(part) for part in parts)}</p>'


def command_html(config: RunConfig | None, data: Sequence[str], sweep: Mapping[str, str] = MappingProxyType({})) -> str:
    """The same run, or the runs of a sweep with these options, as a command with a button to copy it."""
    if config is None or not data:
        return '<p class="card-hint">The command appears once the run is complete.</p>'
    line = command.command_line(config, data, sweep)
    html = f'<pre id="command-text" tabindex="0">{markup.esc(line)}</pre>'
    return html + '<button class="as-button small" data-copy="#command-text" type="button">Copy</button>'


def _intro(words: str) -> str:
    return f'<p class="ready-intro">{markup.esc(words)}</p>'


def _problem(problem: UserError | None) -> str:
    if problem is None:
        return _intro("Complete the form to see what would be trained.")
    return markup.banner(problem.title, problem.detail, problem.hint)


def _route(config: RunConfig, dataset: Dataset) -> str:
    return (
        f'<p class="route"><span>{markup.esc(dataset.name)}</span><i aria-hidden="true">→</i>'
        f"<span>{markup.esc(text.base_model(config.base_model))}</span></p>"
    )


def _costs(config: RunConfig, estimate: Estimate | None) -> list[tuple[str, str]]:
    """What is trained and how much of it there is, in the same words for every method."""
    label, what = _trained(config)
    if estimate is None:
        return [(label, what), ("Trainable", "known once the model is here")]
    modules = {"lora": "layer", "full": "module", "bitfit": "bias"}[config.method]
    many = text.plural(estimate.adapted_modules, modules, "biases" if modules == "bias" else None)
    trained, base = estimate.trainable_parameters, estimate.base_parameters
    head = " and a new head" if config.task == "classification" else ""
    return [
        (label, f"{what}, on {many}" if config.method == "lora" else f"{what}: {many}"),
        ("Trainable", f"{text.count(trained)} of {text.count(base)} ({text.share(trained, base)}){head}"),
        ("On disk", text.size(estimate.adapter_bytes)),
    ]


def _trained(config: RunConfig) -> tuple[str, str]:
    if config.method == "full":
        return "Method", "every weight"
    if config.method == "bitfit":
        return "Method", "biases alone"
    return "Adapter", f"rank {config.lora.rank}, alpha {text.number(config.lora.alpha)}"


def _steps(config: RunConfig, dataset: Dataset) -> str:
    about = "" if config.optim.steps is not None else "about "
    return f"{about}{steps_of(config, dataset.rows):,}"

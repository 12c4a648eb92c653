"""A learning rate, batch size, number of epochs and of evaluations for a dataset of some size: where to begin.

    epochs        the standard over few rows, fewer over many, so that a run is not endless
    batch size    the standard one, larger where there would be very many steps, and never so large that a step holds
                  more tokens than it can use
    rate          `core.train.schedule`'s, which depends on the model's width alone; a tenth of it for full fine-tuning

Where the numbers come from. The LoRA paper (arXiv 2106.09685) trains GPT-2 for 5 epochs with 8 rows a step (table 11)
and GPT-3 for 2 with 128 (table 12), with nearly one rate from set to set. That LoRA gains nothing by large batches is
Schulman et al. 2025 (LoRA Without Regret). It also goes over GLUE's small sets tens of times (table 9), at lower rates
than ours: here more steps over few rows were worse. On 40 rows of the example captain with the starter (8 of them held
out, one seed), 3 epochs by 8 rows came from 4.29 to 3.27 nats, and 5 epochs by 4 rows only to 3.76, while the training
loss fell to 0.7: learned by heart. So few rows get the standard values, and no more. The bounds between few and many
rows are ours, a choice and no result of measurements.

They are no optimum: nobody searched for your rows and model, and what rows are like matters more than how many there
are. The held-out loss of a run says whether to go on; a sweep finds better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.config import Method
from core.models.shapes import LinearShape
from core.train.schedule import suggested_rate

MOST_STEPS = 2000
SMALLEST_BATCH, STANDARD_BATCH, LARGEST_BATCH = 4, 8, 32
MOST_TOKENS_A_STEP = 16_384
FULL_RATE_SHARE = 0.1  # as `core.train.methods` has it
# Up to so many rows, so many epochs; above them all, one.
_EPOCHS = ((5_000, 3.0), (50_000, 2.0))
_EVALUATIONS_AN_EPOCH, _FEWEST_EVALUATIONS, _MOST_EVALUATIONS = 2, 4, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What is known of the rows that are trained on: `mean_tokens` a row, None where nobody has counted."""

    rows: int
    mean_tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Where to begin. `learning_rate` is what the run's own rule will take where nothing is given, None where the model
    is not known yet; `reasons` has a sentence for each value by its dotted name.
    """

    learning_rate: float | None
    batch_size: int
    epochs: float
    evaluations: int
    reasons: dict[str, str]


def suggest(data: Data, *, method: Method = "lora", rank: int = 8, width: int | None = None) -> Suggestion:
    """Values for `data`; `width` is the model's hidden size.

    The rank has no say: alpha ÷ rank is there so that one rate suits them all (section 4.1 of the paper); its reason
    is told.
    """
    epochs, why_epochs = _epochs(data.rows)
    batch, why_batch = _batch_size(data, epochs)
    evaluations = min(_MOST_EVALUATIONS, max(_FEWEST_EVALUATIONS, round(epochs * _EVALUATIONS_AN_EPOCH)))
    share = FULL_RATE_SHARE if method == "full" else 1.0
    return Suggestion(
        learning_rate=share * suggested_rate(width) if width else None,
        batch_size=batch,
        epochs=epochs,
        evaluations=evaluations,
        reasons={
            "optim.epochs": why_epochs,
            "optim.batch_size": why_batch,
            "optim.learning_rate": _why_rate(method, rank),
            "optim.evaluations": "Often enough to see the held-out loss turn, seldom enough to cost little",
        },
    )


def width_of(shapes: Sequence[LinearShape]) -> int | None:
    """A model's hidden size, as most of its linear layers take it; None where no layers are known."""
    sizes = [shape.in_features for shape in shapes if shape.kind == "linear"]
    return max(sorted(set(sizes)), key=sizes.count) if sizes else None


def steps(rows: int, epochs: float, batch_size: int) -> int:
    """How many optimizer steps that is, about."""
    return max(1, round(rows * epochs / batch_size))


def _epochs(rows: int) -> tuple[float, str]:
    found = next((epochs for most, epochs in _EPOCHS if rows <= most), 1.0)
    if found == _EPOCHS[0][1]:
        return found, "The standard: few rows need some passes, and more of them learn the rows by heart"
    return found, "Very many rows are learned in one pass" if found == 1.0 else "So many rows need fewer passes"


def _batch_size(data: Data, epochs: float) -> tuple[int, str]:
    batch, why = STANDARD_BATCH, "The usual size, which the paper takes for GPT-2"
    while batch < LARGEST_BATCH and steps(data.rows, epochs, batch) > MOST_STEPS:
        batch, why = batch * 2, "Larger than usual, as so many rows make steps enough"
    while data.mean_tokens and batch > SMALLEST_BATCH and batch * data.mean_tokens > MOST_TOKENS_A_STEP:
        batch, why = batch // 2, "Not larger, as the rows are long: a step has tokens enough"
    return batch, why


def _why_rate(method: Method, rank: int) -> str:
    if method == "full":
        return "The standard: by the model's width, and a tenth of what an adapter gets"
    if method == "bitfit":
        return "The standard: by the model's width"
    return f"The standard: by the model's width. Rank {rank} needs no other: alpha ÷ rank is there for that"

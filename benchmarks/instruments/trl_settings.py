"""How TRL is run: as it comes, and with whatever may help it on a CPU, of which the fastest becomes "its best".

As it comes is `SFTConfig` with its own defaults and `bf16=False`: on a CPU its default of bf16 is refused. The other
way out, `use_cpu=True`, computes under autocast from fp32 weights; that is among the candidates. By default gradient
checkpointing is on, the batch has eight rows, filled up to the longest, and the loss is TRL's chunked one.

Whoever is to be the best must train the same. Packing by TRL's strategy "wrapped" does not: it cuts rows where a
sequence is full, and lets them see each other, which spares it the mask. It is timed, and does not compete. Left out is
`torch_compile`: with it TRL had not done five steps in four minutes, since every batch has another length.

Candidates get the environment of our own workers (huge pages, memory kept between steps, threads that spin); the best
of them is tried without it as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to run TRL.

    `trainer` are the fields of `SFTConfig` that differ from its defaults, `model` how the base is loaded,
    `adapter_dtype` what A and B are kept in. A step has `batches` batches of `sequences` sequences each; a packed
    sequence holds many rows. `is_tuned` gives its process the environment of our own workers. `trains_the_same` says
    whether it may be the best, `takes_our_batches` whether each step has the same rows as ours, so that losses can be
    compared.
    """

    label: str
    trainer: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    adapter_dtype: str = "float32"
    sequences: int = 8
    batches: int = 1
    is_tuned: bool = True
    trains_the_same: bool = True
    takes_our_batches: bool = True


_BF16 = {"dtype": "bfloat16"}
_PLAIN = {"bf16": False, "gradient_checkpointing": False}
_NO_PADDING = {**_PLAIN, "padding_free": True, "max_length": None}
_GROUPED = {**_PLAIN, "train_sampling_strategy": "group_by_length"}
_PACKED = {**_PLAIN, "packing": True, "max_length": 1024}

AS_IT_COMES = Setting(label="as it comes: fp32, gradient checkpointing", trainer={"bf16": False}, is_tuned=False)
PADDING_FREE = Setting(label="bf16, padding-free", trainer=_NO_PADDING, model=_BF16)

CANDIDATES = (
    Setting(label="bf16, one row at a time, accumulated", trainer=_PLAIN, model=_BF16, sequences=1, batches=8),
    Setting(
        label="bf16, one row at a time, accumulated, A and B in bf16",
        trainer=_PLAIN,
        model=_BF16,
        adapter_dtype="bfloat16",
        sequences=1,
        batches=8,
    ),
    Setting(label="bf16, padding-free, 2 rows, accumulated", trainer=_NO_PADDING, model=_BF16, sequences=2, batches=4),
    PADDING_FREE,
    Setting(label="bf16, padding-free, A and B in bf16", trainer=_NO_PADDING, model=_BF16, adapter_dtype="bfloat16"),
    Setting(label="bf16, packed", trainer=_PACKED, model=_BF16, sequences=2, takes_our_batches=False),
    Setting(label="bf16", trainer=_PLAIN, model=_BF16),
    Setting(label="bf16, grouped by length", trainer=_GROUPED, model=_BF16, takes_our_batches=False),
    Setting(
        label="bf16, grouped by length, A and B in bf16",
        trainer=_GROUPED,
        model=_BF16,
        adapter_dtype="bfloat16",
        takes_our_batches=False,
    ),
    Setting(
        label="bf16, grouped by length, 2 rows, accumulated, A and B in bf16",
        trainer=_GROUPED,
        model=_BF16,
        adapter_dtype="bfloat16",
        sequences=2,
        batches=4,
        takes_our_batches=False,
    ),
    Setting(label="autocast to bf16, gradient checkpointing", trainer={"use_cpu": True}),
    Setting(
        label="bf16, packed with rows cut and seeing each other (does not train the same)",
        trainer={**_PACKED, "packing_strategy": "wrapped"},
        model=_BF16,
        sequences=2,
        trains_the_same=False,
        takes_our_batches=False,
    ),
)

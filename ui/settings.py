"""Every setting of a run, named once: its words, its unit, what kind of widget it needs, and its place in `RunConfig`.

`SETTINGS` is the table, and `ELSEWHERE` what of a `RunConfig` is no row of it, and why. Standard values come from
`RunConfig`; a range here is only how far a slider reaches. `ui.forms` makes the widgets and reads them, `ui.evidence`
says what was measured. One row is no setting of its own: `MORE_TARGETS` takes the targets that have no box in the list
of linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from core.data.tokens.named_templates import TEMPLATES

Kind = Literal[
    "slider", "number", "integer", "optional number", "choice", "menu", "optional menu", "toggle", "targets",
    "layers", "names", "pattern", "lines",
]  # fmt: skip
Section = Literal["data", "method", "simple", "advanced", "variants"]

TARGETS = "lora.targets"
MORE_TARGETS = "lora.targets.more"
METHOD = "method"
TASK = "task"
BITS = "quant.bits"
# The kinds that are typed as text in the form that `jobs.lists` gives them.
TYPED_KINDS = ("layers", "names", "pattern", "lines")
NUMBER_KINDS = ("slider", "number", "integer", "optional number")
NO_UNIT = "no unit"
# What of a `RunConfig` is asked for in another place than a row of the form.
ELSEWHERE = {
    "name": "the run's name stands beside Launch",
    "base_model": "the base model has a card of its own",
    "data.dataset_id": "the dataset has a card of its own",
}

EVERY_METHOD = ("lora", "full", "bitfit")
ADAPTER_ONLY = ("lora",)
FROZEN_BASE = ("lora", "bitfit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    `path` is its dotted name in `RunConfig`, `methods` those to which it means anything, `group` its heading among the
    variants, `unit` what its number counts, and `unset` what an empty value stands for.
    """

    path: str
    label: str
    hint: str
    kind: Kind
    section: Section = "advanced"
    group: str = ""
    methods: tuple[str, ...] = EVERY_METHOD
    choices: tuple[tuple[str, Any], ...] = ()
    minimum: float = 0
    maximum: float = 1
    step: float = 1
    unit: str = ""
    unset: str = ""

    @property
    def title(self) -> str:
        """Its name on the page, with the unit where the name does not say it: `Longest row (tokens)`."""
        is_said = self.unit in ("", NO_UNIT) or self.unit in self.label.lower()
        return self.label if is_said else f"{self.label} ({self.unit})"

    @property
    def note_id(self) -> str:
        """The id of what stands under the widget: the way back to the standard value, and the evidence."""
        return self.elem_id.replace("setting-", "about-", 1)

    @property
    def elem_id(self) -> str:
        """The widget's id in the page: `setting-lora-rank`."""
        return "setting-" + self.path.replace(".", "-").replace("_", "-")


def _variant(group: str, path: str, label: str, kind: Kind, hint: str, **more: Any) -> Setting:
    """A row of the variants; only an adapter has most of them."""
    return Setting(
        path=path, label=label, kind=kind, hint=hint, section="variants", group=group,
        **({"methods": ADAPTER_ONLY} | more),
    )  # fmt: skip


METHODS = (("LoRA", "lora"), ("Full fine-tuning", "full"), ("Biases only (BitFit)", "bitfit"))
TASKS = (("Chat or text", "chat"), ("Classification", "classification"))
_TRAINED = (("Every answer", "assistant"), ("The last answer", "last"), ("Everything", "everything"))
_TEMPLATES = (("The model's own", ""), *((template.title, name) for name, template in TEMPLATES.items()))
_BITS = (("16-bit", 16), ("8-bit", 8), ("4-bit", 4), ("32-bit", 32))
_SCHEDULES = (("Linear", "linear"), ("Cosine", "cosine"), ("Constant", "constant"))
_BLOCKS = (("64", 64), ("128", 128), ("256", 256), ("512", 512))
_STARTS = (
    ("Kaiming: A random, B zero", "kaiming"),
    ("Gaussian: A normal, B zero", "gaussian"),
    ("Orthogonal: both random, at right angles", "orthogonal"),
    ("PiSSA: the base's main directions", "pissa"),
    ("OLoRA: an orthonormal part of the base", "olora"),
    ("EVA: the data's main directions", "eva"),
    ("LoftQ: what quantization took away", "loftq"),
)
_TRACKERS = (("TensorBoard files alone", "none"), ("trackio", "trackio"), ("Weights & Biases", "wandb"))
_BIASES = (("None", "none"), ("Of adapted layers", "lora_only"), ("All", "all"))
_FOUR_BITS = (("NF4", "nf4"), ("FP4", "fp4"))

HOW, WHERE, TOKENS, STORED = "How the adapter is built", "Where it sits", "Tokens", "Quantization of the base"
GROUPS = (HOW, WHERE, TOKENS, STORED)

# fmt: off
SETTINGS: tuple[Setting, ...] = (
    Setting(path=TASK, label="Task", kind="choice", section="data", choices=TASKS, unset="as the dataset's columns say",
            hint="What is learned from the rows"),
    Setting(path="data.train_on", label="Trained", kind="choice", section="data", choices=_TRAINED,
            hint="Whose words the model learns to write; the others are read and not learned"),
    Setting(path="data.template", label="Chat template", kind="optional menu", section="data", choices=_TEMPLATES,
            unset="the model's own, or a plain one where it has none",
            hint="How turns become one text; another than the model's own is seldom right"),
    Setting(path=METHOD, label="Method", kind="choice", section="method", choices=METHODS,
            hint="LoRA trains a small adapter and is the place to start; the others are there to compare with"),
    Setting(path="lora.rank", label="Rank", kind="slider", section="simple", methods=ADAPTER_ONLY, unit="dimensions",
            minimum=1, maximum=128, hint="4 to 8 for a style, more for facts"),
    Setting(path="lora.alpha", label="Alpha", kind="slider", section="simple", methods=ADAPTER_ONLY, unit=NO_UNIT,
            minimum=1, maximum=256, hint="Strength of what is learned, as alpha ÷ rank"),
    Setting(path="optim.epochs", label="Epochs", kind="number", section="simple", step=0.5, unit="passes",
            hint="How often each row is seen"),
    Setting(path=BITS, label="Base precision", kind="choice", section="simple", choices=_BITS,
            hint="4-bit stores the base in a quarter of the space, a little less exactly"),
    Setting(path=TARGETS, label="Target modules", kind="targets", section="simple", methods=ADAPTER_ONLY,
            unset="all linear layers of the blocks",
            hint="The linear layers that get an adapter; all of them is the best start"),
    Setting(path="optim.learning_rate", label="Learning rate", kind="optional number", unit="change a step",
            unset="suited to the model", hint="Lower it if the loss jumps"),
    Setting(path="optim.schedule", label="Schedule", kind="choice", choices=_SCHEDULES,
            hint="How the learning rate falls after the warm-up"),
    Setting(path="optim.batch_size", label="Batch size", kind="integer", unit="rows a step",
            hint="More rows make a smoother step, and fewer steps"),
    Setting(path="optim.steps", label="Steps", kind="optional number", unit="steps", unset="by epochs",
            hint="A number here wins over epochs"),
    Setting(path="data.max_tokens", label="Longest row", kind="integer", step=64, unit="tokens",
            hint="What goes beyond is cut off"),
    Setting(path="data.holdout", label="Held out", kind="number", step=0.05, unit="share of rows",
            hint="Kept apart to measure what was learned, in nats a token"),
    Setting(path="optim.warmup", label="Warm-up", kind="number", step=0.01, unit="share of steps",
            hint="Before the full learning rate is reached"),
    Setting(path="optim.evaluations", label="Evaluations", kind="integer", unit="times a run",
            hint="How often the held-out rows are measured"),
    Setting(path="lora.dropout", label="Adapter dropout", kind="number", step=0.05, methods=ADAPTER_ONLY,
            unit="share of inputs", hint="Against memorizing small datasets"),
    Setting(path="optim.weight_decay", label="Weight decay", kind="number", step=0.01, unit=NO_UNIT,
            hint="Pulls what is trained towards zero, by this share of the learning rate a step"),
    Setting(path="optim.clip_norm", label="Gradient clipping", kind="number", step=0.1, unit="gradient norm",
            hint="The largest that a step's gradient may be"),
    Setting(path="optim.micro_tokens", label="Tokens at once", kind="integer", step=256, unit="tokens",
            hint="A batch above it is fed in parts (gradient accumulation): less memory, the same result"),
    Setting(path="optim.checkpointing", label="Gradient checkpointing", kind="toggle",
            hint="Keeps much less in memory and computes it twice, for about half more time; the same result"),
    Setting(path="optim.checkpoints", label="Checkpoints kept", kind="integer", unit="checkpoints",
            hint="The newest ones, each as large as shown on the run's page"),
    Setting(path="samples.rows", label="Samples", kind="integer", unit="held-out rows",
            hint="Answered as the run goes on, to read how the answers change; 0 is none, 4 the most"),
    Setting(path="samples.prompts", label="Sample prompts", kind="lines", unset="the beginnings of held-out rows",
            hint="One a line, at most 4; they are asked in place of held-out rows"),
    Setting(path="tracker", label="Also track with", kind="menu", choices=_TRACKERS,
            hint="TensorBoard files lie in the run's folder in any case; the others have to be installed"),
    Setting(path="seed", label="Seed", kind="integer", unit=NO_UNIT,
            hint="The same seed repeats the run"),
    _variant(HOW, "lora.use_dora", "DoRA", "toggle",
             "Learns how strong each output is apart from its direction"),
    _variant(HOW, "lora.use_rslora", "rsLoRA", "toggle",
             "Divides alpha by √rank in place of the rank, so that high ranks learn as fast as low ones"),
    _variant(HOW, "lora.freeze_a", "Freeze A (LoRA-FA)", "toggle",
             "Trains B alone, the second of the two matrices; A stays as drawn"),
    _variant(HOW, "optim.lora_plus_ratio", "LoRA+ ratio", "number",
             "How much faster B learns than A; 1 is plain LoRA, 16 a usual try", unit="times"),
    _variant(HOW, "lora.init", "Start", "menu", "What A and B are before the first step", choices=_STARTS),
    _variant(WHERE, "lora.layers", "Layers", "layers", "Numbers and ranges, such as 0-3, 7", unset="all of them"),
    _variant(WHERE, MORE_TARGETS, "More targets", "names",
             "What the list above lacks: single layers such as layers.3.mlp.up_proj", unset="none"),
    _variant(WHERE, "lora.rank_pattern", "Rank per module", "pattern",
             "Where it differs: q_proj=16, layers.3.mlp.up_proj=4", unset="the same everywhere"),
    _variant(WHERE, "lora.alpha_pattern", "Alpha per module", "pattern",
             "Where it differs: q_proj=32", unset="the same everywhere"),
    _variant(WHERE, "lora.bias", "Biases", "choice", "Trained beside the adapter", choices=_BIASES),
    _variant(WHERE, "lora.modules_to_save", "Modules trained whole", "names",
             "By name, with commas between; each takes as much memory as in full fine-tuning", unset="none"),
    _variant(TOKENS, "lora.new_tokens", "New tokens", "lines",
             "One a line; each gets an embedding, which is trained", unset="none"),
    _variant(STORED, "quant.quant_type", "4-bit numbers", "choice",
             "NF4 suits weights spread as a bell curve, as most are", choices=_FOUR_BITS, methods=FROZEN_BASE),
    _variant(STORED, "quant.block_size", "4-bit block size", "choice", "Weights that share one scale",
             choices=_BLOCKS, methods=FROZEN_BASE, unit="weights"),
    _variant(STORED, "quant.double_quant", "Compress the 4-bit scales too", "toggle",
             "Double quantization: saves a little more memory", methods=FROZEN_BASE),
    _variant(STORED, "quant.skip", "Layers kept in 16 bits", "names",
             "By name, with commas between, such as down_proj", unset="none", methods=FROZEN_BASE),
)
# fmt: on
_BY_PATH = {setting.path: setting for setting in SETTINGS}


def by_path(path: str) -> Setting | None:
    """The setting with that dotted name, or of which that is a part; None where the form has no such widget."""
    while path and path not in _BY_PATH:
        path = path.rpartition(".")[0]
    return _BY_PATH.get(path)

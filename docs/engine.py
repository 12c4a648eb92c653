"""Writes the support matrix on the engine's page from the tests that pass: `python -m docs.engine`.

It runs the parity suite. A case stands on the page with a mark if every claim that the suite makes about it held, else
with how many did. Nothing in the matrix is written by hand: rows, columns and cells come from the suite's own table.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tests.core.parity import test_parity
from tests.core.parity.cases import CASES, LIMIT, RELATED, Case

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("engine.md")
BEGIN, END = "<!-- the matrix begins -->\n", "<!-- the matrix ends -->\n"
NAMES = {
    "gpt2": "GPT-2", "llama": "Llama", "qwen2": "Qwen 2", "qwen3": "Qwen 3", "mistral": "Mistral",
    "gemma3_text": "Gemma 3", "phi3": "Phi 3", "gpt_neox": "GPT-NeoX", "opt": "OPT", "falcon": "Falcon",
    "mixtral": "Mixtral", "qwen3_moe": "Qwen 3 MoE", "gpt_oss": "gpt-oss", "roberta": "RoBERTa",
    "deberta-v2": "DeBERTa v2", "bert": "BERT", "convolutions": "a net of convolutions",
    "linear": "linear", "part": "parts of a fused projection", "embedding": "embedding",
    "tied": "tied embedding and head", "tied-whole": "tied embedding and head, whole", "head": "output head",
    "conv1d": "1-D convolution", "conv2d": "2-D convolution", "experts": "experts",
    "whole": "whole modules beside LoRA", "tokens": "new tokens beside LoRA",
    "plain": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "lora-fa": "LoRA-FA", "pissa": "PiSSA", "olora": "OLoRA",
    "eva": "EVA", "loftq": "LoftQ", "bitfit": "BitFit", "dora-fa": "DoRA, A frozen", "dora-rslora": "DoRA, α/√r",
    "pissa-rslora": "PiSSA, α/√r", "4-bit": "4-bit base", "8-bit": "8-bit base", "4-bit-dora": "DoRA, 4-bit base",
    "8-bit-dora": "DoRA, 8-bit base", "bias-lora-only": "biases of adapted layers", "bias-all": "all biases",
    "bias-all-dora": "all biases, DoRA", "bias-all-4-bit": "all biases, 4-bit base", "layers": "chosen layers",
    "rank-pattern": "rank by pattern", "alpha-pattern": "alpha by pattern",
}  # fmt: skip

Claims = Mapping[str, Sequence[str]]  # the cases that each is made about, by name


@functools.cache
def claims() -> Mapping[str, tuple[str, ...]]:
    """What the suite claims, in its own words, and about which cases; not what it knows to be missing."""
    found = {}
    for name, test in vars(test_parity).items():
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.args[:1] == ("twins",)]
        if name.startswith("test_") and marks:
            found[_words(name)] = tuple(str(case) for case in marks[0].args[1] if isinstance(case, Case))
    return found


def matrix(held: Claims) -> str:
    """The matrix in Markdown, where the claims held about the cases named in `held`."""
    cell = _Cells(held)
    by_architecture = [case for case in CASES if case.kind == "linear" and case.variant in RELATED]
    by_kind = [case for case in CASES if case.kind != "linear"]
    by_variant = [case for case in CASES if case.kind == "linear" and case.variant not in RELATED]
    return "\n".join(
        (
            "### Architectures, all linear layers adapted\n",
            _table("", lambda case: case.architecture, lambda case: case.variant, by_architecture, cell),
            "### Kinds of layers\n",
            _table(
                "", lambda case: case.kind, lambda case: case.variant, by_kind, cell, of=lambda case: case.architecture
            ),
            "### Variants, all linear layers adapted\n",
            _table("", lambda case: case.variant, lambda case: case.architecture, by_variant, cell),
            "### What ✓ says\n",
            f"In fp32, with differences below {LIMIT:.0e} of each tensor's norm:\n",
            *(f"- {claim}: {_count(claim, held)}" for claim in claims()),
            "",
        )
    )


def page_with(table: str) -> str:
    """The page's text with `table` in place of its matrix."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}"


class _Cells:
    """A mark where all that is claimed about some cases held, else of how many claims."""

    def __init__(self, held: Claims) -> None:
        self._held = held

    def __call__(self, cases: Sequence[Case]) -> str:
        made = [(claim, str(case)) for case in cases for claim, about in claims().items() if str(case) in about]
        held = [claim for claim, case in made if case in self._held.get(claim, ())]
        if not cases:
            return ""
        return "✓" if len(held) == len(made) else f"{len(held)} of {len(made)}"


def _table(
    corner: str,
    row: Callable[[Case], str],
    column: Callable[[Case], str],
    cases: Sequence[Case],
    cell: Callable[[Sequence[Case]], str],
    of: Callable[[Case], str] | None = None,
) -> str:
    columns = sorted(set(map(column, cases)), key=list(NAMES).index)
    heads = [corner, *(["compared on"] if of else []), *map(_shown, columns)]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name in dict.fromkeys(map(row, cases)):
        mine = [case for case in cases if row(case) == name]
        compared = [", ".join(map(_shown, dict.fromkeys(map(of, mine))))] if of else []
        cells = [cell([case for case in mine if column(case) == at]) for at in columns]
        lines.append(_line([_shown(name), *compared, *cells]))
    return "".join(f"{line}\n" for line in lines)


def _shown(name: str) -> str:
    return NAMES.get(name, name)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _count(claim: str, held: Claims) -> str:
    made, kept = len(claims()[claim]), len(held.get(claim, ()))
    return f"{made} cases" if made == kept else f"{kept} of {made} cases"


def _words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def run_suite(report: Path) -> tuple[dict[str, list[str]], bool]:
    """What held about which cases, by a run of the suite in a process of its own, and whether all of it passed.

    Args:
        report: where pytest may leave its report.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    finished = subprocess.run([*command, test_parity.__file__], cwd=ROOT)
    held: dict[str, list[str]] = {}
    for test in ElementTree.parse(report).iter("testcase"):
        if len(test) == 0:  # no failure, no error, not skipped
            name, _, case = test.attrib["name"].partition("[")
            held.setdefault(_words(name), []).append(case.removesuffix("]"))
    return held, finished.returncode == 0


def main() -> int:
    """Run the suite and write the page; 1 where something in it failed."""
    with tempfile.TemporaryDirectory() as folder:
        held, has_passed = run_suite(Path(folder) / "report.xml")
    PAGE.write_text(page_with(matrix(held)), encoding="utf-8")
    return 0 if has_passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Holds what was written against what it should say: read back by a stranger, in a process of its own.

`core.export.stranger` reads, `core.export.reference` knows, `core.export.verdict` says how near they have to be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from core.errors import AdapterError
from core.export.reference import Reference, difference
from core.export.verdict import Verdict, bound

_STRANGER = Path(__file__).with_name("stranger.py")  # run as a file, never imported
_CANNOT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is to be read back: `reader` is one of the stranger's, `stored` a key of `verdict.ROUNDING`."""

    path: Path
    reader: str
    base: Path
    stored: str = "float32"


def verify(written: Written, reference: Reference, *, may_use_peft: bool = True) -> Verdict:
    """What a stranger's reading shows.

    Raises:
        AdapterError: it cannot be read back at all, has another tokenizer, or answers otherwise than it should.
    """
    with tempfile.TemporaryDirectory(prefix="reading-") as name:
        folder = Path(name)
        order, answer = folder / "order.json", folder / "answer.safetensors"
        order.write_text(json.dumps(_order(written, reference, answer, may_use_peft)), encoding="utf-8")
        child = subprocess.run(
            [sys.executable, "-P", str(_STRANGER), str(order)], cwd=folder, capture_output=True, text=True, check=False
        )
        said = (child.stderr.strip().splitlines() or [f"the reader ended with {child.returncode}"])[-1]
        if child.returncode == _CANNOT:
            return Verdict(reader="", why_not=said)
        if child.returncode:
            raise _refusal(f"it could not be read back ({said})")
        verdict = _compare(answer, written, reference)
    if not verdict.is_good:
        raise _refusal(
            f"logits differ by {verdict.difference:.2g} of their spread, more than the bound {verdict.bound:.2g}, and "
            f"{verdict.agreed} of {verdict.tokens} greedy tokens agree"
        )
    return verdict


def _order(written: Written, reference: Reference, answer: Path, may_use_peft: bool) -> dict[str, object]:
    return {
        "reader": written.reader,
        "path": str(written.path.absolute()),
        "base": str(written.base.absolute()),
        "labels": reference.labels,
        "sequences": reference.sequences,
        "tails": reference.tails,
        "questions": [
            ([{"role": "user", "content": question}], prompt)
            for question, prompt in zip(reference.questions, reference.prompts, strict=True)
            if prompt
        ],
        "template": reference.template,
        "may_use_peft": may_use_peft,
        "answer": str(answer),
    }


def _compare(answer: Path, written: Written, reference: Reference) -> Verdict:
    with safe_open(answer, framework="pt") as file:
        about = file.metadata()
        if about["problem"]:
            raise _refusal(about["problem"])
        pairs = [(ours, file.get_tensor(str(number))) for number, ours in enumerate(reference.logits)]
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        raise _refusal("its vocabulary has another size")
    return Verdict(
        reader=about["reader"],
        stored=written.stored,
        difference=max(difference(ours, theirs) for ours, theirs in pairs),
        bound=bound(reference.moved[written.stored]),
        agreed=sum(int((ours.argmax(-1) == theirs.argmax(-1)).sum()) for ours, theirs in pairs),
        tokens=sum(reference.tails),
    )


def _refusal(why: str) -> AdapterError:
    return AdapterError(
        f"The export was not kept: {why}",
        hint="Try again; if it stays so, export in 32 bits or in another form, and report it",
    )

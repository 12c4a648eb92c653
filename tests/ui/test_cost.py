"""What a run will cost, as HTML: every figure says where it comes from, and nothing is told by color alone."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from core.models.memory import MemoryEstimate
from jobs.costs import Cost, Disk, Duration, Memory
from jobs.fixes import Fix
from jobs.probes import ProbeFigures, ProbeView
from ui.pages.cost import PART_WORDS, cost_html, fixes_html, memory_bar, memory_line, probe_html

GB = 10**9
ESTIMATE = MemoryEstimate(
    weights=3 * GB, adapter=GB, gradients=GB, optimizer=2 * GB, activations=5 * GB, logits=0, process=GB // 2
)
MEMORY = Memory(estimate=ESTIMATE, measured_bytes=None, free_bytes=18 * GB)
FIGURES = ProbeFigures(
    peak_bytes=11 * GB, device_bytes=None, tokens=2048, longest=512, seconds=8.0, steps=10, mean_tokens=900.0,
    micro_tokens=2048, device="cpu", compute_dtype="bfloat16",
)  # fmt: skip
FIX = Fix(
    title="Turn gradient checkpointing on", sentence="Half more time, the same result",
    changes={"optim.checkpointing": True, "lora.targets": ["q_proj"]}, total_bytes=4 * GB, is_enough=True,
)  # fmt: skip
COST = Cost(
    memory=MEMORY,
    probe=ProbeView(state="absent"),
    duration=Duration(steps=30, seconds=120.0, how="measured", sentence="measured on one batch"),
    disk=Disk(needed_bytes=GB, free_bytes=50 * GB),
    fixes=(FIX,),
)


class _Checker(HTMLParser):
    """Every element is closed in order, and there is no script."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script" and not any(name.startswith("on") for name, _ in attrs)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def well_formed(markup: str) -> str:
    checker = _Checker()
    checker.feed(markup)
    assert checker.open == []
    return markup


def words(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


def test_the_whole_card_is_well_formed_and_says_of_each_figure_where_it_comes_from() -> None:
    said = words(well_formed(cost_html(COST)))
    assert "of 18 GB free, estimated" in said and "measured on one batch" in said and "estimated; fits then" in said


def test_every_part_is_named_with_its_figure_beside_its_color() -> None:
    said = words(memory_bar(MEMORY))
    shown = {name for name, size in ESTIMATE.parts.items() if size}
    assert set(PART_WORDS) == set(ESTIMATE.parts)
    for name in PART_WORDS:
        assert (PART_WORDS[name][0] in said) == (name in shown)
    (aria,) = re.findall(r'role="img" aria-label="([^"]+)"', memory_bar(MEMORY))
    assert "weights 3.0 GB" in aria and "logits" not in aria


def test_the_bar_is_on_the_scale_of_what_is_free() -> None:
    widths = [float(width) for width in re.findall(r'cost-part \w+" style="width:([\d.]+)%', memory_bar(MEMORY))]
    assert sum(widths) == pytest.approx(100 * ESTIMATE.training / (18 * GB), abs=0.1)
    crowded = replace(MEMORY, free_bytes=GB)
    widths = [float(width) for width in re.findall(r'cost-part \w+" style="width:([\d.]+)%', memory_bar(crowded))]
    assert sum(widths) == pytest.approx(100, abs=0.1)


def test_what_was_measured_is_said_to_be_and_marked() -> None:
    measured = replace(MEMORY, measured_bytes=11 * GB)
    assert memory_line(measured) == "11 GB of 18 GB free, measured"
    assert memory_line(replace(MEMORY, free_bytes=9 * GB)) == "12 GB where 9.0 GB are free, estimated"
    assert "cost-mark measured" in memory_bar(measured) and "cost-mark measured" not in memory_bar(MEMORY)


@pytest.mark.parametrize(
    ("free", "verdict"), [(18 * GB, "Fits"), (13 * GB, "if the estimate is right"), (9 * GB, "Does not fit")]
)
def test_whether_it_fits_is_said_in_words(free: int, verdict: str) -> None:
    assert verdict in words(memory_bar(replace(MEMORY, free_bytes=free)))


def test_on_a_gpu_the_process_is_no_part_and_an_unknown_amount_is_not_made_up() -> None:
    memory = replace(MEMORY, is_on_gpu=True, free_bytes=None)
    said = words(memory_bar(memory))
    assert "Process" not in said and "on the GPU" in said and "not known" in said and "free," not in said


def test_a_fix_carries_its_changes_and_what_it_would_take() -> None:
    markup = well_formed(fixes_html([FIX, replace(FIX, is_enough=False)]))
    (first, second) = re.findall(r'data-changes="([^"]+)"', markup)
    assert json.loads(html.unescape(first)) == FIX.changes and first == second
    assert "4.0 GB, estimated; fits then" in words(markup) and "not enough by itself" in words(markup)
    assert fixes_html([]) == ""


def test_what_comes_from_outside_is_escaped() -> None:
    nasty = "<img src=x onerror=alert(1)>"
    shown = [
        probe_html(ProbeView(state="failed", sentence=nasty)),
        probe_html(ProbeView(state="going on", phase="loading", detail=nasty)),
        fixes_html([replace(FIX, title=nasty, sentence=nasty, changes={"name": nasty + '"'})]),
    ]
    for markup in shown:
        assert "<img" not in well_formed(markup)


def test_each_state_of_the_trial_step_says_what_it_is() -> None:
    assert "takes the longest rows through once" in words(probe_html(ProbeView(state="absent")))
    assert "Loading the model" in words(probe_html(ProbeView(state="going on", phase="loading")))
    done = words(probe_html(ProbeView(state="done", figures=FIGURES)))
    assert "Measured" in done and "11 GB" in done and "256 tokens a second" in done and "slower" not in done
    shared = replace(FIGURES, is_beside_run=True)
    assert "slower" in words(probe_html(ProbeView(state="done", figures=shared)))


def test_what_is_not_known_is_said_so() -> None:
    assert "once the base model is on this machine" in words(cost_html(None))
    unknown = Duration(steps=3, seconds=None, how="unknown", sentence="not known until the rows' tokens are counted")
    full = Disk(needed_bytes=GB, free_bytes=GB)
    said = words(cost_html(replace(COST, duration=unknown, disk=full, fixes=())))
    assert "Not known until the rows' tokens are counted" in said and "Does not fit: up to 1.0 GB" in said

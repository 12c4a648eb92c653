"""The page about speed and memory shows the committed results and nothing else; its pictures are drawn from them."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import suite
from docs import performance
from docs.performance_pictures import PICTURES
from docs.performance_tables import CHAT, TABLES
from docs.plots import Axis, Bar, bars, lines, shares


def test_the_page_is_what_its_program_makes_of_the_committed_results() -> None:
    text = performance.PAGE.read_text(encoding="utf-8")
    assert text == performance.page_with(performance.report(performance.results())), "run: python -m docs.performance"


def test_the_pictures_are_what_their_program_draws_of_the_committed_results() -> None:
    drawn = performance.pictures(performance.results())
    kept = {path.name: path.read_text(encoding="utf-8") for path in performance.IMAGES.glob("*.svg")}
    assert kept == drawn, "run: python -m docs.performance"


def test_every_benchmark_of_the_suite_has_a_section_and_a_table() -> None:
    assert set(performance.SECTIONS) == set(TABLES) == set(suite.ORDER)
    assert {benchmark for benchmark, _ in PICTURES.values()} <= set(TABLES)


def test_a_benchmark_without_results_is_said_to_be_missing() -> None:
    text = performance.report({})
    assert text.count("Not measured yet") == len(performance.SECTIONS)
    assert "NOT MEASURED" in text and "KEPT" not in text


SIDE = {"tokens_per_second": 50.0, "tokens_per_second_by_round": [49.0, 50.0, 60.0], "peak_rss_bytes": 2e9}
PART = {
    "measured_seconds": 2.0, "floor_seconds": {"products": 0.9, "attention": 0.1}, "fraction": 0.5, "tokens": 10,
    "tokens_per_second": 5.0, "floor_tokens_per_second": 10.0, "row_lengths": [4, 6], "recorded_over_formula": 1.0,
    "products_as_laid_out_seconds": 1.0, "fraction_by_round": [0.625, 0.375],
    "dearest_products": [{"product": "[1, 2] by [2, 3]", "times": 4, "seconds": 0.5, "gflops_per_second": 7.0}],
    "costs": {"shares": {"products": 0.6, "loss": 0.4}, "dearest": []},
}  # fmt: skip
TURN = {"seconds_per_token": 0.002, "measured": 1.0, "by_flops": 1.0}
ALONE = {"tokens_per_second": 500.0, "peak_rss_bytes": 1e9}
TEXT = {
    "encoded_megabytes_per_second": 7.0, "packed_megabytes_per_second": 6.0, "datasets_map_megabytes_per_second": 2.0,
    "packed_over_datasets_map": 3.0,
}  # fmt: skip
MANY = {"peak_rss_bytes": 5e8, "microseconds_per_row": 200.0, "milliseconds_per_step": 1.5}
MADE_UP: dict[str, dict[str, Any]] = {
    "training": {
        "shared": {
            "rows": 4,
            "tokens": 40,
            "labels": 30,
            "batch_size": 2,
            "rank": 8,
            "filled_up": 1.5,
            "shared_beginning": 9,
        },
        "settings": {"TRL at its best": {"label": "some setting"}},
        "sides": {"ours, 16 bits": SIDE, "TRL as it comes": SIDE},
        "candidates": {"some setting": SIDE},
        "losses": {"fp32": 1e-7, "bf16": {"some setting": 1e-3}, "bf16_beside_fp32": 1e-3},
        "failures": {"some other setting": "it is refused"},
        "ratios": {"speed_over_plain": 9.0, "memory_of_leanest": 0.75},
    },
    "floor": {"bf16": PART, "fp32": PART},
    "growth": {
        **{name: {"8": TURN, "1,024": TURN} for name in ("rows", "rank", "row length")},
        **{name: {"8": ALONE, "1,024": ALONE} for name in ("batch", "micro-batch")},
    },
    "tokenizing": {
        **{name: {"1_cores": TEXT, "2_cores": TEXT} for name in ("docstrings", "prose", "new_words")},
        "rows": {"1,000": MANY, "1,000,000": MANY},
    },
    "profile_rows": {
        "rows": 1000,
        "megabytes": 5.0,
        "ours_seconds": 2.0,
        "ours_processor_seconds": 3.0,
        "ours_peak_rss_bytes": 2e8,
        "datasets_seconds": 1.0,
        "datasets_processor_seconds": 1.5,
        "datasets_peak_rss_bytes": 3e8,
        "usual_microseconds_per_row": 10.0,
        "near_duplicates_seconds": 4.0,
        "near_duplicates_peak_rss_bytes": 4e8,
        "intake_seconds": 8.0,
        "intake_processor_seconds": 12.0,
        "intake_peak_rss_bytes": 4.5e8,
        "others_share": 0.02,
        "ratios": {"over_datasets": 0.5},
    },
    "llama_cpp": {
        "files": {
            "gguf": {
                "prompts": 9,
                "prompts_tokenized_alike": 9,
                "same_answers": 8,
                "tokens": 90,
                "same_tokens": 89,
                "megabytes": 12.0,
            }
        },
        "ratios": {"same_tokens_of_f32_files": 89 / 90},
    },  # fmt: skip
    "chat": {
        "new_tokens": 8,
        "dtype": "bfloat16",
        "medians": dict.fromkeys(CHAT, 0.5),
        "ratios": {
            "over_transformers": 5.0,
            "four_panes_over_one": 1.3,
            "requests_at_once_over_in_turn": 4.0,
            "second_turn_over_afresh": 0.4,
            "floor_of_one_pane": 0.5,
        },
    },
}
MACHINE = {
    "processor": "some processor", "cores": 2, "flags": ["avx2"], "memory_bytes": 8e9, "versions": {"torch": "2"},
    "date": "2026-01-01", "commit": "abc",
}  # fmt: skip


def made_up() -> dict[str, dict[str, Any]]:
    return {name: {"machine": MACHINE, **found} for name, found in MADE_UP.items()}


def test_figures_reach_the_page_with_their_machine_their_method_and_their_verdict() -> None:
    text = performance.report(made_up())
    assert "some processor, 2 cores (avx2), 8 GB; torch 2; 2026-01-01, commit abc." in text
    assert "| ours, 16 bits | 50 | 49, 50, 60 | 2.00 |" in text
    assert "| [1, 2] by [2, 3] | 4 | 0.500 | 7 |" in text
    assert "9×" in text and "KEPT" in text
    assert "| gguf | 12 | 9 of 9 | 8 of 9 | 89 of 90 |" in text and "BROKEN" in text
    assert "the rounds' fractions are 0.38, 0.62." in text
    assert "Each precision has a process of its own" in text  # of the program's own words


def test_every_picture_is_an_svg_that_can_be_read() -> None:
    drawn = performance.pictures(made_up())
    assert set(drawn) == {f"{name}.svg" for name in PICTURES}
    for text in drawn.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")


# -- plots -----------------------------------------------------------------------------------------------------------


def elements(text: str, tag: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(text).iter() if element.tag.endswith(tag)]


def test_bars_are_as_long_as_their_values_and_words_are_escaped() -> None:
    text = bars("a < b", [Bar(label="x", value=1, text="1"), Bar(label="y", value=4, text="4")])
    _, short, long = elements(text, "rect")
    assert float(long.attrib["width"]) == pytest.approx(4 * float(short.attrib["width"]), rel=1e-2)
    assert elements(text, "text")[0].text == "a < b"


def test_shares_fill_a_whole_bar() -> None:
    row = elements(shares("t", {"a": {"x": 0.25, "y": 0.75}}), "rect")[1:3]
    widths = [float(box.attrib["width"]) for box in row]
    assert widths[1] == pytest.approx(3 * widths[0], rel=1e-2)


def test_on_a_logarithmic_axis_each_doubling_is_as_wide() -> None:
    text = lines("t", Axis(title="x", is_log=True), "y", {"a": [(1, 5), (2, 10), (4, 20)]})
    dots = elements(text, "circle")
    left, middle, right = (float(dot.attrib["cx"]) for dot in dots)
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    heights = [float(dot.attrib["cy"]) for dot in dots]
    assert heights[1] - heights[2] == pytest.approx(2 * (heights[0] - heights[1]), abs=0.2)

"""The figures of "Did it learn?" without a model: sums, intervals and the file."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path

import pytest

from core.analysis.appraisal import (
    FILE,
    Answer,
    Appraisal,
    Module,
    RowScore,
    read_appraisal,
    side_of,
    student,
    write_appraisal,
)


def score(answers: int, base: float, adapter: float) -> RowScore:
    return RowScore(answers, base, adapter, kl=0.5 * answers, base_right=0, right=answers)


def test_figures_are_means_over_tokens_not_over_rows() -> None:
    side = side_of([score(1, 5.0, 1.0), score(9, 9.0, 9.0)], all_rows=40)
    assert side is not None and (side.rows, side.all_rows, side.answers) == (2, 40, 10)
    assert (side.base_loss, side.loss) == (1.4, 1.0) and side.gain == pytest.approx(0.4)
    assert side.kl == pytest.approx(0.5) and (side.base_accuracy, side.accuracy) == (0.0, 1.0)


def test_for_rows_of_one_length_the_interval_is_that_of_a_paired_t_test() -> None:
    gains = [0.3, 0.5, -0.1, 0.9, 0.4]
    side = side_of([score(7, 14.0, 14.0 - 7 * gain) for gain in gains], all_rows=5)
    assert side is not None and side.margin is not None
    assert side.gain == pytest.approx(statistics.mean(gains))
    assert side.margin == pytest.approx(2.776 * statistics.stdev(gains) / math.sqrt(5))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = random.Random(0)
    held = 0
    for _ in range(1000):
        scores = []
        for _ in range(12):
            tokens = draw.randint(5, 60)
            scores.append(score(tokens, 2.0 * tokens, 2.0 * tokens - tokens * draw.gauss(0.2, 0.3)))
        side = side_of(scores, all_rows=12)
        assert side is not None and side.margin is not None
        held += abs(side.gain - 0.2) <= side.margin
    assert 0.90 <= held / 1000 <= 0.98


def test_one_row_alone_proves_nothing() -> None:
    side = side_of([score(10, 40.0, 1.0)], all_rows=1)
    assert side is not None and side.margin is None and not side.is_better and not side.is_worse
    assert side_of([], all_rows=0) is None


def test_better_and_worse_are_beyond_the_interval_alone() -> None:
    better = side_of([score(10, 40.0, 20.0 + row % 2) for row in range(6)], 6)
    worse = side_of([score(10, 20.0 + row % 2, 40.0) for row in range(6)], 6)
    same = side_of([score(10, 20.0, 20.0 + (-1) ** row) for row in range(6)], 6)
    assert better is not None and better.is_better and not better.is_worse
    assert worse is not None and worse.is_worse and not worse.is_better
    assert same is not None and not same.is_worse and not same.is_better


def test_students_t_falls_to_the_normal_one() -> None:
    values = [student(degrees) for degrees in range(1, 200)]
    assert values == sorted(values, reverse=True) and values[-1] == pytest.approx(1.972, abs=1e-3)
    for degrees, known in ((11, 2.201), (15, 2.131), (30, 2.042), (60, 2.000)):  # of printed tables
        assert student(degrees) == pytest.approx(known, abs=1e-3)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    appraisal = Appraisal(
        step=12,
        trained=side_of([score(3, 6.0, 3.0), score(4, 6.0, 3.0)], 9),
        modules=(Module(name="a.b", change=0.5, weight=2.0, a=1.0, b=1.0), Module(name="c", fault="not finite")),
        answers=(Answer(prompt="Ask", before="é\n", after=""),),
        evaluations=((0, 2.5), (6, 1.5)),
        notes=("a note",),
        seconds=1.5,
    )
    write_appraisal(tmp_path, appraisal)
    assert read_appraisal(tmp_path) == appraisal
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert appraisal.best == (6, 1.5) and appraisal.modules[0].share == 0.25 and appraisal.modules[1].share is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 3}', '{"step": 3, "trained": {"rows": 1}}'])
def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path, content: str) -> None:
    assert read_appraisal(tmp_path) is None
    (tmp_path / FILE).write_text(content)
    assert read_appraisal(tmp_path) is None

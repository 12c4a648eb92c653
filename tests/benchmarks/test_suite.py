"""The suite's command line, and what both sides of a comparison begin with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.instruments import our_training, requirements
from benchmarks.instruments.process import MeasurementFailed, run
from benchmarks.instruments.starting_point import as_others_take

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.suite", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_list_names_every_program_with_what_it_measures() -> None:
    listed = bench("--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(suite.PROGRAMS)
    assert all(len(line.split()) > 3 for line in listed)


def test_every_program_of_the_suite_is_there_and_in_the_readme() -> None:
    assert suite.PROGRAMS == suite.ORDER
    said = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for program in suite.PROGRAMS:
        assert f"`{program}`" in said


def test_an_unknown_benchmark_is_refused_in_one_sentence() -> None:
    done = bench("speed")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "speed" in done.stderr


def test_what_is_missing_is_said_with_the_way_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    requirements.require("json")
    with pytest.raises(SystemExit) as ended:
        requirements.require("json", "no_such_package")
    assert "no_such_package" in str(ended.value) and "benchmarks/requirements.txt" in str(ended.value)


def test_the_parents_of_measurements_stay_small() -> None:
    parents = "benchmarks.suite, benchmarks.training, benchmarks.floor, benchmarks.growth"
    code = f"import sys, {parents}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"  # a child's peak memory begins with its parent's


def test_a_measurement_that_fails_gives_its_last_words() -> None:
    with pytest.raises(MeasurementFailed, match="ended with 3: out of luck"):
        run([sys.executable, "-c", "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"])


@pytest.mark.parametrize(
    ("tokens", "labels", "given"),
    [
        ([1, 2, 3], [-100, 3, -100], ([1, 2, 3], [-100, -100, 3])),
        ([1, 2, 3], [-100, 3, 4], ([1, 2, 3, 4], [-100, -100, 3, 4])),
    ],
)
def test_others_are_asked_for_the_same_tokens(
    tokens: list[int], labels: list[int], given: tuple[list[int], list[int]]
) -> None:
    row = as_others_take(tokens, labels)
    assert (row["input_ids"], row["labels"]) == given
    asked = [(ids, label) for ids, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert asked == [(label, label) for label in labels if label != -100]  # a label stands at its own token


def test_a_runs_totals_become_figures_of_each_step() -> None:
    lines = [
        {"event": "started", "compute_dtype": "float32"},
        {"event": "step", "seconds": 2.0, "tokens": 10, "loss": 3.0},
        {"event": "step", "seconds": 3.5, "tokens": 30, "loss": 2.0},
        {"event": "finished", "peak_rss_bytes": 7},
    ]
    found = our_training.figures(json.loads(json.dumps(lines)))
    assert found["seconds"] == [2.0, 1.5]
    assert found["tokens"] == [10, 20]
    assert (found["losses"], found["peak_rss_bytes"]) == ([3.0, 2.0], 7)


def test_what_is_measured_against_is_pinned_and_nothing_is_pinned_twice_otherwise() -> None:
    pins = {}
    for path in (ROOT / "requirements.txt", ROOT / "requirements-dev.txt", ROOT / "benchmarks" / "requirements.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r")):
                package, _, version = line.partition("==")
                assert version, f"{line} is not pinned"
                assert pins.setdefault(package, version) == version, line
    assert {"trl", "peft", "datasets"} <= pins.keys()

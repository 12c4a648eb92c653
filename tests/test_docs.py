"""What the documentation says exists, exists; what exists, the README's tree names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
TREE_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w.\-]+/?)(?: +(?P<note>\S.*))?$")


def readme_tree() -> dict[str, str]:
    """Paths and notes of the README's file tree: the fenced block that begins with `app.py`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(app\.py.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 1
    paths: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in blocks[0].splitlines():
        match = TREE_LINE.match(line)
        assert match, f"not a line of a tree: {line!r}"
        indent = len(match["indent"])
        while parents and parents[-1][0] >= indent:
            parents.pop()
        path = "".join(name for _, name in parents) + match["name"]
        paths[path] = match["note"] or ""
        if path.endswith("/"):
            parents.append((indent, match["name"]))
    return paths


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.split()


def test_every_path_in_the_readmes_tree_exists_and_has_a_note() -> None:
    for path, note in readme_tree().items():
        assert (ROOT / path).exists(), f"README names {path}"
        assert note, f"{path} has no note"


def test_the_readmes_tree_names_every_folder_of_two_levels_and_every_file_at_the_top() -> None:
    tree = readme_tree()
    hidden = (".", "__")
    files = [path for path in tracked() if not path.startswith(hidden)]
    folders = {
        "/".join(path.split("/")[:depth]) + "/" for path in files for depth in (1, 2) if path.count("/") >= depth
    }
    top = {path for path in files if "/" not in path}
    missing = {path for path in folders | top if path not in tree and not path.startswith(("tests/", "docs/"))}
    assert missing == set()


def code_lines() -> list[tuple[Path, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            joined = re.sub(r"\\\n\s*", " ", block)
            found += [(page, line.split("#")[0].strip()) for line in joined.splitlines()]
    return [(page, line) for page, line in found if line]


def test_every_make_target_in_the_docs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {line.split()[1] for _, line in code_lines() if line.startswith("make ")}
    assert "app" in named and "test" in named
    for target in named:
        assert re.search(rf"^{re.escape(target)}:", makefile, flags=re.MULTILINE), target


def app_lines() -> list[str]:
    return sorted({line[line.index("app.py") :] for _, line in code_lines() if "python app.py" in line})


@pytest.mark.parametrize("line", app_lines())
def test_every_command_in_the_docs_is_known_with_its_options(line: str) -> None:
    words = line.split()[1:]
    named = [word for word in words if not word.startswith("-")]
    command = named[: 2 if named and named[0] in ("runs", "users", "keys") else 1] or ["ui"]
    helped = subprocess.run(
        [sys.executable, "app.py", *command, "--help"], cwd=ROOT, capture_output=True, text=True, env=wide_terminal()
    )
    assert helped.returncode == 0, helped.stderr
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", helped.stdout), f"{command} has no {option}"


def wide_terminal() -> dict[str, str]:
    import os

    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERMINAL_WIDTH": "200"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_picture_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


def test_every_requirement_is_pinned_and_explained() -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r")):
                package, _, version = line.partition("==")
                assert re.fullmatch(r"[\w.]+", version), line
                assert f"`{package}`" in architecture, f"docs/architecture.md does not say what {package} is for"


def test_the_readmes_figures_of_speed_are_those_that_were_measured() -> None:
    ratios = json.loads((ROOT / "benchmarks/results/training.json").read_text(encoding="utf-8"))["ratios"]
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{ratios['speed_over_plain']:.0f} times the tokens a second of TRL and peft as they come" in said
    assert f"in {ratios['memory_of_plain']:.0%} of their memory".replace("%", " %") in said
    assert f"{ratios['speed_over_best']:.1f} times TRL at its best" in said


def test_example_datasets_are_as_large_as_the_docs_say() -> None:
    rows = {
        name: len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines())
        for name in ("captain.jsonl", "to_json.jsonl")
    }
    assert rows["captain.jsonl"] >= 80 and rows["to_json.jsonl"] >= 150
    said = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for count in rows.values():
        assert str(count) in said


def test_every_promise_names_tests_that_there_are() -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", (ROOT / "docs/guarantees.md").read_text(encoding="utf-8"))
    assert len(named) > 60
    for path, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / path).read_text(encoding="utf-8"), flags=re.MULTILINE), test


def test_each_of_the_forty_faults_has_a_row_with_a_test() -> None:
    text = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| .*tests/[\w/]+\.py::\w+", text, flags=re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, 41))

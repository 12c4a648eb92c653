"""Writes the results on the page about speed and memory, and its pictures: `python -m docs.performance`.

All figures come from `benchmarks/results/*.json`, and what is said of how they were obtained from the benchmarks' own
docstrings. What stands around them on the page is written by hand. A benchmark without results is said to be missing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.promises import table, verdicts
from benchmarks.results import last
from docs.performance_pictures import PICTURES
from docs.performance_tables import TABLES

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("performance.md")
IMAGES = Path(__file__).with_name("images")
BEGIN, END = "<!-- the results begin -->\n", "<!-- the results end -->\n"
SECTIONS = {
    "training": "Training beside TRL and peft",
    "floor": "Training beside its own matrix products",
    "growth": "What grows with what",
    "memory_estimate": "Memory as estimated beside memory as measured",
    "chat": "Side-by-side chat",
    "tokenizing": "Tokenizing and packing",
    "profile_rows": "A dataset's health beside reading its file",
    "four_bit": "Four bits beside sixteen",
    "llama_cpp": "Exports in llama.cpp",
    "first_light": "The first day",
    "pages": "Long runs and many runs on the page",
}

Results = Mapping[str, Any]


def pictures(results: Mapping[str, Results]) -> dict[str, str]:
    """Every picture that `results` allow, as SVG text by file name."""
    return {
        f"{name}.svg": draw(results[benchmark]) for name, (benchmark, draw) in PICTURES.items() if benchmark in results
    }


def report(results: Mapping[str, Results]) -> str:
    """The results in Markdown: what is promised, then a section for each benchmark."""
    parts = ["### What is promised, and what was measured\n", table(verdicts(results.get))]
    for benchmark, title in SECTIONS.items():
        parts.append(f"### {title}\n")
        if benchmark in results:
            parts += _section(benchmark, results[benchmark])
        else:
            parts.append(f"Not measured yet: `python app.py bench {benchmark}`.\n")
    return "\n".join(parts)


def _section(benchmark: str, found: Results) -> list[str]:
    drawn = [f"![{name}](images/{name}.svg)\n" for name, (of, _) in PICTURES.items() if of == benchmark]
    return [
        *TABLES[benchmark](found),
        *drawn,
        f"<details><summary>How it was obtained</summary>\n\n{_method(benchmark)}\n\n</details>\n",
        f"{_machine(found['machine'])} [All figures](../benchmarks/results/{benchmark}.json).\n",
    ]


def _method(benchmark: str) -> str:
    """What the benchmark's program says of itself."""
    source = (ROOT / "benchmarks" / f"{benchmark}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def _machine(facts: Results) -> str:
    """Where and when, in a line."""
    versions = facts["versions"]
    named = [f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft") if name in versions]
    machine = f"{facts['processor']}, {facts['cores']} cores ({', '.join(facts['flags'])})"
    memory = f"{facts['memory_bytes'] / 1e9:.0f} GB"
    return f"{machine}, {memory}; {', '.join(named)}; {facts['date']}, commit {facts['commit']}."


def page_with(text: str) -> str:
    """The page with `text` in place of its results."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}"


def results() -> dict[str, Results]:
    """The last results of every benchmark that has any."""
    return {name: found for name in SECTIONS if (found := last(name)) is not None and "versions" in found["machine"]}


def main() -> int:
    """Write the page and its pictures."""
    found = results()
    IMAGES.mkdir(exist_ok=True)
    for old in set(IMAGES.glob("*.svg")):
        old.unlink()
    for name, picture in pictures(found).items():
        (IMAGES / name).write_text(picture, encoding="utf-8")
    PAGE.write_text(page_with(report(found)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every benchmark one after the other, each in a process of its own, and the table of what is promised.

    python app.py bench             all of them; then the table, from the results that they wrote
    python app.py bench training    one of them
    python app.py bench --list      what there is
    python app.py bench --quick     each program in small, to see that it works; nothing is kept and no table printed

What is left out or fails is said, and the others go on. The exit code is 0 if all that was begun was measured, whether
or not promises are kept: those are in the table, and a broken one is news, not an error.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.promises import Verdict, table, verdicts
from benchmarks.results import keep, last

HERE = Path(__file__).parent
ORDER = (
    "training", "floor", "growth", "memory_estimate", "chat", "tokenizing", "profile_rows", "four_bit", "llama_cpp",
    "first_light", "pages",
)  # fmt: skip
PROGRAMS = tuple(name for name in ORDER if (HERE / f"{name}.py").is_file())
NEEDS_BROWSER = "first_light"
NEEDS_LLAMA_CPP = "llama_cpp"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def subject(program: str) -> str:
    """The first line of what the program says of itself."""
    said = ast.get_docstring(ast.parse((HERE / f"{program}.py").read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0]


def left_out(program: str, *, is_quick: bool) -> str | None:
    """Why the suite cannot run `program` here; None where it can."""
    if program == NEEDS_LLAMA_CPP and importlib.util.find_spec("llama_cpp") is None:
        return (
            "it needs llama.cpp, which takes minutes to build; get it with: pip install -r benchmarks/requirements.txt"
        )
    if program != NEEDS_BROWSER:
        return None
    if is_quick:
        return "it has no quick form"
    if importlib.util.find_spec("playwright") is None or not any(map(shutil.which, BROWSERS)):
        return "it needs a browser; get one with: make browser"
    return None


def run(program: str, arguments: list[str]) -> int:
    """Run one benchmark in this terminal; its exit code."""
    command = [sys.executable, "-u", "-m", f"benchmarks.{program}", *arguments]
    return subprocess.run(command, cwd=HERE.parent, check=False).returncode


def run_all(*, is_quick: bool) -> int:
    """Run all that can be run; 1 where one failed."""
    seconds: dict[str, float] = {}
    failed: list[str] = []
    skipped = {name: why for name in PROGRAMS if (why := left_out(name, is_quick=is_quick)) is not None}
    for number, program in enumerate(PROGRAMS, start=1):
        if program in skipped:
            continue
        print(f"\n[{number} of {len(PROGRAMS)}] {program}: {subject(program)}", flush=True)
        begin = time.monotonic()
        if run(program, ["--quick"] if is_quick else []) != 0:
            failed.append(program)
        seconds[program] = time.monotonic() - begin
        print(f"[{number} of {len(PROGRAMS)}] {program}: {seconds[program]:.0f} seconds", flush=True)
    for program, why in skipped.items():
        print(f"\nLEFT OUT: {program}, {why}", flush=True)
    for program in failed:
        print(f"\nFAILED: {program}; the table shows its last results, if it has any", flush=True)
    if not is_quick:
        summarize(seconds, skipped, failed)
    return 1 if failed else 0


def summarize(seconds: dict[str, float], skipped: dict[str, str], failed: list[str]) -> None:
    """Print the table and keep it."""
    found = verdicts(last)
    print("\n" + table(found), flush=True)
    keep("summary", {"promises": [plain(verdict) for verdict in found], "seconds": seconds, "left_out": skipped,
                     "failed": failed})  # fmt: skip


def plain(verdict: Verdict) -> dict[str, object]:
    """A verdict for the summary's file."""
    promise = verdict.promise
    return {
        "about": promise.about,
        "against": promise.against,
        "promised": promise.bound,
        "measured": verdict.measured,
        "verdict": verdict.word,
    }


def main() -> int:
    """Carry out the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="bench", allow_abbrev=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given, others = parser.parse_known_args()
    if given.list:
        print("".join(f"{name:12} {subject(name)}\n" for name in PROGRAMS), end="")
        return 0
    if given.name is None:
        return run_all(is_quick=given.quick)
    if given.name not in PROGRAMS:
        print(f"There is no benchmark {given.name}; choose from {', '.join(PROGRAMS)}.", file=sys.stderr)
        return 2
    if (why := left_out(given.name, is_quick=given.quick)) is not None:
        print(f"{given.name} is left out: {why}", file=sys.stderr)
        return 2
    return run(given.name, [*(["--quick"] if given.quick else []), *others])


if __name__ == "__main__":
    sys.exit(main())

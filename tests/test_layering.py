"""The house's rules: who may import whom, what may happen at import, and what no code may ever call."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("core", "jobs", "ui")
OURS = {*PARTS, "app", "tests", "benchmarks"}

# What ui may import of the rest. These leaves must stay free of torch, which the subprocess tests below prove.
UI_LEAVES = {
    "jobs.service",
    "core.errors",
    "core.adapters.ways",
    "core.analysis.appraisal",
    "core.analysis.verdict",
    "core.config",
    "core.events",
    "core.data.tokens.named_templates",
    "core.data.health.report",
    "core.data.formats.converting",
    "core.data.formats.mapping",
    "core.data.records",
    "core.data.rows",
    "core.data.tokens.profile",
    "core.data.tokens.view",
    "core.models.shapes",
    "core.models.targets",
    "core.settings_file",
    "core.suggest",
    "core.sweep",
}
HEAVY = ("torch", "transformers", "bitsandbytes")
FORBIDDEN_CALLS = {"torch.load", "pickle.load", "pickle.loads", "eval", "exec", "os.system"}


def sources(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The full names of our own modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in OURS)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            if node.module and node.module.split(".")[0] in OURS:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if module_exists(inner) else node.module


def module_exists(name: str) -> bool:
    place = ROOT / Path(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


def violations(part: str, is_allowed: object) -> list[str]:
    assert callable(is_allowed)
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(part)
        for name in imported(path)
        if not is_allowed(name)
    ]


def test_core_imports_core_only() -> None:
    assert violations("core", lambda name: name.startswith("core")) == []


def test_jobs_imports_jobs_and_core_only() -> None:
    assert violations("jobs", lambda name: name.split(".")[0] in ("jobs", "core")) == []


def test_ui_imports_ui_and_the_service_and_torch_free_leaves_of_core_only() -> None:
    assert violations("ui", lambda name: name.startswith("ui") or name in UI_LEAVES) == []


def test_nobody_imports_app() -> None:
    for part in (*PARTS, "tests", "benchmarks"):
        assert violations(part, lambda name: name != "app") == []


def test_peft_is_never_imported_at_run_time_but_by_the_stranger_whom_nobody_imports() -> None:
    stranger = ROOT / "core" / "export" / "stranger.py"
    for part in PARTS:
        assert violations(part, lambda name: name != "core.export.stranger") == []
        for path in sources(part):
            if path == stranger:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {
                name.split(".")[0]
                for node in ast.walk(tree)
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            assert "peft" not in names, path


def call_name(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_nothing_that_runs_foreign_code_is_called() -> None:
    for part in PARTS:
        for path in sources(part):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    assert call_name(node) not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
                if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "shell", "share"):
                    assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{path}:{node.lineno}"


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", ["app", "ui.app", *sorted(UI_LEAVES)])
def test_opening_the_page_imports_no_torch(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    assert json.loads(run_python(code)) == []


def test_importing_changes_no_environment_and_sets_up_no_logging() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for part in ("jobs", "ui") for path in sources(part)
    ]
    names = [
        name.removesuffix(".__init__") for name in modules if "migrations" not in name and not name.endswith("chat")
    ]
    code = (
        "import importlib, logging, os\n"
        # gradio and the hub client write their own settings when they are imported; that is theirs
        "import gradio, huggingface_hub, plotly\n"
        "before, handlers = dict(os.environ), list(logging.getLogger().handlers)\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())\n"
        "assert list(logging.getLogger().handlers) == handlers\n"
        "from gradio.context import Context\n"
        "assert Context.root_block is None\n"
    )
    run_python(code)

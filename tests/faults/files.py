"""What files there are: those that the workbench is made of, with the names they use, and all under a folder."""

from __future__ import annotations

import ast
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.home import PROJECT

OURS = ("app.py", "core", "jobs", "ui")


def our_sources() -> Iterator[Path]:
    """Every Python file that the workbench is made of."""
    for name in OURS:
        yield from [PROJECT / name] if name.endswith(".py") else sorted((PROJECT / name).rglob("*.py"))


def names_in(path: Path) -> set[str]:
    """Every name and attribute that a file uses or imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names):
                found |= {str(module), *(alias.name for alias in names)}
    return found


def files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def zip_of(fill: Callable[[zipfile.ZipFile], object]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        fill(archive)
    return content.getvalue()

"""Files that a browser sent."""

from __future__ import annotations

from pathlib import Path

from gradio.utils import get_upload_folder

from core.errors import DataError


def uploaded(path: str) -> Path:
    """`path` if it lies in Gradio's upload folder: a browser may send any path it likes.

    Raises:
        DataError: it does not.
    """
    resolved = Path(path).resolve()
    if not resolved.is_relative_to(Path(get_upload_folder()).resolve()):
        raise DataError("That file was not uploaded here", hint="Drop the file onto the page")
    return resolved

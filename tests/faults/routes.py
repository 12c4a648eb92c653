"""Every route of the app, one JSON object a line: `python -m tests.faults.routes HOME`.

In a process of its own, as building the pages leaves Gradio's state behind.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradio.routes import App

from jobs.service import Service
from ui.api.app import ServedApi
from ui.app import build


def routes(table: Sequence[Any]) -> Iterator[tuple[str, list[str]]]:
    """Paths with their methods, of included routers and mounted apps too."""
    for route in table:
        if hasattr(route, "effective_candidates"):  # FastAPI resolves an included router when it is asked
            yield from routes(route.effective_candidates())
            continue
        assert not hasattr(route, "routes"), f"{route} holds routes of its own, which are not followed"
        yield route.path, sorted(route.methods or ())


if __name__ == "__main__":
    service = Service(Path(sys.argv[1]))
    table = [*App.create_app(build(service)).routes, *ServedApi(service, is_public=True).routes]
    for path, methods in routes(table):
        print(json.dumps({"path": path, "methods": methods}))
    service.close()

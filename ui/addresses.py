"""Addresses of our own beside Gradio's: style sheets, scripts, the icon, adapters as zip files, and runs' figures.

The style sheet is linked, not given to Gradio, which would rewrite it: rules inside `@media` would come out with
another weight than those outside, and a shorthand with a variable would be lost.

A download is a plain link, which works without a handler, in a second tab and with the keyboard. Only ids that the
service knows are served, never a path of the browser's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from core.errors import UserError
from jobs.service import Service
from ui.guard import App, Receive, Scope, Send

PREFIX = "/workbench/"
PLOTLY = "plotly.js"
ICON = Path(__file__).parent / "static" / "icon.svg"

_ADAPTERS, _RUNS, _VOTES = "adapters/", "runs/", "votes.jsonl"
_KINDS = {"csv": "text/csv", "json": "application/json"}
_log = logging.getLogger(__name__)


def static(name: str) -> str:
    """The address of one of our own files, which changes with its content so that browsers may keep it."""
    content = (ICON.parent / name).read_bytes()
    return f"{PREFIX}{name}?v={hashlib.sha256(content).hexdigest()[:8]}"


def adapter_zip(adapter_id: str, form: str = "") -> str:
    """The address from which a browser downloads that adapter: as it was trained, or in another form."""
    return f"{PREFIX}{_ADAPTERS}{quote(adapter_id, safe='')}.zip" + (f"?to={quote(form)}" if form else "")


def history(run_id: str, form: str) -> str:
    """The address from which a browser downloads all figures of that run, as `csv` or `json`."""
    return f"{PREFIX}{_RUNS}{quote(run_id, safe='')}.{form}"


def votes_file(set_id: str = "") -> str:
    """The address from which a browser downloads votes as preference pairs: all, or those on one prompt set."""
    return f"{PREFIX}{_VOTES}" + (f"?set={quote(set_id, safe='')}" if set_id else "")


class OwnAddresses:
    """ASGI middleware that answers under `PREFIX` and passes everything else on."""

    def __init__(self, app: App, service: Service) -> None:
        self.app = app
        self.service = service
        self.files = {path.name: path for path in ICON.parent.iterdir()} | {PLOTLY: _plotly_script()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one of our own files, or let Gradio answer."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self.app(scope, receive, send)
            return
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        wanted, set_id = (asked.get(name, [""])[0] for name in ("to", "set"))
        response = await self.answer(scope["path"].removeprefix(PREFIX), wanted, set_id)
        await response(scope, receive, send)

    async def answer(self, path: str, form: str = "", set_id: str = "") -> Response:
        """The file under `path`, an adapter in the `form` asked for, the votes on a set, or 404 with a sentence."""
        if path in self.files:
            return FileResponse(self.files[path], headers={"cache-control": "public, max-age=86400"})
        if path.startswith(_ADAPTERS) and path.endswith(".zip"):
            return await self._adapter(path.removeprefix(_ADAPTERS).removesuffix(".zip"), form)
        if path.startswith(_RUNS) and path.endswith(tuple(f".{kind}" for kind in _KINDS)):
            return await self._history(*path.removeprefix(_RUNS).rsplit(".", 1))
        if path == _VOTES:
            return await self._votes(set_id)
        return PlainTextResponse("There is nothing at this address.\n", 404)

    async def _adapter(self, adapter_id: str, form: str) -> Response:
        export = partial(self.service.exports.file, form=form) if form else self.service.export_zip
        try:
            path = await run_in_threadpool(export, adapter_id)
        except UserError as error:
            return PlainTextResponse(f"{error}\n", 404)
        kind = "application/zip" if path.suffix == ".zip" else "application/octet-stream"
        return FileResponse(path, filename=path.name, media_type=kind)

    async def _votes(self, set_id: str) -> Response:
        def export() -> Path:
            name = self.service.votes.prompt_set(set_id).name if set_id else "all"
            return self.service.votes.export(name, set_id or None)

        try:
            path = await run_in_threadpool(export)
        except UserError as error:
            return PlainTextResponse(f"{error}\n", 404)
        return FileResponse(path, filename=path.name, media_type="application/jsonl")

    async def _history(self, run_id: str, form: str) -> Response:
        """A run's figures. Their cells are numbers, so nothing in a table can be a formula."""
        try:
            pieces = await run_in_threadpool(self.service.history.export, run_id, form)
        except UserError as error:
            return PlainTextResponse(f"{error}\n", 404)
        named = {"content-disposition": f'attachment; filename="run-{run_id[-6:].lower()}.{form}"'}
        return StreamingResponse(pieces, media_type=_KINDS[form], headers=named)


def _plotly_script() -> Path:
    """plotly.js as the Python package carries it, found without importing the package."""
    found = importlib.util.find_spec("plotly")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("plotly is not installed")
    return Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js"

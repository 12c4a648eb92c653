"""The workbench in the browser: `build` makes the pages, `serve` runs them until it is told to stop.

Nothing is built at import. The pages keep nothing: whatever matters lies with the service, so a reload, a second tab
or a restart of this process finds everything again.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import psutil
from gradio.route_utils import CustomCORSMiddleware
from starlette.middleware import Middleware

from core.errors import ConfigError
from jobs.service import Service
from ui import addresses, theme
from ui.addresses import ICON, OwnAddresses
from ui.api.app import Api, ServedApi
from ui.blocks import QuietBlocks, keep_less
from ui.guard import Guard
from ui.login import Login, Sessions, Throttle
from ui.pages import library, playground, runs, train
from ui.story import Stories

TITLE = "LoRA Workbench"
LARGEST_UPLOAD = "2gb"
CACHE_SECONDS = (3600, 6 * 3600)  # how often uploads are looked through, and how old they get; ours are kept elsewhere
_TURN_SECONDS = 0.0005  # of a thread while others wait: the server's own is one of forty, and they take a turn each
WAITING_EVENTS = 512  # more than a hundred tabs click at once
STYLES = (
    "style",
    "settings",
    "sweep",
    "data",
    "health",
    "cost",
    "runs",
    "learned",
    "serving",
    "playground",
    "votes",
    "library",
    "exporting",
)
SCRIPTS = ("client", "charts", "settings", "data", "serving", "playground", "votes")
SESSIONS = 128  # tabs whose state is kept; each takes half a megabyte, and Gradio would keep ten thousand

_PAGES: tuple[tuple[str, str, Callable[[gr.Blocks, Service, Stories], None]], ...] = (
    ("Runs", "/runs", runs.build),
    ("Playground", "/playground", playground.build),
    ("Library", "/library", library.build),
)
_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5


def build(service: Service) -> gr.Blocks:
    """All pages, ready to be launched."""
    stories = Stories(service)
    options = {"title": TITLE, "analytics_enabled": False, "fill_width": True, "delete_cache": CACHE_SECONDS}
    with QuietBlocks(**options) as demo:
        train.build(demo, service, stories)
    for name, path, build_page in _PAGES:
        with demo.route(name, path) as page:
            build_page(page, service, stories)
    return demo


def serve(service: Service, host: str, port: int, names: Sequence[str] = ()) -> None:
    """Serve the pages on `host` and `port` until SIGINT or SIGTERM; port 0 takes a free one.

    Args:
        names: what else browsers may call this machine, where `host` is not its own address alone.

    Raises:
        ConfigError: `host` is not this machine's own and there are no users, or the port is taken.
        HomeHeld: another app has the home folder.
    """
    host = host.strip("[]")
    is_private = _is_private(host) and not names  # a name for others means that others come, through a server before us
    if not is_private and not service.users.names():
        raise ConfigError(
            f"Listening on {host} for others needs a login, and there are no users yet",
            hint="Add one with: python app.py users add NAME; or reach 127.0.0.1 through an SSH tunnel",
            field="host",
        )
    with service.held() as tell:
        port = free_port(host, port)
        tell(_address(host, port))
        _serve(service, host, port, None if is_private else names)


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def own_names(host: str) -> tuple[str, ...]:
    """What browsers may call a machine that listens on `host`: by that, or where it means all, by each of its own
    addresses and its name.
    """
    if host not in ("0.0.0.0", "::"):
        return (f"[{host}]" if ":" in host else host,)
    found = [address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each
             if address.family in (socket.AF_INET, socket.AF_INET6)]  # fmt: skip
    return tuple(dict.fromkeys([*(f"[{name}]" if ":" in name else name for name in found), socket.gethostname()]))


def _serve(service: Service, host: str, port: int, public_names: Sequence[str] | None) -> None:
    stop = threading.Event()
    restore = _on_signals(stop)
    sys.setswitchinterval(_TURN_SECONDS)
    demo = build(service)
    service.start()
    try:
        launch(demo, service, host, port, public_names)
        _log.info("LoRA Workbench is at %s", _address(host, port))
        while not stop.wait(_LOOK_SECONDS):  # a signal that comes just before a wait without end does not end it
            pass
    finally:
        demo.close(verbose=False)
        service.close()
        restore()


def launch(demo: gr.Blocks, service: Service, host: str, port: int, public_names: Sequence[str] | None = None) -> None:
    """Start the server in a thread of its own, behind the guard, and return once it answers.

    Args:
        public_names: what others may call this machine beside its addresses, where it is there for others; then it is
            behind a login. None where it is there for this machine alone.
    """
    guard = [
        Middleware(Guard, port=port, others=own_names(host), public=public_names or ()),
        Middleware(Api, served=ServedApi(service, is_public=public_names is not None)),
    ]
    if public_names is not None:
        remembered = {"sessions": Sessions(service.users.stamps), "throttle": Throttle()}
        guard.append(Middleware(Login, check=service.users.are, **remembered))
    _reach_ourselves_directly()
    demo.queue(default_concurrency_limit=8, max_size=WAITING_EVENTS)
    demo.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        run_history=False,
        footer_links=[],
        favicon_path=str(ICON),
        max_file_size=LARGEST_UPLOAD,
        state_session_capacity=SESSIONS,
        theme=theme.theme(),
        head=_head(),
        app_kwargs={"middleware": [*guard, Middleware(OwnAddresses, service=service)]},
    )
    _permit_nobody_else(demo.app)
    keep_less(demo.app, demo)


def _permit_nobody_else(app: gr.routes.App) -> None:
    """Take out what Gradio puts before all others to tell foreign pages what they may do: they may do nothing."""
    app.user_middleware = [each for each in app.user_middleware if each.cls is not CustomCORSMiddleware]
    app.middleware_stack = app.build_middleware_stack()


def _head() -> str:
    styles = "".join(f'<link rel="stylesheet" href="{addresses.static(f"{name}.css")}">' for name in STYLES)
    scripts = "".join(f'<script src="{addresses.static(f"{name}.js")}" defer></script>' for name in SCRIPTS)
    return f'<link rel="icon" type="image/svg+xml" href="{addresses.static("icon.svg")}">{styles}{scripts}'


def _is_private(host: str) -> bool:
    """Whether that can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """`port` if it can be listened on, or any free one for 0.

    Raises:
        ConfigError: it is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            hint = "Close what uses it, or choose another with --port"
            raise ConfigError(f"Port {port} cannot be used", error.strerror or str(error), hint, "port") from None
        return int(probe.getsockname()[1])


def _on_signals(stop: threading.Event) -> Callable[[], None]:
    """Set `stop` at SIGINT or SIGTERM; returns what puts the old handlers back."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, lambda *_: stop.set())

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return restore


def _reach_ourselves_directly() -> None:
    """Gradio asks its own server whether it is up; a proxy set in the environment must not be in between. Nor may who
    asks us claim to ask for somebody else, unless the person says that a server before us tells the truth.
    """
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = ",".join(part for part in (known, "127.0.0.1,localhost,::1") if part)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else it logs these questions

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
import threading
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import psutil
from starlette.middleware import Middleware

from core.errors import ConfigError
from jobs.service import Service
from ui import addresses, theme
from ui.addresses import ICON, OwnAddresses
from ui.guard import Guard
from ui.login import Login
from ui.pages import library, playground, runs, train
from ui.story import Stories

TITLE = "LoRA Workbench"
LARGEST_UPLOAD = "2gb"

_PAGES: tuple[tuple[str, str, Callable[[gr.Blocks, Service, Stories], None]], ...] = (
    ("Runs", "/runs", runs.build),
    ("Playground", "/playground", playground.build),
    ("Library", "/library", library.build),
)
_log = logging.getLogger(__name__)


def build(service: Service) -> gr.Blocks:
    """All pages, ready to be launched."""
    stories = Stories(service)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as demo:
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
    is_private = _is_private(host)
    if not is_private and not service.users.names():
        raise ConfigError(
            f"There are no users yet, so the workbench does not listen on {host}",
            hint="Add one with: python app.py users add NAME; or reach 127.0.0.1 through an SSH tunnel",
            field="host",
        )
    port = free_port(host, port)
    with service.held(_address(host, port)):
        _serve(service, host, port, None if is_private else (*own_names(host), *names))


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def own_names(host: str) -> tuple[str, ...]:
    """What browsers may call a machine that listens on `host`: by that, or where it means all, by each of its own
    addresses and its name.
    """
    if host.strip("[]") not in ("0.0.0.0", "::"):
        return (f"[{host}]" if ":" in host else host,)
    found = [address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each
             if address.family in (socket.AF_INET, socket.AF_INET6)]  # fmt: skip
    return tuple(dict.fromkeys([*(f"[{name}]" if ":" in name else name for name in found), socket.gethostname()]))


def _serve(service: Service, host: str, port: int, public_names: Sequence[str] | None) -> None:
    stop = threading.Event()
    restore = _on_signals(stop)
    demo = build(service)
    service.start()
    try:
        launch(demo, service, host, port, public_names)
        _log.info("LoRA Workbench is at %s", _address(host, port))
        stop.wait()
    finally:
        demo.close(verbose=False)
        service.close()
        restore()


def launch(demo: gr.Blocks, service: Service, host: str, port: int, public_names: Sequence[str] | None = None) -> None:
    """Start the server in a thread of its own, behind the guard, and return once it answers.

    Args:
        public_names: what browsers may call this machine where the server is open to a network, and behind a login.
    """
    guard = [Middleware(Guard, port=port, others=public_names or ())]
    if public_names is not None:
        guard.append(Middleware(Login, check=service.users.are))
    _reach_ourselves_directly()
    demo.queue(default_concurrency_limit=8)
    demo.launch(
        server_name=host,
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
        theme=theme.theme(),
        head=_head(),
        app_kwargs={"middleware": [*guard, Middleware(OwnAddresses, service=service)]},
    )


def _head() -> str:
    return (
        f'<link rel="icon" type="image/svg+xml" href="{addresses.static("icon.svg")}">'
        f'<link rel="stylesheet" href="{addresses.static("style.css")}">'
        f'<script src="{addresses.static("client.js")}" defer></script>'
    )


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
            probe.bind((host.strip("[]"), port))
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
    """Gradio asks its own server whether it is up; a proxy set in the environment must not be in between."""
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = ",".join(part for part in (known, "127.0.0.1,localhost,::1") if part)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else it logs these questions

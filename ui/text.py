"""Numbers, times and states as a person reads them. Units are part of the text."""

from __future__ import annotations

import re
from datetime import UTC, datetime

STATE_WORDS = {
    "queued": "Waiting",
    "preparing": "Preparing",
    "running": "Running",
    "pausing": "Pausing",
    "paused": "Paused",
    "stopping": "Stopping",
    "finished": "Finished",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "interrupted": "Interrupted",
}
PHASE_WORDS = {
    "fetching": "Fetching the model",
    "loading": "Loading the model",
    "quantizing": "Quantizing the base",
    "injecting": "Making ready what is trained",
    "tokenizing": "Turning rows into tokens",
}
PRIORITY_WORDS = {1: "High", 0: "Normal", -1: "Low"}
METHOD_WORDS = {"lora": "LoRA", "full": "full fine-tuning", "bitfit": "biases only (BitFit)"}
STARTER_WORDS = "SmolLM2 135M (starter)"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`3 rows`, `1 row`, `1,204 rows`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `11th`, `23rd`."""
    is_teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if is_teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def device(name: str) -> str:
    """`GPU 1` for `cuda:1`, else `CPU`."""
    kind, _, number = name.partition(":")
    return f"GPU {number or 0}" if kind == "cuda" else "CPU"


def count(value: float) -> str:
    """Short: `96`, `8.1 k`, `2.4 M`, `1.7 B`."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.1f} {unit}"
    return f"{value:,.0f}"


def size(byte_count: float) -> str:
    """Decimal units, as disks are sold: `9.8 MB`, `18 GB`."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if byte_count >= limit:
            amount = byte_count / limit
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{byte_count:.0f} B"


def duration(seconds: float) -> str:
    """`0:42`, `12:05`, `3 h 07 min`."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60}:{whole % 60:02d}"


def share(part: float, whole: float) -> str:
    """`1.8 %`, and more digits where they are needed to tell it from nothing."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.3g} %" if 0 < percent < 1 else f"{percent:.1f} %"


def percent(value: float) -> str:
    """A share of 1 as `87.5 %`."""
    return f"{100 * value:.1f} %"


def loss(value: float | None) -> str:
    """Three decimals, or a dash where nothing was measured."""
    return "–" if value is None else f"{value:.3f}"


def number(value: float) -> str:
    """As short as it can be written without losing anything: `16`, `0.05`, `0.0005`."""
    return f"{value:.12g}"


def ago(moment: datetime, now: datetime) -> str:
    """`just now`, `4 min ago`, `yesterday`, then the date."""
    seconds = (now - aware(moment)).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} min ago"
    if seconds < 86400:
        return f"{round(seconds / 3600)} h ago"
    if seconds < 2 * 86400:
        return "yesterday"
    return aware(moment).astimezone().strftime("%d %b %Y").lstrip("0")


def aware(moment: datetime) -> datetime:
    """`moment` with a time zone; a bare one is taken as UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def base_model(ref: str) -> str:
    """A base model's name for a heading: the starter's title, a folder's last part, a hub id as it is; the folder of
    a model that was trained here has no name of its own.
    """
    if ref == "starter":
        return STARTER_WORDS
    if trained := re.fullmatch(r".*[\\/]runs[\\/](\w+)[\\/]adapter", ref):
        return f"model of run {trained[1][-6:]}"
    is_path = ref.startswith(("/", ".", "~")) or "\\" in ref
    return re.split(r"[\\/]", ref.rstrip("\\/"))[-1] if is_path else ref


def targets(names: tuple[str, ...]) -> str:
    """`all linear layers of the blocks` for auto, else the names."""
    words = {"auto": "all linear layers of the blocks", "all-linear": "all linear layers"}
    return ", ".join(words.get(name, name) for name in names)


def stem(file_name: str) -> str:
    """A file's name as the start of a run's name: without its suffix and anything a name may not hold."""
    bare = file_name.rpartition(".")[0] or file_name
    return re.sub(r"[^\w-]+", "-", bare).strip("-").lower()[:60] or "run"

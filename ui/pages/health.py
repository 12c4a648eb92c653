"""How the health of a dataset looks: one line a kind of fault, with how many rows, which, and what can be done.

Every text here that comes of a file is escaped. A click on what stands here is an event of the `gr.HTML` that runs
`SCRIPT`: `remove` and `keep` with a `kind`, `row` with a `row`.
"""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

from core.data.health.report import KINDS, Finding, Health, Severity
from ui import markup, text
from ui.markup import esc

_ICONS: MappingProxyType[Severity, tuple[str, str]] = MappingProxyType({
    "error": ("✕", "Problem"),
    "warning": ("▲", "Look at this"),
    "note": ("ℹ", "Note"),
})  # fmt: skip
_SHOWN_CLASSES = 8
SCRIPT = """
element.addEventListener('click', (event) => {
  const link = event.target.closest('[data-row]'), button = event.target.closest('[data-act]');
  if (link) { event.preventDefault(); trigger('row', {row: Number(link.dataset.row)}); }
  if (button?.dataset.act === 'remove') trigger('remove', {kind: button.dataset.kind});
  if (button?.dataset.act === 'keep') trigger('keep', {kind: button.dataset.kind});
});
"""


def empty() -> str:
    """Before a dataset has been chosen."""
    return '<p class="hint">Choose a dataset, and what is wrong with its rows is listed here.</p>'


def searching(what: str, share: float | None = None) -> str:
    """While rows are being looked through; `share` of 1 where it is known."""
    return markup.loading(what if share is None else f"{what}: {share:.0%}")


def button_words(finding: Finding) -> str:
    """What the button says that removes a kind's rows; empty where nothing can be removed."""
    if not KINDS[finding.kind].removal:
        return ""
    return "Remove this row" if finding.count == 1 else f"Remove these {text.plural(finding.count, 'row')}"


def summary(health: Health) -> str:
    """One sentence on all of it."""
    if not health.rows:
        return '<p class="dataset-line">The file has no rows.</p>'
    if not health.findings:
        rows = text.plural(health.rows, "row")
        return f'<p class="dataset-line"><span class="tick" aria-hidden="true">✓</span>{rows}, no fault found</p>'
    kinds = text.plural(len(health.findings), "kind")
    return f'<p class="dataset-line">{text.plural(health.rows, "row")}, {kinds} of rows to look at</p>'


def ready(health: Health, kept: Collection[str] = ()) -> str:
    """All findings, one line a kind, and the classes where rows have some.

    Args:
        kept: the kinds that the person has decided to keep.
    """
    lines = "".join(line(finding, finding.kind in kept) for finding in health.findings)
    listed = f'<ul class="findings" aria-label="What was found">{lines}</ul>' if lines else ""
    return f'<div class="health">{summary(health)}{listed}{classes(health)}{missing(health)}</div>'


def line(finding: Finding, is_kept: bool = False) -> str:
    """One kind: how bad, how many, which, what it does, what was seen."""
    kind = KINDS[finding.kind]
    icon, word = _ICONS[kind.severity]
    kept = ' <span class="kept">kept</span>' if is_kept else ""
    acts = _acts(finding, is_kept)
    title = _title(finding)
    return (
        f'<li class="finding {kind.severity}" id="health-{esc(finding.kind)}">'
        f'<span class="finding-icon" role="img" aria-label="{word}">{icon}</span>'
        f'<div><strong>{esc(title)}</strong>{kept} <span class="finding-rows">{_rows(finding)}</span>'
        f'<p class="hint">{esc(kind.sentence)}</p>{_samples(finding)}{acts}</div></li>'
    )


def classes(health: Health) -> str:
    """How many rows each class has, and whether they are out of balance; nothing where rows have no class."""
    if not health.classes:
        return ""
    if not health.labels:
        return f'<p class="hint">{text.plural(health.classes, "class", "classes")} or more: too many to be classes.</p>'
    shown = " · ".join(f"{esc(name)} {count:,}" for name, count in health.labels[:_SHOWN_CLASSES])
    more = " · …" if health.classes > _SHOWN_CLASSES else ""
    words = (
        f'<p class="hint">The largest class has {health.labels[0][1]:,} rows, and there is one with '
        f"{health.labels[-1][1]:,}: the model will favor the large ones.</p>"
        if health.is_imbalanced
        else ""
    )
    count = text.plural(health.classes, "class", "classes")
    return f'<p class="classes"><strong>{count}</strong> {shown}{more}</p>{words}'


def missing(health: Health) -> str:
    """What has not been looked for yet."""
    words = "Rows over the token limit are counted under Tokens." if "over_limit" not in health.checked else ""
    if "near_duplicates" not in health.checked:
        words = f"Not looked for in this dataset: near-duplicates. {words}"
    return f'<p class="hint">{words.strip()}</p>' if words else ""


def _acts(finding: Finding, is_kept: bool) -> str:
    """What can be done about a kind: one click each."""
    remove = "" if is_kept else button_words(finding)
    first = f"<button {_act('remove', finding)}>{remove}</button>" if remove else ""
    second = f"<button {_act('keep', finding)}>{'Look at it again' if is_kept else 'Keep'}</button>"
    return f'<p class="finding-acts">{first}{second}</p>'


def _act(act: str, finding: Finding) -> str:
    kind = esc(finding.kind)
    label = esc(f"{act}: {KINDS[finding.kind].title}")
    place = f'id="health-{act}-{kind}" data-act="{act}" data-kind="{kind}"'
    return f'type="button" class="as-button small" {place} title="{label}"'


def _title(finding: Finding) -> str:
    """`12 exact duplicates`, `1 row: empty rows` where the plural would be wrong."""
    title = KINDS[finding.kind].title
    return f"{finding.count:,} {title}" if finding.count > 1 else f"1 of: {title}"


def _rows(finding: Finding) -> str:
    """The first rows as links to their place in the preview, each with the row that it repeats."""
    pairs = zip(finding.first, finding.of or (None,) * len(finding.first), strict=True)
    links = [_link(row) + (f" (like {_link(of)})" if of is not None else "") for row, of in pairs]
    more = ", …" if finding.count > len(finding.first) else ""
    return f"row{'s' if finding.count > 1 else ''} {', '.join(links)}{more}"


def _link(row: int) -> str:
    return f'<a class="row-link" href="#row-{row}" data-row="{row}">{row:,}</a>'


def _samples(finding: Finding) -> str:
    if not finding.samples:
        return ""
    items = "".join(f"<li>Row {row:,}: {esc(said)}</li>" for row, said in finding.samples)
    return f'<ul class="finding-samples">{items}</ul>'

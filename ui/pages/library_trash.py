"""The Library's deleted adapters: to be restored, or removed for good.

Ids: in `#trash-list` one `.deleted` with `data-id` each, with `.restore`; `.empty-trash`, which asks (`.empty-sure`,
`.empty-not`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from jobs.service import Adapter
from ui import markup, text

SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.matches('.restore')) trigger('restore', {id: button.closest('.deleted').dataset.id});
  if (button.matches('.empty-trash')) element.querySelector('.sure').removeAttribute('hidden');
  if (button.matches('.empty-not')) element.querySelector('.sure').setAttribute('hidden', '');
  if (button.matches('.empty-sure')) trigger('empty', {});
});
"""


def trash_list(adapters: Sequence[Adapter], now: datetime, days: int) -> str:
    """The deleted ones, which can be restored, and the way to be rid of them."""
    if not adapters:
        return '<p class="card-hint">Nothing was deleted.</p>'
    items = "".join(_deleted(adapter, now) for adapter in adapters)
    size = text.size(sum(adapter.bytes for adapter in adapters))
    return (
        f'<p class="card-hint">Each stays for {days} days after it was deleted. Together they take {size}.</p>'
        f'<ul class="trash">{items}</ul><p class="list-bar"><button class="as-button small plain empty-trash" '
        f'type="button">Remove all of them now</button><span class="sure" hidden>This cannot be undone. '
        f'<button class="as-button small danger empty-sure" type="button">Remove them</button>'
        f'<button class="as-button small plain empty-not" type="button">Keep them</button></span></p>'
    )


def _deleted(adapter: Adapter, now: datetime) -> str:
    assert adapter.deleted_at is not None
    esc = markup.esc
    return (
        f'<li class="deleted" data-id="{esc(adapter.id)}"><span>{esc(adapter.name)} <small>{text.size(adapter.bytes)}, '
        f"deleted {esc(text.ago(adapter.deleted_at, now))}</small></span>"
        f'<button class="as-button small restore" type="button">Restore</button></li>'
    )

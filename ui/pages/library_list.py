"""The Library's list: adapters and whole models, searched and sorted, each with what it is, where it is from and what
can be done with it.

Ids: in `#adapter-list` one `.adapter` with `data-id` each, with `.download`, `.formats`, `.compare`, `.rename` and
`.remove`, which asks (`.remove-sure`, `.remove-not`); `#compare-selected`, `#combine-selected` and `#shrink-selected`
for those that are ticked; `.undo` after a deletion; `.more`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobs.service import Adapter
from ui import addresses, markup, text
from ui.pages import exporting, lineage, serving_card

PAGE = 50

# Ticks outlive a search, since the list that comes back is new. A deletion is asked about in its own place.
SCRIPT = """
const ticked = new Set();
const show = (id, isShown, words) => {
  const button = element.querySelector(id);
  if (!button) return;
  button.toggleAttribute('hidden', !isShown);
  if (words) button.textContent = words;
};
const update = () => {
  for (const box of element.querySelectorAll('.pick')) box.checked = ticked.has(box.value);
  const ids = [...ticked];
  show('#compare-selected', ids.length > 1, `Compare ${ids.length} adapters`);
  show('#combine-selected', ids.length > 1, `Combine ${ids.length} adapters`);
  show('#shrink-selected', ids.length === 1);
  show('#select-hint', ids.length === 0);
  const link = element.querySelector('#compare-selected');
  if (link) link.href = '/playground?adapters=' + ids.map(encodeURIComponent).join(',');
};
element.addEventListener('change', (event) => {
  if (!event.target.matches('.pick')) return;
  event.target.checked ? ticked.add(event.target.value) : ticked.delete(event.target.value);
  update();
});
const ask = (item, isAsking) => {
  item.querySelector('.sure').toggleAttribute('hidden', !isAsking);
  item.querySelector('.remove').toggleAttribute('hidden', isAsking);
  item.querySelector(isAsking ? '.remove-sure' : '.remove').focus();
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  const item = button.closest('.adapter'), id = item?.dataset.id ?? button.dataset.id;
  if (button.matches('.rename')) trigger('rename', {id});
  if (button.matches('.formats')) trigger('formats', {id});
  if (button.matches('.remove')) ask(item, true);
  if (button.matches('.remove-not')) ask(item, false);
  if (button.matches('.remove-sure')) { ticked.delete(id); trigger('remove', {id}); }
  if (button.matches('.undo')) trigger('restore', {id});
  if (button.matches('.more')) trigger('more', {});
  if (button.matches('#combine-selected')) trigger('combine', {ids: [...ticked]});
  if (button.matches('#shrink-selected')) trigger('shrink', {id: [...ticked][0]});
});
watch('value', update);
"""

_BASES = {
    "hub": "its base is not on this machine and is fetched when it is used",
    "unknown": "its base is not on this machine: choose another under Edit",
}

ORDERS: dict[str, tuple[str, Callable[[Adapter], Any]]] = {
    "newest": ("Newest first", lambda adapter: -adapter.created_at.timestamp()),
    "name": ("Name", lambda adapter: adapter.name.casefold()),
    "loss": ("Lowest held-out loss", lambda adapter: (adapter.eval_loss is None, adapter.eval_loss)),
    "size": ("Smallest first", lambda adapter: adapter.bytes),
    "base": ("Base model", lambda adapter: text.base_model(adapter.base_model).casefold()),
}


@dataclass(frozen=True, kw_only=True)
class View:
    """What of the list is asked for: adapters with all of these `words`, in an order of `ORDERS`, the first `shown`."""

    words: str = ""
    order: str = "newest"
    shown: int = PAGE


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What an item cannot know of itself: which base models are not here, and which adapters still are."""

    bases: Mapping[str, str] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()


def arranged(adapters: Sequence[Adapter], view: View) -> list[Adapter]:
    """All that the view asks for, in its order."""
    words = view.words.casefold().split()
    found = [adapter for adapter in adapters if all(word in _haystack(adapter) for word in words)]
    return sorted(found, key=ORDERS.get(view.order, ORDERS["newest"])[1])


def adapter_list(
    adapters: Sequence[Adapter], now: datetime, view: View | None = None, beside: Beside | None = None, notice: str = ""
) -> str:
    """What the view asks for of all adapters, or what to do while there is none; above it a notice, as HTML."""
    view, beside = view or View(), beside or Beside()
    if not adapters:
        words = "An adapter appears here when its run is finished, or when you add one from elsewhere."
        return notice + markup.empty("No adapters yet", words, "/", "Train one")
    found = arranged(adapters, view)
    if not found:
        return notice + markup.empty("Nothing found", f"No adapter has all of these words: {view.words.strip()}")
    items = "".join(_item(adapter, now, beside) for adapter in found[: view.shown])
    return f'{notice}{_selection_bar()}<ul class="adapters">{items}</ul>{_rest(len(found), view.shown)}'


def deleted_notice(adapter: Adapter) -> str:
    """That it was deleted, and the way back."""
    return (
        f'<div class="list-notice" role="status"><span>{markup.esc(adapter.name)} was deleted.</span>'
        f'<button class="as-button small undo" type="button" data-id="{markup.esc(adapter.id)}">Undo</button></div>'
    )


def notice(words: str) -> str:
    """What has just happened."""
    return f'<div class="list-notice" role="status"><span>{markup.esc(words)}</span></div>'


def _selection_bar() -> str:
    return (
        '<p class="list-bar"><span id="select-hint" class="card-hint">Tick several adapters to compare or combine '
        "them, or one to shrink it.</span>"
        '<a id="compare-selected" class="as-button primary small" href="#" hidden>Compare</a>'
        '<button id="combine-selected" class="as-button small" type="button" hidden>Combine</button>'
        '<button id="shrink-selected" class="as-button small" type="button" hidden>Shrink it</button></p>'
    )


def _rest(count: int, shown: int) -> str:
    if count <= shown:
        return ""
    words = f"Showing {shown:,} of {count:,}"
    more = f'<button class="as-button small more" type="button">Show {min(PAGE, count - shown)} more</button>'
    return f'<p class="list-rest"><span class="card-hint">{words}</span>{more}</p>'


def _haystack(adapter: Adapter) -> str:
    origin = adapter.origin
    said = [adapter.id, adapter.name, adapter.note, text.base_model(adapter.base_model), adapter.fingerprint]
    said += [origin.place, *(parent.name for parent in origin.parents), *adapter.targets, _kind_words(adapter)]
    return "\n".join(said).casefold()


def _kind_words(adapter: Adapter) -> str:
    return "classifier" if not adapter.can_chat else text.METHOD_WORDS[adapter.method]


def _item(adapter: Adapter, now: datetime, beside: Beside | None = None) -> str:
    esc, beside = markup.esc, beside or Beside()
    note = f'<p class="adapter-note">{esc(adapter.note)}</p>' if adapter.note else ""
    return (
        f'<li class="adapter card" id="adapter-{esc(adapter.id)}" data-id="{esc(adapter.id)}">'
        f'{_pick(adapter)}<div class="adapter-name"><h2>{esc(adapter.name)}</h2>'
        f"<p>{_base(adapter, beside)}{esc(text.ago(adapter.created_at, now))} · "
        f"<code>#{esc(adapter.fingerprint)}</code>"
        f"{_run_link(adapter)}</p>{lineage.line(adapter.origin, beside.ids)}{note}</div>"
        f'<dl class="adapter-facts">{_facts(adapter)}</dl><div class="adapter-actions">{_compare(adapter)}'
        f'<a class="as-button small download" href="{esc(addresses.adapter_zip(adapter.id))}" download>Download</a>'
        f"{exporting.button(adapter)}{_changes(adapter)}</div>{serving_card.use_from_program(adapter)}</li>"
    )


def _changes(adapter: Adapter) -> str:
    name = markup.esc(adapter.name)
    return (
        f'<button class="as-button small plain rename" type="button" aria-label="Edit {name}">Edit</button>'
        f'<button class="as-button small plain remove" type="button" aria-label="Delete {name}">Delete</button>'
        '<span class="sure" hidden>It can be restored for a while. '
        '<button class="as-button small danger remove-sure" type="button">Delete it</button>'
        '<button class="as-button small plain remove-not" type="button">Keep it</button></span>'
    )


def _base(adapter: Adapter, beside: Beside) -> str:
    if adapter.method == "full":
        return "a whole model · "
    words = markup.esc(text.base_model(adapter.base_model) or "an unnamed base")
    state = beside.bases.get(adapter.base_model, "")
    if state not in _BASES:
        return f"{words} · "
    return f'{words} <span class="missing-base {state}">({_BASES[state]})</span> · '


def _pick(adapter: Adapter) -> str:
    """The box for comparing; a classifier has nothing to say in the Playground, and a whole model is a base there."""
    if not adapter.can_chat or adapter.method == "full":
        return "<span></span>"
    return (
        f'<label class="pick-label"><input class="pick" type="checkbox" value="{markup.esc(adapter.id)}">'
        f'<span class="visually-hidden">Select {markup.esc(adapter.name)}</span></label>'
    )


def _compare(adapter: Adapter) -> str:
    chat = "base" if adapter.method == "full" else "adapters"
    link = f'<a class="as-button small compare" href="/playground?{chat}={markup.esc(adapter.id)}">Compare</a>'
    if not adapter.can_chat:
        link = '<span class="card-hint" title="It names a class and has no words to chat with">Classifier</span>'
    if adapter.method == "full":
        link += f'<a class="as-button small as-base" href="/?base={markup.esc(adapter.id)}">Train on it</a>'
    return link


def _facts(adapter: Adapter) -> str:
    change = text.loss(adapter.eval_loss)
    if adapter.base_eval_loss is not None:
        change = f"{text.loss(adapter.base_eval_loss)} → {change}"
    pairs = [
        ("Held-out loss", change),
        *_what(adapter),
        ("Size", text.size(adapter.bytes)),
    ]
    return "".join(
        f'<div><dt>{markup.esc(label)}</dt><dd title="{markup.esc(value)}">{markup.esc(value)}</dd></div>'
        for label, value in pairs
    )


def _what(adapter: Adapter) -> list[tuple[str, str]]:
    if adapter.method == "full":
        return [("Method", "full"), ("Targets", "all weights")]
    if adapter.method == "bitfit":
        return [("Method", "BitFit"), ("Targets", "biases")]
    return [
        ("Rank, alpha", f"{adapter.rank}, {text.number(adapter.alpha)}"),
        ("Targets", _target_words(adapter.targets)),
    ]


def _target_words(targets: tuple[str, ...]) -> str:
    if targets in (("auto",), ("all-linear",)):
        return "all linear layers"
    last_parts = tuple(dict.fromkeys(target.rpartition(".")[2] for target in targets))
    return (
        ", ".join(last_parts)
        if len(last_parts) <= 3
        else text.plural(len(last_parts), "kind of layer", "kinds of layer")
    )


def _run_link(adapter: Adapter) -> str:
    return (
        f' · <a class="one-piece" href="/runs?run={markup.esc(adapter.run_id)}">its run</a>' if adapter.run_id else ""
    )

"""The queue: the runs that wait, in the order in which they are started, with what changes it.

It is shown where several wait. Ids: `#run-queue`, in it one `.waiting` with `data-id` each, with `.place`, `.priority`
and three `.move`, whose `data-to` is front, up or down.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.service import Run
from ui import markup, text

# A move's word, what its button shows and is called, and how many places it goes; the front is at the end of any way.
_MOVES = (
    ("front", "To the front", "to the front", -(10**6)),
    ("up", "↑", "up", -1),
    ("down", "↓", "down", 1),
)
STEPS = {to: by for to, _, _, by in _MOVES}

# The list is changed in place, row by row, so what has the focus may suddenly belong to another run: the focus follows
# the run that it was on. A button that leads nowhere keeps it, so it is not disabled but only called so.
SCRIPT = """
let held = null;
const hold = (event) => {
  const control = element.contains(event.target) && event.target.closest('.move, .priority');
  held = control && {
    run: control.closest('.waiting').dataset.id,
    what: control.dataset.to ? `.move[data-to=${control.dataset.to}]` : '.priority',
  };
};
document.addEventListener('focusin', hold);
document.addEventListener('pointerdown', hold);
element.addEventListener('click', (event) => {
  const button = event.target.closest('.move');
  if (!button || button.getAttribute('aria-disabled') === 'true') return;
  trigger('move', {id: button.closest('.waiting').dataset.id, to: button.dataset.to});
});
element.addEventListener('change', (event) => {
  const select = event.target.closest('.priority');
  if (!select) return;
  trigger('prioritize', {id: select.closest('.waiting').dataset.id, priority: select.value});
  select.value = select.dataset.value;
});
watch('value', () => {
  for (const select of element.querySelectorAll('.priority')) select.value = select.dataset.value;
  if (!held) return;
  const row = [...element.querySelectorAll('.waiting')].find((row) => row.dataset.id === held.run);
  if (row) row.querySelector(held.what).focus();
  else if (element.contains(document.activeElement)) document.activeElement.blur();
});
"""


def section(waiting: Sequence[Run], gpus: int) -> str:
    """The runs that wait, the next one first; nothing where there is no order to speak of."""
    if len(waiting) < 2:
        return ""
    items = "".join(_item(run, at, len(waiting)) for at, run in enumerate(waiting))
    return (
        f'<section class="queue" aria-labelledby="queue-head"><div class="queue-head"><h2 id="queue-head">Queue</h2>'
        f'<p>The next run starts as soon as {_freed(gpus)}.</p></div><ol class="run-list">{items}</ol></section>'
    )


def place(at: int, count: int) -> str:
    """`Next in the queue`, `2nd of 3 in the queue`; `at` counts from 0."""
    return "Next in the queue" if at == 0 else f"{text.ordinal(at + 1)} of {count} in the queue"


def waits(run_id: str, waiting: Sequence[Run], gpus: int) -> str:
    """What a run waits for, as its own page says it: `Next in the queue, starts as soon as one of 2 GPUs is free`."""
    at = next((at for at, run in enumerate(waiting) if run.id == run_id), None)
    if at is None:  # it has begun a moment ago
        return "Waiting for its turn"
    return place(at, len(waiting)) + (f"; starts as soon as {_freed(gpus)}" if at == 0 else "")


def _freed(gpus: int) -> str:
    if gpus > 1:
        return f"one of the {gpus} GPUs is free"
    return f"the {'GPU' if gpus else 'CPU'} is free"


def _item(run: Run, at: int, count: int) -> str:
    esc = markup.esc
    return (
        f'<li class="waiting" data-id="{esc(run.id)}"><a href="/runs?run={esc(run.id)}"><span class="run-name">'
        f"<strong>{esc(run.name)}</strong><small>{esc(what(run))}</small></span></a>"
        f'<span class="place{" next" if at == 0 else ""}">{place(at, count)}</span>'
        f'<span class="queue-actions">{_priority(run)}{_moves(run, at, count)}</span></li>'
    )


def what(run: Run) -> str:
    """`captain.jsonl → SmolLM2 135M (starter)`, and that a run waits only to be kept, if so."""
    words = f"{run.dataset_name} → {text.base_model(run.config.base_model)}"
    is_kept = run.state == "queued" and run.wish == "keep"
    return f"{words} · only to keep what it learned" if is_kept else words


def _priority(run: Run) -> str:
    """A choice of words; numbers beyond them, which a terminal may have set, are the outermost words."""
    chosen = max(min(text.PRIORITY_WORDS), min(max(text.PRIORITY_WORDS), run.priority))
    options = "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{words}</option>'
        for value, words in text.PRIORITY_WORDS.items()
    )
    label = f'<span class="visually-hidden">Priority of {markup.esc(run.name)}</span>'
    return f'<label>{label}<select class="priority" data-value="{chosen}">{options}</select></label>'


def _moves(run: Run, at: int, count: int) -> str:
    buttons = []
    for to, shown, words, by in _MOVES:
        leads_nowhere = at == 0 if by < 0 else at == count - 1
        name = f"Move {run.name} {words}; it is {place(at, count).lower()}"
        buttons.append(
            f'<button class="as-button small move" type="button" data-to="{to}" aria-label="{markup.esc(name)}" '
            f'title="Move {words}" aria-disabled="{"true" if leads_nowhere else "false"}">{shown}</button>'
        )
    return "".join(buttons)

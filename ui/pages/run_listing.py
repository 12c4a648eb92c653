"""The list of runs: the queue, the sweeps, then all others, newest first and a page at a time, or those that are found.

A page comes from the store and from what each run at rest says of itself in short, so hundreds of runs take no longer
than they are many. Ids: `#run-search`; `#run-tags`, in it one `[data-tag]` each; `#run-list`, in it one `li` a run with
a `.pick` box each, `[data-turn]` for newer and older pages, and `#compare-runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from jobs.service import Run, Service, Summary, tags_of
from ui import markup, text
from ui.answers import News
from ui.pages import queue, sweep_view
from ui.pages.run_state import RunWidgets, Seen
from ui.pages.run_view import run_list
from ui.story import Stories

A_PAGE = 50
MOST_COMPARED = 8
SHOWN_TAGS = 20
LONGEST_SEARCH = 200  # characters

# Boxes stay ticked from page to page and while the list changes; the link names what is ticked.
LIST_SCRIPT = f"""
const picked = new Set();
const bar = () => {{
  const link = element.querySelector('#compare-runs');
  if (!link) return;
  const isMany = picked.size > {MOST_COMPARED};
  link.toggleAttribute('hidden', picked.size < 2);
  link.toggleAttribute('aria-disabled', isMany);
  link.textContent = isMany ? 'At most {MOST_COMPARED} runs can be compared' : `Compare ${{picked.size}} runs`;
  if (isMany) link.removeAttribute('href');
  else link.href = '/runs?compare=' + [...picked].map(encodeURIComponent).join(',');
}};
const tick = () => {{
  for (const box of element.querySelectorAll('.pick')) box.checked = picked.has(box.value);
  bar();
}};
element.addEventListener('change', (event) => {{
  if (!event.target.matches('.pick')) return;
  if (event.target.checked) picked.add(event.target.value); else picked.delete(event.target.value);
  bar();
}});
element.addEventListener('click', (event) => {{
  const button = event.target.closest('[data-turn]');
  if (button && button.getAttribute('aria-disabled') !== 'true') trigger('turn', {{by: Number(button.dataset.turn)}});
}});
watch('value', () => requestAnimationFrame(tick));
"""
TAGS_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-tag]');
  if (button) trigger('filter', {tag: button.dataset.tag});
});
"""


class Listing:
    """What the list shows, and what changes it."""

    def __init__(self, service: Service, stories: Stories, widgets: RunWidgets) -> None:
        self.service, self.stories, self.widgets = service, stories, widgets

    def look(self, seen: Seen, gpus: int) -> News:
        """What of the list has changed."""
        waiting, everything = self.service.queue(), self.service.runs()
        if seen.words or seen.tag:
            return self._tell(seen, self._found(seen, everything, gpus), "", "", everything)
        groups = sweep_view.newest_groups(self.service, everything)
        elsewhere = {run.id for run in waiting} if len(waiting) > 1 else set()
        elsewhere |= {outcome.run.id for group in groups for outcome in group.outcomes}
        runs = [run for run in everything if run.id not in elsewhere]
        listed = self._page(seen, runs, gpus) if runs else "" if everything else _no_runs()
        return self._tell(seen, listed, queue.section(waiting, gpus), sweep_view.sections(groups), everything)

    def look_at_group(self, seen: Seen) -> News:
        """One sweep alone."""
        shown = sweep_view.section(self.service.sweeps.group(seen.group_id))
        back = '<p class="run-head"><a class="back" href="/runs">All runs</a></p>'
        return self._tell(seen, "", back, shown, ())

    def search(self, seen: Seen, words: str, gpus: int) -> News:
        """Show the runs that have all of these words."""
        seen.words, seen.page = _plain(words), 0
        return self.look(seen, gpus)

    def is_other_search(self, seen: Seen, words: str) -> bool:
        """Whether that is not what is searched for."""
        return _plain(words) != seen.words

    def filter(self, seen: Seen, tag: str, gpus: int) -> News:
        """Show the runs with that tag; once more, all runs again."""
        seen.tag, seen.page = "" if seen.tag == tag else tag, 0
        return self.look(seen, gpus)

    def turn(self, seen: Seen, by: int, gpus: int) -> News:
        """Show newer or older runs."""
        seen.page = max(0, seen.page + by)
        return self.look(seen, gpus)

    def _found(self, seen: Seen, everything: Sequence[Run], gpus: int) -> str:
        words = seen.words.split()
        runs = [run for run in everything if (not seen.tag or seen.tag in run.tags) and has_words(run, words)]
        if not runs:
            what = f"“{markup.esc(seen.words)}”" if seen.words else "this tag"
            return f'<p class="card-hint none-found" role="status">No run has {what}.</p>'
        return self._page(seen, runs, gpus)

    def _page(self, seen: Seen, runs: Sequence[Run], gpus: int) -> str:
        last = (len(runs) - 1) // A_PAGE
        seen.page = min(seen.page, last)
        first = seen.page * A_PAGE
        shown = [(run, self._summary(run)) for run in runs[first : first + A_PAGE]]
        return _bar(first, len(shown), len(runs), bool(seen.words or seen.tag)) + run_list(shown, _now(), gpus > 1)

    def _summary(self, run: Run) -> Summary:
        return self.service.history.summary(run) if run.is_at_rest else self.stories.of(run.id).summary

    def _tell(self, seen: Seen, listed: str, queued: str, groups: str, everything: Sequence[Run]) -> News:
        news: News = {}
        tags = _tags(tags_of(everything), seen.tag)
        for widget, name, html in (
            (self.widgets.run_list, "html", listed),
            (self.widgets.run_queue, "queue", queued),
            (self.widgets.groups, "groups", groups),
            (self.widgets.tags, "tags", tags),
        ):
            if html != getattr(seen, name):
                setattr(seen, name, html)
                news[widget] = html
        return news


def _plain(words: str | None) -> str:
    return (words or "").strip().lower()[:LONGEST_SEARCH]


def has_words(run: Run, words: Sequence[str]) -> bool:
    """Whether each of the words, in lower case, stands in the run's name, dataset, base model, tags, note or state."""
    parts = [run.name, run.dataset_name, run.config.base_model, text.base_model(run.config.base_model), *run.tags]
    whole = "\n".join([*parts, run.note, run.state, text.STATE_WORDS[run.state]]).lower()
    return all(word in whole for word in words)


def _tags(tags: Sequence[str], chosen: str) -> str:
    shown = tags[:SHOWN_TAGS] if not chosen or chosen in tags[:SHOWN_TAGS] else (chosen, *tags[: SHOWN_TAGS - 1])
    buttons = "".join(
        f'<button class="tag" type="button" data-tag="{markup.esc(tag)}" '
        f'aria-pressed="{"true" if tag == chosen else "false"}">{markup.esc(tag)}</button>'
        for tag in shown
    )
    return f'<div class="tags" role="group" aria-label="Show runs with a tag">{buttons}</div>' if buttons else ""


def _bar(first: int, shown: int, count: int, is_search: bool) -> str:
    """How many runs there are, which of them are shown, and the ways to the others and to a comparison."""
    what = text.plural(count, "run") + (" found" if is_search else "")
    if shown == count:
        where, turns = what, ""
    else:
        where = f"{first + 1:,} to {first + shown:,} of {what}"
        turns = _turn(-1, "Newer", first > 0) + _turn(1, "Older", first + shown < count)
    link = '<a id="compare-runs" class="as-button primary small" hidden>Compare</a>'
    return f'<div class="list-bar runs-bar"><span role="status">{where}</span>{turns}{link}</div>'


def _turn(by: int, words: str, leads_on: bool) -> str:
    return (
        f'<button class="as-button small" type="button" data-turn="{by}" '
        f'aria-disabled="{"false" if leads_on else "true"}">{words}</button>'
    )


def _no_runs() -> str:
    return markup.empty("No runs yet", "A run appears here as soon as you launch it.", "/", "Set up a run")


def _now() -> datetime:
    return datetime.now(UTC)

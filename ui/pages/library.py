"""The Library: every adapter that was trained here, to be compared, downloaded and renamed.

Ids: `#adapter-list`, in it one `.adapter` with `data-id` each, with `.download`, `.formats`, `.compare` and `.rename`;
`#compare-selected`; `#rename-name` and `#rename-save` once a rename is asked for; `ui.pages.exporting` has those of the
panel that `.formats` opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import gradio as gr

from jobs.service import Adapter, Service
from ui import addresses, answers, markup, text
from ui.answers import News
from ui.pages import exporting, frame, serving_card
from ui.story import Stories

# Ticked adapters make up the link of "Compare selected"; a click on Rename goes to the server with the adapter's id.
_SCRIPT = """
const link = () => element.querySelector('#compare-selected');
const update = () => {
  const ids = [...element.querySelectorAll('.pick:checked')].map((box) => box.value);
  if (!link()) return;
  link().toggleAttribute('hidden', ids.length < 2);
  link().href = '/playground?adapters=' + ids.map(encodeURIComponent).join(',');
  link().textContent = `Compare ${ids.length} adapters`;
};
element.addEventListener('change', update);
element.addEventListener('click', (event) => {
  const button = event.target.closest('.rename');
  if (button) trigger('rename', {id: button.closest('.adapter').dataset.id});
  const formats = event.target.closest('.formats');
  if (formats) trigger('formats', {id: formats.closest('.adapter').dataset.id});
});
watch('value', update);
"""


def build(page: gr.Blocks, service: Service, stories: Stories) -> None:
    """Put the page into the open Blocks context."""
    banner = frame.header(page, service, stories)
    gr.HTML(
        markup.page_heading(
            "Library", "Every adapter you trained, ready for the Playground or for use elsewhere with PEFT."
        )
    )
    bar, name, save, leave = _rename_bar()
    export = exporting.build()
    listing = gr.HTML(
        markup.loading("Reading the adapters"), elem_id="adapter-list", apply_default_css=False, js_on_load=_SCRIPT
    )
    chosen = gr.State("")
    outputs = [banner, bar, name, listing, chosen]
    tells, quick = answers.tells(banner), frame.QUICK

    def open_page() -> News:
        return {listing: adapter_list(service.adapters(), datetime.now(UTC))}

    def ask(event: gr.EventData) -> News:
        adapter = service.adapter(str(event.id))
        return {bar: gr.update(visible=True), name: gr.update(value=adapter.name), chosen: adapter.id}

    def rename(adapter_id: str, new_name: str) -> News:
        service.rename_adapter(adapter_id, (new_name or "").strip())
        return {bar: gr.update(visible=False), **open_page()}

    page.load(tells(open_page), None, outputs, **quick)
    listing.rename(tells(ask), None, outputs, **quick)
    exporting.wire(service, export, banner, listing.formats)
    gr.on([save.click, name.submit], tells(rename), [chosen, name], outputs, **quick)
    leave.click(tells(lambda: {bar: gr.update(visible=False)}), None, outputs, **quick)


def _rename_bar() -> tuple[gr.Row, gr.Textbox, gr.Button, gr.Button]:
    with gr.Row(visible=False, elem_classes=["card", "rename-bar"]) as bar:
        name = gr.Textbox("", label="New name", elem_id="rename-name", max_length=80, scale=4)
        save = gr.Button("Rename", variant="primary", elem_id="rename-save", size="md", scale=0, min_width=110)
        leave = gr.Button("Keep the old one", elem_id="rename-leave", size="md", scale=0, min_width=150)
    return bar, name, save, leave


def adapter_list(adapters: Sequence[Adapter], now: datetime) -> str:
    """All adapters, newest first, or what to do while there is none."""
    if not adapters:
        return markup.empty("No adapters yet", "An adapter appears here when its run is finished.", "/", "Train one")
    items = "".join(_item(adapter, now) for adapter in adapters)
    compare = '<a id="compare-selected" class="as-button primary small" href="#" hidden>Compare</a>'
    return f'<p class="list-bar">{compare}</p><ul class="adapters">{items}</ul>'


def _item(adapter: Adapter, now: datetime) -> str:
    esc = markup.esc
    return (
        f'<li class="adapter card" data-id="{esc(adapter.id)}">'
        f'{_pick(adapter)}<div class="adapter-name"><h2>{esc(adapter.name)}</h2>'
        f"<p>{esc(text.base_model(adapter.base_model))} · {esc(text.ago(adapter.created_at, now))} · "
        f"<code>#{esc(adapter.fingerprint)}</code>"
        f"{_run_link(adapter)}</p></div>"
        f'<dl class="adapter-facts">{_facts(adapter)}</dl><div class="adapter-actions">{_compare(adapter)}'
        f'<a class="as-button small download" href="{esc(addresses.adapter_zip(adapter.id))}" download>Download</a>'
        f"{exporting.button(adapter)}"
        '<button class="as-button small plain rename" type="button">Rename</button></div>'
        f"{serving_card.use_from_program(adapter)}</li>"
    )


def _pick(adapter: Adapter) -> str:
    """The box for comparing; a classifier has nothing to say in the Playground."""
    if not adapter.can_chat:
        return "<span></span>"
    return (
        f'<label class="pick-label"><input class="pick" type="checkbox" value="{markup.esc(adapter.id)}">'
        f'<span class="visually-hidden">Select {markup.esc(adapter.name)}</span></label>'
    )


def _compare(adapter: Adapter) -> str:
    if not adapter.can_chat:
        return '<span class="card-hint" title="It names a class and has no words to chat with">Classifier</span>'
    return f'<a class="as-button small compare" href="/playground?adapters={markup.esc(adapter.id)}">Compare</a>'


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

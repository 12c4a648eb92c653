"""The Library: every adapter that was trained here or came from elsewhere, to be found, compared, named, noted on,
combined, shrunk, deleted and restored.

`/library?find=WORDS` opens with a search. Ids: `#library-search`, `#library-order`, `#adapter-list`
(`ui.pages.library_list`); `#rename-name`, `#adapter-note`, `#adapter-base`, `#rename-save` and `#rename-leave` once an
adapter is edited; `#trash`, in it `#trash-list`; `ui.pages.adding_adapters`, `combining`, `shrinking` and `exporting`
name theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gradio as gr

from jobs.service import Adapter, Making, Service
from ui import answers, markup
from ui.answers import News
from ui.pages import adding_adapters, combining, exporting, frame, library_list, library_trash, shrinking
from ui.pages.library_list import PAGE, Beside, View
from ui.story import Stories


def build(page: gr.Blocks, service: Service, stories: Stories) -> None:
    """Put the page into the open Blocks context."""
    banner = frame.header(page, service, stories)
    gr.HTML(
        markup.page_heading(
            "Library", "Every adapter you trained or added, ready for the Playground or for use elsewhere with PEFT."
        )
    )
    adding = adding_adapters.build()
    edit = _edit_panel(service.library.longest_note)
    combine, shrink, export = combining.build(), shrinking.build(), exporting.build()
    with gr.Row(elem_classes=["library-bar"]):
        search = gr.Textbox("", label="Search", placeholder="Name, base, note", elem_id="library-search",
                            max_length=200, scale=3)  # fmt: skip
        order = gr.Dropdown([(words, key) for key, (words, _) in library_list.ORDERS.items()], value="newest",
                            label="Order", elem_id="library-order", scale=1)  # fmt: skip
    listing = gr.HTML(
        markup.loading("Reading the adapters"), elem_id="adapter-list", apply_default_css=False,
        js_on_load=library_list.SCRIPT,
    )  # fmt: skip
    with gr.Accordion("Deleted adapters", open=False, elem_id="trash", elem_classes=["folded"]):
        trash = gr.HTML("", elem_id="trash-list", apply_default_css=False, js_on_load=library_trash.SCRIPT)
    widgets = Widgets(
        banner=banner, search=search, order=order, shown=gr.State(PAGE), listing=listing, trash=trash, edit=edit,
        adding=adding, combine=combine, shrink=shrink,
    )  # fmt: skip
    _wire(page, LibraryPage(service, widgets))
    exporting.wire(service, export, banner, listing.formats)


@dataclass(frozen=True, kw_only=True)
class EditPanel:
    """Where an adapter gets its name, its note and, where its own is not here, its base model."""

    panel: gr.Column
    adapter_id: gr.State
    name: gr.Textbox
    note: gr.Textbox
    base: gr.Dropdown
    save: gr.Button
    leave: gr.Button

    @property
    def all(self) -> list[Any]:
        """What opening it changes."""
        return [self.panel, self.adapter_id, self.name, self.note, self.base]


@dataclass(frozen=True, kw_only=True)
class Widgets:
    """Everything on the page that handlers read or answer for."""

    banner: gr.HTML
    search: gr.Textbox
    order: gr.Dropdown
    shown: gr.State
    listing: gr.HTML
    trash: gr.HTML
    edit: EditPanel
    adding: adding_adapters.Widgets
    combine: combining.Widgets
    shrink: shrinking.Widgets

    @property
    def view(self) -> list[Any]:
        """What of the list is asked for."""
        return [self.search, self.order, self.shown]

    @property
    def lists(self) -> list[Any]:
        """What a change of the library changes."""
        return [self.banner, *self.view, self.listing, self.trash]


class LibraryPage:
    """The page's handlers. Each returns the news for the widgets that change."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service, self.widgets = service, widgets
        self.shrinking = shrinking.Shrinking(service, widgets.shrink, self.added)

    def open(self, request: gr.Request) -> News:
        """A visitor arrives, perhaps with a search in the address."""
        words = request.query_params.get("find", "")[:200]
        return {self.widgets.search: words, **self.show(words)}

    def show(self, words: str = "", order: str = "newest", shown: int = PAGE, notice: str = "") -> News:
        """The list as it is asked for, and the deleted ones."""
        library, now = self.service.library, datetime.now(UTC)
        every, view = library.all(), View(words=words or "", order=order, shown=shown)
        beside = self._beside(every, library_list.arranged(every, view)[:shown])
        deleted = library.trash.all()
        return {
            self.widgets.listing: library_list.adapter_list(every, now, view, beside, notice),
            self.widgets.trash: library_trash.trash_list(deleted, now, library.trash.days),
        }

    def search(self, words: str, order: str) -> News:
        """Another search or order: from its beginning."""
        return {self.widgets.shown: PAGE, **self.show(words, order)}

    def more(self, words: str, order: str, shown: int) -> News:
        """The next ones too."""
        return {self.widgets.shown: shown + PAGE, **self.show(words, order, shown + PAGE)}

    def added(self, making: Making) -> News:
        """There is a new adapter: it is on top, whatever was searched for."""
        assert making.adapter_id is not None
        name = self.service.adapter(making.adapter_id).name
        widgets = self.widgets
        anew = {widgets.search: "", widgets.order: "newest", widgets.shown: PAGE}
        return {**anew, **self.show(notice=library_list.notice(f"{name} is in the library now."))}

    def edit(self, event: gr.EventData) -> News:
        """Open the panel for one adapter."""
        panel, library = self.widgets.edit, self.service.library
        adapter = library.get(str(event.id))
        is_missing = adapter.method != "full" and library.base_state(adapter) != "here"
        bases = library.fitting_bases(adapter.id) if is_missing else ()
        words = "On this machine, with the shapes it needs" if bases else "None on this machine has the shapes it needs"
        return {
            panel.panel: gr.update(visible=True),
            panel.adapter_id: adapter.id,
            panel.name: adapter.name,
            panel.note: adapter.note,
            panel.base: gr.update(choices=list(bases), value=None, visible=is_missing, info=words),
        }

    def save(self, adapter_id: str, name: str, note: str, base: str | None, *view: Any) -> News:
        """Keep what the panel says."""
        library = self.service.library
        library.note(adapter_id, note or "")
        library.rename(adapter_id, (name or "").strip())
        if base:
            library.choose_base(adapter_id, base)
        return {self.widgets.edit.panel: gr.update(visible=False), **self.show(*view)}

    def remove(self, event: gr.EventData, *view: Any) -> News:
        """Delete one, and offer the way back."""
        adapter = self.service.library.trash.put(str(event.id))
        return self.show(*view, notice=library_list.deleted_notice(adapter))

    def restore(self, event: gr.EventData, *view: Any) -> News:
        """Bring one back."""
        adapter = self.service.library.trash.restore(str(event.id))
        return self.show(*view, notice=library_list.notice(f"{adapter.name} is back."))

    def empty_trash(self, *view: Any) -> News:
        """Remove the files of all that were deleted."""
        self.service.library.trash.empty()
        return self.show(*view)

    def combine(self, event: gr.EventData) -> News:
        """Open the panel for those that are ticked."""
        chosen = [self.service.library.get(str(each)) for each in event.ids]
        closed = {self.widgets.shrink.panel: gr.update(visible=False)}
        return {**closed, **combining.opened(self.widgets.combine, chosen)}

    def shrink(self, event: gr.EventData) -> News:
        """Open the panel for the one that is ticked."""
        closed = {self.widgets.combine.panel: gr.update(visible=False)}
        return {**closed, **self.shrinking.open(self.service.library.get(str(event.id)))}

    def _beside(self, every: Sequence[Adapter], shown: Sequence[Adapter]) -> Beside:
        one_of_each = {adapter.base_model: adapter for adapter in shown if adapter.method != "full"}
        states = {base: self.service.library.base_state(adapter) for base, adapter in one_of_each.items()}
        return Beside(bases=states, ids=frozenset(adapter.id for adapter in every))


def _edit_panel(longest_note: int) -> EditPanel:
    with gr.Column(visible=False, elem_classes=["card", "edit-panel"]) as panel:
        name = gr.Textbox("", label="Name", elem_id="rename-name", max_length=80)
        note = gr.Textbox("", label="Notes", elem_id="adapter-note", lines=2, max_lines=8, max_length=longest_note)
        base = gr.Dropdown([], label="Base model to stand on", elem_id="adapter-base", visible=False)
        with gr.Row(elem_classes=["actions"]):
            save = gr.Button("Save", variant="primary", elem_id="rename-save", size="md")
            leave = gr.Button("Leave it as it is", elem_id="rename-leave", size="md")
    return EditPanel(panel=panel, adapter_id=gr.State(""), name=name, note=note, base=base, save=save, leave=leave)


def _wire(page: gr.Blocks, handlers: LibraryPage) -> None:
    """Connect the widgets' events with the handlers."""
    widgets, service, quick = handlers.widgets, handlers.service, frame.QUICK
    edit, listing, view = widgets.edit, widgets.listing, widgets.view
    tells, lists = answers.tells(widgets.banner), widgets.lists
    last = {**quick, "trigger_mode": "always_last"}  # who types on means the last
    page.load(tells(handlers.open), None, lists, **quick)
    # A textbox's `input` knows keys alone, not what is pasted with the mouse.
    gr.on([widgets.search.change, widgets.order.input], tells(handlers.search), view[:2], lists, **last)
    listing.more(tells(handlers.more), view, lists, **quick)
    listing.remove(tells(handlers.remove), view, lists, **quick)
    for restored in (listing.restore, widgets.trash.restore):
        restored(tells(handlers.restore), view, lists, **quick)
    widgets.trash.empty(tells(handlers.empty_trash), view, lists, **quick)
    listing.rename(tells(handlers.edit), None, [widgets.banner, *edit.all], **quick)
    saved = [edit.adapter_id, edit.name, edit.note, edit.base, *view]
    gr.on([edit.save.click, edit.name.submit], tells(handlers.save), saved, [*lists, edit.panel], **quick)
    closed = tells(lambda: {edit.panel: gr.update(visible=False)})
    edit.leave.click(closed, None, [widgets.banner, edit.panel], **quick)
    panels = [widgets.banner, *widgets.combine.all, *widgets.shrink.all]
    listing.combine(tells(handlers.combine), None, panels, **quick)
    listing.shrink(tells(handlers.shrink), None, panels, **quick)
    adding_adapters.wire(service, widgets.adding, widgets.banner, [*lists, *widgets.adding.all], handlers.added)
    combining.wire(service, widgets.combine, widgets.banner, [*lists, *widgets.combine.all], handlers.added)
    shrinking.wire(handlers.shrinking, widgets.banner, [*lists, *widgets.shrink.all])

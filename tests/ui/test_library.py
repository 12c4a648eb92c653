"""The Library's page as far as it can be told without a browser: the list, its words, and how much of it there is."""

from __future__ import annotations

import html
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from core.adapters.ways import WAYS
from core.errors import AdapterError, ConfigError, NotFound
from jobs.origins import Origin, Parent
from jobs.service import Adapter, Kept, Making, RunProblem
from tests.ui.stand_in import NOW, XSS, Names, adapter
from ui.pages import combining, library_list, library_trash, lineage, making_line, shrinking
from ui.pages.library import LibraryPage
from ui.pages.library_list import PAGE, Beside, View

A, B = Parent(id="a1", name="Ann", weight=0.5), Parent(id="b1", name="Bob", weight=-1.0)


def many(count: int) -> list[Adapter]:
    return [
        adapter(
            id=f"a{at}", name=f"adapter {at:03d}", eval_loss=None if at % 7 == 0 else 1 + at / count, bytes=1000 * at,
            created_at=NOW - timedelta(minutes=at), note=f"note of {at}", run_id=None,
            origin=Origin(kind="combined", how="svd", rank=8, parents=(A, B), energy=0.973),
        )
        for at in range(count)
    ]  # fmt: skip


def names(view: View, adapters: list[Adapter]) -> list[str]:
    return [each.name for each in library_list.arranged(adapters, view)]


# -- the list --------------------------------------------------------------------------------------------------------


def test_two_hundred_adapters_are_a_page_of_fifty_and_a_way_to_more_within_bounds() -> None:
    every = many(200)
    begin = time.perf_counter()
    html = library_list.adapter_list(every, NOW)
    assert time.perf_counter() - begin < 1.0
    assert html.count('class="adapter card"') == PAGE == 50
    assert "Showing 50 of 200" in html and "Show 50 more" in html
    assert len(html) < 3000 * PAGE
    every_one = library_list.adapter_list(every, NOW, View(shown=200))
    assert every_one.count('class="adapter card"') == 200 and "Showing" not in every_one
    assert "Show 20 more" in library_list.adapter_list(every[:120], NOW, View(shown=100))


def test_a_search_finds_what_has_all_its_words_wherever_they_stand() -> None:
    shelf = [
        adapter(id="x", name="Captain", note="talks like a sailor"),
        adapter(id="y", name="To JSON", base_model="owner/llama", fingerprint="deadbeef"),
        adapter(id="z", name="From the hub", origin=Origin(kind="uploaded", place="hub ann/pirate")),
        adapter(id="w", name="Both", origin=Origin(kind="combined", how="concat", parents=(A, B))),
        adapter(id="m", name="Whole", method="full"),
    ]
    for words, found in (
        ("SAILOR captain", ["Captain"]),
        ("llama", ["To JSON"]),
        ("dead", ["To JSON"]),
        ("ann/pirate", ["From the hub"]),
        ("bob", ["Both"]),
        ("full fine-tuning", ["Whole"]),
        ("captain llama", []),
    ):
        assert names(View(words=words), shelf) == found
    assert names(View(words="z"), [shelf[2]]) == ["From the hub"]  # by its id, as links between adapters do
    nothing = library_list.adapter_list(shelf, NOW, View(words="nobody has this"))
    assert "Nothing found" in nothing and "nobody has this" in nothing


def test_every_order_is_one() -> None:
    shelf = many(20)
    assert names(View(order="newest"), shelf) == [each.name for each in shelf]
    assert names(View(order="name"), shelf[::-1]) == [each.name for each in shelf]
    by_loss = library_list.arranged(shelf, View(order="loss"))
    losses = [each.eval_loss for each in by_loss if each.eval_loss is not None]
    assert losses == sorted(losses) and [each.eval_loss for each in by_loss[len(losses) :]] == [None] * 3
    sizes = [each.bytes for each in library_list.arranged(shelf, View(order="size"))]
    assert sizes == sorted(sizes)
    assert names(View(order="made up by a browser"), shelf) == [each.name for each in shelf]


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        (Origin(), ""),
        (Origin(kind="uploaded", place="captain.zip"), "from captain.zip"),
        (Origin(kind="combined", how="concat", parents=(A, B)), "0.5 × Ann + -1 × Bob · exact sum"),
        (
            Origin(kind="combined", how="svd", rank=8, energy=0.973, parents=(A, B)),
            "0.5 × Ann + -1 × Bob · sum at rank 8, keeps 97.3 % of the energy",
        ),
        (
            Origin(kind="combined", how="ties", rank=4, density=0.5, energy=0.9, parents=(A, B)),
            "0.5 × Ann + -1 × Bob · TIES, rank 4, density 0.5, keeps 90 % of the energy",
        ),
        (Origin(kind="shrunk", rank=4, energy=0.97, parents=(A,)), "Ann at rank 4, keeps 97 % of the energy"),
        (
            Origin(kind="shrunk", target_energy=0.9, energy=0.9123, parents=(A,)),
            "Ann at 90 % of each change, keeps 91.23 % of the energy",
        ),
    ],
)
def test_the_line_says_where_an_adapter_is_from(origin: Origin, says: str) -> None:
    html = lineage.line(origin, ())
    assert html == (f'<p class="lineage">{says}</p>' if says else "")


def test_parents_that_are_still_there_can_be_followed() -> None:
    html = lineage.line(Origin(kind="combined", how="concat", parents=(A, B)), {"b1"})
    assert '<a href="/library?find=b1">Bob</a>' in html and "<a" not in html.split("Bob")[0].split("+")[0]


def test_a_base_that_is_not_here_is_said() -> None:
    shelf = [adapter(base_model="owner/far"), adapter(id="b", base_model="/gone")]
    html = library_list.adapter_list(shelf, NOW, beside=Beside(bases={"owner/far": "hub", "/gone": "unknown"}))
    assert html.count("missing-base") == 2 and "fetched when it is used" in html and "choose another" in html
    assert "missing-base" not in library_list.adapter_list(shelf, NOW, beside=Beside(bases={"owner/far": "here"}))
    assert "an unnamed base" in library_list.adapter_list([adapter(base_model="")], NOW)


def test_a_whole_model_is_listed_with_what_can_be_done_with_it() -> None:
    html = library_list.adapter_list([adapter(id="m1", method="full", rank=0, targets=())], NOW)
    assert "/playground?base=m1" in html and "/?base=m1" in html and "a whole model" in html
    assert 'class="pick"' not in html and "?to=" not in html


def test_deleting_offers_the_way_back_and_the_trash_lists_what_can_be_restored() -> None:
    gone = adapter(id="g1", name=XSS, deleted_at=NOW - timedelta(hours=3))
    undo = library_list.deleted_notice(gone)
    assert 'data-id="g1"' in undo and "Undo" in undo
    html = library_trash.trash_list([gone], NOW, 30)
    assert "3 h ago" in html and "for 30 days" in html and html.count('class="deleted"') == 1
    assert "Nothing was deleted" in library_trash.trash_list([], NOW, 30)
    assert "<img" not in undo + html


def test_nothing_that_a_person_or_a_file_says_is_taken_for_markup() -> None:
    origins = (
        Origin(kind="uploaded", place=XSS),
        Origin(kind="combined", how="concat", parents=(replace(A, name=XSS, id=XSS), B)),
        Origin(kind="shrunk", rank=4, parents=(replace(A, name=XSS),)),
    )
    for origin in origins:
        shown = adapter(name=XSS, note=XSS, base_model=XSS, fingerprint=XSS, origin=origin)
        html = library_list.adapter_list([shown], NOW, beside=Beside(ids=frozenset([XSS]), bases={XSS: "hub"}))
        assert "<img" not in html
    assert "<img" not in library_list.adapter_list([adapter()], NOW, View(words=XSS)) + library_list.notice(XSS)


# -- the page's handlers ---------------------------------------------------------------------------------------------


class Shelf:
    """A library of these adapters, which notes what is asked of it."""

    def __init__(self, adapters: list[Adapter]) -> None:
        self.adapters = {each.id: each for each in adapters}
        self.calls: list[Any] = []
        self.library = self.trash = self.makings = self
        self.days = 30
        self.deleted: list[Adapter] = []
        self.making = Making(id="k1", name="Both")

    def all(self) -> Any:
        return tuple(self.adapters.values())

    def get(self, adapter_id: str) -> Adapter:
        if adapter_id not in self.adapters:
            raise NotFound(f"There is no adapter {adapter_id}")
        return self.adapters[adapter_id]

    adapter = get

    def base_state(self, asked: Adapter) -> str:
        return "here" if asked.base_model == "starter" else "unknown"

    def fitting_bases(self, _id: str) -> Any:
        return (("SmolLM2", "starter"),)

    def rename(self, *call: Any) -> None:
        self.calls.append(("rename", *call))

    def note(self, *call: Any) -> None:
        self.calls.append(("note", *call))

    def choose_base(self, *call: Any) -> None:
        self.calls.append(("base", *call))

    def begin_combination(self, *call: Any) -> Making:
        self.calls.append(call)
        return self.making

    def begin_shrinking(self, *call: Any, **wanted: Any) -> Making:
        self.calls.append((*call, wanted))
        return self.making

    def begin_weighing(self, adapter_id: str) -> Making:
        self.calls.append(adapter_id)
        return self.making

    def look(self, _id: str, _seconds: float = 0) -> Making:
        return self.making

    def kept(self, _id: str, **wanted: Any) -> Kept | None:
        self.calls.append(wanted)
        return Kept(energy=0.9712, lowest_rank=2, highest_rank=4, bytes=48_000)


class Trash(Shelf):
    """A library whose `all` are adapters, with a trash beside it."""

    def __init__(self, adapters: list[Adapter]) -> None:
        super().__init__(adapters)
        self.trash = SimpleNamespace(all=lambda: tuple(self.deleted), days=30, put=self._put)  # type: ignore[assignment]

    def _put(self, adapter_id: str) -> Adapter:
        gone = self.adapters.pop(adapter_id)
        self.deleted.append(replace(gone, deleted_at=NOW))
        return gone


class Panels(Names):
    """Widgets whose panels are each named after the part of the page that they are in."""

    def __getattr__(self, name: str) -> Any:
        if name in ("edit", "combine", "shrink", "adding", "line", "weighing"):
            part = Panels()
            part.prefix = f"{getattr(self, 'prefix', '')}{name}."
            return part
        if name == "weights":
            return tuple(f"weight-{at}" for at in range(6))
        if name == "prefix":
            raise AttributeError(name)
        return f"{getattr(self, 'prefix', '')}{name}"


@pytest.fixture
def shelf() -> Trash:
    return Trash([adapter(id="a1", name="Ann", rank=8), adapter(id="b1", name="Bob", base_model="/gone", rank=2)])


@pytest.fixture
def page(shelf: Trash) -> LibraryPage:
    return LibraryPage(shelf, Panels())  # type: ignore[arg-type]


def event(**values: Any) -> Any:
    return SimpleNamespace(**values)


def test_an_address_may_hold_a_search(page: LibraryPage) -> None:
    news = page.open(SimpleNamespace(query_params={"find": "b1"}))
    assert news["search"] == "b1" and "Bob" in news["listing"] and "Ann" not in news["listing"]


def test_more_shows_more_and_a_search_begins_anew(shelf: Trash) -> None:
    shelf.adapters = {each.id: each for each in many(120)}
    page = LibraryPage(shelf, Panels())  # type: ignore[arg-type]
    news = page.more("", "newest", 50)
    assert news["shown"] == 100 and news["listing"].count('class="adapter card"') == 100
    assert page.search("adapter", "name")["shown"] == PAGE


def test_the_panel_offers_bases_that_fit_only_where_the_own_one_is_not_here(page: LibraryPage) -> None:
    ann, bob = page.edit(event(id="a1")), page.edit(event(id="b1"))
    assert ann["edit.base"]["visible"] is False and ann["edit.name"] == "Ann"
    assert bob["edit.base"]["visible"] is True and bob["edit.base"]["choices"] == [("SmolLM2", "starter")]


def test_saving_keeps_note_name_and_base(page: LibraryPage, shelf: Trash) -> None:
    page.save("b1", " Bert ", "a note", "starter", "", "newest", PAGE)
    assert shelf.calls == [("note", "b1", "a note"), ("rename", "b1", "Bert"), ("base", "b1", "starter")]
    page.save("a1", "Ann", "", None, "", "newest", PAGE)
    assert ("base", "a1", None) not in shelf.calls


def test_a_deleted_one_leaves_the_list_and_is_offered_back(page: LibraryPage) -> None:
    news = page.remove(event(id="a1"), "", "newest", PAGE)
    assert "Ann was deleted" in news["listing"] and news["listing"].count('class="adapter card"') == 1
    assert 'data-id="a1"' in news["trash"]


# -- combining and shrinking -----------------------------------------------------------------------------------------


def test_the_panel_for_a_combination_has_a_weight_an_adapter(shelf: Trash) -> None:
    news = combining.opened(Panels(), list(shelf.adapters.values()))  # type: ignore[arg-type]
    assert [news[f"weight-{at}"]["visible"] for at in range(6)] == [True, True, False, False, False, False]
    assert news["weight-1"]["label"] == "Weight of Bob" and news["name"] == "Ann + Bob" and news["ids"] == ["a1", "b1"]
    assert news["rank"]["value"] == 8
    for adapters in ([adapter()], [adapter(id=str(at)) for at in range(7)]):
        with pytest.raises(AdapterError, match="cannot be combined"):
            combining.opened(Panels(), adapters)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", list(WAYS))
def test_each_way_says_when_and_shows_its_settings_alone(how: Any) -> None:
    news = combining.chosen(Panels(), how)  # type: ignore[arg-type]
    way = WAYS[how]
    assert way.when in html.unescape(news["when"])
    shown = [news[name]["visible"] for name in ("rank", "density", "seed")]
    assert shown == [way.has_rank, way.has_density, way.has_seed]


def test_a_missing_weight_is_told() -> None:
    with pytest.raises(ConfigError, match="weight is missing"):
        combining.wanted("concat", 8, 0.5, 0, [1.0, None])
    order = combining.wanted("ties", 8, 0.25, 3, [1, -0.5])
    assert (order.weights, order.rank, order.density, order.seed) == ((1.0, -0.5), 8, 0.25, 3)


def test_shrinking_shows_what_is_kept_before_it_begins(shelf: Trash) -> None:
    shelf.making = Making(id="k1", name="Ann", state="done", spectra=())
    panel = shrinking.Shrinking(shelf, Panels(), lambda making: {"listing": making.id})  # type: ignore[arg-type]
    news = panel.open(shelf.get("a1"))
    assert news["rank"]["value"] == 4 and news["adapter_id"] == "a1"
    assert "Ranks 2 to 4 keep 97.12 % of the change&#x27;s energy, in 48 kB" in news["figure"]
    by_energy = panel.choose("k1", "energy", None, 95)
    assert by_energy["energy"]["visible"] is True and by_energy["rank"]["visible"] is False
    assert shelf.calls[-1] == {"rank": None, "energy": 0.95}
    panel.make("a1", "small", "rank", 3, None)
    assert shelf.calls[-1] == ("a1", "small", {"rank": 3, "energy": None})
    for by, rank, energy in (("rank", None, 9), ("energy", 3, None)):
        with pytest.raises(ConfigError, match="is empty"):
            panel.make("a1", "small", by, rank, energy)


def test_a_line_tells_how_far_it_is_what_went_wrong_and_what_is_new(shelf: Trash) -> None:
    line: Any = Panels()
    done = lambda making: {"listing": making.adapter_id}  # noqa: E731
    shelf.making = Making(id="k1", name=XSS, phase="combining", share_done=0.4)
    news = making_line.look(shelf, line, done, "k1")  # type: ignore[arg-type]
    assert 'aria-valuenow="40"' in news["status"] and "combining" in news["status"] and "<img" not in news["status"]
    assert news["timer"]["active"] is True
    shelf.making = Making(id="k1", name="x", state="refused", problem=RunProblem(title=XSS, hint="Do this"))
    news = making_line.look(shelf, line, done, "k1")  # type: ignore[arg-type]
    assert "Do this" in news["status"] and "<img" not in news["status"] and news["timer"]["active"] is False
    shelf.making = Making(id="k1", name="x", state="done", adapter_id="a9")
    news = making_line.look(shelf, line, done, "k1")  # type: ignore[arg-type]
    assert news["listing"] == "a9" and news["status"] == "" and news["timer"]["active"] is False
    assert making_line.look(shelf, line, done, "") == {}  # type: ignore[arg-type]


def test_what_was_added_is_on_top_whatever_was_searched_for(page: LibraryPage) -> None:
    news = page.added(Making(id="k", name="x", state="done", adapter_id="a1"))
    assert news["search"] == "" and news["order"] == "newest" and "Ann is in the library now" in news["listing"]

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.generate.stops import StopTexts


def shown(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    watch, said = StopTexts(stops), ""
    for piece in pieces:
        said += watch.add(piece)
        if watch.is_found:
            return said, True
    return said + watch.rest(), False


@given(
    st.lists(st.text("ab\n", max_size=3), max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4)
)
def test_a_text_is_cut_before_the_first_stop_however_it_came(pieces: list[str], stops: list[str]) -> None:
    said, is_found = shown(pieces, stops)
    whole = "".join(pieces)
    ends = {}
    for stop in stops:
        at = whole.find(stop)
        if at >= 0:
            ends[stop] = at
    assert is_found == bool(ends)
    if not ends:
        assert said == whole
    else:  # the stop that is whole first ends the text, at its own beginning or that of one that came with it
        assert said in {whole[:at] for at in ends.values()} and not any(stop in said for stop in stops)


def test_nothing_is_shown_that_might_be_the_beginning_of_a_stop() -> None:
    watch = StopTexts(["\n\nUser:"])
    assert [watch.add(piece) for piece in ("Yes", ".\n", "\nUs", "age", "\n\nUser", ": no")] == [
        "Yes", ".", "", "\n\nUsage", "", "",
    ]  # fmt: skip
    assert watch.is_found and watch.rest() == ""


def test_without_stops_all_is_shown_at_once() -> None:
    watch = StopTexts(())
    assert watch.add("any") == "any" and watch.rest() == "" and not watch.is_found

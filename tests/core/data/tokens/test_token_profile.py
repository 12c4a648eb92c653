"""A profile against what encoding for training says, at every limit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from core.config import TrainOn
from core.data.records import Conversation, Labeled, Message, Passage, Record
from core.data.tokens import profiling as token_profiling
from core.data.tokens.encoding import Encoder, encode
from core.data.tokens.labeling import encode_labeled
from core.data.tokens.profile import ProfileSettings, TokenProfile
from core.data.tokens.profiling import write_profile
from core.data.tokens.store import narrowest
from core.errors import DataError
from tests.core.data.tokens.tokenizers_at_hand import TEXTS, made
from tests.core.tiny import conversation
from tests.jobs.tiny_model import write_tiny_model

CHAT = ProfileSettings(task="chat")
LONG = 10**6
TRAIN_ON: list[TrainOn] = ["assistant", "last", "everything"]

ANSWERS = st.builds(Message, role=st.just("assistant"), content=TEXTS, weight=st.sampled_from([0, 1, 1]))
QUESTIONS = st.builds(Message, role=st.just("user"), content=TEXTS)
CHATS = st.lists(st.tuples(QUESTIONS, ANSWERS), min_size=1, max_size=3).map(
    lambda turns: Conversation(messages=tuple(message for turn in turns for message in turn), source_row=1)
)
PASSAGES = st.builds(Passage, text=TEXTS, source_row=st.just(1))
RECORDS = st.lists(CHATS | PASSAGES, min_size=1, max_size=8)
LIMITS = st.integers(1, 80) | st.just(LONG)
FIXED = [HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module", params=["words looked up", "whole texts"])
def small(request: pytest.FixtureRequest, shared_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer with few tokens, so that it takes no time to begin with it."""
    if request.param == "whole texts":
        return made("sentencepiece", shared_tokenizer)
    return AutoTokenizer.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def profiled(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make(records: Sequence[Record], asked: ProfileSettings = CHAT) -> TokenProfile:
        folder = tmp_path_factory.mktemp("profile")
        assert write_profile(small, records, folder, asked)
        return TokenProfile(folder)

    return make


def numbered(records: Sequence[Any]) -> list[Any]:
    """The same with source rows 3, 6, 9, …"""
    return [
        type(record)(**{name: getattr(record, name) for name in record.__slots__} | {"source_row": 3 * number})
        for number, record in enumerate(records, start=1)
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=FIXED)
@given(records=RECORDS, limits=st.lists(LIMITS, min_size=1, max_size=3), train_on=st.sampled_from(TRAIN_ON))
def test_what_a_limit_cuts_is_what_training_reports(
    small: Any, profiled: Any, records: list[Record], limits: list[int], train_on: TrainOn
) -> None:
    records = numbered(records)
    profile = profiled(records, ProfileSettings(task="chat", train_on=train_on))
    for limit in limits:
        cut = profile.at_limit(limit)
        try:
            found = encode(small, records, limit, train_on=train_on)
        except DataError:
            assert cut.rows_without_labels == len(records)
            continue
        assert (cut.rows_cut, cut.rows_without_labels) == (found.truncated, found.without_labels)
        assert (cut.tokens_left, cut.trained_left) == (found.rows.lengths.sum(), found.rows.trained.sum())
        kept = set(found.rows.source_rows.tolist())
        lost = [record.source_row for record in records if record.source_row not in kept]
        assert profile.rows_without_labels(limit).tolist() == list(cut.first_without_labels) == lost


def test_the_starters_rows_are_cut_as_in_training_at_every_limit(tokenizer: Any, tmp_path: Path) -> None:
    records = [conversation("word " * (n % 30), f"It is {'so ' * (n % 40)}", row=n) for n in range(1, 100)]
    write_profile(tokenizer, records, tmp_path, CHAT)
    profile = TokenProfile(tmp_path)
    for limit in (35, 47, 60, 90):
        found, cut = encode(tokenizer, records, limit), profile.at_limit(limit)
        assert (cut.rows_cut, cut.rows_without_labels) == (found.truncated, found.without_labels)
        assert (cut.tokens_left, cut.trained_left) == (found.rows.lengths.sum(), found.rows.trained.sum())
        assert cut.rows_cut


@settings(max_examples=20, deadline=None, suppress_health_check=FIXED)
@given(records=RECORDS, train_on=st.sampled_from(TRAIN_ON))
def test_any_row_can_be_drawn_with_all_its_tokens(
    small: Any, profiled: Any, records: list[Any], train_on: TrainOn
) -> None:
    profile = profiled(numbered(records), ProfileSettings(task="chat", train_on=train_on))
    encoder = Encoder(small, narrowest(small), train_on)
    for number, (tokens, trained) in enumerate(encoder(records)):
        row = profile.row(number)
        assert row.source_row == 3 * (number + 1)
        assert row.tokens.tolist() == tokens.tolist()
        assert row.trained.tolist() == [False, *trained[1:].tolist()][: len(tokens)]
        assert profile.trained[number] == row.trained.sum()


def test_totals_and_the_histogram_count_every_row(profiled: Any) -> None:
    records = [conversation("Count.", "word " * n, row=n) for n in range(1, 120)]
    profile = profiled(records)
    assert profile.total_tokens == profile.lengths.sum() and profile.longest == profile.lengths.max()
    assert profile.total_trained == profile.trained.sum()
    for bins, until in ((1, None), (10, None), (7, 40), (300, None), (20, 4000)):
        histogram = profile.histogram(bins, until)
        assert len(histogram.rows) == bins and histogram.rows.sum() == len(records)
        assert histogram.edges[-1] > (profile.longest if until is None else until)
        slow = [
            sum(low <= length < high for length in profile.lengths)
            for low, high in zip(histogram.edges[:-1], [*histogram.edges[1:-1], LONG], strict=True)
        ]
        assert histogram.rows.tolist() == slow
    for share in (0.0, 0.5, 0.95, 1.0):
        limit = profile.quantile(share)
        assert (profile.lengths <= limit).mean() >= share and limit in profile.lengths


def test_tokens_beyond_the_limit_are_counted_row_by_row(profiled: Any) -> None:
    profile = profiled([conversation("Count.", "word " * n, row=n) for n in range(1, 60)])
    cut = profile.at_limit(50)
    assert cut.tokens_cut == sum(max(0, int(length) - 50) for length in profile.lengths) > 0
    assert cut.first_cut == tuple(profile.rows_cut(50).tolist()[:20])
    assert 0 < len(cut.first_cut) == 20 < cut.rows_cut


def test_a_classifiers_rows_have_one_label_each_at_any_limit(starter_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    records = [
        Labeled(text="word " * n, text_pair="more" if n % 2 else None, label=str(n % 3), source_row=n)
        for n in range(1, 40)
    ]
    assert write_profile(tokenizer, records, tmp_path, ProfileSettings(task="classification"))
    profile = TokenProfile(tmp_path)
    for limit in (8, 20, LONG):
        found, cut = encode_labeled(tokenizer, records, ["0", "1", "2"], limit), profile.at_limit(limit)
        assert (cut.rows_cut, cut.rows_without_labels) == (found.truncated, 0)
        assert (cut.tokens_left, cut.trained_left) == (found.rows.lengths.sum(), len(records))
    assert profile.row(3).tokens.tolist() == tokenizer("word " * 4)["input_ids"]
    assert not profile.row(3).trained.any()


def test_a_text_without_a_label_is_refused_as_training_refuses_it(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Row 1 has no label"):
        write_profile(tokenizer, [conversation("Hi", "Ho")], tmp_path, ProfileSettings(task="classification"))


def test_rows_can_be_read_while_others_are_counted_and_it_stops_when_asked(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_profiling, "COMMIT_SECONDS", 0.0)
    records = [conversation(f"Question {n}?", "word " * (n % 50), row=n) for n in range(1, 3500)]
    seen: list[int] = []

    def look(rows: int) -> None:
        profile = TokenProfile(tmp_path)
        assert profile.rows_done == rows == len(profile.lengths) and not profile.is_whole
        assert profile.row(rows - 1).source_row == rows
        assert profile.total_trained == profile.trained.sum()
        seen.append(rows)

    assert not write_profile(tokenizer, records, tmp_path, CHAT, report=look, stop=lambda: len(seen) == 2)
    assert len(seen) == 2 and seen[-1] < len(records)


def test_a_whole_profile_says_so_with_its_settings_and_remarks(tokenizer: Any, tmp_path: Path) -> None:
    asked = ProfileSettings(task="chat", train_on="last", template="llama3")
    write_profile(tokenizer, [conversation("Hi", "Ho")], tmp_path, asked)
    profile = TokenProfile(tmp_path)
    assert profile.is_whole and profile.settings == asked
    assert any("<|eot_id|> is not one token" in remark for remark in profile.remarks)


def test_a_model_that_reads_fewer_tokens_than_asked_for_sets_the_limit(tokenizer: Any, tmp_path: Path) -> None:
    write_profile(tokenizer, [conversation("Hi", "Ho")], tmp_path, CHAT, positions=512)
    profile = TokenProfile(tmp_path)
    assert (profile.limit(1024), profile.limit(100)) == (512, 100)


def test_a_dataset_without_rows_has_a_profile_of_none(tokenizer: Any, tmp_path: Path) -> None:
    write_profile(tokenizer, [], tmp_path, CHAT)
    profile = TokenProfile(tmp_path)
    assert (profile.total_tokens, profile.total_trained, profile.longest, profile.quantile(0.5)) == (0, 0, 0, 0)
    assert profile.histogram(5).rows.tolist() == [0] * 5 and profile.at_limit(10).rows_cut == 0


def million(folder: Path) -> TokenProfile:
    """A profile of 1,000,000 rows that nobody tokenized."""
    generator = np.random.default_rng(0)
    rows = 1_000_000
    lengths = generator.integers(10, 2000, rows)
    firsts = generator.integers(0, lengths)
    described = {"settings": {"task": "chat"}, "remarks": [], "token_type": "<u2", "positions": None}
    (folder / "profile.json").write_text(json.dumps(described))
    for name, numbers in (("lengths", lengths), ("firsts", firsts), ("trained", lengths - firsts)):
        numbers.astype("<u4").tofile(folder / f"{name}.u32")
    np.arange(1, rows + 1, dtype="<u4").tofile(folder / "source_rows.u32")
    labels_at = np.cumsum(np.bincount(firsts, minlength=2000) - np.bincount(lengths, minlength=2000))
    np.concatenate([[rows, 1], labels_at]).astype("<i8").tofile(folder / "counted.i64")
    return TokenProfile(folder)


def test_a_limit_over_a_million_rows_is_answered_at_once(tmp_path: Path) -> None:
    """Each takes some milliseconds; the least of several, since others use this machine too."""
    profile = million(tmp_path)
    assert profile.total_trained == profile.trained.sum()
    took = []
    for limit in (100, 512, 1000, 1500, 1999):
        begin = time.perf_counter()
        cut = profile.at_limit(limit)
        took.append(time.perf_counter() - begin)
        firsts = profile.lengths - profile.trained
        assert cut.rows_without_labels == (firsts >= limit).sum()
        assert cut.trained_left == np.maximum(np.minimum(profile.lengths, limit).astype(int) - firsts, 0).sum()
        assert cut.tokens_left == np.minimum(profile.lengths, limit)[firsts < limit].sum()
    assert min(took) < 0.05


def test_reading_a_profile_and_drawing_its_rows_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, core.data.tokens.profile, core.data.tokens.view, core.data.tokens.named_templates\n"
        "print([name for name in ('torch', 'transformers', 'pandas', 'pyarrow', 'datasets') if name in sys.modules])"
    )
    root = Path(__file__).parents[4]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

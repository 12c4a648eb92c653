from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from core.data.records import Labeled, Passage
from core.data.tokens.labeling import ClassRow, encode_labeled, label_names, require_labeled
from core.errors import DataError

LONG = 10**6


def labeled(*labels: str) -> list[Labeled]:
    return [Labeled(text=f"Text {row}", label=label, source_row=row) for row, label in enumerate(labels, start=1)]


@pytest.fixture(scope="module")
def tokenizer(starter_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(starter_folder)


@pytest.fixture
def framing(tokenizer: Any) -> Any:
    """The same words between marks, a pair with a mark and types between: as BERT's tokenizer does it."""
    from tokenizers.processors import TemplateProcessing

    framing = copy.deepcopy(tokenizer)
    marks = [("<|im_start|>", framing.bos_token_id), ("<|im_end|>", framing.eos_token_id)]
    framing._tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1", special_tokens=marks
    )
    framing.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    return framing


def encoded(tokenizer: Any, text: str, pair: str | None = None, max_tokens: int = LONG) -> ClassRow:
    record = Labeled(text=text, text_pair=pair, label="b", source_row=1)
    (row,) = encode_labeled(tokenizer, [record], ("a", "b"), max_tokens).rows
    return row


def test_classes_are_numbered_in_the_order_of_their_names() -> None:
    assert label_names(labeled("no", "yes", "maybe", "no")) == ("maybe", "no", "yes")


def test_a_row_has_the_number_that_its_label_has_among_the_names(tokenizer: Any) -> None:
    records = labeled("no", "yes", "no")
    assert [row.label for row in encode_labeled(tokenizer, records, ("no", "yes"), LONG).rows] == [0, 1, 0]
    assert [row.label for row in encode_labeled(tokenizer, records, ("yes", "no"), LONG).rows] == [1, 0, 1]


def test_the_tokens_are_the_tokenizers_own(tokenizer: Any, framing: Any) -> None:
    assert encoded(tokenizer, "A fine text.").tokens == tokenizer("A fine text.")["input_ids"]
    row = encoded(framing, "A fine text.", "And another one.")
    assert framing.decode(row.tokens) == "<|im_start|>A fine text.<|im_end|>And another one.<|im_end|>"
    first = 2 + len(tokenizer("A fine text.")["input_ids"])
    assert row.types == [0] * first + [1] * (len(row.tokens) - first)


def test_a_tokenizer_that_tells_no_texts_apart_gives_no_types(tokenizer: Any) -> None:
    assert encoded(tokenizer, "A fine text.", "And another one.").types is None


def test_a_long_text_is_cut_within_its_marks_and_counted(framing: Any) -> None:
    records = [*labeled("a", "b"), Labeled(text="word " * 50, label="a", source_row=3)]
    found = encode_labeled(framing, records, ("a", "b"), 20)
    assert found.truncated == 1 and [len(row.tokens) for row in found.rows][-1] == 20
    assert found.rows[-1].tokens[0] == framing.bos_token_id and found.rows[-1].tokens[-1] == framing.eos_token_id
    assert encode_labeled(framing, records, ("a", "b"), LONG).truncated == 0


def test_the_longer_text_of_a_pair_is_cut(framing: Any) -> None:
    row = encoded(framing, "word " * 50, "Short and whole.", max_tokens=20)
    assert len(row.tokens) == 20 and framing.decode(row.tokens).endswith("<|im_end|>Short and whole.<|im_end|>")


def test_what_has_no_label_is_refused_with_its_row() -> None:
    with pytest.raises(DataError, match="Row 7 has no label"):
        require_labeled(Passage(text="plain", source_row=7))
    with pytest.raises(DataError, match="Row 7 has no label"):
        label_names([*labeled("a", "b"), Passage(text="plain", source_row=7)])
    (record,) = labeled("a")
    assert require_labeled(record) is record


@pytest.mark.parametrize(
    ("labels", "what"),
    [(["a"], "All 1 rows have the label 'a'"), (["a"] * 9, "All 9 rows"), (list("abc"), "a label of its own")],
)
def test_labels_that_tell_nothing_are_refused(labels: list[str], what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        label_names(labeled(*labels))
    assert caught.value.hint


def test_two_rows_of_two_classes_will_do() -> None:
    assert label_names(labeled("a", "b")) == ("a", "b")

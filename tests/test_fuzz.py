"""A few thousand of the hundred thousand inputs and more that `python -m tests.fuzz` tries."""

from __future__ import annotations

import pytest

from tests.fuzz import READERS, fuzz


@pytest.mark.timeout(300)
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused_in_one_sentence(reader: str) -> None:
    assert fuzz(reader, 2_000, seed=0) == []

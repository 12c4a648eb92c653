"""Token profiles, made by a real process from real tokenizers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config import DataConfig
from core.data.records import Conversation, Message, write_records
from core.models.load import position_limit
from jobs.home import PROJECT, Home
from jobs.launchers.local import child_environment
from jobs.store import Store
from jobs.token_profiler import prune, read_tokenizer
from jobs.token_profiles import TokenProfiles, TokenProfileView
from tests.jobs.conftest import add_dataset_row
from tests.jobs.tiny_model import write_tiny_model
from tests.jobs.waiting import wait_for

SECONDS = 120.0  # a process that imports transformers, on a machine where others work too


def talk(row: int, words: int = 3) -> Conversation:
    turns = (Message(role="user", content=f"What is {row}?"), Message(role="assistant", content="word " * words + "🦜"))
    return Conversation(messages=turns, source_row=row)


@pytest.fixture
def dataset(home: Home, store: Store) -> DataConfig:
    return add_rows(home, store, "D", 3)


def add_rows(home: Home, store: Store, name: str, rows: int) -> DataConfig:
    add_dataset_row(store, name)
    home.dataset(name).path.mkdir()
    write_records([talk(row) for row in range(1, rows + 1)], home.records(name))
    return DataConfig(dataset_id=name, max_tokens=40)


@pytest.fixture
def profiles(home: Home, store: Store, tmp_path: Path) -> Iterator[TokenProfiles]:
    made = TokenProfiles(home, store, tmp_path / "models", child_environment(tmp_path / "models"))
    yield made
    made.close()


def ended(profiles: TokenProfiles, *asked: Any) -> TokenProfileView:
    """The view once the process has come to an end."""
    profiles.begin(*asked)
    return wait_for(lambda: view if (view := profiles.of(*asked)).state != "counting" else None, SECONDS)


def test_a_profile_is_made_once_and_found_again_by_another_app(
    profiles: TokenProfiles, dataset: DataConfig, tiny_model: Path, home: Home, store: Store
) -> None:
    asked = dataset, str(tiny_model), "chat"
    assert profiles.of(*asked).state == "absent"
    assert profiles.begin(*asked).state == "counting"
    (pid,) = [work.child.pid for work in profiles._works.values() if work.child]
    profiles.begin(*asked)
    assert [work.child.pid for work in profiles._works.values() if work.child] == [pid]
    view = ended(profiles, *asked)
    assert view.state == "ready" and view.share_done == 1.0, view.sentence
    assert view.profile is not None and view.profile.is_whole and view.profile.rows_done == 3
    assert view.profile.source_rows.tolist() == [1, 2, 3]

    other = TokenProfiles(home, store, profiles.models_root, profiles.environment)
    again = other.begin(*asked)
    assert again.state == "ready" and again.profile is not None and not other._works
    assert again.profile.total_tokens == view.profile.total_tokens > 0


def test_a_row_is_shown_with_its_template_and_where_the_limit_cuts_it(
    profiles: TokenProfiles, dataset: DataConfig, tiny_model: Path
) -> None:
    assert ended(profiles, dataset, str(tiny_model), "chat").state == "ready"
    pieces = profiles.pieces(dataset, str(tiny_model), "chat", 1)
    text = "<|im_start|>user\nWhat is 2?<|im_end|>\n<|im_start|>assistant\nword word word 🦜<|im_end|>\n"
    assert "".join(piece.text for piece in pieces) == text
    assert "".join(piece.text for piece in pieces if piece.is_trained) == "word word word 🦜<|im_end|>"
    assert [piece.is_cut for piece in pieces] == [place > 40 for place in range(len(pieces))]
    assert profiles.pieces(dataset, str(tiny_model), "chat", 1, first_tokens=5) == pieces[:5]


def test_datasets_of_one_base_model_share_its_tokenizer(
    profiles: TokenProfiles, dataset: DataConfig, tiny_model: Path, home: Home, store: Store
) -> None:
    held = []
    for data in (dataset, add_rows(home, store, "E", 2), dataset):
        assert ended(profiles, data, str(tiny_model), "chat").state == "ready"
        profiles.pieces(data, str(tiny_model), "chat", 1)
        assert profiles._tokenizer is not None
        held.append(profiles._tokenizer[1])
    assert held[0] is held[1] is held[2]


def test_what_is_trained_and_the_template_make_profiles_of_their_own_and_the_limit_does_not(
    profiles: TokenProfiles, dataset: DataConfig, tiny_model: Path
) -> None:
    base = str(tiny_model)
    assert ended(profiles, dataset, base, "chat").state == "ready"
    wider = DataConfig(dataset_id="D", max_tokens=999, holdout=0.3)
    assert profiles.of(wider, base, "chat").state == "ready"
    everything = DataConfig(dataset_id="D", train_on="everything", template="alpaca")
    assert profiles.of(everything, base, "chat").state == "absent"
    view = ended(profiles, everything, base, "chat")
    assert view.profile is not None and view.profile.total_trained == view.profile.total_tokens
    shown = profiles.pieces(everything, base, "chat", 0)
    assert "".join(piece.text for piece in shown).startswith("### Instruction:\nWhat is 1?\n\n### Response:\n")


def test_a_tokenizer_that_changed_or_rows_that_did_need_a_new_profile(
    profiles: TokenProfiles, dataset: DataConfig, tmp_path: Path, home: Home
) -> None:
    base = write_tiny_model(tmp_path / "base")
    assert ended(profiles, dataset, str(base), "chat").state == "ready"
    copied = shutil.copytree(base, tmp_path / "copy")
    assert profiles.of(dataset, str(copied), "chat").state == "ready"
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ messages }}"}))
    assert profiles.of(dataset, str(copied), "chat").state == "absent"
    write_records([talk(row) for row in range(1, 5)], home.records("D"))
    assert profiles.of(dataset, str(base), "chat").state == "absent"


def test_a_killed_process_is_told_of_and_counting_begins_anew_when_asked(
    profiles: TokenProfiles, dataset: DataConfig, tiny_model: Path
) -> None:
    asked = dataset, str(tiny_model), "chat"
    profiles.begin(*asked)
    (work,) = profiles._works.values()
    assert work.child is not None
    os.kill(work.child.pid, signal.SIGKILL)
    failed = wait_for(lambda: view if (view := profiles.of(*asked)).state == "failed" else None, SECONDS)
    assert "signal 9 before it was done" in failed.sentence
    assert profiles.of(*asked).state == "failed"
    assert ended(profiles, *asked).state == "ready"


def test_what_the_template_refuses_is_told_with_its_row(
    profiles: TokenProfiles, dataset: DataConfig, home: Home, tiny_model: Path
) -> None:
    silent = Conversation(messages=(Message(role="assistant", content="Ho."),), source_row=9)
    write_records([talk(1), silent], home.records("D"))
    view = ended(profiles, dataset, str(tiny_model), "chat")
    assert view.state == "failed" and "Row 9" in view.sentence
    view = ended(profiles, dataset, str(tiny_model), "classification")
    assert view.state == "failed" and "Row 1 has no label" in view.sentence


def test_stopping_leaves_nothing_behind(
    profiles: TokenProfiles, dataset: DataConfig, tiny_model: Path, home: Home
) -> None:
    asked = dataset, str(tiny_model), "chat"
    profiles.begin(*asked)
    profiles.stop(*asked)
    assert profiles.of(*asked).state == "absent"
    assert [*home.dataset("D").tokens.iterdir()] == []


def test_what_an_earlier_app_left_unfinished_is_cleared_away(
    profiles: TokenProfiles, dataset: DataConfig, tiny_model: Path, home: Home
) -> None:
    asked = dataset, str(tiny_model), "chat"
    profiles.begin(*asked)
    (folder,) = profiles._works
    profiles.close()
    left = folder.with_name(f".{folder.name}")
    left.mkdir()
    (left / "lengths.u32").write_bytes(b"1234")
    assert profiles.of(*asked).state == "absent"
    assert ended(profiles, *asked).state == "ready"
    assert [path.name for path in home.dataset("D").tokens.iterdir()] == [folder.name]


def test_a_damaged_profile_is_counted_anew(
    profiles: TokenProfiles, dataset: DataConfig, tiny_model: Path, home: Home, store: Store
) -> None:
    asked = dataset, str(tiny_model), "chat"
    ended(profiles, *asked)
    (folder,) = home.dataset("D").tokens.iterdir()
    (folder / "lengths.u32").write_bytes(b"")
    other = TokenProfiles(home, store, profiles.models_root, profiles.environment)
    assert other.of(*asked).state == "absent"
    assert ended(other, *asked).state == "ready"
    other.close()


def test_the_newest_profiles_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "newer than old", "old", "older", ".unfinished"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    prune(tmp_path, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "newer than old", "old", ".unfinished"}


def test_a_base_model_that_is_not_here_is_named(profiles: TokenProfiles, dataset: DataConfig) -> None:
    for base, says in (("starter", "is not on this machine yet"), ("/nowhere/at/all", "does not exist")):
        for view in (profiles.of(dataset, base, "chat"), profiles.begin(dataset, base, "chat")):
            assert view.state == "no model" and says in view.sentence


def test_the_starters_tokens_are_counted_without_its_weights(
    home: Home, store: Store, dataset: DataConfig, starter_folder: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(starter_folder, tmp_path / "starter", ignore=shutil.ignore_patterns("*.safetensors"))
    (base / "model.safetensors").write_bytes(b"no weights at all")
    profiles = TokenProfiles(home, store, tmp_path / "models", child_environment(tmp_path / "models"))
    view = ended(profiles, dataset, str(base), "chat")
    assert view.state == "ready", view.sentence
    pieces = profiles.pieces(dataset, str(base), "chat", 0)
    assert "".join(piece.text for piece in pieces if piece.is_trained) == "word word word 🦜<|im_end|>"
    assert "named SmolLM" in "".join(piece.text for piece in pieces)
    profiles.close()


@pytest.mark.parametrize(
    "kind", ["roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet", "bert", "gpt2"]
)
def test_a_model_reads_as_many_tokens_as_in_training(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = AutoConfig.for_model(kind, vocab_size=300, max_position_embeddings=77, **sizes)
    config.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, tmp_path)
    tokenizer, positions = read_tokenizer(tmp_path)
    assert tokenizer.eos_token == "<|im_end|>"
    assert positions == position_limit(AutoModel.from_config(config))


def test_the_app_needs_neither_torch_nor_transformers_for_it() -> None:
    code = (
        "import sys, jobs.token_profiles\n"
        "print([name for name in ('torch', 'transformers', 'pandas', 'pyarrow', 'datasets') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

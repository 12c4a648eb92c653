"""The process that counts a dataset's tokens: `python -m jobs.token_profiler RECORDS DRAFT FOLDER SETTINGS`.

It fills the folder DRAFT, from which the app reads what is there already, and moves it to FOLDER when it is whole. It
tells (`jobs.children`) how many rows are counted, and in the end why it failed, if it did. Weights are never loaded:
what it needs of the base model is its tokenizer.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import orjson

from core.data.records import read_records
from core.data.tokens.profile import ProfileSettings
from core.data.tokens.profiling import write_profile
from core.durable import flush, flush_all
from core.errors import ModelError, RunError
from jobs.children import carry_out, tell

KEPT = 3  # profiles of a dataset, the newest ones
# Families whose positions are counted from behind that of the padding token, as `core.models.load` finds in a model.
_BEHIND_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet")


def main(arguments: list[str] | None = None) -> int:
    """Count; 0 unless it failed."""
    options = _options(arguments)
    return carry_out(lambda: _count(options), undone="Tokens were not counted", doing="Counting tokens")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jobs.token_profiler", description="Count a dataset's tokens.")
    parser.add_argument("records", type=Path)
    parser.add_argument("draft", type=Path, help="an empty folder")
    parser.add_argument("folder", type=Path, help="where it is moved to when it is whole")
    parser.add_argument("settings", help="JSON, of a ProfileSettings")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    return parser.parse_args(arguments)


def _count(options: argparse.Namespace) -> None:
    tokenizer, positions = read_tokenizer(options.base)
    settings = ProfileSettings(**orjson.loads(options.settings))
    report = lambda rows: tell("counted", rows=rows)  # noqa: E731
    try:
        records = read_records(options.records)
        write_profile(tokenizer, records, options.draft, settings, positions=positions, report=report)
        flush_all(options.draft)
        options.draft.rename(options.folder)
        flush([options.folder.parent])
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError("The tokens could not be kept", why, "Make room on the disk") from error
    prune(options.folder.parent, KEPT)


def read_tokenizer(base: Path) -> tuple[Any, int | None]:
    """The tokenizer of the base model in that folder, and how many tokens the model reads; None for any number.

    Raises:
        ModelError: they cannot be loaded.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"The tokenizer in {base} cannot be loaded: {str(error).splitlines()[0]}",
            hint="Choose a base model in transformers' format",
        ) from error
    positions: int = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in _BEHIND_PADDING and config.pad_token_id is not None:
        positions -= config.pad_token_id + 1
    return tokenizer, positions if positions > 0 else None


def prune(profiles: Path, kept: int) -> None:
    """Leave the newest `kept` of the whole profiles in the folder `profiles`."""
    whole = [path for path in profiles.iterdir() if not path.name.startswith(".")]
    for path in sorted(whole, key=lambda path: path.stat().st_mtime, reverse=True)[kept:]:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
